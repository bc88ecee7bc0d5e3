"""Search over discrete cells: functions of any ``score(genotype)``, larger is better.

A score may be the accuracy with a supernet's shared parameters, a table, or a real training.
"""

from __future__ import annotations

import heapq
import itertools
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
_TRIES = 10  # for each child that is wanted: most children of few parents are known already, in the end


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
    draws = (Genotype(tuple(rng.choices(space.ops, row)[0] for row in rows)) for _ in itertools.count())
    yield from different(draws, math.prod(sum(p > 0 for p in row) for row in rows))


def different(draws: Iterator[Genotype], num_cells: int) -> Iterator[Genotype]:
    """The connected ones of cells that are drawn without end, each at most once; ends when (almost) none are left.

    Args:
        draws: cells.
        num_cells: how many there are, at most.
    """
    seen, misses = set[Genotype](), 0
    while len(seen) < num_cells and misses < _MAX_MISSES:
        genotype = next(draws)
        if genotype in seen or not is_connected(genotype):
            misses += 1
        else:
            misses = 0
            seen.add(genotype)
            yield genotype


def random_cells(space: CellSpace, rng: random.Random, *, exclude_none: bool = False) -> Iterator[Genotype]:
    """Connected cells drawn uniformly, each one at most once; ends when (almost) none are left to find."""
    return sample_cells(space, torch.ones(space.num_edges, space.num_ops), rng, exclude_none=exclude_none)


def evolution(
    space: CellSpace,
    score: Score,
    rng: random.Random,
    *,
    population: int = 50,
    parents: int = 10,
    num_mutations: int = 25,
    num_crossovers: int = 25,
    mutation_probability: float = 0.1,
    generations: int = 20,
    exclude_none: bool = False,
    candidates: Tensor | None = None,
) -> Genotype:
    """The best cell that an evolutionary search finds (Guo et al., 2020, algorithm 1).

    The first generation is random. Each further one has mutants and crossovers of the best cells so far, and random
    cells in place of the children that are missing. No cell is scored twice, and none that is not connected;
    ``population * generations`` are scored at most.

    Args:
        space: the cells.
        score: how good a cell is.
        rng: source of the draws.
        population: cells in each generation, at most.
        parents: how many of the best cells so far have children.
        num_mutations: children of one parent, in each generation.
        num_crossovers: children of two parents, with each edge from either.
        mutation_probability: that an edge of a mutant is drawn anew.
        generations: the random one included.
        exclude_none: leave out every cell that has ``none`` on an edge.
        candidates: which operations may be chosen on which edge, bool, shape (E, O); all of them if not given.

    Raises:
        SupernetError: an option that makes no sense, or no cell is connected.
    """
    check_evolution(population, parents, num_mutations, num_crossovers, mutation_probability, generations)
    open_ops = torch.ones(space.num_edges, space.num_ops) if candidates is None else candidates.cpu().float()
    fresh = sample_cells(space, open_ops, rng, exclude_none=exclude_none)
    rows = [
        [op for op, is_open in zip(space.ops, row, strict=True) if is_open and not (exclude_none and op == ZERO)]
        for row in open_ops.tolist()
    ]
    scores: dict[Genotype, float] = {}

    def mutant() -> Genotype:
        ops = [rng.choice(row) if rng.random() < mutation_probability else op
               for op, row in zip(rng.choice(best).ops, rows, strict=True)]  # fmt: skip
        return Genotype(tuple(ops))

    def crossover() -> Genotype:
        mother, father = rng.choice(best), rng.choice(best)
        return Genotype(tuple(rng.choice(pair) for pair in zip(mother.ops, father.ops, strict=True)))

    def add(number: int, cells: Iterator[Genotype]) -> None:
        goal = len(scores) + number
        while len(scores) < goal and (cell := next(cells, None)) is not None:
            if cell not in scores and is_connected(cell):
                scores[cell] = score(cell)

    for _ in range(generations):
        best = heapq.nlargest(parents, scores, key=scores.__getitem__)
        goal = len(scores) + population
        if best:
            add(num_mutations, (mutant() for _ in range(_TRIES * num_mutations)))
            add(num_crossovers, (crossover() for _ in range(_TRIES * num_crossovers)))
        add(goal - len(scores), fresh)
    if not scores:
        raise SupernetError("no connected cell was found to begin an evolution with")
    return max(scores, key=scores.__getitem__)


def check_evolution(
    population: int,
    parents: int,
    num_mutations: int,
    num_crossovers: int,
    mutation_probability: float,
    generations: int,
) -> None:
    """Raise `SupernetError` for options of `evolution` that make no sense."""
    floors = {"population": (population, 1), "parents": (parents, 1), "generations": (generations, 1)}
    floors |= {"num_mutations": (num_mutations, 0), "num_crossovers": (num_crossovers, 0)}
    for name, (value, floor) in floors.items():
        if not floor <= value <= 100_000:
            raise SupernetError(f"{name} must be from {floor} to 100,000, got {value}")
    if num_mutations + num_crossovers > population:
        raise SupernetError(
            f"a generation has no room for its children: num_mutations + num_crossovers must be at most population,"
            f" got {num_mutations} + {num_crossovers} and {population}"
        )
    if not 0 <= mutation_probability <= 1:
        raise SupernetError(f"mutation_probability must be from 0 to 1, got {mutation_probability}")
