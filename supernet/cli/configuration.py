"""Configurations may come from anybody: what one may cost to read is bounded before it is read."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from supernet.errors import SupernetError

MODE = "bounded yaml"
"""Name of the loader, for a parser's ``parser_mode``."""

MAX_BYTES, _MAX_VALUES, _MAX_DEPTH, _MAX_LETTERS, _MAX_DIGITS = 2**20, 10_000, 100, 10_000, 1_000
"""Of a configuration, and letters of a value in quotes and of one without; configs/ has 1,200 bytes and 50 values."""

_GROUPS = ("model", "data", "trainer")
_OWN = ("model.search.", "model.terms.", "model.derivation.")
"""Options of classes: what one of one's own makes of its text is its own business."""

_NO_CONFIGURATION = ("checkpoint", "genotype", "table")


def load(text: str) -> Any:
    """Read YAML as jsonargparse does, within bounds."""
    check_yaml(text)
    try:
        value = get_loader("yaml")(text)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise _refused(f"one of its values cannot be read ({error})") from None
    if not isinstance(value, str):  # text names a file only where it is an option by itself: `check_arguments`
        check_named_files(value)
    return value


set_loader(MODE, load, (yaml.YAMLError,))


def _refused(reason: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"this configuration is refused: {reason}")


def check_yaml(text: str) -> None:
    """Raise a YAMLError for more values than the limit once references are written out, or deeper ones, or tags."""
    if len(text) > MAX_BYTES:
        raise _refused(f"it has {len(text):,} letters, and {MAX_BYTES:,} are the limit")
    sizes: dict[str, int] = {}
    groups: list[tuple[str | None, int]] = []  # the reference to each open group, and the values before it
    num_values = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = groups.pop()
            if anchor is not None:
                sizes[anchor] = num_values - before
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise _refused(f"*{event.anchor:.80} refers to something that is not complete before it")
            num_values += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            if event.tag is not None:
                raise _refused(f"it uses the tag {event.tag:.80}; write plain values")
            num_values += 1
            if isinstance(event, yaml.CollectionStartEvent):
                groups.append((event.anchor, num_values - 1))
            else:
                _check_scalar(event)
                sizes[event.anchor] = 1
        if num_values > _MAX_VALUES:
            raise _refused(f"it has more than {_MAX_VALUES:,} values, references written out")
        if len(groups) > _MAX_DEPTH:
            raise _refused(f"its values are nested more than {_MAX_DEPTH} deep")


def _check_scalar(event: yaml.ScalarEvent) -> None:
    limit = _MAX_LETTERS if event.style else _MAX_DIGITS
    if len(event.value) > limit:
        raise _refused(f"one of its values has {len(event.value):,} letters, and {limit:,} are the limit")


def check_arguments(args: Sequence[str]) -> None:
    """Refuse files on a command line that are too long for a configuration, before a parser reads them.

    Raises:
        SupernetError: an option of a group names such a file, or a pipe, whose length nobody knows.
    """
    for position, word in enumerate(args):
        option, equals, value = word.partition("=")
        if not equals:
            value = args[position + 1] if position + 1 < len(args) else ""
        name = option.removeprefix("--")
        if name.partition(".")[0] in _GROUPS and not name.startswith(_OWN):
            _check_file(value)


def check_named_files(value: Any) -> None:
    """Refuse values that name files too long for a configuration: a parser may read them in its place.

    Raises:
        SupernetError: a value names such a file.
    """
    for name, text in _texts("", value):
        if name not in _NO_CONFIGURATION:
            _check_file(text)


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "init_args":  # what a class of one's own makes of its text is its own business
                yield from _texts(str(key), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(name, inner)


def _check_file(text: str) -> None:
    try:
        status = os.stat(os.path.expanduser(text))
    except (OSError, ValueError):
        return
    if stat.S_ISFIFO(status.st_mode):
        raise SupernetError(f"{text} is a pipe; only --config reads from one")
    if stat.S_ISREG(status.st_mode) and status.st_size > MAX_BYTES:
        raise SupernetError(f"{text} is no configuration: it has {status.st_size:,} bytes, {MAX_BYTES:,} are the limit")


def read_pipe(path: str) -> str | None:
    """The text of a configuration that comes through a pipe, as ``-`` and ``<(command)`` do; None for a file.

    Raises:
        SupernetError: the text, or the file, is too long for a configuration, or is none.
    """
    text = os.path.expanduser(path)
    if text != "-" and not Path(text).is_fifo():
        _check_file(text)
        return None
    with nullcontext(sys.stdin.buffer) if text == "-" else Path(text).open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise SupernetError(f"{path} is no configuration: it has more than {MAX_BYTES:,} bytes")
    return raw.decode()
