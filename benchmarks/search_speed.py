"""Time, memory and launches of a bilevel step: the textbook way and ours, side by side in one run.

    python -m benchmarks.search_speed --json speed.json

prints a Markdown table. The JSON's ``ratio`` maps each strategy to the time of the textbook's step over that of ours:
processor time on a CPU, device time on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.floor import Protocol, least_work
from benchmarks.measure import in_turns, progress
from benchmarks.memory import count_step
from benchmarks.report import Parser, Row, conditions, publish, ratio, row_of, sizes_of, table
from benchmarks.ways import STRATEGIES, WAYS, Setting, num_images
from supernet.cli.command import quiet_libraries

MODULE = "benchmarks.search_speed"
DESCRIPTION = "Measure a bilevel search step, the textbook way and ours, side by side."
BANDWIDTH = 4.3e12
"""Bytes a second through the memory of an H200, as measured by a large copy."""


def floor_seconds(setting: Setting) -> float:
    """The least time of a bilevel step of DARTS on a GPU, by the bytes that have to move; see `benchmarks.floor`."""
    protocol = Protocol(channels=setting.channels, num_cells=setting.num_cells, batch=setting.batch)
    value_bytes = 2 if setting.precision == "bf16-mixed" else 4
    return sum(least_work(step, "fused", value_bytes, protocol).bytes for step in ("network", "arch")) / BANDWIDTH


def measure(name: str, setting: Setting, ways: Sequence[str], steps: int, rounds: int) -> list[Row]:
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
        has_floor = name == "DARTS" and setting.device.type == "cuda"  # every candidate runs, in both steps
        times_floor = sample.wall / floor_seconds(setting) if has_floor else None
        row = row_of(way, sample, num_images(name, setting), count_step(name, way, setting))
        rows.append({"strategy": name, **row, "times_floor": times_floor})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    parser = Parser(MODULE, DESCRIPTION)
    parser.add_sizes(batch=64, channels=16, num_cells=5)
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--compile", action="store_true", help="compile the cells of ours")
    parser.add_argument("--workers", type=int, default=2, help="processes of the textbook's loader")
    options = parser.read(arguments)
    setting = Setting(**sizes_of(options), num_workers=options.workers, compile=options.compile)
    parser.check_epoch(options, setting, setting.num_images)
    torch.backends.cudnn.benchmark = True
    rows, ratios = [], {}
    with quiet_libraries():
        for name in options.strategies:
            measured = measure(name, setting, options.ways, options.steps, options.rounds)
            rows += measured
            if (value := ratio(measured, setting.device)) is not None:
                ratios[name] = value
    named = [([row["strategy"], row["way"]], row) for row in rows]
    parts = [conditions(setting, options), table(["strategy", "way"], named, {"x floor": "times_floor"})]
    if ratios:
        parts.append(f"Textbook over ours: {', '.join(f'{name} {value:.2f}' for name, value in ratios.items())}.")
    publish(MODULE, arguments, options, setting, "\n\n".join(parts), {"ratio": ratios, "rows": rows})


if __name__ == "__main__":
    main()
