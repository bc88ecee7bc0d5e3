"""Enumeration by likelihood and random search against brute force over whole spaces."""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterator

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from supernet.discrete import most_likely, random_cells
from supernet.genotype import Genotype
from supernet.space import CellSpace

SPACES = [
    CellSpace(),
    CellSpace(2),
    CellSpace(3),
    CellSpace(3, ("avg_pool_3x3", "nor_conv_5x5", "none")),
    CellSpace(4, ("skip_connect", "nor_conv_1x1", "nor_conv_3x3")),
    CellSpace(5, ("none", "skip_connect")),
    CellSpace(3, ("skip_connect",)),
]


def random_log_probs(space: CellSpace, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(space.num_edges, space.num_ops, generator=generator).mul(2).log_softmax(dim=1)


@functools.cache
def reaches(num_nodes: int, edges: frozenset[tuple[int, int]]) -> bool:
    graph = nx.DiGraph((source, target) for target, source in edges)
    graph.add_nodes_from(range(num_nodes))
    return bool(nx.has_path(graph, 0, num_nodes - 1))


def reaches_output(genotype: Genotype) -> bool:
    return reaches(genotype.num_nodes, frozenset(edge for edge, op in genotype.edges.items() if op != "none"))


def joint(space: CellSpace, log_probs: Tensor, genotype: Genotype) -> float:
    return float(log_probs.double().numpy()[np.arange(space.num_edges), list(space.choices(genotype))].sum())


def brute_force(space: CellSpace, log_probs: Tensor, exclude_none: bool) -> list[Genotype]:
    cells = [cell for cell in space if not (exclude_none and "none" in cell.ops) and reaches_output(cell)]
    choices = np.array([space.choices(cell) for cell in cells])
    totals = log_probs.double().numpy()[np.arange(space.num_edges), choices].sum(axis=1)
    return [cells[position] for position in np.argsort(-totals, kind="stable")]


def as_many_as(space: CellSpace, cells: Iterator[Genotype]) -> list[Genotype]:
    """All of the cells; one more than the space has, should they repeat themselves without end."""
    return list(itertools.islice(cells, space.size + 1))


@pytest.mark.parametrize("exclude_none", [False, True])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: f"{space.num_nodes}nodes-{space.num_ops}ops")
def test_likeliest_cells_come_in_the_order_of_a_full_sort(space: CellSpace, exclude_none: bool) -> None:
    for seed in range(1 if space.size > 10_000 else 5):
        log_probs = random_log_probs(space, seed)
        found = as_many_as(space, most_likely(space, log_probs, exclude_none=exclude_none))
        assert found == brute_force(space, log_probs, exclude_none)


def test_a_space_too_large_to_sort_starts_with_the_best_merged_edge_by_edge() -> None:
    # 4^15 cells. Without `none` all are connected, so the best k of the first e edges always extend the best k
    # of the first e - 1: an independent formulation that never looks at a whole cell.
    space, best = CellSpace(6), [(0.0, ())]  # type: tuple[CellSpace, list[tuple[float, tuple[str, ...]]]]
    log_probs = random_log_probs(space, 7)
    for row in log_probs.tolist():
        candidates = [(op, p) for op, p in zip(space.ops, row, strict=True) if op != "none"]
        longer = ((total + p, (*ops, op)) for total, ops in best for op, p in candidates)
        best = heapq.nlargest(300, longer)
    found = itertools.islice(most_likely(space, log_probs, exclude_none=True), 300)
    assert [cell.ops for cell in found] == [ops for _, ops in best]


def test_the_first_cell_is_the_argmax_or_the_best_connected_one_where_that_is_not_connected() -> None:
    space = CellSpace(3, ("none", "skip_connect", "nor_conv_3x3"))
    log_probs = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.1, 0.3], [0.1, 0.2, 0.7]]).log()
    # The argmax (none, none, conv) is cut off: the cheapest repairs cost a factor of two on either first edge.
    firsts = {cell.ops for cell in itertools.islice(most_likely(space, log_probs), 2)}
    assert firsts == {("skip_connect", "none", "nor_conv_3x3"), ("none", "nor_conv_3x3", "nor_conv_3x3")}
    argmax = next(most_likely(space, log_probs, exclude_none=True))
    assert argmax.ops == ("skip_connect", "nor_conv_3x3", "nor_conv_3x3")


@pytest.mark.parametrize("exclude_none", [False, True])
def test_ties_lose_no_cell_and_repeat_none(exclude_none: bool) -> None:
    space = CellSpace(3)
    log_probs = torch.tensor([[0.0, -1, -1, 0, -1]]).repeat(3, 1)
    found = as_many_as(space, most_likely(space, log_probs, exclude_none=exclude_none))
    expected = brute_force(space, log_probs, exclude_none)
    assert Counter(found) == Counter(expected)
    assert [joint(space, log_probs, cell) for cell in found] == [joint(space, log_probs, cell) for cell in expected]


def test_impossible_operations_come_after_everything_possible() -> None:
    space = CellSpace(3)
    log_probs = random_log_probs(space, 3)
    log_probs[:, 4] = -torch.inf
    possible = [cell for cell in brute_force(space, log_probs, False) if "avg_pool_3x3" not in cell.ops]
    found = list(most_likely(space, log_probs))
    assert found[: len(possible)] == possible
    assert all("avg_pool_3x3" in cell.ops for cell in found[len(possible) :])


def test_scaling_a_row_of_probabilities_changes_no_order() -> None:
    space = CellSpace(3)
    log_probs = random_log_probs(space, 4).double()
    shifted = log_probs + torch.tensor([[0.5], [-3.0], [12.0]])
    assert list(most_likely(space, shifted)) == list(most_likely(space, log_probs))


@pytest.mark.parametrize("exclude_none", [False, True])
@pytest.mark.parametrize("space", SPACES[1:], ids=lambda space: f"{space.num_nodes}nodes-{space.num_ops}ops")
def test_random_search_finds_every_connected_cell_once_and_ends(space: CellSpace, exclude_none: bool) -> None:
    found = as_many_as(space, random_cells(space, random.Random(0), exclude_none=exclude_none))
    expected = [cell for cell in space if reaches_output(cell) and not (exclude_none and "none" in cell.ops)]
    assert len(found) == len(expected)
    assert set(found) == set(expected)


def test_random_search_draws_connected_cells_equally_often() -> None:
    space, rng = CellSpace(3, ("none", "skip_connect", "nor_conv_3x3")), random.Random(5)
    connected = [cell for cell in space if reaches_output(cell)]
    counts = Counter(next(random_cells(space, rng)) for _ in range(4_000))
    assert set(counts) == set(connected)
    assert chisquare([counts[cell] for cell in connected]).pvalue > 1e-4


def test_random_search_is_repeated_by_its_seed_alone() -> None:
    def draw(seed: int) -> list[Genotype]:
        return list(itertools.islice(random_cells(CellSpace(), random.Random(seed)), 50))

    state = random.getstate()
    assert draw(1) == draw(1) != draw(2)
    assert random.getstate() == state  # the generator that all of the process shares is left alone


@pytest.mark.parametrize("shape", [(6, 5), (3, 4), (2, 5), (15,)])
def test_a_table_of_another_space_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"not \(3, 5\)"):
        next(most_likely(CellSpace(3), torch.zeros(shape)))
