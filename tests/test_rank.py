"""The command that ranks cells: what it leaves, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import gzip
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from supernet.benchmark import Column, open_table
from supernet.cli import search
from supernet.cli.checkpoint import build_search, read_checkpoint
from supernet.cli.command import command
from supernet.cost import cost, effective_params
from supernet.data import SearchData
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.rank.cells import choose_cells, distinct_cells
from supernet.rank.command import main
from supernet.rank.figures import best_cells
from supernet.rank.opened import open_search
from supernet.rank.scores import Scores
from supernet.ranking import kendall, regret, spearman
from supernet.space import CellSpace, canonical
from tests.test_cli import TINY, Result, run

COLUMN = "cifar10_50k_test_200"
FEW = ["--images", "64", "--device", "cpu"]


class Found(NamedTuple):
    checkpoint: str
    table: str


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A search of one epoch, and a table in which parameters count, and chance."""
    folder = tmp_path_factory.mktemp("rank")
    options = ["--trainer.default_root_dir", str(folder), "--data.root", str(folder)]
    assert run(search, *TINY, *options).status == 0
    (checkpoint,) = folder.rglob("last.ckpt")
    rng = random.Random(0)
    with gzip.open(folder / "table.csv.gz", "wt", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["arch", COLUMN])
        for cell in CellSpace():
            rows.writerow([cell, round(60 + cost(cell).params / 60_000 + rng.random(), 2)])
    return Found(str(checkpoint), str(folder / "table.csv.gz"))


def rank(found: Found, out: Path, *args: str) -> Result:
    return run(lambda given: command(main, given), found.checkpoint, "--out", str(out), *FEW, *args)


def written(out: Path) -> dict[Genotype, float]:
    _, *lines = (out / "scores.tsv").read_text().splitlines()
    return {Genotype.parse(line.split("\t")[0]): float(line.split("\t")[1]) for line in lines}


