"""The space of cells against brute force, networkx and the published counts."""

from __future__ import annotations

import functools
import random
from collections import Counter, defaultdict

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.space import CellSpace, canonical, is_connected

PRIME = 2_147_483_647
FUNCTIONS = {"nor_conv_1x1": (3, 5), "nor_conv_3x3": (7, 11), "avg_pool_3x3": (13, 17)}


@st.composite
def spaces(draw: st.DrawFn) -> CellSpace:
    names = draw(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5, unique=True))
    return CellSpace(draw(st.integers(2, 6)), [*names, *draw(st.sampled_from([[], ["none"], ["skip_connect"]]))])


@functools.cache
def all_cells() -> tuple[Genotype, ...]:
    return tuple(CellSpace())


@functools.cache
def reaches(num_nodes: int, edges: frozenset[tuple[int, int]]) -> bool:
    graph = nx.DiGraph((source, target) for target, source in edges)
    graph.add_nodes_from(range(num_nodes))
    return bool(nx.has_path(graph, 0, num_nodes - 1))


def connected_by_networkx(genotype: Genotype) -> bool:
    return reaches(genotype.num_nodes, frozenset(edge for edge, op in genotype.edges.items() if op != "none"))


def value(genotype: Genotype, start: int) -> int:
    """The cell with its operations read as polynomials over a finite field that keep zero zero."""
    nodes = [start]
    for target in range(1, genotype.num_nodes):
        total = 0
        for source in range(target):
            op, x = genotype.edges[target, source], nodes[source]
            square, linear = FUNCTIONS.get(op, (0, 0 if op == "none" else 1))
            total += square * x * x + linear * x
        nodes.append(total % PRIME)
    return nodes[-1]


def assert_uniform(counts: Counter[Genotype], cells: list[Genotype]) -> None:
    assert set(counts) <= set(cells)
    assert chisquare([counts[cell] for cell in cells]).pvalue > 1e-4


def test_iteration_visits_every_cell_in_base_five_order() -> None:
    space, cells = CellSpace(), all_cells()
    digits = np.stack(np.unravel_index(np.arange(15_625), (5,) * 6), axis=1)
    assert [space.choices(cell) for cell in cells] == [tuple(row) for row in digits.tolist()]
    assert len(set(cells)) == space.size == 15_625


