"""Tables on the disk: CSV now."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np

from supernet.benchmark.columns import COLUMN_NAMES
from supernet.benchmark.tabular import NUM_CELLS, Figures, TabularBenchmark
from supernet.errors import SupernetError
from supernet.files import read_regular
from supernet.genotype import Genotype

_MAX_BYTES = 2**26


def open_table(path: Path) -> TabularBenchmark:
    """Open a table of NAS-Bench-201.

    Raises:
        SupernetError: it cannot be read, or is no such table.
    """
    try:
        raw = read_regular(path, _MAX_BYTES)
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, ValueError, EOFError) as error:
        raise SupernetError(f"cannot read the table {path}: {error}") from None
    return TabularBenchmark(_read_csv(text), str(path))


def _read_csv(text: str) -> dict[str, Figures]:
    rows = csv.DictReader(io.StringIO(text))
    names = [name for name in rows.fieldnames or () if name in COLUMN_NAMES]
    columns = {name: np.full(NUM_CELLS, np.nan) for name in names}
    for row in rows:
        index = Genotype.parse(row["arch"]).index
        for name in names:
            columns[name][index] = float(row[name] or "nan")
    return columns
