"""What a run goes on counting from may be anything: it is looked at before a trainer believes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from supernet.errors import SupernetError


def check_counted(checkpoint: Mapping[str, Any]) -> None:
    """Look at what a trainer, its schedules and this project have counted and summed up.

    Some of it is used at the end of an epoch only: a run would go on, and end there.

    Raises:
        SupernetError: something in it is no number, or below zero, or too large to count to.
    """
    for part in _PARTS.keys() & checkpoint.keys():
        for name, value in _leaves(part, checkpoint[part]):
            if not _PARTS[part](name, value):
                raise SupernetError(
                    f"the checkpoint of this run is damaged: its {part!r} says {str(value)[:40]!r} where it counts;"
                    " leave --resume out to begin anew"
                )


def _is_number(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < 2**63


def _is_count(name: str, value: Any) -> bool:
    if isinstance(value, dict | list):  # some loops have nothing to count
        return not value
    return isinstance(value, int) and 0 <= value < 2**63


def _is_sum(name: str, value: Any) -> bool:
    if name == "pending":
        return isinstance(value, torch.Tensor)
    if name == "loss":  # of a strategy that has nothing to learn there is none
        return value is None or isinstance(value, int | float)
    return _is_number(name, value)


_PARTS = {"loops": _is_count, "lr_schedulers": _is_number, "running": _is_sum, "seconds": _is_number}
"""Parts of a checkpoint that count, and what each of their values has to be."""

_LISTS = ("base_lrs", "_last_lr")


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Values in nested containers by name; the nesting is not deep in a checkpoint that was looked through.

    A list where a number belongs is a value, and so is an empty container.
    """
    if isinstance(value, Mapping) and value and name != "seconds":
        for key, inner in value.items():
            yield from _leaves(str(key), inner)
    elif isinstance(value, list) and value and (name in _LISTS or isinstance(value[0], Mapping)):
        for inner in value:
            yield from _leaves(name if isinstance(inner, Mapping) else "", inner)
    else:
        yield name, value
