"""The table of NAS-Bench-101: what was written is answered, for any form of a cell; its cost; hostile files."""

from __future__ import annotations

import io
import random
import runpy
import struct
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from supernet import nasbench101
from supernet.arrays import npz_bytes
from supernet.benchmark import Answer, BudgetError, Ledger
from supernet.errors import SupernetError
from supernet.nasbench101 import (
    EPOCHS,
    Record,
    Spec,
    TabularBenchmark101,
    cells,
    convert,
    gather,
    num_parameters,
    open_table,
)
from supernet.nasbench101.table import KINDS
from tests.nasbench101_writer import payload, training, trainings, write
from tests.test_nasbench101_spec import BEST, INCEPTION, orders, permuted

CELLS = [*cells(2), *cells(3), *list(cells(4))[::3], *list(cells(5))[::200], INCEPTION, BEST]
RECORDS = trainings(CELLS, seed=1)
ASYMMETRIC = Spec("01110 00001 00001 00001 00000", "input,conv3x3,maxpool3x3,maxpool3x3,output")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    assert convert(write(folder / "trainings.tfrecord", map(payload, RECORDS)), folder / "table.npz") == len(CELLS)
    return folder / "table.npz"


@pytest.fixture(scope="module")
def table(path: Path) -> TabularBenchmark101:
    return open_table(path)


def by_training() -> dict[tuple[str, int], list[Record]]:
    """The repeats of each cell and budget, in the order of the file."""
    found = defaultdict(list)
    for record in RECORDS:
        found[record.hash, record.epochs].append(record)
    return found


def single(value: float) -> float:
    return float(np.float32(value))


def test_every_training_is_answered_as_it_was_written(table: TabularBenchmark101) -> None:
    for (name, epochs), repeats in by_training().items():
        for halfway in (False, True):
            moments = [record.evaluations[1 if halfway else 2] for record in repeats]
            for repeat, moment in enumerate(moments):
                found = table.query(name, epochs, repeat, halfway)
                assert found[3:] == tuple(map(single, (moment.seconds, moment.train, moment.valid, moment.test)))
                assert found.trainable_parameters == repeats[0].params
            mean = table.query(name, epochs, stop_halfway=halfway)
            assert mean.training_time == pytest.approx(np.mean([moment.seconds for moment in moments]), rel=1e-6)
            assert mean.test_accuracy == pytest.approx(np.mean([moment.test for moment in moments]), rel=1e-6)


def test_published_accuracies_come_back_as_the_fractions_that_they_are(table: TabularBenchmark101) -> None:
    for record in RECORDS[::50]:
        accuracies = [table.query(record.hash, record.epochs, repeat).test_accuracy for repeat in range(3)]
        assert record.evaluations[2].test in [round(accuracy * 9984) / 9984 for accuracy in accuracies]


def test_any_form_of_a_cell_is_answered_by_the_representative_of_the_table() -> None:
    table = TabularBenchmark101(gather(trainings([ASYMMETRIC], seed=2)))
    other = permuted(ASYMMETRIC, (0, 2, 3, 1, 4))
    dead_end = Spec("011110 000001 000001 000001 000000 000000",
                    "input,maxpool3x3,conv3x3,maxpool3x3,conv1x1,output")  # fmt: skip
    assert num_parameters(other) != num_parameters(ASYMMETRIC)
    for form in [*(permuted(ASYMMETRIC, order) for order in orders(ASYMMETRIC)), other, dead_end]:
        assert form in table
        assert table.query(form) == table.query(ASYMMETRIC.hash)
    found = table.query(other)
    assert (found.module_adjacency, found.module_operations) == (ASYMMETRIC.matrix, ASYMMETRIC.ops)
    assert found.trainable_parameters == num_parameters(ASYMMETRIC)


def test_every_cell_of_the_table_reads_back(table: TabularBenchmark101) -> None:
    names = list(table.hashes())
    assert names == sorted(spec.hash for spec in CELLS)
    assert len(table) == len(CELLS)
    assert {table.spec(name) for name in names} == set(CELLS)
    assert all(spec in table and spec.hash in table for spec in CELLS)
    assert table.params().tolist() == [num_parameters(table.spec(name)) for name in names]


