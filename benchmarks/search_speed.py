"""Time, memory and launches of a bilevel step: the textbook way and ours, side by side in one run.

    python -m benchmarks.search_speed --json speed.json

prints a Markdown table. The JSON's ``ratio`` maps each strategy to the time of the textbook's step over that of ours:
processor time on a CPU, device time on a GPU.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.floor import Protocol, least_work
from benchmarks.measure import Sample, hardware, in_turns, markdown, progress
from benchmarks.memory import count_step
from benchmarks.ways import STRATEGIES, WAYS, Setting
from supernet.cli.base import quiet_libraries

BANDWIDTH = 4.3e12
"""Bytes a second through the memory of an H200, as measured by a large copy."""


def seconds_that_count(sample: Sample, setting: Setting) -> float:
    """Processor time on a CPU; on a GPU the time until the device is done."""
    return sample.cpu if setting.device.type == "cpu" else sample.wall


def floor_seconds(setting: Setting) -> float:
    """The least time of a bilevel step on a GPU, by the bytes that have to move; see `benchmarks.floor`."""
    protocol = Protocol(channels=setting.channels, num_cells=setting.num_cells, batch=setting.batch)
    value_bytes = 2 if setting.precision == "bf16-mixed" else 4
    return sum(least_work(step, "fused", value_bytes, protocol).bytes for step in ("network", "arch")) / BANDWIDTH


def measure(name: str, setting: Setting, ways: Sequence[str], steps: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each way to search by this strategy."""
    built = {}
    for way in ways:
        progress(f"{name}: warm-up, {way}")
        built[way] = WAYS[way](name, setting)
    samples = in_turns(built, steps, rounds, name)
    del built
    rows = []
    for way, sample in samples.items():
        progress(f"{name}: memory and launches, {way}")
        operations, peak = count_step(name, way, setting)
        rows.append(
            {
                "strategy": name,
                "way": way,
                "wall_ms": 1e3 * sample.wall,
                "cpu_ms": 1e3 * sample.cpu,
                "images_per_second": 2 * setting.batch / sample.wall,
                "data_share": sample.data / sample.wall,
                "peak_mb": peak / 1e6,
                "launches": operations,
                "times_floor": sample.wall / floor_seconds(setting) if setting.device.type == "cuda" else None,
            }
        )
    return rows


def ratios(rows: Sequence[dict[str, Any]], setting: Setting) -> dict[str, float]:
    """Time of the textbook's step over that of ours, by strategy."""
    key = "cpu_ms" if setting.device.type == "cpu" else "wall_ms"
    found = {(row["strategy"], row["way"]): row[key] for row in rows}
    names = dict.fromkeys(row["strategy"] for row in rows)
    return {name: found[name, "textbook"] / found[name, "ours"] for name in names if (name, "textbook") in found}


def report(rows: Sequence[dict[str, Any]], setting: Setting, rounds: int, steps: int) -> str:
    """What was measured, as Markdown."""
    header = ["strategy", "way", "ms, clock", "ms, processor", "images/s", "data", "peak MB", "launches", "x floor"]
    lines = [
        [
            row["strategy"],
            row["way"],
            f"{row['wall_ms']:.1f}",
            f"{row['cpu_ms']:.1f}",
            f"{row['images_per_second']:.0f}",
            f"{100 * row['data_share']:.1f} %",
            f"{row['peak_mb']:.0f}",
            row["launches"],
            "-" if row["times_floor"] is None else f"{row['times_floor']:.1f}",
        ]
        for row in rows
    ]
    found = hardware(setting.device)
    size = f"batch {setting.batch}, C={setting.channels}, N={setting.num_cells}, ours in {setting.precision}"
    ratio = ", ".join(f"{name} {value:.2f}" for name, value in ratios(rows, setting).items())
    return "\n\n".join(
        [
            f"{found['hardware']}; torch {found['torch']}, pytorch-lightning {found['pytorch_lightning']},"
            f" Python {found['python']}; {size}; median of {rounds} rounds of {steps} steps.",
            markdown(header, lines),
            f"Textbook over ours: {ratio}.",
        ]
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search_speed",
        description="Measure a bilevel search step, the textbook way and ours, side by side.",
        allow_abbrev=False,
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default)
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--batch", type=int, default=64, help="images of each half")
    parser.add_argument("--channels", type=int, default=16, help="C, the width of the first stage")
    parser.add_argument("--num_cells", type=int, default=5, help="N, cells in each stage")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], help="of ours; bf16-mixed on a GPU")
    parser.add_argument("--steps", type=int, help="in a round; 1 on a CPU, 50 on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile the cells of ours")
    parser.add_argument("--no_cuda_graphs", action="store_true", help="launch the kernels of ours one by one")
    parser.add_argument("--workers", type=int, default=2, help="processes of the textbook's loader")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; pass --device cpu")
    options.precision = options.precision or ("bf16-mixed" if on_gpu else "32-true")
    options.steps = options.steps or (50 if on_gpu else 1)
    for name in ("batch", "steps", "rounds", "channels", "num_cells"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    options = parse(arguments)
    setting = Setting(
        device=torch.device(options.device),
        channels=options.channels,
        num_cells=options.num_cells,
        batch=options.batch,
        precision=options.precision,
        num_workers=options.workers,
        compile=options.compile,
        cuda_graphs=not options.no_cuda_graphs,
    )
    if setting.device.type == "cpu":
        setting = replace(setting, warm_up=1)  # nothing is recorded, and a step takes seconds
    torch.backends.cudnn.benchmark = True
    with quiet_libraries():
        rows = [
            row
            for name in options.strategies
            for row in measure(name, setting, options.ways, options.steps, options.rounds)
        ]
    text = report(rows, setting, options.rounds, options.steps)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    if options.json:
        command = ["python", "-m", "benchmarks.search_speed", *(sys.argv[1:] if arguments is None else arguments)]
        record = {
            "ratio": ratios(rows, setting),
            "rows": rows,
            "setting": {key: str(value) if key == "device" else value for key, value in vars(setting).items()},
            "steps": options.steps,
            "rounds": options.rounds,
            "command": shlex.join(command),
            "versions": hardware(setting.device),
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
