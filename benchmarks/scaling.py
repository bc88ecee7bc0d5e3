"""Time, launches and memory of our bilevel step against each size that it depends on, one at a time.

    python -m benchmarks.scaling --json scaling.json

prints a Markdown table for each of batch, width, number of cells and number of candidate operations, around a base.
An exponent e says that a figure grows as the size to the power e: the slope of a straight line through the logarithms.
Below 1 a step of twice the size takes less than twice as much. Times are of the processor on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.measure import in_turns, markdown, progress
from benchmarks.memory import count_step
from benchmarks.report import Parser, conditions, publish, row_of, sizes_of, time_that_counts
from benchmarks.ways import STRATEGIES, Setting, bare, num_images
from supernet.cli.command import quiet_libraries
from supernet.genotype import NAS_BENCH_201_OPS

MODULE = "benchmarks.scaling"
DESCRIPTION = "Measure our bilevel step against batch, width, cells and candidate operations."
OPS = ("nor_conv_3x3", "skip_connect", "nor_conv_1x1", "avg_pool_3x3", "none", "max_pool_3x3", "nor_conv_5x5")
"""A space of k operations has the first k; five are those of NAS-Bench-201, of which ``none`` costs nothing."""
FACTORS: dict[str, tuple[int, ...]] = {
    "batch": (16, 32, 64, 128, 256), "channels": (8, 16, 32), "num_cells": (1, 2, 5), "num_ops": (2, 3, 4, 5, 6, 7),
}  # fmt: skip
"""The sizes that each factor takes while the others stay at the base."""
FIGURES = {"ms": "{:.1f}", "launches": "{:.0f}", "peak_mb": "{:.1f}"}
"""What is measured, and how it is written."""

Row = dict[str, Any]


def setting_at(base: Setting, factor: str, size: int) -> Setting:
    """The base with one factor at this size."""
    if factor == "num_ops":
        return replace(base, ops=NAS_BENCH_201_OPS if size == len(NAS_BENCH_201_OPS) else OPS[:size])
    return replace(base, **{factor: size})  # type: ignore[arg-type]


def measure(name: str, base: Setting, factor: str, steps: int, rounds: int) -> list[Row]:
    """One row for each size of a factor; the sizes take turns."""
    settings = {str(size): setting_at(base, factor, size) for size in FACTORS[factor]}
    built = {}
    for size, setting in settings.items():
        progress(f"{factor} {size}: warm-up")
        built[size] = bare(name, setting)
    samples = in_turns(built, steps, rounds, factor)
    del built
    rows = []
    for size, sample in samples.items():
        progress(f"{factor} {size}: memory and launches")
        counted = count_step(name, "bare loop", settings[size])
        row = row_of("bare loop", sample, num_images(name, settings[size]), counted)
        rows.append({"factor": factor, "size": int(size), "ms": time_that_counts(row, base.device), **row})
    return rows


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the straight line through the logarithms, by least squares."""
    slope, _ = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(slope)


def exponents(rows: Sequence[Row]) -> dict[str, float]:
    """For each figure of one factor, how it grows."""
    sizes = [row["size"] for row in rows]
    return {figure: exponent(sizes, [row[figure] for row in rows]) for figure in FIGURES}


def read(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Setting]:
    """The command line, and the base that it names."""
    parser = Parser(MODULE, DESCRIPTION)
    parser.add_sizes(batch=None, channels=None, num_cells=None)
    parser.add_argument("--strategy", choices=list(STRATEGIES), default="DARTS")
    parser.add_argument("--factors", nargs="+", choices=list(FACTORS), default=list(FACTORS))
    options = parser.read(arguments)
    base = {"batch": 64, "channels": 16, "num_cells": 5}
    if options.device == "cpu":
        base = {"batch": 32, "channels": 8, "num_cells": 1}
    for name, size in base.items():
        if getattr(options, name) is None:
            setattr(options, name, size)
    # Every size has images of its own in memory: few of them, but an epoch of 16 steps for the largest batch.
    return options, Setting(**sizes_of(options), num_images=16 * max(*FACTORS["batch"], options.batch))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    options, base = read(arguments)
    torch.backends.cudnn.benchmark = True
    rows, grown, parts = [], {}, [conditions(base, options, options.strategy)]
    with quiet_libraries():
        for factor in options.factors:
            measured = measure(options.strategy, base, factor, options.steps, options.rounds)
            rows += measured
            grown[factor] = exponents(measured)
            parts.append(table(factor, measured, grown[factor]))
    publish(MODULE, arguments, options, base, "\n\n".join(parts), {"exponents": grown, "rows": rows})


def table(factor: str, rows: Sequence[Row], grown: dict[str, float]) -> str:
    """Markdown: a line for each size, and the exponents below."""
    lines = [[row["size"], *(text.format(row[figure]) for figure, text in FIGURES.items())] for row in rows]
    lines.append(["exponent", *(f"{round(grown[figure], 2) + 0.0:.2f}" for figure in FIGURES)])
    return markdown([factor, "ms", "launches", "peak MB"], lines)


if __name__ == "__main__":
    main()
