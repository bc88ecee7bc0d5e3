"""Statistics of one cell: against sums by hand, against the library, and through a whole search."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule, seed_everything
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from supernet.data import SearchData
from supernet.discrete import random_cells
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.module import SearchModule
from supernet.network import Network, Supernet
from supernet.norm import BatchNorm2d
from supernet.ranks import rank
from supernet.recalibration import Ablation, recalibrated, uncalibrated
from supernet.space import CellSpace
from supernet.strategies import SPOS, RandomSearch
from tests.test_module import make_trainer
from tests.test_parallel import search as search_on_ranks
from tests.together import together

CELL = Genotype.from_index(6111)


@pytest.fixture(autouse=True)
def few_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ablation, "NUM_PATHS", 6)


def setting(num_batches: int = 3) -> tuple[Supernet, list[Tensor]]:
    torch.manual_seed(0)
    supernet = Supernet(channels=3, num_cells=1, num_classes=4, image_channels=1).double()
    return supernet, [torch.randn(5 + batch, 1, 8, 8, dtype=torch.float64) for batch in range(num_batches)]


def inputs_of_norms(network: nn.Module, run: Any) -> dict[str, list[Tensor]]:
    """What every batch normalisation gets while this runs, by name."""
    seen: dict[str, list[Tensor]] = defaultdict(list)
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0].detach().clone()))
        for name, module in network.named_modules()
        if isinstance(module, BatchNorm2d)
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


def norms(network: nn.Module) -> dict[str, BatchNorm2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, BatchNorm2d)}


def test_statistics_are_the_means_over_the_batches_of_what_each_layer_normalises_by() -> None:
    supernet, batches = setting()
    network = recalibrated(supernet, CELL, batches)
    twin = supernet.inherit(CELL).train()
    seen = inputs_of_norms(twin, lambda: [twin(images) for images in batches])
    found = norms(network)
    assert set(found) == set(seen)
    assert len(found) > 6
    for name, inputs in seen.items():
        flat = [features.transpose(0, 1).flatten(1) for features in inputs]
        mean = sum(values.sum(1) / values.shape[1] for values in flat) / len(flat)
        squares = [(values - (values.sum(1) / values.shape[1])[:, None]).square().sum(1) for values in flat]
        variance = sum(total / (values.shape[1] - 1) for total, values in zip(squares, flat, strict=True)) / len(flat)
        torch.testing.assert_close(found[name].running_mean, mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(found[name].running_var, variance, rtol=1e-10, atol=1e-12)
    assert not network.training


def test_statistics_are_those_of_the_library() -> None:
    supernet, batches = setting()
    other = supernet.inherit(CELL)
    update_bn(batches, other)
    for (name, ours), theirs in zip(
        recalibrated(supernet, CELL, batches).named_buffers(), other.buffers(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)


def test_on_its_own_calibration_batch_a_cell_answers_as_in_training_but_for_the_unbiased_variance() -> None:
    supernet, batches = setting(1)
    network = recalibrated(supernet, CELL, batches)
    biased = supernet(batches[0], supernet.one_hot(CELL))
    assert not torch.allclose(network(batches[0]), biased, rtol=0, atol=1e-6)
    seen = inputs_of_norms(network, lambda: network(batches[0]))
    for name, module in norms(network).items():
        count = seen[name][0].numel() // seen[name][0].shape[1]
        assert module.running_var is not None
        module.running_var *= (count - 1) / count
    torch.testing.assert_close(network(batches[0]), biased, rtol=0, atol=1e-10)


def test_an_answer_depends_on_no_other_image() -> None:
    supernet, batches = setting()
    network = recalibrated(supernet, CELL, batches)
    images = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(images)[:2], network(images[:2]), rtol=0, atol=1e-12)


def test_recalibrating_draws_nothing_and_changes_nothing() -> None:
    supernet, batches = setting()
    before, state = {name: value.clone() for name, value in supernet.state_dict().items()}, torch.get_rng_state()
    first, again = (recalibrated(supernet, CELL, batches).state_dict() for _ in range(2))
    assert all(value.equal(again[name]) for name, value in first.items())
    assert torch.get_rng_state().equal(state)
    assert all(value.equal(before[name]) for name, value in supernet.state_dict().items())


def test_statistics_of_paths_are_the_means_over_those_that_a_layer_is_on() -> None:
    # The layers outside of the cells are on every path, and the supernet itself has them; those of an edge are on
    # the paths with their operation.
    supernet, batches = setting()
    paths = list(islice(random_cells(CellSpace(), random.Random(1)), 12))
    network = uncalibrated(supernet, CELL, paths, batches)
    assert not network.training
    outside: dict[str, list[Tensor]] = defaultdict(list)
    inside: dict[tuple[str, str], list[Tensor]] = defaultdict(list)

    def op_of(name: str, cell: Genotype) -> str:
        """Which operation a layer belongs to: those of an edge have the same place in a network."""
        edge = re.search(r"edges\.(\d)<-(\d)", name)
        return cell.edges[int(edge[1]), int(edge[2])] if edge else ""

    for number, path in enumerate(paths):
        images = batches[number % 3]
        for name, (features,) in inputs_of_norms(
            supernet, lambda images=images, path=path: supernet(images, supernet.one_hot(path))
        ).items():
            outside[name].append(features.mean((0, 2, 3)))
        twin = supernet.inherit(path).train()
        for name, (features,) in inputs_of_norms(twin, lambda images=images, twin=twin: twin(images)).items():
            inside[name, op_of(name, path)].append(features.mean((0, 2, 3)))
    assert {len(means) for means in outside.values()} == {12}
    unseen = 0
    for name, module in norms(network).items():
        means = outside.get(name) or inside[name, op_of(name, CELL)]
        unseen += not means
        expected = torch.stack(means).mean(0) if means else torch.zeros_like(module.running_mean)  # type: ignore[arg-type]
        torch.testing.assert_close(module.running_mean, expected, rtol=0, atol=1e-12)
    assert unseen < len(norms(network)) / 2


def test_where_there_is_one_path_only_its_statistics_are_those_of_the_cell() -> None:
    supernet, batches = setting()
    of_paths, own = uncalibrated(supernet, CELL, [CELL] * 3, batches), recalibrated(supernet, CELL, batches)
    for (name, value), other in zip(of_paths.named_buffers(), own.buffers(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-15, msg=name)


def on_ranks(parts: Sequence[Sequence[Tensor]]) -> tuple[dict[str, Tensor], dict[str, float], str]:
    """The statistics of a cell, each rank with its part of the batches, and what comes out of a whole search."""
    supernet, _ = setting()
    Ablation.NUM_PATHS = 6
    statistics = dict(recalibrated(supernet, CELL, parts[rank()]).named_buffers())
    found = search_on_ranks("random", precision="64-true", recalibration_images=300)
    return statistics, found["metrics"], found["genotype"]


def test_any_number_of_ranks_gathers_the_statistics_of_whole_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, batches = setting()
    alone, metrics, genotype = on_ranks([batches])
    parts = [[images[:2] for images in batches], [images[2:] for images in batches]]
    for found, theirs, cell in together(tmp_path / "ranks", on_ranks, parts):
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)
        assert {"val/recalibrated_accuracy", "val/uncalibrated_accuracy"} <= set(metrics)
        assert theirs == pytest.approx(metrics, rel=1e-6)
        assert cell == genotype


def search(folder: Path, data: LightningDataModule | None = None, **options: Any) -> SearchModule:
    seed_everything(0)
    module = SearchModule(SPOS(population=4, generations=2), 4, 1, image_shape=(1, 8, 8), **options)
    trainer = make_trainer(folder, limit_train_batches=4)
    trainer.fit(module, datamodule=data or SearchData(batch_size=64, eval_batch_size=100))
    return module


def test_cells_are_scored_by_their_own_statistics_on_images_that_are_not_augmented(tmp_path: Path) -> None:
    scores: dict[Genotype, float] = {}

    class Scoring(RandomSearch):
        def derive(self, score: Any) -> Genotype:
            scores.update({cell: score(cell) for cell in [CELL, Genotype.from_index(0)]})
            assert all(score(cell) == value for cell, value in scores.items())
            return CELL

    seed_everything(0)
    module = SearchModule(Scoring(), 4, 1, image_shape=(1, 8, 8), score_images=300, recalibration_images=150)
    data = SearchData(eval_batch_size=100)
    trainer = make_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    train, (images, labels) = data.sets["train"].images.tensor_split(8), data.sets["val"]

    def network_of(cell: Genotype) -> Network:
        network = module.supernet.inherit(cell)
        update_bn([data.prepare(images) for images in train[:2]], network)  # two batches of 90 hold 150
        return network.eval()

    first = sum(len(part) for part in labels.tensor_split(8)[:4])
    for cell, found in scores.items():
        right = network_of(cell)(data.prepare(images[:first])).argmax(1) == labels[:first]
        assert found == pytest.approx(float(right.float().mean()), abs=1e-6)
    metrics = trainer.callback_metrics
    right = network_of(CELL)(data.prepare(images)).argmax(1) == labels
    assert float(metrics["val/recalibrated_accuracy"]) == pytest.approx(float(right.float().mean()), abs=1e-6)
    assert 0 <= metrics["val/uncalibrated_accuracy"] <= 1


def test_recalibration_changes_nothing_that_is_trained_or_drawn(tmp_path: Path) -> None:
    without, with_it = (search(tmp_path, recalibration_images=number) for number in (0, 200))
    states = [module.supernet.state_dict() for module in (without, with_it)]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())
    assert without.search.generator.get_state().equal(with_it.search.generator.get_state())
    assert "val/recalibrated_accuracy" not in without.trainer.callback_metrics
    assert "val/uncalibrated_accuracy" in with_it.trainer.callback_metrics


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_recalibration_goes_with_any_precision(tmp_path: Path, precision: Any) -> None:
    seed_everything(0)
    module = SearchModule(RandomSearch(num_samples=2), 2, 1, image_shape=(1, 8, 8), recalibration_images=100)
    trainer = make_trainer(tmp_path, limit_train_batches=2, precision=precision)
    trainer.fit(module, datamodule=SearchData())
    assert 0 <= trainer.callback_metrics["val/recalibrated_accuracy"] <= 1


def test_data_without_calibration_images_are_refused_before_training(tmp_path: Path) -> None:
    class Other(LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = SearchData()
            self.inner.setup()

        def train_dataloader(self) -> Any:
            return self.inner.train_dataloader()

        def val_dataloader(self) -> Any:
            return self.inner.val_dataloader()

    with pytest.raises(SupernetError, match=r"a method calibration_dataloader\(\)"):
        search(tmp_path, Other(), recalibration_images=10)


def test_a_negative_number_of_images_is_refused() -> None:
    with pytest.raises(SupernetError, match="recalibration_images"):
        SearchModule(RandomSearch(), 2, 1, image_shape=(1, 8, 8), recalibration_images=-1)
