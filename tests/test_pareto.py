from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet.ranking import expected_best, pareto_front

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


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 4))
def test_the_expected_best_is_the_mean_over_all_draws(values: list[int], number: int) -> None:
    draws = itertools.product(values, repeat=number)
    assert expected_best(values, number) == pytest.approx(float(np.mean([max(draw) for draw in draws])))
