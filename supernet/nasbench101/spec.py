"""One cell of NAS-Bench-101: a small graph, an operation on each vertex, and a name that isomorphic cells share."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from supernet.errors import SupernetError, nearest

INPUT, OUTPUT = "input", "output"
CONV3X3, CONV1X1, MAXPOOL3X3 = "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"

OPS = (CONV3X3, CONV1X1, MAXPOOL3X3)
"""Operations of the inner vertices, in the official order."""

MAX_VERTICES, MAX_EDGES = 7, 9
"""Of a cell of the space, once it is pruned."""

_MOST_VERTICES = 64  # before pruning: far above any cell in use, it keeps hostile input cheap
_LABELS = {INPUT: -1, OUTPUT: -2, **{op: label for label, op in enumerate(OPS)}}
_SHORT = {"conv3x3": CONV3X3, "conv1x1": CONV1X1}

Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, init=False)
class Spec:
    """A cell: vertex 0 is its input, the last vertex its output, and ``matrix[x][y]`` says whether x feeds y.

    There are three questions about a cell, and an answer to each. Is it *well formed*: square, strictly upper
    triangular, zeros and ones, an operation for each vertex? Every object of this class is; `is_well_formed` and
    `why_malformed` ask before. Is it *in the domain*, a cell of NAS-Bench-101 once it is pruned? `in_domain` and
    `outside` tell. Is it *in the table*? ``spec in table`` tells. The hash is that of integers, whatever the matrix
    was made of.

    Args:
        matrix: V x V zeros and ones: nested sequences, an array of integers, booleans or floats that are exactly 0 or
            1, rows of digits as ``["011", "001", "000"]``, or those in one text with spaces between them.
        ops: V names, ``input`` first, ``output`` last; or one text with commas. ``conv3x3`` and ``conv1x1`` are short
            for the official names.

    Raises:
        SupernetError: the cell is not well formed.

    >>> spec = Spec("011 001 000", "input,conv3x3,output")
    >>> spec.hash
    'd32d0b26d534203b48d866facd98cc3e'
    >>> Spec("0010 0010 0001 0000", "input,maxpool3x3,conv3x3,output").pruned.ops
    ('input', 'conv3x3-bn-relu', 'output')
    """

    matrix: Matrix
    ops: tuple[str, ...]

    def __init__(self, matrix: ArrayLike, ops: ArrayLike) -> None:
        rows, names = _read_matrix(matrix), _read_ops(ops)
        if len(names) != len(rows):
            raise SupernetError(f"a cell has one operation for each vertex, got {len(names)} for {len(rows)} vertices")
        object.__setattr__(self, "matrix", rows)
        object.__setattr__(self, "ops", names)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read what ``str(spec)`` writes: the rows and then the operations, as ``011 001 000 input,conv3x3,output``.

        Raises:
            SupernetError: it is no such text.
        """
        *rows, ops = text.split() or [""]
        return cls(rows, ops)

    def __str__(self) -> str:
        return " ".join(["".join(map(str, row)) for row in self.matrix] + [",".join(self.ops)])

    @property
    def num_vertices(self) -> int:
        """Vertices, input and output included."""
        return len(self.ops)

    @property
    def num_edges(self) -> int:
        """Edges."""
        return sum(map(sum, self.matrix))

    @cached_property
    def is_connected(self) -> bool:
        """Whether the input reaches the output."""
        return self.num_vertices - 1 in self._used

    @cached_property
    def _used(self) -> list[int]:
        """Vertices on paths from the input to the output, in order."""
        size = self.num_vertices
        fed, needed = {0}, {size - 1}
        for x, y in itertools.combinations(range(size), 2):  # by source: a vertex is complete before an edge leaves it
            if self.matrix[x][y] and x in fed:
                fed.add(y)
        for x in reversed(range(size)):
            if any(self.matrix[x][y] for y in needed):
                needed.add(x)
        return sorted(fed & needed)

    @cached_property
    def pruned(self) -> Spec:
        """The cell without vertices that lie on no path from the input to the output.

        Raises:
            SupernetError: there is no such path.
        """
        if not self.is_connected:
            raise SupernetError(f"the input of the cell is not connected to its output: {self}")
        if len(self._used) == self.num_vertices:
            return self
        rows = [[self.matrix[x][y] for y in self._used] for x in self._used]
        return Spec(rows, [self.ops[x] for x in self._used])

    @cached_property
    def outside(self) -> str:
        """Why the cell, once pruned, is none of NAS-Bench-101; empty if it is one."""
        if not self.is_connected:
            return "its input is not connected to its output"
        cell = self.pruned
        if cell.num_vertices > MAX_VERTICES:
            return f"it has {cell.num_vertices} vertices, and {MAX_VERTICES} are the most"
        if cell.num_edges > MAX_EDGES:
            return f"it has {cell.num_edges} edges, and {MAX_EDGES} are the most"
        return cell._foreign

    @property
    def in_domain(self) -> bool:
        """Whether the cell, once pruned, is one of the 423,624 of NAS-Bench-101."""
        return not self.outside

    @property
    def _foreign(self) -> str:
        """What is wrong with the operations; empty if nothing is."""
        if (self.ops[0], self.ops[-1]) != (INPUT, OUTPUT):
            return f"its first and last operations are {INPUT!r} and {OUTPUT!r}, not {self.ops[0]!r}, {self.ops[-1]!r}"
        unknown = [op for op in self.ops[1:-1] if op not in OPS]
        return f"it has an unknown operation {unknown[0]!r}: {nearest(unknown[0], (*OPS, *_SHORT))}" if unknown else ""

    @cached_property
    def hash(self) -> str:
        """The official name of the cell, 32 hexadecimal digits, equal for isomorphic cells and for what prunes to them.

        Raises:
            SupernetError: the input is not connected to the output, or an operation is unknown.
        """
        cell = self.pruned
        if cell._foreign:
            raise SupernetError(f"the cell {self} has no hash: {cell._foreign}")
        return graph_hash(*adjacent(cell.matrix), [_LABELS[op] for op in cell.ops])

    def neighbours(self) -> list[Spec]:
        """The cells that are one step away: one edge more or less, or one other operation.

        Each entry above the diagonal of the pruned matrix is flipped, each inner operation exchanged; what results is
        pruned, and kept if it is in the domain and no cell that is there already. The way back need not exist: a cell
        that lost a vertex does not regain it in one step. Nor do isomorphic cells have the same neighbours: which
        edges can be added depends on the order of the vertices.

        Raises:
            SupernetError: this cell is not in the domain.
        """
        if self.outside:
            raise SupernetError(f"the cell {self} is none of NAS-Bench-101: {self.outside}")
        found = {self.hash: self.pruned}
        for candidate in _steps(self.pruned):
            if candidate.in_domain:
                found.setdefault(candidate.hash, candidate.pruned)
        return list(found.values())[1:]

    def sketch(self) -> str:
        """The cell as a small text table: one row a vertex.

        >>> print(Spec("011 001 000", "input,conv3x3,output").sketch())
        vertex  operation        fed by
        0       input
        1       conv3x3-bn-relu  0
        2       output           0 1
        """
        width = max(map(len, (*self.ops, "operation")))
        lines = [("vertex", "operation", "fed by")]
        for y, op in enumerate(self.ops):
            lines.append((str(y), op, " ".join(str(x) for x in range(y) if self.matrix[x][y])))
        return "\n".join(f"{vertex:<6}  {op:<{width}}  {fed}".rstrip() for vertex, op, fed in lines)


