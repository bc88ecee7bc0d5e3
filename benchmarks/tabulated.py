"""What the published table says about the cells that searches found. It is read here, and only when they have ended.

Accuracies are in percent, as in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from benchmarks.measure import markdown
from supernet.benchmark import Column, TabularBenchmark
from supernet.cost import cost, effective_params
from supernet.genotype import Genotype
from supernet.ranking import kendall
from supernet.space import is_connected

COLUMN = Column.reported("cifar10")
"""Accuracy on the test images after 200 epochs on all training images: for reporting only."""

Record = dict[str, Any]
"""What a run left behind."""


def summary(records: Sequence[Record], table: TabularBenchmark) -> list[Record]:
    """One row for each method, the best mean accuracy first: means and spreads over the seeds, and every cell."""
    methods = dict.fromkeys(record["method"] for record in records)
    rows = [_row([record for record in records if record["method"] == name], table) for name in methods]
    return sorted(rows, key=lambda row: -row["accuracy"]["mean"])


def _row(records: Sequence[Record], table: TabularBenchmark) -> Record:
    cells = [Genotype.parse(record["cell"]) for record in records]
    places, costs = [table.place(cell, COLUMN) for cell in cells], [cost(cell) for cell in cells]
    taus = [tau(table, scores_of(record)) for record in records]
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
            {"seed": record["seed"], "cell": str(cell), "index": cell.index, **place._asdict(), "tau": each}
            for record, cell, place, each in zip(records, cells, places, taus, strict=True)
        ],
    }


def scores_of(record: Record) -> dict[Genotype, float]:
    """Accuracies with shared parameters of the sample of cells, 0 to 1."""
    return {Genotype.parse(cell): score for cell, score in record["scores"]}


def tau(table: TabularBenchmark, scores: Mapping[Genotype, float]) -> float:
    """Kendall's rank correlation of scores with the accuracies of the same cells."""
    return kendall(list(scores.values()), [table.value(cell, COLUMN) for cell in scores])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, and standard deviation of the sample; zero for a single value."""
    return {"mean": float(mean(values)), "std": float(stdev(values)) if len(values) > 1 else 0.0}


RULES: dict[str, Callable[[Genotype], float]] = {
    "parameter count": lambda cell: cost(cell).params,
    "effective parameter count": effective_params,
}
"""What needs no network and no data."""


def baselines(table: TabularBenchmark, sample: Sequence[Genotype]) -> list[Record]:
    """What costs no search: the largest cell, which has 3x3 convolutions everywhere, one drawn at random, the best.

    Args:
        table: the accuracies.
        sample: the cells over which rank correlations are taken.
    """
    accuracies = table.values(COLUMN)
    cells = [Genotype.from_index(int(index)) for index in np.flatnonzero(~np.isnan(accuracies))]
    rows: list[Record] = []
    for name, rule in RULES.items():
        cell, found = max(cells, key=rule), tau(table, {each: rule(each) for each in sample})
        rows.append(_cell_row(table, f"largest by {name}", cell) | {"tau": found})
    drawn = [table.value(each, COLUMN) for each in cells if is_connected(each)]
    expected = {"accuracy": mean(drawn), "std": stdev(drawn), "regret": float(np.nanmax(accuracies)) - mean(drawn)}
    best = _cell_row(table, "the best of the table", table.best(COLUMN))
    return [*rows, {"method": "a connected cell at random", **expected}, best]


def _cell_row(table: TabularBenchmark, name: str, cell: Genotype) -> Record:
    return {"method": name, "cell": str(cell), **table.place(cell, COLUMN)._asdict()}


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
