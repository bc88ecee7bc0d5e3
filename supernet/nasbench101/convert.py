"""From the published file to a table that opens at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from supernet.arrays import npz_bytes
from supernet.errors import SupernetError
from supernet.files import check_regular, write_whole
from supernet.nasbench101.network import num_parameters
from supernet.nasbench101.records import EPOCHS, Record, read_records
from supernet.nasbench101.space import NUM_CELLS, pack
from supernet.nasbench101.spec import MAX_VERTICES, OPS, Spec
from supernet.nasbench101.table import FIGURES, KINDS, NUM_REPEATS, Arrays, TabularBenchmark101


def convert(records: Path, out: Path) -> int:
    """Write the trainings of a TFRecord file as a table, which is put together in memory; a bar shows how far it is.

    It has run on files of the published format, but not on the published file itself.

    Returns:
        The number of cells.

    Raises:
        SupernetError: the file is no such file, or contradicts itself, or the table cannot be written, or its name
            does not end in ``.npz``, which is said before anything is read.
    """
    if out.suffix != ".npz":
        raise SupernetError(f"a table is a .npz file, got --out {out}; give it that ending")
    try:
        check_regular(records)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SupernetError(f"cannot read {records} ({reason}); pass the TFRecord file") from None
    with tqdm(total=records.stat().st_size, unit="B", unit_scale=True, desc=records.name, disable=None) as bar:
        arrays = gather(read_records(records, bar.update))
    write_whole(out, npz_bytes(arrays))
    return len(arrays["params"])


def missing(table: TabularBenchmark101) -> list[str]:
    """Sentences on what a table lacks of the published one: cells, and of its cells, trainings at each budget."""
    asked = NUM_REPEATS * len(table)
    return [
        f"{NUM_CELLS - len(table):,} of the {NUM_CELLS:,} cells of NAS-Bench-101 are missing",
        *(
            f"{asked - table.num_trainings(epochs):,} of the {asked:,} trainings for {epochs} epochs are missing"
            for epochs in EPOCHS
        ),
    ]


def gather(records: Iterable[Record]) -> Arrays:
    """The arrays of a table, as `supernet.nasbench101.table.KINDS` describes them.

    The first record of a cell is checked against the cell itself: its hash and its parameter count. The others must
    have the same cell and count.

    Raises:
        SupernetError: a record contradicts itself or an earlier one, or is a fourth training of a cell and budget.
    """
    rows: dict[str, int] = {}
    firsts: list[tuple[str, str, int]] = []
    cells: list[tuple[int, int]] = []
    filled = bytearray()
    metrics = np.full((1, len(EPOCHS), NUM_REPEATS, 2, len(FIGURES)), np.nan, np.float32)
    for number, record in enumerate(records, start=1):
        told = (sys.intern(record.adjacency), sys.intern(record.operations), record.params)
        if record.hash not in rows:
            try:
                cells.append(_code(record))
            except SupernetError as error:
                raise SupernetError(f"record {number:,}: {error}") from None
            rows[record.hash] = len(rows)
            firsts.append(told)
            filled.extend(bytes(len(EPOCHS)))
            if len(rows) > len(metrics):
                metrics = np.concatenate([metrics, np.full_like(metrics, np.nan)])
        row, budget = rows[record.hash], EPOCHS.index(record.epochs)
        if told != firsts[row]:
            raise SupernetError(
                f"record {number:,} has another cell or parameter count than the first of {record.hash}"
            )
        place = row * len(EPOCHS) + budget
        if filled[place] == NUM_REPEATS:
            raise SupernetError(
                f"record {number:,} is a fourth training of {record.epochs} epochs of {record.hash}; there are three"
            )
        for moment, found in enumerate(record.evaluations[1:]):
            metrics[row, budget, filled[place], moment] = found.train, found.valid, found.test, found.seconds
        filled[place] += 1
    if not rows:
        raise SupernetError("there is no record to make a table of")
    return _in_order(list(rows), cells, [params for _, _, params in firsts], filled, metrics)


def _in_order(
    names: list[str], cells: list[tuple[int, int]], params: list[int], filled: bytearray, metrics: NDArray[np.float32]
) -> Arrays:
    """The arrays of a table, in the order of the hashes, without budgets that no cell has."""
    order = sorted(range(len(names)), key=names.__getitem__)
    budgets = [budget for budget in range(len(EPOCHS)) if any(filled[budget :: len(EPOCHS)])]
    adjacency, operations = np.array(cells)[order].T
    found = {
        "hashes": np.frombuffer(bytes.fromhex("".join(names)), np.uint8).reshape(-1, 16)[order],
        "adjacency": adjacency,
        "operations": operations,
        "params": np.array(params)[order],
        "epochs": np.array(EPOCHS)[budgets],
        "metrics": metrics[np.ix_(order, budgets)],
    }
    return {name: np.ascontiguousarray(array, KINDS[name]) for name, array in found.items()}


def _code(record: Record) -> tuple[int, int]:
    """Adjacency and operations of a cell as numbers."""
    spec: Spec = record.spec
    if spec.outside or spec.pruned is not spec:
        raise SupernetError(f"{spec} is no pruned cell of NAS-Bench-101{': ' if spec.outside else ''}{spec.outside}")
    if spec.hash != record.hash:
        raise SupernetError(f"it calls the cell {spec.hash} by the hash {record.hash!r}")
    if num_parameters(spec) != record.params:
        raise SupernetError(f"{spec} has {num_parameters(spec):,} parameters, and it says {record.params:,}")
    labels = [OPS.index(op) for op in spec.ops[1:-1]]
    labels += [len(OPS)] * (MAX_VERTICES - 2 - len(labels))
    return pack(spec.matrix), sum(label << 2 * place for place, label in enumerate(labels))