@given(spaces(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_choices_and_genotype_undo_each_other(space: CellSpace, rng: random.Random) -> None:
    choices = tuple(rng.randrange(space.num_ops) for _ in space.edges)
    genotype = space.genotype(choices)
    assert space.choices(genotype) == choices
    assert genotype in space
    assert space.size == space.num_ops ** len(space.edges)
    assert space.num_edges == len(space.edges)
    assert list(genotype.edges.values()) == [space.ops[choice] for choice in choices]


def test_connectedness_agrees_with_networkx_and_the_published_count() -> None:
    cells = all_cells()
    connected = [is_connected(cell) for cell in cells]
    assert connected == [connected_by_networkx(cell) for cell in cells]
    assert sum(connected) == 15_284


@pytest.mark.parametrize("num_nodes", [2, 3, 5])
def test_connectedness_agrees_with_networkx_for_other_sizes(num_nodes: int) -> None:
    for cell in CellSpace(num_nodes, ("none", "skip_connect")):
        assert is_connected(cell) == connected_by_networkx(cell)


@pytest.mark.parametrize(("drop_zeros", "published"), [(False, 12_751), (True, 6_466)])
def test_isomorphism_classes_are_as_many_as_published(drop_zeros: bool, published: int) -> None:
    assert len({canonical(cell, drop_zeros=drop_zeros) for cell in all_cells()}) == published


def test_cells_with_one_canonical_text_compute_one_function() -> None:
    classes: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for cell in all_cells():
        answer = (value(cell, 1_234_567), value(cell, 987_654_321))
        classes[canonical(cell, drop_zeros=True)].add(answer)
        classes[canonical(cell, drop_zeros=False)].add(answer)
    assert max(len(answers) for answers in classes.values()) == 1


def test_zero_is_told_apart_only_where_it_is_dropped() -> None:
    # Both are zero for every input, but only dropping zeros shows it in the text.
    dead, empty = Genotype(("none", "none", "nor_conv_3x3")), Genotype(("none", "none", "none"))
    assert canonical(dead, drop_zeros=True) == canonical(empty, drop_zeros=True)
    assert canonical(dead, drop_zeros=False) != canonical(empty, drop_zeros=False)


def test_neighbours_are_all_cells_at_distance_one() -> None:
    space = CellSpace(3, ("none", "a", "b", "c"))
    cells = list(space)
    for cell in cells:
        near = [other for other in cells if sum(a != b for a, b in zip(cell.ops, other.ops, strict=True)) == 1]
        assert sorted(space.neighbours(cell), key=str) == sorted(near, key=str)


def test_each_nas_bench_201_cell_has_24_mutual_neighbours_that_differ_on_one_edge() -> None:
    space, rng = CellSpace(), random.Random(0)
    for _ in range(100):
        cell = space.sample(rng)
        near = space.neighbours(cell)
        assert len(set(near)) == len(near) == 24
        for other in near:
            assert other in space
            assert sum(a != b for a, b in zip(cell.ops, other.ops, strict=True)) == 1
            assert cell in space.neighbours(other)


def test_mutation_draws_every_neighbour_equally_often() -> None:
    space, rng = CellSpace(), random.Random(1)
    cell = space.sample(rng)
    counts = Counter(space.mutate(cell, rng) for _ in range(720))
    assert_uniform(counts, space.neighbours(cell))


def test_sampling_draws_every_cell_equally_often() -> None:
    space, rng = CellSpace(3, ("none", "a", "b", "c")), random.Random(2)
    assert_uniform(Counter(space.sample(rng) for _ in range(12_800)), list(space))


@given(spaces(), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_seed_repeats_samples_and_mutations(space: CellSpace, seed: int) -> None:
    def draw() -> list[Genotype]:
        rng = random.Random(seed)
        cells = [space.sample(rng) for _ in range(5)]
        return cells + [space.mutate(cell, rng) for cell in cells if space.num_ops > 1]

    state = random.getstate()
    assert draw() == draw()
    assert random.getstate() == state  # the generator that all of the process shares is left alone


def test_the_space_with_one_operation_has_one_cell_and_nowhere_to_go() -> None:
    space = CellSpace(3, ("skip_connect",))
    (cell,) = space
    assert space.neighbours(cell) == []
    with pytest.raises(SupernetError, match="'skip_connect' has no other cell"):
        space.mutate(cell, random.Random(0))


def test_spaces_are_equal_and_hashable_however_the_operations_arrive() -> None:
    assert {CellSpace(3, ["none", "a"]), CellSpace(3, ("none", "a"))} == {CellSpace(3, ("none", "a"))}


def test_membership_asks_for_both_size_and_operations() -> None:
    space = CellSpace()
    assert Genotype(("none",) * 6) in space
    assert Genotype(("none",) * 3) not in space
    assert Genotype(("none",) * 5 + ("max_pool_3x3",)) not in space
    assert "|none~0|" not in space


@pytest.mark.parametrize("num_nodes", [-1, 0, 1])
def test_a_space_without_an_output_is_refused(num_nodes: int) -> None:
    with pytest.raises(SupernetError, match=f"num_nodes must be at least 2 .* got {num_nodes}"):
        CellSpace(num_nodes)


@pytest.mark.parametrize("ops", [(), ("none",), ("a", "b", "a"), ("none", "a", "none")])
def test_a_space_without_a_choice_of_operations_is_refused(ops: tuple[str, ...]) -> None:
    with pytest.raises(SupernetError, match="ops must name an operation"):
        CellSpace(3, ops)


@pytest.mark.parametrize("choices", [[], [0] * 5, [0] * 7, [0] * 5 + [5], [0] * 5 + [-1]])
def test_operation_numbers_outside_the_space_are_refused(choices: list[int]) -> None:
    with pytest.raises(SupernetError, match="6 operation numbers from 0 to 4"):
        CellSpace().genotype(choices)


def test_a_cell_of_another_space_is_refused_with_the_nearest_name() -> None:
    space = CellSpace(3)
    with pytest.raises(SupernetError, match="cells of 3 nodes, got 4"):
        space.choices(Genotype(("none",) * 6))
    stranger = Genotype(("none", "none", "nor_conv_3x4"))
    with pytest.raises(SupernetError, match=r"'nor_conv_3x4' is no candidate .* did you mean 'nor_conv_3x3'\?"):
        space.neighbours(stranger)
    with pytest.raises(SupernetError, match="nor_conv_3x4"):
        space.mutate(stranger, random.Random(0))


def test_a_space_too_large_to_count_with_len_is_still_a_space() -> None:
    assert CellSpace(8).size == 5**28
    assert CellSpace(8).sample(random.Random(0)) in CellSpace(8)


@pytest.mark.parametrize(
    ("num_nodes", "ops", "sentence"),
    [
        (1, ("a",), "num_nodes must be at least 2"),
        (65, ("a",), "16 nodes at most, got num_nodes=65"),
        (3, ("a b", "c"), "without '|', '~', '\\+' or spaces"),
        (3, ("none",), "an operation other than 'none'"),
        (3, (), "an operation other than 'none'"),
        (3, ("a", "a"), "none twice"),
    ],
)
def test_an_impossible_space_is_refused_when_it_is_named(num_nodes: int, ops: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(SupernetError, match=sentence):
        CellSpace(num_nodes, ops)