def why_malformed(matrix: Any, ops: Any) -> str:
    """Why these make no `Spec`; empty if they make one."""
    try:
        Spec(matrix, ops)
    except SupernetError as error:
        return str(error)
    return ""


def is_well_formed(matrix: Any, ops: Any) -> bool:
    """Whether these make a `Spec`."""
    return not why_malformed(matrix, ops)


def adjacent(matrix: Matrix) -> tuple[list[list[int]], list[list[int]]]:
    """The vertices that feed each vertex, and those that each vertex feeds."""
    vertices = range(len(matrix))
    return (
        [[x for x in vertices if matrix[x][y]] for y in vertices],
        [[y for y in vertices if matrix[x][y]] for x in vertices],
    )


def graph_hash(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]], labels: Sequence[int]) -> str:
    """The official hash of a graph: each vertex hashes its neighbours' hashes and its own, V times over.

    Args:
        before: the vertices that feed each vertex.
        after: the vertices that each vertex feeds.
        labels: of each vertex: -1 for the input, -2 for the output, else the number of its operation in `OPS`.
    """
    hashes = [_first_hash(len(a), len(b), label) for a, b, label in zip(after, before, labels, strict=True)]
    for _ in labels:
        hashes = [
            _md5("".join(sorted([hashes[u] for u in b])) + "|" + "".join(sorted([hashes[w] for w in a])) + "|" + own)
            for b, a, own in zip(before, after, hashes, strict=True)
        ]
    return _md5(str(sorted(hashes)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@functools.cache
def _first_hash(num_after: int, num_before: int, label: int) -> str:
    return _md5(str((num_after, num_before, label)))


def _steps(cell: Spec) -> Iterator[Spec]:
    """One entry above the diagonal flipped, or one inner operation exchanged."""
    for x, y in itertools.combinations(range(cell.num_vertices), 2):
        rows = [list(row) for row in cell.matrix]
        rows[x][y] = 1 - rows[x][y]
        yield Spec(rows, cell.ops)
    for vertex in range(1, cell.num_vertices - 1):
        for op in OPS:
            if op != cell.ops[vertex]:
                yield Spec(cell.matrix, (*cell.ops[:vertex], op, *cell.ops[vertex + 1 :]))


def _read_matrix(matrix: Any) -> Matrix:
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


def _read_ops(ops: Any) -> tuple[str, ...]:
    names = _items(ops.split(",") if isinstance(ops, str) else ops)
    for name in names:
        if not isinstance(name, str):
            raise SupernetError(f"the operations of a cell are names, got {name!r}")
    return tuple(_SHORT.get(str(name), str(name)) for name in names)


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
