"""Whether bf16 costs quality: the same searches in both precisions, against the spread between seeds.

    python -m benchmarks.precision --seeds 5

Each seed searches twice, in float32 and in bf16. What is compared is the distance of the probabilities that the two
end with, the mean absolute difference over all edges and operations, and the accuracies of the derived cell and of the
mixture with shared parameters. A precision that costs nothing moves both by less than another seed does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import hardware, markdown, progress
from supernet.cli import search
from supernet.genotype import Genotype

PRECISIONS = ("32-true", "bf16-mixed")


class Found(NamedTuple):
    """What a search ended with."""

    cell: Genotype
    accuracy: float
    """Of the derived cell on the validation images with shared parameters, 0 to 1."""
    mixed_accuracy: float
    """Of the mixture that is trained, likewise."""
    probabilities: Tensor
    """Shape (E, O)."""


def run(seed: int, precision: str, options: Sequence[str]) -> Found:
    """One search; ``options`` are those of ``train.py``."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = ["--seed_everything", str(seed), "--trainer.precision", precision, "--trainer.default_root_dir", folder]
        if status := search([*options, *fixed, "--trainer.enable_progress_bar", "false"]):
            raise SystemExit(status)
        (saved,) = Path(folder).glob("*/version_0/genotype.json")
        record = json.loads(saved.read_text(encoding="utf-8"))
        state = torch.load(saved.parent / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        derived, mixed = (record["provenance"]["metrics"][f"val/{name}_accuracy"] for name in ("derived", "mixed"))
        return Found(Genotype.load(saved), derived, mixed, state["search.logits"].softmax(dim=1))


def distance(one: Found, other: Found) -> float:
    """Mean absolute difference of the probabilities."""
    return float((one.probabilities - other.probabilities).abs().mean())


def report(found: dict[tuple[int, str], Found], seeds: Sequence[int]) -> str:
    """What each seed found, and the means over pairs of searches."""
    rows = []
    for seed in seeds:
        pair = [found[seed, precision] for precision in PRECISIONS]
        cells = [one.cell.index for one in pair]
        accuracies = [f"{100 * one.accuracy:.2f} ({100 * one.mixed_accuracy:.2f})" for one in pair]
        rows.append([seed, *cells, *accuracies, f"{distance(*pair):.4f}"])
    within = [(found[seed, PRECISIONS[0]], found[seed, PRECISIONS[1]]) for seed in seeds]
    between = [
        (found[one, precision], found[other, precision])
        for precision in PRECISIONS
        for one, other in combinations(seeds, 2)
    ]
    summary = [
        [
            name,
            f"{mean(distance(*pair) for pair in pairs):.4f}",
            f"{100 * mean(abs(one.accuracy - other.accuracy) for one, other in pairs):.2f}",
            f"{100 * mean(abs(one.mixed_accuracy - other.mixed_accuracy) for one, other in pairs):.2f}",
        ]
        for name, pairs in (("same seed, other precision", within), ("same precision, other seed", between))
    ]
    averages = ", ".join(
        f"{precision} {100 * mean(found[seed, precision].accuracy for seed in seeds):.2f}"
        f" ({100 * mean(found[seed, precision].mixed_accuracy for seed in seeds):.2f})"
        for precision in PRECISIONS
    )
    header = ["seed", *(f"cell, {p}" for p in PRECISIONS), *(f"accuracy, {p}" for p in PRECISIONS), "distance"]
    return "\n\n".join(
        [
            markdown(header, rows),
            markdown(["mean over pairs", "distance of probabilities", "points, cell", "points, mixture"], summary),
            f"Mean accuracy in per cent, of the mixture in brackets: {averages}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Search, compare, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision",
        description="Compare searches in float32 and in bf16. Further options go to train.py.",
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many; at least 2")
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    options, further = parser.parse_known_args(arguments)
    if options.seeds < 2:
        parser.error(f"a spread between seeds needs at least 2, got --seeds {options.seeds}")
    found = {}
    for seed, precision in product(range(options.seeds), PRECISIONS):
        progress(f"seed {seed}, {precision}")
        found[seed, precision] = run(seed, precision, ["--config", options.config, *further])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    versions = hardware(device)
    command = " ".join([options.config, *further])
    text = f"{command}; {versions['hardware']}; torch {versions['torch']}.\n\n{report(found, range(options.seeds))}"
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
