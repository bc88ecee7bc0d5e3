"""Search over discrete cells: functions of any ``score(genotype)``, larger is better.

A score may be the accuracy with a supernet's shared parameters, a table, or a real training.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from supernet.errors import SupernetError
from supernet.genotype import ZERO, Genotype
from supernet.space import CellSpace, is_connected

Score = Callable[[Genotype], float]
"""How good a cell is; larger is better. All cells that are compared must be scored on the same data."""


_MAX_MISSES = 10_000  # cells in a row that are not connected; the default space has 341 in all


def most_likely(space: CellSpace, log_probs: Tensor, *, exclude_none: bool = False) -> Iterator[Genotype]:
    """Connected cells in order of falling joint probability, when edges are independent.

    The first one is the per-edge argmax, unless that is not connected. Best-first enumeration: it stops costing
    anything when the caller has enough. It ends early after many cells in a row that are not connected, as large
    spaces can have them.

    Args:
        space: the cells.
        log_probs: log-probability of each operation on each edge, shape (E, O); rows need not be normalised. What
            has minus infinity is in no cell.
        exclude_none: leave out every cell that has ``none`` on an edge.
    """
    if log_probs.shape != (space.num_edges, space.num_ops):
        raise ValueError(f"log_probs has shape {tuple(log_probs.shape)}, not {(space.num_edges, space.num_ops)}")
    ranked: list[list[tuple[float, int]]] = []
    for row in log_probs.tolist():
        columns = [
            column
            for column, op in enumerate(space.ops)
            if row[column] > -math.inf and not (exclude_none and op == ZERO)
        ]
        if not columns:
            raise SupernetError("an edge has no candidate but 'none', which exclude_none leaves out")
        ranked.append(sorted(((row[column], column) for column in columns), key=lambda pair: -pair[0]))

    def joint(ranks: tuple[int, ...]) -> float:
        return sum(ranked[edge][rank][0] for edge, rank in enumerate(ranks))

    # A state is a rank for each edge. Its children raise the rank of one edge, none before the last one raised,
    # so every state is reached along exactly one path and always after a likelier one.
    start = (0,) * space.num_edges
    queue = [(-joint(start), start, 0)]
    misses = 0
    while queue and misses <= _MAX_MISSES:
        _, ranks, last = heapq.heappop(queue)
        genotype = space.genotype([ranked[edge][rank][1] for edge, rank in enumerate(ranks)])
        misses += 1
        if is_connected(genotype):
            misses = 0
            yield genotype
        for edge in range(last, space.num_edges):
            if ranks[edge] + 1 < len(ranked[edge]):
                child = (*ranks[:edge], ranks[edge] + 1, *ranks[edge + 1 :])
                heapq.heappush(queue, (-joint(child), child, edge))


def sample_cells(
    space: CellSpace, probabilities: Tensor, rng: random.Random, *, exclude_none: bool = False
) -> Iterator[Genotype]:
    """Different connected cells, drawn edge by edge; ends when (almost) none are left to find.

    Args:
        space: the cells.
        probabilities: of each operation on each edge, shape (E, O); rows need not sum to one.
        rng: source of the draws.
        exclude_none: draw no ``none``.
    """
    zero = space.ops.index(ZERO) if exclude_none and ZERO in space.ops else -1
    rows = [[0.0 if column == zero else p for column, p in enumerate(row)] for row in probabilities.tolist()]
    if not all(any(row) for row in rows):
        raise SupernetError("an edge has no operation to draw but 'none', which exclude_none leaves out")
    num_left, seen, misses = math.prod(sum(p > 0 for p in row) for row in rows), set[Genotype](), 0
    while len(seen) < num_left and misses < 10_000:
        genotype = Genotype(tuple(rng.choices(space.ops, row)[0] for row in rows))
        if genotype in seen or not is_connected(genotype):
            misses += 1
        else:
            misses = 0
            seen.add(genotype)
            yield genotype


def random_cells(space: CellSpace, rng: random.Random, *, exclude_none: bool = False) -> Iterator[Genotype]:
    """Connected cells drawn uniformly, each one at most once; ends when (almost) none are left to find."""
    return sample_cells(space, torch.ones(space.num_edges, space.num_ops), rng, exclude_none=exclude_none)
