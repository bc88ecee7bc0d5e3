"""How well the size of a cell ranks NAS-Bench-201, and what a draw at random finds: what any search has to beat.

Accuracies are those that papers report: CIFAR-10, test images, 200 epochs on all training images, in percent.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tabulated import COLUMN
from supernet.benchmark import NUM_CELLS, TabularBenchmark, open_table
from supernet.errors import SupernetError
from supernet.files import write_whole
from supernet.genotype import Genotype
from supernet.rank.figures import as_text, compare, figures
from supernet.ranking import expected_pick
from supernet.space import is_connected


def baselines(table: TabularBenchmark) -> dict[str, Any]:
    """Rank correlations of the sizes, and what costs no search, in plain values.

    Raises:
        SupernetError: the table does not tell the accuracy of every cell.
    """
    cells = [Genotype.from_index(index) for index in range(NUM_CELLS)]
    compared = compare(cells, table, COLUMN)
    if len(compared.cells) < NUM_CELLS:
        raise SupernetError(
            f"{table.source} lacks {COLUMN} of {NUM_CELLS - len(compared.cells):,} cells; take a whole table"
        )
    best, accuracies = table.best(COLUMN), compared.truth
    return {
        "column": str(COLUMN),
        "rows": figures(compared),
        "best": {"cell": str(best), "index": best.index, **table.place(best, COLUMN)._asdict()},
        "best of 100": expected_pick(accuracies, accuracies, 100),
        "connected": float(np.mean(accuracies[[is_connected(cell) for cell in compared.cells]])),
    }


def text(found: dict[str, Any]) -> str:
    """What `baselines` found, in aligned columns."""
    best = found["best"]
    return (
        f"{COLUMN.meaning}\n\n{as_text(found['rows'])}\n\n"
        f"best {best['accuracy']:.2f} % (index {best['index']}); expected best of 100 random cells"
        f" {found['best of 100']:.2f} %; mean of the connected cells {found['connected']:.2f} %"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the table, print what needs no search."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.baselines", description="What any search has to beat.", allow_abbrev=False
    )
    parser.add_argument("--table", type=Path, required=True, help="table of NAS-Bench-201")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    options = parser.parse_args(arguments)
    try:
        found = baselines(open_table(options.table))
        if options.json:
            write_whole(options.json, (json.dumps(found, indent=2) + "\n").encode())
    except SupernetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(text(found))


if __name__ == "__main__":
    main()
