"""Drawings by matplotlib, as SVG inside the page: text stays text, and the colours are those of the page."""

from __future__ import annotations

import functools
import io
import re
import warnings
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from supernet.errors import SupernetError
from supernet.genotype import MAX_NODES, Genotype
from supernet.plot import OP_COLOURS, draw_cell, heat_map
from supernet.report.place import Standing
from supernet.report.run import Run
from supernet.space import CellSpace

_COLOURS = {
    "#000000": "currentColor",
    "#333333": "currentColor",
    "#ffffff": "var(--paper)",
    "#f4f4f4": "var(--node)",
    **{colour: f"var(--{op})" for op, colour in OP_COLOURS.items()},
}
"""What a colour of a drawing is on the page, which may be dark."""

_TAG = re.compile(r"edge_(\d{1,2})_to_(\d{1,2})/(.+)", re.DOTALL)
_MAX_ROWS, _MAX_COLUMNS = 300, 500


def cell_drawing(cell: Genotype) -> str:
    """The cell as a graph; its string, which the page tells, is left out."""
    with _plain_text():
        drawn = draw_cell(cell)
        drawn.axes[0].set_title("")
        return inline(drawn, "cell", "The cell as a graph")


def history(run: Run) -> tuple[CellSpace, NDArray[np.int64], NDArray[np.floating]] | None:
    """What a search held likely over time, from its events: space, batches, and shape (E, O, batches).

    None if it logged no probabilities.

    Raises:
        SupernetError: what was logged is no search space, or too large a one.
    """
    found: dict[tuple[int, int], dict[str, str]] = {}
    for tag in run.curves:
        if match := _TAG.fullmatch(tag):
            found.setdefault((int(match[2]), int(match[1])), {})[match[3]] = tag
    if not found:
        return None
    ops = list(next(iter(found.values())))
    num_nodes = 1 + max(target for target, _ in found)
    if num_nodes > MAX_NODES or len(found) * len(ops) > _MAX_ROWS:
        raise SupernetError(f"{len(found)} edges of {len(ops)} operations are too many for a picture")
    space = CellSpace(num_nodes, ops)
    if set(found) != set(space.edges) or any(set(row) != set(ops) for row in found.values()):
        raise SupernetError("some edges or operations are not among the events")
    curves = [run.curves[found[edge][op]] for edge in space.edges for op in space.ops]
    steps = functools.reduce(np.intersect1d, [curve.steps for curve in curves])
    if not len(steps):
        raise SupernetError("the operations were not logged at the same batches")
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, _MAX_COLUMNS).round().astype(int))]
    rows = np.stack([curve.values[np.searchsorted(curve.steps, steps)] for curve in curves])
    return space, steps, rows.reshape(space.num_edges, space.num_ops, len(steps))


def probabilities(run: Run) -> str:
    """The heat map of `history`; empty if there is none."""
    if (found := history(run)) is None:
        return ""
    space, steps, values = found
    ends = run.epochs(steps)
    moments = [round(number) for number in (steps + 1 if ends is None else ends).tolist()]
    shown = np.clip(np.nan_to_num(values), 0, 1)
    with _plain_text():
        drawn = heat_map([shown[:, :, moment] for moment in range(len(steps))], moments, space)
        if ends is None:
            drawn.axes[0].set_xlabel("batch")
        return inline(drawn, "heat", "Probabilities of all operations over time")


def departures(run: Run) -> tuple[int, int] | None:
    """On how many edges the cell has not the likeliest operation at the end of `history`, and the number of edges.

    None if there is no cell or no history, or the cell is none of its space.
    """
    if run.cell is None or (found := history(run)) is None or run.cell not in found[0]:
        return None
    space, _, values = found
    last = np.nan_to_num(values[:, :, -1])
    own = last[np.arange(space.num_edges), space.choices(run.cell)]
    return int((own < last.max(axis=1)).sum()), space.num_edges


def scatter(standing: Standing) -> tuple[str, int]:
    """All cells of the table by cost and accuracy, with this one; and how many lie below the picture."""
    accuracies, macs, index = standing.accuracies, standing.macs, standing.cell.index
    known = ~np.isnan(accuracies)
    floor = min(float(np.quantile(accuracies[known], 0.25)), standing.place.accuracy)
    top = standing.best_place.accuracy
    margin = (top - floor) * 0.04 or 1.0
    # Costs take a few dozen values only: cells of the same cost are spread a little, always alike.
    spread = (
        np.random.default_rng(0).uniform(-0.3, 0.3, len(macs)) * np.diff(np.unique(macs), prepend=0).clip(0)[1:].min()
    )
    drawn = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = drawn.subplots()
    shown = known & (accuracies >= floor - margin)
    axes.scatter(
        (macs + spread)[shown], accuracies[shown], s=3, color="#8a97a6", alpha=0.45, linewidths=0, rasterized=True
    )
    axes.axhline(standing.random_best, color=OP_COLOURS["avg_pool_3x3"], linewidth=1.4, linestyle=(0, (4, 2)))
    front = standing.front
    axes.step(
        [*macs[front], macs.max()], [*accuracies[front], accuracies[front[-1]]],
        where="post", color=OP_COLOURS["nor_conv_1x1"], linewidth=1.6,
    )  # fmt: skip
    marks: dict[str, Any] = {"s": 70, "zorder": 5, "linewidths": 1.2, "edgecolors": "#ffffff"}
    axes.scatter(macs[standing.best.index], top, marker="D", color=OP_COLOURS["skip_connect"], **marks)
    axes.scatter(macs[index], standing.place.accuracy, color=OP_COLOURS["nor_conv_3x3"], **{**marks, "s": 110})
    axes.set(ylim=(floor - margin, top + margin), xlabel="million multiply-accumulates", ylabel="accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    with _plain_text():
        return inline(drawn, "space", "All cells by cost and accuracy"), int((known & ~shown).sum())


def _plain_text() -> AbstractContextManager[None]:
    """Names are drawn as they are, never as formulas, and in letters that the reader's machine has."""
    return mpl.rc_context({"text.parse_math": False, "svg.fonttype": "none", "savefig.dpi": 160})


def inline(drawn: Figure, name: str, label: str) -> str:
    """A figure as an SVG element whose identifiers begin with a name, so that several live in one page."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": name}):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's machine may have it
        drawn.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata=nothing)
    svg = buffer.getvalue().partition("<svg")[2]
    head, _, body = svg.partition(">")
    view = re.search(r'viewBox="[\d. -]+"', head)
    assert view is not None
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _adapt(tag[0], name), body)
    return f'<svg class="{name}" {view[0]} role="img" aria-label="{label}">{body}'


def _adapt(tag: str, name: str) -> str:
    """A tag of a drawing with identifiers, letters and colours of the page."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", tag)
    tag = re.sub(r"font-family: [^;\"]*", "font-family: inherit", tag)
    return re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda colour: _COLOURS.get(colour[0], colour[0]), tag)