def left(out: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((out / "rank.json").read_text())
    return record


def test_the_scores_are_those_of_the_search(found: Found, tmp_path: Path) -> None:
    status, out, err = rank(found, tmp_path, "--cells", "20")
    assert (status, err) == (0, "")
    scores = written(tmp_path)
    assert len(scores) == 20
    assert "--table" in out
    module = build_search(found.checkpoint, read_checkpoint(found.checkpoint))
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    opened = open_search(Path(found.checkpoint), None, 64, 0, torch.device("cpu"))
    assert sum(len(labels) for _, labels in opened.batches) == 64
    for cell, accuracy in scores.items():  # float32: kernels for other numbers of edges may round otherwise
        assert accuracy == pytest.approx(module.score(cell, opened.batches), abs=1 / 64 + 1e-6)
    record = left(tmp_path)
    assert [each["cell"] for each in record["best"]] == [str(cell) for cell in best_cells(scores)]
    assert "rows" not in record
    assert (record["images"], record["batch_size"], record["norm"], record["seed"]) == (64, 64, "batch", 0)
    assert record["command"].startswith(f"python -m supernet.rank {found.checkpoint}")


def test_it_goes_on_with_what_is_missing(found: Found, tmp_path: Path) -> None:
    rank(found, tmp_path, "--cells", "8")
    before = (tmp_path / "scores.tsv").read_bytes()
    assert rank(found, tmp_path, "--cells", "12").status == 0
    after = (tmp_path / "scores.tsv").read_bytes()
    assert after.startswith(before)
    assert (left(tmp_path)["scored_now"], left(tmp_path)["num_cells"]) == (4, 12)
    (tmp_path / "scores.tsv").write_bytes(after[:-9])  # torn in the number of the last line
    assert rank(found, tmp_path, "--cells", "12").status == 0
    assert (tmp_path / "scores.tsv").read_bytes() == after
    assert left(tmp_path)["scored_now"] == 1
    assert rank(found, tmp_path, "--cells", "12").status == 0
    assert left(tmp_path)["scored_now"] == 0


def test_scores_of_another_kind_are_not_mixed_in(found: Found, tmp_path: Path) -> None:
    rank(found, tmp_path, "--cells", "2")
    before = (tmp_path / "scores.tsv").read_bytes()
    for options, expected in (
        ("--images 32", "images was 64, now it is 32"),
        ("--batch_size 32", "batch_size was 64, now it is 32"),
        ("--norm recalibrated --recalibration_images 64", "norm was batch, now it is recalibrated"),
        ("--precision bf16-mixed", "precision was 32-true, now it is bf16-mixed"),
    ):
        status, out, err = rank(found, tmp_path, "--cells", "2", *options.split())
        assert (status, out) == (2, "")
        assert expected in err
        assert (tmp_path / "scores.tsv").read_bytes() == before


def test_held_to_a_table(found: Found, tmp_path: Path) -> None:
    status, out, err = rank(found, tmp_path, "--cells", "40", "--table", found.table, "--column", COLUMN)
    assert (status, err) == (0, "")
    shared, record, table = written(tmp_path), left(tmp_path), open_table(Path(found.table))
    cells = sorted(shared, key=lambda cell: cell.index or 0)
    truth = [table.accuracy(cell) for cell in cells]
    rows = {row["score"]: row for row in record["rows"]}
    assert next(iter(rows)) == "shared accuracy"
    assert len(rows) == 5
    by_hand: dict[str, list[float]] = {
        "shared accuracy": [shared[cell] for cell in cells],
        "parameter count": [cost(cell).params for cell in cells],
        "effective parameter count": [effective_params(cell) for cell in cells],
        "MACs": [cost(cell).macs for cell in cells],
        "number of convolutions": [sum("conv" in op for op in cell.ops) for cell in cells],
    }
    kept = [cells.index(cell) for cell in distinct_cells(cells)]
    top = [position for position, value in enumerate(truth) if value >= sorted(truth)[-4]]
    for name, scores in by_hand.items():
        row = rows[name]
        assert row["tau"] == pytest.approx(kendall(scores, truth))
        assert row["rho"] == pytest.approx(spearman(scores, truth))
        distinct = np.array(scores)[kept], np.array(truth)[kept]
        assert row["tau_distinct"] == pytest.approx(kendall(*distinct))
        assert (row["tau_best"], row["pick_of_100"]) == (None, None)
        lacking = max(map(table.accuracy, CellSpace())) - max(truth)
        assert lacking > 0
        assert row["regret_of_1"] == pytest.approx(regret(scores, truth, 1) + lacking)
        assert row["picks"]["1"] == pytest.approx(np.mean(truth))
        assert row["cells"] == {"all": 40, "distinct": len(kept), "best": len(top)}
        (line,) = (line for line in out.splitlines() if line.startswith(f"{name}  "))
        assert line.removeprefix(name).split()[:3] == [f"{row['tau']:.3f}", f"{row['tau_distinct']:.3f}", "-"]
    assert rows["parameter count"]["tau"] > 0.9
    first = record["best"][0]
    assert first["rank"] == table.place(Genotype.parse(first["cell"]), Column.parse(COLUMN)).rank
    assert record["meaning"] == Column.parse(COLUMN).meaning
    assert (tmp_path / "rank.png").read_bytes().startswith(b"\x89PNG")
    (events,) = tmp_path.glob("events.out.tfevents.*")
    seen = EventAccumulator(str(events)).Reload()
    assert seen.Tags()["images"] == ["rank/scatter"]
    (scalar,) = seen.Scalars("rank/tau/shared_accuracy")
    assert scalar.value == pytest.approx(rows["shared accuracy"]["tau"], abs=1e-6)
    assert (scalar.step, record["epoch"], record["picture"]) == (2, 1, "rank.png")
    assert "rank/tau_best/shared_accuracy" not in seen.Tags()["scalars"]
    assert first["cell"] in out  # as it is, to be copied
    assert rank(found, tmp_path, "--cells", "40").status == 0  # a picture belongs to the record beside it
    assert not (tmp_path / "rank.png").exists()
    assert "picture" not in left(tmp_path)


def test_the_results_lie_in_the_folder_of_the_run(found: Found) -> None:
    folder = Path(found.checkpoint).parents[1]
    before = set(folder.iterdir())
    options = ["--cells", "3", *FEW, "--table", found.table, "--column", COLUMN]
    assert run(lambda given: command(main, given), found.checkpoint, *options).status == 0
    assert {path.name for path in (folder / "rank").iterdir()} >= {"rank.json", "rank.png", "scores.tsv"}
    assert [path.suffix for path in set(folder.iterdir()) - before if path.is_file()] == [".rank"]


def test_statistics_of_its_own_and_bfloat16(found: Found, tmp_path: Path) -> None:
    options = ["--cells", "6", "--norm", "recalibrated", "--recalibration_images", "96"]
    assert rank(found, tmp_path / "a", *options).status == 0
    assert rank(found, tmp_path / "b", *options, "--precision", "bf16-mixed").status == 0
    assert rank(found, tmp_path / "c", "--cells", "6").status == 0
    assert (left(tmp_path / "a")["norm"], left(tmp_path / "a")["recalibration_images"]) == ("recalibrated", 96)
    assert written(tmp_path / "a") != written(tmp_path / "c")
    assert written(tmp_path / "a").keys() == written(tmp_path / "b").keys() == written(tmp_path / "c").keys()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--cells some", "--cells is all, distinct or a number from 2 to 15,625, got 'some'"),
        ("--cells 1", "--cells is all, distinct or a number"),
        ("--cells 15626", "--cells is all, distinct or a number"),
        ("--images 1", "must be at least 2"),
        ("--batch_size 1", "--batch_size must be at least 2"),
        ("--recalibration_images 64", "pass --norm recalibrated"),
        (f"--column {COLUMN}", "pass --table"),
        ("--table nothing.csv", "cannot read the table nothing.csv"),
        ("--table TABLE --column cifar10_25k_valid_200", "has no accuracies"),
        ("--table TABLE --column cifar10_25k_seconds_200", "has no accuracies"),
        ("--seed -1", "--seed must be at least 0"),
        ("--device foo", "nothing can be computed on device 'foo'"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_scored(
    found: Found, tmp_path: Path, args: str, expected: str
) -> None:
    status, out, err = rank(found, tmp_path / "out", *args.replace("TABLE", found.table).split())
    assert (status, out) == (2, "")
    assert expected in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there_is_refused(found: Found, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.ckpt", Path(found.table)):
        assert rank(Found(str(path), ""), tmp_path / "out", "--cells", "2").status == 2
    assert not (tmp_path / "out").exists()


def test_the_folder_of_a_run_stands_for_its_checkpoint(found: Found, tmp_path: Path) -> None:
    folder = Path(found.checkpoint).parents[1]
    assert rank(Found(str(folder), ""), tmp_path, "--cells", "2").status == 0
    assert left(tmp_path)["checkpoint"] == found.checkpoint
    status, _, err = rank(Found(str(folder.parent), ""), tmp_path, "--cells", "2")
    assert (status, err) == (
        2,
        f"error: {folder.parent} is a folder, and no run with a checkpoint; pass {found.checkpoint}\n",
    )


def test_a_folder_that_cannot_be_made_is_named(found: Found, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, _, err = rank(found, tmp_path / "file" / "rank", "--cells", "2")
    assert (status, err.count("\n")) == (2, 1)
    assert f"cannot keep scores in {tmp_path / 'file' / 'rank'}: " in err
    assert "pass another folder to --out" in err


def test_other_images_of_the_same_number_are_refused(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rank(found, tmp_path, "--cells", "2").status == 0
    before, setup = (tmp_path / "scores.tsv").read_bytes(), SearchData.setup

    def changed(data: SearchData, part: str) -> None:
        setup(data)
        values = getattr(data.sets["val"], part)
        values.view(-1)[0] = (int(values.view(-1)[0]) + 1) % 10

    for part in ("images", "labels"):
        monkeypatch.setattr(SearchData, "setup", lambda data, part=part: changed(data, part))
        status, out, err = rank(found, tmp_path, "--cells", "2")
        assert (status, out) == (2, "")
        assert "images_sha256 was " in err
        assert (tmp_path / "scores.tsv").read_bytes() == before


def test_a_search_that_recalibrates_is_scored_recalibrated(tmp_path: Path) -> None:
    options = ["--trainer.default_root_dir", str(tmp_path), "--data.root", str(tmp_path)]
    assert run(search, *TINY, *options, "--model.recalibration_images", "96").status == 0
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    assert rank(Found(str(checkpoint), ""), tmp_path / "out", "--cells", "6").status == 0
    record = left(tmp_path / "out")
    assert (record["norm"], record["recalibration_images"]) == ("recalibrated", 96)
    module = build_search(str(checkpoint), read_checkpoint(str(checkpoint)))
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    opened = open_search(checkpoint, None, 64, None, torch.device("cpu"))
    assert sum(map(len, opened.calibration)) == 96
    for cell, accuracy in written(tmp_path / "out").items():
        expected = module.score(cell, opened.batches, opened.calibration)
        assert accuracy == pytest.approx(expected, abs=1 / 64 + 1e-6)


def test_stopped_again_and_again_it_ends_in_a_sentence(found: Found, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "supernet.rank", found.checkpoint, "--out", str(tmp_path), *FEW]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (tmp_path / "scores.tsv").exists():
            time.sleep(0.05)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert process.stderr is not None
        said = process.stderr.read()
    assert "Traceback" not in said
    assert said.startswith("stopped by SIGINT; ")


def test_which_cells() -> None:
    space = CellSpace()
    every, distinct, few = (choose_cells(space, which, 3) for which in ("all", "distinct", "300"))
    assert len(set(every)) == 15_625
    assert len(distinct) == 6_466
    assert len(set(few)) == 300
    assert few == choose_cells(space, "300", 3) != choose_cells(space, "300", 4)
    assert set(choose_cells(CellSpace(2), "5", 0)) == set(CellSpace(2))
    with pytest.raises(SupernetError, match="pass a number of cells"):
        choose_cells(CellSpace(5), "all", 0)
    names = {cell: canonical(cell, drop_zeros=True) for cell in few}
    kept = distinct_cells(few)
    assert sorted(names[cell] for cell in kept) == sorted(set(names.values()))
    for cell in kept:
        assert cost(cell).params == min(cost(other).params for other in few if names[other] == names[cell])


def test_equal_scores_come_by_index() -> None:
    cells = [Genotype.from_index(index) for index in (9, 4, 7, 1)]
    assert [cell.index for cell in best_cells(dict(zip(cells, (0.5, 0.5, 0.7, 0.5), strict=True)), 3)] == [7, 1, 4]


def test_what_was_stopped_is_kept(tmp_path: Path) -> None:
    cells = [Genotype.from_index(index) for index in range(3)]

    def stopped() -> Iterator[tuple[Genotype, float]]:
        yield cells[0], 0.1
        yield cells[1], 1 / 3
        raise KeyboardInterrupt

    path, identity = tmp_path / "a" / "scores.tsv", {"images": 3}
    with pytest.raises(KeyboardInterrupt):
        Scores(path, identity, CellSpace()).add(stopped())
    again = Scores(path, identity, CellSpace())
    assert again.known == {cells[0]: 0.1, cells[1]: 1 / 3}
    again.add([(cells[2], 1.0)])
    assert Scores(path, identity, CellSpace()).known == {cells[0]: 0.1, cells[1]: 1 / 3, cells[2]: 1.0}


@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(lambda tail: b'{"images": 3}\n' + tail + b"\n"),
        st.sampled_from([b"nan", b"2", b"-1", b"", b"1e999"]).map(
            lambda number: b'{"images": 3}\n' + str(Genotype.from_index(0)).encode() + b"\t" + number + b"\n"
        ),
    )
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_file_of_anything_is_read_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("scores") / "scores.tsv"
    path.write_bytes(content)
    try:
        scores = Scores(path, {"images": 3}, CellSpace())
    except SupernetError:
        assert path.read_bytes() == content
    else:
        assert not scores.known
        assert path.read_bytes() == b'{"images": 3}\n'
