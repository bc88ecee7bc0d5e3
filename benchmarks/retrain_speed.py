"""Time, memory and launches of a step of the final training: the textbook way and ours, side by side in one run.

    python -m benchmarks.retrain_speed --json retrain.json

prints a Markdown table. The JSON's ``ratio`` maps ``retrain`` to the time of the textbook's step over that of ours:
processor time on a CPU, device time on a GPU. There it also projects the time of 200 epochs of 50,000 images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.measure import in_turns, progress
from benchmarks.report import Parser, Row, conditions, publish, ratio, row_of, sizes_of, table
from benchmarks.retrain_ways import WAYS, count_step
from benchmarks.ways import Setting
from supernet.cli.command import quiet_libraries
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.ops import check_ops

MODULE = "benchmarks.retrain_speed"
DESCRIPTION = "Measure a step of the final training, the textbook way and ours, side by side."
NUM_IMAGES, NUM_EPOCHS = 50_000, 200
"""Of the final training of NAS-Bench-201 on CIFAR-10."""


def measure(genotype: Genotype, setting: Setting, steps: int, rounds: int) -> list[Row]:
    """One row for each way to train this cell."""
    built = {}
    for way, build in WAYS.items():
        progress(f"retrain: warm-up, {way}")
        built[way] = build(genotype, setting)
    samples = in_turns(built, steps, rounds, "retrain")
    del built
    rows = []
    for way, sample in samples.items():
        progress(f"retrain: memory and launches, {way}")
        row = row_of(way, sample, setting.batch, count_step(genotype, way, setting))
        on_gpu = setting.device.type == "cuda"
        row["minutes"] = NUM_EPOCHS * NUM_IMAGES / row["images_per_second"] / 60 if on_gpu else None
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    parser = Parser(MODULE, DESCRIPTION)
    parser.add_sizes(batch=256, channels=16, num_cells=5)
    parser.add_argument("--genotype", default="6111", help="official index, cell string or JSON file")
    parser.add_argument("--workers", type=int, default=2, help="processes of the textbook's loader")
    options = parser.read(arguments)
    try:
        genotype = Genotype.named(options.genotype)
        check_ops(genotype.ops)
    except (SupernetError, OSError) as error:
        parser.error(f"--genotype: {error}")
    setting = Setting(**sizes_of(options), num_workers=options.workers)
    parser.check_epoch(options, setting, 2 * setting.num_images)
    torch.backends.cudnn.benchmark = True
    with quiet_libraries():
        rows = measure(genotype, setting, options.steps, options.rounds)
    ratios = {"retrain": ratio(rows, setting.device)}
    text = "\n\n".join(
        [
            conditions(setting, options, f"cell {genotype}"),
            table(["way"], [([row["way"]], row) for row in rows], {f"min, {NUM_EPOCHS} epochs": "minutes"}),
            f"Textbook over ours: {ratios['retrain']:.2f}.",
        ]
    )
    publish(MODULE, arguments, options, setting, text, {"ratio": ratios, "rows": rows, "genotype": str(genotype)})


if __name__ == "__main__":
    main()
