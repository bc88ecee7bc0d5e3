"""Measure again what the README says, and compare: ``python -m benchmarks.reproduce NAME``.

The steps of an experiment run as real processes in an empty folder, with one thread unless OMP_NUM_THREADS says
otherwise. Exit status: 0 if every figure is within what its record allows, 1 if not, 2 for a mistake or a failed step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.evidence import Record, compare, read_json
from benchmarks.experiment import Experiment
from benchmarks.experiments import EXPERIMENTS
from benchmarks.measure import markdown
from benchmarks.pages import readme, rendered, told
from benchmarks.steps import ROOT, measured
from supernet.errors import SupernetError, nearest
from supernet.files import write_whole


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
    """Write the tables of the README anew, and the Markdown of every record."""
    results, page = root / "results", root / "README.md"
    records = [found for each in experiments if (found := record_of(each.name, results))]
    write_whole(page, readme(page.read_text(encoding="utf-8"), records).encode())
    for record in records:
        write(record, results)
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
    parser.add_argument(
        "--readme",
        action="store_true",
        help="write the tables of the README, and all Markdown in results/, from the records",
    )
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder that holds cifar-10-batches-py")
    parser.add_argument("--table", type=Path, help="table of NAS-Bench-201")
    options = parser.parse_args(arguments)
    if options.record and options.name is None:
        parser.error("--record needs the name of an experiment")
    if (options.name is not None) + options.list + options.readme != 1:
        parser.error("pass one of three alone: the name of an experiment, --list, or --readme")
    if options.table is not None and not options.table.is_file():
        parser.error(f"there is no table {options.table}")

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
