"""How well the size of a cell ranks NAS-Bench-201, and what a draw at random finds: what any search has to beat.

Accuracies are those that papers report: CIFAR-10, test images, 200 epochs on all training images, in percent.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import markdown, progress
from benchmarks.tabulated import COLUMN, RULES
from supernet.benchmark import NUM_CELLS, TabularBenchmark, open_table
from supernet.cost import cost
from supernet.errors import SupernetError
from supernet.files import write_whole
from supernet.genotype import Genotype
from supernet.ops import CONVOLUTIONS
from supernet.ranking import kendall, spearman
from supernet.space import canonical, is_connected

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

SIZES: dict[str, Callable[[Genotype], float]] = {
    **RULES,
    "multiply-accumulates": lambda cell: cost(cell).macs,
    "number of convolutions": lambda cell: sum(op in CONVOLUTIONS for op in cell.ops),
}
"""What needs no network and no data."""


def distinct(cells: Sequence[Genotype]) -> Indices:
    """The first cell of each class of isomorphic ones, by index: 6,466 of all cells in the official order."""
    first: dict[str, int] = {}
    for index, cell in enumerate(cells):
        first.setdefault(canonical(cell, drop_zeros=True), index)
    return np.array([*first.values()])


def top(accuracies: Values, share: float = 0.1) -> Indices:
    """The best cells, a tenth of all rounded down; of equals, those with the lower index."""
    return np.argsort(-accuracies, kind="stable")[: int(share * len(accuracies))]


def expected_best(accuracies: Values, draws: int) -> float:
    """The mean of the best of so many cells drawn uniformly, with replacement.

    With n accuracies in rising order, the best is at most the i-th with probability ``(i / n) ** draws``.

    >>> expected_best(np.array([1.0, 2.0]), 2)
    1.75
    """
    chance = (np.arange(len(accuracies) + 1) / len(accuracies)) ** draws
    return float(np.sort(accuracies) @ np.diff(chance))


def baselines(table: TabularBenchmark) -> dict[str, Any]:
    """Rank correlations of the sizes, and what costs no search, in plain values.

    Raises:
        SupernetError: the table does not tell the accuracy of every cell.
    """
    accuracies = np.asarray(table.values(COLUMN), dtype=np.float64)
    if np.isnan(accuracies).any():
        raise SupernetError(
            f"{table.source} lacks {COLUMN} of {np.isnan(accuracies).sum():,} cells; take a whole table"
        )
    cells = [Genotype.from_index(index) for index in range(NUM_CELLS)]
    among = {"all": np.arange(NUM_CELLS), "distinct": distinct(cells), "top": top(accuracies)}
    rules: dict[str, Any] = {}
    for name, rule in SIZES.items():
        progress(f"ranking by {name}")
        scores = np.array([rule(cell) for cell in cells], dtype=np.float64)
        rules[name] = {
            where: {of.__name__: of(scores[chosen], accuracies[chosen]) for of in (kendall, spearman)}
            for where, chosen in among.items()
        }
    best = table.best(COLUMN)
    return {
        "column": str(COLUMN),
        "among": {where: len(chosen) for where, chosen in among.items()},
        "rules": rules,
        "best": {"cell": str(best), "index": best.index, "accuracy": table.value(best, COLUMN)},
        "best of 100": expected_best(accuracies, 100),
        "connected": float(np.mean(accuracies[[is_connected(cell) for cell in cells]])),
    }


def text(found: dict[str, Any]) -> str:
    """Markdown of what `baselines` found."""
    head = [f"{of} of {found['among'][where]:,}" for where in found["among"] for of in ("Kendall", "Spearman")]
    rows = [
        [name, *(f"{ranks[where][of]:.3f}" for where in found["among"] for of in ("kendall", "spearman"))]
        for name, ranks in found["rules"].items()
    ]
    best = found["best"]
    return (
        f"{COLUMN.meaning}\n\n{markdown(['size', *head], rows)}\n\n"
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
