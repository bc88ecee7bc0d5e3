"""What both commands share: one parser with helpful errors, quiet libraries, mistakes without tracebacks."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

import supernet.strategies
from supernet.callbacks import EpochLines
from supernet.errors import SupernetError, nearest
from supernet.genotype import Genotype
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
        print(f"error: {self._explain(message)}", file=sys.stderr)
        raise SystemExit(2)

    def _explain(self, message: str) -> str:
        options = [option for action in self._actions for option in action.option_strings]
        if match := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
            return _unknown_option(match[1].partition("=")[0], options)
        if match := re.search(r"Group '(.+)' does not accept option '(.+)'", message):
            return _unknown_option(f"--{match[1]}.{match[2]}", options)
        if match := re.search(r"Option '(.+)' is not accepted", message):
            return _unknown_option(f"--model.search.{match[1]}", _strategy_options())
        if 'Parser key "model.search":' in message:
            return _explain_strategy(message)
        return " ".join(message.split())


def _unknown_option(name: str, options: list[str]) -> str:
    guess = nearest(name, options).partition("(known:")[0]
    return f"unknown option {name}; {guess}--help lists all options"


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

    def __init__(
        self,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        args: Sequence[str],
        usage: str,
        description: str,
        callbacks: list[Callback],
    ) -> None:
        super().__init__(
            model_class,
            datamodule_class,
            args=list(args),
            run=False,
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False, "description": description, "usage": usage},
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={
                "callbacks": [*callbacks, ModelCheckpoint(filename="last", enable_version_counter=False)],
                "devices": 1,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
            },
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Model and data first: ``--help`` opens with what this project is about, and ends with Lightning's trainer."""
        parser.add_lightning_class_args(self._model_class, "model")
        parser.add_lightning_class_args(self._datamodule_class, "data")
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": v for name, v in self.trainer_defaults.items() if name != "callbacks"})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments that were passed in, whatever the program itself was called with."""
        self.config = parser.parse_args(args)

    def run_name(self) -> str:
        """Name of the folder under ``logs`` that holds this kind of run."""
        raise NotImplementedError

    def before_instantiate_classes(self) -> None:
        """Log to ``logs/NAME/version_0, 1, ...`` unless the user chose a logger."""
        if self.config.trainer.logger in (None, True):
            root = self.config.trainer.default_root_dir or "logs"
            self.trainer_logger: Any = TensorBoardLogger(root, name=self.run_name(), default_hp_metric=False)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """The trainer, with the logger chosen above."""
        if hasattr(self, "trainer_logger"):
            kwargs["logger"] = self.trainer_logger
        wanted = self.config.trainer.enable_progress_bar is not False
        if wanted and sys.stderr.isatty():
            self.trainer_defaults["callbacks"].append(
                TQDMProgressBar(refresh_rate=10)
            )  # a refresh waits for the device
        elif wanted:
            self.trainer_defaults["callbacks"].append(EpochLines())
            kwargs["enable_progress_bar"] = False
        trainer = super().instantiate_trainer(**kwargs)
        if trainer.world_size > 1:  # said here, before Lightning starts further processes
            raise SupernetError(f"runs use one device so far, got {trainer.world_size}; pass --trainer.devices 1")
        return trainer


def describe_cell(genotype: Genotype, size: str) -> str:
    """A cell for the terminal: string, index, text table and cost."""
    index = "" if genotype.index is None else f" (official index {genotype.index})"
    return f"\nDerived cell{index}:\n  {genotype}\n\n{sketch_cell(genotype)}\n\n{size}\n"


def command(run: Callable[[Sequence[str]], None], args: Sequence[str], default_config: Path | None) -> int:
    """Run a command; a mistake of the user becomes one sentence.

    Args:
        run: the command.
        args: its command line.
        default_config: configuration for a command line that names none.

    Returns:
        Exit status: 0, or 2 for a mistake of the user.
    """
    if default_config is not None and not any(arg.partition("=")[0] in ("-c", "--config") for arg in args):
        args = ["--config", str(default_config), *args]
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    here = str(Path.cwd())
    sys.path.insert(0, here)  # a strategy in a file beside the user is importable
    try:
        with warnings.catch_warnings():
            for message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            run(args)
    except (SupernetError, MisconfigurationException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        sys.path.remove(here)
    return 0


_KNOWN_WARNINGS = (
    ".*does not have many workers.*",  # the images are in memory: workers would only copy them
    ".*is an instance of `nn.Module` and is already saved.*",  # the strategy, saved as text by the command line
    ".*smaller than the logging interval.*",  # the last batch of an epoch is always looked at
    ".*LeafSpec.*",  # Lightning 2.6 with torch 2.12 and newer
)
"""Warnings of libraries about things that are meant to be as they are."""
