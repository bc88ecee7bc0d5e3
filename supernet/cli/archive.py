"""The archive that a checkpoint is: looked through before PyTorch opens it.

PyTorch's own reader of plain values executes nothing either, but it believes sizes: a few bytes can ask it for
terabytes, or for keys that take for ever to hash. What passes here is as small as the file says, and plain.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supernet.files import check_regular
from supernet.pickles import Request, read_pickle

_MAX_PICKLE_BYTES, _MAX_STEPS, _MAX_VALUES, _MAX_DEPTH = 2**24, 3_000_000, 1_000_000, 100
"""A checkpoint of the reference network has 60 kB, 20,000 instructions, 10,000 values and depth 10."""

_ITEM_BYTES = {
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8,
    "torch.IntStorage": 4,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
}
"""Bytes of one value of each kind of tensor."""

_TENSOR = "torch._utils._rebuild_tensor_v2"
_PROTOCOL_2 = b"\x80\x02"
_NAMES = {*_ITEM_BYTES, _TENSOR, "collections.OrderedDict"}

_MAX_FILE_BYTES = 2**32 - 2
"""Larger archives write their sizes in a second place, which readers may overlook."""

_END, _END_64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
"""The last records of an archive: PyTorch writes all three, other programs only the first."""

_LONG_END = _END_64.size + _LOCATOR.size + _END.size

_ANOTHER_WAY = "it is packed in another way than PyTorch packs"


def check_archive(path: str) -> None:
    """Refuse a checkpoint that is not as small as its file, or holds something else than tensors and plain values.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such checkpoint; the message says why.
    """
    check_regular(path, _MAX_FILE_BYTES)
    _check_ends(path)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = _sizes(archive, os.path.getsize(path))
            (name,) = [name for name in sizes if name.endswith("/data.pkl")]
            if sizes[name] > _MAX_PICKLE_BYTES:
                raise ValueError(
                    f"its list of values has {sizes[name]:,} bytes, and {_MAX_PICKLE_BYTES:,} are the limit"
                )
            raw = archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError):
        raise ValueError("it is no intact archive of PyTorch") from None
    if not raw.startswith(_PROTOCOL_2):
        raise ValueError("its list of values is written in another way than PyTorch writes")
    folder = name.removesuffix("data.pkl")
    for value in _walk(read_pickle(raw, _NAMES, _MAX_STEPS)):
        if isinstance(value, Request):
            _check_tensor(value, sizes, folder)
        elif isinstance(value, int) and abs(value) >= 2**64:
            raise ValueError("one of its numbers has more than 64 bits")


def _check_ends(path: str) -> None:
    """An archive is one whole file, with one list of what is in it: otherwise PyTorch may read another than we do."""
    with Path(path).open("rb") as file:
        begin, num_bytes = file.read(4), os.fstat(file.fileno()).st_size
        file.seek(max(0, num_bytes - _LONG_END))
        tail = file.read().rjust(_LONG_END, b"\0")
    end, where = _END.unpack(tail[-_END.size :]), num_bytes - _END.size
    number, length, start = end[4:7]
    if tail[_END_64.size :].startswith(b"PK\6\7"):
        where = num_bytes - _LONG_END
        signature, size, _, _, *disks, first, number, length, start = _END_64.unpack_from(tail)
        locator = _LOCATOR.unpack_from(tail, _END_64.size)
        if (signature, size, *disks, first) != (b"PK\6\6", 44, 0, 0, number) or locator[1:] != (0, where, 1):
            raise ValueError(_ANOTHER_WAY)
    told = (b"PK\5\6", 0, 0, min(number, 0xFFFF), min(number, 0xFFFF), length, start, 0)
    if begin != b"PK\3\4" or end != told or start + length != where:
        raise ValueError(_ANOTHER_WAY)


def _sizes(archive: zipfile.ZipFile, num_bytes: int) -> dict[str, int]:
    """The size of every file in an archive that stores them as they are."""
    entries = archive.infolist()
    names = {entry.filename.lower() for entry in entries}  # PyTorch takes small and capital letters for the same
    if (
        not all(_is_plain(entry) for entry in entries)
        or len(names) < len(entries)
        or len({name.partition("/")[0] for name in names}) != 1
    ):
        raise ValueError(_ANOTHER_WAY)
    if sum(entry.file_size for entry in entries) > num_bytes:
        raise ValueError("it says that it holds more bytes than it has")
    return {entry.filename: entry.file_size for entry in entries}


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    """Whether a file is stored as it is, under one name and with one size for every reader."""
    return (
        (entry.compress_type, entry.compress_size, entry.extra) == (zipfile.ZIP_STORED, entry.file_size, b"")
        and entry.filename == entry.orig_filename
        and entry.filename.isascii()
        and entry.filename.isprintable()
        and not entry.flag_bits & ~0x808
        and not entry.external_attr & 0x10  # for a folder, PyTorch hands out memory that nobody has written
    )


def _walk(value: Any) -> Iterator[Any]:
    """Everything in nested containers that is none, and every tensor that is asked for.

    Raises:
        ValueError: what is shared, written out, is too much, or is nested too deeply, or contains itself.
    """
    pending: list[tuple[Any, int]] = [(value, 0)]
    num_values = 0
    while pending:
        value, depth = pending.pop()
        if isinstance(value, dict):
            inner = [*value, *value.values()]
        elif isinstance(value, list | tuple):
            inner = list(value)
        else:
            yield value
            continue
        num_values += 1 + len(inner)
        if num_values > _MAX_VALUES or depth > _MAX_DEPTH:
            raise ValueError(
                f"it has more than {_MAX_VALUES:,} values, nested more than {_MAX_DEPTH} deep, or in themselves"
            )
        pending.extend((item, depth + 1) for item in inner)


def _check_tensor(asked: Request, sizes: dict[str, int], folder: str) -> None:
    """A tensor lies within its storage, every value once, and the storage is as long as its file."""
    try:
        storage, start, shape, strides, requires_grad, hooks = asked.args  # type: ignore[misc]
        ((kind, number_type, key, device, length),) = storage.args
        num_bytes = sizes[f"{folder}data/{key}"]
        numbers = [start, length, *shape, *strides]
        fits = (
            (asked.name, asked.state, storage.name, storage.state) == (_TENSOR, None, "persistent", None)
            and (kind, number_type.args, number_type.state) == ("storage", None, None)
            and (type(key), type(device), type(requires_grad), hooks) == (str, str, bool, {})
            and all(type(number) is int and 0 <= number < 2**62 for number in numbers)
            and length * _ITEM_BYTES[number_type.name] == num_bytes
            and len(shape) == len(strides) <= 8
            and math.prod(shape) <= length
            and (0 in shape or start + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) < length)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise ValueError("one of its tensors is not backed by the bytes that it says, or is of an unknown kind")