def test_metrics_and_values_are_those_of_the_queries(table: TabularBenchmark101) -> None:
    metrics = table.metrics(INCEPTION)
    assert list(metrics) == list(EPOCHS)
    for epochs, figures in metrics.items():
        for repeat in range(3):
            for halfway in (True, False):
                found = table.query(INCEPTION, epochs, repeat, halfway)
                assert figures[repeat, 0 if halfway else 1].tolist() == [*found[4:], found.training_time]
        figures[:] = 0  # a copy
    assert table.query(INCEPTION).test_accuracy > 0
    for place, name in enumerate(table.hashes()):
        assert table.values("valid", 36)[place] == pytest.approx(table.query(name, 36).validation_accuracy, rel=1e-12)
        assert table.values("seconds")[place] == pytest.approx(table.query(name).training_time, rel=1e-12)


def test_a_generator_draws_the_repeat_and_nothing_else_is_random(table: TabularBenchmark101) -> None:
    state, rng = random.getstate(), random.Random(0)
    draws = [table.query(BEST, 12, rng) for _ in range(60)]
    assert {draw.training_time for draw in draws} == {
        table.query(BEST, 12, repeat).training_time for repeat in range(3)
    }
    rng = random.Random(0)
    assert draws == [table.query(BEST, 12, rng) for _ in range(60)]
    assert random.getstate() == state


def test_trainings_that_are_missing_are_left_out() -> None:
    records = [record for record in trainings([INCEPTION, BEST], 4, (12, 108)) if record.epochs == 12]
    kept = [record for record in records if record.hash == BEST.hash][:2] + [
        record for record in records if record.hash == INCEPTION.hash
    ][:1]
    late = training(INCEPTION, 108, random.Random(9))
    table = TabularBenchmark101(gather([*kept, late]))
    assert table.epochs == (12, 108)
    ends = [single(record.evaluations[2].valid) for record in kept]
    assert table.query(BEST, 12).validation_accuracy == pytest.approx(np.mean(ends[:2]), rel=1e-12)
    assert table.values("valid", 12)[list(table.hashes()).index(INCEPTION.hash)] == ends[2]
    assert np.isnan(table.values("valid")).tolist() == [name == BEST.hash for name in table.hashes()]
    assert {table.query(INCEPTION, 12, random.Random(seed)).validation_accuracy for seed in range(9)} == {ends[2]}
    for repeat in (2, "mean", random.Random(0)):
        epochs = 12 if repeat == 2 else 108
        with pytest.raises(SupernetError, match=rf"no such training of the cell: epochs={epochs}, repeat="):
            table.query(BEST, epochs, repeat)


# What a search spends


def test_the_ledger_keeps_the_official_account(table: TabularBenchmark101) -> None:
    """Seconds and epochs are added for every query, half of the epochs for one that stops halfway."""
    rng, time_spent, epochs_spent = random.Random(6), 0.0, 0

    def ask(asked: tuple[Spec, int, int, bool]) -> Answer:
        return table.trained(*asked)

    ledger = Ledger(ask)
    for _ in range(50):
        spec, epochs, repeat, halfway = rng.choice(CELLS), rng.choice(EPOCHS), rng.randrange(3), rng.random() < 0.5
        found = table.query(spec, epochs, repeat, halfway)
        time_spent += found.training_time
        epochs_spent += epochs // 2 if halfway else epochs
        assert ledger((spec, epochs, repeat, halfway)) == 100 * found.validation_accuracy
    assert ledger.seconds == pytest.approx(time_spent)
    assert ledger.epochs == epochs_spent
    ledger.reset()
    assert (ledger.seconds, ledger.epochs) == (0, 0)


def test_the_ledger_knows_isomorphic_cells_for_the_same(table: TabularBenchmark101) -> None:
    order = next(order for order in orders(BEST) if order != tuple(range(7)))
    ledger = Ledger(table.trained, max_cells=2, charge_again=False, key=lambda spec: spec.hash)
    assert ledger(BEST) == ledger(permuted(BEST, order)) == table.trained(BEST).accuracy
    assert (ledger.num_cells, ledger.epochs) == (1, 108)
    ledger(INCEPTION)
    with pytest.raises(BudgetError):
        ledger(CELLS[0])
    assert table.trained(BEST, 4, 0, True) == Answer(
        100 * table.query(BEST, 4, 0, True).validation_accuracy, table.query(BEST, 4, 0, True).training_time, 2
    )


