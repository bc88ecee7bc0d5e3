"""What nobody may do to a parser: end it with a traceback, keep it busy, fill the memory, run something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import HARMLESS, ROOT
from tests.test_cli import Found, found

__all__ = ["found"]  # fixture

LONG_SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
"""How long each fuzzer of the long run goes on."""


def attacked(checkpoint: str, folder: Path, seconds: float = 0) -> list[dict[str, Any]]:
    """What became of every attack, in a process whose memory and time are limited by the system."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", checkpoint, str(folder), str(seconds)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"ended by {done.returncode} at {lines[-1:]}: {done.stderr[-2_000:]}"
    return [line for line in lines if "message" in line]


@pytest.fixture(scope="module")
def results(found: Found, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return attacked(str(Path(found.checkpoint).resolve()), tmp_path_factory.mktemp("hostile"))


def test_every_attack_ends_in_one_sentence(results: list[dict[str, Any]]) -> None:
    attacks = [result for result in results if "executed" in result]
    assert len(attacks) > 150
    for result in attacks:
        message = result["message"]
        assert not message.startswith("TRACEBACK"), result
        assert (message == "accepted") == (result["name"] in HARMLESS), result
        assert "\n" not in message.strip(), result


def test_no_attack_runs_anything(results: list[dict[str, Any]]) -> None:
    assert [result["name"] for result in results if result.get("executed")] == []


def test_no_fuzzed_input_ends_in_a_traceback(results: list[dict[str, Any]]) -> None:
    fuzzers = [result for result in results if "tried" in result]
    assert len(fuzzers) == 18
    for result in fuzzers:
        assert not result["message"], f"{result['name']}, input {result['tried']}: {result['message']}"
        assert result["tried"] > 0, result


@pytest.mark.long
def test_much_more_of_the_same(found: Found, tmp_path: Path) -> None:
    for result in attacked(str(Path(found.checkpoint).resolve()), tmp_path, LONG_SECONDS):
        assert not result["message"].startswith(("TRACEBACK", "several")), result
        if "tried" in result:
            print(f"{result['name']}: {result['tried']:,} inputs, seed {result['seed']}")
