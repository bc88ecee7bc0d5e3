"""A table beside a search and a final training: shown to people, and never to what is searched or trained."""

from __future__ import annotations

import gc
import json
import re
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from supernet.benchmark import NUM_CELLS, Column, TabularBenchmark
from supernet.benchmark.tabulated import Tabulated, choose_column
from supernet.callbacks import GenotypeExport, SearchPictures, TabulatedAccuracy
from supernet.cli import derive, search
from supernet.cli.protocol import PUBLISHED, differences
from supernet.data import SearchData
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.keep import LastCheckpoint
from supernet.module import SearchModule
from supernet.retrain import RetrainModule
from supernet.space import CellSpace
from supernet.strategies import DARTS, ENAS, GDAS, SPOS, RandomSearch, SearchStrategy
from tests.processes import KILL, Fault
from tests.processes import run as run_apart
from tests.test_cli import NETWORK, QUICK_START, TINY, Result, nothing_was_trained, run, sentence
from tests.test_resume import curves, last
from tests.test_resume import differences as different_bits

REPORTED, SHORT = Column.reported("cifar10"), Column.reported("cifar10", 12)
# The official index tells rank and regret: in the long column the last cell is the best, in the short one the first.
VALUES = 10 + np.arange(NUM_CELLS) / 250
TABLE = TabularBenchmark({str(REPORTED): VALUES, str(SHORT): VALUES[::-1].copy()}, "the table of the tests")
PLAIN, SKIPS = Genotype(("nor_conv_3x3",) * 6), Genotype(("skip_connect",) * 6)


def expected(cell: Genotype) -> tuple[float, float, float]:
    """Accuracy, rank and regret by the index alone."""
    assert cell.index is not None
    return 10 + cell.index / 250, NUM_CELLS - cell.index, (NUM_CELLS - 1 - cell.index) / 250


def test_the_column_is_what_papers_report_unless_named() -> None:
    assert choose_column(TABLE, None, "cifar10") == choose_column(TABLE, None, "digits") == REPORTED
    assert choose_column(TABLE, None, "cifar100") == REPORTED  # this table does not have it
    assert choose_column(TABLE, None, "cifar10", 12) == choose_column(TABLE, str(SHORT), "cifar10") == SHORT
    other = Column("cifar10", "25k", "valid", 200)
    assert choose_column(TabularBenchmark({str(other): VALUES}), None, "cifar10") == other
    for name, message in {"cifar10_25k_seconds_12": "no accuracies", "cifar10": "no accuracies"}.items():
        with pytest.raises(SupernetError, match=message):
            choose_column(TABLE, name, "cifar10")


class Looked(Callback):
    """The cell at the end of each epoch, the metrics that Lightning holds, and whether the table can be reached."""

    def __init__(self, walks: bool = False) -> None:
        self.walks = walks
        self.cells: list[Genotype] = []
        self.metrics: list[dict[str, Any]] = []
        self.is_reached = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SearchModule)
        if pl_module.genotype is not None:
            self.cells.append(pl_module.genotype)
        held: dict[str, Any] = {**trainer.callback_metrics, **trainer.logged_metrics, **trainer.progress_bar_metrics}
        self.metrics.append({name: float(value) for name, value in held.items() if name != "images_per_second"})
        if self.walks:
            self.is_reached = reaches_the_table(pl_module)


def reaches_the_table(start: object) -> bool:
    """Whether any chain of references leads to a table; not through the trainer, nor what all programs share."""
    seen, todo = {id(start)}, [start]
    while todo:
        thing = todo.pop()
        if isinstance(thing, Tabulated | TabularBenchmark):
            return True
        for other in gc.get_referents(thing):
            shared = Trainer | type | types.ModuleType | types.FunctionType | types.FrameType
            if id(other) not in seen and not isinstance(other, shared):
                seen.add(id(other))
                todo.append(other)
    return False


class Searched(NamedTuple):
    module: SearchModule
    looked: Looked
    events: EventAccumulator
    folder: Path

    def shows(self, cells: Sequence[Genotype]) -> bool:
        """Whether these cells are shown, one after the other."""
        names = ("accuracy", "rank", "regret")
        shown = zip(*([e.value for e in self.events.Scalars(f"table/{name}")] for name in names), strict=True)
        np.testing.assert_allclose([*shown], [expected(cell) for cell in cells], rtol=1e-5)
        return True

    def steps(self, name: str) -> list[int]:
        return [event.step for event in self.events.Scalars(name)]


