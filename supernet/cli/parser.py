"""The parser of both commands: mistakes become one sentence that names the nearest thing that exists."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from jsonargparse import _typehints
from pytorch_lightning.cli import LightningArgumentParser

import supernet.derivation
import supernet.strategies
import supernet.terms
from supernet.cli.configuration import read_pipe
from supernet.derivation import Derivation
from supernet.errors import guess, nearest, one_line
from supernet.space import CellSpace
from supernet.split import Split
from supernet.strategies import SearchStrategy
from supernet.terms import SearchTerm


class Choice(NamedTuple):
    """An option whose value is a class."""

    what: str
    module: ModuleType
    base: type
    example: str

    @property
    def names(self) -> list[str]:
        """The classes that come with the package, by the names that the command line knows them under."""
        return [
            name
            for name, value in vars(self.module).items()
            if inspect.isclass(value)
            and issubclass(value, self.base)
            and value is not SearchTerm
            and not inspect.isabstract(value)
        ]


CHOICES = {
    "search": Choice("search strategy", supernet.strategies, SearchStrategy, "Sigmoid"),
    "terms": Choice("term", supernet.terms, SearchTerm, "Penalty"),
    "derivation": Choice("way to derive a cell", supernet.derivation, Derivation, "Annealing"),
}
"""Options of the model that are classes, by name."""

STRATEGIES = CHOICES["search"].names
"""Search strategies that come with the package, by the name the command line knows them under."""


CLASSES = {**{key: choice.base for key, choice in CHOICES.items()}, "split": Split, "space": CellSpace}
"""Options of the model that are made with options of their own, by name."""


class Parser(LightningArgumentParser):
    """Says in one sentence what is wrong, and names the nearest option, search strategy, term, or way to derive."""

    made: type | None = None
    """The class whose options it parses: jsonargparse has a parser for each; None for a command."""

    def add_class_arguments(self, theclass: type, nested_key: str | None = None, *more: Any, **options: Any) -> Any:
        """Take the options of a class, and remember which if there are no others."""
        if nested_key is None:
            self.made = theclass
        return super().add_class_arguments(theclass, nested_key, *more, **options)

    def parse_args(self, *args: Any, **options: Any) -> Any:
        """Parse a command line; a class that is named anew starts from its own defaults."""
        with _own_defaults():
            return super().parse_args(*args, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one sentence and exit with status 2."""
        print(f"error: {one_line(self._explain(message))}", file=sys.stderr)
        raise SystemExit(2)

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Read a configuration that is not too long to be one."""
        text = read_pipe(os.fspath(path))
        return super().parse_path(path, *args, **kwargs) if text is None else self.parse_string(text, **kwargs)

    def _explain(self, message: str) -> str:
        if self.made is not None and (sentence := _explain_option(self.made, message)):
            return sentence
        options = [option for action in self._actions for option in action.option_strings]
        if match := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
            return _unknown_option(match[1].partition("=")[0], options)
        if match := re.search(r"Group '(.+)' does not accept option '(.+)'", message):
            return _unknown_option(f"--{match[1]}.{match[2]}", options)
        if match := re.search(r"Option '(.+)' is not accepted", message):
            return _unknown_option(f"--{match[1]}", options)
        if match := re.search(r'Parser key "model\.(\w+)":', message):
            if match[1] in CHOICES:
                return _explain_class(match[1], message)
            if match[1] in CLASSES:
                return _explain_group(match[1], message)
        return " ".join(message.split())


@contextmanager
def _own_defaults() -> Iterator[None]:
    """Let a class that is named in another's place keep nothing of the other's options.

    jsonargparse hands on what both have an option for, defaults included: temperatures of GDAS to SNAS.
    """
    before = _typehints.discard_init_args_on_class_path_change
    _typehints.discard_init_args_on_class_path_change = _discard
    try:
        yield
    finally:
        _typehints.discard_init_args_on_class_path_change = before


def _discard(_: object, before: Any, now: Any) -> None:
    if before and "init_args" in before and before["class_path"] != now["class_path"]:
        before["init_args"] = type(before)()


def _unknown_option(name: str, options: list[str]) -> str:
    return f"unknown option {name}; {guess(name, options)}--help lists all options"


def _explain_option(made: type, message: str) -> str | None:
    """What is wrong with an option of a class."""
    key = next((key for key, base in CLASSES.items() if issubclass(made, base)), None)
    place = f"--model.{key}." if key else ""
    if match := re.search(r"Option '(.+)' is not accepted|[Uu]nrecognized arguments: -*([^\s=]+)", message):
        name, own = match[1] or match[2], [*inspect.signature(made).parameters]
        return f"{made.__name__} has no option {name}; {guess(name, own)}its options are {', '.join(own) or 'none'}"
    if match := re.search(r"following arguments are required: (.+)", message):
        names = match[1].split(", ")
        needed = " and ".join(f"{'an' if name[0] in 'aeio' else 'a'} {name}" for name in names)
        return f"{made.__name__} needs {needed}: pass {' '.join(f'{place}{name}=...' for name in names)}"
    if match := re.match(r'Parser key "([\w.]+)":(.*)', message, re.DOTALL):
        return f"{place}{match[1]}: {' '.join(match[2].split())}"
    return None


def _explain_group(key: str, message: str) -> str:
    parameters = inspect.signature(CLASSES[key]).parameters
    value = message.rpartition("Given value: ")[2].strip() if "Given value: " in message else ""
    got = f", got {value}" if value else ""
    options = ", ".join(f"--model.{key}.{name}" for name in parameters)
    return f"--model.{key} takes no value but options ({options}){got}"


def _explain_class(key: str, message: str) -> str:
    choice = CHOICES[key]
    if key == "terms" and (
        match := re.search(r"Expected a <class 'list'>.*Given value: (\w+)\s*$", message, re.DOTALL)
    ):
        return f"terms are a list: pass --model.terms+={match[1]}"
    path = r"(?:import path string: |Import path |class_path ')(\w[\w.]*\.\w+|\w+\n|\w+$)"
    match = re.search(path, message) or re.search(r"Given value: ([\w.]+)\s*$", message)
    name = match[1].strip() if match else ""
    module, _, short = name.rpartition(".")
    if name and module in ("", choice.module.__name__):
        return (
            f"unknown {choice.what} {name!r}: {nearest(short, choice.names)}; a {choice.what.partition(' to ')[0]} of"
            f" your own is named by its import path, such as mine.{choice.example} for class {choice.example} in"
            " mine.py"
        )
    lines = message.strip().splitlines()
    reason = lines[-1].strip(" -")
    if key != "search":  # the type of the option is a union: the reason follows what it is a reason for
        at = next((at for at, line in enumerate(lines) if "Problem with" in line), None)
        reason = f"it is no {choice.base.__name__}" if at is None else lines[at + 1].strip(" -")
    return f"--model.{key} {name} cannot be used: {reason}".replace("  ", " ")
