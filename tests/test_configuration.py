"""Bounds of configurations: generous to people, and kept."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.cli import search
from supernet.cli.configuration import load
from tests.test_cli import NETWORK, here, run, sentence

__all__ = ["here"]  # fixture

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="ascii", categories=["L", "N"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=12,
)


def count(value: Any) -> int:
    """Values in a document, by recursion: containers, keys and leaves."""
    if isinstance(value, dict):
        return 1 + sum(1 + count(inner) for inner in value.values())
    return 1 + sum(count(inner) for inner in value) if isinstance(value, list) else 1


# 100 documents, half of them with references.
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), VALUES, min_size=1, max_size=4), st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_configuration_of_ordinary_size_is_read_as_yaml(value: dict[str, Any], shared: bool) -> None:
    document = {"one": value, "two": value if shared else 1}
    assert load(yaml.safe_dump(document)) == document


def test_references_count_as_if_they_were_written_out() -> None:
    inner = [1] * 97
    document = {"a": inner, "b": [inner] * 99}
    assert count(document) == 1 + 1 + 98 + 1 + 1 + 99 * 98
    assert load(yaml.safe_dump(document)) == document  # 9,804
    with pytest.raises(yaml.YAMLError, match="more than 10,000 values"):
        load(yaml.safe_dump({"a": inner, "b": [inner] * 102}))


def test_values_nested_less_than_100_deep_are_read() -> None:
    assert load("[" * 100 + "]" * 100)
    with pytest.raises(yaml.YAMLError, match="nested more than 100 deep"):
        load("[" * 101 + "]" * 101)


def test_a_configuration_may_come_through_a_pipe(here: Path) -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=("model: {channels: 3}\ndata: {batch_size: 32}",))
    writer.start()
    result = run(search, "--config", "pipe", "--model.search", "GDAS", "--model.num_cells", "1", "--print_config")
    writer.join()
    assert result.status == 0, result.err
    printed = yaml.safe_load(result.out)
    assert (printed["model"]["channels"], printed["data"]["batch_size"]) == (3, 32)


def test_a_pipe_without_an_end_is_left_in_time(here: Path) -> None:
    os.mkfifo("pipe")

    def write() -> None:
        with suppress(BrokenPipeError), Path("pipe").open("wb") as file:
            while True:
                file.write(b"# so it goes\n" * 1_000)

    writer = threading.Thread(target=write)
    writer.start()
    assert "more than 1,048,576 bytes" in sentence(run(search, "--config", "pipe", *NETWORK))
    writer.join()


def test_groups_may_be_files(here: Path) -> None:
    Path("network.yaml").write_text("channels: 3\n")
    result = run(search, "--model", "network.yaml", "--model.search", "GDAS", "--print_config")
    assert yaml.safe_load(result.out)["model"]["channels"] == 3
