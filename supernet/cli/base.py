"""What both commands share: one parser with helpful errors, quiet libraries, mistakes without tracebacks."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

import supernet.strategies
from supernet.errors import SupernetError, nearest


class Parser(LightningArgumentParser):
    """Names the nearest option, or search strategy, when one is misspelt."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one sentence and exit with status 2."""
        options = [option for action in self._actions for option in action.option_strings]
        unknown = re.search(r"[Uu]nrecognized arguments: (\S+)", message)
        if unknown:
            name = unknown.group(1).partition("=")[0]
            message = f"unknown option {name}; {_closest(name, options)}"
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def _closest(name: str, options: list[str]) -> str:
    guess = nearest(name, options).partition("(known:")[0].strip()
    return f"{guess} --help lists all options".strip()


class CommandLine(LightningCLI):
    """LightningCLI without subcommands, with this project's defaults.

    Args:
        model_class: the LightningModule.
        datamodule_class: the LightningDataModule.
        args: the command line, without the name of the program.
        description: first lines of ``--help``.
        callbacks: callbacks that every run has.
    """

    def __init__(
        self,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        args: Sequence[str],
        description: str,
        callbacks: list[Callback],
    ) -> None:
        super().__init__(
            model_class,
            datamodule_class,
            args=list(args),
            run=False,
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False, "description": description},
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={
                "callbacks": [*callbacks, ModelCheckpoint(filename="last", enable_version_counter=False)],
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
            },
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401
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

    def instantiate_trainer(self, **kwargs: Any) -> Any:  # noqa: ANN401
        """The trainer, with the logger chosen above."""
        if hasattr(self, "trainer_logger"):
            kwargs["logger"] = self.trainer_logger
        return super().instantiate_trainer(**kwargs)


def command(run: Callable[[Sequence[str]], None], args: Sequence[str]) -> int:
    """Run a command; a mistake of the user becomes one sentence. Returns the exit status."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    sys.path.insert(0, str(Path.cwd()))  # a strategy in a file beside the user is importable
    try:
        with warnings.catch_warnings():
            for message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            run(args)
    except SupernetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        sys.path.remove(str(Path.cwd()))
    return 0


_KNOWN_WARNINGS = (
    ".*does not have many workers.*",  # the images are in memory: workers would only copy them
    ".*is an instance of `nn.Module` and is already saved.*",  # the strategy, saved as text by the command line
    ".*LeafSpec.*",  # Lightning 2.6 with torch 2.12 and newer
)
"""Warnings of libraries about things that are meant to be as they are."""
