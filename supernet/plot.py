"""Pictures: a cell as text, a cell as a drawing, and probabilities over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import networkx as nx
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

from supernet.genotype import ZERO, Genotype
from supernet.ranking import kendall
from supernet.space import CellSpace

OP_COLOURS = {
    "none": "#bdbdbd",
    "skip_connect": "#4c9f70",
    "nor_conv_1x1": "#4e79c4",
    "nor_conv_3x3": "#c0392b",
    "nor_conv_5x5": "#7b241c",
    "avg_pool_3x3": "#d99a2b",
    "max_pool_3x3": "#8e6bbf",
}


def sketch_cell(genotype: Genotype) -> str:
    """The cell as a small text table: one row a node, one column for each node that feeds it.

    >>> print(sketch_cell(Genotype(("nor_conv_3x3", "none", "skip_connect"))))
              from input    from node 1
    node 1    nor_conv_3x3
    output    .             skip_connect
    """
    names = ["input", *(f"node {node}" for node in range(1, genotype.num_nodes - 1)), "output"]
    rows = [["", *(f"from {name}" for name in names[:-1])]]
    for target in range(1, genotype.num_nodes):
        ops = [genotype.edges[target, source] for source in range(target)]
        rows.append([names[target], *("." if op == ZERO else op for op in ops)])
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(genotype.num_nodes)]
    widths[0] = max(widths[0], 8)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    )


def draw_cell(genotype: Genotype) -> Figure:
    """The cell as a graph: nodes from left to right, one labelled arrow for each edge that is not ``none``."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(genotype.num_nodes))
    last = genotype.num_nodes - 1
    where = {node: (float(node), 0.0) for node in graph}
    reach = 0.3 * last + 0.2
    figure = Figure(figsize=(1.7 * (last + 0.7), 1.7 * (2 * reach) + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.35, last + 0.35), ylim=(-reach, reach), aspect="equal")
    for (target, source), op in genotype.edges.items():
        if op == ZERO:
            continue
        # An edge to the next node is straight; longer ones arch, by turns above and below, and never cross a label.
        span = target - source
        side = 0 if span == 1 else (1 if (source + span) % 2 else -1)
        height = side * 0.3 * span
        colour = OP_COLOURS.get(op, "#444444")
        axes.add_patch(
            FancyArrowPatch(
                where[source], where[target],
                connectionstyle=f"arc3,rad={-2 * height / span:.3f}", arrowstyle="-|>", mutation_scale=16,
                shrinkA=15, shrinkB=15, linewidth=2, color=colour,
            )
        )  # fmt: skip
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
        middle = (source + target) / 2
        axes.text(middle, height, op, bbox=box, ha="center", va="center", fontsize=9, color=colour, parse_math=False)
    labels = {node: "in" if node == 0 else "out" if node == last else str(node) for node in graph}
    nx.draw_networkx_nodes(graph, where, ax=axes, node_size=520, node_color="#f4f4f4", edgecolors="#333333")
    nx.draw_networkx_labels(graph, where, labels, ax=axes, font_size=10)
    axes.axis("off")
    axes.set_title(str(genotype).replace("+|", "\n+|"), fontsize=8, parse_math=False)
    return figure


def heat_map(history: Sequence[NDArray[np.floating]], epochs: Sequence[int], space: CellSpace) -> Figure:
    """Probabilities of all candidate operations over time.

    Args:
        history: one array of shape (E, O) for each moment; non-negative.
        epochs: the epoch of each moment, as many as there are arrays.
        space: names the rows.
    """
    table = np.stack([probabilities.reshape(-1) for probabilities in history], axis=1)
    figure = Figure(figsize=(7.5, 0.2 * len(table) + 1.3), layout="constrained")
    axes = figure.subplots()
    # Probabilities start equal and far below one: the scale shows at least twice the uniform one.
    brightest = max(float(table.max()), min(1.0, 2 / space.num_ops))
    image = axes.imshow(table, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0, vmax=brightest)
    axes.set_yticks(range(len(table)), [f"{t}<-{s}  {op}" for t, s in space.edges for op in space.ops], fontsize=7)
    for boundary in range(1, space.num_edges):
        axes.axhline(boundary * space.num_ops - 0.5, color="white", linewidth=1.2)
    shown = range(0, len(epochs), max(1, len(epochs) // 10))
    axes.set_xticks(list(shown), [str(epochs[moment]) for moment in shown])
    axes.set_xlabel("epoch")
    figure.colorbar(image, ax=axes, label="probability")
    return figure


def scatter(
    scores: Mapping[str, NDArray[np.float64]], truth: NDArray[np.float64], groups: Sequence[int], of: str, measured: str
) -> Figure:
    """Scores of cells against what they reach, one panel for each score.

    Args:
        scores: names of the scores, and one number for each cell.
        truth: as many numbers, in percent.
        groups: a small number for each cell, which gives its colour.
        of: what these numbers are.
        measured: what the truth is.

    The title of a panel has Kendall's tau of all cells, also of the few that are far below the others and not shown.
    """
    figure = Figure(figsize=(5.2 * len(scores) + 0.6, 4.6), layout="constrained")
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    # A few cells learn nothing: with them, the others would be a line at the top.
    shown = truth >= np.quantile(truth, 0.05) - 2
    # In an order that has nothing to do with the groups, else the last one lies on top of the others.
    order = np.random.default_rng(0).permutation(np.flatnonzero(shown))
    size = float(np.clip(9_000 / len(order), 5, 30))
    for axes, (name, values) in zip(panels, scores.items(), strict=True):
        points = axes.scatter(
            values[order], truth[order], c=np.asarray(groups)[order], s=size, alpha=0.6, linewidths=0, cmap="viridis"
        )
        axes.set_xlabel(name)
        axes.set_title(f"Kendall's tau {kendall(values, truth):.3f}", fontsize=10)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(measured, parse_math=False)
    hidden = len(truth) - len(order)
    note = f"; {hidden:,} of them, below these, are not shown" if hidden else ""
    figure.suptitle(f"{len(truth):,} cells{note}", fontsize=10)
    panels[-1].legend(*points.legend_elements(), title=of, loc="lower right", fontsize=8, title_fontsize=8)
    return figure
