"""What the published table says about the cells that searches found. It is read here, and only when they have ended.

Accuracies are in percent, as in the table.
"""

from __future__ import annotations

import csv
import gzip
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from math import isnan
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, NamedTuple

from scipy.stats import kendalltau

from benchmarks.measure import markdown
from supernet.cost import cost, effective_params
from supernet.genotype import Genotype
from supernet.space import is_connected

COLUMN = "cifar10_50k_test_200"
"""Accuracy on the test images after 200 epochs on all training images: for reporting only."""

Record = dict[str, Any]
"""What a run left behind."""


class Place(NamedTuple):
    """Where a cell stands in the table."""

    accuracy: float
    rank: int
    """1 for the best; equals share the better rank."""
    regret: float
    """How far it is from the best."""


class Table:
    """Accuracies of cells.

    Args:
        accuracies: in percent, by cell.
    """

    def __init__(self, accuracies: Mapping[Genotype, float]) -> None:
        self.accuracies = dict(accuracies)
        self._sorted = sorted(accuracies.values())

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table of a CSV file, packed by gzip, with the columns ``arch`` and `COLUMN`."""
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            return cls({Genotype.parse(row["arch"]): float(row[COLUMN]) for row in csv.DictReader(file)})

    def place(self, cell: Genotype) -> Place:
        """Where a cell stands."""
        accuracy = self.accuracies[cell]
        better = len(self._sorted) - bisect_right(self._sorted, accuracy)
        return Place(accuracy, better + 1, self._sorted[-1] - accuracy)

    def tau(self, scores: Mapping[Genotype, float]) -> float:
        """Kendall's rank correlation (tau-b) of scores with the accuracies of the same cells; 0 if all are equal."""
        found = kendalltau(list(scores.values()), [self.accuracies[cell] for cell in scores])
        return 0.0 if isnan(found.statistic) else float(found.statistic)


def summary(records: Sequence[Record], table: Table) -> list[Record]:
    """One row for each method, the best mean accuracy first: means and spreads over the seeds, and every cell."""
    methods = dict.fromkeys(record["method"] for record in records)
    rows = [_row([record for record in records if record["method"] == name], table) for name in methods]
    return sorted(rows, key=lambda row: -row["accuracy"]["mean"])


def _row(records: Sequence[Record], table: Table) -> Record:
    cells = [Genotype.parse(record["cell"]) for record in records]
    places, costs = [table.place(cell) for cell in cells], [cost(cell) for cell in cells]
    taus = [table.tau(scores_of(record)) for record in records]
    return {
        "method": records[0]["method"],
        "strategy": records[0]["strategy"],
        "accuracy": spread([place.accuracy for place in places]),
        "regret": spread([place.regret for place in places]),
        "rank": median(place.rank for place in places),
        "tau": spread(taus),
        "params_m": spread([each.params / 1e6 for each in costs]),
        "macs_m": spread([each.macs / 1e6 for each in costs]),
        "passes": spread([record["passes"] for record in records]),
        "derive_passes": spread([record["derive_passes"] for record in records]),
        "seconds": spread([record["seconds"] for record in records]),
        "cells": [
            {"seed": record["seed"], "cell": str(cell), "index": cell.index, **place._asdict(), "tau": tau}
            for record, cell, place, tau in zip(records, cells, places, taus, strict=True)
        ],
    }


def scores_of(record: Record) -> dict[Genotype, float]:
    """Accuracies with shared parameters of the sample of cells, 0 to 1."""
    return {Genotype.parse(cell): score for cell, score in record["scores"]}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, and standard deviation of the sample; zero for a single value."""
    return {"mean": float(mean(values)), "std": float(stdev(values)) if len(values) > 1 else 0.0}


RULES: dict[str, Callable[[Genotype], float]] = {
    "parameter count": lambda cell: cost(cell).params,
    "effective parameter count": effective_params,
}
"""What needs no network and no data."""


def baselines(table: Table, sample: Sequence[Genotype]) -> list[Record]:
    """What costs nothing: the largest cell, which has 3x3 convolutions everywhere, and one drawn at random.

    Args:
        table: the accuracies.
        sample: the cells over which rank correlations are taken.
    """
    rows: list[Record] = []
    for name, rule in RULES.items():
        cell = max(table.accuracies, key=rule)
        tau = table.tau({each: rule(each) for each in sample})
        rows.append({"method": f"largest by {name}", "cell": str(cell), **table.place(cell)._asdict(), "tau": tau})
    drawn = [accuracy for each, accuracy in table.accuracies.items() if is_connected(each)]
    best = max(table.accuracies.values())
    expected = {"accuracy": mean(drawn), "std": stdev(drawn), "regret": best - mean(drawn)}
    return [*rows, {"method": "a connected cell at random", **expected}]


def text(rows: Sequence[Record], base: Sequence[Record]) -> str:
    """Markdown: the methods with the baselines below, then which cells they found."""
    header = ["method", "accuracy, %", "regret", "rank", "tau", "M params", "M MACs", "passes", "deriving", "s"]
    lines = [
        [
            row["method"],
            *(_plus_minus(row[key], digits) for key, digits in {"accuracy": 2, "regret": 2}.items()),
            f"{row['rank']:,.0f}",
            *(_plus_minus(row[key], digits) for key, digits in {"tau": 3, "params_m": 3, "macs_m": 1}.items()),
            *(f"{row[key]['mean']:,.0f}" for key in ("passes", "derive_passes", "seconds")),
        ]
        for row in rows
    ]
    lines += [_baseline_line(row) for row in base]
    found = [
        [row["method"], each["seed"], f"{each['index']} `{each['cell']}`", f"{each['accuracy']:.2f}", each["rank"]]
        for row in rows
        for each in row["cells"]
    ]
    cells = markdown(["method", "seed", "cell", "accuracy, %", "rank"], found)
    return f"{markdown(header, lines)}\n\n{cells}"


def _baseline_line(row: Record) -> list[str]:
    accuracy = _plus_minus({"mean": row["accuracy"], "std": row.get("std", 0.0)}, 2)
    figures = [accuracy, f"{row['regret']:.2f}", f"{row['rank']:,}" if "rank" in row else "-"]
    tau = f"{row['tau']:.3f}" if "tau" in row else "-"
    size = cost(Genotype.parse(row["cell"])) if "cell" in row else None
    costs = [f"{size.params / 1e6:.3f}", f"{size.macs / 1e6:.1f}"] if size else ["-", "-"]
    return [row["method"], *figures, tau, *costs, "0", "0", "0"]


def _plus_minus(value: Mapping[str, float], digits: int) -> str:
    mean = f"{value['mean']:.{digits}f}"
    return f"{mean} ± {value['std']:.{digits}f}" if value["std"] else mean
