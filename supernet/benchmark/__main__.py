"""Tables of NAS-Bench-201: make one of a published archive or of another table, and show what is in one."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from supernet.benchmark.archives import Watch, cell_files, read_file, read_folder
from supernet.benchmark.compact import CompactColumns
from supernet.benchmark.files import check_ending, open_table, write_table
from supernet.benchmark.tabular import NUM_CELLS, TabularBenchmark
from supernet.errors import SupernetError, one_line, run
from supernet.genotype import Genotype

_SECONDS_BETWEEN = 30
"""Between two lines about the progress where nobody watches a terminal."""


def convert(source: Path, out: Path, jobs: int) -> None:
    """Write the figures of an archive or of a table as a table; say what is in it."""
    check_ending(out)
    if jobs < 1:
        raise SupernetError(f"jobs must be at least 1, got {jobs}")
    if source.is_dir():
        with _watched(len(cell_files(source)), "cell") as watch:
            columns = read_folder(source, jobs, watch).columns()
        table = TabularBenchmark(columns, source.resolve().name)
    elif _is_archive(source):
        with _watched(source.stat().st_size, "B") as watch:
            columns = read_file(source, watch).columns()
        table = TabularBenchmark(columns, source.name)
    else:
        table = open_table(source)
        table.source = source.name
    write_table(out, table)
    print(f"{out}: {_summary(table)}")


def _is_archive(path: Path) -> bool:
    """Whether a file is a published archive: `open_table` reads everything else, or says why not."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(4)
    return begin[:1] == b"\x80" or begin[:3] == b"BZh" or (begin == b"PK\x03\x04" and path.suffix in (".pth", ".pt"))


@contextmanager
def _watched(total: int, unit: str) -> Iterator[Watch]:
    """A progress bar on a terminal; elsewhere a line now and then."""
    if sys.stderr.isatty():
        with tqdm(total=total, unit=unit, unit_scale=unit == "B") as bar:
            yield bar.update
        return
    done, last = 0, time.monotonic()

    def watch(more: int) -> None:
        nonlocal done, last
        done += more
        if time.monotonic() - last > _SECONDS_BETWEEN:
            last = time.monotonic()
            print(f"{done:,} of {total:,} {unit}", file=sys.stderr, flush=True)

    yield watch


def _summary(table: TabularBenchmark) -> str:
    """How many columns and cells there are, and how many are missing."""
    known = np.zeros(NUM_CELLS, dtype=bool)
    for column in table.columns:
        known |= ~np.isnan(table.values(column))
    missing = NUM_CELLS - int(known.sum())
    text = f"{len(table.columns)} columns of {NUM_CELLS - missing:,} cells"
    return f"{text}; {missing:,} of {NUM_CELLS:,} cells are missing" if missing else text


def show(path: Path, cell: str | None) -> None:
    """Print what is in a table, or what it tells about a cell."""
    table = open_table(path)
    if cell is not None:
        _show_cell(table, Genotype.named(cell))
        return
    print(f"{path}: {_summary(table)}")
    if path.suffix == ".npz":
        for key, told in CompactColumns(path).about.items():
            print(one_line(f"{key}: {told}"))
    for column in table.columns:
        values, repeats = table.values(column), table.num_repeats(column)
        known = int((~np.isnan(values)).sum())
        print(f"\n{column}\n  {column.meaning}")
        print(f"  {known:,} cells, {f'up to {repeats} repeats' if repeats else 'means only'}", end="")
        if known and column.is_accuracy:
            best = table.best(column)
            print(f"; best {table.value(best, column):.3f} %, cell {best.index}", end="")
        elif known:
            print(f"; {np.nanmin(values):,.2f} to {np.nanmax(values):,.2f} s", end="")
        print()


def _show_cell(table: TabularBenchmark, cell: Genotype) -> None:
    if cell.index is None:
        raise SupernetError(f"{cell} is no cell of NAS-Bench-201, and the table has no others")
    print(f"cell {cell.index}  {cell}")
    for dataset in dict.fromkeys(column.dataset for column in table.columns):
        print(f"  {dataset}: {table.cost(cell, dataset)}")
    for column in table.columns:
        print(f"\n{column}\n  {column.meaning}")
        if np.isnan(table.values(column)[cell.index]):
            print("  missing")
            continue
        if column.is_accuracy:
            accuracy, rank, regret = table.place(cell, column)
            known = np.count_nonzero(~np.isnan(table.values(column)))
            text = f"{accuracy:.3f} %, rank {rank:,} of {known:,}, {regret:.3f} points below the best"
        else:
            text = f"{table.value(cell, column):,.2f} s"
        repeats = table.figures(column)[cell.index] if table.num_repeats(column) else np.empty(0)
        print(f"  {text}{'; repeats ' if len(repeats) else ''}{', '.join(f'{value:.2f}' for value in repeats)}")


def main(args: Sequence[str]) -> None:
    """Convert a table, or show what is in one."""
    parser = argparse.ArgumentParser(prog="python -m supernet.benchmark", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    to = commands.add_parser("convert", help="write a table", allow_abbrev=False)
    to.add_argument(
        "source", type=Path,
        help="the folder of NATS-tss-v1_0-3ffb9-simple, NAS-Bench-201-v1_1-096897.pth (takes about seven times"
        " its size in memory), or a table",
    )  # fmt: skip
    to.add_argument("--out", type=Path, required=True, help="the .npz, .csv, .csv.gz or .parquet file to write")
    to.add_argument("--jobs", type=int, default=_num_processors(), help="processes that read a folder")
    about = commands.add_parser("show", help="print what is in a table", allow_abbrev=False)
    about.add_argument("table", type=Path, help="the table")
    about.add_argument("cell", nargs="?", help="a cell string, official index or JSON file: show its figures")
    given = vars(parser.parse_args(args))
    if given.pop("command") == "convert":
        convert(**given)
    else:
        show(given["table"], given["cell"])


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
