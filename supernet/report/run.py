"""A run: what it was asked to do, what it found, and its curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.genotype import Genotype


@dataclass(frozen=True)
class Curve:
    """One value over time: three arrays of equal length."""

    steps: NDArray[np.int64]
    """Batches trained before."""
    values: NDArray[np.float64]
    times: NDArray[np.float64]
    """Seconds since 1970."""


@dataclass
class Run:
    """A search or a final training, as it is on the disk."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    cell: Genotype | None = None
    record: dict[str, Any] = field(default_factory=dict)
    """Where the cell comes from, by ``genotype.json``."""
    result: dict[str, Any] = field(default_factory=dict)
    """How a final training ended, by ``result.json``."""
    curves: dict[str, Curve] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)
    """When each session of the run began: one, and one more for each time it was resumed."""
    rank: Any = None
    rank_picture: bytes = b""
    missing: list[str] = field(default_factory=list)
    """Sentences on what is not there."""

    @property
    def is_final(self) -> bool:
        """Whether this is the final training of a cell, and no search."""
        return bool(self.result) or isinstance(look(self.config, "model", "genotype"), str)

    @property
    def strategy(self) -> str:
        """The class that searched, without its module."""
        path = look(self.config, "model", "search", "class_path") or self.record.get("strategy") or "unknown strategy"
        return str(path).rpartition(".")[2]

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.result.get("data") or look(self.config, "data", "name") or self.record.get("data") or "unknown")

    @property
    def seed(self) -> int | None:
        """What the run was seeded with."""
        known = (self.result.get("seed"), look(self.config, "seed_everything"), look(self.record, "seed"))
        return next((seed for seed in known if type(seed) is int), None)

    @property
    def epochs_asked(self) -> int | None:
        """How many epochs were asked for."""
        asked = look(self.config, "trainer", "max_epochs") or (
            None if self.is_final else look(self.record, "num_epochs")
        )
        return asked if type(asked) is int and asked > 0 else None

    @property
    def epochs_done(self) -> int | None:
        """How many epochs were trained to their end."""
        done = [self.result.get("epochs")]
        if (ends := self._epoch_ends()) is not None:
            done.append(ends[1])
        if not self.is_final and type(last := self.record.get("epoch")) is int:
            done.append(last + 1)
        return max((number for number in done if type(number) is int), default=None)

    def _epoch_ends(self) -> tuple[int, int] | None:
        """Batches and epochs up to the end of the last whole epoch: every epoch ends with its learning rate."""
        rate, epoch = self.curves.get("network/lr") or self.curves.get("train/lr"), self.curves.get("epoch")
        if rate is None or epoch is None:
            return None
        last = int(rate.steps[-1])
        (at,) = np.nonzero(epoch.steps == last)
        if not len(at) or not 0 <= (number := float(epoch.values[at[-1]])) < 1e9:
            return None
        return last + 1, round(number) + 1

    def epochs(self, steps: NDArray[np.int64]) -> NDArray[np.floating] | None:
        """How many epochs had been trained after each of these batches; None if the events do not tell."""
        ends = self._epoch_ends()
        return None if ends is None or ends[0] <= 0 else (steps + 1.0) * (ends[1] / ends[0])

    @property
    def span(self) -> tuple[float, float] | None:
        """When it began and when the last value was logged, in seconds since 1970."""
        times = [time for curve in self.curves.values() for time in (curve.times.min(), curve.times.max())]
        return (min([*times, *self.starts[:1]]), max(times)) if times else None

    @property
    def seconds(self) -> float | None:
        """How long it ran, without the time between two sessions."""
        if (told := finite(self.result.get("seconds"))) is not None:
            return told
        if not self.curves:
            return None
        times = np.unique(np.concatenate([curve.times for curve in self.curves.values()]))
        starts = [min([float(times[0]), *self.starts[:1]]), *self.starts[1:]]
        ends = [*starts[1:], math.inf]
        sessions = [times[(times >= start) & (times < end)] for start, end in zip(starts, ends, strict=True)]
        return float(sum(seen[-1] - start for start, seen in zip(starts, sessions, strict=True) if len(seen)))


def look(tree: Any, *keys: str) -> Any:
    """What lies at the end of a path of keys; None where the path ends early."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def finite(value: Any) -> float | None:
    """A number from outside as a float; None for anything else, and for what is not finite."""
    try:
        return float(value) if type(value) in (int, float) and math.isfinite(value) else None
    except OverflowError:
        return None
