"""The page: sections of plain HTML, each from a part of a run, in one file that refers to nothing outside."""

from __future__ import annotations

import base64
import hashlib
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import supernet
from supernet.cli.runs import CHECKPOINT, CONFIG
from supernet.cost import Cost, cost
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.plot import sketch_cell
from supernet.report.cautions import cautions, rank_rows
from supernet.report.curves import draw_panel, panels
from supernet.report.figures import cell_drawing, departures, probabilities
from supernet.report.landscape import accuracy, landscape
from supernet.report.place import Standing
from supernet.report.read import GENOTYPE
from supernet.report.run import Run, finite, look
from supernet.report.style import STYLE
from supernet.report.text import clip, duration, escape, many, millions, moment, number, percent, table
from supernet.space import SKIP

_NOTHING_OUTSIDE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MAX_RANK_ROWS, _MAX_RANK_COLUMNS = 100, 12


def page(run: Run, placed: Standing | None = None) -> str:
    """A run as one HTML page.

    Args:
        run: what is known of it.
        placed: where its cell lies among all cells, if a table was asked.
    """
    title = f"{'Final training' if run.is_final else clip(run.strategy, 60)} on {clip(run.data, 60)}"
    kind = "Final training of one cell" if run.is_final else "Architecture search"
    curves, heat = _curves(run), _heat(run)  # they may find that something is missing
    body = [
        f'<p class="kind">{kind}</p><h1>{title}</h1><p class="facts">{_facts(run)}</p>',
        _cautions(run), _tiles(run, placed), _cell(run), curves, heat, landscape(run, placed), _rank(run),
        _reproduce(run),
    ]  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_NOTHING_OUTSIDE}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title>\n<style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + f"\n<footer>Written by supernet {escape(supernet.__version__)}, {moment(time.time())}.</footer>"
        "\n</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _facts(run: Run) -> str:
    done, asked = run.epochs_done, run.epochs_asked
    facts = []
    if done is not None:
        facts.append(many(done, "epoch") if asked in (None, done) else f"{done:,} of {many(asked, 'epoch')}")
    if run.span is not None:
        facts.append(moment(run.span[0]))
    if (seconds := run.seconds) is not None:
        sessions = f" in {len(run.starts)} sessions" if len(run.starts) > 1 else ""
        facts.append(duration(seconds) + sessions)
    if run.seed is not None:
        facts.append(f"seed {clip(run.seed, 30)}")
    if run.is_final and "strategy" in run.record:
        facts.append(f"cell found by {clip(run.record['strategy'], 60)}")
    return " · ".join(facts)


def _cautions(run: Run) -> str:
    said = "".join(f"<li>{clip(sentence, 500)}</li>" for sentence in cautions(run))
    missing = "".join(f"<li>{clip(sentence, 500)}</li>" for sentence in run.missing)
    return (f"<aside><b>Before you trust these figures</b><ul>{said}</ul></aside>" if said else "") + (
        f'<p class="note">Not on this page:</p><ul class="missing note">{missing}</ul>' if missing else ""
    )


def _tiles(run: Run, placed: Standing | None) -> str:
    tiles: list[tuple[str, str, str]] = []
    if run.is_final and (tested := finite(run.result.get("test_accuracy"))) is not None:
        tiles.append((percent(tested), "test accuracy", f"{clip(run.data, 30)}, last epoch"))
    for name, what in (("derived", "derived cell"), ("mixed", "mixture")) if not run.is_final else ():
        reached = finite(look(run.record, "metrics", f"val/{name}_accuracy"))
        if reached is not None:
            tiles.append((percent(reached), what, "validation images, shared parameters"))
    if placed is not None:
        images = placed.column.meaning.partition(",")[0]
        measure = {"valid": "validation"}.get(placed.column.measure, placed.column.measure)
        told = f"{images} {measure}, rank {placed.place.rank:,} of {placed.num_known:,}"
        tiles.append((accuracy(placed.place.accuracy), "tabulated accuracy", told))
    if run.cell is not None:
        if (size := _cost(run.cell, {})) is not None:
            tiles.append((millions(size.params), "parameters", "standard network, C=16, N=5"))
            tiles.append((millions(size.macs), "multiply-accumulates", "for one image of 32&times;32"))
        tiles.append((f"{run.cell.ops.count(SKIP)} of {len(run.cell.ops)}", "skip connections", "edges of the cell"))
    shown = "".join(f'<div class="tile"><b>{b}</b><span>{s}</span><small>{n}</small></div>' for b, s, n in tiles)
    return f'<div class="tiles">{shown}</div>' if shown else ""


def _cell(run: Run) -> str:
    if run.cell is None:
        return ""
    index = "" if run.cell.index is None else f" Official index {run.cell.index:,}."
    rows = []
    own = run.result.get("hyperparameters") or (
        look(run.config, "model") if run.is_final else run.record.get("network")
    )
    for name, network in (("trained here" if run.is_final else "as searched", own), ("standard", {})):
        if isinstance(network, Mapping) and (size := _cost(run.cell, network)) is not None:
            rows.append((f"{name}<br><small>{_size(network)}</small>", millions(size.params), millions(size.macs)))
    costs = table(("Network", "Parameters", "MACs"), rows) if rows else ""
    string = clip(run.cell, 5_000).replace("+|", "+<wbr>|")
    names = f"An edge is written target&lt;-source; node 0 is the input, node {run.cell.num_nodes - 1} the output."
    facts = (
        f"<p><code>{string}</code>.{index}</p><pre>{escape(sketch_cell(run.cell))}</pre>"
        f'<p class="note">{names}</p>{costs}'
    )
    return _section("The cell", f'<div class="two"><figure>{cell_drawing(run.cell)}</figure><div>{facts}</div></div>')


