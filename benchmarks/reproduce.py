"""Measure again what the README says, and compare: ``python -m benchmarks.reproduce NAME``.

The steps of an experiment run as real processes in an empty folder, with one thread unless OMP_NUM_THREADS says
otherwise. Exit status: 0 if every figure is within what its record allows, 1 if not, 2 for a mistake or a failed step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import torch

from benchmarks.evidence import Record, compare, read_figure, read_json, readme, rendered, summed_up, told
from benchmarks.experiment import Experiment
from benchmarks.experiments import EXPERIMENTS
from benchmarks.measure import hardware, markdown, processor, progress
from supernet.cli.runs import CONFIG, what_it_does
from supernet.errors import SupernetError, nearest
from supernet.files import write_whole

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


def record_of(name: str, results: Path) -> Record | None:
    """The record of an experiment; None if there is none."""
    path = results / f"{name}.json"
    found: Record | None = read_json(path) if path.exists() else None
    return found


def write(record: Record, results: Path) -> None:
    """Write a record and its Markdown; each file appears whole or not at all."""
    for suffix, content in {"json": json.dumps(record, indent=1) + "\n", "md": rendered(record)}.items():
        write_whole(results / f"{record['name']}.{suffix}", content.encode())


def reproduce(experiment: Experiment, options: argparse.Namespace, results: Path) -> int:
    """Measure, and compare or record; 0 if all is as it was."""
    recorded = record_of(experiment.name, results)
    if recorded is None and not options.record:
        raise SupernetError(f"there is no record of {experiment.name} to compare with; pass --record to make one")
    now = measured(experiment, options.data_root, options.table)
    if recorded is None or options.record:
        write(now, results)
        print(f"recorded in {results / experiment.name}.json and .md; --readme writes it into the README")
        return 0
    lines = compare(recorded, now)
    print(f"recorded: {told(recorded)}\nnow: {told(now)}")
    if recorded["configuration"] != now["configuration"]:
        print("The configuration is another: an option or a default has changed since.")
    header = ["figure", "recorded", "now", "difference", "may differ by", "verdict"]
    failed = sum(line.verdict != "holds" for line in lines)
    print(f"\n{markdown(header, lines)}\n\n{len(lines) - failed} of {len(lines)} figures hold")
    return int(failed > 0)


def listed(experiments: Sequence[Experiment], results: Path) -> str:
    """What there is, as Markdown."""
    rows = []
    for experiment in experiments:
        record = record_of(experiment.name, results)
        when = record["date"] if record else "no"
        rows.append(
            [experiment.name, f"{experiment.minutes:g}", ", ".join(experiment.needs) or "-", when, experiment.what]
        )
    return markdown(["name", "minutes", "needs", "recorded", "what"], rows)


def write_readme(experiments: Sequence[Experiment], root: Path) -> int:
    """Write the tables of the README anew, from the records."""
    records = [found for each in experiments if (found := record_of(each.name, root / "results"))]
    page = root / "README.md"
    write_whole(page, readme(page.read_text(encoding="utf-8"), records).encode())
    print(f"the tables of {page.name} are those of {len(records)} records")
    return 0


def main(
    arguments: Sequence[str] | None = None, experiments: Sequence[Experiment] = EXPERIMENTS, root: Path = ROOT
) -> int:
    """Do what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce", description="Measure again, and compare.", allow_abbrev=False
    )
    parser.add_argument("name", nargs="?", help="an experiment; --list tells them")
    parser.add_argument("--record", action="store_true", help="write what is measured to results/")
    parser.add_argument("--list", action="store_true", help="show all experiments")
    parser.add_argument("--readme", action="store_true", help="write the tables of the README from results/")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder that holds cifar-10-batches-py")
    parser.add_argument("--table", type=Path, help="table of NAS-Bench-201")
    options = parser.parse_args(arguments)
    if (options.name is not None) + options.list + options.readme != 1:
        parser.error("name one experiment, or pass --list or --readme")
    if options.record and options.name is None:
        parser.error("--record needs the name of an experiment")

    def run() -> int:
        if options.list:
            print(listed(experiments, root / "results"))
            return 0
        if options.readme:
            return write_readme(experiments, root)
        known = {experiment.name: experiment for experiment in experiments}
        if options.name not in known:
            raise SupernetError(f"there is no experiment {options.name!r}: {nearest(options.name, known)}")
        return reproduce(known[options.name], options, root / "results")

    return _quietly(run)


def _quietly(run: Callable[[], int]) -> int:
    """A mistake, and a stop, in one sentence."""
    try:
        return run()
    except (SupernetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was recorded", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
