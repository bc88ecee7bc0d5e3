"""How well scores rank cells, beside what costs nothing to know of a cell. Accuracies of the table are in percent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.benchmark import Column, TabularBenchmark
from supernet.cost import live
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.ops import CONVOLUTIONS
from supernet.rank.cells import distinct_cells
from supernet.ranking import among_best, expected_pick, kendall, regret, spearman

Values = NDArray[np.float64]

SHARED = "shared accuracy"
EFFECTIVE = "effective parameter count"

_CURVE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
"""Numbers of random cells out of which a score picks one."""

_NAMES = {
    "tau": "tau",
    "tau_distinct": "distinct",
    "tau_best": "true top\n10 %",
    "rho": "rho",
    "rho_distinct": "rho,\ndistinct",
    "regret_of_1": "regret of\nthe first",
    "regret_of_10": "of the best\nof ten",
    "pick_of_100": "pick of\n100",
}
"""Columns of the table that is printed, and their headings."""

_FEWEST = 20
"""Cells among the truly best from which on a correlation of them is more than noise."""


@dataclass(frozen=True)
class Compared:
    """Cells with their scores and their true accuracies, all in one order."""

    cells: list[Genotype]
    scores: dict[str, Values]
    """By name: `SHARED` first where it is there, then what it is measured against."""

    truth: Values
    distinct: NDArray[np.intp]
    """Positions of one cell of each that are the same."""

    best: float
    """The highest true accuracy of the whole table."""


def compare(
    cells: Iterable[Genotype], table: TabularBenchmark, column: Column, shared: Mapping[Genotype, float] | None = None
) -> Compared:
    """Put scores beside the table; cells that it does not know are left out.

    Args:
        cells: of NAS-Bench-201.
        table: what is true.
        column: which of its accuracies.
        shared: accuracy of each cell with shared parameters, if that is one of the scores.

    Raises:
        SupernetError: the table has no such column, or fewer than two of the cells.
    """
    known = {cell: cell.index for cell in cells}
    indices = {cell: index for cell, index in known.items() if index is not None}
    if len(indices) < len(known):
        raise SupernetError(
            f"{table.source} has the cells of NAS-Bench-201, and this search has others, such as"
            f" {next(cell for cell, index in known.items() if index is None)}; leave --table out"
        )
    values = table.values(column)
    order = sorted((cell for cell, index in indices.items() if not np.isnan(values[index])), key=indices.__getitem__)
    if len(order) < 2:
        raise SupernetError(f"{table.source} has {column} of {len(order)} of the cells that were scored; score more")
    costs = [table.cost(cell, column.dataset) for cell in order]
    scores = {
        **({} if shared is None else {SHARED: [shared[cell] for cell in order]}),
        "parameter count": [each.params for each in costs],
        EFFECTIVE: [table.cost(live(cell), column.dataset).params for cell in order],
        "MACs": [each.macs for each in costs],
        "number of convolutions": [sum(op in CONVOLUTIONS for op in cell.ops) for cell in order],
    }
    kept = set(distinct_cells(order))
    return Compared(
        order,
        {name: np.array(each, dtype=np.float64) for name, each in scores.items()},
        np.array([values[indices[cell]] for cell in order], dtype=np.float64),
        np.array([position for position, cell in enumerate(order) if cell in kept]),
        float(np.nanmax(values)),
    )


def figures(compared: Compared) -> list[dict[str, Any]]:
    """One row for each score, in plain values; see `supernet.ranking` for what they are.

    Regrets are of the best of the whole table. None is what so few cells do not tell: their true top tenth, and which
    of 100 is picked.
    """
    truth, distinct = compared.truth, compared.distinct
    best = among_best(truth)
    return [
        {
            "score": name,
            "tau": kendall(scores, truth),
            "tau_distinct": kendall(scores[distinct], truth[distinct]),
            "tau_best": kendall(scores[best], truth[best]) if best.sum() >= _FEWEST else None,
            "rho": spearman(scores, truth),
            "rho_distinct": spearman(scores[distinct], truth[distinct]),
            "regret_of_1": regret(scores, truth, 1, compared.best),
            "regret_of_10": regret(scores, truth, min(10, len(truth)), compared.best),
            "pick_of_100": expected_pick(scores, truth, 100) if len(truth) >= 100 else None,
            "picks": {n: expected_pick(scores, truth, n) for n in _CURVE if n <= len(truth)},
            "cells": {"all": len(truth), "distinct": len(distinct), "best": int(best.sum())},
        }
        for name, scores in compared.scores.items()
    ]


def best_cells(shared: Mapping[Genotype, float], count: int = 10) -> list[Genotype]:
    """The cells with the highest scores; of equals, those with the lowest index, or first as text, come first."""
    return sorted(shared, key=lambda cell: (-shared[cell], cell.index or 0, str(cell)))[:count]


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """`figures` as a table of text, and below, how many cells are in those that are not of all."""
    counts = rows[0]["cells"]
    digits = {name: 2 if name.startswith(("regret", "pick")) else 3 for name in _NAMES}
    lines = [
        [row["score"], *("-" if row[name] is None else f"{row[name]:.{digits[name]}f}" for name in _NAMES)]
        for row in rows
    ]
    table = aligned(["score", *_NAMES.values()], lines)
    return (
        f"{table}\n\n{counts['all']:,} cells, of which {counts['distinct']:,} are distinct, and {counts['best']:,} are"
        " the true top 10 %"
    )


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], text: int = 0) -> str:
    r"""A table for a terminal: numbers end at one column, and the text, in column number ``text``, begins at one.

    A heading may have several lines.

    >>> print(aligned(["name", "a\nnumber"], [["one", "1"], ["eleven", "11"]]))
                 a
    name    number
    one          1
    eleven      11
    """
    words = [heading.split("\n") for heading in header]
    height = max(map(len, words))
    lines = [*zip(*([""] * (height - len(each)) + each for each in words), strict=True), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == text else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
