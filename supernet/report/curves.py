"""Curves over a run: small multiples with a common look, as SVG that takes its colours from the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from supernet.report.run import Curve, Run
from supernet.report.text import clip, escape, number

Values = NDArray[np.floating]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 170, 46, 10, 10, 24
"""Of a picture, and its margins; in units of the page."""

_MOST_PANELS, _BUCKETS = 40, 300
_UNSHOWN = re.compile(r"edge_|final/|test/|epoch$|hp_metric$")


@dataclass(frozen=True)
class Panel:
    """One picture: curves by tag, each with its name."""

    title: str
    names: Mapping[str, str]
    scale: float = 1.0
    unit: str = ""


PANELS = (
    Panel(
        "Loss",
        {"network/loss": "network", "arch/loss": "architecture", "train/loss": "training"},
    ),
    Panel(
        "Accuracy in training",
        {"network/accuracy": "network", "arch/accuracy": "architecture", "train/accuracy": "training"},
        100,
        " %",
    ),
    Panel(
        "Accuracy on validation images",
        {"val/derived_accuracy": "derived cell", "val/mixed_accuracy": "mixture"},
        100,
        " %",
    ),
    Panel("Loss of the mixture on validation images", {"val/loss": "loss"}),
    Panel("Mixture above derived cell", {"val/gap": "gap"}, 100, " points"),
    Panel("Entropy of an edge", {"arch/entropy": "mean"}, 1, " nats"),
    Panel("Temperature", {"arch/temperature": "temperature"}),
    Panel("Eigenvalue of the architecture's curvature", {"arch/eigenvalue": "largest"}),
    Panel("Learning rate of the network", {"network/lr": "network", "train/lr": "network"}),
    Panel("Learning rate of the architecture", {"arch/lr": "architecture"}),
    Panel("Skip connections of the derived cell", {"derived/num_skips": "number"}),
    Panel("Parameters of the derived cell", {"derived/params": "parameters"}, 1e-6, " M"),
    Panel("MACs of the derived cell", {"derived/macs": "MACs"}, 1e-6, " M"),
    Panel("Images per second", {"images_per_second": "images"}),
)
"""What is shown first, in this order; every other curve of a run has a picture of its own behind them."""


def panels(run: Run) -> tuple[list[Panel], int]:
    """The pictures of a run, and how many more there would be."""
    known = {tag for panel in PANELS for tag in panel.names}
    present = [panel for panel in PANELS if any(tag in run.curves for tag in panel.names)]
    others = sorted(tag for tag in run.curves if tag not in known and not _UNSHOWN.match(tag))
    found = [*present, *(Panel(tag, {tag: "value"}) for tag in others)]
    return found[:_MOST_PANELS], max(0, len(found) - _MOST_PANELS)


def draw_panel(run: Run, panel: Panel) -> str:
    """One picture with its title and what its curves ended at."""
    curves = [(name, run.curves[tag]) for tag, name in panel.names.items() if tag in run.curves]
    lines = []
    for name, curve in curves:
        epochs = run.epochs(curve.steps)
        lines.append((name, *thin(curve.steps + 1.0 if epochs is None else epochs, panel.scale * curve.values)))
    ends = [
        f'<span class="key"><i class="line{place}"></i>{escape(name) + " " if len(curves) > 1 else ""}'
        f"<b>{_last(curve, panel)}</b></span>"
        for place, (name, curve) in enumerate(curves)
    ]
    title = clip(panel.title, 80)
    return (
        f'<figure class="panel"><figcaption><h3>{title}</h3>{"".join(ends)}</figcaption>{draw(lines, title)}</figure>'
    )


def _last(curve: Curve, panel: Panel) -> str:
    return f"{number(panel.scale * float(curve.values[-1]))}{panel.unit}"


def thin(x: Values, y: Values) -> tuple[Values, Values]:
    """At most a few hundred points of a curve, the highest and the lowest of every stretch among them."""
    if len(x) <= 2 * _BUCKETS:
        return x, y
    kept = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), _BUCKETS):
        values = y[part]
        if not np.isfinite(values).all():
            kept.update(part[~np.isfinite(values)][:1].tolist())
        if np.isfinite(values).any():
            kept.update((int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])))
    order = sorted(kept)
    return x[order], y[order]


def draw(lines: list[tuple[str, Values, Values]], label: str) -> str:
    """Curves on common axes as SVG; a value that is not finite leaves a gap.

    Args:
        lines: name, horizontal places (0 or more) and values of each.
        label: what the picture shows, escaped.
    """
    finite = np.concatenate([y[np.isfinite(y)] for _, _, y in lines])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1), high + (abs(high) or 1)
    end = max(float(x[-1]) for _, x, _ in lines)
    y_ticks = [float(tick) for tick in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    x_ticks = [tick for tick in map(float, MaxNLocator(5, integer=True).tick_values(0, end)) if 0 <= tick <= end]
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / end

    def down(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    parts = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(tick):.1f}" y2="{down(tick):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{down(tick) + 3.5:.1f}" class="end">{number(round(tick, 12))}</text>'
        for tick in y_ticks
    ]
    parts += [f'<text x="{across(tick):.1f}" y="{HEIGHT - 6}" class="middle">{number(tick)}</text>' for tick in x_ticks]
    for place in reversed(range(len(lines))):  # the first lies on top
        _, x, y = lines[place]
        points = [(across(float(a)), down(float(b))) if np.isfinite(b) else None for a, b in zip(x, y, strict=True)]
        parts.append(f'<path class="line{place}" d="{_path(points)}"/>')
        if last := next((point for point in reversed(points) if point), None):
            parts.append(f'<circle class="line{place}" cx="{last[0]:.1f}" cy="{last[1]:.1f}" r="2.6"/>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _path(points: list[tuple[float, float] | None]) -> str:
    words, pen = [], "M"
    for point in points:
        if point is not None:
            words.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "M" if point is None else "L"
    return "".join(words)