def searched(folder: Path, strategy: SearchStrategy, with_table: bool, *more: Callback, **options: Any) -> Searched:
    """A short search of the digits."""
    seed_everything(3)
    of_module = {name: options.pop(name) for name in ("collapse", "max_skips") if name in options}
    module = SearchModule(strategy, 2, 1, image_shape=(1, 8, 8), arch_lr=0.3, score_images=64, **of_module)
    tabulated, looked = Tabulated(TABLE, REPORTED), Looked(options.pop("walks", False))
    callbacks: list[Callback] = [GenotypeExport(tabulated.record if with_table else None)]
    callbacks += [TabulatedAccuracy(TABLE, REPORTED)] if with_table else []
    logger = TensorBoardLogger(folder, name="run", version=0, default_hp_metric=False)
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
        "log_every_n_steps": 1,
        "logger": logger,
    }
    settings |= {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"num_sanity_val_steps": 1, "default_root_dir": folder, **options}
    trainer = Trainer(**settings, callbacks=[*callbacks, LastCheckpoint(), looked, *more])
    trainer.fit(module, datamodule=SearchData(batch_size=16, eval_batch_size=64))
    events = EventAccumulator(str(logger.log_dir), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    return Searched(module, looked, events, folder)


STRATEGIES: dict[str, Callable[[], SearchStrategy]] = {
    "compares the likeliest cells": lambda: GDAS(top_k=5),
    "argmax": DARTS,
    "evolution": lambda: SPOS(population=4, generations=2),
    "a controller": lambda: ENAS(arch_steps_per_epoch=3, num_samples=3),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_beside_a_table_is_the_search_without_it_bit_by_bit(tmp_path: Path, name: str) -> None:
    one, other = (searched(tmp_path / str(with_), STRATEGIES[name](), with_) for with_ in (False, True))
    checkpoints = [torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True) for run in (one, other)]
    # Parameters, logits, optimizers, all generators, the derived cell and its record.
    assert {"state_dict", "optimizer_states", "random", "supernet"} <= checkpoints[1].keys()
    assert different_bits(*checkpoints) == []
    assert one.looked.cells == other.looked.cells
    assert one.looked.metrics == other.looked.metrics
    assert not any("table" in name for metrics in other.looked.metrics for name in metrics)
    records = [json.loads((run.folder / "genotype.json").read_text()) for run in (one, other)]
    assert records[1]["provenance"].pop("tabulated")
    assert records[0] == records[1]
    shown = {*other.events.Tags()["scalars"]} - {*one.events.Tags()["scalars"]}
    assert shown == {"table/accuracy", "table/rank", "table/regret"}


def test_neither_module_nor_strategy_leads_to_the_table(tmp_path: Path) -> None:
    run = searched(tmp_path, DARTS(), True, max_epochs=1, walks=True)
    assert not run.looked.is_reached
    assert reaches_the_table(TabulatedAccuracy(TABLE, REPORTED))  # the walk finds what there is
    run.module.search.note = [{"deep": (TABLE,)}]  # type: ignore[assignment]
    assert reaches_the_table(run.module.search)


@pytest.mark.parametrize(
    ("callback", "error"),
    [
        (lambda: EarlyStopping("table/accuracy", mode="max"), RuntimeError),
        (lambda: ModelCheckpoint(monitor="table/accuracy", mode="max"), MisconfigurationException),
    ],
    ids=["early stopping", "checkpoint"],
)
def test_nothing_can_be_chosen_by_the_table(tmp_path: Path, callback: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="table/accuracy"):
        searched(tmp_path, DARTS(), True, callback(), max_epochs=1)


@pytest.mark.parametrize("every", [1, 2])
def test_each_derived_cell_is_shown_where_the_other_figures_are(tmp_path: Path, every: int) -> None:
    run = searched(tmp_path, GDAS(), True, SearchPictures(1, 1), check_val_every_n_epoch=every, max_epochs=3)
    cells = run.looked.cells if every == 1 else [run.looked.cells[0], run.looked.cells[-1]]
    assert len(cells) == (3 if every == 1 else 2)  # the last epoch is not validated then
    assert run.shows(cells)
    for name in ("table/accuracy", "table/rank", "table/regret"):
        assert run.steps(name) == run.steps("arch/entropy")
    text = run.events.Tensors("table/meaning/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "CIFAR-10, trained on all 50,000 training images for 200 epochs, tested on all 10,000 test images"


class Planned(DARTS):
    """Derives these cells in turn."""

    def __init__(self, cells: Sequence[Genotype]) -> None:
        super().__init__()
        self.planned = list(cells)

    def derive(self, score: Any) -> Genotype:
        return self.planned.pop(0) if len(self.planned) > 1 else self.planned[0]


@pytest.mark.parametrize("action", ["stop", "rewind"])
def test_a_cell_that_was_gone_back_to_is_shown_again(tmp_path: Path, action: str) -> None:
    run = searched(tmp_path, Planned([PLAIN, SKIPS]), True, max_epochs=2, collapse=action, max_skips=3)
    assert run.module.genotype == PLAIN
    assert run.shows([PLAIN, SKIPS, PLAIN])
    assert run.steps("table/accuracy") == [1, 3, 3]
    record = json.loads((run.folder / "genotype.json").read_text())
    assert record["genotype"] == str(PLAIN)
    told = record["provenance"]["tabulated"]
    assert (told["accuracy"], told["rank"], told["regret"]) == pytest.approx(expected(PLAIN))
    assert (told["column"], told["meaning"]) == (str(REPORTED), REPORTED.meaning)


def test_a_search_that_ends_before_any_validation_shows_its_cell(tmp_path: Path) -> None:
    run = searched(tmp_path, DARTS(), True, max_steps=2, check_val_every_n_epoch=2)
    assert run.module.genotype is not None
    assert run.shows([run.module.genotype])


def test_other_loggers_get_the_figures_too(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="csv")
    seed_everything(0)
    module = SearchModule(RandomSearch(num_samples=1), 2, 1, image_shape=(1, 8, 8))
    options: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 1, "log_every_n_steps": 1}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    Trainer(**options, logger=logger, callbacks=[TabulatedAccuracy(TABLE, REPORTED)]).fit(
        module, datamodule=SearchData()
    )
    assert "table/regret" in (Path(logger.log_dir) / "metrics.csv").read_text()


def test_a_cell_that_the_table_lacks_ends_no_search(tmp_path: Path) -> None:
    gaps = VALUES.copy()
    gaps[PLAIN.index] = np.nan
    tabulated = Tabulated(TabularBenchmark({str(REPORTED): gaps}, "gaps.csv"), REPORTED)
    assert tabulated.place(PLAIN) is None
    assert tabulated.record(PLAIN)["accuracy"] is None
    assert tabulated.told(PLAIN) == "not known: gaps.csv has no figure of this cell"
    assert "of 15,624" in tabulated.told(SKIPS)
    other = Genotype(("none",) * 3)
    assert tabulated.told(other) == "not known: gaps.csv has the cells of NAS-Bench-201 only"
    callback = TabulatedAccuracy(tabulated.table, REPORTED)
    seed_everything(0)
    module = SearchModule(Planned([PLAIN]), 2, 1, image_shape=(1, 8, 8))
    options: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 1, "logger": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    Trainer(**options, default_root_dir=tmp_path, callbacks=[callback]).fit(module, datamodule=SearchData())
    assert module.genotype == PLAIN


def test_a_column_that_is_no_accuracy_and_an_empty_one_are_refused() -> None:
    seconds = Column.parse("cifar10_25k_seconds_200")
    with pytest.raises(SupernetError, match=f"did you mean .* .known: {REPORTED}"):
        Tabulated(TabularBenchmark({str(seconds): VALUES, str(REPORTED): VALUES}), seconds)
    with pytest.raises(SupernetError, match="no figure in its column"):
        Tabulated(TabularBenchmark({str(REPORTED): VALUES * np.nan}), REPORTED)
    with pytest.raises(SupernetError, match="has no accuracies"):
        Tabulated(TabularBenchmark({str(seconds): VALUES}), REPORTED)


def test_another_space_is_refused_by_the_callback(tmp_path: Path) -> None:
    module = SearchModule(RandomSearch(), 2, 1, space=CellSpace(num_nodes=3), image_shape=(1, 8, 8))
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[TabulatedAccuracy(TABLE, REPORTED)],
    )  # fmt: skip
    with pytest.raises(SupernetError, match="this space has 3 nodes"):
        trainer.fit(module, datamodule=SearchData())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same table as a file."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    rows = zip(map(Genotype.from_index, range(NUM_CELLS)), VALUES, VALUES[::-1], strict=True)
    path.write_text(f"arch,{REPORTED},{SHORT}\n" + "".join(f"{cell},{a},{b}\n" for cell, a, b in rows))
    assert path.stat().st_size > 2**20  # longer than a configuration may be
    return str(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line(result: Result, label: str) -> str:
    (found,) = re.findall(rf"^{label} +(.+)$", result.out, flags=re.MULTILINE)
    assert isinstance(found, str)
    return found


def test_the_search_command_tells_what_its_cell_reaches_and_goes_on_with_a_run_without(here: Path, table: str) -> None:
    result = run(search, *TINY)
    assert (result.status, "tabulated" in result.out) == (0, False)
    Path("table.yaml").write_text(f"table: {table}\n")
    again = run(search, "--config", str(QUICK_START), *TINY, "--config", "table.yaml", "--resume")
    assert (again.status, again.err) == (0, "")
    assert "going on with logs/gdas_digits/version_0" in again.out
    cell = Genotype.load(again.path("genotype"))
    accuracy, rank, regret = expected(cell)
    assert line(again, "tabulated") == (
        f"{accuracy:.2f} % ({REPORTED.meaning}); rank {rank:,} of 15,625, {regret:.2f} below the best"
    )
    assert f"this search is on digits, and what the table tells of its cells is of {REPORTED.meaning}" in again.out
    fresh = run(search, *TINY, "--table", table, "--column", str(SHORT))
    assert Genotype.load(fresh.path("genotype")) == cell
    assert SHORT.meaning in line(fresh, "tabulated")
    told = json.loads(fresh.path("genotype").read_text())["provenance"]["tabulated"]
    assert told["rank"] == 1 + (cell.index or 0)  # the short column is the other way round


@pytest.mark.long
def test_a_run_begun_without_a_table_and_killed_goes_on_with_one_as_the_same_run(tmp_path: Path, table: str) -> None:
    small = ["--model.channels", "2", "--model.num_cells", "1", "--trainer.limit_train_batches", "4"]
    args = [*small, "--trainer.max_epochs", "3", "--model.score_images", "64"]
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    assert run_apart(tmp_path / "whole", "search", args).status == 0
    assert run_apart(tmp_path / "broken", "search", args, Fault(KILL, 6)).status == -KILL  # in the second epoch
    ended = run_apart(tmp_path / "broken", "search", [*args, "--table", table, "--resume"])
    assert (ended.status, ended.err) == (0, "")
    assert "going on with" in ended.out
    assert different_bits(last(tmp_path / "whole"), last(tmp_path / "broken")) == []
    own, others = (curves(tmp_path / folder) for folder in ("broken", "whole"))
    table_curves = {name: own.pop(name) for name in [*own] if name.startswith("table/")}
    assert own == others
    assert [step for step, _ in table_curves["table/rank"]] == [7, 11]  # those since


MISTAKES = {
    "a missing file": ("--table nowhere.csv", "cannot read the table nowhere.csv"),
    "a folder": ("--table .", "cannot read the table .: it is a folder"),
    "JSON": ("--table it.json", "it.json"),
    "half a file": ("--table half.csv.gz", "cannot read the table half.csv.gz"),
    "a misspelt column": ("--table TABLE --column cifar10_50k_tst_200", "did you mean 'cifar10_50k_test_200'"),
    "a column that is not there": (
        "--table TABLE --column cifar100_50k_test_200",
        "did you mean 'cifar10_50k_test_200'",
    ),
    "a column alone": ("--column cifar10_50k_test_200", "pass --table FILE"),
    "a misspelt option": ("--tabel TABLE", "did you mean '--table'"),
    "another number of nodes": ("--table TABLE --model.space.num_nodes 3", "this space has 3 nodes"),
    "another operation": ("--table TABLE --model.space.ops [none,nor_conv_5x5]", "4 nodes and none, nor_conv_5x5"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_before_anything_is_trained(here: Path, table: str, mistake: str) -> None:
    Path("it.json").write_text('{"genotype": 3}')
    Path("half.csv.gz").write_bytes(b"\x1f\x8b\x08\x00half")
    args, told = MISTAKES[mistake]
    words = [table if word == "TABLE" else word for word in args.split()]
    result = run(search, *TINY, *words)
    assert told in sentence(result)
    assert nothing_was_trained(result, here)
    assert not [*here.glob("logs/*/*")]
    if "space" not in args:
        assert told in sentence(run(derive, "--genotype", "6111", *TINY, *words))


def test_a_retrained_cell_stands_beside_the_table(here: Path, table: str) -> None:
    options = [*NETWORK, "--trainer.limit_train_batches", "2", "--data.batch_size", "64", "--table", table]
    result = run(derive, "--genotype", "6111", *options, "--trainer.max_epochs", "12")
    assert (result.status, result.err) == (0, "")
    record = json.loads(result.path("result").read_text())
    beside = record["tabulated"]
    assert (beside["column"], beside["accuracy"]) == (str(SHORT), 10 + (NUM_CELLS - 1 - 6111) / 250)
    assert beside["difference"] == pytest.approx(100 * record["test_accuracy"] - beside["accuracy"])
    left_out = 1438 // 64 - 2
    assert beside["protocol_differences"] == [
        "data set digits and not cifar10", "C 2 and not 16", "N 1 and not 5", "batch size 64 and not 256",
        f"training batches left out {left_out} and not 0",
    ]  # fmt: skip
    side = "below" if beside["difference"] < 0 else "above"
    told = f"It is {abs(beside['difference']):.2f} points {side} the tabulated {beside['accuracy']:.2f} %."
    assert f"{told} The protocols differ: data set digits and not cifar10; C 2" in result.out
    assert json.loads(result.path("genotype").read_text())["provenance"]["tabulated"]["rank"] == 6112


def test_without_retraining_and_for_other_cells_the_table_is_told_or_a_note(here: Path, table: str) -> None:
    plain = run(derive, "--genotype", "15624", "--no_retrain", *NETWORK, "--table", table, "--trainer.max_epochs", "3")
    assert plain.status == 0
    best = f"{10 + 15_624 / 250:.2f} %"
    assert line(plain, "tabulated") == f"{best} ({REPORTED.meaning}); rank 1 of 15,625, the best"
    assert "The protocol" not in plain.out
    other = run(derive, "--genotype", "|nor_conv_5x5~0|", *TINY, "--table", table)
    assert (other.status, other.err) == (0, "")
    assert line(other, "tabulated") == f"not known: {table} has the cells of NAS-Bench-201 only"
    beside = json.loads(other.path("result").read_text())["tabulated"]
    assert (beside["accuracy"], beside["difference"]) == (None, None)


def test_the_recipe_of_this_package_is_the_published_one_and_every_departure_is_named() -> None:
    hparams: dict[str, Any] = dict(RetrainModule("|none~0|").hparams)
    names = {"C": "channels", "N": "num_cells", "learning rate": "lr", "momentum": "momentum"}
    assert {name: PUBLISHED[name] for name in names} == {name: hparams[names[name]] for name in names}
    assert PUBLISHED["weight decay"] == hparams["weight_decay"]
    same = {**PUBLISHED, "data set": "cifar10", "epochs": 200}
    assert differences(same, REPORTED) == []
    for name in same:
        (told,) = differences({**same, name: "another"}, REPORTED)
        assert told.startswith(f"{name} another and not ")
    assert len(differences(same, Column.searched("cifar10"))) == 2  # trained on half, and not tested
    assert len(differences({**same, "data set": "cifar100"}, Column.reported("cifar100"))) == 1  # half of the test set
