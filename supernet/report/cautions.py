"""What a reader must know before believing a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from supernet.rank.figures import EFFECTIVE, SHARED
from supernet.report.run import Run, finite, look
from supernet.report.text import many
from supernet.space import SKIP, is_connected

_MAX_SKIPS = 3
"""Of a healthy cell, where the configuration does not say."""


def cautions(run: Run) -> list[str]:
    """Sentences on what speaks against the figures of a run; plain text, not escaped."""
    return [*_unfinished(run), *_cell(run), *_training(run), *_rank(run.rank)]


def _unfinished(run: Run) -> Iterator[str]:
    asked, done = run.epochs_asked, run.epochs_done
    if asked is not None and done is None:
        yield f"No epoch of {asked} has ended, as far as the files tell."
    elif asked is not None and done is not None and done < asked:
        yield f"The run is not finished: {done:,} of {many(asked, 'epoch')}."
    if run.is_final and not run.result:
        yield "The final training has left no result: it was not finished, or not tested."
    options = look(run.config, "trainer")
    for name, limit in options.items() if isinstance(options, Mapping) else ():
        if str(name).startswith("limit_") and str(name).endswith("_batches") and limit not in (None, 1.0):
            yield f"Only a part of the data was used: trainer.{name} is {str(limit)[:40]}."


def _cell(run: Run) -> Iterator[str]:
    if run.cell is None:
        return
    if not is_connected(run.cell):
        yield "The input does not reach the output of this cell: it cannot learn more than chance."
    allowed, skips = look(run.config, "model", "max_skips"), run.cell.ops.count(SKIP)
    if skips > (most := allowed if type(allowed) is int else _MAX_SKIPS):
        yield (
            f"The cell has collapsed: {skips} of {len(run.cell.ops)} edges are skip connections, and a healthy cell"
            f" has {most} at most."
        )
    told = run.result.get("genotype", str(run.cell))
    if told != str(run.cell):
        yield "The result belongs to another cell than genotype.json tells; this page shows the latter."


def _training(run: Run) -> Iterator[str]:
    for part in ("network", "arch", "train"):
        skipped = run.curves.get(f"{part}/skipped_steps")
        if skipped is not None and (number := float(skipped.values[-1])) > 0:
            steps, were = many(round(number), "step"), "was" if round(number) == 1 else "were"
            yield f"{steps} of {part} {were} skipped, since the loss or the gradient was not finite."
    broken = [tag for tag, curve in run.curves.items() if not np.isfinite(curve.values).all()]
    if broken:
        more = f", and {len(broken) - 3} more" if len(broken) > 3 else ""
        yield f"Values that are not finite were logged: {', '.join(broken[:3])}{more}."


def _rank(rank: Any) -> Iterator[str]:
    """Whether shared parameters order cells worse than counting the parameters that can reach the output does."""
    taus = {row["score"]: finite(row["tau"]) for row in rank_rows(rank)}
    shared, counted = taus.get(SHARED), taus.get(EFFECTIVE)
    if shared is not None and counted is not None and shared < counted:
        yield (
            f"The supernet ranks cells worse (Kendall {shared:.3f}) than their {EFFECTIVE} does ({counted:.3f}): what"
            " it says of cells is less than counting does."
        )


def rank_rows(rank: Any) -> list[Mapping[str, Any]]:
    """One row for each score, as ``python -m supernet.rank`` writes them; none of any other layout."""
    rows = look(rank, "rows")
    return [
        row
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, Mapping) and isinstance(row.get("score"), str) and type(row.get("tau")) in (int, float)
    ]