# What is refused


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda table: table.query("0" * 32), f"has {len(CELLS)} cells, and none with the hash 0000"),
        (lambda table: table.query("no hash"), "none with the hash no hash"),
        (lambda table: table.query(list(cells(4))[1]), "none with the hash"),
        (lambda table: table.query(Spec("00 00", "input,output")), "is none of NAS-Bench-101: its input is not"),
        (lambda table: table.query(Spec("010 001 000", "input,x,output")), "unknown operation 'x'"),
        (lambda table: table.query(BEST, 200), r"has trainings of \(4, 12, 36, 108\) epochs, got epochs=200"),
        (lambda table: table.query(BEST, 108, 3), "got repeat=3"),
        (lambda table: table.query(BEST, 108, -1), "got repeat=-1"),
        (lambda table: table.query(BEST, 108, True), "got repeat=True"),
        (lambda table: table.query(BEST, 108, "median"), "got repeat='median'"),
        (lambda table: table.values("tests"), "no figure 'tests': did you mean 'test'"),
    ],
)
def test_a_question_without_an_answer_is_refused(
    ask: Callable[[TabularBenchmark101], Any], reason: str, table: TabularBenchmark101
) -> None:
    with pytest.raises(SupernetError, match=reason):
        ask(table)


def test_what_is_no_cell_of_the_table_is_not_in_it(table: TabularBenchmark101) -> None:
    for absent in (
        "",
        "0" * 32,
        BEST.hash[:-2],
        BEST.hash + "00",
        "é" * 32,
        BEST.hash.upper(),
        f" {BEST.hash}",
        3,
        None,
        Spec("00 00", "input,output"),
    ):
        assert absent not in table
    assert list(cells(4))[1] not in table


def test_hashes_that_end_in_zeros_are_told_apart() -> None:
    arrays = some_arrays()
    names = ["00" * 16, "00" * 15 + "01", "ff" * 14 + "0000", "ff" * 15 + "00", "ff" * 16]
    arrays["hashes"] = np.array([list(bytes.fromhex(name)) for name in names], np.uint8)
    table = TabularBenchmark101(arrays)
    assert list(table.hashes()) == names
    for name, params in zip(names, table.params(), strict=True):
        assert table.query(name).trainable_parameters == params
    assert "ff" * 13 + "000000" not in table
    with pytest.raises(SupernetError, match="the table has no array 'params', and needs hashes, "):
        TabularBenchmark101({name: array for name, array in arrays.items() if name != "params"})


WELL = training(ASYMMETRIC, 12, random.Random(0))


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "there is no record"),
        ([WELL] * 4, "record 4 is a fourth training of 12 epochs"),
        ([WELL, WELL._replace(params=5)], "record 2 has another cell or parameter count than the first"),
        ([WELL, WELL._replace(adjacency="0100")], "record 2 has another cell or parameter count than the first"),
        ([WELL._replace(params=5)], "record 1: .* parameters, and it says 5"),
        ([WELL._replace(hash=BEST.hash)], f"record 1: it calls the cell {WELL.hash} by the hash '{BEST.hash}'"),
        ([WELL._replace(hash=WELL.hash.upper())], "by the hash"),
        ([WELL._replace(adjacency="010")], "record 1: the adjacency has 3 digits, which is no cell"),
        ([WELL._replace(adjacency="0" * 64)], "record 1: the adjacency has 64 digits"),
        ([WELL._replace(adjacency="0" * 25)], "record 1: .* is no pruned cell of NAS-Bench-101: its input is not"),
        (
            [WELL._replace(adjacency="01110" + "00001" * 2 + "0" * 10)],
            "record 1: .* is no pruned cell of NAS-Bench-101$",
        ),
        ([WELL._replace(operations="input,output")], "record 1: a cell has one operation for each vertex"),
    ],
)
def test_records_that_contradict_themselves_are_refused(records: list[Record], reason: str) -> None:
    with pytest.raises(SupernetError, match=reason):
        gather(records)


# The file


