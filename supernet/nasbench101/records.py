"""The published file of NAS-Bench-101, a TFRecord file of trainings, read without TensorFlow.

A record is the length of its data (8 bytes), a checksum of that (4), the data, and a checksum of the data (4), all
little-endian. The data is JSON: hash, epochs, adjacency, operations, and the figures as a protocol buffer in base64.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import reprlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from supernet.errors import SupernetError
from supernet.files import check_regular
from supernet.nasbench101.spec import MAX_VERTICES, Spec

EPOCHS = (4, 12, 36, 108)
"""Budgets of the published trainings; the learning rate falls to zero within each."""

MAX_RECORD_BYTES = 2**16  # the published ones have less than 1,000
_FRAME_BYTES = 16
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Evaluation(NamedTuple):
    """How a network stood at one moment of its training."""

    epoch: float
    seconds: float
    """Of the training so far."""
    train: float
    """Accuracy, 0 to 1."""
    valid: float
    test: float


class Record(NamedTuple):
    """One training of one cell."""

    hash: str
    epochs: int
    adjacency: str
    """The rows of the matrix, one after the other: V x V digits."""
    operations: str
    """The names of the operations with commas between them."""
    params: int
    evaluations: tuple[Evaluation, ...]
    """Before the training, halfway, and at the end."""

    @property
    def spec(self) -> Spec:
        """The cell.

        Raises:
            SupernetError: it is none.
        """
        size = math.isqrt(len(self.adjacency))
        if size**2 != len(self.adjacency) or size > MAX_VERTICES:
            raise SupernetError(f"the adjacency has {len(self.adjacency)} digits, which is no cell")
        return Spec([self.adjacency[start : start + size] for start in range(0, size**2, size)], self.operations)


def read_records(path: Path, advance: Callable[[int], object] | None = None) -> Iterator[Record]:
    """The trainings in a file, in its order; no more than one record is in memory.

    Args:
        path: the file.
        advance: called with the number of bytes of each record when it was read.

    Raises:
        SupernetError: the file cannot be read, or a record is cut off, damaged or none; the message tells its number.
    """
    for number, data in enumerate(read_frames(path), start=1):
        try:
            record = parse_record(data)
        except SupernetError as error:
            raise SupernetError(f"record {number:,} of {path}: {error}") from None
        yield record
        if advance:
            advance(len(data) + _FRAME_BYTES)


def read_frames(path: Path) -> Iterator[bytes]:
    """The data of each record of a TFRecord file; both of its checksums are checked."""
    try:
        check_regular(path)
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise SupernetError(f"cannot read {path}: {error}") from None
    with file:
        for number in itertools.count(1):
            head = file.read(12)
            if not head:
                return
            problem, data = "", b""
            if len(head) < 12:
                problem = f"it is cut off after {len(head)} of the 12 bytes of its head; fetch the file again"
            elif masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little"):
                problem = "the checksum of its length is wrong; the file is damaged, or no TFRecord file"
            elif (length := int.from_bytes(head[:8], "little")) > MAX_RECORD_BYTES:
                problem = f"it has {length:,} bytes, and one of this table {MAX_RECORD_BYTES:,} at most"
            else:
                data, check = file.read(length), file.read(4)
                if len(check) < 4:
                    problem = f"it is cut off after {len(data)} of its {length} bytes; fetch the file again"
                elif masked_crc32c(data) != int.from_bytes(check, "little"):
                    problem = "the checksum of its data is wrong; the file is damaged, fetch it again"
            if problem:
                raise SupernetError(f"record {number:,} of {path}: {problem}")
            yield data


def parse_record(data: bytes) -> Record:
    """The training that the data of one record tell.

    Raises:
        SupernetError: they tell none.
    """
    try:
        fields = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise SupernetError(f"its data is no JSON ({error})") from None
    kinds = [type(field) for field in fields] if isinstance(fields, list) else []
    if kinds != [str, int, str, str, str]:
        raise SupernetError(
            "its JSON is the list [hash, epochs, adjacency, operations, figures] of texts and a number,"
            f" got {reprlib.repr(fields)}"
        )
    name, epochs, adjacency, operations, figures = fields
    if epochs not in EPOCHS:
        raise SupernetError(f"the trainings are of {', '.join(map(str, EPOCHS))} epochs, got {reprlib.repr(epochs)}")
    try:
        message = base64.b64decode(figures, validate=True)
    except ValueError as error:
        raise SupernetError(f"its figures are no base64 ({error})") from None
    params, evaluations = _read_metrics(message)
    return Record(name, epochs, adjacency, operations, params, evaluations)


def _read_metrics(message: bytes) -> tuple[int, tuple[Evaluation, ...]]:
    """The message ModelMetrics: parameters, and three evaluations."""
    params, evaluations = 0, list[Evaluation]()
    for field, kind, value in _fields(message):
        if (field, kind) == (1, _BYTES) and isinstance(value, bytes) and len(evaluations) <= 3:
            evaluations.append(_read_evaluation(value))
        elif (field, kind) == (2, _VARINT) and isinstance(value, int):
            params = value
    if len(evaluations) != 3:
        raise SupernetError(
            f"a training has 3 evaluations, got {len(evaluations)}{'' if len(evaluations) < 4 else '+'}"
        )
    if not 0 < params < 2**31:
        raise SupernetError(f"a network has from 1 to {2**31 - 1:,} parameters, got {params:,}")
    return params, tuple(evaluations)


def _read_evaluation(message: bytes) -> Evaluation:
    """The message EvaluationData: five doubles; what is zero may be left out."""
    values = [0.0] * 5
    for field, kind, value in _fields(message):
        if 1 <= field <= 5 and kind == _FIXED64 and isinstance(value, bytes):
            (values[field - 1],) = struct.unpack("<d", value)
    found = Evaluation(*values)
    if not 0 <= found.seconds < math.inf or not all(0 <= accuracy <= 1 for accuracy in found[2:]):
        raise SupernetError(f"an evaluation has seconds from 0 and accuracies from 0 to 1, got {found}")
    return found


def _fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, kind and value of each field of a protocol buffer."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind, size = tag & 7, 0
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, kind, value
            continue
        if kind == _BYTES:
            size, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise SupernetError(f"its figures are no protocol buffer: a field of the unknown kind {kind}")
        if size > len(message) - position:
            raise SupernetError(
                f"its figures are no protocol buffer: a field of {size} bytes where {len(message) - position} are left"
            )
        yield tag >> 3, kind, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """An integer, seven bits a byte, the low ones first; and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position == len(message):
            break
        byte, position = message[position], position + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise SupernetError("its figures are no protocol buffer: an integer that does not end")


def masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord files: CRC-32C, turned and shifted."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli).

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_remainder, range(256)))
