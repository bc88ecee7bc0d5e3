"""The compact format of a table: an uncompressed ``.npz`` with one array for each column, read when it is asked for.

``np.load`` reads it as well. What it comes from may be anything: the length of each array is checked against the bytes
that are there before it is made, nothing is unpacked, and nothing in it is evaluated or executed.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supernet.benchmark.columns import COLUMN_NAMES
from supernet.benchmark.tabular import Figures
from supernet.errors import SupernetError
from supernet.files import check_regular

REPEAT_DECIMALS = 4
"""What a single training tells: no set of images has more than 25,000. Single precision keeps seven digits, and
rounding gives the published ones back, so that cells that did equally well have equal means."""

_ABOUT = "about"
"""The entry that tells where a table came from: the bytes of a JSON object of texts."""

_MAX_BYTES, _MAX_DIRECTORY = 2**26, 2**16
"""Of a file, and of the list of its entries; a whole table has 6 MB and 3 kB."""

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|][fu][148])', 'fortran_order': False,"
    rb" 'shape': \((\d{1,9}),(?: (\d{1,9}))?\), \} *\n",
    re.DOTALL,
)
"""What numpy writes before the values of an array of one or two dimensions."""

_DAMAGE = (OSError, ValueError, EOFError, KeyError, OverflowError, RuntimeError, struct.error, zipfile.BadZipFile)
"""What `zipfile` raises for files that are none."""


class CompactColumns(Mapping[str, Figures]):
    """The columns of a file, each read from the disk when it is asked for.

    Raises:
        SupernetError: the file cannot be read, or holds something else than columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            check_regular(path, _MAX_BYTES)
            _check_directory(path)
            with zipfile.ZipFile(path) as archive:
                found = [name.removesuffix(".npy") for name in archive.namelist()]
            if unknown := set(found) - {*COLUMN_NAMES, _ABOUT}:
                raise ValueError(f"{min(unknown)[:80]} in it is no column")
            if len(set(found)) < len(found) or not set(found) & set(COLUMN_NAMES):
                raise ValueError("it has no column, or one that is there twice")
        except _DAMAGE as error:
            raise self._refused(error) from None
        self._names = [name for name in COLUMN_NAMES if name in found]
        self._has_about = _ABOUT in found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Figures:
        if name not in self._names:
            raise KeyError(name)
        values = self._read(name)
        if values.dtype.kind != "f":
            raise self._refused(ValueError(f"{name} in it holds no numbers with a fraction"))
        with np.errstate(invalid="ignore"):  # of a NaN of a rare kind
            exact = values.astype(np.float64)
        return np.round(exact, REPEAT_DECIMALS) if exact.ndim == 2 else exact

    @property
    def about(self) -> dict[str, str]:
        """Where the table came from; empty if it does not tell."""
        if not self._has_about:
            return {}
        try:
            told = json.loads(self._read(_ABOUT).astype(np.uint8).tobytes()[:_MAX_DIRECTORY])
        except (ValueError, RecursionError) as error:
            raise self._refused(error) from None
        if not isinstance(told, dict):
            raise self._refused(ValueError("what it tells about itself is no object"))
        return {str(key): str(value) for key, value in told.items()}

    def _read(self, name: str) -> NDArray[np.generic]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                entry = archive.getinfo(f"{name}.npy")
                num_bytes = self.path.stat().st_size
                if entry.compress_type != zipfile.ZIP_STORED or not entry.file_size == entry.compress_size < num_bytes:
                    raise ValueError(f"{name} in it is packed, or longer than the file")
                return _array(name, archive.read(entry))
        except _DAMAGE as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> SupernetError:
        return SupernetError(f"{self.path} is no compact table ({error}); write it anew: {_COMMAND}")


_COMMAND = "python -m supernet.benchmark convert SOURCE --out TABLE.npz"


def _check_directory(path: Path) -> None:
    """Raise ValueError where the list of entries is longer than that of a table: each entry costs far more memory."""
    with path.open("rb") as file:
        num_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, num_bytes - 42))
        end = file.read(42)
    if end[-22:-18] != b"PK\x05\x06" or end[:4] == b"PK\x06\x07":
        raise ValueError("its end is that of no such file")
    if int.from_bytes(end[-10:-6], "little") > _MAX_DIRECTORY:
        raise ValueError("it has too many entries")


def _array(name: str, raw: bytes) -> NDArray[np.generic]:
    """The array of these bytes, as numpy writes them."""
    header = _HEADER.match(raw)
    if header is None or header[1] not in (b"<f4", b"<f8", b"|u1"):
        raise ValueError(f"{name} in it is no array of numbers of 4 or 8 bytes")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(size) for size in header.groups()[1:] if size is not None)
    num_bytes = len(raw) - header.end()
    if int.from_bytes(raw[8:10], "little") != header.end() - 10 or math.prod(shape) * dtype.itemsize != num_bytes:
        raise ValueError(f"{name} in it has {num_bytes:,} bytes, which are not those of its shape {shape}")
    return np.frombuffer(raw, dtype, offset=header.end()).reshape(shape)


def compact_bytes(columns: Mapping[str, Figures], about: Mapping[str, str]) -> bytes:
    """A file of these columns: repeats in single precision, means in double precision."""
    arrays: dict[str, NDArray[np.generic]] = {
        name: np.ascontiguousarray(figures, np.float32 if figures.ndim == 2 else np.float64)
        for name, figures in columns.items()
    }
    arrays[_ABOUT] = np.frombuffer(json.dumps(dict(about)).encode(), np.uint8)
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **arrays)
    return out.getvalue()
