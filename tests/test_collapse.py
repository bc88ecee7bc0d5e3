"""The guard against collapse: a planted loss drives a real, small search to skip connections."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import Tensor

import supernet.collapse
from supernet.callbacks import GenotypeExport, SearchPictures
from supernet.collapse import CollapseGuard, growth
from supernet.data import SearchData
from supernet.discrete import Score
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.keep import LastCheckpoint
from supernet.module import SearchModule
from supernet.space import CellSpace
from supernet.strategies import DARTS, Batch, Loss, RandomSearch
from tests.test_resume import differences

SKIP = 1


class ToSkips(DARTS):
    """A loss that gains by nothing but skip connections, on one edge more in each epoch."""

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        self.epoch = epoch

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        loss(self(), val)
        return -self()[: self.epoch + 1, SKIP].sum()


class Watched(SearchModule):
    """Remembers the logits at the end of each epoch, and stops where it is told to."""

    stop_at: tuple[int, int] | None = None

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        if self.stop_at == (self.current_epoch, batch_idx):
            raise KeyError

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.logits = [*getattr(self, "logits", []), self.search.get_parameter("logits").detach().clone()]
        kernel = self.supernet.get_parameter("stem.0.weight").detach().clone()
        self.kernels = [*getattr(self, "kernels", []), kernel]


def run(
    folder: Path,
    search: DARTS | None = None,
    stop_at: tuple[int, int] | None = None,
    epochs: int = 5,
    **options: Any,
) -> Watched:
    seed_everything(1)
    search = search or ToSkips()
    module = Watched(
        search, 2, 1, image_shape=(1, 8, 8), arch_lr=1.0, score_images=64, arch_weight_decay=0.0, **options
    )
    with torch.no_grad():  # no edge begins with a skip connection
        search.logits[:, 3] += 0.1
    module.stop_at = stop_at
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    keeper = LastCheckpoint(0.0)
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", limit_train_batches=2, limit_val_batches=1, log_every_n_steps=1,
        logger=TensorBoardLogger(folder, name="", version="", default_hp_metric=False), default_root_dir=folder,
        callbacks=[GenotypeExport(), SearchPictures(0, 0), keeper], **quiet,  # type: ignore[arg-type]
    )  # fmt: skip
    kept = folder / "checkpoints" / "last.ckpt"
    data = SearchData(batch_size=64)
    trainer.fit(module, datamodule=data, ckpt_path=kept if kept.is_file() else None, weights_only=True)
    return module


def curve(folder: Path, name: str) -> list[float]:
    events = EventAccumulator(str(folder)).Reload()
    return list({event.step: event.value for event in events.Scalars(name)}.values())


def skips(module: SearchModule) -> int:
    assert module.genotype is not None
    return module.genotype.ops.count("skip_connect")


def written(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "genotype.json").read_text())["provenance"]
    return found


def saved(folder: Path) -> dict[str, Any]:
    kept: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return kept


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernet.callbacks.is_shown", lambda *_: False)


def test_a_collapse_is_visible_and_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = run(tmp_path)
    assert skips(module) == 5
    seen = curve(tmp_path, "derived/num_skips")
    assert seen == [1, 2, 3, 4, 5]
    told = [line for line in capsys.readouterr().out.splitlines() if "collapsed" in line]
    assert told == [
        "the search has collapsed in epoch 4: the derived cell has 4 skip connections;"
        " pass --model.collapse rewind to keep to the last healthy epoch"
    ]


def test_rewind_puts_the_architecture_back_and_trains_the_network_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = run(tmp_path, collapse="rewind")
    assert "in epoch 4: the derived cell has 4 skip connections; the architecture stays as it was in epoch 3" in (
        capsys.readouterr().out
    )
    for later in module.logits[3:]:
        assert later.equal(module.logits[2])
    assert not module.logits[1].equal(module.logits[2])
    assert all(not one.equal(other) for one, other in zip(module.kernels, module.kernels[1:], strict=False))
    assert curve(tmp_path, "derived/num_skips") == [1, 2, 3, 4, 3]
    assert skips(module) == 3
    assert Genotype.load(tmp_path / "genotype.json") == module.genotype
    kept = written(tmp_path)
    accuracies = curve(tmp_path, "val/derived_accuracy")
    assert len(accuracies) == 5
    assert kept["epoch"] == 2
    assert kept["metrics"]["val/derived_accuracy"] == pytest.approx(accuracies[-1])
    assert curve(tmp_path, "final/derived_accuracy") == pytest.approx(accuracies[-1:])


class Drifts(ToSkips):
    """Derives more skip connections each time, whatever its logits are."""

    times = 0

    def derive(self, score: Score) -> Genotype:
        self.times += 1
        return Genotype(tuple("skip_connect" if edge < self.times else "nor_conv_3x3" for edge in range(6)))


def test_no_cell_is_derived_after_a_rewind(tmp_path: Path) -> None:
    module = run(tmp_path, Drifts(), collapse="rewind", max_skips=1)
    assert skips(module) == 1
    assert Genotype.load(tmp_path / "genotype.json") == module.genotype
    assert curve(tmp_path, "derived/num_skips") == [1, 2, 1, 1, 1]
    assert len(curve(tmp_path, "val/derived_accuracy")) == 5
    assert saved(tmp_path)["supernet"]["epoch"] == 0


def test_what_learns_nothing_is_not_guarded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed_everything(1)
    for action in ("stop", "rewind"):
        with pytest.raises(SupernetError, match=r"RandomSearch learns nothing: leave --model\.collapse out"):
            SearchModule(RandomSearch(), 2, 1, collapse=action)
    module = SearchModule(RandomSearch(num_samples=1), 2, 1, image_shape=(1, 8, 8), max_skips=0)
    module.guard.is_well, module.guard._derived_in = True, 0
    module.genotype = Genotype(("skip_connect",) * 6)
    module.guard.on_train_epoch_end(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), module)
    assert capsys.readouterr().out.count("collapsed") == 0


@pytest.mark.parametrize("max_skips", [1, 3])
def test_stop_ends_at_once_with_the_cell_of_the_last_healthy_epoch(tmp_path: Path, max_skips: int) -> None:
    module = run(tmp_path, collapse="stop", max_skips=max_skips)
    assert len(module.logits) == max_skips + 1
    assert module.logits[-1].equal(module.logits[max_skips - 1])
    assert skips(module) == max_skips
    assert Genotype.load(tmp_path / "genotype.json") == module.genotype
    kept = saved(tmp_path)
    assert (kept["supernet"]["genotype"], kept["supernet"]["epoch"]) == (str(module.genotype), max_skips - 1)
    assert kept["ended"] is True
    accuracies = curve(tmp_path, "val/derived_accuracy")
    assert kept["supernet"]["metrics"]["val/derived_accuracy"] == pytest.approx(accuracies[max_skips - 1])
    assert kept["state_dict"]["search.logits"].equal(module.logits[-1])
    # TensorBoard ends with that cell too, and its table has what it had then.
    assert curve(tmp_path, "derived/num_skips") == [*range(1, max_skips + 1), max_skips]
    assert curve(tmp_path, "final/derived_accuracy") == pytest.approx([accuracies[max_skips - 1]])
    assert written(tmp_path)["metrics"] == kept["supernet"]["metrics"]


def test_a_collapse_in_the_last_epoch_leaves_the_healthy_cell_too(tmp_path: Path) -> None:
    module = run(tmp_path, collapse="rewind", epochs=4)
    assert skips(module) == 3
    assert curve(tmp_path, "derived/num_skips") == [1, 2, 3, 3]
    assert Genotype.load(tmp_path / "genotype.json") == module.genotype


def test_what_was_never_healthy_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = run(tmp_path, collapse="stop", max_skips=0, epochs=2)
    assert len(module.logits) == 2
    told = [line for line in capsys.readouterr().out.splitlines() if "collapsed" in line]
    assert told == []


def test_one_skip_connection_is_told_in_the_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = run(tmp_path, epochs=1)
    module.guard.is_well = True
    module.guard.max_skips = 0
    module.guard._derived_in = module.current_epoch
    module.guard.on_train_epoch_end(module.trainer, module)
    assert "the derived cell has 1 skip connection;" in capsys.readouterr().out


@pytest.mark.parametrize("stop_at", [(3, 1), (4, 1)], ids=["before it collapses", "after it was rewound"])
def test_a_guarded_search_goes_on_bit_by_bit(tmp_path: Path, stop_at: tuple[int, int]) -> None:
    whole = run(tmp_path / "whole", collapse="rewind")
    with pytest.raises(KeyError):
        run(tmp_path / "broken", stop_at=stop_at, collapse="rewind")
    resumed = run(tmp_path / "broken", collapse="rewind")
    one, other = saved(tmp_path / "whole"), saved(tmp_path / "broken")
    for part in ("state_dict", "callbacks", "supernet"):
        assert differences(one[part], other[part]) == []
    assert whole.genotype == resumed.genotype
    guard = next(state for name, state in one["callbacks"].items() if "CollapseGuard" in name)
    assert guard["is_over"] is True


def test_what_a_checkpoint_would_go_back_to_has_to_fit_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        run(tmp_path, stop_at=(2, 1), collapse="rewind")
    path = tmp_path / "checkpoints" / "last.ckpt"
    kept = saved(tmp_path)
    (name,) = [name for name in kept["callbacks"] if "CollapseGuard" in name]
    kept["callbacks"][name]["healthy"][0]["search"]["logits"] = torch.zeros(2, 2)
    torch.save(kept, path)
    with pytest.raises(RuntimeError, match="size mismatch for logits"):
        run(tmp_path, collapse="rewind")


def test_growing_curvature_goes_back_five_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Means over three epochs: 2, 2, 2, ... until 3.33 in the epoch numbered 8, which is 1.67 times that of epoch 3.
    values = iter([2.0] * 8 + [6.0] * 5)
    monkeypatch.setattr(supernet.collapse, "dominant_eigenvalue", lambda *_: next(values))
    options: dict[str, Any] = {"max_skips": 6, "max_eigenvalue_growth": 4 / 3}
    module = run(tmp_path, collapse="stop", epochs=12, **options)
    assert len(module.logits) == 9
    assert module.logits[-1].equal(module.logits[3])
    assert curve(tmp_path, "arch/eigenvalue") == [2.0] * 8 + [6.0]
    assert "has grown to 1.67 times that of 5 epochs ago; it ends with the cell of epoch 4" in capsys.readouterr().out


def test_growth_is_that_of_means_of_three() -> None:
    values = [(epoch, float(value)) for epoch, value in enumerate([1, 2, 3, 9, 9, -4, 5, 6])]
    assert growth(values) == pytest.approx((4 + 5 + 6) / (1 + 2 + 3))
    assert growth(values[:7]) is None
    assert growth([]) is None
    assert growth([(epoch, 0.0) for epoch in range(9)]) is None
    assert math.isnan(growth([*values[:7], (7, math.nan)]) or 0.0)
    sparse = [(epoch, float(epoch + 1)) for epoch in range(1, 20, 2)]  # 10 12 14 [by 13], 16 18 20
    assert growth(sparse) == pytest.approx((16 + 18 + 20) / (10 + 12 + 14))


def test_the_real_eigenvalue_is_logged_as_often_as_asked_and_changes_no_bit_of_the_search(tmp_path: Path) -> None:
    plain, watched = (run(tmp_path / str(every), eigenvalue_every=every, epochs=3) for every in (0, 2))
    for one, other in zip(plain.logits + plain.kernels, watched.logits + watched.kernels, strict=True):
        assert one.equal(other)
    (found,) = curve(tmp_path / "2", "arch/eigenvalue")
    assert math.isfinite(found)
    assert found != 0


def test_options_that_make_no_sense_are_refused() -> None:
    search, uniform = DARTS(), RandomSearch()
    for each in (search, uniform):
        each.bind(CellSpace(), 0)
    for options, sentence in (
        ({"max_skips": -1}, "max_skips must be at least 0, got -1"),
        ({"eigenvalue_every": -1}, "eigenvalue_every must be at least 0, got -1"),
        ({"max_growth": 1.5, "eigenvalue_every": 2}, "watched in every epoch, and eigenvalue_every is 2"),
        ({"max_growth": 0.75}, "max_eigenvalue_growth must be above 1, got 0.75"),
    ):
        with pytest.raises(SupernetError, match=sentence):
            CollapseGuard(search, **options)
    with pytest.raises(SupernetError, match="such as DARTS, and that of RandomSearch is none; leave"):
        CollapseGuard(uniform, eigenvalue_every=1)
    for every in (0, 1):
        assert CollapseGuard(search, max_growth=1.5, eigenvalue_every=every).every == 1
    assert CollapseGuard(search).every == 0


def test_the_configuration_of_darts_watches_for_what_it_is_known_for() -> None:
    text = (Path(__file__).parents[1] / "configs" / "darts.yaml").read_text()
    assert yaml.safe_load(text)["model"]["eigenvalue_every"] == 1
    assert "collapse: rewind" in text
