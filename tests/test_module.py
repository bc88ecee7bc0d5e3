from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD

import supernet.module
import supernet.network
import supernet.recipe
from supernet.bilevel import frozen
from supernet.callbacks import GenotypeExport
from supernet.data import SearchData, halves
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.keep import LastCheckpoint
from supernet.mixed import MixedCell
from supernet.module import CHECKPOINT_KEY, SearchModule
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.space import CellSpace
from supernet.strategies import DARTS, GDAS, Batch, Loss, RandomSearch, SearchStrategy
from tests.soft_graph import SoftGraph
from tests.test_bilevel import plan_densely
from tests.textbook import textbook_supernet


def make(search: SearchStrategy, **options: Any) -> tuple[SearchModule, SearchData]:
    data = SearchData(batch_size=64)
    options = {"channels": 4, "num_cells": 1, "image_shape": (1, 8, 8), "arch_lr": 0.01, **options}
    return SearchModule(search, **options), data


def make_trainer(folder: Path, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    defaults = {"max_epochs": 1, "accelerator": "cpu", "enable_checkpointing": False, "num_sanity_val_steps": 0}
    return Trainer(**{**quiet, **defaults, "default_root_dir": folder, **options})


def fit(folder: Path, search: SearchStrategy, seed: int = 0, **options: Any) -> SearchModule:
    seed_everything(seed)
    module, data = make(search)
    make_trainer(folder, **options).fit(module, datamodule=data)
    return module


def test_freezing_changes_no_bit_of_the_gradient_of_the_mixture_and_is_undone() -> None:
    torch.manual_seed(0)
    supernet, images = Supernet(channels=3, num_cells=1), torch.randn(4, 3, 8, 8)
    supernet.stem[0].weight.requires_grad_(False)  # what was frozen before stays frozen
    trainable = {name for name, parameter in supernet.named_parameters() if parameter.requires_grad}
    gradients = []
    for freeze in (False, True):
        mixture = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
        if freeze:
            with frozen(supernet):
                supernet(images, mixture).square().sum().backward()
        else:
            supernet(images, mixture).square().sum().backward()
            supernet.zero_grad()
        gradients.append(mixture.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert gradients[0].equal(gradients[1])
    assert all(parameter.grad is None for parameter in supernet.parameters())
    assert {name for name, parameter in supernet.named_parameters() if parameter.requires_grad} == trainable


def test_twenty_steps_equal_a_plain_loop_over_the_textbook_supernet(tmp_path: Path) -> None:
    # A second formulation of the whole bilevel step, in float64: architecture first, on the validation batch, then
    # the network on the training batch, gradients clipped.
    batches: list[dict[str, Batch]] = []
    found: list[float] = []
    losses: list[float] = []

    class Recording(SearchModule):
        def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
            batches.append(copy.deepcopy(batch))
            super().training_step(batch, batch_idx)
            found.extend(running.loss for running in self.running.values())

    torch.manual_seed(0)
    module = Recording(DARTS(), 3, 1, image_shape=(1, 8, 8), grad_clip=0.5, arch_lr=0.01)
    supernet, logits = copy.deepcopy(module.supernet).double(), module.search.get_parameter("logits").detach().double()
    trainer = make_trainer(
        tmp_path, limit_train_batches=20, limit_val_batches=0, precision="64-true", log_every_n_steps=1
    )
    trainer.fit(module, datamodule=SearchData(batch_size=32))

    logits.requires_grad_()
    arch = torch.optim.Adam([logits], 0.01, (0.5, 0.999), weight_decay=1e-3)
    network = torch.optim.SGD(supernet.parameters(), 0.025, 0.9, weight_decay=5e-4, nesterov=True)
    for batch in batches:
        for half, optimizer in (("val", arch), ("train", network)):
            images, labels = batch[half]
            loss = F.cross_entropy(textbook_supernet(supernet, images.double(), logits.softmax(1)), labels)
            losses.append(loss.item())
            arch.zero_grad()
            network.zero_grad()
            loss.backward()
            if optimizer is network:
                norm = torch.stack([p.grad.norm() for p in supernet.parameters() if p.grad is not None]).norm()
                for parameter in supernet.parameters():
                    assert parameter.grad is not None
                    parameter.grad.mul_(min(1.0, 0.5 / (float(norm) + 1e-6)))
            optimizer.step()
    assert len(batches) == 20
    assert found == pytest.approx(losses, rel=0, abs=1e-9)
    torch.testing.assert_close(module.search.get_parameter("logits"), logits, rtol=0, atol=1e-9)
    for ours, theirs in zip(module.supernet.parameters(), supernet.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("search", [DARTS, GDAS, partial(RandomSearch, num_samples=5)], ids=["DARTS", "GDAS", "random"])
def test_the_same_seed_finds_the_same_cell_and_parameters(tmp_path: Path, search: type[SearchStrategy]) -> None:
    first, again = (fit(tmp_path, search(), seed=1, limit_train_batches=3) for _ in range(2))
    other = fit(tmp_path, search(), seed=2, limit_train_batches=3)
    assert first.genotype == again.genotype
    states = [module.supernet.state_dict() for module in (first, again, other)]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())
    assert not all(value.equal(states[2][name]) for name, value in states[0].items())


def test_the_learning_rate_follows_the_cosine_of_each_epoch(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watching(SearchModule):
        def on_train_epoch_start(self) -> None:
            seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            super().on_train_epoch_start()

    module = Watching(RandomSearch(), 2, 1, image_shape=(1, 8, 8))
    make_trainer(tmp_path, max_epochs=5, limit_train_batches=1, limit_val_batches=0).fit(
        module, datamodule=SearchData()
    )
    cosine = [0.001 + (0.025 - 0.001) * (1 + torch.cos(torch.tensor(torch.pi * t / 5)).item()) / 2 for t in range(5)]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(cosine))


def test_a_mixture_that_cuts_the_input_off_has_the_gradient_zero(tmp_path: Path) -> None:
    # As where every candidate runs: Adam takes its step, and the weight decay acts.
    class Cut(DARTS):
        def forward(self) -> Tensor:
            mask = torch.zeros(6, 5)
            mask[:, 0] = 1
            return super().forward() * mask

    module, data = make(Cut())
    before = module.search.get_parameter("logits").clone()
    make_trainer(tmp_path, limit_train_batches=2).fit(module, datamodule=data)
    expected = nn.Parameter(before.detach())
    adam = torch.optim.Adam([expected], 0.01, (0.5, 0.999), weight_decay=1e-3)
    expected.grad = torch.zeros_like(expected)
    for _ in range(2):
        adam.step()
    assert module.search.get_parameter("logits").equal(expected)


def test_several_paths_make_one_step_of_their_summed_gradients(tmp_path: Path) -> None:
    cells = [Genotype.from_index(6111), Genotype.from_index(13714)]

    class Two(RandomSearch):
        def paths(self, loss: Loss, train: Batch) -> Any:
            return (F.one_hot(torch.tensor(self.space.choices(cell)), 5).float() for cell in cells)

    seen: list[Batch] = []

    class Recording(SearchModule):
        def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
            seen.append(copy.deepcopy(batch["train"]))
            super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    # No momentum, no decay, no clipping: the step is the learning rate times the summed gradient.
    module = Recording(
        Two(), 3, 1, image_shape=(1, 8, 8), network_momentum=0, network_weight_decay=0, grad_clip=1e9, network_lr=0.5
    )
    supernet = copy.deepcopy(module.supernet)
    make_trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(module, datamodule=SearchData())
    total = sum(F.cross_entropy(supernet(seen[0][0], supernet.one_hot(cell)), seen[0][1]) for cell in cells)
    assert isinstance(total, Tensor)
    total.backward()
    for after, before in zip(module.supernet.parameters(), supernet.parameters(), strict=True):
        step = torch.zeros_like(before) if before.grad is None else 0.5 * before.grad
        torch.testing.assert_close(after, before - step, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("every_n_epochs", [1, 2])  # 2: the cell is derived at the end, outside of validation
def test_score_is_the_accuracy_of_the_inherited_network_on_the_first_images(
    tmp_path: Path, every_n_epochs: int
) -> None:
    scores: dict[Genotype, float] = {}

    class Scoring(RandomSearch):
        def derive(self, score: Any) -> Genotype:
            scores.update({cell: score(cell) for cell in [Genotype.from_index(6111), Genotype.from_index(0)]})
            return Genotype.from_index(0)

    seed_everything(0)
    module = SearchModule(Scoring(), 4, 1, image_shape=(1, 8, 8), score_images=300)
    data = SearchData(eval_batch_size=100)
    trainer = make_trainer(tmp_path, check_val_every_n_epoch=every_n_epochs, callbacks=[GenotypeExport()])
    trainer.fit(module, datamodule=data)
    images, labels = data.sets["val"]
    for cell, found in scores.items():
        network = module.supernet.inherit(cell).train()
        # 719 images make eight batches of 90, the last 89; four of them hold the first 300.
        parts = list(zip(images.tensor_split(8), labels.tensor_split(8), strict=True))[:4]
        right = sum((network(data.prepare(x)).argmax(1) == y).sum().item() for x, y in parts)
        assert found == right / sum(len(y) for _, y in parts)


def test_a_checkpoint_holds_the_cell_and_its_source_and_loads_without_executing_code(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=2)
    seed_everything(7)
    module, data = make(DARTS(top_k=2))
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "search.ckpt")
    kept = torch.load(tmp_path / "search.ckpt", weights_only=True)[CHECKPOINT_KEY]
    assert Genotype.parse(kept["genotype"]) == module.genotype
    assert (kept["strategy"], kept["data"], kept["seed"]) == ("DARTS", "digits", 7)
    assert 0 <= kept["metrics"]["val/derived_accuracy"] <= 1


def test_a_checkpoint_restores_parameters_logits_cell_and_generator(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, limit_train_batches=2)
    module, data = make(GDAS())
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "search.ckpt")
    restored = SearchModule.load_from_checkpoint(tmp_path / "search.ckpt", weights_only=True, search=GDAS())
    assert restored.genotype == module.genotype
    assert restored.search().equal(module.search())
    images, mixture = torch.randn(4, 1, 8, 8), torch.rand(6, 5)
    assert restored.supernet(images, mixture).equal(module.supernet(images, mixture))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_an_interrupted_search_goes_on_at_the_next_epoch(tmp_path: Path) -> None:
    whole = fit(tmp_path, GDAS(), max_epochs=4, limit_train_batches=3)
    seed_everything(0)
    module, data = make(GDAS())

    class Interrupt(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                raise RuntimeError("power cut")

    callbacks: list[Callback] = [Interrupt(), ModelCheckpoint(tmp_path, "last", enable_version_counter=False)]
    trainer = make_trainer(
        tmp_path, max_epochs=4, limit_train_batches=3, enable_checkpointing=True, callbacks=callbacks
    )
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.fit(module, datamodule=data)
    seed_everything(5)  # whatever the second process starts with, the checkpoint decides
    resumed, data = make(GDAS())
    trainer = make_trainer(
        tmp_path, max_epochs=4, limit_train_batches=3, enable_checkpointing=True, callbacks=callbacks[1:]
    )
    trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert trainer.current_epoch == 4
    torch.testing.assert_close(resumed.search.get_parameter("logits"), whole.search.get_parameter("logits"))


def test_a_loss_that_is_not_finite_stops_with_a_sentence_before_the_epoch_is_saved(tmp_path: Path) -> None:
    module, data = make(DARTS(), network_lr=1e30)
    trainer = make_trainer(tmp_path, max_epochs=3)
    with pytest.raises(SupernetError, match=r"loss is nan .* at epoch 0, step \d+: lower one of --model.network_lr"):
        trainer.fit(module, datamodule=data)


def test_an_arch_loss_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    class Broken(DARTS):
        def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
            return loss(self(), val) / 0

    module, data = make(Broken())
    with pytest.raises(SupernetError, match=r"arch/loss is (inf|nan) .* at epoch 0"):
        make_trainer(tmp_path).fit(module, datamodule=data)


class PoisonedData(SearchData):
    """One image of each epoch is not a number: the one that the second training batch begins with."""

    def train_dataloader(self) -> Any:
        loaders = super().train_dataloader()
        images = self.image_numbers(1, 1)["train"]
        position = halves(1438)[0].index(images[0])
        whole, prepare = self.sets["train"].images, loaders.iterables["train"].prepare

        def poison(images: Tensor, draws: Tensor) -> Tensor:
            prepared: Tensor = prepare(images, draws)
            bad = (images == whole[position]).all(dim=(1, 2, 3))
            return torch.where(bad[:, None, None, None], torch.nan, prepared)

        loaders.iterables["train"].prepare = poison
        return loaders


def test_the_images_of_a_bad_step_can_be_found_again(tmp_path: Path) -> None:
    seed_everything(0)
    module, _ = make(DARTS())
    data = PoisonedData(batch_size=64)
    everything, _ = data.data_set.load(Path(), False)
    keep = LastCheckpoint()
    trainer = make_trainer(tmp_path, max_epochs=4, enable_checkpointing=True, callbacks=[keep], log_every_n_steps=4)
    with pytest.raises(SupernetError) as stopped:
        trainer.fit(module, datamodule=data)
    told = json.loads((tmp_path / "bad_step.json").read_text())
    assert f"at epoch {told['epoch']}, step {told['step']}: lower" in str(stopped.value)
    assert "a step is not finite: network/loss is nan and the norm of its gradient nan" in str(stopped.value)
    positions = [halves(1438)[0].index(number) for number in told["images"]["train"]]
    poisoned = halves(1438)[0].index(data.image_numbers(1, 1)["train"][0])
    assert poisoned in positions
    # The images with these numbers are the images of that batch.
    loaders = data.train_dataloader()
    loader = loaders.iterables["train"]
    loader.sampler.set_epoch(told["epoch"])
    loader.prepare = lambda images, draws: images
    served = [batch for batch, _ in loader][told["step"]]
    assert served.equal(everything.images[torch.tensor(told["images"]["train"])])
    if told["epoch"]:
        assert f"the last good checkpoint is {keep.path}" in str(stopped.value)
    assert all(parameter.isfinite().all() for parameter in module.parameters())  # the step was not taken


def test_bad_steps_are_skipped_counted_and_logged_by_option(tmp_path: Path) -> None:
    seed_everything(0)
    module, _ = make(DARTS(), bad_step="skip")
    trainer = make_trainer(tmp_path, max_epochs=4)
    trainer.fit(module, datamodule=PoisonedData(batch_size=64))
    metrics = trainer.callback_metrics
    assert 3 <= metrics["network/skipped_steps"] <= 4  # the image is left out of an epoch with its incomplete batch
    assert metrics["arch/skipped_steps"] == 0
    assert metrics["network/loss"].isfinite()
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_a_bad_step_of_an_epoch_that_ends_early_is_not_overlooked(tmp_path: Path) -> None:
    class Late(DARTS):
        steps = 0

        def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
            self.steps += 1
            return loss(self(), val) * (float("nan") if self.steps == 3 else 1)

    module, data = make(Late())
    trainer = make_trainer(tmp_path, max_steps=10, log_every_n_steps=50)  # two optimizers: five batches of eleven
    with pytest.raises(SupernetError, match=r"arch/loss is nan .* at epoch 0, step 2: "):
        trainer.fit(module, datamodule=data)


def test_a_search_that_skips_every_step_stops_too(tmp_path: Path) -> None:
    module, data = make(DARTS(), bad_step="skip", network_lr=1e30)
    with pytest.raises(SupernetError, match=r"arch/loss is nan .* the first of 2\d such steps in a row: lower one of"):
        make_trainer(tmp_path, max_epochs=9, log_every_n_steps=5).fit(module, datamodule=data)


def test_a_size_that_cannot_work_is_refused_before_anything_runs() -> None:
    with pytest.raises(SupernetError, match="multiples of 4, because the network halves them twice, got 30 x 30"):
        SearchModule(DARTS(), 2, 1, image_shape=(3, 30, 30))


def test_a_search_without_epochs_is_refused(tmp_path: Path) -> None:
    module, data = make(DARTS())
    with pytest.raises(SupernetError, match="the schedule needs a number of epochs"):
        make_trainer(tmp_path, max_epochs=-1, max_steps=3).fit(module, datamodule=data)


def test_lightning_reads_no_device_between_two_looks(tmp_path: Path) -> None:
    # What is logged in a step must lie on the host: a metric on "meta" fails as soon as it is read.
    class Elsewhere(SearchModule):
        in_step = False

        @property
        def device(self) -> torch.device:
            return torch.device("meta" if self.in_step else "cpu")

        def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
            self.in_step = True
            super().training_step(batch, batch_idx)
            self.in_step = False

    module = Elsewhere(DARTS(), 2, 1, image_shape=(1, 8, 8))
    bar = {"logger": False, "log_every_n_steps": 3, "limit_val_batches": 0}
    make_trainer(tmp_path, **bar).fit(module, datamodule=SearchData())
    assert module.trainer.callback_metrics["network/loss"].device.type == "cpu"


def test_recordings_are_let_go_when_a_training_ends(tmp_path: Path) -> None:
    module, data = make(DARTS())
    make_trainer(tmp_path, limit_train_batches=1).fit(module, datamodule=data)
    assert not hasattr(module, "bilevel")
    copy.deepcopy(module)


@pytest.mark.parametrize("search", [DARTS, partial(GDAS, top_k=3)], ids=["DARTS", "GDAS"])
def test_a_search_by_recordings_finds_bit_for_bit_what_it_finds_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Callable[..., SearchStrategy]
) -> None:
    # The whole of it: steps, validation, and the cells that are compared.
    monkeypatch.setattr(supernet.network, "make_plan", plan_densely)
    fused = {"fused": True}  # as on a GPU
    monkeypatch.setattr(supernet.recipe, "SGD", lambda *args, **options: SGD(*args, **{**options, **fused}))
    seen, recorders = [], []
    for make_graph in (None, SoftGraph):

        def record(device: torch.device, cuda_graphs: bool, make_graph: Any = make_graph) -> Recorder:
            recorders.append(Recorder(device, make_graph))
            return recorders[-1]

        monkeypatch.setattr(supernet.module, "recorder", record)
        module = fit(tmp_path, search(), max_epochs=3, limit_train_batches=5, num_sanity_val_steps=2)
        metrics = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
        seen.append((metrics, module.genotype, {name: value.tolist() for name, value in module.named_parameters()}))
    assert seen[0] == seen[1]
    assert not recorders[0].recordings
    assert {key[0] for key in recorders[1].recordings} == {"arch", "descent", "look"}


def test_recordings_of_a_search_that_failed_are_not_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, SearchModule)
            assert pl_module.recorder.recordings
            raise RuntimeError("disk full")

    monkeypatch.setattr(supernet.module, "recorder", lambda device, cuda_graphs: Recorder(device, SoftGraph))
    monkeypatch.setattr(supernet.network, "make_plan", plan_densely)
    module, data = make(DARTS())
    with pytest.raises(RuntimeError, match="disk full"):
        make_trainer(tmp_path, callbacks=[Failing()], limit_train_batches=5).fit(module, datamodule=data)
    seen = module.recorder.recordings
    assert seen
    (metrics,) = make_trainer(tmp_path).validate(module, datamodule=data, verbose=False)
    assert not module.recorder.recordings
    assert metrics["val/loss"] > 0


