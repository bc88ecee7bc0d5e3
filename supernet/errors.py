"""The one exception that speaks to a person, and commands that end in a sentence."""

from __future__ import annotations

import difflib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence


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


def run(main: Callable[[Sequence[str]], int | None], args: Sequence[str]) -> int:
    """Run a command; a mistake of the user, and what the system refuses, becomes one sentence.

    Args:
        main: the command; may return its exit status.
        args: its command line.

    Returns:
        Exit status: 0, or what the command returns; 1 if the reader of its output has left; 2 for a mistake; 130 if
        it is stopped by Ctrl-C, where what the KeyboardInterrupt says is told.
    """
    try:
        return main(args) or 0
    except BrokenPipeError:
        sys.stdout = None
        return 1
    except (SupernetError, OSError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        ignore_interrupts()
        print(f"stopped by SIGINT; {str(stop) or 'nothing had begun, or all was over'}", file=sys.stderr)
        return 128 + signal.SIGINT


def ignore_interrupts() -> None:
    """From now on Ctrl-C does nothing to this process, which is about to end, and would only end in a traceback."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which processes that it starts would inherit