_STANDARD: dict[str, Any] = {"channels": 16, "num_cells": 5, "num_classes": 10, "image_shape": (3, 32, 32)}


def _network(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: told.get(name, usual) for name, usual in _STANDARD.items()}


def _size(told: Mapping[str, Any]) -> str:
    network = _network(told)
    shape = "&times;".join(str(length) for length in network["image_shape"])
    return f"C={network['channels']}, N={network['num_cells']}, {network['num_classes']} classes, images {shape}"


def _cost(cell: Genotype, told: Mapping[str, Any]) -> Cost | None:
    """The cost of a network whose size was read from a file; None if there is no such network."""
    network = _network(told)
    shape = network.pop("image_shape")
    lengths = [*network.values(), *shape] if isinstance(shape, list | tuple) and len(shape) == 3 else [None]
    if not all(type(length) is int and 0 < length < 10_000 for length in lengths):
        return None
    try:
        return cost(cell, **network, image_shape=tuple(shape))
    except SupernetError:  # an operation of one's own
        return None


def _curves(run: Run) -> str:
    shown, num_others = panels(run)
    if not shown:
        return ""
    axis = "epochs" if run.epochs(next(iter(run.curves.values())).steps) is not None else "batches"
    others = f" {num_others:,} further curves are in TensorBoard." if num_others else ""
    note = f'<p class="note">Over {axis} trained; beside each name, where it ended.{others}</p>'
    pictures = "".join(draw_panel(run, panel) for panel in shown)
    return _section("The training" if run.is_final else "The search", f'{note}<div class="panels">{pictures}</div>')


def _heat(run: Run) -> str:
    try:
        drawn = probabilities(run)
    except SupernetError as error:
        run.missing.append(f"The probabilities over time are not drawn: {error}.")
        return ""
    note = '<p class="note">One row for each operation of each edge, written target&lt;-source.</p>'
    body = f'{note}<div class="scroll">{drawn}</div>{_departures(run)}' if drawn else ""
    return _section("What the search held likely", body)


def _departures(run: Run) -> str:
    others, edges = departures(run) or (0, 0)
    if not others:
        return ""
    return (
        f'<p class="note">On {others} of {many(edges, "edge")} the cell has another operation than the one that was'
        " likeliest at the end. This may be because cells were compared with shared parameters, because"
        " <code>none</code> was left out, because the likeliest cell was not connected, or because an earlier cell was"
        " kept.</p>"
    )


def _rank(run: Run) -> str:
    picture = ""
    if run.rank_picture:
        data = base64.b64encode(run.rank_picture).decode()
        picture = f'<figure><img alt="Scores against true accuracies" src="data:image/png;base64,{data}"></figure>'
    rows = rank_rows(run.rank)[:_MAX_RANK_ROWS]
    plain = (key for row in rows for key, value in row.items() if not isinstance(value, list | dict))
    names = [*dict.fromkeys(plain)][:_MAX_RANK_COLUMNS]
    body = [[_value(row.get(name)) for name in names] for row in rows]
    shown = picture + (table([clip(name, 40).replace("_", " ") for name in names], body) if rows else "")
    meaning = look(run.rank, "meaning")
    note = f'<p class="note">Held to: {clip(meaning, 300)}.</p>' if isinstance(meaning, str) else ""
    return _section("Does the supernet rank cells?", note + shown if shown else "")


def _value(value: Any) -> str:
    told = finite(value)
    return clip("" if value is None else value, 80) if told is None else number(told)


def _reproduce(run: Run) -> str:
    def quoted(path: Path) -> str:
        return shlex.quote(str(path))

    config, lines = run.folder / CONFIG, []
    if run.config and run.is_final:
        cell = quoted(run.folder / GENOTYPE)
        lines = ["python derive.py \\", f"    --config {quoted(config)} \\", f"    --genotype {cell} --model.genotype="]
    elif run.config:
        lines = [
            f"python train.py --config {quoted(config)}",
            f"python derive.py {quoted(run.folder / CHECKPOINT)}",
        ]
    versions = run.result.get("versions") or run.record.get("versions")
    known = versions if isinstance(versions, Mapping) else {}
    rows = [(clip(name, 40), clip(told, 120)) for name, told in list(known.items())[:20]]
    if run.seed is not None:
        rows.insert(0, ("seed", clip(run.seed, 30)))
    if "source" in run.record:
        rows.append(("cell from", f"<code>{clip(run.record['source'])}</code>"))
    folded = ""
    if run.config_text:
        digest = hashlib.sha256(run.config_text.encode()).hexdigest()
        rows.append((f"SHA-256 of {CONFIG}", f"<code>{digest}</code>"))
        folded = f"<details><summary>The whole configuration</summary><pre>{escape(run.config_text)}</pre></details>"
    commands = f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else ""
    return _section("How to reproduce it", commands + (table(("", ""), rows, 2) if rows else "") + folded)
