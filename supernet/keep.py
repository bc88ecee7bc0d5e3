"""Keeping a run: its state on the disk, whole at every moment, and a way out when it is asked to stop."""

from __future__ import annotations

import io
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from supernet.errors import SupernetError
from supernet.files import write_whole
from supernet.ranks import largest, world_size
from supernet.recipe import run_dir

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what a cluster sends before it takes a machine away; what SLURM sends where ``--signal`` asks for it."""


class Stopped(BaseException):
    """A run was asked to stop, and has saved its state; its argument is the number of the signal."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints by `write_whole`: the one before survives until the next is on the disk."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; ``storage_options`` are for other kinds of storage."""
        buffer = io.BytesIO()  # PyTorch's own writer does not say when a disk is full
        torch.save(checkpoint, buffer)
        write_whole(path, buffer.getvalue())


class LastCheckpoint(Checkpoint):
    """Keeps the state of a run in ``checkpoints/last.ckpt``: after every epoch, and every few minutes in between.

    A run that is asked to stop saves its state after the step at hand, or at once if it is validating, and ends with
    `Stopped`. Several ranks finish a validation, since all of them have to stop at the same moment. A second Ctrl-C
    does not wait. Whatever happens, the file is the whole state of some moment: a run that goes on from it is the run
    that was never interrupted.

    Args:
        minutes: how long an epoch may go on without a save.
        check: raises ValueError for a file that a run could not go on from; called once, after the first save.

    Attributes:
        began: whether a step was taken: everything that a run goes on from is in its place, and fits.
    """

    def __init__(self, minutes: float = 10.0, check: Callable[[str], None] | None = None) -> None:
        self.minutes, self.check = minutes, check
        self.began = False
        self._num_optimizers: int | None = None
        self._seconds_before = 0.0
        self._ended: float | None = None
        self._told: int | None = None
        self._asked: int | None = None
        self._looking = False
        self._has_ended = False
        self._random: dict[str, Any] | None = None
        self._started = time.monotonic()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write checkpoints whole."""
        self.path = run_dir(trainer) / "checkpoints" / "last.ckpt"
        trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the random numbers of the checkpoint, and listen to signals from now on."""
        if self._random is not None:
            set_random_state(self._random)
        trainer.should_stop = trainer.should_stop or self._has_ended  # a run that somebody ended early stays so
        self._check_optimizers(trainer)
        self._told, self._asked = (signal.SIGTERM if trainer.received_sigterm else None), None
        self._started = self._saved = time.monotonic()
        self._ended = None
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:  # the trainer puts the handlers back that it found
                signal.signal(number, self._ask)

    def _check_optimizers(self, trainer: Trainer) -> None:
        """A trainer restores as many as there are, and would begin with the others from nothing."""
        if self._num_optimizers not in (None, len(trainer.optimizers)):
            raise SupernetError(
                f"{self.path} is damaged: it has the state of {self._num_optimizers} optimizers, and this training has"
                f" {len(trainer.optimizers)}; leave --resume out to begin anew"
            )

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._told is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._told = number
        if number == signal.SIGINT:
            os.write(2, b"stopping after this step; press Ctrl-C again to stop without saving\n")
        if world_size() > 1:  # all ranks stop at the same step: see `_agree`
            return
        first, self._asked = self._asked is None, number
        if first and self._looking:  # which changes nothing that has to be kept, and may take long
            raise Stopped(number)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save in the middle of an epoch, if it is time to or if this is the last chance."""
        self.began = True
        due = self._agree(trainer, time.monotonic() - self._saved > 60 * self.minutes)
        if not trainer.is_last_batch and (due or self._asked is not None):
            self.save(trainer)

    def _agree(self, trainer: Trainer, due: bool) -> bool:
        """Let all ranks know if one was asked to stop; whether one of them finds that it is time to save."""
        if world_size() == 1:
            self._asked = self._told
            return due
        told, due_somewhere = largest([self._told or 0, due], trainer.strategy.root_device)
        self._asked = told or None
        return due_somewhere > 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop where everything about the last step is logged and saved."""
        self._stop_if_asked()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a validation rather than after it."""
        if trainer.validating and trainer.state.fn == TrainerFn.FITTING:
            self._stop_if_asked()
            self._looking = world_size() == 1

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a validation is told to others, once, and soon over."""
        self._looking = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after an epoch."""
        self.save(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs."""
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._asked is not None:
            raise Stopped(self._asked)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what was reached before a validation that was cut short; a resumed run does it anew."""
        if isinstance(exception, Stopped) and trainer.validating:
            self._looking = False
            pl_module.on_validation_end()
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.reset()
            progress.increment_ready()  # as if it had ended in the first batch: the trainer repeats all of them
            progress.increment_started()
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint, after what was logged until now."""
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path)
        check, self.check = self.check, None
        if check is not None and trainer.is_global_zero:
            try:
                check(str(self.path))
            except ValueError as error:  # now, and not after days
                raise SupernetError(
                    f"this run could not go on from what it saves, {self.path}: {error}; the strategy and the callbacks"
                    " must keep their state in tensors, numbers, text, lists, and dictionaries with text as keys"
                ) from None
        self._saved = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state of all global random numbers, and how long the run took."""
        checkpoint["random"] = random_state()
        checkpoint["seconds"] = self.seconds
        checkpoint["ended"] = trainer.should_stop

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember them until training starts."""
        self._num_optimizers = len(checkpoint["optimizer_states"])
        self._random, self._seconds_before = checkpoint.get("random"), checkpoint.get("seconds", 0.0)
        self._ended = self._started  # unless training goes on
        self._has_ended = checkpoint.get("ended", False)

    @property
    def seconds(self) -> float:
        """How long the training took until now, in all processes that had a part in it."""
        return self._seconds_before + (time.monotonic() if self._ended is None else self._ended) - self._started

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._ended = time.monotonic()


def random_state() -> dict[str, Any]:
    """The state of the global generators of Python, NumPy and PyTorch, in tensors and plain values.

    Nothing in this package draws from them while it trains; a strategy of your own may.
    """
    numpy = dict(np.random.get_state(legacy=False))  # noqa: NPY002  the global one
    numpy["state"] = {"key": numpy["state"]["key"].tolist(), "pos": int(numpy["state"]["pos"])}
    state: dict[str, Any] = {"python": random.getstate(), "numpy": numpy}
    state["torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore `random_state`; a device that is not here is left out."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy = state["numpy"]
    key = np.array(numpy["state"]["key"], dtype=np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
