"""Watching a training: what happens where its numbers are no longer finite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from supernet.errors import SupernetError
from supernet.files import write_whole
from supernet.recipe import is_time_to_log, run_dir
from supernet.tally import Bad, Running, first_bad

BadStep = Literal["stop", "skip"]
"""What to do about a step whose loss or gradient is not finite. It is never taken."""

MOST_IN_A_ROW = 20
"""Skipped steps after which there is nothing left to wait for."""


class FiniteSteps(Callback):
    """Stops at a step whose loss or gradient is not finite, or counts how many were skipped.

    It looks when the loggers read the losses anyway, since a look makes the device wait: the run stops one logging
    interval late at most, and names the step. No such step is ever taken, and no checkpoint is written after one.

    Args:
        advice: what to change; part of the error sentence.
        bad_step: stop, or skip.
    """

    def __init__(self, advice: str, bad_step: BadStep) -> None:
        self.advice, self.bad_step = advice, bad_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look when the loggers do."""
        if is_time_to_log(trainer):
            self._check_steps(trainer, pl_module)
            for part, running in watched(pl_module).items() if self.bad_step == "skip" else ():
                pl_module.log(f"{part}/skipped_steps", float(running.num_bad))

    def _check_steps(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for part, running in watched(pl_module).items():
            if running.bad is not None and (self.bad_step == "stop" or running.num_bad_in_a_row >= MOST_IN_A_ROW):
                raise self._error(trainer, part, running.bad, running.num_bad_in_a_row)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the steps since the last look, if an epoch was ended before its end, and at the parameters."""
        for running in watched(pl_module).values():
            running.look()
        self._check_steps(trainer, pl_module)
        self._check_parameters(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at everything before it is written."""
        for part, running in watched(pl_module).items():
            if self.bad_step == "stop" and (bad := first_bad(running.tally.read())) is not None:
                raise self._error(trainer, part, bad, 1)
        self._check_parameters(trainer, pl_module)

    def _error(self, trainer: Trainer, part: str, bad: Bad, in_a_row: int) -> SupernetError:
        batch = trainer.fit_loop.batch_idx - bad.steps_ago
        listed = self._list_images(trainer, batch)
        rows = f", the first of {in_a_row} such steps in a row" if in_a_row >= MOST_IN_A_ROW else ""
        return SupernetError(
            f"a step is not finite: {part}/loss is {bad.loss:.6g} and the norm of its gradient {bad.norm:.6g} at epoch"
            f" {trainer.current_epoch}, step {batch}{rows}: {self.advice};{listed} {_saved(trainer)}"
        )

    def _list_images(self, trainer: Trainer, batch: int) -> str:
        """Write down which images the step had, if the data can say; part of the error sentence."""
        numbers_of = getattr(getattr(trainer, "datamodule", None), "image_numbers", None)
        if numbers_of is None:
            return ""
        path = run_dir(trainer) / "bad_step.json"
        if trainer.is_global_zero:
            step = {"epoch": trainer.current_epoch, "step": batch, "images": numbers_of(trainer.current_epoch, batch)}
            write_whole(path, (json.dumps(step) + "\n").encode())
        return f" its images are listed in {path};"

    def _check_parameters(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = [*pl_module.parameters(), *(buffer for buffer in pl_module.buffers() if buffer.is_floating_point())]
        finite = torch.stack([value.detach().isfinite().all() for value in values])
        if not finite.all():
            raise SupernetError(
                f"a parameter is not finite in epoch {trainer.current_epoch}: {self.advice}; {_saved(trainer)}"
            )


def watched(module: nn.Module) -> Mapping[str, Running]:
    """The steps that a module counts, by part."""
    running: Mapping[str, Running] = getattr(module, "running", {})
    return running


def _saved(trainer: Trainer) -> str:
    paths = [getattr(keeper, "path", None) for keeper in trainer.checkpoint_callbacks]
    kept = [path for path in paths if isinstance(path, Path) and path.is_file()]
    return f"the last good checkpoint is {kept[0]}" if kept else "nothing was saved before"
