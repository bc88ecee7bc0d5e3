"""Options of a search that do not go together, each of them fine alone."""

from __future__ import annotations

from collections.abc import Iterable

from supernet.errors import SupernetError
from supernet.split import Split
from supernet.strategies import SearchStrategy
from supernet.terms import SearchTerm


def check_together(
    search: SearchStrategy,
    terms: Iterable[SearchTerm],
    split: Split | None,
    partial_channels: int,
    collapse: str,
    compile: bool,
) -> None:
    """Raise `SupernetError` for options that would fail late together, or mean nothing."""
    drawn = search.generator.get_state()
    is_by_cell = search().dim() == 3
    search.generator.set_state(drawn)
    if split is not None and is_by_cell:
        raise SupernetError("a split supernet runs one path in all cells: pass per=step, or leave the split out")
    if compile and search.differentiates_mixture:
        raise SupernetError(
            f"compiled cells can be differentiated once, and {type(search).__name__} differentiates them twice: leave"
            " --model.compile out"
        )
    for term in terms:
        name = type(term).__name__
        if split is not None and term.scores_mixtures:
            raise SupernetError(
                f"a split supernet runs single paths, and {name} looks at mixtures: leave one of them out"
            )
        if partial_channels > 1 and term.edits_rows:
            raise SupernetError(
                f"with partial_channels the channels that bypass an edge count with the sum of its row, and {name}"
                " takes some of it out: leave one of them out"
            )
        if collapse == "rewind" and term.scores_mixtures:
            raise SupernetError(
                f"{name} decides edges by the epoch, and rewind takes epochs back: pass --model.collapse stop"
            )
