"""The table: against brute force over its figures, and the published facts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from supernet.benchmark import NUM_CELLS, Column, TabularBenchmark, open_table
from supernet.errors import SupernetError
from supernet.genotype import NAS_BENCH_201_OPS, Genotype, edge_list

TABLE = Path(__file__).resolve().parents[1].parent / "shared/data/nasbench201/nasbench201_cifar10.csv.gz"
VALID, TEST = Column.searched("cifar10"), Column.reported("cifar10")
SECONDS, PASS = (Column("cifar10", "25k", measure, 200) for measure in ("seconds", "valid-seconds"))
CELL = Genotype.from_index(7)


def filled(first: NDArray[np.float64], rest: float = 50.0) -> NDArray[np.float64]:
    """A column whose first cells have these figures, and all others the same."""
    return np.concatenate([first, np.full((NUM_CELLS - len(first), *first.shape[1:]), rest)])


FIGURES = st.integers(0, 400).map(lambda quarter: quarter / 4) | st.just(float("nan"))
REPEATS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(FIGURES, min_size=width, max_size=width), min_size=1, max_size=12)
)


# 60 tables of up to 12 cells with figures of their own, among many with the same figure.
@given(REPEATS)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_means_and_places_are_those_by_hand(rows: list[list[float]]) -> None:
    table = TabularBenchmark({str(TEST): filled(np.array(rows))})
    means = [float(np.mean([x for x in row if x == x] or np.nan)) for row in rows]
    np.testing.assert_allclose(table.values(TEST)[: len(rows)], means, atol=5.1e-5)
    every = [*(mean for mean in means if mean == mean), *[50.0] * (NUM_CELLS - len(rows))]
    for index, mean in enumerate(means):
        cell = Genotype.from_index(index)
        if mean != mean:
            with pytest.raises(SupernetError, match=f"no cifar10_50k_test_200 of cell {index}"):
                table.place(cell, TEST)
            continue
        place = table.place(cell, TEST)
        assert place.accuracy == table.accuracy(cell) == pytest.approx(mean, abs=5.1e-5)
        assert place.rank == 1 + sum(other > mean + 1e-4 for other in every)
        assert place.regret == pytest.approx(max(every) - mean, abs=1.1e-4)
    best = table.best(TEST)
    assert table.place(best, TEST)[1:] == (1, 0)


@given(st.lists(st.integers(0, 10_000), min_size=3, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_order_of_repeats_decides_nothing(hundredths: list[int], rng: random.Random) -> None:
    row = [number / 100 for number in hundredths]
    table = TabularBenchmark({str(TEST): filled(np.array([row, rng.sample(row, 3)]), 0)})
    assert table.place(Genotype.from_index(0), TEST) == table.place(Genotype.from_index(1), TEST)


def test_a_generator_draws_each_training_that_is_there_and_no_other() -> None:
    figures = np.full((NUM_CELLS, 4), np.nan)
    figures[7, [1, 3]] = 20, 40
    table = TabularBenchmark({str(TEST): figures})
    rng = random.Random(0)
    drawn = [table.accuracy(CELL, repeat=rng) for _ in range(400)]
    assert set(drawn) == {20, 40}
    assert 160 < drawn.count(20) < 240  # four standard deviations
    again = random.Random(0)
    assert [table.accuracy(CELL, repeat=again) for _ in range(400)] == drawn
    assert table.accuracy(CELL) == 30
    with pytest.raises(SupernetError, match="cell 8"):
        table.accuracy(Genotype.from_index(8), repeat=rng)
    with pytest.raises(SupernetError, match="repeat=0"):
        table.accuracy(CELL, repeat=0)


def test_what_a_search_is_told_is_of_one_training() -> None:
    cells = np.arange(NUM_CELLS)[:, None] / NUM_CELLS
    columns = {
        str(column): cells + scale * np.arange(1, 4) for column, scale in ((VALID, 10), (SECONDS, 1000), (PASS, 1))
    }
    table = TabularBenchmark(columns)
    part = 7 / NUM_CELLS
    rng, seen = random.Random(1), set()
    for _ in range(40):
        answer = table.trained(CELL, repeat=rng)
        number = round(answer.accuracy - part) // 10
        assert answer.seconds == pytest.approx(1001 * number + 2 * part)
        assert answer.epochs == 200
        seen.add(number)
    assert seen == {1, 2, 3}
    assert table.trained(CELL, repeat=1).seconds == pytest.approx(2002 + 2 * part)
    assert table.trained(CELL).seconds == pytest.approx(2002 + 2 * part)
    assert table.training_time(CELL, repeat=0) == pytest.approx(1000 + part)
    assert np.isnan(TabularBenchmark({str(VALID): columns[str(VALID)]}).trained(CELL).seconds)


CELLS = st.lists(st.sampled_from(NAS_BENCH_201_OPS), min_size=6, max_size=6).map(lambda ops: Genotype(tuple(ops)))


@given(CELLS)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_costs_are_the_published_ones(cell: Genotype) -> None:
    table = TabularBenchmark({str(TEST): np.zeros(NUM_CELLS)})
    n3, n1 = cell.ops.count("nor_conv_3x3"), cell.ops.count("nor_conv_1x1")
    params = 73_306 + 243_040 * n3 + 28_000 * n1
    assert table.cost(cell) == (params, 7_783_050 + 35_389_440 * n3 + 3_932_160 * n1)
    assert table.cost(cell, "cifar100").params == params + 5_850
    assert table.cost(cell, "imagenet16-120") == (params + 7_150, 1_953_400 + 8_847_360 * n3 + 983_040 * n1)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [(TEST, 100.5, "an accuracy is 0 to 100"), (VALID, -1, "holds -1"), (SECONDS, -1, "a time is finite"),
     (PASS, np.inf, "holds inf"), (TEST, np.inf, "holds inf")],
)  # fmt: skip
def test_what_is_no_figure_is_refused_with_its_column(column: Column, value: float, message: str) -> None:
    table = TabularBenchmark({str(column): filled(np.array([1.0, value]), 1.0)}, "mine")
    with pytest.raises(SupernetError, match=f"column {column} of mine.*{message}|{message}"):
        table.value(CELL, column)


@pytest.mark.parametrize("shape", [(5,), (NUM_CELLS, 0), (NUM_CELLS, 1, 1), ()])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    table = TabularBenchmark({str(TEST): np.zeros(shape)})
    with pytest.raises(SupernetError, match="must have shape"):
        table.accuracy(CELL)


def test_what_is_not_in_the_table_is_refused() -> None:
    table = TabularBenchmark({str(TEST): np.full(NUM_CELLS, np.nan)}, "mine")
    for ask, message in (
        (lambda: table.accuracy(Genotype(("none",))), "is none of them"),
        (lambda: table.accuracy(CELL), "mine has no cifar10_50k_test_200 of cell 7"),
        (lambda: table.accuracy(CELL, repeat=0), "has only means"),
        (lambda: table.validation_accuracy(CELL), "mine has no column"),
        (lambda: table.best(TEST), "mine has no figure in column"),
        (lambda: TabularBenchmark({"accuracy": np.zeros(NUM_CELLS)}), "no column 'accuracy'"),
    ):
        with pytest.raises(SupernetError, match=message):
            ask()
    repeats = TabularBenchmark({str(TEST): np.zeros((NUM_CELLS, 2))})
    for repeat in (-1, 2):
        with pytest.raises(SupernetError, match=r"the number of a training of .*, 0 to 1"):
            repeats.accuracy(CELL, repeat=repeat)


def connected(cell: Genotype) -> bool:
    """Whether a path of operations leads from the input to the output."""
    reached = {0}
    for (target, source), op in zip(edge_list(4), cell.ops, strict=True):
        if op != "none" and source in reached:
            reached.add(target)
    return 3 in reached


@pytest.mark.skipif(not TABLE.is_file(), reason="the published table is not here")
def test_published_facts() -> None:
    table = open_table(TABLE)
    values = table.values(TEST)
    assert np.flatnonzero(values == values.max()).tolist() == [6111, 13714]
    assert table.best(TEST).index == table.best(VALID).index == 6111
    assert table.place(Genotype.from_index(13714), TEST) == pytest.approx((94.373, 1, 0), abs=5e-4)
    assert table.value(Genotype.from_index(6111), VALID) == pytest.approx(91.607, abs=5e-4)
    cut = [index for index in range(NUM_CELLS) if not connected(Genotype.from_index(index))]
    assert len(cut) == 341
    assert set(values[cut]) == {10.0}


@pytest.mark.skipif(not TABLE.is_file(), reason="the published table is not here")
def test_published_costs() -> None:
    names = np.genfromtxt(TABLE, delimiter=",", names=True, usecols=(0, 2, 3), max_rows=2_000)
    table = open_table(TABLE)
    for row in names:
        cost = table.cost(Genotype.from_index(int(row["index"])))
        assert cost == (round(row["params_m"] * 1e6), round(row["macs_m"] * 1e6))


def test_nobody_can_change_a_table_by_what_it_hands_out() -> None:
    table = TabularBenchmark({str(TEST): filled(np.array([[90.0, 91.0]])), str(VALID): np.full(NUM_CELLS, 80.0)})
    for figures in (table.values(TEST), table.figures(TEST), table.values(VALID)):
        with pytest.raises(ValueError, match="read-only"):
            figures.sort()


def test_the_cost_of_a_training_where_not_all_times_are_known() -> None:
    """Times that are means belong to every training; one whose time is missing has no cost, and no part in a mean."""
    figures = {str(VALID): [10.0, 20, 30], str(SECONDS): [100.0, 1000, 1000], str(PASS): [1.0, np.nan, np.nan]}
    table = TabularBenchmark({name: np.tile(row, (NUM_CELLS, 1)) for name, row in figures.items()})
    assert table.trained(CELL) == (20, 101, 200)
    assert table.trained(CELL, repeat=0) == (10, 101, 200)
    assert np.isnan(table.trained(CELL, repeat=1).seconds)
    means = {name: np.full(NUM_CELLS, seconds) for name, seconds in ((str(SECONDS), 50.0), (str(PASS), 2.0))}
    table = TabularBenchmark({str(VALID): np.tile(figures[str(VALID)], (NUM_CELLS, 1)), **means})
    assert table.trained(CELL, repeat=2) == (30, 52, 200)
    assert table.trained(CELL, repeat=random.Random(0)).seconds == 52


@pytest.mark.parametrize("repeat", ["max", None, 1.0, True, -1, 3])
def test_what_names_no_training_is_refused(repeat: Any) -> None:
    table = TabularBenchmark({str(TEST): np.zeros((NUM_CELLS, 3))})
    with pytest.raises(SupernetError, match=r"the number of a training of cifar10_50k_test_200, 0 to 2, got"):
        table.accuracy(CELL, repeat=repeat)
    assert table.accuracy(CELL, repeat=np.int64(1)) == 0  # type: ignore[arg-type]
