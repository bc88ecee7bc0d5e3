"""What the speed measurements share: options of the command line, the table, and the record of a run."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Sample, hardware, markdown
from benchmarks.ways import Setting

Row = dict[str, Any]
"""What was measured of one way."""

COLUMNS = ("ms, clock", "ms, processor", "images/s", "data", "peak MB", "launches")
"""Headings of what `cells` returns."""


class Parser(argparse.ArgumentParser):
    """The command line of a measurement: the options that all of them share, and their checks.

    Args:
        module: what is run, as in ``python -m MODULE``.
        description: what it measures.
    """

    def __init__(self, module: str, description: str) -> None:
        super().__init__(prog=f"python -m {module}", description=description, allow_abbrev=False)
        default = "cuda" if torch.cuda.is_available() else "cpu"
        self.add_argument("--device", choices=["cpu", "cuda"], default=default)
        self.add_argument("--precision", choices=["32-true", "bf16-mixed"], help="of ours; bf16-mixed on a GPU")
        self.add_argument("--steps", type=int, help="in a round; 1 on a CPU, 50 on a GPU")
        self.add_argument("--rounds", type=int, default=5)
        self.add_argument("--no_cuda_graphs", action="store_true", help="launch the kernels of ours one by one")
        self.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
        self.add_argument("--markdown", type=Path, metavar="FILE", help="file for the table")

    def add_sizes(self, batch: int | None, channels: int | None, num_cells: int | None) -> None:
        """Options for the sizes, with these defaults."""
        self.add_argument("--batch", type=int, default=batch, help="images in a batch")
        self.add_argument("--channels", type=int, default=channels, help="C, the width of the first stage")
        self.add_argument("--num_cells", type=int, default=num_cells, help="N, cells in each stage")

    def read(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """The options, with the defaults of their device; a mistake ends the program with status 2."""
        options = self.parse_args(arguments)
        on_gpu = options.device == "cuda"
        if on_gpu and not torch.cuda.is_available():
            self.error("there is no CUDA device here; pass --device cpu")
        options.precision = options.precision or ("bf16-mixed" if on_gpu else "32-true")
        if options.steps is None:
            options.steps = 50 if on_gpu else 1
        for name, least in {"batch": 2, "steps": 1, "rounds": 1, "channels": 1, "num_cells": 1, "workers": 0}.items():
            value = getattr(options, name, None)
            if value is not None and value < least:
                self.error(f"--{name} must be at least {least}, got {value}")
        for path in filter(None, (options.json, options.markdown)):
            if not path.parent.is_dir() or path.is_dir():  # found now rather than after the measurement
                self.error(f"cannot write {path}: name a file in a folder that exists")
        return options

    def check_epoch(self, options: argparse.Namespace, setting: Setting, num_images: int) -> None:
        """End the program if a run under Lightning, which is one epoch, cannot hold its warm-up and its steps."""
        others = setting.warm_up + 1  # the last batch is not measured
        longest, fits = num_images // setting.batch - others, num_images // (others + 1)
        if options.steps > longest:
            advice = f"--steps must be at most {longest}" if longest > 0 else f"--batch must be at most {fits}"
            self.error(f"{advice}: an epoch has {num_images} images, and {others} of its steps are not measured")


def sizes_of(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a `Setting` that the shared options give."""
    device = torch.device(options.device)
    found = {
        "device": device,
        "channels": options.channels,
        "num_cells": options.num_cells,
        "batch": options.batch,
        "precision": options.precision,
        "cuda_graphs": not options.no_cuda_graphs,
    }
    # On a CPU nothing is recorded, and a step takes seconds.
    return found | ({"warm_up": 1} if device.type == "cpu" else {})


def row_of(way: str, sample: Sample, num_images: int, counted: tuple[int, int]) -> Row:
    """What was measured of one way.

    Args:
        way: its name.
        sample: seconds of a step.
        num_images: images that a step takes.
        counted: launches and peak bytes of a step.
    """
    launches, peak = counted
    return {
        "way": way,
        "wall_ms": 1e3 * sample.wall,
        "cpu_ms": 1e3 * sample.cpu,
        "images_per_second": num_images / sample.wall,
        "data_share": sample.data / sample.wall,
        "peak_mb": peak / 1e6,
        "launches": launches,
    }


def cells(row: Row) -> list[str]:
    """A row as text, one for each of `COLUMNS`."""
    return [
        f"{row['wall_ms']:.1f}",
        f"{row['cpu_ms']:.1f}",
        f"{row['images_per_second']:.0f}",
        f"{100 * row['data_share']:.1f} %",
        f"{row['peak_mb']:.0f}",
        str(row["launches"]),
    ]


def table(first: Sequence[str], rows: Iterable[tuple[Sequence[str], Row]], last: Mapping[str, str]) -> str:
    """Markdown, a line for each row.

    Args:
        first: headings of the columns that name a row.
        rows: for each row its names, and what was measured.
        last: headings of further figures, and their keys in a row; a figure that is None is not there.
    """
    lines = [
        [*names, *cells(row), *("-" if row[key] is None else f"{row[key]:.1f}" for key in last.values())]
        for names, row in rows
    ]
    return markdown([*first, *COLUMNS, *last], lines)


def time_that_counts(row: Row, device: torch.device) -> float:
    """Milliseconds of a step: of the processor on a CPU; on a GPU until the device is done."""
    return float(row["cpu_ms" if device.type == "cpu" else "wall_ms"])


def ratio(rows: Iterable[Row], device: torch.device) -> float | None:
    """Time of the textbook's step over that of ours; None unless both were measured."""
    found = {row["way"]: time_that_counts(row, device) for row in rows}
    return found["textbook"] / found["ours"] if {"textbook", "ours"} <= found.keys() else None


def conditions(setting: Setting, options: argparse.Namespace, *more: str) -> str:
    """One line: hardware, versions, sizes, and how often it was measured."""
    found = hardware(setting.device)
    libraries = f"torch {found['torch']}, pytorch-lightning {found['pytorch_lightning']}, Python {found['python']}"
    size = f"batch {setting.batch}, C={setting.channels}, N={setting.num_cells}, ours in {setting.precision}"
    repeats = f"median of {options.rounds} rounds of {options.steps} steps"
    return "; ".join([found["hardware"], libraries, size, *more, repeats]) + "."


def publish(
    module: str,
    arguments: Sequence[str] | None,
    options: argparse.Namespace,
    setting: Setting,
    text: str,
    figures: dict[str, Any],
) -> None:
    """Print the text, and write the files that were asked for.

    Args:
        module: what was run, as in ``python -m MODULE``.
        arguments: its command line; None stands for that of this program.
        options: the same, read.
        setting: what was measured.
        text: Markdown.
        figures: what goes first into the JSON.
    """
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    if options.json:
        # The classes of which ours is made are always the package's own here.
        chosen = {key: value for key, value in vars(setting).items() if not callable(value)}
        record = {
            **figures,
            "setting": {**chosen, "device": str(setting.device)},
            "steps": options.steps,
            "rounds": options.rounds,
            "command": shlex.join(["python", "-m", module, *(sys.argv[1:] if arguments is None else arguments)]),
            "versions": hardware(setting.device),
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
