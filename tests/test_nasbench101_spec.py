"""The cells of NAS-Bench-101: published hashes and counts, isomorphism by brute force, what is refused."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import random
from collections import Counter
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.errors import SupernetError
from supernet.nasbench101 import (
    NUM_CELLS,
    NUM_CELLS_BY_VERTICES,
    OPS,
    Spec,
    cells,
    is_well_formed,
    num_parameters,
    sample,
    why_malformed,
)
from supernet.nasbench101.space import full_graphs, pack, unpack

LETTERS = {"i": "input", "o": "output", "3": "conv3x3-bn-relu", "1": "conv1x1-bn-relu", "m": "maxpool3x3"}

PUBLISHED = {
    ("0111010 0000001 0000001 0000100 0000001 0000001 0000000", "i1333mo"): "28cfc7874f6d200472e1a9dcd8650aa0",
    ("0110011 0000010 0001000 0000100 0000010 0000001 0000000", "i13m33o"): "02e5a0247bbdcf2860b7e96f74961594",
    ("0100110 0010000 0001001 0000010 0000010 0000001 0000000", "i3m331o"): "00005c142e6f48ac74fdcf73e3439874",
    ("010 001 000", "i3o"): "b49ac8c578b4561d79ac7087988f1c61",
    ("011 001 000", "i3o"): "d32d0b26d534203b48d866facd98cc3e",
    ("010 001 000", "i1o"): "d1269d9156ddc027c40473008192958a",
    ("011 001 000", "i1o"): "09fc2d10bdd6225e167a6f81a22a3f06",
    ("010 001 000", "imo"): "53cee42601ad14d661bb6878031d6acb",
    ("011 001 000", "imo"): "6f6257bc3b12d87b8736e81cd4b7ed8b",
    ("01 00", "io"): "043721b9c7fe8c5fad811d47d83132ec",
}
INCEPTION, BEST = (Spec(rows, [LETTERS[letter] for letter in ops]) for rows, ops in list(PUBLISHED)[:2])


def drawn(seed: int, most_vertices: int = 9, ops: tuple[str, ...] = OPS) -> Spec:
    """Any well-formed cell, in the domain or not."""
    rng = random.Random(seed)
    size = rng.randint(2, most_vertices)
    density = rng.choice([0.2, 0.4, 0.7])
    rows = [[int(x < y and rng.random() < density) for y in range(size)] for x in range(size)]
    return Spec(rows, ["input", *rng.choices(ops, k=size - 2), "output"])


seeds = st.integers(0, 10**9)
fitting = seeds.map(lambda seed: sample(random.Random(seed)))
many = settings(max_examples=150, deadline=None, derandomize=True)


def as_graph(spec: Spec) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from((vertex, {"op": op}) for vertex, op in enumerate(spec.ops))
    graph.add_edges_from((int(x), int(y)) for x, y in np.argwhere(np.array(spec.matrix)))
    return graph


def permuted(spec: Spec, order: tuple[int, ...]) -> Spec:
    matrix = np.array(spec.matrix)
    return Spec(matrix[np.ix_(order, order)], [spec.ops[vertex] for vertex in order])


def orders(spec: Spec) -> list[tuple[int, ...]]:
    """All orders of the inner vertices that keep the matrix upper triangular."""
    last = spec.num_vertices - 1
    matrix = np.array(spec.matrix)
    every = [(0, *inner, last) for inner in itertools.permutations(range(1, last))]
    return [order for order in every if not np.tril(matrix[np.ix_(order, order)]).any()]


# Golden hashes


@pytest.mark.parametrize(("rows", "ops"), list(PUBLISHED))
def test_the_published_cells_have_their_published_hashes(rows: str, ops: str) -> None:
    names, words = [LETTERS[letter] for letter in ops], rows.split()
    digits = [[int(digit) for digit in row] for row in words]
    given: list[Any] = [
        rows,
        words,
        digits,
        *(np.array(digits, of) for of in (np.uint8, np.int64, float, bool, object)),
    ]
    given.append([[np.int64(digit) for digit in row] for row in digits])
    for matrix in given:
        spec = Spec(matrix, names)
        assert spec.hash == PUBLISHED[rows, ops]
        assert spec == Spec(tuple(map(tuple, digits)), np.array(names))
        assert {type(entry) for row in spec.matrix for entry in row} == {int}
        assert {type(op) for op in spec.ops} == {str}
        assert spec.in_domain


def test_dead_ends_do_not_change_the_hash() -> None:
    dead = Spec("0111 0001 0000 0000", "input,conv3x3,maxpool3x3,output")
    unfed = Spec("0101 0001 0001 0000", "input,conv3x3,maxpool3x3,output")
    assert dead.pruned == unfed.pruned == Spec("011 001 000", "input,conv3x3,output")
    assert dead.hash == unfed.hash == "d32d0b26d534203b48d866facd98cc3e"
    assert dead.num_edges == 4
    assert dead != unfed


def float_hash(spec: Spec) -> str:
    """The hash that the official code gives a matrix of floats, which is in no table: degrees are written 1.0."""
    md5 = lambda text: hashlib.md5(text.encode()).hexdigest()  # noqa: E731
    matrix = np.array(spec.matrix, float)
    labels = [-1, *(OPS.index(op) for op in spec.ops[1:-1]), -2]
    degrees = zip(matrix.sum(1).tolist(), matrix.sum(0).tolist(), labels, strict=True)
    hashes = [md5(str(each)) for each in degrees]
    for _ in labels:
        hashes = [
            md5("|".join(["".join(sorted(np.array(hashes)[side > 0])) for side in (matrix[:, v], matrix[v])] + [own]))
            for v, own in enumerate(hashes)
        ]
    return md5(str(sorted(hashes)))


def test_a_matrix_of_floats_hashes_as_one_of_integers() -> None:
    asked = Spec("01111 00011 00011 00001 00000", "input,conv3x3,maxpool3x3,conv3x3,output")
    assert float_hash(asked) == "926a133285cb34c1a38eefe60e7586d4"  # which a user looked for in vain
    assert Spec(np.array(asked.matrix, float), asked.ops).hash == "edb7648dd596405eddc9a5c607b494a6"  # which is there
    for spec in (INCEPTION, BEST, sample(random.Random(1)).pruned):
        assert Spec(np.array(spec.matrix, float), spec.ops).hash == spec.hash != float_hash(spec)


# Isomorphism


@given(fitting)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_hash_does_not_depend_on_the_order_of_the_vertices(spec: Spec) -> None:
    assert {permuted(spec, order).hash for order in orders(spec)} == {spec.hash}


def test_equal_hashes_mean_isomorphic_graphs_and_different_ones_do_not() -> None:
    everything = [
        Spec(unpack(bits, size), ("input", *inner, "output"))
        for size in (2, 3, 4)
        for bits in range(2 ** (size * (size - 1) // 2))
        for inner in itertools.product(OPS, repeat=size - 2)
    ]
    forms: dict[str, Spec] = {}
    for spec in everything:
        if spec.is_connected:
            first = forms.setdefault(spec.hash, spec.pruned)
            assert nx.is_isomorphic(as_graph(spec.pruned), as_graph(first), lambda one, other: one == other)
    assert len(forms) == 1 + 6 + 84
    for one, other in itertools.combinations(forms.values(), 2):
        assert not nx.is_isomorphic(as_graph(one), as_graph(other), lambda one, other: bool(one == other))


# Pruning


@given(seeds)
@many
def test_pruning_keeps_what_networkx_finds_on_a_path(seed: int) -> None:
    spec = drawn(seed)
    graph, last = as_graph(spec), spec.num_vertices - 1
    assert spec.is_connected == nx.has_path(graph, 0, last)
    if not spec.is_connected:
        with pytest.raises(SupernetError, match="not connected to its output"):
            _ = spec.pruned
        return
    kept = sorted(({0} | nx.descendants(graph, 0)) & ({last} | nx.ancestors(graph, last)))
    pruned = spec.pruned
    assert pruned.ops == tuple(spec.ops[vertex] for vertex in kept)
    assert pruned.matrix == tuple(map(tuple, np.array(spec.matrix)[np.ix_(kept, kept)].tolist()))
    assert pruned.pruned is pruned
    assert pruned.hash == spec.hash


# The three questions


@pytest.mark.parametrize(
    ("matrix", "ops", "reason"),
    [
        ([[0, 1], [0, 0, 0]], "input,output", "is square.* got 2 rows of length"),
        ([[0]], "input", "is square, with 2 to 64 rows, got 1 rows"),
        ([], "", "is square.* got 0 rows"),
        (np.zeros((65, 65)), "input,output", "got 65 rows"),
        ([[0, 0.5], [0, 0]], "input,output", "holds zeros and ones, got 0.5"),
        ([[0, float("nan")], [0, 0]], "input,output", "holds zeros and ones, got nan"),
        ([[0, 1 + 1e-12], [0, 0]], "input,output", "holds zeros and ones"),
        ([[0, 2], [0, 0]], "input,output", "holds zeros and ones, got 2"),
        ([[0, -1], [0, 0]], "input,output", "holds zeros and ones, got -1"),
        ([[0, 1j], [0, 0]], "input,output", "holds zeros and ones"),
        ([[0, None], [0, 0]], "input,output", "holds zeros and ones, got None"),
        (["02", "00"], "input,output", "holds zeros and ones, got '2'"),
        (["0\N{ARABIC-INDIC DIGIT ONE}", "00"], "input,output", "holds zeros and ones"),
        (["01", "10"], "input,output", "above the diagonal, got one in row 1, column 0"),
        (["11", "00"], "input,output", "above the diagonal, got one in row 0, column 0"),
        (["01", "00"], "input", "one operation for each vertex, got 1 for 2"),
        (["01", "00"], ["input", 3], "are names, got 3"),
        (None, "input,output", "a matrix and a list of operations, got NoneType"),
        (3, "input,output", "a matrix and a list of operations, got int"),
        ([3, 4], "input,output", "a matrix and a list of operations, got int"),
        (["01", "00"], None, "a matrix and a list of operations, got NoneType"),
    ],
)
def test_what_is_no_cell_is_refused_with_the_reason(matrix: Any, ops: Any, reason: str) -> None:
    with pytest.raises(SupernetError, match=reason) as caught:
        Spec(matrix, ops)
    assert why_malformed(matrix, ops) == str(caught.value)
    assert not is_well_formed(matrix, ops)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("010 000 000 input,conv3x3,output", "not connected"),
        (f"{' '.join('0' * (x + 1) + '1' + '0' * (6 - x) for x in range(7))} 00000000 input{',conv3x3' * 6},output",
         "it has 8 vertices, and 7 are the most"),
        ("01111 00111 00011 00001 00000 input,conv3x3,conv3x3,conv3x3,output", "it has 10 edges, and 9 are the most"),
        ("010 001 000 input,conv5x5,output", "unknown operation 'conv5x5': did you mean 'conv3x3'"),
        ("01 00 output,input", "first and last operations are 'input' and 'output'"),
        ("010 001 000 input,input,output", "unknown operation 'input'"),
    ],
)  # fmt: skip
def test_cells_outside_the_domain_are_well_formed_and_say_why(text: str, reason: str) -> None:
    spec = Spec.parse(text)
    assert is_well_formed(spec.matrix, spec.ops)
    assert reason in spec.outside
    assert not spec.in_domain
    with pytest.raises(SupernetError, match="is none of NAS-Bench-101"):
        spec.neighbours()
    if "operation" in reason or "connected" in reason:
        with pytest.raises(SupernetError, match=reason.split(":")[0]):
            _ = spec.hash


def test_the_limits_hold_for_what_is_left_after_pruning() -> None:
    rows = [[int(x < y) for y in range(9)] for x in range(9)]
    for x in range(1, 9):
        rows[x] = [0] * 9
    spec = Spec(rows, ["input", *["conv7x7"] * 7, "output"])  # 36 edges less: only input to output is left
    assert spec.in_domain
    assert spec.hash == "043721b9c7fe8c5fad811d47d83132ec"


def test_a_cell_is_a_value() -> None:
    assert len({INCEPTION, Spec(INCEPTION.matrix, INCEPTION.ops), BEST}) == 2
    assert pickle.loads(pickle.dumps(INCEPTION)) == INCEPTION
    with pytest.raises(AttributeError):
        INCEPTION.ops = ()  # type: ignore[misc]


@given(seeds)
@many
def test_the_text_of_a_cell_reads_back(seed: int) -> None:
    spec = drawn(seed)
    assert Spec.parse(str(spec)) == spec
    assert unpack(pack(spec.matrix), spec.num_vertices) == spec.matrix


@pytest.mark.parametrize("text", ["", "input,output", "01 00", "01 00 input, output"])
def test_what_is_no_text_of_a_cell_is_refused(text: str) -> None:
    with pytest.raises(SupernetError):
        Spec.parse(text)


def test_the_sketch_names_what_feeds_each_vertex() -> None:
    assert INCEPTION.sketch().splitlines()[1:] == [
        "0       input",
        "1       conv1x1-bn-relu  0",
        "2       conv3x3-bn-relu  0",
        "3       conv3x3-bn-relu  0",
        "4       conv3x3-bn-relu  3",
        "5       maxpool3x3       0",
        "6       output           1 2 4 5",
    ]


# Neighbours


def brute_force_neighbours(spec: Spec) -> set[str]:
    """Hashes of all cells that differ in one entry or one operation, by comparing with every labelled matrix."""
    cell, found = spec.pruned, set()
    bits, size = pack(cell.matrix), cell.num_vertices
    for position in range(size * (size - 1) // 2):
        found.add(Spec(unpack(bits ^ 1 << position, size), cell.ops))
    for inner in itertools.product(OPS, repeat=size - 2):
        if sum(one != other for one, other in zip(inner, cell.ops[1:-1], strict=True)) == 1:
            found.add(Spec(cell.matrix, ("input", *inner, "output")))
    return {one.hash for one in found if one.in_domain} - {spec.hash}


@given(fitting)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_neighbours_are_all_cells_one_step_away_each_once(spec: Spec) -> None:
    neighbours = spec.neighbours()
    hashes = [neighbour.hash for neighbour in neighbours]
    assert len(hashes) == len(set(hashes))
    assert set(hashes) == brute_force_neighbours(spec)
    assert all(neighbour.in_domain and neighbour.pruned is neighbour for neighbour in neighbours)


@given(fitting)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_a_neighbour_that_lost_no_vertex_has_the_cell_as_its_neighbour(spec: Spec) -> None:
    for neighbour in spec.neighbours():
        if neighbour.num_vertices == spec.pruned.num_vertices:
            assert spec.hash in {back.hash for back in neighbour.neighbours()}


def test_a_neighbour_that_lost_a_vertex_does_not_lead_back() -> None:
    chain, direct = Spec("011 001 000", "input,conv3x3,output"), Spec("01 00", "input,output")
    assert direct in chain.neighbours()
    assert direct.neighbours() == []


def test_isomorphic_cells_need_not_have_the_same_neighbours() -> None:
    # Two branches: between them an edge may go from the first to the second only.
    one = Spec("0110 0001 0001 0000", "input,conv3x3,maxpool3x3,output")
    other = Spec("0110 0001 0001 0000", "input,maxpool3x3,conv3x3,output")
    assert one.hash == other.hash
    assert {spec.hash for spec in one.neighbours()} != {spec.hash for spec in other.neighbours()}


# The whole space


@pytest.mark.parametrize("num_vertices", [2, 3, 4, 5])
def test_small_cells_are_as_many_as_published(num_vertices: int) -> None:
    found = list(cells(num_vertices))
    assert len({spec.hash for spec in found}) == len(found) == NUM_CELLS_BY_VERTICES[num_vertices]
    assert all(spec.in_domain and spec.pruned is spec for spec in found)


def test_the_space_is_as_large_as_published() -> None:
    assert NUM_CELLS == 423_624
    # The published count of labelled graphs, before isomorphic ones are dropped.
    assert sum(len(full_graphs(size)) * 3 ** (size - 2) for size in range(2, 8)) == 1_293_208


def test_of_isomorphic_cells_the_first_in_the_official_order_is_kept() -> None:
    first: dict[str, Spec] = {}
    for bits in range(2**6):
        for inner in itertools.product(OPS, repeat=2):
            spec = Spec(unpack(bits, 4), ("input", *inner, "output"))
            if spec.in_domain and spec.pruned is spec:
                first.setdefault(spec.hash, spec)
    assert list(cells(4)) == list(first.values())


@pytest.mark.parametrize("num_vertices", [-1, 0, 1, 8, 100])
def test_there_are_no_cells_of_other_sizes(num_vertices: int) -> None:
    with pytest.raises(SupernetError, match=f"2 to 7 vertices, got {num_vertices}"):
        next(cells(num_vertices))


@pytest.mark.long
def test_all_cells_and_their_parameters_are_as_published() -> None:
    parameters: dict[int, list[str]] = {}
    for num_vertices, count in NUM_CELLS_BY_VERTICES.items():
        found = 0
        for spec in cells(num_vertices):
            parameters.setdefault(num_parameters(spec), []).append(spec.hash)
            found += 1
        assert found == count
    assert len(set(itertools.chain(*parameters.values()))) == NUM_CELLS
    assert len(parameters) == 3_336
    assert (min(parameters), max(parameters)) == (227_274, 49_979_274)
    assert "01da1025a8b3a7c0b848adccef93c5a5" in parameters[227_274]
    assert "012534f1e7781c0ac3ef57bfcc4dff91" in parameters[49_979_274]


# Sampling


def test_draws_repeat_fit_and_are_spread_as_matrices_of_coin_flips() -> None:
    rng, again = random.Random(5), random.Random(5)
    draws = [sample(rng) for _ in range(400)]
    assert draws == [sample(again) for _ in range(400)]
    assert all(spec.in_domain and spec.num_vertices == 7 for spec in draws)
    counts = Counter(op for spec in draws for op in spec.ops[1:-1])
    for op in OPS:  # 2,000 draws of probability 1/3: five standard deviations
        assert abs(counts[op] - 2_000 / 3) < 5 * (2_000 * 2 / 9) ** 0.5
