"""The compact format of a table: a `supernet.arrays` file with one array for each column, read when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import ArrayFile, npz_bytes
from supernet.benchmark.columns import COLUMN_NAMES
from supernet.benchmark.tabular import Figures
from supernet.errors import SupernetError

_ABOUT = "about"
"""The array that tells where a table came from: the bytes of a JSON object of texts."""

_MAX_BYTES, _MAX_ABOUT = 2**26, 2**16
"""Of a file, of which a whole table has 11 MB, and of what it tells about itself."""


class CompactColumns(Mapping[str, Figures]):
    """The columns of a file, each read from the disk when it is asked for.

    Raises:
        SupernetError: the file cannot be read, or holds something else than columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._arrays = ArrayFile(path, _MAX_BYTES, verified=True)
            if unknown := set(self._arrays) - {*COLUMN_NAMES, _ABOUT}:
                raise ValueError(f"{min(unknown)[:80]} in it is no column")
            if not set(self._arrays) - {_ABOUT}:
                raise ValueError("it has no column")
        except (OSError, ValueError) as error:
            raise self._refused(error) from None
        self._names = [name for name in COLUMN_NAMES if name in self._arrays]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Figures:
        if name not in self._names:
            raise KeyError(name)
        values = self._read(name)
        if values.dtype.str not in ("<f4", "<f8"):
            raise self._refused(ValueError(f"{name} must be an <f4 or <f8 array, got {values.dtype.str}"))
        with np.errstate(invalid="ignore"):  # of a NaN of a rare kind
            return values.astype(np.float64)

    @property
    def about(self) -> dict[str, str]:
        """Where the table came from; empty if it does not tell."""
        if _ABOUT not in self._arrays:
            return {}
        try:
            told = json.loads(self._read(_ABOUT).astype(np.uint8).tobytes()[:_MAX_ABOUT])
        except (ValueError, RecursionError) as error:
            raise self._refused(error) from None
        if not isinstance(told, dict):
            raise self._refused(ValueError("what it tells about itself is no object"))
        return {str(key): str(value) for key, value in told.items()}

    def _read(self, name: str) -> NDArray[np.generic]:
        try:
            return np.asarray(self._arrays[name])
        except (OSError, ValueError) as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> SupernetError:
        return SupernetError(f"{self.path} is no compact table ({error}); write it anew: {_COMMAND}")


_COMMAND = "python -m supernet.benchmark convert SOURCE --out TABLE.npz"


def compact_bytes(columns: Mapping[str, Figures], about: Mapping[str, str]) -> bytes:
    """A file of these columns, in double precision."""
    arrays: dict[str, NDArray[np.generic]] = {
        name: np.ascontiguousarray(figures, np.float64) for name, figures in columns.items()
    }
    return npz_bytes(arrays | {_ABOUT: np.frombuffer(json.dumps(dict(about)).encode(), np.uint8)})
