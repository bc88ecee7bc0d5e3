"""Whatever a person has a cell in: lists, arrays, texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from supernet.errors import SupernetError

INPUT, OUTPUT = "input", "output"
CONV3X3, CONV1X1, MAXPOOL3X3 = "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"

SHORT = {"conv3x3": CONV3X3, "conv1x1": CONV1X1}
"""Names that are short for the official ones."""

Matrix = tuple[tuple[int, ...], ...]

_MOST_VERTICES = 64  # before pruning: far above any cell in use, it keeps hostile input cheap


def read_matrix(matrix: Any) -> Matrix:
    """A strictly upper triangular matrix of zeros and ones.

    Raises:
        SupernetError: it is no such matrix.
    """
    rows = [_items(row) for row in _items(matrix.split() if isinstance(matrix, str) else matrix)]
    if not 2 <= len(rows) <= _MOST_VERTICES or any(len(row) != len(rows) for row in rows):
        lengths = sorted({len(row) for row in rows})
        raise SupernetError(
            f"the matrix of a cell is square, with 2 to {_MOST_VERTICES} rows, got {len(rows)} rows of length"
            f" {lengths[:3]}"
        )
    read = tuple(tuple(_bit(entry) for entry in row) for row in rows)
    for x, row in enumerate(read):
        if any(row[: x + 1]):
            y = row.index(1)
            raise SupernetError(
                f"edges go from a vertex to a later one, so ones are above the diagonal, got one in row {x},"
                f" column {y}; number the vertices in the order in which they are computed"
            )
    return read


def read_ops(ops: Any) -> tuple[str, ...]:
    """The official names of operations; a name that is none stays as it is.

    Raises:
        SupernetError: they are no names.
    """
    names = _items(ops.split(",") if isinstance(ops, str) else ops)
    for name in names:
        if not isinstance(name, str):
            raise SupernetError(f"the operations of a cell are names, got {name!r}")
    return tuple(SHORT.get(str(name), str(name)) for name in names)


def _items(given: Any) -> list[Any]:
    """The items of a list, a row of digits, or an array, as Python's own numbers."""
    given = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(given, str | Sequence):
        raise SupernetError(f"a cell is made of a matrix and a list of operations, got {type(given).__name__}")
    return list(given)


def _bit(entry: Any) -> int:
    entry = entry.item() if isinstance(entry, np.generic) else entry
    if (isinstance(entry, str) and entry in ("0", "1")) or (isinstance(entry, int | float) and entry in (0, 1)):
        return int(entry)
    raise SupernetError(f"the matrix of a cell holds zeros and ones, got {entry!r}")
