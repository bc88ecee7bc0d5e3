"""Rank figures: against all subsets and all orders of few cells, and what is known of the published table."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.benchmark import Column, TabularBenchmark, open_table
from supernet.cost import cost, effective_params
from supernet.genotype import Genotype
from supernet.rank.cells import distinct_cells
from supernet.ranking import among_best, expected_best, expected_pick, kendall, pareto_front, regret, spearman

TABLE = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "nasbench201" / "nasbench201_cifar10.csv.gz"

CELLS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=6)
"""Scores and truths, many of them equal."""


def split(cells: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    scores, truth = zip(*cells, strict=True)
    return list(scores), list(truth)


@given(cells=CELLS, data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_pick_is_the_mean_over_all_subsets_and_over_their_best(
    cells: list[tuple[int, int]], data: st.DataObject
) -> None:
    scores, truth = split(cells)
    num_drawn = data.draw(st.integers(1, len(cells)))
    picks = []
    for subset in itertools.combinations(range(len(cells)), num_drawn):
        highest = max(scores[cell] for cell in subset)
        picks.append(np.mean([truth[cell] for cell in subset if scores[cell] == highest]))
    assert expected_pick(scores, truth, num_drawn) == pytest.approx(np.mean(picks), rel=1e-9, abs=1e-9)


@given(cells=CELLS, data=st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_best_of_the_first_is_the_mean_over_all_orders_by_score(
    cells: list[tuple[int, int]], data: st.DataObject
) -> None:
    scores, truth = split(cells)
    num_kept = data.draw(st.integers(1, len(cells)))
    found = [
        max(truth[cell] for cell in order[:num_kept])
        for order in itertools.permutations(range(len(cells)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    assert expected_best(scores, truth, num_kept) == pytest.approx(np.mean(found), rel=1e-9, abs=1e-9)
    assert regret(scores, truth, num_kept) == pytest.approx(max(truth) - np.mean(found), rel=1e-9, abs=1e-9)


@given(truth=st.lists(st.integers(0, 9), min_size=1, max_size=30), percent=st.integers(1, 100))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_truly_best_are_at_least_the_share_and_all_equals_of_the_last(truth: list[int], percent: int) -> None:
    best = among_best(truth, percent / 100)
    num_best = int(best.sum())
    assert num_best >= percent / 100 * len(truth) - 1e-9
    inside, outside = [v for v, b in zip(truth, best, strict=True) if b], np.asarray(truth)[~best]
    assert min(inside) > max(outside, default=-1)
    # Without the last and its equals there would be too few.
    assert sum(value > min(inside) for value in truth) < percent / 100 * len(truth) + 1e-9


def test_with_the_numbers_of_the_table_a_pick_keeps_its_digits() -> None:
    # By the truth itself and without equals: the r-th lowest of N is the highest of n with probability
    # C(r - 1, n - 1) / C(N, n), and the expected rank of the highest is n (N + 1) / (n + 1).
    ranks = np.arange(1, 15_626)
    for num_drawn in (1, 2, 10, 100, 10_000, 15_625):
        expected = num_drawn * 15_626 / (num_drawn + 1)
        assert expected_pick(ranks, ranks, num_drawn) == pytest.approx(expected, rel=1e-8)


def test_correlations_of_equal_numbers_are_zero() -> None:
    for correlation in (kendall, spearman):
        assert correlation([1, 1, 1], [1, 2, 3]) == correlation([1, 2, 3], [2, 2, 2]) == 0
        assert correlation([1], [2]) == 0
        assert correlation([1, 5, 7], [10, 20, 30]) == pytest.approx(1)


def table() -> TabularBenchmark:
    if not TABLE.exists():
        pytest.skip("the NAS-Bench-201 table is not beside the repository")
    return open_table(TABLE)


def test_parameter_counts_rank_the_published_table_as_is_known() -> None:
    truth = table().values(Column.parse("cifar10_50k_test_200"))
    cells = [Genotype.from_index(index) for index in range(15_625)]
    params = np.array([cost(cell).params for cell in cells])
    effective = np.array([effective_params(cell) for cell in cells])
    assert kendall(params, truth) == pytest.approx(0.578, abs=5e-4)
    assert spearman(params, truth) == pytest.approx(0.7527, abs=5e-5)
    assert kendall(effective, truth) == pytest.approx(0.654, abs=5e-4)
    kept = set(distinct_cells(cells))
    distinct = [index for index, cell in enumerate(cells) if cell in kept]
    assert len(distinct) == 6_466
    assert kendall(params[distinct], truth[distinct]) == pytest.approx(0.607, abs=5e-4)
    assert spearman(params[distinct], truth[distinct]) == pytest.approx(0.784, abs=5e-4)
    best = among_best(truth)
    assert best.sum() == 1_566
    assert kendall(params[best], truth[best]) == pytest.approx(0.079, abs=5e-4)
    assert kendall(effective[best], truth[best]) == pytest.approx(0.093, abs=5e-4)


def test_half_of_the_training_images_rank_the_table_as_is_known() -> None:
    found = table()
    truth, half = (found.values(Column.parse(f"cifar10_{images}_test_200")) for images in ("50k", "25k"))
    best = among_best(truth)
    assert kendall(half, truth) == pytest.approx(0.8965, abs=5e-4)
    assert kendall(half[best], truth[best]) == pytest.approx(0.513, abs=5e-4)
    # Of 100 random cells the truth itself picks one with 93.84 %.
    assert expected_pick(truth, truth, 100) == pytest.approx(93.84, abs=0.02)


POINTS = st.lists(st.tuples(st.integers(0, 6), st.one_of(st.integers(0, 6), st.just(float("nan")))), max_size=25)


def is_beaten(point: tuple[float, float], points: list[tuple[float, float]]) -> bool:
    """By the definition: somebody is no worse in both, and better in one."""
    (cost, value) = point
    return any(c <= cost and v >= value and (c < cost or v > value) for c, v in points)


@given(POINTS)
def test_the_front_holds_exactly_the_points_that_no_other_beats(points: list[tuple[float, float]]) -> None:
    front = pareto_front([cost for cost, _ in points], [value for _, value in points]).tolist()
    expected = [at for at, point in enumerate(points) if point[1] == point[1] and not is_beaten(point, points)]
    assert sorted(front) == expected
    assert [points[at][0] for at in front] == sorted(points[at][0] for at in front)
