"""Final training: one discovered cell as a standalone network, from scratch."""

from __future__ import annotations

import copy
import io
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchmetrics.classification import MulticlassAccuracy

from supernet.descent import Descent
from supernet.files import write_whole
from supernet.genotype import Genotype
from supernet.health import BadStep, FiniteSteps
from supernet.network import Network
from supernet.recipe import (
    check_fraction,
    check_not_negative,
    check_positive,
    check_trainer,
    count_steps,
    is_time_to_log,
    sgd_with_cosine,
)
from supernet.replay import recorder
from supernet.strategies import Batch
from supernet.tally import MeanLoss, Running, go_on


class RetrainModule(LightningModule):
    """Trains ``Network(genotype)`` by the final recipe of NAS-Bench-201 (SGD, Nesterov, cosine to zero).

    Args:
        genotype: the cell, in the NAS-Bench-201 notation.
        channels: C, the width of the first stage.
        num_cells: N, the number of cells in each of the three stages.
        num_classes: number of classes; taken from the data on the command line.
        image_shape: channels, height and width of the images; taken from the data on the command line.
        lr: first learning rate; falls to 0 by a cosine, epoch by epoch.
        momentum: momentum.
        weight_decay: weight decay.
        sync_batchnorm: with several devices, normalise by the whole batch rather than by the part of each device, so
            that no figure depends on their number; costs two messages a layer.
        bad_step: at a step whose loss or gradient is not finite, stop the training, or skip the step and count it.
        cuda_graphs: on a CUDA device, record each step once and replay it; elsewhere it changes nothing.
    """

    def __init__(
        self,
        genotype: str,
        channels: int = 16,
        num_cells: int = 5,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        sync_batchnorm: bool = True,
        bad_step: BadStep = "stop",
        cuda_graphs: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        check_positive(lr=lr)
        check_fraction(momentum=momentum)
        check_not_negative(weight_decay=weight_decay)
        self.image_shape = image_shape
        self.running: dict[str, Running] = {}
        self._seen: dict[str, Any] = {}
        self.network = Network(Genotype.parse(genotype), channels, num_cells, num_classes, image_shape[0])
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.test_loss = MeanLoss()

    def configure_optimizers(self) -> tuple[list[Optimizer], list[CosineAnnealingLR]]:
        """SGD with a cosine schedule, epoch by epoch, to zero."""
        recipe = {name: self.hparams[name] for name in ("lr", "momentum", "weight_decay")}
        optimizer, schedule = sgd_with_cosine(self.network.parameters(), self.trainer, lr_min=0.0, **recipe)
        return [optimizer], [schedule]

    def configure_callbacks(self) -> list[Callback]:
        """Stop at a bad step, or skip it."""
        return [FiniteSteps(f"lower --model.lr (now {self.hparams['lr']})", self.hparams["bad_step"])]

    def setup(self, stage: str) -> None:
        """Normalise by the batches of all ranks, or by the part that each has."""
        self.network.synchronise(self.hparams["sync_batchnorm"])

    def on_fit_start(self) -> None:
        """Refuse what would fail late or go wrong silently."""
        check_trainer(self.trainer)

    def on_train_start(self) -> None:
        """Get the step ready."""
        (optimizer,) = self.trainer.optimizers
        self.descent = Descent(self.network, optimizer, recorder(self.device, self.hparams["cuda_graphs"]))
        self.running = go_on({"train": self.descent.tally}, self._seen)
        self._seen = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the sums of the epoch at hand."""
        checkpoint["running"] = {part: running.state_dict() for part, running in self.running.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with them."""
        self._seen = checkpoint.get("running", {})

    def on_train_end(self) -> None:
        """Let go of the recordings: they hold memory, and know the parameters by where they lie."""
        del self.descent

    def forward(self, images: Tensor) -> Tensor:
        """Class logits of normalised images."""
        logits: Tensor = self.network(images.to(self.dtype))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step down the cross-entropy of a batch."""
        self.descent.step(*batch)
        count_steps(self.trainer, 1)
        if is_time_to_log(self.trainer) and self.running["train"].look():
            # On the host: Lightning reads what the progress bar shows after every batch.
            self.log("train/loss", torch.tensor(self.running["train"].loss), prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """Log accuracy and learning rate of this epoch, and advance the schedule."""
        if (accuracy := self.running["train"].accuracy()) is not None:
            self.log("train/accuracy", accuracy, prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        schedule = self.lr_schedulers()
        assert isinstance(schedule, CosineAnnealingLR)
        schedule.step()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy on the test images."""
        images, labels = batch
        logits = self(images)
        self.test_accuracy.update(logits, labels)
        self.test_loss.add(F.cross_entropy(logits, labels), len(labels))
        self.log("test/accuracy", self.test_accuracy, on_step=False, on_epoch=True)

    def on_test_epoch_end(self) -> None:
        """The mean loss of all test images."""
        self.log("test/loss", self.test_loss.take())


def export_program(
    network: nn.Module, normalise: nn.Module, image_shape: tuple[int, int, int], path: str | os.PathLike[str]
) -> Path:
    """Save a network with its normalisation as a program that runs without this package (`torch.export`).

    The program takes uint8 images, shape (B, channels, height, width) for any B >= 1, and returns class logits.

    Args:
        network: takes normalised images; a copy is exported, in float32 and as in evaluation.
        normalise: turns uint8 images into what the network takes.
        image_shape: channels, height and width.
        path: file to write; by custom it ends in ``.pt2``.
    """
    program = copy.deepcopy(nn.Sequential(normalise, network)).cpu().float().eval()
    program.to(memory_format=torch.contiguous_format)  # the file format knows no other layout of parameters
    example = torch.zeros(2, *image_shape, dtype=torch.uint8)
    exported = torch.export.export(program, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    write_whole(path, buffer.getvalue())
    return Path(path)