def test_the_file_is_looked_at_where_it_lies(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
    with np.load(path, allow_pickle=False) as stored:
        opened = open_table(path)._arrays
        assert set(stored) == set(opened) == set(KINDS)
        for name, array in opened.items():
            assert isinstance(array, np.memmap)
            assert array.dtype == stored[name].dtype == np.dtype(KINDS[name])
            np.testing.assert_array_equal(array, stored[name])


def some_arrays() -> dict[str, NDArray[Any]]:
    return dict(gather(trainings(CELLS[:5], seed=3)))


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("hashes", lambda array: array[::-1], "does not have its hashes in rising order"),
        ("hashes", lambda array: array[[0, 0, 1, 2, 3]], "does not have its hashes in rising order"),
        ("hashes", lambda array: array[:, :8], r"has hashes of shape \(5, 8\), and \(5, 16\) belongs there"),
        ("hashes", lambda array: array[0, 0], "is not that of an array of numbers"),
        ("hashes", lambda array: array[:0], "is not what its shape .* needs"),
        ("params", lambda array: array[:3], r"has hashes of shape \(5, 16\), and \(3, 16\)"),
        ("params", lambda array: array[0], "is not that of an array of numbers"),
        ("operations", lambda array: array[:3], r"has operations of shape \(3,\), and \(5,\)"),
        ("params", lambda array: array.astype(np.float64), "params must be a <i4 array, got <f8"),
        ("params", lambda array: array.astype(">i4"), "is not that of an array of numbers"),
        ("epochs", lambda array: array + 1, r"has trainings of \(5, 13, 37, 109\) epochs"),
        ("epochs", lambda array: array[[0, 0, 1, 2]], r"has trainings of \(4, 4, 12, 36\) epochs"),
        ("epochs", lambda array: array[:2], r"has metrics of shape \(5, 4, 3, 2, 4\), and \(5, 2, 3, 2, 4\)"),
        ("metrics", lambda array: np.asfortranarray(array), "is not that of an array of numbers"),
        ("metrics", lambda array: array[0, 0, 0, 0, 0], "is not that of an array of numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    name: str, spoil: Callable[[NDArray[Any]], NDArray[Any]], reason: str, tmp_path: Path
) -> None:
    arrays = some_arrays()
    arrays[name] = spoil(arrays[name])
    (tmp_path / "table.npz").write_bytes(npz_bytes(arrays))
    with pytest.raises(SupernetError, match=reason):
        open_table(tmp_path / "table.npz")


def test_figures_that_are_none_are_refused_where_they_are_read() -> None:
    for value in (-1.0, 1.5, np.inf):
        arrays = some_arrays()
        arrays["metrics"][0, 3, 1, 0, 2] = value
        table = TabularBenchmark101(arrays)
        name = next(table.hashes())
        with pytest.raises(SupernetError, match="is damaged in row 0: accuracies are from 0 to 1"):
            table.query(name)
        assert table.query(name, 36).test_accuracy <= 1


def file_of(write: Callable[[Any], None]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def with_header(header: bytes) -> bytes:
    """A file whose ``params`` have this header and no entries."""
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header

    def build(buffer: Any) -> None:
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in KINDS:
                if name != "params":
                    archive.writestr(f"{name}.npy", file_of(partial(np.save, arr=some_arrays()[name])))
            archive.writestr("params.npy", npy)

    return file_of(build)


def many_members(buffer: Any) -> None:
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(1_000):
            archive.writestr(str(number), b"")


HEADER = "{'descr': '<i4', 'fortran_order': False, 'shape': (%s,), }"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is too short for a .npz file"),
        (b"PK" * 100, "it is no .npz file"),
        (file_of(lambda file: np.savez_compressed(file, allow_pickle=False, **some_arrays())), "is compressed"),
        (file_of(lambda file: np.savez(file, hashes=np.zeros(3))), "it has no array 'adjacency'"),
        (file_of(lambda file: np.savez(file, **some_arrays() | {"params": np.array([{}])})), "the header of params"),  # type: ignore[arg-type]
        (file_of(many_members), "it has 1000 members, and 64 are the limit"),
        (with_header((HEADER % 10**12).encode()), "bytes, which is not what its shape .* needs"),
        (with_header((HEADER % 0).encode()), "bytes, which is not what its shape .* needs"),
        (with_header((HEADER % 2**62).encode()), "bytes, which is not what its shape .* needs"),
        (with_header((HEADER % "2**62, 4").encode()), "the header of params is not that of an array"),
        (with_header((HEADER % -5).encode()), "the header of params is not that of an array"),
        (with_header(b"(" * 200), "cannot read the table"),
        (with_header(b"-" * 255), "cannot read the table"),
        (with_header(b"[" * 60_000), "cannot read the table"),
        (with_header(b"__import__('os').system('true')"), "cannot read the table"),
        (with_header(HEADER.replace("<i4", "|O").encode() % b"5"), "the header of params"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "table.npz").write_bytes(content)
    with pytest.raises(SupernetError, match=reason):
        open_table(tmp_path / "table.npz")


def test_what_is_no_file_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "huge").touch()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    for path in (tmp_path, tmp_path / "absent", Path("/dev/zero"), tmp_path / "huge"):
        with pytest.raises(SupernetError, match=f"^cannot read the table {path}"):
            open_table(path)


def test_no_changed_byte_of_a_table_ends_in_a_traceback(tmp_path: Path) -> None:
    rng, whole, path = random.Random(2), tmp_path / "whole.npz", tmp_path / "table.npz"
    whole.write_bytes(npz_bytes(some_arrays()))
    content, outcomes = whole.read_bytes(), set()
    # Headers, and the list at the end: the figures in between are half of the file.
    places = [place for place in range(len(content)) if any(content[max(0, place - 200) : place + 1].count(mark)
              for mark in (b"PK", b"NUMPY"))]  # fmt: skip
    for _ in range(250):
        spoilt = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            spoilt[rng.choice(places)] = rng.randrange(256)
        path.write_bytes(spoilt if rng.random() < 0.9 else spoilt[: rng.randrange(len(spoilt))])
        try:
            table = open_table(path)
            for name in table.hashes():
                table.query(name, table.epochs[0])
            outcomes.add("read")
        except SupernetError as error:
            outcomes.add(str(error).split(": ", 1)[-1][:15])
    assert "read" in outcomes
    assert len(outcomes) > 6


# The command


def command(*args: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["nasbench101", *args])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(Path(nasbench101.__file__).with_name("__main__.py")), run_name="__main__")
    return stop.value.code


