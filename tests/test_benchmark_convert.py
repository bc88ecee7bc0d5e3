"""Published archives as tables: against what NumPy makes of the same records, and without running anything."""

from __future__ import annotations

import bz2
import functools
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from supernet.benchmark import COLUMN_NAMES, Column, TabularBenchmark, open_table
from supernet.benchmark.__main__ import main
from supernet.benchmark.archives import read_file
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from tests.archives import SEEDS, SETS, SHORT, cell, folder, whole
from tests.hostile import MARKER, Run

CELLS = [0, 1, 15_624]
PUBLISHED = {  # (data set, images) of a column: the key of the data set, of the validation and of the test images
    ("cifar10", "25k"): ("cifar10-valid", "x-valid", "ori-test"),
    ("cifar10", "50k"): ("cifar10", None, "ori-test"),
    ("cifar100", "50k"): ("cifar100", "x-valid", "x-test"),
    ("imagenet16-120", "152k"): ("ImageNet16-120", "x-valid", "x-test"),
}


known = functools.cache(cell)


def expected(column: Column, index: int, seed: int) -> float:
    """The figure of a training by the rules of the published comparisons; NaN if there was none."""
    dataset, valid, test = PUBLISHED[column.dataset, column.images]
    trained = known(index)[str(column.epochs)]["all_results"].get((dataset, seed))
    if trained is None:
        return float("nan")
    if column.measure == "seconds":
        return float(np.sum(np.array(list(trained["train_times"].values()), np.float64)))
    if column.measure == "valid-seconds":
        times = [time for key, time in trained["eval_times"].items() if key.startswith(f"{valid}@")]
        return float(np.mean(times))
    return float(trained["eval_acc1es"][f"{valid if column.measure == 'valid' else test}@{column.epochs - 1}"])


def convert(source: Path, out: Path, *options: str) -> TabularBenchmark:
    main(["convert", str(source), "--out", str(out), *options])
    return open_table(out)


def is_as_published(table: TabularBenchmark) -> None:
    assert len(table.columns) == len(COLUMN_NAMES)
    for column in table.columns:
        seeds = (777, 111) if column.epochs == 12 else (777, 888, 999)
        figures = table.figures(column)
        told = [[expected(column, index, seed) for seed in seeds[: figures.shape[1]]] for index in CELLS]
        assert np.isfinite(figures).sum() == np.isfinite(told).sum() > 0
        np.testing.assert_allclose(figures[CELLS], told, rtol=1e-6, atol=6e-5)
        assert figures.shape[1] == len(seeds)


def legacy(value: Any, path: Path) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=False)
    return path