def test_half_precision_is_refused_by_name(tmp_path: Path) -> None:
    module, data = make(DARTS())
    trainer = make_trainer(tmp_path)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(type(trainer), "precision", "16-mixed")
        with pytest.raises(SupernetError, match=r"use bf16-mixed, got 16-mixed"):
            trainer.fit(module, datamodule=data)


@pytest.mark.filterwarnings("ignore:.*grad attribute of a Tensor that is not a leaf.*")  # the tracer's own look
def test_a_compiled_search_compiles_once_for_each_kind_of_step_and_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:  # in place of the code generator, which takes minutes
        graphs.append(graph)
        return graph.forward

    def compile_cell(cell: MixedCell, **options: Any) -> None:
        nn.Module.compile(cell, backend=backend, fullgraph=True, **options)

    monkeypatch.setattr(MixedCell, "compile", compile_cell)
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        seed_everything(0)
        module = SearchModule(DARTS(top_k=3), 4, 2, image_shape=(1, 8, 8), arch_lr=0.01, compile=compiled)
        make_trainer(tmp_path, limit_train_batches=4).fit(module, datamodule=SearchData(batch_size=64))
        found.append(module)
    # Three widths, two steps, and the first cell of the architecture step, whose input has no gradient. Validation
    # and the cells that are scored are not compiled.
    assert len(graphs) == 7
    torch.testing.assert_close(found[1].search.state_dict()["logits"], found[0].search.state_dict()["logits"])
    assert found[1].genotype == found[0].genotype


