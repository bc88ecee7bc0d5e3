"""Tables on the disk: compact (``.npz``), CSV and Parquet."""

from __future__ import annotations

import gzip
from pathlib import Path

import supernet
from supernet.benchmark.compact import CompactColumns, compact_bytes
from supernet.benchmark.sheets import csv_bytes, parquet_bytes, read_csv, read_parquet
from supernet.benchmark.tabular import TabularBenchmark
from supernet.errors import SupernetError
from supernet.files import check_regular, read_regular, write_whole

_MAX_BYTES = 2**26

ENDINGS = (".npz", ".csv", ".csv.gz", ".parquet")
"""What a table may be written as."""


def open_table(path: Path) -> TabularBenchmark:
    """Open a table of NAS-Bench-201: compact, CSV (plain or packed by gzip) or Parquet, whatever its name.

    A row of a CSV or Parquet file names its cell in the column ``arch`` (the cell string), ``index`` (the official
    index) or both; figures stand under the names of `COLUMN_NAMES`, their repeats under ``NAME#0``, ``NAME#1``, ...
    Cells may be missing, other columns are passed over. The columns of a compact table are read as they are asked for.

    Raises:
        SupernetError: it cannot be read, or is no such table.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            begin = file.read(8)
        if begin[:4] == b"PK\x03\x04":
            return TabularBenchmark(CompactColumns(path), str(path))
        if begin[:1] == b"\x80" or begin[:3] == b"BZh":
            raise ValueError("it is a published archive; python -m supernet.benchmark convert makes a table of it")
        raw = read_regular(path, _MAX_BYTES)
        columns = read_parquet(raw) if begin[:4] == b"PAR1" else read_csv(raw)
    except SupernetError:
        raise
    except (OSError, ValueError) as error:
        raise SupernetError(f"cannot read the table {path}: {error}") from None
    return TabularBenchmark(columns, str(path))


def write_table(path: Path, table: TabularBenchmark) -> None:
    """Write a table that `open_table` reads; its ending says as what.

    Raises:
        SupernetError: it cannot be written, a figure in it is none, or the ending is unknown.
    """
    check_ending(path)
    columns = {str(column): table.figures(column) for column in table.columns}
    if path.name.endswith(".npz"):
        content = compact_bytes(columns, {"source": table.source, "written by": f"supernet {supernet.__version__}"})
    elif path.name.endswith(".parquet"):
        content = parquet_bytes(columns)
    else:
        content = csv_bytes(columns)
    write_whole(path, gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content)


def check_ending(path: Path) -> None:
    """Raise SupernetError for the name of a table that cannot be written."""
    if not path.name.endswith(ENDINGS):
        raise SupernetError(f"a table is written as {', '.join(ENDINGS)}, got {path}")
