"""The published archives: a folder with a file for each cell (NATS-Bench), or one file with all (NAS-Bench-201).

Nothing in them is executed. The files of a folder are read by `supernet.pickles`, which bounds memory and time, too.
One file with all cells has gigabytes, and is read by Python's own unpickler, which is handed harmless functions in
place of everything that it asks for, and nothing else: its memory and time are what the file asks for. A hostile one
may ask for more than there is, or end the process; it cannot run anything. One as published takes about seven times
its size.
"""

from __future__ import annotations

import bz2
import functools
import itertools
import multiprocessing
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from supernet.benchmark.official import SCALARS, Collected, Figure, read_cell
from supernet.benchmark.tabular import NUM_CELLS
from supernet.errors import SupernetError
from supernet.files import check_regular, read_regular
from supernet.pickles import Request, read_pickle

_MAX_PACKED, _MAX_BYTES, _MAX_STEPS = 2**24, 2**26, 4_000_000
"""Of the file of one cell."""

_NAME = re.compile(r"(\d{1,6})\.pickle\.pbz2", re.ASCII)
_NAMES = {*SCALARS, "numpy.dtype", "_codecs.encode", "collections.OrderedDict"}

Watch = Callable[[int], object]
"""Told how much more was done: cells of a folder, bytes of a file."""


def cell_files(folder: Path) -> dict[int, Path]:
    """The files of a folder by the official index of their cell.

    Raises:
        SupernetError: it is no such folder, or has two files for a cell.
    """
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if named := _NAME.fullmatch(path.name):
            if int(named[1]) in files or int(named[1]) >= NUM_CELLS:
                raise SupernetError(f"{path} is for a cell that does not exist, or that another file is for")
            files[int(named[1])] = path
    if not files:
        raise SupernetError(
            f"{folder} has no files of cells, 000000.pickle.pbz2 to {NUM_CELLS - 1:06d}.pickle.pbz2; pass the folder"
            " that the archive NATS-tss-v1_0-3ffb9-simple.tar unpacks to"
        )
    return files


def read_folder(folder: Path, jobs: int, watch: Watch) -> Collected:
    """All figures in a folder with a file for each cell, read by several processes.

    Raises:
        SupernetError: it is no such folder, or one of its files is damaged.
    """
    files = cell_files(folder)
    collected = Collected()
    with _mapping(jobs) as mapping:
        try:
            for index, figures in zip(files, mapping(read_cell_file, files.items()), strict=True):
                collected.add(index, figures)
                watch(1)
        except BrokenProcessPool:
            raise SupernetError(
                f"a process that read files of {folder} was killed; repeat the command, with fewer --jobs if"
                " memory is short"
            ) from None
    return collected


@contextmanager
def _mapping(jobs: int) -> Iterator[Callable[..., Iterator[list[Figure]]]]:
    if jobs < 2:
        yield map
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            yield functools.partial(pool.map, chunksize=8)
        finally:
            pool.shutdown(cancel_futures=True)


def read_cell_file(file: tuple[int, Path]) -> list[Figure]:
    """The figures in the file of one cell.

    Raises:
        SupernetError: it cannot be read, or is not what was published.
    """
    index, path = file
    try:
        unpacker = bz2.BZ2Decompressor()
        raw = unpacker.decompress(read_regular(path, _MAX_PACKED), _MAX_BYTES)
        if not unpacker.eof:
            raise ValueError(f"it ends too early, or is longer than {_MAX_BYTES:,} bytes when it is unpacked")
        return read_cell(index, read_pickle(raw, _NAMES, _MAX_STEPS))
    except (OSError, ValueError, RecursionError) as error:
        raise SupernetError(f"{path} is no file of a cell as published ({error}); fetch it again") from None


def read_file(path: Path, watch: Watch) -> Collected:
    """All figures in one file: what ``torch.save`` writes, now and then, or the packed pickle of NATS-Bench.

    Raises:
        SupernetError: it is damaged, asks for something that plain values do not need, or is no such archive.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            record = _unpickled(_Watched(file, watch))
        collected = Collected()
        for index, cell in record["arch2infos"].items():
            if type(index) is not int or not 0 <= index < NUM_CELLS:
                raise ValueError(f"it has a cell {str(index)[:40]}")
            try:
                collected.add(index, read_cell(index, cell))
            except ValueError as error:
                raise ValueError(f"cell {index}: {error}") from None
    except (
        *(OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError, OverflowError, ImportError),
        *(pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, MemoryError, struct.error),
    ) as error:
        reason = str(error) or type(error).__name__
        raise SupernetError(f"{path} is no archive of NAS-Bench-201 as published ({reason}); fetch it again") from None
    if not collected.cells:
        raise SupernetError(f"{path} has no cells")
    return collected


def _unpickled(file: Any) -> Any:
    begin = file.peek(4)[:4]
    if begin[:3] == b"BZh":
        with bz2.open(file) as stream:
            return _Stream(stream).load()
    if begin == b"PK\x03\x04":
        with zipfile.ZipFile(file) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is packed")
            with archive.open(name) as stream:
                return _Stream(stream).load()
    # What torch.save wrote before version 1.6: a number that marks it, the version, the machine, and the values.
    if _Stream(file).load() != 0x1950A86A20F9469CFC6C:
        raise ValueError("it begins with something else")
    for _ in range(2):
        _Stream(file).load()
    return _Stream(file).load()


class _Stream(pickle.Unpickler):
    """Python's own, that knows nothing but harmless functions."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if asked not in _HARMLESS:
            raise ValueError(f"it asks for {asked[:80]}, which plain values do not need")
        return _HARMLESS[asked]

    def persistent_load(self, pid: Any) -> Any:
        raise ValueError("it holds tensors, and figures need none")


class _Dtype(Request):
    """The kind of a number, as a pickle asks for it."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _dtype(*args: Any) -> _Dtype:
    return _Dtype("numpy.dtype", args)


def _scalar(*args: Any) -> Request:
    return Request(min(SCALARS), args)


def _set(items: Any = ()) -> list[Any]:
    return list(itertools.islice(items, NUM_CELLS))


def _encode(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")


_HARMLESS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(SCALARS, _scalar),
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "collections.OrderedDict": dict,
    "builtins.set": _set,
    "__builtin__.set": _set,
}
"""What is called in place of what an archive asks for."""


class _Watched:
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], watch: Watch) -> None:
        self.file, self.watch = file, watch
        self.seek, self.tell = file.seek, file.tell
        self.peek: Callable[[int], bytes] = file.peek  # type: ignore[attr-defined]

    def read(self, size: int = -1) -> bytes:
        """Read as the file does."""
        content = self.file.read(size)
        self.watch(len(content))
        return content

    def readline(self) -> bytes:
        """Read a line as the file does."""
        content = self.file.readline()
        self.watch(len(content))
        return content

    def seekable(self) -> bool:
        """It is."""
        return True
