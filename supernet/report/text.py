"""Figures and words as a page shows them. What comes from outside is escaped here, and nowhere trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

MINUS, KEPT = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"
"""A sign as long as a plus, and a space that no line ends at."""

__all__ = ["MINUS", "clip", "duration", "escape", "many", "millions", "moment", "number", "percent", "table"]


def clip(text: object, most: int = 200) -> str:
    """Text of a bounded length, escaped."""
    shown = str(text)
    return escape(shown if len(shown) <= most else shown[: most - 1] + "…")


def many(count: int, thing: str) -> str:
    """How many there are of a thing.

    >>> many(1, "epoch"), many(1_200, "epoch")
    ('1 epoch', '1,200 epochs')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def number(value: float) -> str:
    """A number as short as its use allows: four digits that count, thousands set apart.

    >>> [number(value) for value in (0.0, 0.0139, 4.0, 12_345.6, 30_802_000.0, float("nan"))]
    ['0', '0.0139', '4', '12,346', '30.8 M', 'nan']
    """
    size = abs(value)
    if not math.isfinite(value) or size == 0:
        text = f"{value:g}" if value else "0"
    elif size >= 1e6:
        text = f"{value / 1e6:.4g} M" if size < 1e10 else f"{value:.3g}"
    elif size >= 1e3:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}" if size >= 1e-3 else f"{value:.3g}"
    return text.replace("-", MINUS)


def percent(share: float) -> str:
    r"""A share of 0 to 1 in percent.

    >>> percent(0.87482)
    '87.48\xa0%'
    """
    return f"{100 * share:.2f}{KEPT}%".replace("-", MINUS)


def millions(count: float) -> str:
    """A number of parameters or operations, in millions.

    >>> millions(30_802), millions(78_560_000)
    ('0.031 M', '78.56 M')
    """
    return f"{count / 1e6:.3f} M" if count < 1e7 else f"{count / 1e6:,.2f} M"


def duration(seconds: float) -> str:
    """A time that passed, in two units.

    >>> [duration(seconds) for seconds in (2.7, 61, 7_380, 266_400)]
    ['2.7 s', '1 min 1 s', '2 h 3 min', '3 d 2 h']
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, hours, days = seconds / 60, seconds / 3_600, seconds / 86_400
    if hours < 1:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{int(hours)} h {int(minutes % 60)} min" if days < 1 else f"{int(days)} d {int(hours % 24)} h"


def moment(time: float) -> str:
    """A moment, given in seconds since 1970, for people anywhere.

    >>> moment(1_795_536_634)
    '24 November 2026, 16:10 UTC'
    """
    try:
        when = datetime.fromtimestamp(time, UTC)
    except (OverflowError, ValueError, OSError):
        return "an impossible date"
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 1) -> str:
    """An HTML table of cells that are HTML already; columns from ``numbers_from`` on hold numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ['class="number"' if place >= numbers_from else "" for place in range(len(cells))]
        return "".join(f"<{tag} {kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    top = f"<thead><tr>{row(head, 'th')}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'