def zipped(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def packed(value: Any, path: Path) -> Path:
    path.write_bytes(bz2.compress(pickle.dumps(value, 4)))
    return path


WAYS = pytest.mark.parametrize("save", [legacy, zipped, packed])


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_folder_becomes_a_table(tmp_path: Path, protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    archive = folder(tmp_path / "NATS-tss-v1_0-3ffb9-simple", CELLS, protocol=protocol)
    is_as_published(convert(archive, tmp_path / "table.npz", "--jobs", "1"))
    assert "28 columns of 3 cells; 15,622 of 15,625 cells are missing" in capsys.readouterr().out


@pytest.mark.long  # each process imports everything
def test_several_processes_read_what_one_reads(tmp_path: Path) -> None:
    archive = folder(tmp_path / "archive", [0, 1])
    one, two = (convert(archive, tmp_path / f"{jobs}.csv", "--jobs", f"{jobs}") for jobs in (1, 2))
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    assert one.columns == two.columns


@WAYS
def test_one_file_becomes_a_table(tmp_path: Path, save: Callable[[Any, Path], Path]) -> None:
    is_as_published(convert(save(whole(CELLS), tmp_path / "all.pth"), tmp_path / "table.npz"))


def test_a_training_keeps_its_place(tmp_path: Path) -> None:
    """Of a cell that was trained with one seed only, the others are missing, whatever its other figures are."""
    table = convert(folder(tmp_path / "archive", CELLS), tmp_path / "table.npz", "--jobs", "1")
    for index in CELLS:
        seeds = cell(index)["200"]["dataset_seed"]["cifar100"]
        for repeat, seed in enumerate(SEEDS[200]):
            if seed in seeds:
                answer = table.trained(Genotype.from_index(index), "cifar100", repeat=repeat)
                told = [expected(Column("cifar100", "50k", measure, 200), index, seed)
                        for measure in ("valid", "seconds", "valid-seconds")]  # fmt: skip
                assert answer.accuracy == pytest.approx(told[0], abs=6e-5)
                assert answer.seconds == pytest.approx(told[1] + told[2], rel=1e-6)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_any_table_becomes_any_other(tmp_path: Path, ending: str) -> None:
    first = convert(folder(tmp_path / "archive", [3, 5], SHORT), tmp_path / "first.npz", "--jobs", "1")
    second = convert(tmp_path / "first.npz", tmp_path / f"second.{ending}")
    third = convert(tmp_path / f"second.{ending}", tmp_path / "third.npz")
    for column in first.columns:
        np.testing.assert_allclose(second.figures(column), first.figures(column), rtol=1e-7)
        np.testing.assert_array_equal(third.figures(column), first.figures(column))


@WAYS
@pytest.mark.parametrize("value", [Run(), {"arch2infos": {0: Run()}}, {"arch2infos": {(Run(),): 1}}])
def test_no_file_runs_anything(
    tmp_path: Path, save: Callable[[Any, Path], Path], value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(value, tmp_path / "all.pth")
    with pytest.raises(SupernetError, match=r"it asks for posix\.system, which plain values do not need"):
        read_file(path, int)
    assert not Path(MARKER).exists()


def test_no_file_of_a_cell_runs_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    archive = folder(tmp_path / "archive", [0], SHORT)
    packed({**cell(1, SHORT), "x": Run()}, archive / "000001.pickle.pbz2")
    with pytest.raises(SupernetError, match=r"000001.*it asks for posix.system"):
        convert(archive, tmp_path / "table.npz", "--jobs", "1")
    assert not Path(MARKER).exists()
    assert not (tmp_path / "table.npz").exists()


def spoiled(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    record = cell(0, SHORT)
    edit(record)
    return record


MISTAKES: dict[str, tuple[Any, str]] = {
    "another cell": (cell(1, SHORT), "has another official index"),
    "no cell": (spoiled(lambda cell: cell["12"].update(arch_str="|x~0|")), "has another official index"),
    "a list": ([1], "not laid out as published"),
    "nothing": ({}, "there are no trainings"),
    "another budget": ({"90": cell(0, SHORT)["12"]}, "there are no trainings"),
    "no results": (spoiled(lambda cell: cell["12"].pop("all_results")), "not laid out as published"),
    "fewer epochs": ({"200": cell(0, SHORT)["12"]}, "a training for 200 epochs in it has 12"),
    "no last epoch": (
        spoiled(lambda cell: cell["12"]["all_results"]["cifar10", 111]["eval_acc1es"].pop("ori-test@11")), "ori-test@11"
    ),
    "text for a figure": (
        spoiled(lambda cell: cell["12"]["all_results"]["cifar10", 111]["train_times"].update({3: "5"})), "no number but"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("record", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_is_not_as_published_is_refused(tmp_path: Path, record: Any, message: str) -> None:
    (tmp_path / "archive").mkdir()
    packed(record, tmp_path / "archive" / "000000.pickle.pbz2")
    with pytest.raises(SupernetError, match=message):
        convert(tmp_path / "archive", tmp_path / "table.npz", "--jobs", "1")
    for save in (legacy, zipped):
        with pytest.raises(SupernetError, match=message):
            read_file(save({"arch2infos": {0: record}}, tmp_path / "all.pth"), int)


def test_an_accuracy_beyond_100_is_refused(tmp_path: Path) -> None:
    record = spoiled(lambda cell: cell["12"]["all_results"]["cifar10", 111]["eval_acc1es"].update({"ori-test@11": 101}))
    (tmp_path / "archive").mkdir()
    packed(record, tmp_path / "archive" / "000000.pickle.pbz2")
    with pytest.raises(SupernetError, match="cifar10_50k_test_12 of archive holds 101"):
        convert(tmp_path / "archive", tmp_path / "table.npz", "--jobs", "1")


@WAYS
def test_half_a_file_is_refused(tmp_path: Path, save: Callable[[Any, Path], Path]) -> None:
    path = save({"arch2infos": {0: cell(0, SHORT)}}, tmp_path / "all.pth")
    path.write_bytes(path.read_bytes()[:5_000])
    with pytest.raises(SupernetError, match="no archive of NAS-Bench-201 as published"):
        read_file(path, int)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "empty", "--out", "x.npz"], "has no files of cells"),
        (["convert", "tensors.pth", "--out", "x.npz"], "plain values do not need"),
        (["convert", "nothing", "--out", "x.npz"], "cannot read the table nothing"),
        (["convert", "empty", "--out", "x.npz", "--jobs", "0"], "jobs must be at least 1"),
        (["show", "tensors.pth"], "is no compact table"),
        (["show", "old.pth"], "convert makes a table of it"),
        (["convert", "empty", "--out", "x.txt"], "is written as .npz, .csv, .csv.gz, .parquet"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    zipped({"x": torch.zeros(2)}, Path("tensors.pth"))
    legacy({}, Path("old.pth"))
    with pytest.raises(SupernetError, match=message):
        main(arguments)


def test_a_command_ends_in_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "supernet.benchmark", "show", str(tmp_path)],
        cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert done.stderr.startswith(f"error: cannot read the table {tmp_path}")


def test_show_tells_columns_and_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(folder(tmp_path / "NATS", [0, 6111], SHORT), tmp_path / "table.npz", "--jobs", "1")
    capsys.readouterr()
    main(["show", str(tmp_path / "table.npz")])
    shown = capsys.readouterr().out
    assert "source: NATS" in shown
    assert shown.count("2 cells, up to ") == 14
    assert ", cell 6111\n" in shown
    main(["show", str(tmp_path / "table.npz"), "6111"])
    by_index = capsys.readouterr().out
    main(["show", str(tmp_path / "table.npz"), str(Genotype.from_index(6111))])
    assert capsys.readouterr().out == by_index
    assert "1.073 M parameters" in by_index
    assert "rank 1 of 2" in by_index
    for argument in ("15625", "|none~0|"):
        with pytest.raises(SupernetError):
            main(["show", str(tmp_path / "table.npz"), argument])


def test_all_published_data_sets_are_there() -> None:
    assert {name for name, _, _ in PUBLISHED.values()} == set(SETS)


def test_a_repeat_is_one_seed_in_all_figures_of_a_training(tmp_path: Path) -> None:
    """The second training has no test accuracy: its place stays empty, and the third does not move up."""
    record = cell(0)
    results = record["200"]["all_results"]
    accuracies = results["cifar10-valid", 888]["eval_acc1es"]
    for key in [key for key in accuracies if key.startswith("ori-test@")]:
        del accuracies[key]
    source = folder(tmp_path / "archive", [])
    (source / "000000.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(record, 4)))
    table = convert(source, tmp_path / "table.npz", "--jobs", "1")
    first = Genotype.from_index(0)
    for number, seed in enumerate((777, 888, 999)):
        accuracies = results["cifar10-valid", seed]["eval_acc1es"]
        assert table.value(first, Column.parse("cifar10_25k_valid_200"), number) == float(accuracies["x-valid@199"])
        if seed != 888:
            assert table.value(first, Column.parse("cifar10_25k_test_200"), number) == float(accuracies["ori-test@199"])
    with pytest.raises(SupernetError, match="repeat=1"):
        table.value(first, Column.parse("cifar10_25k_test_200"), 1)


def doubled(times: int) -> Any:
    value: Any = ()
    for _ in range(times):
        value = (value, value)
    return value


def nested(times: int) -> Any:
    value: Any = ()
    for _ in range(times):
        value = (value,)
    return value


@pytest.mark.parametrize("made", [lambda: doubled(60), lambda: nested(400)], ids=["doubled", "nested"])
@pytest.mark.parametrize("where", ["arch_str", "epochs", "seed"])
def test_what_is_no_plain_value_is_not_looked_at(tmp_path: Path, where: str, made: Callable[[], Any]) -> None:
    """To compare it, or to print it, would take for ever."""
    record, value = cell(0), made()
    if where == "arch_str":
        record["200"]["arch_str"] = value
    else:
        key, training = next(iter(record["200"]["all_results"].items()))
        if where == "epochs":
            training["epochs"] = value
        else:
            record["200"]["all_results"] = {(key[0], "x"): training}
    source = folder(tmp_path / "archive", [])
    (source / "000000.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(record, 4)))
    with pytest.raises(SupernetError, match=r"it has (tuple|str) where (str|int) belongs"):
        main(["convert", str(source), "--out", str(tmp_path / "table.npz"), "--jobs", "1"])


def test_a_budget_that_is_told_twice_is_refused(tmp_path: Path) -> None:
    record = cell(0)
    record["full"] = record["200"]
    source = folder(tmp_path / "archive", [])
    (source / "000000.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(record, 4)))
    with pytest.raises(SupernetError, match="one budget twice"):
        main(["convert", str(source), "--out", str(tmp_path / "table.npz"), "--jobs", "1"])
