"""Arrays in a file, uncompressed, so that only what is asked for is read."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from supernet.errors import SupernetError
from supernet.files import check_regular, write_whole

MAX_BYTES = 2**28
"""Of a file; the whole table has 174 million."""

_MAX_MEMBERS, _MAX_HEADER_BYTES = 16, 256
# numpy's own reader of headers lets other errors than ValueError through.
_HEADER = re.compile(rb"\{'descr': '(\S{1,8})', 'fortran_order': (False|True), 'shape': \(([\d, ]*)\), \}\s*")
_END = struct.Struct("<4s4H2LH")  # signature, two disks, members here and in all, bytes of the list, its place, comment


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a ``.npz`` file that appears whole or not at all.

    Raises:
        SupernetError: it cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_whole(path, content.getvalue())


def open_arrays(path: Path, kinds: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Open the arrays of a file that `write_arrays` wrote; they are read where they are looked at.

    Args:
        path: the file.
        kinds: the type of the entries of each array that is wanted, as ``<f4``.

    Raises:
        SupernetError: the file cannot be read, or does not hold such arrays.
    """
    try:
        check_regular(path, MAX_BYTES)
        with path.open("rb") as file:
            _check_end(file)
            with zipfile.ZipFile(file) as archive:
                members = {member.filename: member for member in archive.infolist()}
            missing = [name for name in kinds if f"{name}.npy" not in members]
            if missing:
                raise ValueError(f"it has no array {missing[0]!r}")
            return {name: _open(file, path, members[f"{name}.npy"], kind) for name, kind in kinds.items()}
    except (OSError, ValueError, OverflowError, zipfile.BadZipFile, NotImplementedError) as error:
        raise SupernetError(
            f"cannot read the table {path}: {error}; python -m supernet.nasbench101 convert writes one"
        ) from None


def _check_end(file: BinaryIO) -> None:
    """Refuse a list of members that is longer than it may be, before it is read."""
    size = file.seek(0, io.SEEK_END)
    if size < _END.size:
        raise ValueError("it is too short for a .npz file")
    file.seek(max(0, size - _END.size - 20))
    tail = file.read()
    signature, _, _, _, members, num_bytes, _, comment = _END.unpack(tail[-_END.size :])
    if signature != b"PK\x05\x06" or comment or tail[:4] == b"PK\x06\x07":
        raise ValueError("it is no .npz file")
    if members > _MAX_MEMBERS or num_bytes > 2**12 * _MAX_MEMBERS:
        raise ValueError(f"it has {members} members, and {_MAX_MEMBERS} are the limit")


def _open(file: BinaryIO, path: Path, member: zipfile.ZipInfo, kind: str) -> NDArray[Any]:
    """One array, where it lies in the file."""
    name = member.filename
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f"{name} is compressed or encrypted, and it must be stored as it is")
    file.seek(member.header_offset)
    head = file.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise ValueError(f"{name} is not where the file says")
    start = member.header_offset + 30 + sum(struct.unpack("<2H", head[26:]))
    file.seek(start)
    preamble = file.read(10)
    if len(preamble) < 10 or preamble[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError(f"{name} is no array of the .npy format 1.0")
    header = _HEADER.fullmatch(file.read(min(_MAX_HEADER_BYTES, *struct.unpack("<H", preamble[8:]))))
    if not header:
        raise ValueError(f"the header of {name} is not as numpy writes it")
    stored, by_columns, lengths = (part.decode() for part in header.groups())
    shape = tuple(int(length) for length in lengths.split(",") if length.strip())
    if stored != kind or by_columns == "True" or min(shape, default=1) < 1:
        raise ValueError(f"{name} must be a {kind} array of rows, got {stored} of shape {shape}")
    begin, end, dtype = file.tell(), file.seek(0, io.SEEK_END), np.dtype(kind)
    num_bytes = math.prod(shape) * dtype.itemsize  # not numpy's product, which may overflow
    if begin - start + num_bytes != member.file_size or begin + num_bytes > end:
        raise ValueError(f"{name} has {member.file_size:,} bytes, which is not what its shape {shape} needs")
    return np.memmap(path, dtype, "r", begin, shape)