def test_the_command_converts_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records, out = write(tmp_path / "few.tfrecord", map(payload, trainings([BEST], 5))), tmp_path / "few.npz"
    assert command("convert", str(records), "--out", str(out), monkeypatch=monkeypatch) == 0
    assert capsys.readouterr() == (
        f"1 cells, written to {out}\n423,623 of the 423,624 cells of NAS-Bench-101 are missing\n"
        + "".join(f"0 of the 3 trainings for {epochs} epochs are missing\n" for epochs in (4, 12, 36, 108)),
        "",
    )
    table = open_table(out)
    shown = []
    for cell in ([BEST.hash], str(BEST).split()):
        assert command("show", str(out), *cell, monkeypatch=monkeypatch) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert BEST.sketch() in shown[0]
    assert "parameters  32,426,634\n" in shown[0]
    assert f"{100 * table.query(BEST, 108).test_accuracy:.2f}" in shown[0].splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["convert", "bad", "--out", "out"], "a table is a .npz file, got --out out"),
        (["convert", "absent", "--out", "out.npz"], "cannot read absent (No such file or directory)"),
        (["convert", ".", "--out", "out.npz"], "cannot read . (it is a folder, a pipe or a device, and no file)"),
        (["convert", "bad", "--out", "out.npz"], "record 1 of bad: it is cut off after 3 of the 12 bytes"),
        (["convert", "empty", "--out", "out.npz"], "there is no record"),
        (["show", "absent", "x"], "cannot read the table absent: "),
        (["show", "bad", "x"], "cannot read the table bad: it is too short for a .npz file"),
    ],
)
def test_a_mistake_in_the_command_is_one_sentence(
    args: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad").write_bytes(b"bad")
    Path("empty").touch()
    assert command(*args, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err
    assert f"error: {reason}" in said
    assert "Traceback" not in said
    assert not list(Path().glob("out*"))
