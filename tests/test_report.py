from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import runpy
import shutil
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from supernet.benchmark import NUM_CELLS, Column, TabularBenchmark, open_table
from supernet.cli import search
from supernet.cost import cost
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.rank.figures import EFFECTIVE, SHARED, compare, figures
from supernet.report import Run, find_run, page, read_run
from supernet.report.__main__ import main
from supernet.report.cautions import cautions
from supernet.report.curves import HEIGHT, LEFT, RIGHT, WIDTH, draw, thin
from supernet.report.figures import departures, history
from supernet.report.place import standing
from supernet.space import CellSpace

TABLE = Path(__file__).resolve().parents[1].parent / "shared/data/nasbench201/nasbench201_cifar10.csv.gz"
COLUMN = Column.parse("cifar10_50k_test_200")
EPOCHS, BATCHES, BEGAN = 4, 5, 1_100_000_000
VOID = {"meta", "br", "wbr", "img"}
HOSTILE = "\"><img/src=http://evil.example/x.png/onerror=alert(1)><script>alert(2)</script>'&amp;$\\foo$"


class Read(HTMLParser):
    """What a browser would make of a page; fails if a tag is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def checked(text: str) -> Read:
    """The page, if it is well-formed and asks for nothing from outside, nor runs anything."""
    read = Read(text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "a"} & set(read.tags)
    for tag, name, value in read.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, value)
    ids = [value for _, name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:url\(|href=")#([^)"]+)', text)
    assert set(referred) <= set(ids)
    assert not re.search(r"@import|url\((?!#)", text)
    return read


CONFIG: dict[str, Any] = {
    "seed_everything": 7,
    "model": {"search": {"class_path": "supernet.strategies.DARTS"}, "max_skips": 3},
    "data": {"name": "digits"},
    "trainer": {"max_epochs": EPOCHS, "limit_train_batches": None},
}
RECORD: dict[str, Any] = {
    "strategy": "DARTS",
    "seed": 7,
    "epoch": EPOCHS - 1,
    "num_epochs": EPOCHS,
    "network": {"channels": 8, "num_cells": 1, "num_classes": 10, "image_shape": [1, 8, 8]},
    "metrics": {"val/derived_accuracy": 0.8125, "val/mixed_accuracy": 0.9375},
    "versions": {"torch": "2.13.7", "hardware": "a very special card"},
}


def log_epochs(folder: Path, epochs: range, offset: float = 0.0, **options: Any) -> None:
    rng = np.random.default_rng(epochs.start)
    with SummaryWriter(str(folder), **options) as writer:
        for epoch in epochs:
            step = BATCHES * (epoch + 1) - 1
            for tag, value in {
                "network/lr": 0.1 / (epoch + 1),
                "val/derived_accuracy": 0.5 + epoch / 10 + offset,
            }.items():
                writer.add_scalar(tag, value, step, walltime=BEGAN + 100 * epoch)
            writer.add_scalar("epoch", epoch, step, walltime=BEGAN + 100 * epoch)
            for target, source in CellSpace().edges:
                for op, value in zip(CellSpace().ops, rng.dirichlet(np.ones(5)), strict=True):
                    writer.add_scalar(f"edge_{source}_to_{target}/{op}", value, step, walltime=BEGAN + 100 * epoch)
        writer.add_scalar("arch/brand_new", 42.5, step, walltime=BEGAN + 100 * epoch)
        writer.add_scalar("final/derived_accuracy", 0.1, 0, walltime=BEGAN + 100 * epoch)
    (file,) = (file for file in folder.glob("events*") if ".a.host." not in file.name)
    file.rename(folder / f"events.out.tfevents.{BEGAN + 100 * epochs.start - 10}.a.host.1.0")


def make_run(folder: Path, cell: Genotype | None = None, config: dict[str, Any] | None = None) -> Path:
    log_epochs(folder, range(EPOCHS))
    (folder / "config.yaml").write_text(yaml.safe_dump(config or CONFIG))
    (cell or Genotype.from_index(6111)).save(folder / "genotype.json", RECORD)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "version_0")


@pytest.fixture(scope="module")
def table() -> TabularBenchmark:
    values = np.random.default_rng(0).normal(90, 2, NUM_CELLS).round(1)
    values[[3, 4]] = np.nan
    return TabularBenchmark({str(COLUMN): values, "cifar10_25k_seconds_12": values}, "a table.csv")


def test_a_page_has_all_sections_and_asks_for_nothing(folder: Path, table: TabularBenchmark) -> None:
    run = read_run(folder)
    assert run.missing == []
    read = checked(page(run, standing(table, COLUMN, Genotype.from_index(6111))))
    assert read.headings == [
        "The cell",
        "The search",
        "What the search held likely",
        "Where the cell lies among all cells",
        "How to reproduce it",
    ]
    assert {"svg": 3 + 3, "details": 1, "style": 1}.items() <= read.tags.items()
    for fact in (
        "DARTS on digits",
        "4 epochs",
        "9 November 2004, 11:33 UTC",
        "5 min 10 s",
        "seed 7",
        "81.25 %",
        "93.75 %",
    ):
        assert fact in read.words
    for fact in ("2.13.7", "a very special card", hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest()):
        assert fact in read.words
    assert f"python train.py --config {folder}/config.yaml" in read.words
    assert f"python derive.py {folder}/checkpoints/last.ckpt" in read.words
    assert "Before you trust" not in read.words


def test_the_cost_is_that_of_both_networks(folder: Path) -> None:
    words = checked(page(read_run(folder))).words
    cell = Genotype.from_index(6111)
    for size in (cost(cell), cost(cell, 8, 1, 10, (1, 8, 8))):
        assert f"{size.params / 1e6:.3f} M" in words
    assert f"{cost(cell).macs / 1e6:.2f} M" in words
    assert "--table" in words


def test_curves_are_those_of_the_events(folder: Path) -> None:
    run = read_run(folder)
    assert run.curves["val/derived_accuracy"].values == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert run.curves["val/derived_accuracy"].steps.tolist() == [4, 9, 14, 19]
    epochs = run.epochs(run.curves["network/lr"].steps)
    assert epochs is not None
    assert epochs.tolist() == [1, 2, 3, 4]
    words = checked(page(run)).words
    assert "Accuracy on validation images 80 %" in words
    assert "Learning rate of the network 0.025" in words
    assert "arch/brand_new 42.5" in words  # whatever a strategy logs
    assert "final/" not in words


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


@given(arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e3, 1e3)))
def test_a_drawn_curve_has_the_shape_of_its_values(values: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    places = np.arange(1.0, len(values) + 1)
    svg = draw([("name", places, values)], "label")
    drawn = np.array(points(re.findall(r'<path class="line0" d="([^"]*)"', svg)[0]))
    assert drawn[:, 0] == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * places / len(values), abs=0.06)
    assert ((drawn[:, 1] >= 0) & (drawn[:, 1] <= HEIGHT)).all()
    spread = np.ptp(values)
    if spread > 1e-6:  # falling in pixels as the values rise, by one and the same factor
        factor = -np.ptp(drawn[:, 1]) / spread
        expected = drawn[0, 1] + factor * (values - values[0])
        assert drawn[:, 1] == pytest.approx(expected, abs=0.4)


def test_a_value_that_is_not_finite_leaves_a_gap_and_is_said(folder: Path) -> None:
    values = np.array([1.0, np.nan, 2.0, np.inf, 3.0])
    (path,) = re.findall(r'<path class="line0" d="([^"]*)"', draw([("name", np.arange(5.0), values)], ""))
    assert path.count("M") == 3
    run = read_run(folder)
    run.curves["network/loss"] = run.curves["network/lr"]
    run.curves["network/loss"].values[1] = np.nan
    assert any("not finite" in sentence and "network/loss" in sentence for sentence in cautions(run))


@pytest.mark.parametrize("seed", range(3))
def test_a_long_curve_is_thinned_and_keeps_its_extremes(seed: int) -> None:
    values = np.random.default_rng(seed).standard_cauchy(5_000)
    x, y = thin(np.arange(5_000.0), values)
    assert len(x) <= 610
    assert (np.diff(x) > 0).all()
    assert (y == values[x.astype(int)]).all()
    assert (y.min(), y.max(), x[0], x[-1]) == (values.min(), values.max(), 0, 4_999)


def test_the_heat_map_shows_what_was_logged(folder: Path) -> None:
    run = read_run(folder)
    found = history(run)
    assert found is not None
    space, steps, shown = found
    assert space == CellSpace()
    assert steps.tolist() == [4, 9, 14, 19]
    rng = np.random.default_rng(0)
    expected = [[rng.dirichlet(np.ones(5)) for _ in space.edges] for _ in range(EPOCHS)]
    np.testing.assert_allclose(shown, np.moveaxis(np.array(expected), 0, -1), rtol=1e-6)
    del run.curves["edge_0_to_2/none"]
    checked(page(run))
    assert any("probabilities over time are not drawn" in sentence for sentence in run.missing)


def test_edges_where_the_cell_is_not_the_likeliest_are_counted(folder: Path) -> None:
    run = read_run(folder)
    last = [[run.curves[f"edge_{s}_to_{t}/{op}"].values[-1] for op in CellSpace().ops] for t, s in CellSpace().edges]
    likeliest = [max(zip(row, CellSpace().ops, strict=True))[1] for row in last]
    run.cell = Genotype(tuple(likeliest))
    assert departures(run) == (0, 6)
    assert "likeliest at the end" not in checked(page(run)).words
    for count, edge in enumerate((0, 3, 5), start=1):
        likeliest[edge] = next(op for op in CellSpace().ops if op != likeliest[edge])
        run.cell = Genotype(tuple(likeliest))
        assert departures(run) == (count, 6)
        assert f"On {count} of 6 edges the cell has another operation" in checked(page(run)).words
    run.cell = Genotype(("nor_conv_5x5",) * 6)
    assert departures(run) is None
    checked(page(run))


def test_what_rank_leaves_is_no_part_of_the_run(folder: Path, tmp_path: Path) -> None:
    before = read_run(folder)
    ranked = tmp_path / "ranked"
    shutil.copytree(folder, ranked)
    with SummaryWriter(str(ranked), filename_suffix=".rank") as writer:  # now, twenty years after the run
        writer.add_scalar("rank/tau/shared_accuracy", 0.7, EPOCHS)
        writer.add_scalar("val/derived_accuracy", 0.1, 10 * EPOCHS * BATCHES)
    run = read_run(ranked)
    assert (run.span, run.seconds, run.starts) == (before.span, before.seconds, before.starts)
    assert run.curves.keys() == before.curves.keys()
    assert run.curves["val/derived_accuracy"].values == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert "rank/" not in checked(page(run)).words
    with SummaryWriter(str(ranked), filename_suffix=".other") as writer:
        writer.add_scalar("rank/tau/shared_accuracy", 0.7, EPOCHS)
    assert read_run(ranked).curves.keys() == before.curves.keys()
    with SummaryWriter(str(tmp_path / "alone"), filename_suffix=".rank") as writer:
        writer.add_scalar("rank/tau/shared_accuracy", 0.7, EPOCHS)
    with pytest.raises(SupernetError, match="events are missing"):
        find_run(tmp_path / "alone")


def test_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    log_epochs(tmp_path, range(3))
    log_epochs(tmp_path, range(2, EPOCHS), 0.05, purge_step=2 * BATCHES)  # back to the checkpoint of epoch 2
    run = read_run(tmp_path)
    assert run.curves["val/derived_accuracy"].values == pytest.approx([0.5, 0.6, 0.75, 0.85])
    assert run.epochs_done == EPOCHS
    assert run.seconds == (100 + 10) + (100 + 10)
    assert "2 sessions" in checked(page(run)).words


def test_nothing_from_outside_becomes_markup(tmp_path: Path) -> None:
    config: Any = json.loads(json.dumps(CONFIG))
    config["model"]["search"]["class_path"] = config["data"]["name"] = HOSTILE
    config["trainer"][f"limit_{HOSTILE}_batches"] = HOSTILE
    folder = make_run(tmp_path / HOSTILE.replace("/", ""), Genotype((HOSTILE.split()[0],) * 6), config)
    record = {**RECORD, "versions": {HOSTILE: HOSTILE}, "source": HOSTILE, "metrics": {HOSTILE: HOSTILE}}
    Genotype((HOSTILE,) * 6).save(folder / "genotype.json", record)
    (folder / "result.json").write_text(
        json.dumps({"genotype": HOSTILE, "data": HOSTILE, "hyperparameters": {"channels": HOSTILE}})
    )
    (folder / "rank").mkdir()
    row = {"score": HOSTILE, HOSTILE: HOSTILE, "tau": 1e400}
    (folder / "rank" / "rank.json").write_text(json.dumps({"meaning": HOSTILE, "picture": HOSTILE, "rows": [row]}))
    with SummaryWriter(str(folder)) as writer:
        writer.add_scalar(f"arch/{HOSTILE}", 1.0, 3)
        writer.add_scalar(f"edge_0_to_1/{HOSTILE}", 1.0, 3)
    for run in (read_run(folder), Run(folder, missing=[HOSTILE])):
        read = checked(page(run))
        assert not read.tags["img"]
        assert "alert(2)" in read.words
    lonely = Run(tmp_path)
    lonely.curves = {"edge_0_to_1/" + HOSTILE: read_run(folder).curves["epoch"]}
    assert checked(page(lonely)).tags["svg"] == 1  # a heat map whose only row has this name


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"a: *b", b"x" * 2**21])
def test_damaged_files_are_named_and_the_rest_is_read(folder: Path, tmp_path: Path, content: bytes) -> None:
    whole = read_run(folder)
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "rank").mkdir()
    for name in ("genotype.json", "result.json", "rank/rank.json", "rank/rank.png", "config.yaml"):
        (tmp_path / "broken" / name).write_bytes(content)
        run = read_run(tmp_path / "broken")
        assert run.curves.keys() == whole.curves.keys()
        assert (run.config == whole.config) == (name != "config.yaml")
    assert (run.cell, run.result, run.rank_picture) == (None, {}, b"")
    assert len(run.missing) >= 2


def test_a_page_of_damaged_files_says_so(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    for name in ("genotype.json", "result.json", "config.yaml"):
        (tmp_path / "broken" / name).write_bytes(b"{")
    read = checked(page(read_run(tmp_path / "broken")))
    for sentence in ("The cell cannot be read", "result.json cannot be read", "The configuration cannot be read"):
        assert sentence in read.words
    assert "Accuracy on validation images 80 %" in read.words
    assert "The cell" not in read.headings


@pytest.mark.parametrize("damage", ["cut", "garbage", "flipped"])
def test_damaged_events_cost_only_what_was_in_them(folder: Path, tmp_path: Path, damage: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (file,) = broken.glob("events*")
    whole = file.read_bytes()
    half = len(whole) // 2
    middle = bytes(byte ^ 255 for byte in whole[half : half + 8])
    parts = {"cut": whole[:half], "garbage": b"\0garbage" * 50, "flipped": whole[:half] + middle + whole[half + 8 :]}
    file.write_bytes(parts[damage])
    assert "The cell" in checked(page(read_run(broken))).headings


def test_a_folder_without_a_run_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit) as stop, pytest.warns(RuntimeWarning, match="found in sys.modules"):
        runpy.run_module("supernet.report", run_name="__main__", alter_sys=False)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path} holds no run")
    assert said.count("\n") == 1


def refused(path: Path) -> str:
    with pytest.raises(SupernetError) as error:
        find_run(path)
    return str(error.value)


def test_what_is_no_run_is_said_to_be_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    assert f"{tmp_path}/README.md is a file" in refused(tmp_path / "README.md")
    assert refused(tmp_path / "nothing").startswith(f"there is no {tmp_path}/nothing")
    (tmp_path / "left" / "checkpoints").mkdir(parents=True)
    (tmp_path / "left" / "checkpoints" / "last.ckpt").touch()
    for path in (tmp_path / "left", tmp_path / "left" / "checkpoints" / "last.ckpt"):
        said = refused(path)
        assert said.startswith(f"{tmp_path}/left holds a checkpoint only: config.yaml, genotype.json, result.json")


@pytest.mark.parametrize("number", [1, 5, 7])
def test_runs_that_lie_deeper_are_listed(tmp_path: Path, number: int) -> None:
    for name in "abcdefg"[:number]:
        for version in (2, 10):
            (tmp_path / name / f"version_{version}").mkdir(parents=True)
            (tmp_path / name / f"version_{version}" / "config.yaml").touch()
    (tmp_path / "empty").mkdir()
    said = refused(tmp_path)
    assert said.count("version_10") == min(number, 5)
    assert "version_2" not in said
    assert ("and 2 more" in said) == (number == 7)
    assert f"{tmp_path}/a/version_10" in said


def test_a_run_is_found_by_its_checkpoint_and_the_newest_by_its_parent(tmp_path: Path) -> None:
    for number in (2, 10):
        (tmp_path / f"version_{number}" / "checkpoints").mkdir(parents=True)
        (tmp_path / f"version_{number}" / "config.yaml").touch()
    checkpoint = tmp_path / "version_2" / "checkpoints" / "last.ckpt"
    checkpoint.touch()
    assert find_run(tmp_path) == tmp_path / "version_10"
    for path in (checkpoint, checkpoint.parent, tmp_path / "version_2", tmp_path / "version_2" / "config.yaml"):
        assert find_run(path) == tmp_path / "version_2"


def test_the_standing_is_what_counting_finds(table: TabularBenchmark) -> None:
    cell = Genotype.from_index(1234)
    found = standing(table, COLUMN, cell)
    values = table.values(COLUMN)
    known = values[~np.isnan(values)]
    assert found.num_known == NUM_CELLS - 2 == len(known)
    assert found.place.rank == 1 + sum(known > values[1234])
    assert found.share_below == sum(known < values[1234]) / len(known)
    assert values[found.best.index or 0] == known.max()
    assert found.macs[1234] == cost(cell).macs / 1e6
    assert [each.place.accuracy for each in found.neighbours] == sorted(
        (value for other in CellSpace().neighbours(cell) if (value := values[other.index or 0]) == value), reverse=True
    )
    for each in found.neighbours:
        other = Genotype(tuple({**cell.edges, each.edge: each.new}.values()))
        assert (each.old, table.place(other, COLUMN)) == (cell.edges[each.edge], each.place)
    rng = np.random.default_rng(0)
    drawn = rng.choice(known, (4_000, 100)).max(axis=1)
    assert found.random_best == pytest.approx(drawn.mean(), abs=5 * drawn.std() / 4_000**0.5)


def test_the_place_of_the_cell_is_told_and_marked(folder: Path, table: TabularBenchmark) -> None:
    placed = standing(table, COLUMN, Genotype.from_index(6111))
    text = page(read_run(folder), placed)
    read = checked(text)
    assert f"tabulated accuracy CIFAR-10 test, rank {placed.place.rank:,} of 15,623" in read.words
    assert "expected best of 100 random cells" in read.words
    assert read.words.count("node 3 the output") == 1
    assert f"{placed.place.regret:.2f} points below the best one" in read.words
    better = [each for each in placed.neighbours if each.place.accuracy > placed.place.accuracy]
    assert f"{len(better)} of its 24 neighbours" in read.words
    for each in better[:8]:
        assert f"{each.edge[0]}<-{each.edge[1]} {each.old} → {each.new}" in read.words
    assert re.search(rf"Pareto front, {len(placed.front)} cells?\b", read.words)
    pictures = [value for tag, name, value in read.attributes if tag == "image" and name.endswith("href")]
    assert pictures  # all the cells are one raster, and no points of the page
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).verify()
    assert len(text) < 500_000


def test_of_few_known_cells_as_many_are_drawn(folder: Path) -> None:
    values = np.full(NUM_CELLS, np.nan)
    values[:40] = 90 + np.arange(40) / 10
    column = Column.searched("cifar100")
    placed = standing(TabularBenchmark({str(column): values}, "a table.csv"), column, Genotype.from_index(7))
    assert placed.random_best == pytest.approx(values[:40].max())  # all that there are, without repetition
    read = checked(page(read_run(folder), placed))
    assert "expected best of 40 random cells" in read.words
    assert "100 random cells" not in read.words
    assert "CIFAR-100 validation, rank 33 of 40" in read.words


@pytest.mark.parametrize(("asked", "said"), [(1, "1 epoch ·"), (3, "1 of 3 epochs ·")])
def test_one_epoch_is_one(tmp_path: Path, asked: int, said: str) -> None:
    log_epochs(tmp_path, range(1))
    run = read_run(tmp_path)
    run.config = {"trainer": {"max_epochs": asked}}
    words = checked(page(run)).words
    assert said in words
    assert "1 epochs" not in words


@pytest.mark.skipif(not TABLE.is_file(), reason="the table of NAS-Bench-201 is not here")
def test_the_published_table_has_its_known_best_and_floor() -> None:
    placed = standing(open_table(TABLE), COLUMN, Genotype.from_index(6111))
    assert placed.place.rank == 1
    assert placed.random_best == pytest.approx(93.84, abs=0.01)
    assert placed.best.index in placed.front


def test_a_final_training_shows_its_test_accuracy(tmp_path: Path) -> None:
    cell = Genotype.from_index(6111)
    config: Any = {**CONFIG, "model": {"genotype": str(cell)}}
    folder = make_run(tmp_path, cell, config)
    assert any("left no result" in sentence for sentence in cautions(read_run(folder)))
    result = {"genotype": str(cell), "data": "cifar10", "test_accuracy": 0.9376, "epochs": EPOCHS, "seconds": 3_700.0}
    (folder / "result.json").write_text(json.dumps({**result, "seed": 5, "hyperparameters": {"channels": 16}}))
    read = checked(page(read_run(folder)))
    assert "Final training on cifar10" in read.words
    for fact in ("93.76 % test accuracy", "1 h 1 min", "seed 5", "cell found by DARTS"):
        assert fact in read.words
    assert f"--genotype {folder}/genotype.json --model.genotype=" in read.words
    assert cautions(read_run(folder)) == []


def test_what_speaks_against_a_run_is_said(tmp_path: Path) -> None:
    run = Run(tmp_path, config={"trainer": {"max_epochs": 30, "limit_train_batches": 2}}, record={"epoch": 11})
    run.cell = Genotype(("skip_connect",) * 4 + ("none", "none"))
    said = "\n".join(cautions(run))
    for part in ("12 of 30 epochs", "trainer.limit_train_batches is 2", "4 of 6 edges are skip"):
        assert part in said
    run.cell = Genotype(("none",) * 6)
    assert "does not reach" in "\n".join(cautions(run))


@pytest.mark.parametrize("agrees", [True, False])
def test_a_supernet_that_ranks_below_counting_is_said(tmp_path: Path, table: TabularBenchmark, agrees: bool) -> None:
    cells = [Genotype.from_index(index) for index in range(10, NUM_CELLS, 300)]
    truth = table.values(COLUMN)
    shared = {cell: (1 if agrees else -1) * truth[cell.index or 0] for cell in cells}
    rows = figures(compare(cells, table, COLUMN, shared))
    (tmp_path / "rank").mkdir()
    (tmp_path / "rank" / "rank.json").write_text(json.dumps({"meaning": COLUMN.meaning, "rows": rows}))
    read = checked(page(read_run(tmp_path)))
    assert ("ranks cells worse" in read.words) == (not agrees)
    assert f"their {EFFECTIVE} does" in read.words or agrees
    assert "Does the supernet rank cells?" in read.headings
    for row in rows:
        assert f"{row['score']} {row['tau']:.4g}".replace("-", "\N{MINUS SIGN}") in read.words


def test_the_bar_is_what_can_reach_the_output(tmp_path: Path) -> None:
    rows = [{"score": SHARED, "tau": 0.6}, {"score": "parameter count", "tau": 0.5}, {"score": EFFECTIVE, "tau": 0.65}]
    (said,) = cautions(Run(tmp_path, rank={"rows": rows}))
    assert "0.600" in said
    assert "0.650" in said
    assert cautions(Run(tmp_path, rank={"rows": rows[:2]})) == []


@pytest.mark.parametrize("named", ["rank.png", None, "../rank.png", ["rank.png"]])
def test_the_picture_of_ranks_is_shown_if_they_say_that_there_is_one(tmp_path: Path, named: Any) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (3, 2)).save(picture, "png")
    (tmp_path / "rank").mkdir()
    for path in (tmp_path, tmp_path / "rank"):
        (path / "rank.png").write_bytes(picture.getvalue())
    told = {"best": [{"cell": "a"}]} | ({} if named is None else {"picture": named})
    (tmp_path / "rank" / "rank.json").write_text(json.dumps(told))
    read = checked(page(read_run(tmp_path)))
    sources = [value for tag, name, value in read.attributes if (tag, name) == ("img", "src")]
    assert len(sources) == (named == "rank.png")
    for source in sources:
        assert base64.b64decode(source.partition(",")[2]) == picture.getvalue()
    assert "Does the supernet rank cells?" in read.headings or not sources


@pytest.mark.parametrize("layout", [
    5, "text", None, {}, {"a": {"b": 1}}, [1, 2], {"rows": "none"}, {"rows": [[1]]},
    {"rows": [{"score": [], "tau": 1}]},
    [{"score": SHARED, "tau": 0.1}], {"rows": [{"score": SHARED, "tau": "high"}]},
    {"other": [{"score": "a", "tau": 1}]},
])  # fmt: skip
def test_ranks_of_another_layout_are_left_out(tmp_path: Path, layout: Any) -> None:
    assert "Does the supernet rank cells?" not in checked(page(Run(tmp_path, rank=layout))).headings


@pytest.mark.parametrize("odd", [3, "text", [], [1], {"max_epochs": "many", "class_path": 5, "genotype": {}}, 10**400])
def test_a_configuration_of_any_layout_is_tolerated(tmp_path: Path, odd: Any) -> None:
    config = {"model": odd, "data": odd, "trainer": odd, "seed_everything": odd}
    record = dict.fromkeys(("strategy", "epoch", "num_epochs", "network", "metrics", "versions", "source"), odd)
    result = dict.fromkeys(("test_accuracy", "epochs", "seconds", "hyperparameters", "versions"), odd)
    for told in ({}, result):
        checked(page(Run(tmp_path, config, "text", None, record, told)))


def test_a_real_search_has_a_page(tmp_path: Path, table: TabularBenchmark, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"default_root_dir": tmp_path, "max_epochs": 2, "limit_train_batches": 3, "enable_progress_bar": "false"}
    args = ["--model.channels=2", "--model.num_cells=1", "--data.name=digits", "--trainer.log_every_n_steps=1"]
    assert search([*args, *(f"--trainer.{name}={value}" for name, value in options.items())]) == 0
    capsys.readouterr()
    csv = tmp_path / "table.csv"
    rows = (f"{Genotype.from_index(index)},{90 + index / NUM_CELLS}" for index in range(NUM_CELLS))
    csv.write_text("\n".join([f"arch,{COLUMN}", *rows]))
    main([str(tmp_path / "gdas_digits"), "--table", str(csv)])
    path = tmp_path / "gdas_digits" / "version_0" / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    read = checked(path.read_text())
    cell = Genotype.load(path.with_name("genotype.json"))
    assert cell.index is not None
    assert f"rank {NUM_CELLS - cell.index:,} of 15,625" in read.words
    assert "GDAS on digits 2 epochs" in read.words
    assert "Only a part of the data was used: trainer.limit_train_batches is 3." in read.words
    main([str(path.parent), "--out", str(tmp_path / "other.html")])
    assert "--table" in checked((tmp_path / "other.html").read_text()).words
    with pytest.raises(SupernetError, match="pass --table"):
        main([str(path.parent), "--column", str(COLUMN)])
