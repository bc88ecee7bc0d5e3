"""Cell strings, JSON and official indices."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.errors import SupernetError
from supernet.genotype import NAS_BENCH_201_OPS, Genotype, edge_list

TABLE = Path(__file__).resolve().parents[1].parent / "shared/data/nasbench201/nasbench201_cifar10.csv.gz"

# Indices that the authors of the benchmark and the papers built on it have printed.
PUBLISHED = {
    0: "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    9: "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
    123: "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    1462: "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    1651: "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    1835: "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|",
    6111: "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|",
    9930: "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    11472: "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|",
    13714: "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|",
}

# A name is any text that the notation can carry: everything but its three signs and white space.
NAMES = st.text(st.characters(exclude_characters="|~+"), min_size=1, max_size=8).filter(
    lambda name: not any(letter.isspace() for letter in name)
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    num_edges = draw(st.sampled_from([1, 3, 6, 10, 15, 21, 28]))
    names = draw(st.lists(NAMES, min_size=1, max_size=5))
    rng = random.Random(draw(st.integers(0, 2**32)))
    return Genotype(tuple(rng.choices(names, k=num_edges)))


@st.composite
def edited(draw: st.DrawFn, text: str) -> str:
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 8)))
        text = text[:start] + draw(st.text("|~+0123 abn\n\x00\u00a0\u0663", max_size=4)) + text[stop:]
    return text


def outcome(read: Callable[[str], Genotype], text: str) -> Genotype | None:
    try:
        return read(text)
    except SupernetError:
        return None


@given(genotypes())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_string_and_json_give_back_any_cell_of_any_size(genotype: Genotype) -> None:
    assert Genotype.parse(str(genotype)) == genotype
    assert Genotype.parse(f" \t{genotype}\r\n") == genotype
    assert Genotype.from_json(genotype.to_json({"seed": 3})) == genotype


def test_edges_are_those_of_the_complete_graph_ordered_by_target_then_source() -> None:
    for num_nodes in range(2, 12):
        complete = nx.complete_graph(num_nodes)
        assert list(edge_list(num_nodes)) == sorted((max(edge), min(edge)) for edge in complete.edges)


def test_string_reads_as_one_group_a_node_and_one_term_a_source() -> None:
    ops = tuple(f"op{edge}" for edge in range(6))
    genotype = Genotype(ops)
    assert str(genotype) == "|op0~0|+|op1~0|op2~1|+|op3~0|op4~1|op5~2|"
    assert genotype.edges[3, 1] == "op4"
    assert genotype.num_nodes == 4


# 600 texts: arbitrary ones, and ones of the notation's own alphabet. A text that is read must be the text of
# the cell it is read as, so that nothing is skipped or guessed.
@given(st.text() | st.text("|~+0123abn \n", max_size=40))
@settings(max_examples=600, deadline=None, derandomize=True)
def test_arbitrary_text_is_a_cell_or_one_kind_of_error(text: str) -> None:
    genotype = outcome(Genotype.parse, text)
    assert genotype is None or str(genotype) == text.strip()


# 600 valid strings, of 2 to 5 nodes, with one to three edits each.
@given(st.sampled_from([1, 3, 6, 10]).flatmap(lambda num_edges: edited(str(Genotype(("ab",) * num_edges)))))
@settings(max_examples=600, deadline=None, derandomize=True)
def test_a_damaged_cell_string_is_a_cell_or_one_kind_of_error(text: str) -> None:
    genotype = outcome(Genotype.parse, text)
    assert genotype is None or str(genotype) == text.strip()


# 400 documents: arbitrary JSON, and a valid record whose parts are replaced by arbitrary JSON.
@given(
    ANY_JSON,
    genotypes(),
    st.dictionaries(st.sampled_from(["genotype", "index", "edges", "provenance", "more"]), ANY_JSON, max_size=3),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_arbitrary_json_is_a_cell_or_one_kind_of_error(document: Any, genotype: Genotype, parts: Any) -> None:
    outcome(Genotype.from_json, json.dumps(document))
    read = outcome(Genotype.from_json, json.dumps(json.loads(genotype.to_json()) | parts))
    assert read is None or "genotype" in parts or read == genotype


# 300 damaged documents, one to three edits each.
@given(st.sampled_from(sorted(PUBLISHED)).flatmap(lambda index: edited(Genotype.from_index(index).to_json())))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_damaged_document_is_a_cell_or_one_kind_of_error(text: str) -> None:
    outcome(Genotype.from_json, text)


# 300 files of arbitrary bytes, most of them no UTF-8.
@given(content=st.binary(max_size=64))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_file_of_arbitrary_bytes_is_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.json"
    path.write_bytes(content)
    with pytest.raises(SupernetError, match=r"arbitrary\.json"):
        Genotype.load(path)


@pytest.mark.parametrize("opening", ["[", '{"genotype": ', '{"genotype": "|a~0|", "edges": [['])
def test_json_nested_beyond_the_recursion_limit_is_an_error_sentence(opening: str) -> None:
    with pytest.raises(SupernetError, match="does not parse"):
        Genotype.from_json(opening * 100_000)


@pytest.mark.parametrize(
    ("key", "value"),
    [("index", 11473), ("index", None), ("edges", {}), ("edges", {"1<-0": "none"}), ("edges", [["1<-0"]])],
)
def test_a_document_that_contradicts_itself_is_refused(key: str, value: Any) -> None:
    record = json.loads(Genotype.parse(PUBLISHED[11472]).to_json())
    with pytest.raises(SupernetError, match=f"contradicts itself: '{key}'"):
        Genotype.from_json(json.dumps(record | {key: value}))
    del record[key]
    assert Genotype.from_json(json.dumps(record)).index == 11472


@pytest.mark.parametrize("document", ["[]", "3", '"|a~0|"', "{}", '{"genotype": 3}', '{"normal": [["sep", 0]]}'])
def test_json_without_a_cell_string_says_what_was_expected(document: str) -> None:
    with pytest.raises(SupernetError, match="object with the cell string under 'genotype', got"):
        Genotype.from_json(document)


@pytest.mark.parametrize(
    ("string", "node"),
    [
        ("", 1),
        ("|a~0", 1),
        ("|a~1|", 1),
        ("|a~00|", 1),
        ("|a~\u0660|", 1),
        ("|a b~0|", 1),
        ("|~0|", 1),
        ("|a~0||", 1),
        ("|a~0|+", 2),
        ("|a~0|+|b~0|", 2),
        ("|a~0|+|b~1|b~0|", 2),
        ("|a~0|+|b~0|b~1|b~2|", 2),
        ("|a~0|+|b~0|b~1|+|c~0|c~1|", 3),
        ("|a~0|+|b~0|b~1|++", 3),
    ],
)
def test_a_malformed_string_names_the_node_where_it_departs(string: str, node: int) -> None:
    with pytest.raises(SupernetError, match=f"malformed cell string: node {node} should read"):
        Genotype.parse(string)


def test_only_triangular_numbers_of_operations_are_cells() -> None:
    sizes = {len(nx.complete_graph(num_nodes).edges) for num_nodes in range(2, 17)}
    for length in range(1, 140):
        if length in sizes:
            assert len(Genotype(("a",) * length).ops) == length
        else:
            with pytest.raises(SupernetError, match=f"got {length} operations"):
                Genotype(("a",) * length)
    assert Genotype(("a",) * max(sizes)).num_nodes == 16
    with pytest.raises(SupernetError, match="16 nodes at most"):
        Genotype(("a",) * (17 * 16 // 2))


@pytest.mark.parametrize("op", ["", "a b", "a|b", "a~b", "a+b", "a\n", "a\u00a0b", 3, None])
def test_a_name_that_the_notation_cannot_carry_is_refused(op: Any) -> None:
    with pytest.raises(SupernetError, match="an operation name is text without"):
        Genotype((op,))


def test_all_official_indices_round_trip_and_name_different_cells() -> None:
    cells = [Genotype.from_index(index) for index in range(15_625)]
    assert len(set(cells)) == 15_625
    assert [cell.index for cell in cells] == list(range(15_625))
    assert all(Genotype.parse(str(cell)) == cell for cell in cells)


@pytest.mark.parametrize(("index", "string"), PUBLISHED.items())
def test_official_index_agrees_with_published_cells(index: int, string: str) -> None:
    assert str(Genotype.from_index(index)) == string
    assert Genotype.parse(string).index == index


def test_official_index_agrees_with_every_row_of_the_published_table() -> None:
    if not TABLE.exists():
        pytest.skip("the NAS-Bench-201 table is not beside the repository")
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        table = {int(row["index"]): row["arch"] for row in csv.DictReader(file)}
    assert table == {index: str(Genotype.from_index(index)) for index in range(15_625)}


@pytest.mark.parametrize("index", [-1, 15_625, 10**9])
def test_an_index_outside_the_table_is_refused(index: int) -> None:
    with pytest.raises(SupernetError, match=f"0 to 15624, got {index}"):
        Genotype.from_index(index)


def test_a_cell_of_another_space_has_no_official_index() -> None:
    first = NAS_BENCH_201_OPS[0]
    assert Genotype((first,) * 3).index is None
    assert Genotype((first,) * 10).index is None
    assert Genotype((*(first,) * 5, "max_pool_3x3")).index is None


def test_save_and_load_replace_the_file_and_leave_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "cell.json"
    for index in (0, 11472):
        Genotype.from_index(index).save(path, {"epoch": index})
        assert Genotype.load(path).index == Genotype.load(str(path)).index == index
        assert json.loads(path.read_text())["provenance"] == {"epoch": index}
        assert list(path.parent.iterdir()) == [path]


def test_json_carries_each_edge_by_name() -> None:
    record = json.loads(Genotype.parse(PUBLISHED[9]).to_json())
    assert record["genotype"] == PUBLISHED[9]
    assert record["index"] == 9
    assert record["edges"] == {
        "1<-0": "avg_pool_3x3", "2<-0": "none", "2<-1": "none",
        "3<-0": "skip_connect", "3<-1": "none", "3<-2": "nor_conv_3x3",
    }  # fmt: skip


def test_a_save_that_fails_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    Genotype.from_index(9).save(path)
    with pytest.raises(TypeError):
        Genotype.from_index(0).save(path, {"not": object()})
    assert Genotype.load(path).index == 9
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_cannot_be_read_are_named_in_the_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(SupernetError, match="cannot read the genotype file") as caught:
            Genotype.load(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["1" * 5000, '{"genotype": "|a~0|", "index": ' + "1" * 5000 + "}"])
def test_a_number_too_long_for_python_is_an_error_sentence(text: str) -> None:
    with pytest.raises(SupernetError, match="does not parse"):
        Genotype.from_json(text)


@pytest.mark.parametrize("ops", [(), ("a", "b"), ("a",) * 136])
def test_operations_that_fit_no_cell_are_refused(ops: tuple[str, ...]) -> None:
    with pytest.raises(SupernetError, match="a cell has 1, 3, 6, 10"):
        Genotype(ops)


def test_text_is_one_operation_and_not_its_letters() -> None:
    assert Genotype("abc").ops == ("abc",)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"])
def test_a_path_that_no_file_can_have_is_an_error_sentence(path: str) -> None:
    with pytest.raises(SupernetError, match="cannot read the genotype file"):
        Genotype.load(path)


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken.json").mkdir()
    with pytest.raises(SupernetError, match=r"cannot write .*taken"):
        Genotype.from_index(0).save(tmp_path / "taken.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.json"]


def test_true_is_not_the_index_1() -> None:
    document = json.loads(Genotype.from_index(1).to_json()) | {"index": True}
    with pytest.raises(SupernetError, match="contradicts itself"):
        Genotype.from_json(json.dumps(document))
