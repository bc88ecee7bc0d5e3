"""What both trainings share: the optimizer and its schedule, the checks of its options, the rhythm of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from supernet.errors import SupernetError
from supernet.parallel import DataParallel
from supernet.ranks import is_the_same


def sgd_with_cosine(
    parameters: Iterable[nn.Parameter],
    trainer: Trainer,
    *,
    lr: float,
    lr_min: float,
    momentum: float,
    weight_decay: float,
    epochs: int | None = None,
) -> tuple[SGD, CosineAnnealingLR]:
    """SGD with Nesterov momentum; the learning rate falls from ``lr`` to ``lr_min`` over the epochs of the trainer.

    If a number of ``epochs`` is given, it falls within these, rises again within as many, and so on.

    Raises:
        SupernetError: the trainer has no number of epochs.
    """
    if trainer.max_epochs is None or trainer.max_epochs < 1:
        raise SupernetError(
            f"the schedule needs a number of epochs, got max_epochs={trainer.max_epochs}; pass --trainer.max_epochs"
        )
    parameters = list(parameters)
    fused = parameters[0].is_cuda  # one kernel for all parameters, and a learning rate that may lie in memory
    optimizer = SGD(parameters, lr, momentum, weight_decay=weight_decay, nesterov=momentum > 0, fused=fused)
    return optimizer, CosineAnnealingLR(optimizer, epochs or trainer.max_epochs, lr_min)


def check_trainer(trainer: Trainer) -> None:
    """Raise `SupernetError` for a trainer whose options these trainings could only ignore."""
    if trainer.world_size > 1:
        if not isinstance(trainer.strategy, DataParallel):
            raise SupernetError(
                f"{trainer.world_size} devices need the strategy supernet.parallel.DataParallel, got"
                f" {type(trainer.strategy).__name__}"
            )
        if not is_the_same(torch.initial_seed() % 2**63, trainer.strategy.root_device):
            raise SupernetError("the processes began with different seeds; call seed_everything(seed) before you begin")
    if trainer.precision in ("16-mixed", "16-true"):
        raise SupernetError(f"half precision overflows here; use bf16-mixed, got {trainer.precision}")


def run_dir(trainer: Trainer) -> Path:
    """The folder in which a run keeps its files."""
    return Path(trainer.default_root_dir)


def is_time_to_log(trainer: Trainer) -> bool:
    """Whether the loggers read the metrics of this step; in between, a look would make the device wait."""
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    due = interval > 0 and (trainer.fit_loop.total_batch_idx + 1) % interval == 0
    return trainer.is_last_batch or due


def count_steps(trainer: Trainer, steps: int) -> None:
    """Tell the trainer of steps of optimizers that it did not take itself: checkpoints and limits go by the count."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    for _ in range(steps):
        progress.increment_ready()
        progress.increment_completed()


def check_positive(**values: float) -> None:
    """Raise `SupernetError` for the first value that is not above zero."""
    _check(values, lambda value: value > 0, "above 0")


def check_not_negative(**values: float) -> None:
    """Raise `SupernetError` for the first value that is below zero."""
    _check(values, lambda value: value >= 0, "0 or more")


def check_fraction(**values: float) -> None:
    """Raise `SupernetError` for the first value that is not in 0 to 1, 1 excluded."""
    _check(values, lambda value: 0 <= value < 1, "at least 0 and below 1")


def _check(values: Mapping[str, float], holds: Callable[[float], bool], rule: str) -> None:
    for name, value in values.items():
        if not holds(value):  # NaN holds nowhere
            raise SupernetError(f"{name} must be {rule}, got {value}")
