"""What the folder of a run holds; each part may be missing or damaged, and a run says which of them are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from supernet.cli.configuration import MAX_BYTES, check_yaml
from supernet.cli.runs import CONFIG, runs
from supernet.errors import SupernetError
from supernet.files import check_regular, read_regular
from supernet.genotype import Genotype

GENOTYPE, RESULT, RANK = "genotype.json", "result.json", "rank"
_EVENTS = "events.out.tfevents.*"
_MAX_EVENT_BYTES, _MAX_POINTS, _MAX_CURVES, _MAX_NAME = 2**29, 100_000, 5_000, 200
_MAX_PICTURE = 2**23
_PNG = b"\x89PNG\r\n\x1a\n"


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


def find_run(path: Path) -> Path:
    """The folder of a run, by itself, by its checkpoint, or by the folder of its versions: the newest of them.

    Raises:
        SupernetError: there is no run.
    """
    folder = path.parent if path.is_file() else path
    folder = folder.parent if folder.name == "checkpoints" else folder
    if not _is_run(folder):
        folder = max(runs(folder), default=(0, folder))[1]
    if not _is_run(folder):
        raise SupernetError(
            f"{path} holds no run: neither {CONFIG} nor {GENOTYPE}, {RESULT} or TensorBoard's events; pass the folder"
            " that train.py or derive.py wrote, as logs/gdas_digits/version_0"
        )
    return folder


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG, GENOTYPE, RESULT)) or any(folder.glob(_EVENTS))


def read_run(folder: Path) -> Run:
    """Read all that there is of a run; what is missing or damaged is noted in `Run.missing`."""
    run = Run(folder)
    _read_config(run)
    _read_cell(run)
    if (folder / RESULT).exists():
        run.result = _read_object(run, folder / RESULT)
    _read_events(run)
    _read_rank(run)
    return run


def _read_config(run: Run) -> None:
    try:
        text = read_regular(run.folder / CONFIG, MAX_BYTES).decode()
        check_yaml(text)
        config = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        run.missing.append(f"The configuration cannot be read ({_reason(error)}).")
        return
    run.config_text, run.config = text, config if isinstance(config, dict) else {}


def _read_cell(run: Run) -> None:
    path = run.folder / GENOTYPE
    if not path.exists():
        run.missing.append(f"There is no {GENOTYPE}: no cell was derived yet.")
        return
    try:
        cell = Genotype.load(path)
    except SupernetError as error:
        run.missing.append(f"The cell cannot be read ({_reason(error)}).")
        return
    run.record = look(_read_object(run, path), "provenance") or {}
    if not isinstance(run.record, dict):
        run.record = {}
    if max(map(len, cell.ops)) > _MAX_NAME:
        run.missing.append(f"The cell is not shown: the name of an operation has more than {_MAX_NAME} letters.")
        return
    run.cell = cell


def _read_object(run: Run, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(path, MAX_BYTES))
        if isinstance(found, dict):
            return found
        run.missing.append(f"{path.name} cannot be read (it holds no JSON object).")
    except (OSError, ValueError, RecursionError) as error:
        run.missing.append(f"{path.name} cannot be read ({_reason(error)}).")
    return {}


def _read_events(run: Run) -> None:
    files = sorted(run.folder.glob(_EVENTS))
    if not files:
        run.missing.append("There are no TensorBoard events: no curves, and no dates.")
        return
    try:
        for file in files:
            check_regular(file)
        if (size := sum(file.stat().st_size for file in files)) > _MAX_EVENT_BYTES:
            raise ValueError(f"they have {size:,} bytes, and {_MAX_EVENT_BYTES:,} are the limit")
        kept = {
            "scalars": _MAX_POINTS,
            "images": 1,
            "tensors": 1,
            "histograms": 1,
            "compressedHistograms": 1,
            "audio": 1,
        }
        accumulator = EventAccumulator(str(run.folder), size_guidance=kept)
        accumulator.Reload()
        for tag in accumulator.Tags()["scalars"][:_MAX_CURVES]:
            if len(tag) <= _MAX_NAME:
                run.curves[tag] = _curve(accumulator.Scalars(tag))
    except Exception as error:  # TensorBoard says what it cannot read by many of them
        run.missing.append(f"TensorBoard's events cannot be read to their end ({_reason(error)}).")
    # A process counts its files: the second one of a final training is that of the test.
    begun = (file.name.split(".")[3] for file in files if file.name.endswith(".0"))
    run.starts = sorted(float(part) for part in begun if part.isdecimal() and len(part) < 12)


def _curve(events: list[Any]) -> Curve:
    """Values by rising step; of several at one step, the last."""
    steps, values, times = (
        np.array([getattr(event, name) for event in events]) for name in ("step", "value", "wall_time")
    )
    _, last = np.unique(steps[::-1], return_index=True)
    order = len(steps) - 1 - last
    return Curve(steps[order].astype(np.int64), values[order].astype(np.float64), times[order].astype(np.float64))


def _read_rank(run: Run) -> None:
    folder = run.folder / RANK
    if (folder / "rank.json").exists():
        try:
            run.rank = json.loads(read_regular(folder / "rank.json", MAX_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            run.missing.append(f"The ranks cannot be read ({_reason(error)}).")
    if (folder / "rank.png").exists():
        try:
            picture = read_regular(folder / "rank.png", _MAX_PICTURE)
        except (OSError, ValueError) as error:
            run.missing.append(f"The picture of the ranks cannot be read ({_reason(error)}).")
        else:
            run.rank_picture = picture if picture.startswith(_PNG) else b""


def _reason(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return " ".join(reason[:300].split())
