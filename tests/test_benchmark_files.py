"""Tables on the disk: what is written is read again, and what is no table is refused."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.benchmark import COLUMN_NAMES, NUM_CELLS, Column, TabularBenchmark, open_table
from supernet.benchmark.compact import CompactColumns
from supernet.benchmark.files import ENDINGS, write_table
from supernet.errors import SupernetError
from supernet.genotype import Genotype, official_strings

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TEST = Column.reported("cifar10")
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"

# An accuracy of one training has four decimals at most, and so may a short time; a mean is any number.
SINGLE = st.integers(0, 10**6).map(lambda number: number / 10**4) | st.just(float("nan"))
MEAN = st.floats(0, 100) | st.just(float("nan"))


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(COLUMN_NAMES), min_size=1, max_size=3, unique=True)):
        repeats = draw(st.integers(0, 3))
        figures = np.full((NUM_CELLS, repeats) if repeats else NUM_CELLS, np.nan)
        for index in draw(st.lists(st.integers(0, NUM_CELLS - 1), min_size=1, max_size=6)):
            width = max(repeats, 1)
            row = draw(st.lists(SINGLE if repeats else MEAN, min_size=width, max_size=width))
            figures[index] = row if repeats else row[0]
        figures[draw(st.integers(0, NUM_CELLS - 1))] = 50
        columns[name] = figures
    return columns


# 4 tables in each of the formats; each is read from one, written as the next and read again.
@given(columns=tables())
@settings(max_examples=4, deadline=None, derandomize=True)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, columns: dict[str, Any]) -> None:
    folder, table = tmp_path_factory.mktemp("tables"), TabularBenchmark(columns)
    for ending in ENDINGS:
        path = folder / f"table{ending}"
        write_table(path, table)
        table = open_table(path)
        assert {str(column) for column in table.columns} == set(columns)
        for name, figures in columns.items():
            np.testing.assert_array_equal(table.figures(Column.parse(name)), figures)


def test_strings_are_those_of_the_cells() -> None:
    assert list(official_strings().values()) == list(range(NUM_CELLS))
    for index in range(0, NUM_CELLS, 97):
        assert official_strings()[str(Genotype.from_index(index))] == index


def csv_table(tmp_path: Path, text: str | bytes, name: str = "table.csv") -> TabularBenchmark:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return open_table(path)


@pytest.mark.parametrize(
    "text",
    [
        f"arch,{TEST}\n{BEST},94.3\n",
        f"index,{TEST}\r\n6111,94.3\r\n\r\n",
        f"note,index,arch,{TEST}\nx,6111,{BEST},94.3\ny,7,{Genotype.from_index(7)},\n",
        f'\ufeffindex,"{TEST}#0",{TEST}#1\n6111,94.0,94.6\n',
        f"index,{TEST},{TEST}#0,{TEST}#1\n6111,94.3,94.0,94.6\n",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_csv_tables_of_all_kinds(tmp_path: Path, text: str, packed: bool) -> None:
    raw = gzip.compress(text.encode()) if packed else text.encode()
    table = csv_table(tmp_path, raw, "any name")
    assert table.accuracy(Genotype.parse(BEST)) == pytest.approx(94.3)
    assert np.isfinite(table.values(TEST)).sum() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither a column arch nor"),
        (f"{TEST}\n5\n", "neither a column arch nor"),
        ("index,accuracy\n1,5\n", "no column of figures"),
        (f"index,{TEST}\n", "has no cells"),
        (f"index,{TEST}\n1,5\n2,6\n1,5\n", "line 4: cell 1 is there a second time"),
        (f"index,{TEST}\n1,five\n", f"line 2: 'five' is no number, in column {TEST}"),
        (f"index,{TEST}\n1,5\n2\n", "line 3: it has 1 values, and the header 2"),
        (f"index,{TEST}\n1,5,6\n", "line 2: it has 3 values, and the header 2"),
        (f"index,{TEST}\n15625,5\n", "line 2: an official index is 0 to 15624, got '15625'"),
        (f"index,{TEST}\n-1,5\n", "line 2: an official index"),
        (f"index,{TEST}\n{'1' * 9_000},5\n", "line 2: an official index"),
        (f"arch,{TEST}\n|none~0|,5\n", r"line 2: '\|none~0\|' is no cell"),
        (f"arch,index,{TEST}\n{BEST},6112,5\n", "line 2: its cell has the official index 6111, not 6112"),
        (f"index,{TEST},{TEST}\n1,5,5\n", "is there twice"),
        (f"index,{TEST}#1\n1,5\n", "repeats of .* must be"),
        (f"index,{TEST}#0,{TEST}#x\n1,5,5\n", "repeats of .* must be"),
        (f"index,{TEST},{TEST}#0\n1,5,7\n", "the means in cifar10_50k_test_200 are not those"),
        (f'index,{TEST}\n1,"5\n', "line 2: unexpected end of data"),
        (f"index,{TEST}\n1,{'5' * 70_000}\n", "one of more than 65,536 letters"),
        (f"index,{TEST}\n" + "\n" * 200_000, "more than 100,000 lines"),
        (b"index,\xff\n", "can't decode"),
        (b"\x1f\x8b" + bytes(20), "cannot be unpacked"),
        (gzip.compress(f"index,{TEST}\n1,5\n".encode(), mtime=0)[:-9], "cannot be unpacked"),
        (gzip.compress(bytes(2**27), mtime=0), "longer than 67,108,864 bytes when it is unpacked"),
        (b"\x80\x02}.", "convert makes a table of it"),
        (b"PAR1" + bytes(50), "pyarrow cannot read it"),
        (b"PK\x03\x04" + bytes(50), "no compact table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(SupernetError, match=message):
        csv_table(tmp_path, text)


def test_a_figure_that_is_none_is_refused_when_its_column_is_asked_for(tmp_path: Path) -> None:
    table = csv_table(tmp_path, f"index,{TEST},cifar10_25k_valid_200\n1,101,5\n")
    assert table.validation_accuracy(Genotype.from_index(1)) == 5
    with pytest.raises(SupernetError, match=r"column cifar10_50k_test_200 of .*table.csv holds 101"):
        table.accuracy(Genotype.from_index(1))


# The compact format


def entry(values: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=True)
    return out.getvalue()


def archive(path: Path, entries: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def test_a_column_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    """Another column may be damaged: nobody looks at it until it is asked for."""
    names = ["cifar10_25k_valid_200", str(TEST)]
    path = tmp_path / "table.npz"
    write_table(path, TabularBenchmark({name: np.full((NUM_CELLS, 3), 5.0) for name in names}))
    with zipfile.ZipFile(path) as file:
        place = file.getinfo(f"{names[0]}.npy").header_offset
    raw = bytearray(path.read_bytes())
    raw[place + 1_000] ^= 1
    path.write_bytes(raw)
    table = open_table(path)
    assert table.accuracy(Genotype.from_index(1)) == 5
    with pytest.raises(SupernetError, match="the checksum of cifar10_25k_valid_200 is wrong"):
        table.validation_accuracy(Genotype.from_index(1))


def test_numpy_reads_and_writes_it_as_well(tmp_path: Path) -> None:
    figures = np.round(np.random.default_rng(0).uniform(0, 100, (NUM_CELLS, 3)), 2)
    table = TabularBenchmark({str(TEST): figures}, "made up")
    write_table(tmp_path / "ours.npz", table)
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as read:
        assert read[str(TEST)].dtype == np.float64
        np.testing.assert_allclose(read[str(TEST)], figures, rtol=1e-7)
        assert json.loads(read["about"].tobytes())["source"] == "made up"
    np.savez(tmp_path / "theirs.npz", allow_pickle=False, **{str(TEST): figures})
    np.testing.assert_array_equal(open_table(tmp_path / "theirs.npz").values(TEST), table.values(TEST))
    assert CompactColumns(tmp_path / "ours.npz").about["source"] == "made up"
    assert CompactColumns(tmp_path / "theirs.npz").about == {}


def test_the_same_table_is_the_same_file(tmp_path: Path) -> None:
    table = TabularBenchmark({str(TEST): np.zeros(NUM_CELLS)})
    for name in ("one.npz", "two.npz", "one.csv.gz", "two.csv.gz"):
        write_table(tmp_path / name, table)
    for ending in ("npz", "csv.gz"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()


GOOD = entry(np.zeros(NUM_CELLS, np.float32))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "objects": (entry(np.array([Path], dtype=object)), "the header of .* is not that"),
    "whole numbers": (entry(np.zeros(NUM_CELLS, np.int64)), "must be an <f4 or <f8 array"),
    "bytes": (entry(np.zeros(NUM_CELLS, np.uint8)), "must be an <f4 or <f8 array"),
    "another order of bytes": (
        entry(np.zeros(NUM_CELLS, ">f4")),
        "the header of .* is not that",
    ),
    "half precision": (entry(np.zeros(NUM_CELLS, np.float16)), "must be an <f4 or <f8 array"),
    "a large shape": (GOOD.replace(b"(15625,)", b"(15625, 999999999)"), "is not what its shape"),
    "a small shape": (GOOD.replace(b"(15625,)", b"(15624,)"), "is not what its shape"),
    "an expression": (GOOD.replace(b"(15625,)", b"(5**9**9,)"), "the header of .* is not that"),
    "a later version": (GOOD.replace(b"NUMPY\x01", b"NUMPY\x02"), "no array of the .npy format"),
    "another length of the header": (GOOD[:8] + b"\x00\x01" + GOOD[10:], "the header of .* is not that"),
    "half an array": (GOOD[:-1], "is not what its shape"),
    "another number of cells": (entry(np.zeros(7, np.float32)), "must have shape"),
    "nothing": (b"", "no array of the .npy format"),
}


def test_a_nan_of_any_kind_is_missing(tmp_path: Path) -> None:
    signalling = np.full(NUM_CELLS, 0x7F800001, np.uint32).view(np.float32)
    table = open_table(archive(tmp_path / "table.npz", {f"{TEST}.npy": entry(signalling)}))
    assert np.isnan(table.values(TEST)).all()


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_an_array_that_is_no_column_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    table = open_table(archive(tmp_path / "table.npz", {f"{TEST}.npy": content}))
    with pytest.raises(SupernetError, match=message):
        table.accuracy(Genotype.from_index(0))


def test_an_archive_that_is_no_table_is_refused(tmp_path: Path) -> None:
    packed = open_table(archive(tmp_path / "packed.npz", {f"{TEST}.npy": GOOD}, zipfile.ZIP_DEFLATED))
    with pytest.raises(SupernetError, match="is compressed or encrypted"):
        packed.accuracy(Genotype.from_index(0))
    for name, entries, message in (
        ("unknown", {f"{TEST}.npy": GOOD, "accuracy.npy": GOOD}, "accuracy in it is no column"),
        ("none", {"about.npy": GOOD}, "has no column"),
        ("many", {f"{TEST}.npy": GOOD, **{f"{n:01000}": b"" for n in range(70)}}, "71 members, and 64 are the limit"),
    ):
        with pytest.raises(SupernetError, match=message):
            open_table(archive(tmp_path / name, entries))


# Parquet


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_tables_of_all_kinds(tmp_path: Path) -> None:
    for columns in (
        {"arch": [BEST], str(TEST): [94.3], "note": [None]},
        {"index": [6111, 7], f"{TEST}#0": [94, None], f"{TEST}#1": pa.array([94.6, None], pa.float32())},
    ):
        table = open_table(parquet(tmp_path / "table", columns))
        assert table.accuracy(Genotype.parse(BEST)) == pytest.approx(94.3)
        assert np.isfinite(table.values(TEST)).sum() == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"index": [1]}, "no column of figures"),
        ({str(TEST): [1.0]}, "neither a column arch"),
        ({"index": [1, 1], str(TEST): [1.0, 2.0]}, "cell 1 is there a second time"),
        ({"index": [None], str(TEST): [1.0]}, "it names no cell"),
        ({"index": [1.0], str(TEST): [1.0]}, "row 0: arch must be text"),
        ({"arch": ["x"], str(TEST): [1.0]}, "'x' is no cell"),
        ({"index": [1], str(TEST): ["x"]}, "pyarrow cannot read it"),
        ({"index": [1], str(TEST): [[1.0]]}, "pyarrow cannot read it|has parts"),
        ({"index": [1], str(TEST): [{"a": 1.0}]}, "pyarrow cannot read it|has parts"),
        ({"index": np.zeros(20_000, np.int64), str(TEST): np.zeros(20_000)}, "more than 15,625 rows"),
        ({f"c{n}": [1] for n in range(1_001)}, "more than 15,625 rows, 1,000 columns"),
    ],
)
def test_what_is_no_table_in_parquet_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(SupernetError, match=message):
        open_table(parquet(tmp_path / "table", columns))


def test_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "table.parquet", {"index": [1], str(TEST): [5.0]})
    table = open_table(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    for use in (lambda: open_table(path), lambda: write_table(path, table)):
        with pytest.raises(SupernetError, match=r"pip install 'supernet\[parquet\]'"):
            use()


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet"])
def test_equal_cells_stay_equal_where_accuracies_are_thirds(tmp_path: Path, ending: str) -> None:
    figures = np.full((NUM_CELLS, 3), 0.0)
    figures[:3] = np.array([[1000, 1001, 1002], [1001, 1001, 1001], [1000, 1000, 1003]]) / 30
    path = tmp_path / f"table.{ending}"
    write_table(path, TabularBenchmark({str(TEST): figures}))
    assert [open_table(path).place(Genotype.from_index(index), TEST).rank for index in range(3)] == [1, 1, 1]
