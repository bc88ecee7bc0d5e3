"""Equal image passes: what a search may spend, how much it spends, and where it is stopped.

An image pass is one image through the supernet, whatever the mixture: forward and backward, or forward only where a
strategy asks for a reward.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn

from supernet.genotype import Genotype
from supernet.module import SearchModule
from supernet.strategies import Batch


class PassCount:
    """Counts the images that go through a network from now on.

    Recordings of a GPU would go past it: nothing may be recorded.

    Args:
        network: ``network(images, ...)``.
    """

    def __init__(self, network: nn.Module) -> None:
        self.images = 0
        network.register_forward_pre_hook(self._add)

    def _add(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.images += len(inputs[0])

    def take(self) -> int:
        """The images so far; counts from zero again."""
        images, self.images = self.images, 0
        return images


class Ledger(Callback):
    """Stops a search that has spent its budget, derives its cell, and compares cells at the end.

    Args:
        budget: image passes; None: as many as the trainer takes steps for.
        sample: cells whose accuracy with shared parameters is taken in the end, which no budget counts.
        score_images: validation images for this, the first ones.
    """

    def __init__(self, budget: int | None, sample: Sequence[Genotype] = (), score_images: int = 0) -> None:
        self.budget, self.sample, self.score_images = budget, sample, score_images
        self.passes = self.derive_passes = 0
        self.seconds = self.derive_seconds = 0.0
        self.scores: list[tuple[str, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        assert isinstance(pl_module, SearchModule)
        self.count, self.begun = PassCount(pl_module.supernet), time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop when the budget is spent."""
        trainer.should_stop = self.budget is not None and self.count.images >= self.budget

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Derive, and score the sample."""
        assert isinstance(pl_module, SearchModule)
        self.passes, self.seconds = self.count.take(), time.process_time() - self.begun
        if not self.sample:
            return
        begun = time.process_time()
        pl_module.derive()
        self.derive_passes, self.derive_seconds = self.count.take(), time.process_time() - begun
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        on_device = map(trainer.strategy.batch_to_device, data.val_dataloader())
        batches = list(first(on_device, self.score_images))
        self.scores = [(str(cell), pl_module.score(cell, batches)) for cell in self.sample]


def first(batches: Iterable[Batch], num_images: int) -> Iterator[Batch]:
    """The first batches that hold so many images."""
    seen = 0
    for images, labels in batches:
        yield images, labels
        seen += len(labels)
        if seen >= num_images:
            return


def fit(module: SearchModule, data: LightningDataModule, ledger: Ledger, epochs: int, steps: int | None) -> None:
    """A search under Lightning that leaves nothing behind.

    Args:
        module: supernet and strategy.
        data: the images.
        ledger: counts what it spends.
        epochs: the schedules of strategy and learning rate go over so many.
        steps: in each of them; None: as many as the data has.
    """
    Trainer(
        max_epochs=epochs,
        limit_train_batches=1.0 if steps is None else steps,
        limit_val_batches=0,
        callbacks=[ledger],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        devices=1,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
    ).fit(module, datamodule=data)


def steps_within(budget: int, epochs: int, batch: int, spent: Callable[[int, int], int]) -> int:
    """How many steps an epoch may have, so that all epochs together stay within a budget.

    What a search spends is taken as ``s + batch * (a + b * steps)``: the same whatever the batch, such as cells that
    are scored between epochs; in batches each epoch; and in batches each step.

    Args:
        budget: image passes.
        epochs: number of epochs.
        batch: images in a batch.
        spent: image passes of a search with so many steps in each epoch, by batches of so many images.
    """
    low, more_steps, more_images = spent(2, 2), spent(6, 2), spent(2, 4)
    each = (more_steps - low) / 8
    once = (more_images - low) / 2 - 2 * each
    fixed = low - 2 * (once + 2 * each)
    steps = int(((budget - fixed) / batch - once) / each + 1e-9)
    if steps < 1:
        least = int(fixed + batch * (once + each))
        raise ValueError(f"{epochs} epochs of one step take {least:,} image passes, more than {budget:,}")
    return steps
