"""The optimizer that both trainings share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pytorch_lightning import Trainer
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from supernet.errors import SupernetError


def sgd_with_cosine(
    parameters: Iterable[nn.Parameter],
    trainer: Trainer,
    *,
    lr: float,
    lr_min: float,
    momentum: float,
    weight_decay: float,
) -> tuple[SGD, CosineAnnealingLR]:
    """SGD with Nesterov momentum; the learning rate falls from ``lr`` to ``lr_min`` over the epochs of the trainer.

    Raises:
        SupernetError: the trainer has no number of epochs.
    """
    if trainer.max_epochs is None or trainer.max_epochs < 1:
        raise SupernetError(
            f"the schedule needs a number of epochs, got max_epochs={trainer.max_epochs}; pass --trainer.max_epochs"
        )
    optimizer = SGD(parameters, lr, momentum, weight_decay=weight_decay, nesterov=momentum > 0)
    return optimizer, CosineAnnealingLR(optimizer, trainer.max_epochs, lr_min)


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
