"""Watching a training: stop where going on makes no sense."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from supernet.errors import SupernetError
from supernet.recipe import is_time_to_log


class FiniteLoss(Callback):
    """Stops at a loss that is not a number, at most one logging interval late, and before a checkpoint is written.

    Args:
        advice: what to change; the end of the error sentence.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses when the loggers read them anyway: in between, a look would make the device wait."""
        if not is_time_to_log(trainer):
            return
        for name, value in trainer.callback_metrics.items():
            if name.endswith("/loss") and not torch.isfinite(value):
                raise SupernetError(
                    f"{name} is {float(value)} at epoch {trainer.current_epoch}, step {batch_idx}: {self.advice};"
                    " what earlier epochs have saved is intact"
                )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the parameters."""
        self._check_parameters(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at the parameters before they are written."""
        self._check_parameters(trainer, pl_module)

    def _check_parameters(self, trainer: Trainer, pl_module: LightningModule) -> None:
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in pl_module.parameters()])
        if not finite.all():
            raise SupernetError(
                f"a parameter is not finite in epoch {trainer.current_epoch}: {self.advice};"
                " what was saved before is intact"
            )
