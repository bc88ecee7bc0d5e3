"""Tables with a row for each cell on the disk: CSV, and Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from supernet.benchmark.rows import Cells, figure_columns, joined, spread
from supernet.benchmark.tabular import NUM_CELLS, Figures
from supernet.errors import SupernetError
from supernet.genotype import official_strings

_MAX_BYTES, _MAX_LINE, _MAX_LINES = 2**26, 2**16, 100_000
"""Of a CSV file when it is unpacked; a whole table has 10 MB in 15,626 lines."""

_MAX_COLUMNS = 1_000


def read_csv(raw: bytes) -> dict[str, Figures]:
    """The columns in the bytes of a CSV file, which may be packed by gzip.

    Raises:
        ValueError: it is no such table; the message tells the line.
    """
    if raw[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
                raw = file.read(_MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"it cannot be unpacked: {error}") from None
    if len(raw) > _MAX_BYTES:
        raise ValueError(f"it is longer than {_MAX_BYTES:,} bytes when it is unpacked")
    rows = csv.reader(_lines(raw), strict=True)
    try:
        return _columns(rows)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"line {rows.line_num}: {error}" if rows.line_num else str(error)) from None


def _lines(raw: bytes) -> Iterator[str]:
    """The lines, none of them long: a list of a million empty fields takes far more memory than its line."""
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(raw), "utf-8-sig", newline="")):
        if len(line) > _MAX_LINE or number > _MAX_LINES:
            raise ValueError(f"more than {_MAX_LINES:,} lines, or one of more than {_MAX_LINE:,} letters")
        yield line


def _columns(rows: Iterator[list[str]]) -> dict[str, Figures]:
    header = next(rows, [])
    names = figure_columns(header)
    places = [header.index(name) for name in names]
    arch, index = (header.index(name) if name in header else None for name in ("arch", "index"))
    cells, figures = Cells(), [[] for _ in names]  # type: tuple[Cells, list[list[float]]]
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(f"it has {len(row)} values, and the header {len(header)}")
        cells.add(None if arch is None else row[arch], None if index is None else row[index])
        for values, place in zip(figures, places, strict=True):
            values.append(_number(row[place], header[place]))
    return joined(cells.indices, dict(zip(names, figures, strict=True)))


def _number(text: str, name: str) -> float:
    try:
        return float(text) if text else float("nan")
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no number, in column {name}") from None


def csv_bytes(columns: Mapping[str, Figures]) -> bytes:
    """A CSV file of these columns; empty where a training is missing."""
    sheet = spread(columns)
    texts = [["" if value != value else repr(value) for value in figures.tolist()] for figures in sheet.values()]
    lines = [",".join(("index", "arch", *sheet))]
    lines += [
        f"{index},{arch},{','.join(row)}"
        for (arch, index), row in zip(official_strings().items(), zip(*texts, strict=True), strict=True)
    ]
    return ("\n".join(lines) + "\n").encode()


def read_parquet(raw: bytes) -> dict[str, Figures]:
    """The columns in the bytes of a Parquet file.

    Raises:
        SupernetError: pyarrow is not installed.
        ValueError: it is no such table; the message tells the row.
    """
    pa, pq = _pyarrow()
    try:
        limits = {"thrift_string_size_limit": 2**20, "thrift_container_size_limit": 2**16}
        file = pq.ParquetFile(io.BytesIO(raw), **limits)
        told, header = file.metadata, file.schema_arrow.names
        sizes = [told.row_group(group).total_byte_size for group in range(min(told.num_row_groups, _MAX_COLUMNS))]
        if told.num_rows > NUM_CELLS or len(header) > _MAX_COLUMNS or not 0 <= sum(sizes) <= _MAX_BYTES:
            raise ValueError(f"it has more than {NUM_CELLS:,} rows, {_MAX_COLUMNS:,} columns or {_MAX_BYTES:,} bytes")
        names = figure_columns(header)
        keys = [name for name in ("arch", "index") if name in header]
        # A long text that is there often stays one text.
        file = pq.ParquetFile(io.BytesIO(raw), read_dictionary=[key for key in keys if key == "arch"], **limits)
        table = file.read(columns=[*keys, *names], use_threads=False)
        if set(table.column_names) != {*keys, *names}:
            raise ValueError("a column in it has parts")
        cells = Cells()
        told_by = [table[key].to_pylist() if key in keys else [None] * len(table) for key in ("arch", "index")]
        for arch, index in zip(*told_by, strict=True):
            cells.add(*_texts(arch, index, len(cells.indices)))
        return joined(
            cells.indices,
            {name: table[name].cast(pa.float64()).to_numpy().astype(np.float64, copy=False) for name in names},
        )
    except (pa.ArrowException, OSError, MemoryError, OverflowError, TypeError, KeyError) as error:
        raise ValueError(f"pyarrow cannot read it: {str(error)[:200]}") from None


def _texts(arch: Any, index: Any, row: int) -> tuple[str | None, int | None]:
    if not isinstance(arch, str | None) or not isinstance(index, int | None):
        raise ValueError(f"row {row}: arch must be text and index a whole number")
    return arch, index


def parquet_bytes(columns: Mapping[str, Figures]) -> bytes:
    """A Parquet file of these columns; empty where a training is missing.

    Raises:
        SupernetError: pyarrow is not installed.
    """
    pa, pq = _pyarrow()
    sheet: dict[str, Any] = {"index": list(range(NUM_CELLS)), "arch": list(official_strings())}
    sheet |= {
        name: pa.array(np.ascontiguousarray(figures), from_pandas=True) for name, figures in spread(columns).items()
    }
    out = io.BytesIO()
    pq.write_table(pa.table(sheet), out)
    return out.getvalue()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # here: it is large, and nothing else needs it
        import pyarrow.parquet as pq
    except ImportError:
        raise SupernetError("Parquet needs pyarrow, which is not installed: pip install 'supernet[parquet]'") from None
    return pa, pq
