from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet.errors import SupernetError
from supernet.files import remove_leftovers, write_whole


def write_by_turns(path: Path) -> None:
    for turn in range(300):
        write_whole(path, bytes([65 + turn % 2]) * (100_000 + turn % 2))


def test_a_reader_sees_one_version_or_the_other_and_never_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"A" * 100_000)
    writers = [multiprocessing.get_context("spawn").Process(target=write_by_turns, args=(path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        content = path.read_bytes()
        assert content in (b"A" * 100_000, b"B" * 100_001)
        seen.add(content[:1])
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen == {b"A", b"B"}
    assert os.listdir(tmp_path) == ["file"]


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_what_was_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes
) -> None:
    path = tmp_path_factory.mktemp("written") / "a folder that is made" / "file"
    for content in (first, second):
        write_whole(path, content)
        assert path.read_bytes() == content


def test_a_file_that_cannot_be_written_is_one_sentence_and_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("x")
    with pytest.raises(SupernetError, match=r"cannot write .*occupied/file \(.*; what was there before is intact$"):
        write_whole(tmp_path / "occupied" / "file", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SupernetError, match=r"cannot write .*folder \(Is a directory"):
        write_whole(tmp_path / "folder", b"")
    assert sorted(os.listdir(tmp_path)) == ["folder", "occupied"]


def test_only_what_was_left_of_writing_is_removed(tmp_path: Path) -> None:
    kept = {".lock", "last.ckpt", "events.out.123", ".notes.2024"}
    for name in (*kept, ".last.ckpt.4711.part", ".genotype.json.12.part"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) == kept
