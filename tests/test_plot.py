"""Pictures are read back: the sketch from its text, the drawing from its arrows, the map from its array."""

from __future__ import annotations

import io
import random
import re
from collections import Counter

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from supernet.genotype import NAS_BENCH_201_OPS, Genotype
from supernet.plot import OP_COLOURS, draw_cell, heat_map, scatter, sketch_cell
from supernet.ranking import kendall
from supernet.space import CellSpace

WIDE_OPS = (*NAS_BENCH_201_OPS, "nor_conv_5x5", "max_pool_3x3")


def sampled(num_nodes: int, count: int, ops: tuple[str, ...] = WIDE_OPS) -> list[Genotype]:
    space, rng = CellSpace(num_nodes, ops), random.Random(num_nodes)
    return [space.sample(rng) for _ in range(count)]


def read_sketch(text: str) -> tuple[str, ...]:
    """What a person reads off the table: the word below each heading, row by row."""
    header, *rows = text.split("\n")
    starts = [match.start() for match in re.finditer("from ", header)]
    words = [[row[start:].split()[0] for start in starts[:target]] for target, row in enumerate(rows, start=1)]
    return tuple("none" if word == "." else word for row in words for word in row)


def png(figure: Figure) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    pixels: NDArray[np.float32] = matplotlib.image.imread(buffer, format="png")
    return np.round(pixels * 255).astype(np.uint8)


def arrows(figure: Figure) -> list[FancyArrowPatch]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]


def shaft(arrow: FancyArrowPatch) -> Path:
    """The curve of an arrow without its head, in data coordinates."""
    path = arrow.get_path()
    return Path(np.asarray(path.vertices)[:3], [Path.MOVETO, Path.CURVE3, Path.CURVE3])


def drawn_edges(figure: Figure) -> dict[tuple[int, int], tuple[float, float, float, float]]:
    """Colour of the arrow between each pair of nodes, read off where the curve starts and ends."""
    ends = {}
    for arrow in arrows(figure):
        (start, _), _, (end, _) = np.asarray(shaft(arrow).vertices).tolist()
        ends[round(end), round(start)] = to_rgba(arrow.get_edgecolor())
    return ends


@given(st.integers(2, 12), st.sampled_from([WIDE_OPS, ("none", "x"), ("a_name_longer_than_any_heading", "b")]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_sketch_reads_back_as_the_cell(num_nodes: int, ops: tuple[str, ...]) -> None:
    for genotype in sampled(num_nodes, 3, ops):
        assert read_sketch(sketch_cell(genotype)) == genotype.ops


def test_sketch_of_the_resnet_cell_is_a_table_with_a_row_for_each_node() -> None:
    assert sketch_cell(Genotype.from_index(11472)).split("\n") == [
        "          from input    from node 1   from node 2",
        "node 1    nor_conv_3x3",
        "node 2    .             nor_conv_3x3",
        "output    skip_connect  .             skip_connect",
    ]


@pytest.mark.parametrize("num_nodes", [2, 3, 4, 5, 6])
def test_drawing_has_one_arrow_and_one_label_for_each_edge_that_is_not_none(num_nodes: int) -> None:
    for genotype in sampled(num_nodes, 2):
        present = {edge: op for edge, op in genotype.edges.items() if op != "none"}
        figure = draw_cell(genotype)
        assert png(figure).std() > 0
        assert len(arrows(figure)) == len(present)
        assert drawn_edges(figure) == {edge: to_rgba(OP_COLOURS[op]) for edge, op in present.items()}
        nodes = ["in", *map(str, range(1, num_nodes - 1)), "out"]
        assert Counter(text.get_text() for text in figure.axes[0].texts) == Counter([*present.values(), *nodes])


def test_drawing_has_the_arrows_of_many_cells() -> None:
    for genotype in sampled(4, 30, NAS_BENCH_201_OPS):
        assert len(arrows(draw_cell(genotype))) == 6 - genotype.ops.count("none")


@pytest.mark.parametrize("num_nodes", [2, 3, 4, 5, 6])
def test_no_label_touches_another_label_or_the_arrow_of_another_edge(num_nodes: int) -> None:
    genotype = Genotype(("nor_conv_3x3",) * len(CellSpace(num_nodes).edges))
    figure = draw_cell(genotype)
    png(figure)  # lays the figure out
    axes = figure.axes[0]
    labels = [text.get_window_extent() for text in axes.texts if text.get_text() == "nor_conv_3x3"]
    curves = [shaft(arrow).transformed(axes.transData) for arrow in arrows(figure)]
    for first, label in enumerate(labels):
        for second in range(len(labels)):
            if first != second:
                assert not label.overlaps(labels[second])
                assert not curves[second].intersects_bbox(label, filled=False)
    assert len(labels) == len(curves) == len(genotype.ops)


def test_drawing_shows_the_operations_in_their_colours() -> None:
    genotype = Genotype(("nor_conv_1x1", "avg_pool_3x3", "nor_conv_3x3"))
    seen = {tuple(pixel[:3].tolist()) for pixel in png(draw_cell(genotype)).reshape(-1, 4)}
    for op in set(OP_COLOURS) - {"none"}:  # its grey is also the edge of black letters
        colour = OP_COLOURS[op]
        code = tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))
        assert (code in seen) == (op in genotype.ops)


