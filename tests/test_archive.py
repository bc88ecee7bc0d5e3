"""What is checked of a checkpoint is what PyTorch reads: archives that two readers could take for different ones."""

from __future__ import annotations

import io
import os
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from supernet.cli.archive import check_archive

LONG_SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))

GOOD, OTHER = b"\x80\x02}X\x04\x00\x00\x00goodK\x01s.", b"\x80\x02}X\x05\x00\x00\x00otherK\x01s."
END, END_64, LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")


def archive(pickled: bytes) -> bytes:
    """As small as PyTorch would write it, and always of the same length."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/byteorder", b"little")
        file.writestr("archive/filling", bytes(100 - len(pickled)))
    return out.getvalue()


def saved(value: object, zipped: bool = True) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def moved(directory: bytes, by: int) -> bytes:
    """A list of files whose files begin later."""
    out, at = bytearray(directory), 0
    while at < len(out):
        name, extra, comment = struct.unpack_from("<3H", out, at + 28)
        struct.pack_into("<L", out, at + 42, struct.unpack_from("<L", out, at + 42)[0] + by)
        at += 46 + name + extra + comment
    return bytes(out)


def parts(raw: bytes) -> tuple[bytes, bytes, int]:
    """The files of an archive, the list of them, and how many they are."""
    _, _, _, _, number, length, start, _ = END.unpack(raw[-END.size :])
    return raw[:start], raw[start : start + length], number


def two_lists() -> bytes:
    """The last record counts for one reader; another one follows the reference to an earlier record."""
    files, directory, number = parts(archive(OTHER))
    good_files, good_directory, _ = parts(archive(GOOD))

    def record(directory: bytes, start: int) -> bytes:
        return END_64.pack(b"PK\6\6", 44, 45, 45, 0, 0, number, number, len(directory), start)

    raw = files + directory + good_files
    other_record = len(raw)
    raw += record(directory, len(files))
    start = len(raw)
    raw += moved(good_directory, len(files) + len(directory))
    raw += record(good_directory, start) + LOCATOR.pack(b"PK\6\7", 0, other_record, 1)
    return raw + END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def list_in_a_comment() -> bytes:
    """A record that says that its list begins later than it does, where the comment has another list."""
    files, directory, number = parts(archive(GOOD))
    end = END.pack(b"PK\5\6", 0, 0, number, number, len(directory), len(files) + END.size + len(directory), 0)
    _, other, _ = parts(archive(OTHER))
    return (
        files
        + directory
        + END.pack(b"PK\5\6", 0, 0, number, number, len(directory), len(files), len(other))
        + (other + end)
    )


def renamed() -> bytes:
    return saved({"good": 1}).replace(b"byteorder", b"byteord\0r")


def with_sizes(stored: int) -> bytes:
    """The first file says one size for what is stored and another for what is read."""
    raw = bytearray(archive(GOOD))
    at = raw.index(b"PK\1\2")
    struct.pack_into("<L", raw, at + 20, stored)
    return bytes(raw)


def folder() -> bytes:
    """The first file says that it is a folder."""
    raw = bytearray(archive(GOOD))
    raw[raw.index(b"PK\1\2") + 38] |= 0x10
    return bytes(raw)


FORGED: dict[str, Callable[[], bytes]] = {
    "the old format before an archive": lambda: saved({"other": 1}, zipped=False) + archive(GOOD),
    "an archive before an archive": lambda: archive(OTHER) + archive(GOOD),
    "another record": two_lists,
    "another list in a comment": list_in_a_comment,
    "something before it": lambda: b"x" + archive(GOOD),
    "something behind it": lambda: archive(GOOD) + b"x",
    "a comment": lambda: archive(GOOD)[:-2] + b"\x01\x00x",
    "a name with a zero": renamed,
    "a folder": folder,
    "two sizes": lambda: with_sizes(len(GOOD) - 1),
}


@pytest.mark.parametrize("name", FORGED)
def test_an_archive_that_can_be_read_in_two_ways_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "forged.ckpt"
    path.write_bytes(FORGED[name]())
    with pytest.raises(ValueError, match=r"packed in another way|no intact archive"):
        check_archive(str(path))


@pytest.mark.parametrize("raw", [archive(GOOD), saved({"good": 1}), saved({"x": torch.zeros(3, 4)})])
def test_what_pytorch_writes_passes(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "good.ckpt"
    path.write_bytes(raw)
    check_archive(str(path))


def test_a_file_beyond_the_limit_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "large.ckpt"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"it has 1,099,511,627,776 bytes, and 4,294,967,294 are the limit"):
        check_archive(str(path))


def directories(rng: random.Random, raw: bytes) -> bytes:
    """An archive with bytes changed in the list of its files and the records behind it, and pieces moved about."""
    start = raw.index(b"PK\1\2")
    out = bytearray(raw)
    for _ in range(rng.choice((1, 2, 4))):
        at = rng.randrange(start, len(out))
        kind = rng.randrange(4)
        if kind == 0:
            out[at] = rng.choice((0, 1, 0x50, 0xFF, rng.randrange(256)))
        elif kind == 1:
            struct.pack_into("<L", out, min(at, len(out) - 4), rng.choice((0, 1, start, len(out), 2**32 - 1)))
        elif kind == 2:
            out = out[:at] + out[start:]
        else:
            out += raw[start:]
    return bytes(out)


def test_whatever_passes_is_what_pytorch_reads(tmp_path: Path) -> None:
    compare(0, 500, 0, tmp_path)


@pytest.mark.long
def test_much_more_of_whatever_passes_is_what_pytorch_reads(tmp_path: Path) -> None:
    compare(int(time.time()), 0, LONG_SECONDS, tmp_path)


def compare(seed: int, count: int, seconds: float, folder: Path) -> None:
    """Of archives of two values, one hidden behind the other, PyTorch reads the one that was checked."""
    rng = random.Random(seed)
    path = folder / "forged.ckpt"
    bases = [archive(GOOD), archive(OTHER) + archive(GOOD), two_lists(), list_in_a_comment(), saved({"good": 1})]
    tried = passed = 0
    began = time.process_time()
    while tried < count or time.process_time() - began < seconds:
        tried += 1
        path.write_bytes(directories(rng, rng.choice(bases)))
        try:
            check_archive(str(path))
        except ValueError:
            continue
        passed += 1
        with zipfile.ZipFile(path) as file:
            checked = {name: file.read(name) for name in file.namelist() if name.endswith("/data.pkl")}
        try:
            reader = torch._C.PyTorchFileReader(str(path))
            read = reader.get_record("data.pkl")
        except (RuntimeError, UnicodeDecodeError):  # refused, if later, by a message that may quote any name
            continue
        assert list(checked.values()) == [read], (seed, tried)
    print(f"archives: {tried:,} inputs, {passed:,} passed, seed {seed}")
    assert passed
