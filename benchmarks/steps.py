"""An experiment as it is done: its steps as real processes in an empty folder, and what they leave."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import torch

from benchmarks.evidence import Record, read_figure, read_json, summed_up
from benchmarks.experiment import Experiment
from benchmarks.measure import hardware, processor, progress
from supernet.cli.runs import CONFIG, what_it_does
from supernet.errors import SupernetError

ROOT = Path(__file__).resolve().parents[1]
_LAST = 2_000  # bytes of a step that failed


def environment() -> dict[str, str]:
    """Of a step: this package is found from any folder, and one thread computes."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def conditions() -> dict[str, str]:
    """Versions, and the hardware on which a step computes with its number of threads."""
    found = hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if not torch.cuda.is_available():
        threads = environment()["OMP_NUM_THREADS"]
        found["hardware"] = (
            f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' * (threads != '1')}"
        )
    return found


def check_needs(experiment: Experiment, data_root: Path, table: Path | None) -> None:
    """Say what is absent.

    Raises:
        SupernetError: something is.
    """
    lacks = {
        "table": ("a table of NAS-Bench-201: pass --table FILE", table is not None and table.is_file()),
        "cifar10": (
            f"CIFAR-10, and there is no folder cifar-10-batches-py under {data_root}: pass --data-root",
            (data_root / "cifar-10-batches-py").is_dir(),
        ),
        "gpu": ("a GPU, and PyTorch finds none here", torch.cuda.is_available()),
    }
    if missing := [lacks[need][0] for need in experiment.needs if not lacks[need][1]]:
        raise SupernetError(f"{experiment.name} needs {'; and '.join(missing)}")


def run_step(command: str, given: Mapping[str, object], folder: Path) -> None:
    """Run a command in a folder; its output goes to stderr.

    Raises:
        SupernetError: it ended with an error.
    """
    words = [word.format_map(given) for word in shlex.split(command)]
    if words[0] == "python":
        words[0] = sys.executable
    last = b""
    with subprocess.Popen(
        words, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            while chunk := os.read(process.stdout.fileno(), 2**16):
                sys.stderr.write(chunk.decode(errors="replace"))
                sys.stderr.flush()
                last = (last + chunk)[-_LAST:]
        except BaseException:  # it may be in the middle of something, and nobody waits for it any more
            process.terminate()
            raise
    if process.returncode:
        told = last.decode(errors="replace").strip().splitlines()[-5:]
        raise SupernetError(
            f"this step ended with status {process.returncode}: {command}; its last words: {' | '.join(told)}"
        )


def configuration(folder: Path) -> list[dict[str, object]]:
    """What the runs of a folder were asked to do, without what only says where they run."""
    return [what_it_does(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob(CONFIG))]


def measured(experiment: Experiment, data_root: Path, table: Path | None) -> Record:
    """Run an experiment for all its seeds.

    Raises:
        SupernetError: something that it needs is absent, a step fails, or a figure is not where it should be.
    """
    check_needs(experiment, data_root, table)
    given = {"root": data_root.absolute(), "table": table and table.absolute()}
    found, asked, details, begun = [], [], None, time.monotonic()
    for number, seed in enumerate(experiment.runs):
        with tempfile.TemporaryDirectory(prefix="reproduce-") as name:
            folder = Path(name)
            for shared in ("train.py", "derive.py", "configs"):
                (folder / shared).symlink_to(ROOT / shared)
            for step, command in enumerate(experiment.steps):
                done = number * len(experiment.steps) + step
                of = len(experiment.runs) * len(experiment.steps)
                progress(f"step {done + 1} of {of}, after {time.monotonic() - begun:.0f} s: {_typed(command, seed)}")
                run_step(command, given | {"seed": seed}, folder)
            found.append([read_figure(figure, folder) for figure in experiment.figures])
            asked += configuration(folder)
            details = read_json(folder / experiment.details) if experiment.details else None
    figures = zip(experiment.figures, zip(*found, strict=True), strict=True)
    words = json.dumps(asked, sort_keys=True, default=str).encode()
    return {
        "name": experiment.name,
        "what": experiment.what,
        "notes": experiment.notes,
        "date": date.today().isoformat(),
        "commands": [_typed(step, "SEED") for step in experiment.steps],
        "seeds": [*experiment.seeds],
        "configuration": hashlib.sha256(words).hexdigest() if asked else None,
        "versions": conditions(),
        "seconds": round(time.monotonic() - begun),
        "figures": [summed_up(figure, values) for figure, values in figures],
        **({} if details is None else {"details": details}),
    }


def _typed(command: str, seed: object) -> str:
    """A command as a user types it."""
    return command.format(root="data", table="nasbench201_cifar10.csv.gz", seed=seed)
