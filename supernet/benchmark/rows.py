"""Tables with a row for each cell, whatever file they are in: which columns they have, and what a row is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from supernet.benchmark.columns import COLUMN_NAMES, Column
from supernet.benchmark.tabular import NUM_CELLS, Figures, TabularBenchmark
from supernet.genotype import official_strings

MAX_REPEATS = 16
"""Trainings of a cell, at most."""


def figure_columns(header: Sequence[str]) -> list[str]:
    """The names in a header that stand for figures: ``NAME`` for means, ``NAME#0``, ``NAME#1``, ... for repeats.

    Raises:
        ValueError: it has none of them, one twice, no cells, or not all repeats from 0.
    """
    names = [name for name in header if name.partition("#")[0] in COLUMN_NAMES]
    used = [*names, *(name for name in header if name in ("arch", "index"))]
    if len(set(used)) < len(used):
        raise ValueError(f"the column {next(name for name in used if used.count(name) > 1)} is there twice")
    if len(used) == len(names):
        raise ValueError("it has neither a column arch nor a column index, to tell which cells it is about")
    if not names:
        raise ValueError(f"it has no column of figures, such as {COLUMN_NAMES[0]}")
    for base in {name.partition("#")[0] for name in names}:
        repeats = {name for name in names if name.startswith(f"{base}#")}
        if repeats != {f"{base}#{number}" for number in range(len(repeats))} or len(repeats) > MAX_REPEATS:
            raise ValueError(f"the repeats of {base} must be {base}#0, {base}#1, ..., up to {MAX_REPEATS} of them")
    return names


class Cells:
    """The cells of the rows so far; each may be there once."""

    def __init__(self) -> None:
        self.indices: list[int] = []
        self._seen: set[int] = set()

    def add(self, arch: str | None, index: str | int | None) -> None:
        """Note the cell of the next row, told by its string, its official index or both.

        Raises:
            ValueError: there is no such cell, both do not agree, or it was there before.
        """
        found = None
        if arch is not None:
            found = official_strings().get(arch.strip())
            if found is None:
                raise ValueError(f"{arch[:200]!r} is no cell of NAS-Bench-201")
        if index is not None:
            number = _whole(index)
            if found not in (None, number):
                raise ValueError(f"its cell has the official index {found}, not {number}")
            found = number
        if found is None:
            raise ValueError("it names no cell")
        if found in self._seen:
            raise ValueError(f"cell {found} is there a second time")
        self._seen.add(found)
        self.indices.append(found)


def _whole(index: str | int) -> int:
    text = str(index).strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < NUM_CELLS):
        raise ValueError(f"an official index is 0 to {NUM_CELLS - 1}, got {text[:40]!r}")
    return int(text)


def joined(indices: Sequence[int], figures: Mapping[str, Iterable[Any]]) -> dict[str, Figures]:
    """The columns of a table, by official index: repeats side by side, and means where there are no repeats.

    Raises:
        ValueError: means are not those of the repeats beside them.
    """
    if not indices:
        raise ValueError("it has no cells")
    sheet: dict[str, Figures] = {}
    for name, values in figures.items():
        sheet[name] = np.full(NUM_CELLS, np.nan)
        sheet[name][list(indices)] = np.asarray(values, np.float64)
    columns: dict[str, Figures] = {}
    for name in COLUMN_NAMES:
        num_repeats = sum(each.startswith(f"{name}#") for each in sheet)
        if num_repeats:
            columns[name] = np.stack([sheet[f"{name}#{number}"] for number in range(num_repeats)], axis=1)
            means = TabularBenchmark(columns).values(Column.parse(name))
            if name in sheet and not np.allclose(sheet[name], means, rtol=1e-3, atol=0.02, equal_nan=True):
                raise ValueError(f"the means in {name} are not those of {name}#0 to {name}#{num_repeats - 1}")
        elif name in sheet:
            columns[name] = sheet[name]
    return columns


def spread(columns: Mapping[str, Figures]) -> dict[str, Figures]:
    """Columns of one dimension by their name in a file: repeats take one each."""
    sheet: dict[str, Figures] = {}
    for name, figures in columns.items():
        if figures.ndim == 1:
            sheet[name] = figures
        else:
            sheet |= {f"{name}#{number}": figures[:, number] for number in range(figures.shape[1])}
    return sheet
