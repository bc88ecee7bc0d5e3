"""The table of NAS-Bench-101 at the command line.

"convert nasbench_full.tfrecord --out nasbench101.npz" makes a table of the published file, once: about half an hour for
its 5,083,488 trainings (it was tried on files of that format, not on the published one). "show nasbench101.npz CELL"
looks a cell up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from supernet.errors import run
from supernet.nasbench101 import Spec, TabularBenchmark101, convert, missing, num_parameters, open_table

_CONVERT = "make a table of the published file: about half an hour"


def main(args: Sequence[str]) -> None:
    """Convert a file, or show a cell."""
    parser = argparse.ArgumentParser(prog="python -m supernet.nasbench101", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    converting = commands.add_parser("convert", allow_abbrev=False, help=_CONVERT, description=_CONVERT)
    converting.add_argument("records", type=Path, help="the TFRecord file")
    converting.add_argument("--out", type=Path, required=True, help="the table to write, a .npz file")
    showing = commands.add_parser("show", help="show a cell of a table", allow_abbrev=False)
    showing.add_argument("table", type=Path, help="the table, a .npz file")
    showing.add_argument("cell", nargs="+", help="its hash, or rows and operations: 011 001 000 input,conv3x3,output")
    given = parser.parse_args(args)
    if given.command == "convert":
        print(f"{convert(given.records, given.out):,} cells, written to {given.out}")
        print("\n".join(missing(open_table(given.out))))
    else:
        table = open_table(given.table)
        print(describe(table, given.cell[0] if len(given.cell) == 1 else Spec.parse(" ".join(given.cell))))


def describe(table: TabularBenchmark101, cell: Spec | str) -> str:
    """A cell as the table has it, and the means of its trainings."""
    spec = table.spec(cell)
    lines = [spec.sketch(), "", f"hash        {spec.hash}", f"parameters  {num_parameters(spec):,}", ""]
    lines.append("epochs  repeats   train   valid    test  seconds  (percent; means at the end of the training)")
    for epochs, figures in table.metrics(spec).items():
        ends = figures[:, 1]
        ends = ends[~np.isnan(ends).any(axis=1)]
        lines.append(f"{epochs:>6}  {len(ends):>7}")
        if len(ends):
            train, valid, test, seconds = ends.mean(axis=0, dtype=np.float64)
            lines[-1] += f"  {100 * train:6.2f}  {100 * valid:6.2f}  {100 * test:6.2f}  {seconds:7.0f}"
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
