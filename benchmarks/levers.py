"""What each lever gives: our bilevel step with one thing done the textbook way, or with one thing more.

    python -m benchmarks.levers

Every row is our bare loop with one change, measured in turns with our bare loop as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import supernet.bilevel
import supernet.network
from benchmarks.measure import in_turns, progress
from benchmarks.memory import count_step
from benchmarks.report import Parser, Row, conditions, publish, row_of, sizes_of, table, time_that_counts
from benchmarks.textbook import TextbookSupernet
from benchmarks.ways import STRATEGIES, Setting, bare, num_images
from supernet.bilevel import Bilevel, SupernetLoss
from supernet.mixed import MixedCell, Plan, Term, make_plan
from supernet.network import Supernet
from supernet.space import CellSpace

MODULE = "benchmarks.levers"


@contextmanager
def patched(place: Any, name: str, value: Any) -> Iterator[None]:
    """Something else under a name, for the time of a block."""
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


class ChannelsFirst(Supernet):
    """The supernet in PyTorch's default layout."""

    layout = torch.contiguous_format


class TimesCoefficientCell(MixedCell):
    """Normalises a convolution first, and multiplies it by its coefficient afterwards."""

    def _convolve(self, source: int, rectified: Tensor, term: Term) -> Tensor:
        assert term.scale is not None
        one = replace(term, scale=torch.ones_like(term.scale))
        return super()._convolve(source, rectified, one) * term.scale[:, None, None].to(rectified.dtype)


class TimesCoefficient(Supernet):
    """The supernet whose coefficients are no scale of the normalisation, but factors of their own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        with patched(supernet.network, "MixedCell", TimesCoefficientCell):
            super().__init__(*args, **options)


class Dense(Supernet):
    """The supernet that runs every candidate, also those whose coefficient is zero."""

    def forward(self, images: Tensor, mixture: Tensor, support: Tensor | None = None) -> Tensor:
        """Class logits."""

        def plan(space: CellSpace, mixture: Tensor, like: Tensor | None = None, support: Tensor | None = None) -> Plan:
            return make_plan(space, mixture + 1e-30 * (mixture == 0), like)  # nothing is zero, nothing changes

        with patched(supernet.network, "make_plan", plan):
            return super().forward(images, mixture, support)


class OnTheHost(Supernet):
    """The supernet that reads its mixture, wherever it is, and runs only what it chooses."""

    def forward(self, images: Tensor, mixture: Tensor, support: Tensor | None = None) -> Tensor:
        """Class logits."""
        return super().forward(images, mixture.cpu(), support)


class Thawed(Bilevel):
    """Computes the gradients of the network's parameters in the architecture step, too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.loss = ThawedLoss(self.supernet, self.descent.optimizer, self.recorder)

    def arch_step(self, *args: Any) -> None:
        """As ever, with nothing frozen."""
        with patched(supernet.bilevel, "frozen", nullcontext):
            super().arch_step(*args)


class ThawedLoss(SupernetLoss):
    """Computes the gradients of the parameters beside that of the mixture."""

    def _loss_and_slope(self, images: Tensor, labels: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            mixture = mixture.detach().requires_grad_()
            loss, right = self._loss(images, labels, mixture)
            slope, *_ = torch.autograd.grad(loss, [mixture, *self.supernet.parameters()], allow_unused=True)
        return loss.detach(), right, slope


class ReadAtOnce(Bilevel):
    """Reads its losses on the host in every step."""

    def step(self, *batches: Any) -> None:
        """A step, and a look at its losses."""
        super().step(*batches)
        self.tally.take()
        self.descent.tally.take()


AS_IT_IS = "as it is"
CHANGES: dict[str, dict[str, Any]] = {
    "gradients of the parameters in the architecture step": {"bilevel": Thawed},
    "the textbook's cells, channels first": {"network": TextbookSupernet},
    "coefficient as a product": {"network": TimesCoefficient},
    "channels first": {"network": ChannelsFirst},
    "every candidate runs": {"network": Dense},
    "images by worker processes": {"image_workers": True},
    "losses read in every step": {"bilevel": ReadAtOnce},
    "float32": {"precision": "32-true"},
    "bf16": {"precision": "bf16-mixed"},
    "launched one by one": {"cuda_graphs": False},
    "launched one by one, optimizers in loops": {"cuda_graphs": False, "fused": False},
    "launched one by one, only what was drawn": {"cuda_graphs": False, "network": OnTheHost},
    "compiled cells": {"compile": True},
}
"""What is different, and the fields of `Setting` that make it so."""
ONE_PATH_ONLY = {"every candidate runs", "launched one by one, only what was drawn"}
"""What makes no difference to a strategy that mixes all candidates."""
GPU_ONLY = {name for name, change in CHANGES.items() if "cuda_graphs" in change} | {"losses read in every step"}
"""What makes no difference on a CPU."""
SLOW_ON_CPU = {"bf16", "compiled cells"}
"""What is measured on a CPU only when it is named: minutes of compilation, and a precision the CPU has to emulate."""


def applicable(strategy: str, setting: Setting, names: Sequence[str] | None) -> dict[str, Setting]:
    """The setting as it is, then with each change that makes a difference here, or with those that were named."""
    if names is None:
        skipped = set(ONE_PATH_ONLY) if strategy == "DARTS" else set()
        if setting.device.type == "cpu":
            skipped |= GPU_ONLY | SLOW_ON_CPU
        names = [name for name in CHANGES if name not in skipped]
    changed = {name: replace(setting, **CHANGES[name]) for name in names}
    return {AS_IT_IS: setting, **{name: other for name, other in changed.items() if other != setting}}


def measure(strategy: str, setting: Setting, names: Sequence[str] | None, steps: int, rounds: int) -> list[Row]:
    """One row for each change, the first without any."""
    settings = applicable(strategy, setting, names)
    ways = {}
    for name, changed in settings.items():
        progress(f"{strategy}: warm-up, {name}")
        ways[name] = bare(strategy, changed)
    samples = in_turns(ways, steps, rounds, strategy)
    del ways
    rows: list[Row] = []
    for name, changed in settings.items():
        progress(f"{strategy}: memory and launches, {name}")
        row = row_of(name, samples[name], num_images(strategy, setting), count_step(strategy, "bare loop", changed))
        time = time_that_counts(row, setting.device)
        rows.append({**row, "times_ours": time / time_that_counts(rows[0], setting.device) if rows else 1.0})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    parser = Parser(MODULE, "Measure what each lever of our bilevel step gives.")
    parser.add_sizes(batch=64, channels=16, num_cells=5)
    parser.add_argument("--strategy", choices=list(STRATEGIES), default="DARTS")
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), help="only these; else all that matter here")
    parser.add_argument("--workers", type=int, default=2, help="processes of the textbook's loader")
    options = parser.read(arguments)
    setting = Setting(**sizes_of(options), num_workers=options.workers)
    torch.backends.cudnn.benchmark = True
    rows = measure(options.strategy, setting, options.changes, options.steps, options.rounds)
    named = [([row["way"], f"{row['times_ours']:.2f}"], row) for row in rows]
    text = f"{conditions(setting, options, options.strategy)}\n\n{table(['change', 'times ours'], named, {})}"
    publish(MODULE, arguments, options, setting, text, {"rows": rows})


if __name__ == "__main__":
    main()
