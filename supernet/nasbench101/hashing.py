"""The official name of a graph, which isomorphic graphs share."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence


def adjacent(matrix: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[int]]]:
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
