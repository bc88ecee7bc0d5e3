"""Arrays in an uncompressed ``.npz`` file, each looked at where it lies and when it is asked for.

``np.load`` reads such files as well. One may come from anywhere: what it says of an array is compared with the
bytes that are there before the array is made; nothing is unpacked, evaluated or executed.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from supernet.files import check_regular

_MAX_MEMBERS, _MAX_LIST_BYTES, _MAX_HEADER_BYTES = 64, 2**16, 256

_HEADER = re.compile(
    rb"\{'descr': '([<|][fiu][1248])', 'fortran_order': False, 'shape': \(([\d, ]{1,60})\), \} *\n?", re.ASCII
)
"""What numpy writes before the values; its own reader evaluates it, and lets other errors than ValueError through."""

_END = struct.Struct("<4s4H2LH")
"""Signature, two disks, members here and in all, bytes of the list of members, its place, bytes of a comment."""

_DAMAGE = (ValueError, EOFError, KeyError, OverflowError, RuntimeError, struct.error, zipfile.BadZipFile)
"""What `zipfile` raises for files that are none."""


class ArrayFile(Mapping[str, NDArray[Any]]):
    """The arrays of a file by name. One that is damaged ends in a ValueError when it is asked for.

    Args:
        path: the file.
        max_bytes: of the file.
        verified: whether the checksum of an array is compared, too, which reads all of it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or too long.
    """

    def __init__(self, path: Path, max_bytes: int, *, verified: bool) -> None:
        self.path, self.verified = path, verified
        check_regular(path, max_bytes)
        with path.open("rb") as file:
            _check_end(file)
            try:
                with zipfile.ZipFile(file) as archive:
                    members = archive.infolist()
            except _DAMAGE as error:
                raise ValueError(f"it is no .npz file ({error or type(error).__name__})") from None
        self._members = {member.filename.removesuffix(".npy"): member for member in members}
        if len(self._members) < len(members):
            raise ValueError("it has an array twice")

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, name: str) -> NDArray[Any]:
        member = self._members[name]
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError(f"{name} is compressed or encrypted, and it must be stored as it is")
        with self.path.open("rb") as file:
            return self._look(file, name, member)

    def _look(self, file: BinaryIO, name: str, member: zipfile.ZipInfo) -> NDArray[Any]:
        """The array, without reading its values."""
        file.seek(member.header_offset)
        head = file.read(30)
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise ValueError(f"{name} is not where the file says")
        start = file.seek(sum(struct.unpack("<2H", head[26:])), io.SEEK_CUR)
        preamble = file.read(10)
        if len(preamble) < 10 or preamble[:8] != b"\x93NUMPY\x01\x00":
            raise ValueError(f"{name} is no array of the .npy format 1.0")
        header = _HEADER.fullmatch(file.read(min(_MAX_HEADER_BYTES, *struct.unpack("<H", preamble[8:]))))
        if header is None:
            raise ValueError(f"the header of {name} is not that of an array of numbers as numpy writes it")
        dtype = np.dtype(header[1].decode())
        shape = tuple(int(length) for length in header[2].split(b",") if length.strip())
        begin, end = file.tell(), file.seek(0, io.SEEK_END)
        num_bytes = math.prod(shape) * dtype.itemsize  # not numpy's product, which may overflow
        if not 0 < num_bytes == member.file_size - (begin - start) or begin + num_bytes > end:
            raise ValueError(f"{name} has {member.file_size:,} bytes, which is not what its shape {shape} needs")
        if self.verified:
            file.seek(start)
            if zlib.crc32(file.read(member.file_size)) != member.CRC:
                raise ValueError(f"the checksum of {name} is wrong")
        return np.memmap(self.path, dtype, "r", begin, shape)


def _check_end(file: BinaryIO) -> None:
    """Refuse a list of members that is longer than it may be, before it is read: each costs far more memory."""
    size = file.seek(0, io.SEEK_END)
    if size < _END.size:
        raise ValueError("it is too short for a .npz file")
    file.seek(max(0, size - _END.size - 20))
    tail = file.read()
    signature, _, _, _, members, num_bytes, _, comment = _END.unpack(tail[-_END.size :])
    if signature != b"PK\x05\x06" or comment or tail[:4] == b"PK\x06\x07":
        raise ValueError("it is no .npz file")
    if members > _MAX_MEMBERS or num_bytes > _MAX_LIST_BYTES:
        raise ValueError(f"it has {members} members, and {_MAX_MEMBERS} are the limit")


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The file of these arrays."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()
