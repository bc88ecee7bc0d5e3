"""The one exception that speaks to a person."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SupernetError(ValueError):
    """A mistake the user can mend: one sentence that says what was wrong, what arrived and what to do.

    The command line prints its message without a traceback and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    r"""A message as one line that any terminal can show, whatever it quotes; at most 2,000 characters of it.

    >>> print(one_line("no file a\nb\x1b[2J"))
    no file a b\x1b[2J
    """
    shown = " ".join(message[:2_000].split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def guess(name: str, known: Iterable[str]) -> str:
    """A question after the closest known name, with a space behind it; empty if none is close.

    >>> guess("gdsa", ["darts", "gdas"])
    "did you mean 'gdas'? "
    """
    names = {candidate.lower(): candidate for candidate in known}
    match = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f"did you mean {names[match[0]]!r}? " if match else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The rest of an error sentence about an unknown name: the closest known name and all known ones.

    >>> nearest("gdsa", ["darts", "gdas"])
    "did you mean 'gdas'? (known: darts, gdas)"
    """
    names = list(known)
    return f"{guess(name, names)}(known: {', '.join(names)})"
