"""What the cells of NAS-Bench-101 really reach: the published trainings, looked up."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import ArrayFile
from supernet.benchmark import Answer, Repeat
from supernet.errors import SupernetError, nearest
from supernet.nasbench101.reading import INPUT, OUTPUT, Matrix
from supernet.nasbench101.records import EPOCHS
from supernet.nasbench101.space import unpack
from supernet.nasbench101.spec import MAX_VERTICES, OPS, Spec

NUM_REPEATS = 3

_MAX_BYTES = 2**28
"""Of a file; the whole table has 174 million."""

FIGURES = ("train", "valid", "test", "seconds")
"""Of a network halfway through a training and at its end: accuracies, 0 to 1, and seconds of the training so far."""

KINDS = {"hashes": "|u1", "adjacency": "<u4", "operations": "<u2", "params": "<i4", "epochs": "<i4", "metrics": "<f4"}
"""The arrays of a table of N cells with E budgets, and the types of their entries.

``hashes`` (N, 16), the bytes of the hashes, in rising order; ``adjacency`` (N,), matrices as
`supernet.nasbench101.space` packs them; ``operations`` (N,), two bits for each inner vertex, the first lowest: the
number in `OPS`, or 3 for none;
``params`` (N,); ``epochs`` (E,); ``metrics`` (N, E, 3 repeats, halfway and end, 4 of `FIGURES`), NaN for no training.
"""

_HASH = re.compile("[0-9a-f]{32}")

Arrays = Mapping[str, NDArray[Any]]


class Trained(NamedTuple):
    """What one training of a cell gave, by the names of the official code."""

    module_adjacency: Matrix
    """The matrix of the table's own representative of the cell."""
    module_operations: tuple[str, ...]
    trainable_parameters: int
    training_time: float
    """In seconds."""
    train_accuracy: float
    """0 to 1, as the others."""
    validation_accuracy: float
    test_accuracy: float


