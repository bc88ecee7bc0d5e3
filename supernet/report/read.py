"""What the folder of a run holds; each part may be missing or damaged, and a run says which of them are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from supernet.cli.configuration import MAX_BYTES, check_yaml
from supernet.cli.runs import CONFIG, runs
from supernet.errors import SupernetError
from supernet.files import check_regular, read_regular
from supernet.genotype import Genotype
from supernet.report.run import Curve, Run, look

GENOTYPE, RESULT, RANK = "genotype.json", "result.json", "rank"
_EVENTS, _OF_RANK = "events.out.tfevents.*", ".rank"
"""Files of events, and how those end that ``python -m supernet.rank`` leaves beside the ones of the run."""
_MOST_NAMED = 5
_MAX_EVENT_BYTES, _MAX_POINTS, _MAX_CURVES, _MAX_NAME = 2**29, 100_000, 5_000, 200
_MAX_PICTURE = 2**23
_PNG = b"\x89PNG\r\n\x1a\n"


def find_run(path: Path) -> Path:
    """The folder of a run, by itself, by its checkpoint, or by the folder of its versions: the newest of them.

    Raises:
        SupernetError: there is no run.
    """
    folder = path.parent if path.is_file() else path
    folder = folder.parent if folder.name == "checkpoints" else folder
    if not _is_run(folder) and not path.is_file():
        folder = max(runs(folder), default=(0, folder))[1]
    if not _is_run(folder):
        raise SupernetError(_no_run(path, folder))
    return folder


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG, GENOTYPE, RESULT)) or bool(_events(folder))


def _events(folder: Path) -> list[Path]:
    """The files of events of a run itself, in the order in which they were begun."""
    return sorted(file for file in folder.glob(_EVENTS) if file.suffix != _OF_RANK)


def _no_run(path: Path, folder: Path) -> str:
    """Why a folder, taken for that of a path, is none of a run."""
    wanted = "pass the folder that train.py or derive.py wrote, as logs/gdas_digits/version_0"
    parts = f"{CONFIG}, {GENOTYPE}, {RESULT} and TensorBoard's events"
    if not path.exists():
        return f"there is no {path}; {wanted}"
    if any((folder / "checkpoints").glob("*.ckpt")):
        return f"{folder} holds a checkpoint only: {parts} are missing; {wanted}"
    if path.is_file():
        return f"{path} is a file, and it lies in no folder of a run: {parts} are missing there; {wanted}"
    newest = (max(runs(child), default=(0, child))[1] for child in sorted(folder.glob("*")) if child.is_dir())
    if deeper := [child for child in newest if _is_run(child)]:
        more = f" and {len(deeper) - _MOST_NAMED} more" if len(deeper) > _MOST_NAMED else ""
        return f"{path} is no run, but holds runs: {', '.join(map(str, deeper[:_MOST_NAMED]))}{more}; pass one of them"
    return f"{path} holds no run: {parts} are missing; {wanted}"


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
    files = _events(run.folder)
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
        with tempfile.TemporaryDirectory() as only:  # TensorBoard reads all files of a folder, or one
            for file in files:
                (Path(only) / file.name).symlink_to(file.resolve())
            accumulator = EventAccumulator(only, size_guidance=kept)
            accumulator.Reload()
        for tag in accumulator.Tags()["scalars"][:_MAX_CURVES]:
            if len(tag) <= _MAX_NAME and not tag.startswith("rank/"):
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
    if look(run.rank, "picture") == "rank.png":  # another one is of an earlier comparison
        try:
            picture = read_regular(folder / "rank.png", _MAX_PICTURE)
        except (OSError, ValueError) as error:
            run.missing.append(f"The picture of the ranks cannot be read ({_reason(error)}).")
        else:
            run.rank_picture = picture if picture.startswith(_PNG) else b""


def _reason(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return " ".join(reason[:300].split())
