"""A run does not go on from a checkpoint that was tampered with: one sentence, and the file is as it was."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from supernet.cli import search
from supernet.cli.restored import check_counted
from tests.processes import QUICK_START, TERMINATE, Fault, run
from tests.test_resume import SEARCH

Record = dict[str, Any]

LONG_SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))

JUNK: list[Any] = [None, "x", -5, 10**12, 2**63, float("nan"), [], [1], {}, {"a": {"b": 1}}, torch.zeros(3), (), True]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """The folder of a search that was stopped in its first epoch, and its checkpoint."""
    folder = tmp_path_factory.mktemp("stopped")
    assert run(folder, "search", [*SEARCH, "--resume"], Fault(TERMINATE, 2)).status == 128 + TERMINATE
    return folder, torch.load(checkpoint_in(folder), weights_only=True)


def checkpoint_in(folder: Path) -> Path:
    (path,) = folder.glob("logs/*/version_0/checkpoints/last.ckpt")
    return path


def resumed(folder: Path, copy: Path, checkpoint: Any) -> tuple[int, str, bool]:
    """Status and errors of a run that goes on from another checkpoint, and whether that was left as it was."""
    shutil.copytree(folder, copy)
    path = checkpoint_in(copy)
    torch.save(checkpoint, path)
    before = path.read_bytes()
    err = io.StringIO()
    with contextlib.chdir(copy), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        status = search([*SEARCH, "--resume"], QUICK_START)
    return status, err.getvalue(), path.read_bytes() == before


def put(*path: Any, value: Any) -> Callable[[Record], object]:
    """Change one value of a checkpoint."""

    def edit(checkpoint: Any) -> None:
        for key in path[:-1]:
            checkpoint = checkpoint[key]
        checkpoint[path[-1]] = value

    return edit


PROGRESS = ("loops", "fit_loop", "epoch_loop.val_loop.batch_progress", "total", "ready")

EDITS: dict[str, Callable[[Record], object]] = {
    "parameters of another shape": put("state_dict", "supernet.stem.0.weight", value=torch.zeros(3)),
    "no state of the optimizers": put("optimizer_states", value=[]),
    "an optimizer without options": put("optimizer_states", 1, "param_groups", value=[{"params": [0]}]),
    "text for a rate": put("optimizer_states", 0, "param_groups", 0, "lr", value="x"),
    "a momentum of another shape": put("optimizer_states", 0, "state", 0, "momentum_buffer", value=torch.zeros(3)),
    "text for a number of steps": put(*PROGRESS, value="x"),
    "a negative number of steps": put(*PROGRESS, value=-5),
    "random numbers that are too few": put("random", "python", value=(3, (1, 2), None)),
    "a schedule without an end": put("lr_schedulers", 0, "T_max", value=None),
    "nothing for the last epoch": put("lr_schedulers", 0, "last_epoch", value={}),
    "several sums in place of one": put("running", "network", "images", value=torch.zeros(3)),
    "epochs beyond the end": put("loops", "fit_loop", "epoch_progress", "current", "processed", value=10**12),
    "a list for the time": put("seconds", value=[1]),
    "a version that is none": put("pytorch-lightning_version", value="x"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_run_does_not_go_on_from_what_was_tampered_with(
    name: str, stopped: tuple[Path, Record], tmp_path: Path
) -> None:
    folder, _ = stopped
    checkpoint = torch.load(checkpoint_in(folder), weights_only=True)
    EDITS[name](checkpoint)
    status, err, untouched = resumed(folder, tmp_path / "copy", checkpoint)
    assert status == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert untouched


def test_what_was_counted_in_a_genuine_checkpoint_passes(stopped: tuple[Path, Record]) -> None:
    check_counted(stopped[1])


@pytest.mark.parametrize("loss", [None, float("nan"), 2.3])
def test_any_loss_was_possible(loss: float | None, stopped: tuple[Path, Record]) -> None:
    running = {"arch": {**stopped[1]["running"]["arch"], "loss": loss}}
    check_counted({**stopped[1], "running": running})


def tampered(rng: random.Random, value: Any) -> Any:
    """A nested value with one of its parts replaced or missing."""
    if not isinstance(value, dict | list | tuple) or not value or rng.random() < 0.05:
        return rng.choice(JUNK)
    if isinstance(value, dict):
        key = rng.choice(list(value))
        rest = {name: inner for name, inner in value.items() if name != key}
        return rest if rng.random() < 0.15 else {**rest, key: tampered(rng, value[key])}
    place = rng.randrange(len(value))
    items = [tampered(rng, item) if number == place else item for number, item in enumerate(value)]
    return items if isinstance(value, list) else tuple(items)


@pytest.mark.long
def test_a_run_goes_on_from_any_checkpoint_or_says_why_not(stopped: tuple[Path, Record], tmp_path: Path) -> None:
    folder, genuine = stopped
    seed = int(time.time())
    rng, end = random.Random(seed), time.process_time() + LONG_SECONDS
    tried = went_on = 0
    while time.process_time() < end:
        part = rng.choice([name for name in genuine if name != "state_dict"])
        checkpoint = {**genuine, part: tampered(rng, genuine[part])}
        status, err, untouched = resumed(folder, tmp_path / "copy", checkpoint)
        assert status == 0 or (status, err.count("\n"), untouched) == (2, 1, True), (seed, tried, part, err)
        shutil.rmtree(tmp_path / "copy")
        tried, went_on = tried + 1, went_on + (status == 0)
    print(f"runs: {tried:,} inputs, {went_on:,} went on, seed {seed}")
