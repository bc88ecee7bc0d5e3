"""What the published archives hold for a cell: from the keys of NAS-Bench-201 and NATS-Bench to columns.

Both keep, for each budget of epochs, the trainings of a cell by data set and seed, and for each training the
accuracies and times of every epoch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from supernet.benchmark.columns import COLUMN_NAMES
from supernet.benchmark.rows import MAX_REPEATS
from supernet.benchmark.tabular import NUM_CELLS, Figures
from supernet.errors import SupernetError
from supernet.genotype import official_strings
from supernet.pickles import Request

_BUDGETS = {"12": 12, "less": 12, "200": 200, "full": 200}
"""Epochs by the names that NATS-Bench and NAS-Bench-201 give to their budgets; others are passed over."""

_TRAININGS = {
    "cifar10-valid": ("cifar10_25k", {"valid": "x-valid", "test": "ori-test"}),
    "cifar10": ("cifar10_50k", {"test": "ori-test"}),
    "cifar100": ("cifar100_50k", {"valid": "x-valid", "test": "x-test"}),
    "ImageNet16-120": ("imagenet16-120_152k", {"valid": "x-valid", "test": "x-test"}),
}
"""What a published data set trains on, and the names of its validation and test images."""

_SEEDS = (777, 888, 999)
"""Seeds of the published trainings, in the order of the repeats; others come after."""

SCALARS = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
"""What a pickle asks for where a number is one of numpy's."""

_KINDS = {"f2": "e", "f4": "f", "f8": "d", "i4": "i", "i8": "q"}


Plain = TypeVar("Plain", int, str)


class Figure(NamedTuple):
    """One figure of one training of a cell."""

    column: str
    seed: int
    value: float


def read_cell(index: int, record: Any) -> list[Figure]:
    """What the archive holds for the cell of an official index.

    Raises:
        ValueError: it is not laid out as published, or about another cell.
    """
    try:
        figures: list[Figure] = []
        if type(record) is not dict:
            raise TypeError(type(record).__name__)
        names = [name for name in _BUDGETS if name in record]
        if len({_BUDGETS[name] for name in names}) < len(names):
            raise ValueError("it tells one budget twice")
        for name in names:
            results = record[name]
            cell = _plain(results["arch_str"], str)
            if official_strings().get(cell) != index:
                raise ValueError(f"the cell {cell[:200]} in it has another official index")
            for (dataset, seed), training in results["all_results"].items():
                if _plain(dataset, str) in _TRAININGS:
                    figures += _training(dataset, _plain(seed, int), training, _BUDGETS[name])
    except (KeyError, TypeError, AttributeError, struct.error, OverflowError) as error:
        raise ValueError(f"its results are not laid out as published: {type(error).__name__} {error}") from None
    if not figures:
        raise ValueError("there are no trainings for 12 or 200 epochs in it")
    return figures


def _training(dataset: str, seed: int, training: Any, epochs: int) -> list[Figure]:
    """The figures of one training: accuracies after the last epoch, all of its time, and a mean validation."""
    if _plain(training["epochs"], int) != epochs:
        raise ValueError(f"a training for {epochs} epochs in it has {training['epochs']}")
    trained_on, names = _TRAININGS[dataset]
    accuracies, times = training["eval_acc1es"], training["eval_times"] or {}
    found = {
        measure: number(accuracies[f"{name}@{epochs - 1}"])
        for measure, name in names.items()
        if f"{name}@0" in accuracies or f"{name}@{epochs - 1}" in accuracies
    }
    if training.get("train_times"):
        found["seconds"] = sum(number(training["train_times"][epoch]) for epoch in range(epochs))
    if "valid" in found and f"{names['valid']}@{epochs - 1}" in times:
        # The published comparisons charge the mean over the epochs.
        found["valid-seconds"] = sum(number(times[f"{names['valid']}@{epoch}"]) for epoch in range(epochs)) / epochs
    return [Figure(f"{trained_on}_{measure}_{epochs}", seed, value) for measure, value in found.items()]


def _plain(value: Any, kind: type[Plain]) -> Plain:
    """A value of this very type: what else an archive may hold can take for ever to compare, or to print.

    Raises:
        ValueError: it is of another type.
    """
    if type(value) is not kind:
        raise ValueError(f"it has {type(value).__name__} where {kind.__name__} belongs")
    return value


def number(value: Any) -> float:
    """A number, which may be one of numpy's that a pickle asks for.

    Raises:
        ValueError: it is none.
    """
    if type(value) in (int, float):
        return float(value)
    if type(value) is Request and value.name in SCALARS and value.args is not None:
        dtype, raw = value.args
        kind = _KINDS.get(_plain(dtype.args[0], str).lstrip("<>=|"))
        if dtype.name == "numpy.dtype" and kind is not None and type(raw) is bytes:
            order = dtype.state[1] if dtype.state else "<"
            return float(struct.unpack((">" if order == ">" else "<") + kind, raw)[0])
    raise ValueError(f"a figure in it is no number but {type(value).__name__}")


class Collected:
    """The figures of all cells so far."""

    def __init__(self) -> None:
        self.cells: set[int] = set()
        self._figures: dict[tuple[str, int], Figures] = {}

    def add(self, index: int, figures: Iterable[Figure]) -> None:
        """Take the figures of one cell.

        Raises:
            SupernetError: there are more seeds than any published archive has.
        """
        self.cells.add(index)
        for column, seed, value in figures:
            if (column, seed) not in self._figures:
                if len({each for name, each in self._figures if name == column}) >= MAX_REPEATS:
                    raise SupernetError(f"cell {index} has trainings with more than {MAX_REPEATS} seeds of {column}")
                self._figures[column, seed] = np.full(NUM_CELLS, np.nan)
            self._figures[column, seed][index] = value

    def columns(self) -> dict[str, Figures]:
        """The columns of a table; a repeat is the same seed for all cells and all figures of a training."""
        columns: dict[str, Figures] = {}
        empty = np.full(NUM_CELLS, np.nan)
        for name in COLUMN_NAMES:
            if any(column == name for column, _ in self._figures):
                seeds = sorted({seed for column, seed in self._figures if _same_training(column, name)}, key=_order)
                columns[name] = np.stack([self._figures.get((name, seed), empty) for seed in seeds], axis=1)
        return columns


def _same_training(one: str, other: str) -> bool:
    """Whether two columns are about the same trainings: they differ in nothing but what is measured."""
    (*first, _, epochs), (*second, _, others) = one.split("_"), other.split("_")
    return first == second and epochs == others


def _order(seed: int) -> tuple[int, int]:
    return (_SEEDS.index(seed), 0) if seed in _SEEDS else (len(_SEEDS), seed)
