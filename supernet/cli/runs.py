"""The folders of runs: one for each, found again by what the run was asked to do."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from supernet.cli.configuration import MAX_BYTES, check_yaml
from supernet.errors import SupernetError
from supernet.files import read_regular

CONFIG, CHECKPOINT = "config.yaml", Path("checkpoints", "last.ckpt")
"""What a run was asked to do, and its last state; both in its folder."""

_HOW_IT_RUNS = {
    *("config", "resume", "table", "column"),
    *(f"data.{name}" for name in ("root", "download", "on_device")),
    *(f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy", "default_root_dir", "logger")),
    *(f"trainer.{name}" for name in ("enable_progress_bar", "enable_model_summary", "profiler")),
}
"""Options that change where and how a run computes, and not what."""


def claim(parent: Path) -> Path:
    """Make the folder of a new run, ``version_0, 1, ...``, that no other process can have made.

    Raises:
        SupernetError: the folder cannot be written.
    """
    number = 1 + max((number for number, _ in runs(parent)), default=-1)
    while True:
        folder = parent / f"version_{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise SupernetError(
                f"cannot make the folder {folder} for this run: {error.strerror}; pass --trainer.default_root_dir"
            ) from None


def runs(parent: Path) -> Iterator[tuple[int, Path]]:
    """Number and folder of every run under ``parent``, in no order."""
    for folder in parent.glob("version_*"):
        number = folder.name.removeprefix("version_")
        if number.isdecimal() and folder.is_dir():
            yield int(number), folder


def lock(folder: Path) -> int | None:
    """Hold a folder until this process ends; None where the file system cannot.

    Raises:
        SupernetError: another process holds it.
    """
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise SupernetError(
            f"another process is at work on {folder}; wait for its end, or stop it, before you go on with it"
        ) from None
    except OSError:  # some network file systems know no locks
        os.close(handle)
        return None
    return handle


def what_it_does(config: str) -> dict[str, Any]:
    r"""The options of a ``config.yaml`` that decide what a run computes, as ``group.option``.

    >>> what_it_does("seed_everything: 0\ntrainer: {max_epochs: 3, devices: 2}")
    {'seed_everything': 0, 'trainer.max_epochs': 3}
    """
    check_yaml(config)
    flat: dict[str, Any] = {}
    for name, value in (yaml.safe_load(config) or {}).items():
        flat.update({f"{name}.{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {name: value})
    return {name: value for name, value in flat.items() if name not in _HOW_IT_RUNS}


def first_difference(folder: Path, config: str) -> str | None:
    """In what a run departs from a configuration: ``--option was A, now it is B``; None if in nothing."""
    try:
        began = what_it_does(read_regular(folder / CONFIG, MAX_BYTES).decode())
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return f"its {CONFIG} is missing or damaged"
    now = what_it_does(config)
    for name in sorted(began.keys() | now.keys()):
        if began.get(name) != now.get(name):
            return f"--{name} was {began.get(name)}, now it is {now.get(name)}"
    return None


def find(parent: Path, config: str) -> tuple[Path | None, str]:
    """The newest run that was asked to do this and has a checkpoint, and a sentence on what was found."""
    why = f"there is no run under {parent}"
    newest_first = sorted(runs(parent), reverse=True)
    for number, folder in newest_first:
        difference = first_difference(folder, config)
        if difference is None and (folder / CHECKPOINT).is_file():
            return folder, f"going on with {folder}"
        if number == newest_first[0][0]:
            why = f"in {folder} {difference}" if difference else f"{folder} has no checkpoint yet"
    return None, f"nothing to go on with: {why}; this is a new run"


def discard_if_empty(folder: Path) -> None:
    """Remove the folder of a run that never began."""
    with suppress(OSError):
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()
