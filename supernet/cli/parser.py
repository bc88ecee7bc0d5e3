"""The parser of both commands: mistakes become one sentence that names the nearest thing that exists."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

import supernet.derivation
import supernet.strategies
import supernet.terms
from supernet.cli.configuration import read_pipe
from supernet.derivation import Derivation
from supernet.errors import guess, nearest, one_line
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

    def options(self, key: str) -> list[str]:
        """What these classes are made with."""
        classes = [getattr(self.module, name) for name in self.names]
        return [f"--model.{key}.{name}" for cls in classes for name in inspect.signature(cls).parameters]


CHOICES = {
    "search": Choice("search strategy", supernet.strategies, SearchStrategy, "Sigmoid"),
    "terms": Choice("term", supernet.terms, SearchTerm, "Penalty"),
    "derivation": Choice("way to derive a cell", supernet.derivation, Derivation, "Annealing"),
}
"""Options of the model that are classes, by name."""

STRATEGIES = CHOICES["search"].names
"""Search strategies that come with the package, by the name the command line knows them under."""


class Parser(LightningArgumentParser):
    """Says in one sentence what is wrong, and names the nearest option, search strategy, term, or way to derive."""

    given: ClassVar[Sequence[str]] = ()
    """The last command line: the options of a class are parsed by parsers of their own, which do not see it."""

    def parse_args(self, args: Any = None, *more: Any, **options: Any) -> Any:
        """Parse a command line, and remember it for what there may be to say about it."""
        Parser.given = [str(word) for word in args or ()]
        return super().parse_args(args, *more, **options)

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
            # A name without a dot is an option of a class; a YAML key that fits nowhere comes with its path.
            if "." in match[1]:
                return _unknown_option(f"--{match[1]}", options)
            return _unknown_option(self._path_of(match[1]), options + _class_options())
        if (match := re.search(r'Parser key "model\.(\w+)":', message)) and match[1] in CHOICES:
            return _explain_class(match[1], message)
        return " ".join(message.split())

    def _path_of(self, name: str) -> str:
        words = [word.partition("=")[0] for word in self.given]
        return next((word for word in words if word.endswith(f".{name}")), f"--model.search.{name}")


def _unknown_option(name: str, options: list[str]) -> str:
    return f"unknown option {name}; {guess(name, options)}--help lists all options"


def _class_options() -> list[str]:
    return [option for key, choice in CHOICES.items() for option in choice.options(key)]


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
