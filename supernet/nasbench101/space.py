"""All cells of NAS-Bench-101, each once, and cells drawn at random."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np

from supernet.errors import SupernetError
from supernet.nasbench101.hashing import adjacent, graph_hash
from supernet.nasbench101.reading import INPUT, OUTPUT, Matrix
from supernet.nasbench101.spec import MAX_EDGES, MAX_VERTICES, OPS, Spec

NUM_CELLS_BY_VERTICES = {2: 1, 3: 6, 4: 84, 5: 2_441, 6: 62_010, 7: 359_082}
"""Cells of each number of vertices."""

NUM_CELLS = sum(NUM_CELLS_BY_VERTICES.values())
"""All cells, 423,624."""


def unpack(bits: int, num_vertices: int) -> Matrix:
    """The matrix of a number: its bit ``x + y (y - 1) / 2`` says whether x feeds y.

    >>> unpack(0b101, 3)
    ((0, 1, 0), (0, 0, 1), (0, 0, 0))
    """
    vertices = range(num_vertices)
    return tuple(tuple(int(x < y and bits >> _position(x, y) & 1) for y in vertices) for x in vertices)


def pack(matrix: Matrix) -> int:
    """The inverse of `unpack`."""
    return sum(matrix[x][y] << _position(x, y) for x, y in itertools.combinations(range(len(matrix)), 2))


def _position(x: int, y: int) -> int:
    return x + y * (y - 1) // 2


def full_graphs(num_vertices: int) -> list[int]:
    """The numbers, by `pack`, of all graphs of the space that have every vertex on a path from input to output.

    Raises:
        SupernetError: the space has no cells of so many vertices.

    >>> [len(full_graphs(num_vertices)) for num_vertices in range(2, 8)]
    [1, 2, 10, 121, 1545, 4793]
    """
    if num_vertices not in NUM_CELLS_BY_VERTICES:
        raise SupernetError(f"cells have 2 to {MAX_VERTICES} vertices, got {num_vertices}")
    bits = np.arange(2 ** (num_vertices * (num_vertices - 1) // 2), dtype=np.uint32)
    bits = bits[np.bitwise_count(bits) <= MAX_EDGES]
    for vertex in range(num_vertices):
        # Without a further source or sink, all vertices are on such paths.
        feeds = sum(1 << _position(vertex, y) for y in range(vertex + 1, num_vertices))
        fed = sum(1 << _position(x, vertex) for x in range(vertex))
        for needed in (feeds, fed):
            bits = bits[(bits & np.uint32(needed)) != 0] if needed else bits
    return [int(number) for number in bits]


def cells(num_vertices: int) -> Iterator[Spec]:
    """All cells of a number of vertices, one of each isomorphism class, in the official order.

    They are the representatives that the published table was made with: its parameter counts are theirs. Up to five
    vertices take a second, six some seconds, seven minutes.

    Raises:
        SupernetError: the space has no cells of so many vertices.

    >>> [sum(1 for _ in cells(num_vertices)) for num_vertices in (2, 3, 4)]
    [1, 6, 84]
    """
    seen_graphs = set()
    for number in full_graphs(num_vertices):
        matrix = unpack(number, num_vertices)
        around = adjacent(matrix)
        plain = graph_hash(*around, [-1, *[0] * (num_vertices - 2), -2])
        if plain in seen_graphs:  # then all its cells were there
            continue
        seen_graphs.add(plain)
        seen = set()
        for inner in itertools.product(range(len(OPS)), repeat=num_vertices - 2):
            name = graph_hash(*around, [-1, *inner, -2])
            if name not in seen:
                seen.add(name)
                yield Spec(matrix, (INPUT, *(OPS[label] for label in inner), OUTPUT))


def sample(rng: random.Random) -> Spec:
    """A cell drawn at random, as the published searches do: seven vertices, each edge by a fair coin, until it fits.

    What is drawn is not pruned, and its vertices may become fewer. Cells with many isomorphic forms come more often:
    for a uniform draw take one of ``table.hashes()``.
    """
    ops = (INPUT, *rng.choices(OPS, k=MAX_VERTICES - 2), OUTPUT)
    while True:
        spec = Spec(unpack(rng.getrandbits(MAX_VERTICES * (MAX_VERTICES - 1) // 2), MAX_VERTICES), ops)
        if spec.in_domain:
            return spec
