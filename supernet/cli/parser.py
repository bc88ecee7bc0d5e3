"""The parser of both commands: mistakes become one sentence that names the nearest thing that exists."""

from __future__ import annotations

import inspect
import os
import re
import sys
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

import supernet.strategies
from supernet.cli.configuration import read_pipe
from supernet.errors import guess, nearest, one_line

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
