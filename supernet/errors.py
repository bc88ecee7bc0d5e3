"""The one exception that speaks to a person."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SupernetError(ValueError):
    """A mistake the user can mend: one sentence that says what was wrong, what arrived and what to do.

    The command line prints its message without a traceback and exits with status 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """The rest of an error sentence about an unknown name: the closest known name and all known ones.

    >>> nearest("gdsa", ["darts", "gdas"])
    "did you mean 'gdas'? (known: darts, gdas)"
    """
    names = list(known)
    close = {candidate.lower(): candidate for candidate in names}
    match = difflib.get_close_matches(name.lower(), close, n=1, cutoff=0.5)
    guess = f"did you mean {close[match[0]]!r}? " if match else ""
    return f"{guess}(known: {', '.join(names)})"
