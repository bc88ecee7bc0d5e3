"""What both commands share: their options, the folder of a run, its trainer, and how a training ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from supernet.callbacks import EpochLines
from supernet.cli import runs
from supernet.cli.archive import check_archive
from supernet.cli.checkpoint import load_checkpoint, progress
from supernet.cli.command import Interrupted, requeue
from supernet.cli.configuration import MODE, check_arguments
from supernet.cli.parser import Parser
from supernet.cli.restored import check_counted
from supernet.cli.table import add_table_options
from supernet.errors import SupernetError
from supernet.files import FULL, remove_leftovers, write_whole
from supernet.genotype import Genotype
from supernet.keep import LastCheckpoint, Stopped
from supernet.parallel import check_processes, choose_strategy, decided, is_first, launched_defaults
from supernet.plot import sketch_cell


class CommandLine(LightningCLI):
    """LightningCLI without subcommands, with this project's defaults.

    Args:
        model_class: the LightningModule.
        datamodule_class: the LightningDataModule.
        args: the command line, without the name of the program.
        usage: the command with its arguments, in one line.
        description: what the command does.
    """

    folder: Path
    checkpoint_path: Path | None
    num_batches: int | None
    _lock: int | None = None

    def __init__(
        self,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        args: Sequence[str],
        usage: str,
        description: str,
    ) -> None:
        self.keeper = LastCheckpoint(check=check_archive)
        check_arguments(args)
        try:
            super().__init__(
                model_class,
                datamodule_class,
                args=list(args),
                run=False,
                parser_class=Parser,
                parser_kwargs={"parser_mode": MODE, "allow_abbrev": False, "description": description, "usage": usage},
                save_config_callback=None,  # `fit` writes it, whole
                seed_everything_default=0,
                auto_configure_optimizers=False,
                trainer_defaults={
                    "callbacks": [self.keeper],
                    **launched_defaults(),
                    "enable_model_summary": False,
                    "num_sanity_val_steps": 0,
                    "log_every_n_steps": 10,
                },
            )
        except (SupernetError, MisconfigurationException):
            raise
        except (ValueError, TypeError, OSError, RuntimeError, AttributeError) as error:
            cause: BaseException | None = error
            while cause is not None:  # the parser wraps up what a class says of its options
                if isinstance(cause, SupernetError):
                    raise cause from None
                cause = cause.__cause__
            # What PyTorch and Lightning say of a value they cannot use; nothing has run yet.
            raise SupernetError(f"this configuration cannot be used: {' '.join(str(error).split())}") from error

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Model and data first: ``--help`` opens with what this project is about, and ends with Lightning's trainer."""
        parser.add_lightning_class_args(self._model_class, "model")
        parser.add_lightning_class_args(self._datamodule_class, "data")
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": v for name, v in self.trainer_defaults.items() if name != "callbacks"})
        parser.add_argument(
            "--resume",
            action="store_true",
            help="Go on with the newest run that was given the same options; begin one where there is none.",
        )
        add_table_options(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments that were passed in, whatever the program itself was called with."""
        self.config = parser.parse_args(args)

    def run_name(self) -> str:
        """Name of the folder under ``logs`` that holds this kind of run."""
        raise NotImplementedError

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer; every run has a folder of its own, ``logs/NAME/version_0, 1, ...``, also without a logger."""
        options = self.config.trainer
        _check_trainer(options)
        kwargs["strategy"] = choose_strategy(options.devices, options.num_nodes, options.strategy)
        self.choose_folder(Path(options.default_root_dir or "logs") / self.run_name())
        kwargs["default_root_dir"] = str(self.folder)
        if options.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(
                self.folder.parent.parent,
                name=self.folder.parent.name,
                version=self.folder.name,
                default_hp_metric=False,
                purge_step=self.num_batches,  # what was logged after the checkpoint is logged again
            )
        if options.enable_progress_bar is not False:
            on_terminal = sys.stderr.isatty()
            # Every refresh of the bar waits for the device.
            shown = TQDMProgressBar(refresh_rate=10) if on_terminal else EpochLines()
            self.trainer_defaults["callbacks"].append(shown)
            kwargs["enable_progress_bar"] = on_terminal
        if options.benchmark is None and not options.deterministic:
            kwargs["benchmark"] = True  # cuDNN tries its algorithms once: the shapes never change
        try:
            trainer = super().instantiate_trainer(**kwargs)
            check_processes(trainer)
            chosen = decided(trainer, json.dumps([str(self.folder), str(self.checkpoint_path or "")]))
        except Exception:
            if is_first():
                runs.discard_if_empty(self.folder)
            self.close()
            raise
        folder, checkpoint = json.loads(chosen)
        self.folder, self.checkpoint_path = Path(folder), Path(checkpoint) if checkpoint else None
        return trainer

    def close(self) -> None:
        """Let other processes go on with the run."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def choose_folder(self, parent: Path) -> None:
        """Find the run to go on with, or make the folder of a new one; rank 0 does it for all."""
        self.checkpoint_path, self.num_batches = None, None
        self.written = self.parser.dump(self.config, skip_none=False)
        if not is_first():
            self.folder = parent / "version_0"  # until rank 0 has told; nothing is written
            return
        found, told = runs.find(parent, self.written) if self.config.resume else (None, "")
        self.folder = runs.claim(parent) if found is None else found
        self._lock = runs.lock(self.folder)
        if found is not None:
            remove_leftovers(found)
            self.checkpoint_path = found / runs.CHECKPOINT
            checkpoint = load_checkpoint(str(self.checkpoint_path))
            self.num_batches, where = progress(checkpoint)
            check_counted(checkpoint)
            told += f" after {where}"
        if told:
            print(told, flush=True)

    def fit(self) -> None:
        """Train; a stop from outside becomes one sentence that says how to go on."""
        if self.trainer.is_global_zero:
            write_whole(self.folder / runs.CONFIG, self.written.encode())
        try:
            self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.checkpoint_path, weights_only=True)
        except Stopped as stop:
            (number,) = stop.args
            if number == signal.SIGUSR1 and self.trainer.is_global_zero:
                requeue()
            raise Interrupted(self.kept(), number) from None
        except SystemExit as stop:  # Lightning's answer to a second Ctrl-C, or to a signal before the first step
            number = signal.SIGTERM if isinstance(stop, SIGTERMException) else signal.SIGINT
            raise Interrupted(self.kept(), number) from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise SupernetError(
                f"the disk is full ({error.strerror}): make room, then repeat the command with --resume;"
                f" {f'it goes on from {path}' if (path := self.kept()) else 'nothing was saved yet'}"
            ) from error
        except (RuntimeError, LookupError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, SupernetError) or self.checkpoint_path is None or self.keeper.began:
                raise
            raise SupernetError(
                f"{self.checkpoint_path} is damaged, or holds another training ({type(error).__name__});"
                " leave --resume out to begin anew"
            ) from error
        if not self.trainer.global_step:
            raise SupernetError(
                "no batch was trained; look at --trainer.limit_train_batches, --trainer.max_steps and"
                " --trainer.max_time"
            )

    def kept(self) -> Path | None:
        """The checkpoint that this run has left, if it has."""
        path = self.folder / runs.CHECKPOINT
        return path if path.is_file() else None


def _check_trainer(options: Any) -> None:
    """Refuse options of the Trainer that these commands could only ignore, or that end in a bare library error."""
    if options.max_epochs is None:
        raise SupernetError("the schedule needs a number of epochs; pass --trainer.max_epochs")
    if options.check_val_every_n_epoch is not None and options.check_val_every_n_epoch < 1:
        raise SupernetError(f"check_val_every_n_epoch must be at least 1, got {options.check_val_every_n_epoch}")
    if options.val_check_interval is not None:
        raise SupernetError("validation follows whole epochs; pass --trainer.check_val_every_n_epoch instead")
    if options.enable_checkpointing is False:
        raise SupernetError("every run keeps its last checkpoint; leave --trainer.enable_checkpointing out")
    if options.fast_dev_run:
        raise SupernetError("fast_dev_run keeps nothing; pass --trainer.max_epochs 1 --trainer.limit_train_batches 1")
    if options.sync_batchnorm:
        raise SupernetError("Lightning's sync_batchnorm does not know search cells; pass --model.sync_batchnorm")
    if options.overfit_batches:
        raise SupernetError("overfit_batches would replace the two halves; pass --trainer.limit_train_batches")


def describe_cell(genotype: Genotype, size: str) -> str:
    """A cell for the terminal: string, index, text table and cost."""
    index = "" if genotype.index is None else f" (official index {genotype.index})"
    return f"\nDerived cell{index}:\n  {genotype}\n\n{sketch_cell(genotype)}\n\n{size}\n"
