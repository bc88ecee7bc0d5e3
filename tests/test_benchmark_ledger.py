"""The ledger of a search: against an account that is kept by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.benchmark import Answer, BudgetError, Ledger, Query
from supernet.errors import SupernetError


def train(cell: int) -> Answer:
    """What cell 0, 1, 2, ... reaches, in so many seconds that any sum of them is exact."""
    return Answer((7 * cell) % 11, 1.5 * cell, 12)


CELLS = st.lists(st.integers(0, 8), max_size=25)
SECONDS, COUNT = st.none() | st.integers(0, 60), st.none() | st.integers(0, 12)


# 300 searches of up to 25 cells, some of them asked for more than once, over any budget.
@given(CELLS, SECONDS, COUNT, st.booleans(), st.integers(1, 9))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_is_spent_is_what_was_charged(
    cells: list[int], max_seconds: int | None, max_cells: int | None, again: bool, apart: int
) -> None:
    """Cells are the same ones by their remainder; without charging again, the first answer is repeated."""
    ledger = Ledger(train, max_seconds, max_cells, charge_again=again, key=lambda cell: cell % apart)
    charged: list[int] = []
    for cell in cells:
        alike = [other for other in charged if other % apart == cell % apart]
        over = len(charged) + 1 > (math.inf if max_cells is None else max_cells) or sum(
            train(other).seconds for other in [*charged, cell]
        ) > (math.inf if max_seconds is None else max_seconds)
        if alike and not again:
            assert ledger(cell) == train(alike[0]).accuracy
        elif over:
            with pytest.raises(BudgetError, match=r"the budget of .* is spent"):
                ledger(cell)
        else:
            assert ledger(cell) == train(cell).accuracy
            charged.append(cell)
        assert ledger.seconds == sum(train(other).seconds for other in charged)
        assert (ledger.num_cells, ledger.epochs) == (len(charged), 12 * len(charged))
        assert ledger.seconds <= (math.inf if max_seconds is None else max_seconds)
        assert ledger.num_cells <= (math.inf if max_cells is None else max_cells)
    clock = [sum(train(other).seconds for other in charged[: number + 1]) for number in range(len(charged))]
    assert ledger.queries == [
        Query(cell, train(cell).accuracy, time) for cell, time in zip(charged, clock, strict=True)
    ]
    if charged:
        best = max(train(cell).accuracy for cell in charged)
        assert ledger.best == next(query for query in ledger.queries if query.accuracy == best)
    ledger.reset()
    assert (ledger.seconds, ledger.epochs, ledger.queries) == (0, 0, [])


def test_after_a_reset_nothing_is_known() -> None:
    ledger = Ledger(train, charge_again=False)
    ledger(3)
    ledger.reset()
    ledger(3)
    assert ledger.num_cells == 1


def test_a_budget_in_seconds_needs_seconds() -> None:
    def untimed(cell: int) -> Answer:
        return Answer(cell, math.nan, 12)

    assert Ledger(untimed, max_cells=1)(5) == 5
    with pytest.raises(SupernetError, match="give a budget in max_cells"):
        Ledger(untimed, max_seconds=100)(5)


def test_mistakes_are_told() -> None:
    for seconds in (-1.0, math.nan):
        with pytest.raises(SupernetError, match="max_seconds must be at least 0"):
            Ledger(train, max_seconds=seconds)
    with pytest.raises(SupernetError, match="max_cells must be at least 0, got -1"):
        Ledger(train, max_cells=-1)
    with pytest.raises(SupernetError, match="no cell was asked for yet"):
        _ = Ledger(train).best


def test_rounding_takes_nothing_off_a_budget_and_a_spent_one_asks_for_nothing() -> None:
    asked = []

    def ask(cell: int) -> Answer:
        asked.append(cell)
        return Answer(50, 0.1, 1)

    ledger = Ledger(ask, max_seconds=0.3, max_cells=3)
    for cell in range(3):  # 0.1 + 0.1 + 0.1 is more than 0.3 if it is added up one by one
        ledger(cell)
    with pytest.raises(BudgetError):
        ledger(3)
    assert asked == [0, 1, 2]
