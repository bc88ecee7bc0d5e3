"""What a search has spent: the clock and the budget of a search over a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from supernet.benchmark.tabular import Answer
from supernet.errors import SupernetError

Cell = TypeVar("Cell")


class BudgetError(SupernetError):
    """A search asked for a cell that its budget does not reach to; nothing was charged."""


class Query(NamedTuple, Generic[Cell]):
    """A cell that a search asked for."""

    cell: Cell
    accuracy: float
    """In percent, as the search was told."""
    seconds: float
    """Of the clock when the answer came."""


class Ledger(Generic[Cell]):
    """A score for a search, ``ledger(cell)``, that keeps account of what the trainings would have cost.

    Args:
        ask: what a cell reaches and costs, as `TabularBenchmark.trained`.
        max_seconds: budget in seconds of training; None for no limit.
        max_cells: budget in trainings; None for no limit.
        charge_again: whether a cell that was asked for before costs as much again. If not, its first answer is
            repeated, for nothing.
        key: what makes two cells the same one; the cell itself unless told otherwise. A text that isomorphic cells
            share (`supernet.space.canonical`) makes them one.

    Raises:
        SupernetError: a budget is below zero.

    >>> ledger = Ledger(lambda cell: Answer(len(cell), 60.0, 12), max_seconds=120)
    >>> ledger("abc"), ledger("abc"), ledger.seconds, ledger.epochs
    (3, 3, 120.0, 24)
    """

    def __init__(
        self,
        ask: Callable[[Cell], Answer],
        max_seconds: float | None = None,
        max_cells: int | None = None,
        *,
        charge_again: bool = True,
        key: Callable[[Cell], Hashable] | None = None,
    ) -> None:
        for name, limit in {"max_seconds": max_seconds, "max_cells": max_cells}.items():
            if limit is not None and not limit >= 0:
                raise SupernetError(f"{name} must be at least 0, got {limit}")
        self.ask, self.charge_again, self.key = ask, charge_again, key
        self.max_seconds = math.inf if max_seconds is None else max_seconds
        self.max_cells = math.inf if max_cells is None else max_cells
        self.reset()

    def reset(self) -> None:
        """Begin anew: nothing is spent, no cell is known."""
        self.seconds, self.epochs = 0.0, 0
        self.queries: list[Query[Cell]] = []
        """The trainings that were charged, in order."""
        self._known: dict[Hashable, float] = {}

    @property
    def num_cells(self) -> int:
        """Trainings that were charged."""
        return len(self.queries)

    @property
    def best(self) -> Query[Cell]:
        """The best answer so far; of equals, the earliest.

        Raises:
            SupernetError: nothing was asked yet.
        """
        if not self.queries:
            raise SupernetError("the ledger is empty: no cell was asked for yet")
        return max(self.queries, key=lambda query: query.accuracy)

    def __call__(self, cell: Cell) -> float:
        """Accuracy of a cell in percent.

        Raises:
            BudgetError: the budget does not reach to it.
            SupernetError: the budget is in seconds, and the table does not tell them.
        """
        key = cell if self.key is None else self.key(cell)
        if not self.charge_again and key in self._known:
            return self._known[key]
        if self.num_cells >= self.max_cells:
            raise BudgetError(f"the budget of {self.max_cells:,} trainings is spent, in {self.seconds:,.0f} s")
        answer = self.ask(cell)
        if math.isnan(answer.seconds) and self.max_seconds < math.inf:
            raise SupernetError("this table does not tell how long a training takes; give a budget in max_cells")
        seconds = self.seconds + answer.seconds
        if seconds > self.max_seconds * (1 + 1e-9):  # sums are rounded
            raise BudgetError(
                f"the budget of {self.max_seconds:,.0f} s is spent: {self.num_cells:,} trainings took"
                f" {self.seconds:,.0f} s, and the next takes {answer.seconds:,.0f} s"
            )
        self.seconds, self.epochs = seconds, self.epochs + answer.epochs
        self.queries.append(Query(cell, answer.accuracy, seconds))
        self._known[key] = answer.accuracy
        return answer.accuracy
