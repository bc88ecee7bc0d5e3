"""Records of experiments: made, and compared with one another. Nothing is run here.

A record is plain values, as it lies in ``results/NAME.json``: what was done with what, and for each figure its value
and how much it may differ when it is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from benchmarks.experiment import Figure
from supernet.errors import SupernetError
from supernet.files import read_regular

Record = dict[str, Any]
Value = float | str

_MAX_BYTES = 2**26


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        SupernetError: it is not there, or no JSON.
    """
    try:
        return json.loads(read_regular(path, _MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise SupernetError(f"cannot read {path.name}: {error}") from None


def follow(found: Any, path: Sequence[str]) -> Any:
    """What is at the end of a path of keys; ``key=value`` is the one entry of a list that says so.

    Raises:
        SupernetError: the path leads nowhere.

    >>> follow({"rows": [{"method": "a", "tau": 1}, {"method": "b", "tau": 2}]}, ["rows", "method=b", "tau"])
    2
    """
    for step in path:
        if isinstance(found, list):
            key, _, value = step.partition("=")
            entries = [each for each in found if isinstance(each, Mapping) and each.get(key) == value]
            found = {step: entries[0]} if len(entries) == 1 else {}
        if not isinstance(found, Mapping) or step not in found:
            raise SupernetError(f"there is no {step!r} on the path {' / '.join(path)}")
        found = found[step]
    return found


def read_figure(figure: Figure, folder: Path) -> tuple[Value, float | None]:
    """Value of a figure, and its standard deviation if the file tells it, from the folder in which the steps ran.

    Raises:
        SupernetError: the file does not tell it.
    """
    found = read_json(folder / figure.file)
    if figure.is_name:
        return str(follow(found, figure.path)), None
    number, *spread = (follow(found, path) for path in (figure.path, figure.spread) if path)
    if any(type(each) not in (int, float) for each in (number, *spread)):
        raise SupernetError(f"{figure.file} must tell a number for {' / '.join(figure.path)}, got {number!r}")
    return figure.scale * number, figure.scale * spread[0] if spread else None


def summed_up(figure: Figure, found: Sequence[tuple[Value, float | None]]) -> Record:
    """A figure as it is recorded: over all seeds, with how much it may differ, in its unit."""
    values = [value for value, _ in found]
    if figure.is_name:
        value: Value = ", ".join(map(str, values))
        std = None
    else:
        numbers = [float(value) for value in values]
        value = numbers[0] if len(numbers) == 1 else mean(numbers)
        std = found[0][1] if len(numbers) == 1 else stdev(numbers)
    factor = (std or 0.0) if figure.spreads else 1.0
    same, other = (None if each is None else each * factor for each in (figure.same, figure.other))
    return {
        "name": figure.name,
        "unit": figure.unit,
        "value": value,
        "std": std,
        "values": values,
        "digits": figure.digits,
        "headline": figure.headline,
        "may_differ": {"same": same, "other": other, "why": figure.why},
    }


def holds(recorded: Value, now: Value, tolerance: float | None) -> bool:
    """Whether a figure is what was recorded, as far as it has to be: None lets any value pass, a number no NaN."""
    if tolerance is None or recorded == now:
        return True
    if isinstance(recorded, str) or isinstance(now, str):
        return False
    return abs(now - recorded) <= tolerance


class Line(NamedTuple):
    """A figure, recorded and measured again."""

    figure: str
    recorded: str
    now: str
    difference: str
    tolerance: str
    verdict: str


def compare(recorded: Record, now: Record) -> list[Line]:
    """A line for each figure of either; ``verdict`` is "holds" if it is within what was stated."""
    known = {figure["name"]: figure for figure in recorded["figures"]}
    measured = {figure["name"]: figure for figure in now["figures"]}
    which = "same" if recorded["versions"] == now["versions"] else "other"
    lines = []
    for name in dict.fromkeys([*known, *measured]):
        if name not in known or name not in measured:
            verdict = "not recorded" if name in measured else "not measured"
            lines.append(Line(name, shown(known.get(name)), shown(measured.get(name)), "-", "-", verdict))
            continue
        one, other = known[name], measured[name]
        tolerance = one["may_differ"][which]
        both = (one["value"], other["value"])
        difference = "-" if any(isinstance(value, str) for value in both) else f"{both[1] - both[0]:+.3g}"
        verdict = "holds" if holds(*both, tolerance) else "DIFFERS"
        lines.append(Line(name, shown(one), shown(other), difference, within(tolerance), verdict))
    return lines


def shown(figure: Record | None, unit: bool = False) -> str:
    """A figure as text, with its spread; "-" for none."""
    if figure is None:
        return "-"
    if isinstance(figure["value"], str):
        return figure["value"]
    digits = figure["digits"]
    spread = f" ± {figure['std']:.{digits}f}" if figure["std"] else ""
    return f"{figure['value']:.{digits}f}{spread}" + (f" {figure['unit']}" if unit and figure["unit"] else "")


def within(value: float | None) -> str:
    """How much a figure may differ, as text."""
    if value is None:
        return "any"
    return "equal" if not value else f"± {value:.3g}"
