"""What a cell really reaches: the published trainings of all 15,625 cells of NAS-Bench-201, looked up."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from supernet.benchmark.columns import Column
from supernet.cost import Cost, cost
from supernet.errors import SupernetError, nearest
from supernet.genotype import NAS_BENCH_201_OPS, Genotype

NUM_CELLS = len(NAS_BENCH_201_OPS) ** 6
"""Cells in a table, 15,625, in the order of their official index."""

Repeat = int | Literal["mean"] | random.Random
"""Which of the trainings of a cell that differ in their seed only: by its number from 0, the mean of all there are, or
one that this generator draws."""

Figures = NDArray[np.floating]

_IMAGES = {"cifar10": (10, 32), "cifar100": (100, 32), "imagenet16-120": (120, 16)}
"""Classes, and height and width of the images, of each data set."""


class Place(NamedTuple):
    """Where a cell stands among all cells."""

    accuracy: float
    """In percent."""
    rank: int
    """1 for the best; equals share the better rank."""
    regret: float
    """Percentage points that it is below the best."""


class Answer(NamedTuple):
    """What a search is told of a cell, and what it would have cost to find out."""

    accuracy: float
    """In percent, on validation images."""
    seconds: float
    """Of the training and of the validation; NaN if the table does not tell times."""
    epochs: int


class TabularBenchmark:
    """The table of NAS-Bench-201 (Dong and Yang, 2020).

    Every figure has one meaning, that of its `Column`: ``Column.parse("cifar10_50k_test_200").meaning`` tells. Most
    users want `accuracy`, what papers report, and `trained`, what a search may see.

    Args:
        columns: figures by name, in the order of the official index: shape (15,625, R) for R trainings that differ in
            their seed, or (15,625,) where only their mean is known. NaN where a training is missing.
        source: where they come from, for messages.

    Raises:
        SupernetError: a column is unknown, has another shape, or holds what is no such figure.

    >>> table = TabularBenchmark({"cifar10_50k_test_200": np.linspace(10, 94, 15_625)})
    >>> table.accuracy(Genotype.from_index(15_624))
    94.0
    """

    def __init__(self, columns: Mapping[str, Figures], source: str = "the table") -> None:
        for name in columns:
            Column.parse(name)
        self.source, self._columns = source, columns
        self._checked: dict[str, Figures] = {}
        self._means: dict[str, Figures] = {}
        self._orders: dict[str, Figures] = {}

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What is in the table."""
        return tuple(map(Column.parse, self._columns))

    def num_repeats(self, column: Column) -> int:
        """How many trainings of a cell it tells apart, at most; 0 where it has their mean only."""
        figures = self.figures(column)
        return figures.shape[1] if figures.ndim == 2 else 0

    def values(self, column: Column) -> Figures:
        """The means of all cells, shape (15,625,), in the order of the official index; NaN for a cell without.

        Means of trainings that are told apart are rounded to four decimals.
        """
        name = str(column)
        if name not in self._means:
            figures = self.figures(column)
            if figures.ndim == 2:
                known = ~np.isnan(figures)
                sums = np.where(known, figures, 0).sum(axis=1, dtype=np.float64)
                means = np.divide(sums, known.sum(axis=1), out=np.full(NUM_CELLS, np.nan), where=known.any(axis=1))
                # The same figures added in another order are as good. No two different means of accuracies are closer.
                figures = _frozen(np.round(means, 4))
            self._means[name] = figures
        return self._means[name]

    def value(self, cell: Genotype, column: Column, repeat: Repeat = "mean") -> float:
        """One figure of one cell.

        Args:
            cell: a cell of NAS-Bench-201.
            column: which figure.
            repeat: which of the trainings; deterministic unless a generator is passed, which moves on by one draw.

        Raises:
            SupernetError: the table has no such cell, column or training.
        """
        index = self._index(cell)
        if repeat == "mean":
            found = float(self.values(column)[index])
        else:
            repeat = self._number(index, column, repeat)
            found = float(self.figures(column)[index, repeat])
        if np.isnan(found):
            raise SupernetError(f"{self.source} has no {column} of cell {index} for repeat={repeat!r}")
        return found

    def _number(self, index: int, column: Column, repeat: int | random.Random) -> int:
        """The number of a training, drawn from those there are if a generator is given."""
        num_repeats = self.num_repeats(column)
        if not num_repeats:
            raise SupernetError(f"{self.source} has only means of {column}, got repeat={repeat!r}; ask for 'mean'")
        if isinstance(repeat, random.Random):
            (known,) = np.nonzero(~np.isnan(self.figures(column)[index]))
            return int(known[repeat.randrange(len(known))]) if len(known) else 0
        if isinstance(repeat, bool) or not isinstance(repeat, int | np.integer) or not 0 <= repeat < num_repeats:
            raise SupernetError(
                f"repeat is 'mean', a random.Random, or the number of a training of {column}, 0 to {num_repeats - 1},"
                f" got {repeat!r}"
            )
        return int(repeat)

    def _index(self, cell: Genotype) -> int:
        index = cell.index
        if index is None:
            raise SupernetError(f"{self.source} has the cells of NAS-Bench-201, and {cell} is none of them")
        return index

    def figures(self, column: Column) -> Figures:
        """The figures of a column as they are stored, shape (15,625, R), or (15,625,) where only means are known.

        Raises:
            SupernetError: it is not in the table, has another shape, or holds what is no such figure.
        """
        name = str(column)
        if name not in self._checked:
            if name not in self._columns:
                raise SupernetError(f"{self.source} has no column {name}: {nearest(name, self._columns)}")
            self._checked[name] = self._check(column, self._columns[name])
        return self._checked[name]

    def _check(self, column: Column, figures: Figures) -> Figures:
        if figures.ndim not in (1, 2) or len(figures) != NUM_CELLS or not figures.size:
            raise SupernetError(
                f"column {column} of {self.source} must have shape ({NUM_CELLS:,},) or ({NUM_CELLS:,}, R),"
                f" got {figures.shape}"
            )
        most, kind = (100, "an accuracy is 0 to 100 percent") if column.is_accuracy else (np.inf, "a time is finite")
        with np.errstate(invalid="ignore"):  # of a NaN
            wrong = figures[(figures < 0) | (figures > most) | np.isinf(figures)]
        if wrong.size:
            raise SupernetError(
                f"column {column} of {self.source} holds {wrong[0]:g}; {kind}, not below 0, and NaN where it is missing"
            )
        return _frozen(figures)

    def _sorted(self, column: Column) -> Figures:
        """The means that are known, in rising order."""
        name = str(column)
        if name not in self._orders:
            values = self.values(column)
            self._orders[name] = np.sort(values[~np.isnan(values)])
        return self._orders[name]

    def accuracy(self, cell: Genotype, dataset: str = "cifar10", epochs: int = 200, repeat: Repeat = "mean") -> float:
        """Test accuracy in percent after training on all training images: what papers report, for reporting only."""
        return self.value(cell, Column.reported(dataset, epochs), repeat)

    def validation_accuracy(
        self, cell: Genotype, dataset: str = "cifar10", epochs: int = 200, repeat: Repeat = "mean"
    ) -> float:
        """Accuracy in percent on the validation images, which no test accuracy is taken on (`Column.searched`)."""
        return self.value(cell, Column.searched(dataset, epochs), repeat)

    def training_time(
        self, cell: Genotype, dataset: str = "cifar10", epochs: int = 200, repeat: Repeat = "mean"
    ) -> float:
        """Seconds of the training that `validation_accuracy` is taken after, without validation."""
        return self.value(cell, _measuring("seconds", dataset, epochs), repeat)

    def trained(self, cell: Genotype, dataset: str = "cifar10", epochs: int = 200, repeat: Repeat = "mean") -> Answer:
        """What training a cell would have told a search, and cost it; all of one and the same training.

        The cost is that of the published comparisons: the whole training, and one pass over the validation images; NaN
        if the table does not tell it. A mean is over all trainings, of accuracies and of costs alike; where the table
        has only means of the times, these are the cost of any training.
        """
        if repeat != "mean":
            repeat = self._number(self._index(cell), Column.searched(dataset, epochs), repeat)
        accuracy = self.validation_accuracy(cell, dataset, epochs, repeat)
        return Answer(accuracy, self._seconds(self._index(cell), dataset, epochs, repeat), epochs)

    def _seconds(self, index: int, dataset: str, epochs: int, repeat: int | Literal["mean"]) -> float:
        """Training and validation of one training, or the mean over those of which both are known."""
        times = [_measuring(measure, dataset, epochs) for measure in ("seconds", "valid-seconds")]
        if not set(times) <= set(self.columns):
            return np.nan
        known = [np.atleast_1d(self.figures(of)[index]) for of in times]
        if repeat != "mean":
            known = [each[[repeat]] if self.num_repeats(of) else each for of, each in zip(times, known, strict=True)]
        both = np.sum(np.broadcast_arrays(*known), axis=0)
        both = both[~np.isnan(both)]
        return float(both.mean()) if len(both) else np.nan

    def cost(self, cell: Genotype, dataset: str = "cifar10") -> Cost:
        """Parameters and multiply-accumulates of the published network for a data set."""
        num_classes, size = _IMAGES[Column.reported(dataset).dataset]
        return cost(cell, num_classes=num_classes, image_shape=(3, size, size))

    def place(self, cell: Genotype, column: Column) -> Place:
        """Where a cell stands among all cells of the table by the mean of a column of accuracies."""
        accuracy, known = self.value(cell, column), self._sorted(column)
        better = len(known) - int(np.searchsorted(known, accuracy, side="right"))
        return Place(accuracy, better + 1, float(known[-1]) - accuracy)

    def best(self, column: Column) -> Genotype:
        """The cell with the highest mean; of equals, that with the lowest index.

        Raises:
            SupernetError: the table has no such column, or nothing in it.
        """
        if not len(self._sorted(column)):
            raise SupernetError(f"{self.source} has no figure in column {column}")
        return Genotype.from_index(int(np.nanargmax(self.values(column))))


def _frozen(figures: Figures) -> Figures:
    """The same figures, which nobody who is handed them can change."""
    view = figures.view()
    view.flags.writeable = False
    return view


def _measuring(measure: str, dataset: str, epochs: int) -> Column:
    """A time of the training that the validation accuracy is taken after."""
    of = Column.searched(dataset, epochs)
    return Column(of.dataset, of.images, measure, of.epochs)