class TabularBenchmark101:
    """The table of NAS-Bench-101 (Ying et al., 2019): three trainings of each cell at each of four budgets.

    Nothing is drawn or counted behind anyone's back: which of the trainings is meant is said in the query, and a
    `supernet.benchmark.Ledger` around `trained` keeps account. A cell may be given as a `Spec` in any form that is
    isomorphic to the table's, with or without dead ends, or as its hash.

    Args:
        arrays: those of `KINDS`.
        source: where they come from, for messages.

    Raises:
        SupernetError: the arrays do not fit together.
    """

    def __init__(self, arrays: Arrays, source: str = "the table") -> None:
        self.source, self._arrays = source, arrays
        missing = [name for name in KINDS if name not in arrays]
        if missing:
            raise SupernetError(f"{source} has no array {missing[0]!r}, and needs {', '.join(KINDS)}")
        num_cells, num_budgets = arrays["params"].size, arrays["epochs"].size
        shapes = dict[str, tuple[int, ...]].fromkeys(KINDS, (num_cells,)) | {
            "hashes": (num_cells, 16), "epochs": (num_budgets,),
            "metrics": (num_cells, num_budgets, NUM_REPEATS, 2, len(FIGURES)),
        }  # fmt: skip
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise SupernetError(f"{source} has {name} of shape {arrays[name].shape}, and {shape} belongs there")
        self.epochs = tuple(int(epochs) for epochs in arrays["epochs"][: len(EPOCHS) + 1])
        """Budgets of the trainings in the table."""
        if not set(self.epochs) <= set(EPOCHS) or len(set(self.epochs)) != num_budgets:
            raise SupernetError(f"{source} has trainings of {self.epochs} epochs, and {EPOCHS} are those there are")
        self._names = np.ascontiguousarray(arrays["hashes"]).view("S16").ravel()
        if not (self._names[:-1] < self._names[1:]).all():
            raise SupernetError(f"{source} does not have its hashes in rising order; convert it again")

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, cell: object) -> bool:
        """Whether the table has a cell, or one that is isomorphic to it."""
        if isinstance(cell, Spec):
            return cell.in_domain and self._find(cell.hash) is not None
        return isinstance(cell, str) and self._find(cell) is not None

    def hashes(self) -> Iterator[str]:
        """The hashes of all cells, in rising order."""
        return (bytes(name).hex() for name in self._arrays["hashes"])

    def spec(self, cell: Spec | str) -> Spec:
        """The table's own representative of a cell.

        Raises:
            SupernetError: the table does not have it.
        """
        return self._spec(self._row(cell))

    def query(
        self, cell: Spec | str, epochs: int = 108, repeat: Repeat = "mean", stop_halfway: bool = False
    ) -> Trained:
        """What a training gave.

        Args:
            cell: the cell.
            epochs: the budget: 4, 12, 36 or 108.
            repeat: which of the trainings: 0, 1 or 2, the mean of them, or one that this generator draws.
            stop_halfway: whether to look at the network after half of the epochs instead.

        Raises:
            SupernetError: the table has no such cell, budget or training.
        """
        row = self._row(cell)
        figures = self._figures(row, epochs)[:, 0 if stop_halfway else 1]
        (known,) = np.nonzero(~np.isnan(figures).any(axis=1))
        chosen = self._chosen(known, repeat)
        if not len(chosen):
            raise SupernetError(f"{self.source} has no such training of the cell: epochs={epochs}, repeat={repeat!r}")
        train, valid, test, seconds = figures[chosen].mean(axis=0, dtype=np.float64).tolist()
        spec = self._spec(row)
        return Trained(spec.matrix, spec.ops, int(self._arrays["params"][row]), seconds, train, valid, test)

    def trained(self, cell: Spec, epochs: int = 108, repeat: Repeat = "mean", stop_halfway: bool = False) -> Answer:
        """What a training tells a search, the validation accuracy in percent, and what it costs.

        A ledger of these keeps the official account, seconds and epochs, half of them if the training stops halfway:

        >>> from supernet.benchmark import Ledger
        >>> from supernet.nasbench101 import Evaluation, Record, gather
        >>> half, end = Evaluation(54, 300, 0.9, 0.8, 0.8), Evaluation(108, 610, 1, 0.9, 0.9)
        >>> moments = (Evaluation(0, 0, 0.1, 0.1, 0.1), half, end)
        >>> name = "043721b9c7fe8c5fad811d47d83132ec"
        >>> table = TabularBenchmark101(gather([Record(name, 108, "0100", "input,output", 882_570, moments)]))
        >>> ledger = Ledger(table.trained, key=lambda spec: spec.hash)
        >>> round(ledger(Spec("01 00", "input,output")), 2), ledger.seconds, ledger.epochs
        (90.0, 610.0, 108)

        Where a search mixes budgets, what it asks for is a cell and a budget:

        >>> ledger = Ledger(lambda asked: table.trained(*asked))
        >>> round(ledger((Spec("01 00", "input,output"), 108, 0, True)), 2), ledger.seconds, ledger.epochs
        (80.0, 300.0, 54)
        """
        found = self.query(cell, epochs, repeat, stop_halfway)
        return Answer(100 * found.validation_accuracy, found.training_time, epochs // 2 if stop_halfway else epochs)

    def metrics(self, cell: Spec | str) -> dict[int, NDArray[np.float32]]:
        """All that is known of a cell, at no cost: by budget, shape (3 repeats, halfway and end, 4 of `FIGURES`)."""
        row = self._row(cell)
        return {epochs: self._figures(row, epochs) for epochs in self.epochs}

    def values(self, figure: Literal["train", "valid", "test", "seconds"], epochs: int = 108) -> NDArray[np.float64]:
        """The means of the repeats at the end of the training of all cells, shape (N,), in the order of `hashes`.

        NaN for a cell that has no such training.
        """
        if figure not in FIGURES:
            raise SupernetError(f"the table has no figure {figure!r}: {nearest(figure, FIGURES)}")
        figures = self._arrays["metrics"][:, self._budget(epochs), :, 1, FIGURES.index(figure)]
        known = ~np.isnan(figures)
        sums = np.where(known, figures, 0).sum(axis=1, dtype=np.float64)
        means = np.full(len(self), np.nan)
        np.divide(sums, known.sum(axis=1), out=means, where=known.any(axis=1))
        return means

    def num_trainings(self, epochs: int) -> int:
        """How many trainings of a budget there are, of all cells: three of each where none is missing."""
        if epochs not in self.epochs:
            return 0
        return int((~np.isnan(self._arrays["metrics"][:, self._budget(epochs), :, 1, 0])).sum())

    def params(self) -> NDArray[np.int64]:
        """Trainable parameters of all cells, shape (N,), in the order of `hashes`."""
        params: NDArray[np.int64] = self._arrays["params"].astype(np.int64)
        return params

    def _chosen(self, known: NDArray[np.intp], repeat: Repeat) -> NDArray[np.intp]:
        """The numbers of the trainings that are meant, of those that are known."""
        if repeat == "mean":
            return known
        if isinstance(repeat, random.Random):
            return known[[repeat.randrange(len(known))]] if len(known) else known
        if isinstance(repeat, bool) or not isinstance(repeat, int) or not 0 <= repeat < NUM_REPEATS:
            raise SupernetError(f"a training is 0, 1, 2, 'mean' or a random.Random, got repeat={repeat!r}")
        matching: NDArray[np.intp] = known[known == repeat]
        return matching

    def _budget(self, epochs: int) -> int:
        if epochs not in self.epochs:
            raise SupernetError(f"{self.source} has trainings of {self.epochs} epochs, got epochs={epochs}")
        return self.epochs.index(epochs)

    def _figures(self, row: int, epochs: int) -> NDArray[np.float32]:
        """Those of a cell and a budget, shape (3, 2, 4)."""
        figures = np.array(self._arrays["metrics"][row, self._budget(epochs)])
        with np.errstate(invalid="ignore"):  # of a NaN
            damaged = (figures < 0).any() or (figures[..., :3] > 1).any() or np.isinf(figures).any()
        if damaged:
            raise SupernetError(
                f"{self.source} is damaged in row {row:,}: accuracies are from 0 to 1; convert it again"
            )
        return figures

    def _find(self, name: str) -> int | None:
        """The row of a hash."""
        if not _HASH.fullmatch(name):
            return None
        (key,) = np.frombuffer(bytes.fromhex(name), "S16")
        row = int(np.searchsorted(self._names, key))
        return row if row < len(self) and self._names[row] == key else None

    def _row(self, cell: Spec | str) -> int:
        if isinstance(cell, Spec) and cell.outside:
            raise SupernetError(f"the cell {cell} is none of NAS-Bench-101: {cell.outside}")
        name = cell.hash if isinstance(cell, Spec) else cell
        row = self._find(name)
        if row is None:
            raise SupernetError(f"{self.source} has {len(self):,} cells, and none with the hash {name}")
        return row

    def _spec(self, row: int) -> Spec:
        code = int(self._arrays["operations"][row])
        labels = [code >> 2 * place & 3 for place in range(MAX_VERTICES - 2)]
        inner = [OPS[label] for label in labels if label < len(OPS)]
        return Spec(unpack(int(self._arrays["adjacency"][row]), len(inner) + 2), (INPUT, *inner, OUTPUT))


def open_table(path: Path) -> TabularBenchmark101:
    """Open a table that ``python -m supernet.nasbench101 convert`` wrote; figures are read where they are asked for.

    Raises:
        SupernetError: it cannot be read, or is no such table.
    """
    try:
        arrays = ArrayFile(path, _MAX_BYTES, verified=False)
        if missing := [name for name in KINDS if name not in arrays]:
            raise ValueError(f"it has no array {missing[0]!r}")
        found = {name: arrays[name] for name in KINDS}
        for name, kind in KINDS.items():
            if found[name].dtype.str != kind:
                raise ValueError(f"{name} must be a {kind} array, got {found[name].dtype.str}")
    except (OSError, ValueError) as error:
        raise SupernetError(
            f"cannot read the table {path}: {error}; python -m supernet.nasbench101 convert writes one"
        ) from None
    return TabularBenchmark101(found, str(path))