def test_another_space_is_searched_by_naming_it(tmp_path: Path) -> None:
    space = CellSpace(3, ("skip_connect", "nor_conv_5x5"))
    module = SearchModule(DARTS(), 2, 1, space, image_shape=(1, 8, 8))
    make_trainer(tmp_path, limit_train_batches=1).fit(module, datamodule=SearchData())
    assert module.genotype is not None
    assert module.genotype.num_nodes == 3
    assert set(module.genotype.ops) <= {"skip_connect", "nor_conv_5x5"}


@pytest.mark.parametrize("search", [DARTS, GDAS, partial(RandomSearch, num_samples=3)], ids=["DARTS", "GDAS", "random"])
def test_looking_at_a_search_does_not_change_it(tmp_path: Path, search: type[SearchStrategy]) -> None:
    unseen = fit(tmp_path, search(), max_epochs=2, limit_train_batches=2, limit_val_batches=0)
    watched = fit(tmp_path, search(), max_epochs=2, limit_train_batches=2, num_sanity_val_steps=2)
    assert watched.genotype is not None
    states = watched.state_dict()
    assert all(
        torch.equal(value, states[name]) for name, value in unseen.supernet.state_dict(prefix="supernet.").items()
    )
    assert unseen.search().equal(watched.search())


def test_a_checkpoint_in_mid_epoch_never_holds_a_parameter_that_is_not_finite(tmp_path: Path) -> None:
    module, data = make(DARTS(), network_lr=1e25, grad_clip=1e25)
    keep = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=2, save_top_k=-1)
    trainer = make_trainer(tmp_path, enable_checkpointing=True, callbacks=[keep], log_every_n_steps=50)
    with pytest.raises(SupernetError, match="not finite"):
        trainer.fit(module, datamodule=data)
    for path in tmp_path.glob("kept/*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values() if isinstance(value, Tensor)), path


def test_a_checkpoint_never_holds_a_parameter_that_is_not_finite(tmp_path: Path) -> None:
    class Poisoned(SearchModule):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.current_epoch == 1 and self.trainer.is_last_batch:
                with torch.no_grad():
                    next(self.supernet.parameters()).fill_(torch.nan)

    seed_everything(0)
    module, data = Poisoned(DARTS(), 2, 1, image_shape=(1, 8, 8)), SearchData()
    keep = ModelCheckpoint(tmp_path, "last", enable_version_counter=False, save_on_train_epoch_end=True)
    trainer = make_trainer(
        tmp_path, max_epochs=3, limit_train_batches=2, limit_val_batches=0, enable_checkpointing=True, callbacks=[keep]
    )
    with pytest.raises(SupernetError, match="a parameter is not finite in epoch 1: lower one of"):
        trainer.fit(module, datamodule=data)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 0
    assert all(value.isfinite().all() for value in kept["state_dict"].values() if isinstance(value, Tensor))


def test_a_search_that_would_end_in_its_warm_up_is_refused(tmp_path: Path) -> None:
    module, data = make(DARTS(), warm_up_epochs=2)
    with pytest.raises(
        SupernetError, match=r"no step in 2 epochs of warm-up, and the search has 2: .*\.warm_up_epochs"
    ):
        make_trainer(tmp_path, max_epochs=2).fit(module, datamodule=data)
