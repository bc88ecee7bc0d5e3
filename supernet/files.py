"""Writing files so that nobody ever sees half of one, and reading files that may be anything."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from supernet.errors import SupernetError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says when no more can be written."""


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a file that is not longer than it may be; a pipe or a device, which may have no end, is not opened.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else than a file, or too long, or its name is impossible.
    """
    check_regular(path, max_bytes)
    with Path(path).open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:  # some files do not tell their length
        raise ValueError(f"it is longer than {max_bytes:,} bytes")
    return content


def check_regular(path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
    """Raise ValueError for what is no file, or longer than it may be; and OSError if there is nothing."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a folder, a pipe or a device, and no file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ValueError(f"it has {status.st_size:,} bytes, and {max_bytes:,} are the limit")


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file that appears whole or not at all; what it replaces stays until then.

    The bytes go to a hidden file beside it, down to the disk, and then take its name.

    Raises:
        SupernetError: the disk is full, or the folder cannot be written.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except OSError as error:
        remedy = ": make room, then repeat the command, with --resume if it has one" if error.errno in FULL else ""
        raise SupernetError(
            f"cannot write {target} ({error.strerror or error}); what was there before is intact{remedy}"
        ) from error
    finally:
        remove_quietly(beside)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left of writing files; call it where no other process writes."""
    for beside in folder.rglob(".*.part"):
        remove_quietly(beside)


def remove_quietly(path: Path) -> None:
    """Remove a file that may not be there, or not be ours to remove."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
