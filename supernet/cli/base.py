"""What both commands share: one parser with helpful errors, quiet libraries, mistakes without tracebacks."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException

import supernet.strategies
from supernet.callbacks import EpochLines
from supernet.cli import runs
from supernet.cli.checkpoint import load_checkpoint, progress
from supernet.cli.configuration import MODE, check_arguments, read_pipe
from supernet.cli.restored import check_counted
from supernet.errors import SupernetError, guess, nearest, one_line
from supernet.files import FULL, remove_leftovers, write_whole
from supernet.genotype import Genotype
from supernet.keep import LastCheckpoint, Stopped
from supernet.parallel import check_processes, choose_strategy, decided, is_first, launched_defaults
from supernet.plot import sketch_cell

STRATEGIES = [
    name
    for name, value in vars(supernet.strategies).items()
    if inspect.isclass(value)
    and issubclass(value, supernet.strategies.SearchStrategy)
    and not inspect.isabstract(value)
]
"""Search strategies that come with the package, by the name the command line knows them under."""


class Parser(LightningArgumentParser):
    """Says in one sentence what is wrong, and names the nearest option or search strategy."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one sentence and exit with status 2."""
        print(f"error: {one_line(self._explain(message))}", file=sys.stderr)
        raise SystemExit(2)

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Read a configuration that is not too long to be one."""
        text = read_pipe(os.fspath(path))
        return super().parse_path(path, *args, **kwargs) if text is None else self.parse_string(text, **kwargs)

    def _explain(self, message: str) -> str:
        options = [option for action in self._actions for option in action.option_strings]
        if match := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
            return _unknown_option(match[1].partition("=")[0], options)
        if match := re.search(r"Group '(.+)' does not accept option '(.+)'", message):
            return _unknown_option(f"--{match[1]}.{match[2]}", options)
        if match := re.search(r"Option '(.+)' is not accepted", message):
            # A name without a dot is an option of the strategy; a YAML key that fits nowhere comes with its path.
            strategy = [] if "." in match[1] else _strategy_options()
            return _unknown_option(f"--model.search.{match[1]}" if strategy else f"--{match[1]}", options + strategy)
        if 'Parser key "model.search":' in message:
            return _explain_strategy(message)
        return " ".join(message.split())


def _unknown_option(name: str, options: list[str]) -> str:
    return f"unknown option {name}; {guess(name, options)}--help lists all options"


def _strategy_options() -> list[str]:
    classes = [getattr(supernet.strategies, name) for name in STRATEGIES]
    return [f"--model.search.{name}" for cls in classes for name in inspect.signature(cls).parameters]


def _explain_strategy(message: str) -> str:
    match = re.search(r"(?:import path string: |Import path |class_path ')([\w.]+)", message)
    name = match[1] if match else ""
    module, _, short = name.rpartition(".")
    if name and module in ("", "supernet.strategies"):
        return (
            f"unknown search strategy {name!r}: {nearest(short, STRATEGIES)}; a strategy of your own is named by its"
            " import path, such as mine.Sigmoid for class Sigmoid in mine.py"
        )
    reason = message.strip().splitlines()[-1].strip(" -")
    return f"--model.search {name} cannot be used: {reason}".replace("  ", " ")


class CommandLine(LightningCLI):
    """LightningCLI without subcommands, with this project's defaults.

    Args:
        model_class: the LightningModule.
        datamodule_class: the LightningDataModule.
        args: the command line, without the name of the program.
        usage: the command with its arguments, in one line.
        description: what the command does.
        callbacks: callbacks that every run has.
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
        callbacks: list[Callback],
    ) -> None:
        self.keeper = LastCheckpoint()
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
                    "callbacks": [*callbacks, self.keeper],
                    **launched_defaults(),
                    "enable_model_summary": False,
                    "num_sanity_val_steps": 0,
                    "log_every_n_steps": 10,
                },
            )
        except (SupernetError, MisconfigurationException):
            raise
        except (ValueError, TypeError, OSError, RuntimeError, AttributeError) as error:
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


def requeue() -> None:
    """Put the job of this process back into SLURM's queue, if it is one."""
    if job := os.environ.get("SLURM_JOB_ID"):
        try:
            subprocess.run(["scontrol", "requeue", job], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"could not requeue job {job} ({error}); submit it again", file=sys.stderr)


class Interrupted(KeyboardInterrupt):
    """A run was stopped from outside; its arguments are the checkpoint it left, or None, and the signal."""


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


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep Lightning's tips to itself, and warnings about things that are meant to be as they are."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    said, threading.excepthook = threading.excepthook, _say_unless_said_again
    with warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            threading.excepthook = said


def _say_unless_said_again(args: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread hands what stopped it on to the next one who logs, who says it in one sentence."""
    if type(args.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(args)


def command(run: Callable[[Sequence[str]], None], args: Sequence[str]) -> int:
    """Run a command; a mistake of the user becomes one sentence.

    Args:
        run: the command.
        args: its command line.

    Returns:
        Exit status: 0; 2 for a mistake of the user; 128 and the number of the signal for a run that was stopped.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)  # a strategy in a file beside the user is importable
    try:
        with quiet_libraries():
            run(args)
    except BrokenPipeError:  # the reader of the output has left
        sys.stdout = None
        return 1
    except (SupernetError, MisconfigurationException, OSError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        path, number = stop.args
        if not is_first():  # rank 0 speaks for all; Lightning kills it when another ends with an error
            return 0
        saved = f"its state is {path}: the same command with --resume goes on" if path else "nothing was saved yet"
        print(f"stopped by {signal.Signals(number).name}; {saved}", file=sys.stderr)
        return 128 + int(number)
    finally:
        sys.path.remove(here)
    return 0


_KNOWN_WARNINGS = (
    ".*does not have many workers.*",  # the images are in memory: workers would only copy them
    ".*is an instance of `nn.Module` and is already saved.*",  # the strategy, saved as text by the command line
    ".*smaller than the logging interval.*",  # the last batch of an epoch is always looked at
    ".*no pre-optimization state was saved.*",  # a run goes on from the state after a step
    ".*lr_scheduler.step.*before.*",  # the steps were taken before the run was interrupted
    ".*sync_dist=True.*",  # what is logged was added up over all devices before
    ".*LeafSpec.*",  # Lightning 2.6 with torch 2.12 and newer
)
"""Warnings of libraries about things that are meant to be as they are."""
