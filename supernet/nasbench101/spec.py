"""One cell of NAS-Bench-101: a small graph, an operation on each vertex, and a name that isomorphic cells share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import ArrayLike

from supernet.errors import SupernetError, nearest
from supernet.nasbench101.hashing import adjacent, graph_hash
from supernet.nasbench101.reading import (
    CONV1X1,
    CONV3X3,
    INPUT,
    MAXPOOL3X3,
    OUTPUT,
    SHORT,
    Matrix,
    read_matrix,
    read_ops,
)

OPS = (CONV3X3, CONV1X1, MAXPOOL3X3)
"""Operations of the inner vertices, in the official order."""

MAX_VERTICES, MAX_EDGES = 7, 9
"""Of a cell of the space, once it is pruned."""

_LABELS = {INPUT: -1, OUTPUT: -2, **{op: label for label, op in enumerate(OPS)}}


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
        rows, names = read_matrix(matrix), read_ops(ops)
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
        return f"it has an unknown operation {unknown[0]!r}: {nearest(unknown[0], (*OPS, *SHORT))}" if unknown else ""

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
