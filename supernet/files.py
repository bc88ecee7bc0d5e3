"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from supernet.errors import SupernetError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says when no more can be written."""


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file that appears whole or not at all; what it replaces stays until then.

    The bytes go to a hidden file beside it, down to the disk, and then take its name.

    Raises:
        SupernetError: the disk is full, or the folder cannot be written.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except OSError as error:
        remedy = ": make room, then repeat the command with --resume" if error.errno in FULL else ""
        raise SupernetError(
            f"cannot write {target} ({error.strerror or error}); what was there before is intact{remedy}"
        ) from error
    finally:
        remove_quietly(beside)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left of writing files; call it where no other process writes."""
    for beside in folder.rglob(".*.*"):
        if beside.suffix[1:].isdecimal():
            remove_quietly(beside)


def remove_quietly(path: Path) -> None:
    """Remove a file that may not be there, or not be ours to remove."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
