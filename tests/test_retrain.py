from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import nn

from supernet.data import RetrainData
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.network import Network
from supernet.retrain import RetrainModule, export_program

CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|skip_connect~1|nor_conv_1x1~2|"
SHAPE = (1, 8, 8)


def make_trainer(folder: Path, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    defaults = {"max_epochs": 1, "accelerator": "cpu", "enable_checkpointing": False}
    return Trainer(**{**quiet, **defaults, "default_root_dir": folder, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, RetrainModule, RetrainData]:
    seed_everything(0)
    module = RetrainModule(CELL, channels=8, num_cells=1, image_shape=SHAPE)
    data = RetrainData(batch_size=64, eval_batch_size=100)
    trainer = make_trainer(tmp_path_factory.mktemp("retrain"), max_epochs=4)
    trainer.fit(module, datamodule=data)
    return trainer, module, data


def test_four_epochs_learn_the_digits(trained: tuple[Trainer, RetrainModule, RetrainData]) -> None:
    trainer, module, data = trained
    accuracy = trainer.test(module, datamodule=data, verbose=False)[0]["test/accuracy"]
    assert accuracy > 0.7  # chance is 0.1


def test_the_reported_accuracy_and_loss_equal_a_recount_in_one_batch(
    trained: tuple[Trainer, RetrainModule, RetrainData],
) -> None:
    trainer, module, data = trained
    reported = trainer.test(module, datamodule=data, verbose=False)[0]
    network = Network(Genotype.parse(CELL), channels=8, num_cells=1, num_classes=10, image_channels=1).eval()
    network.load_state_dict(module.network.state_dict())
    images, labels = data.sets["test"]
    assert data.normalise is not None
    with torch.no_grad():
        logits = network(data.normalise(images))
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    assert reported["test/accuracy"] == pytest.approx(right / len(labels))
    loss = -logits.log_softmax(dim=1)[torch.arange(len(labels)), labels].mean()
    assert reported["test/loss"] == pytest.approx(float(loss), rel=1e-4)


def test_the_learning_rate_falls_to_zero_by_a_cosine_of_the_epoch(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watching(RetrainModule):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    module = Watching(CELL, 2, 1, image_shape=SHAPE, lr=0.3)
    trainer = make_trainer(tmp_path, max_epochs=4, limit_train_batches=2)
    trainer.fit(module, datamodule=RetrainData())
    expected = [0.3 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4) for _ in range(2)]
    assert seen == pytest.approx(expected)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0)


def test_one_step_is_that_of_a_plain_optimizer(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Recording(RetrainModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            seen.append(batch)
            super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    module = Recording(CELL, 2, 1, image_shape=SHAPE, lr=0.2, weight_decay=0.01)
    network = Network(Genotype.parse(CELL), 2, 1, 10, 1)
    network.load_state_dict(module.network.state_dict())
    make_trainer(tmp_path, limit_train_batches=1).fit(module, datamodule=RetrainData())
    images, labels = seen[0]
    nn.functional.cross_entropy(network(images), labels).backward()
    moved = 0
    for after, before in zip(module.network.parameters(), network.parameters(), strict=True):
        # Nesterov's first step: the gradient with decay, and 0.9 of it once more.
        assert before.grad is not None
        step = 0.2 * 1.9 * (before.grad + 0.01 * before.detach())
        torch.testing.assert_close(after, before - step, rtol=1e-4, atol=1e-6)
        moved += not after.equal(before)
    assert moved > 10


@pytest.mark.parametrize("training", [True, False])
def test_exporting_leaves_the_network_as_it_was(
    trained: tuple[Trainer, RetrainModule, RetrainData], tmp_path: Path, training: bool
) -> None:
    _, module, data = trained
    assert data.normalise is not None
    network = module.network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    path = export_program(network, data.normalise, SHAPE, tmp_path / "network.pt2")
    assert [part.training for part in network.modules()] == [training] * len(list(network.modules()))
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    images = data.sets["test"].images[:7]
    with torch.no_grad():
        expected = network.eval()(data.normalise(images))
    # Exported in training mode, the program would normalise by the statistics of these seven images.
    torch.testing.assert_close(torch.export.load(path).module()(images), expected)


def test_a_loss_that_is_not_finite_stops_with_the_option_to_change(tmp_path: Path) -> None:
    module = RetrainModule(CELL, 2, 1, image_shape=SHAPE, lr=1e30)
    with pytest.raises(SupernetError, match=r"train/loss is (nan|inf) .* at epoch 0, step \d+: lower --model.lr"):
        make_trainer(tmp_path, max_epochs=3).fit(module, datamodule=RetrainData())


def test_a_training_without_epochs_is_refused(tmp_path: Path) -> None:
    module = RetrainModule(CELL, 2, 1, image_shape=SHAPE)
    with pytest.raises(SupernetError, match=r"pass --trainer\.max_epochs"):
        make_trainer(tmp_path, max_epochs=-1, max_steps=3).fit(module, datamodule=RetrainData())


def test_a_cell_string_that_is_malformed_is_refused() -> None:
    with pytest.raises(SupernetError, match="malformed cell string: node 2"):
        RetrainModule("|nor_conv_3x3~0|+|skip_connect~1|")


def test_a_checkpoint_loads_without_executing_code_and_gives_the_same_logits(
    trained: tuple[Trainer, RetrainModule, RetrainData], tmp_path: Path
) -> None:
    trainer, module, data = trained
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    restored: LightningModule = RetrainModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert data.normalise is not None
    images = data.normalise(data.sets["test"].images[:50])
    with torch.no_grad():
        assert restored.eval()(images).equal(module.eval()(images))