def test_every_candidate_has_a_colour_of_its_own_and_strangers_are_drawn_too() -> None:
    assert set(OP_COLOURS) == set(WIDE_OPS)
    assert len(set(OP_COLOURS.values())) == len(OP_COLOURS)
    assert len(arrows(draw_cell(Genotype(("sep_conv_3x3", "none", "identity"))))) == 2


def test_drawing_is_titled_with_the_cell_one_line_a_node() -> None:
    genotype = Genotype.from_index(6111)
    title = draw_cell(genotype).axes[0].get_title()
    assert title.replace("\n", "") == str(genotype)
    assert title.count("\n") == 2


@pytest.mark.parametrize("moments", [1, 2, 37])
@pytest.mark.parametrize("space", [CellSpace(), CellSpace(3, ("none", "skip_connect"))], ids=["4nodes", "3nodes"])
def test_heat_map_shows_the_history_row_by_row(space: CellSpace, moments: int) -> None:
    rng = np.random.default_rng(moments)
    history = [rng.dirichlet(np.ones(space.num_ops), size=space.num_edges) for _ in range(moments)]
    epochs = list(range(5, 5 + 2 * moments, 2))
    figure = heat_map(history, epochs, space)
    axes = figure.axes[0]
    (image,) = (child for child in axes.get_children() if isinstance(child, AxesImage))
    shown = np.asarray(image.get_array())
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert shown.shape == (len(rows), moments)
    for edge, (target, source) in enumerate(space.edges):
        for column, op in enumerate(space.ops):
            row = rows.index(f"{target}<-{source}  {op}")
            assert shown[row].tolist() == [probabilities[edge, column] for probabilities in history]
    for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        assert label.get_text() == str(epochs[int(tick)])
    low, high = image.get_clim()
    assert low == 0
    assert max(float(shown.max()), min(1, 2 / space.num_ops)) == pytest.approx(high)
    assert png(figure).std() > 0


def test_names_are_drawn_as_they_are_and_not_as_formulas() -> None:
    draw_cell(Genotype((r"$\foo$",))).savefig(io.BytesIO())


def test_a_scatter_shows_every_cell_but_the_few_far_below() -> None:
    rng = np.random.default_rng(1)
    truth = np.concatenate([rng.uniform(80, 94, 96), [10.0, 10.0, 11.0]])
    scores = {"one": rng.normal(size=99), "other": 3 * truth}
    groups = rng.integers(0, 4, 99).tolist()
    figure = scatter(scores, truth, groups, "convolutions", "true_accuracy")
    panels = figure.axes
    assert [axes.get_xlabel() for axes in panels] == ["one", "other"]
    for axes, values in zip(panels, scores.values(), strict=True):
        (points,) = axes.collections
        shown = sorted(zip(*np.asarray(points.get_offsets()).T, np.asarray(points.get_array()), strict=True))
        assert shown == sorted(zip(values[:96], truth[:96], groups[:96], strict=True))
    assert figure.get_suptitle() == "99 cells; 3 of them, below these, are not shown"
    for axes, values in zip(panels, scores.values(), strict=True):
        assert axes.get_title() == f"Kendall's tau {kendall(values, truth):.3f}"
    legend = panels[1].get_legend()
    assert legend is not None
    assert [re.sub(r"\D", "", text.get_text()) for text in legend.get_texts()] == ["0", "1", "2", "3"]
    assert png(figure).std() > 0
