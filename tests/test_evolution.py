"""Evolution over discrete cells: what it may score, and that it finds what selection should find."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from supernet.discrete import evolution, random_cells
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.space import CellSpace, is_connected

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
spaces = st.builds(
    CellSpace,
    st.integers(2, 5),
    st.lists(st.sampled_from(OPS), min_size=1, unique=True).filter(lambda ops: ops != ["none"]).map(tuple),
)


def agreement(target: Genotype) -> dict[Genotype, float]:
    class Table(dict[Genotype, float]):
        def __missing__(self, cell: Genotype) -> float:
            self[cell] = sum(one == other for one, other in zip(cell.ops, target.ops, strict=True))
            return self[cell]

    return Table()


def some_candidates(space: CellSpace, rng: random.Random) -> Tensor:
    """Random candidates, one at least of each edge that is not ``none``, so that there is a connected cell."""
    candidates = torch.tensor([[rng.random() < 0.5 for _ in space.ops] for _ in space.edges])
    for row in candidates:
        row[space.ops.index(rng.choice([op for op in space.ops if op != "none"]))] = True
    return candidates


@settings(deadline=None, max_examples=60)
@given(
    space=spaces,
    seed=st.integers(0, 2**32),
    population=st.integers(1, 12),
    parents=st.integers(1, 12),
    generations=st.integers(1, 5),
    share=st.floats(0, 1),
    probability=st.floats(0, 1),
    exclude_none=st.booleans(),
    restrict=st.booleans(),
)
def test_only_valid_cells_are_scored_never_twice_within_the_budget_and_the_best_returned(
    space: CellSpace,
    seed: int,
    population: int,
    parents: int,
    generations: int,
    share: float,
    probability: float,
    exclude_none: bool,
    restrict: bool,
) -> None:
    candidates = some_candidates(space, random.Random(seed)) if restrict else None

    def search() -> tuple[Genotype, list[Genotype], dict[Genotype, float]]:
        values, scored = agreement(space.sample(random.Random(seed))), []

        def score(cell: Genotype) -> float:
            scored.append(cell)
            return values[cell]

        found = evolution(
            space,
            score,
            random.Random(seed),
            population=population,
            parents=parents,
            num_mutations=int(share * population),
            num_crossovers=population - int(share * population),
            mutation_probability=probability,
            generations=generations,
            exclude_none=exclude_none,
            candidates=candidates,
        )
        return found, scored, values

    found, scored, values = search()
    assert len(scored) == len(set(scored)) <= population * generations
    for cell in scored:
        assert cell in space
        assert is_connected(cell)
        assert not (exclude_none and "none" in cell.ops)
        if candidates is not None:
            assert all(candidates[edge, choice] for edge, choice in enumerate(space.choices(cell)))
    assert found in scored
    assert values[found] == max(values[cell] for cell in scored)
    assert search()[:2] == (found, scored)


@pytest.mark.parametrize(
    "space", [CellSpace(2), CellSpace(3, ("none", "skip_connect")), CellSpace(2, ("none", OPS[1]))]
)
def test_a_space_with_fewer_cells_than_a_population_is_scored_whole(space: CellSpace) -> None:
    scored: list[Genotype] = []
    evolution(space, lambda cell: scored.append(cell) or 0.0, random.Random(0))  # type: ignore[func-returns-value]
    assert len(scored) == len(set(scored))
    assert set(scored) == {cell for cell in space if is_connected(cell)}


def test_a_full_generation_has_its_population_to_the_last_cell() -> None:
    scored: list[Genotype] = []
    evolution(CellSpace(), lambda cell: scored.append(cell) or 0.0, random.Random(0), generations=4)  # type: ignore[func-returns-value]
    assert len(scored) == 200


def test_evolution_finds_a_planted_cell_that_random_search_misses() -> None:
    # One cell of 15,625 in 500: random search finds it once in thirty, selection by the edges that are right always.
    hits = {"evolution": 0, "random": 0}
    for seed in range(10):
        target = CellSpace().sample(random.Random(seed + 100))
        if not is_connected(target):
            continue
        values = agreement(target)
        found = evolution(CellSpace(), values.__getitem__, random.Random(seed), generations=10)
        hits["evolution"] += found == target
        cells = random_cells(CellSpace(), random.Random(seed))
        hits["random"] += max((next(cells) for _ in range(500)), key=values.__getitem__) == target
    assert hits["evolution"] >= 9
    assert hits["random"] <= 2


def test_without_mutation_children_have_edges_of_the_best_parents_only() -> None:
    # Only the first two cells are good, so all children are mixtures of the two.
    scored: list[Genotype] = []

    def score(cell: Genotype) -> float:
        scored.append(cell)
        return float(len(scored) <= 2)

    evolution(
        CellSpace(4, OPS[1:]),
        score,
        random.Random(3),
        population=30,
        parents=2,
        num_mutations=0,
        num_crossovers=5,
        generations=2,
    )
    children = scored[30:35]
    for child in children:
        assert all(op in pair for op, *pair in zip(child.ops, scored[0].ops, scored[1].ops, strict=True))
    assert len(set(children)) == 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"population": 0}, "population must be from 1 to 100,000, got 0"),
        ({"parents": 0}, "parents must be from 1"),
        ({"num_mutations": -1}, "num_mutations must be from 0"),
        ({"population": 20}, "no room for its children"),
        ({"mutation_probability": 1.5}, "mutation_probability must be from 0 to 1, got 1.5"),
        ({"generations": 0}, "generations must be from 1"),
    ],
)
def test_impossible_options_are_named(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(SupernetError, match=sentence):
        evolution(CellSpace(), lambda cell: 0.0, random.Random(0), **options)  # type: ignore[arg-type]


def test_candidates_that_connect_nothing_are_refused() -> None:
    nothing = torch.tensor([[True, False]])
    with pytest.raises(SupernetError, match="no connected cell"):
        evolution(CellSpace(2, ("none", "skip_connect")), lambda cell: 0.0, random.Random(0), candidates=nothing)
