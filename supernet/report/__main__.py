"""One page about a run: ``python -m supernet.report logs/gdas_digits`` writes ``report.html`` into its folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from supernet.benchmark import open_table
from supernet.benchmark.tabulated import choose_column
from supernet.cli.command import command
from supernet.errors import SupernetError
from supernet.files import write_whole
from supernet.report.page import page
from supernet.report.place import Standing, standing
from supernet.report.read import find_run, read_run
from supernet.report.run import Run


def main(args: Sequence[str]) -> None:
    """Read a run, and write its page."""
    parser = argparse.ArgumentParser(prog="python -m supernet.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, help="folder or checkpoint of a search or of a final training")
    parser.add_argument("--table", type=Path, help="table of NAS-Bench-201: where the cell lies among all cells")
    parser.add_argument("--column", help="accuracies of the table; without it what papers report on the data set")
    parser.add_argument("--out", type=Path, help="the page; report.html in the folder of the run without it")
    given = parser.parse_args(args)
    if given.column is not None and given.table is None:
        raise SupernetError("--column names accuracies of a table: pass --table FILE too")
    folder = find_run(given.run)
    run = read_run(folder)
    placed = None if given.table is None else _place(run, given.table, given.column)
    out = folder / "report.html" if given.out is None else given.out
    write_whole(out, page(run, placed).encode("utf-8", "replace"))
    print(out)


def _place(run: Run, path: Path, column: str | None) -> Standing | None:
    table = open_table(path)
    chosen = choose_column(table, column, run.data)
    if run.cell is None or run.cell.index is None:
        run.missing.append("The table has the cells of NAS-Bench-201, and this run has left none of them.")
        return None
    return standing(table, chosen, run.cell)


if __name__ == "__main__":
    sys.exit(command(main, sys.argv[1:]))
