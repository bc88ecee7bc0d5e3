"""The section on where the cell lies among all cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from supernet.plot import OP_COLOURS
from supernet.report.figures import scatter
from supernet.report.place import Standing
from supernet.report.run import Run
from supernet.report.text import clip, escape, many, percent, table

_MOST_NEIGHBOURS = 8


def landscape(run: Run, placed: Standing | None) -> str:
    """Rank, regret, picture and neighbours of the cell; without a table, how to get them."""
    title = "<h2>Where the cell lies among all cells</h2>"
    if placed is None:
        how = f"python -m supernet.report {run.folder} --table nasbench201.csv.gz"
        return (
            f"<section>{title}<p>With a table of NAS-Bench-201 this page tells what the cell really reaches, its rank"
            f" among all 15,625 cells and its better neighbours: <code>{clip(how, 500)}</code></p></section>"
        )
    return f"<section>{title}{_told(run, placed)}{_picture(placed)}{_neighbours(placed)}</section>"


def accuracy(value: float) -> str:
    """An accuracy of the table, in percent."""
    return percent(value / 100)


def _told(run: Run, placed: Standing) -> str:
    place, column = placed.place, placed.column
    own = placed.macs[placed.cell.index]
    cheap = float(np.nanmax(placed.accuracies[placed.macs <= own]))
    front = "It is on the Pareto front" if placed.cell.index in placed.front else "It is not on the Pareto front"
    ahead = place.accuracy - placed.random_best
    than = "above" if ahead >= 0 else "below"
    elsewhere = ""
    if run.data != column.dataset:
        elsewhere = f" The run saw {clip(run.data, 60)}: this is how its cell does on other images."
    return (
        f"<p>The cell reaches <b>{accuracy(place.accuracy)}</b>: <b>rank {place.rank:,}</b> of {placed.num_known:,},"
        f" better than {percent(placed.share_below)} of all cells, and {place.regret:.2f} points below the best one."
        f" That is {abs(ahead):.2f} points {than} the expected best of {many(placed.num_drawn, 'random cell')}."
        f" {front}: the best cell that costs no more reaches {accuracy(cheap)}.</p>"
        f'<p class="note">{escape(column.meaning)}; mean over seeds.{elsewhere}'
        f" Table: {clip(Path(placed.source).name, 80)}, column {column}.</p>"
    )


def _picture(placed: Standing) -> str:
    drawn, below = scatter(placed)
    keys = (
        ("mine", "this cell", placed.place.accuracy),
        ("best", f"best cell, index {placed.best.index:,}", placed.best_place.accuracy),
        ("random", f"expected best of {many(placed.num_drawn, 'random cell')}", placed.random_best),
        ("front", f"Pareto front, {many(len(placed.front), 'cell')}", None),
    )
    legend = "".join(
        f'<span class="key"><i class="{kind}"></i>{name}{"" if value is None else f" <b>{accuracy(value)}</b>"}</span>'
        for kind, name, value in keys
    )
    left_out = f" {many(below, 'cell')} {'lies' if below == 1 else 'lie'} below the picture." if below else ""
    return (
        f'<figure><div class="legend">{legend}</div><div class="scroll">{drawn}</div><figcaption class="note">Every'
        f" dot is a cell; dots of equal cost are spread a little.{left_out}</figcaption></figure>"
    )


def _neighbours(placed: Standing) -> str:
    better = [each for each in placed.neighbours if each.place.accuracy > placed.place.accuracy]
    if not better:
        return f"<p>None of its {len(placed.neighbours)} neighbours, which differ on one edge, is better.</p>"
    rows = [
        (
            f"{each.edge[0]}&lt;-{each.edge[1]}",
            f"{_operation(each.old)} → {_operation(each.new)}",
            accuracy(each.place.accuracy),
            f"+{each.place.accuracy - placed.place.accuracy:.2f}",
            f"{each.place.rank:,}",
        )
        for each in better[:_MOST_NEIGHBOURS]
    ]
    first = f", the best {len(rows)} of them" if len(better) > len(rows) else ""
    are = "is" if len(better) == 1 else "are"
    return (
        f"<p>{len(better)} of its {many(len(placed.neighbours), 'neighbour')}, which differ on one edge, {are}"
        f" better{first}:</p>" + table(("Edge", "Change", "Accuracy", "Points", "Rank"), rows, 2)
    )


def _operation(op: str) -> str:
    name = escape(op)
    return f'<span style="color:var(--{op})">{name}</span>' if op in OP_COLOURS and op != "none" else name
