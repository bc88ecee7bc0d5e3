"""Costs in closed form against published figures and against counted networks."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch.utils.flop_counter import FlopCounterMode

from supernet import latency
from supernet.cost import Cost, cost, effective_params, live, operation_costs
from supernet.errors import SupernetError
from supernet.genotype import NAS_BENCH_201_OPS, Genotype
from supernet.latency import operation_latencies, read_table
from supernet.network import Network
from supernet.space import CellSpace

TABLE = Path(__file__).resolve().parents[1].parent / "shared/data/nasbench201/nasbench201_cifar10.csv.gz"
ALL_OPS = (*NAS_BENCH_201_OPS, "nor_conv_5x5", "max_pool_3x3")
DATA_SETS: list[tuple[int, tuple[int, int, int]]] = [(10, (3, 32, 32)), (100, (3, 32, 32)), (120, (3, 16, 16))]
"""Classes and images of CIFAR-10, CIFAR-100 and ImageNet16-120."""

# Million multiply-accumulates and million parameters on the three data sets, by official index. The tool behind the
# published figures also counts each addition of the classifier's bias, one a class, as a multiply-accumulate.
PUBLISHED = {
    1651: [(7.78305, 0.073306), (7.78890, 0.079156), (1.95340, 0.080456)],
    1835: [(7.78305, 0.073306), (7.78890, 0.079156), (1.95340, 0.080456)],
    1462: [(220.11969, 1.531546), (220.12554, 1.537396), (55.03756, 1.538696)],
    11472: [(78.56193, 0.559386), (78.56778, 0.565236), (19.64812, 0.566536)],
    6111: [(153.27297, 1.073466), (153.27882, 1.079316), (38.32588, 1.080616)],
    13714: [(153.27297, 1.073466), (153.27882, 1.079316), (38.32588, 1.080616)],
    9930: [(184.73025, 1.288506), (184.73610, 1.294356), (46.19020, 1.295656)],
    1: [(113.95137, 0.802426), (113.95722, 0.808276), (28.49548, 0.809576)],
    0: [(15.64737, 0.129306), (15.65322, 0.135156), (3.91948, 0.136456)],
}


def published_digits(found: Cost) -> tuple[float, float]:
    return round(found.macs / 1e6, 5), round(found.params / 1e6, 6)


def on_all_data_sets(cell: Genotype) -> list[tuple[float, float]]:
    return [published_digits(cost(cell, num_classes=classes, image_shape=shape)) for classes, shape in DATA_SETS]


def counted(
    genotype: Genotype, channels: int, num_cells: int, num_classes: int, image_shape: tuple[int, int, int]
) -> Cost:
    """What PyTorch counts in the network itself; nothing is computed on the meta device."""
    with torch.device("meta"):
        network = Network(genotype, channels, num_cells, num_classes, image_shape[0]).eval()
        images = torch.empty(1, *image_shape)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(images)
    flops = counter.get_total_flops()
    assert flops % 2 == 0  # it counts the multiplication and the addition
    # PyTorch leaves the bias of the classifier out; the published figures count one accumulation a class.
    return Cost(sum(parameter.numel() for parameter in network.parameters()), flops // 2 + num_classes)


@pytest.mark.parametrize(("index", "rows"), PUBLISHED.items())
def test_costs_on_three_data_sets_are_the_published_ones(index: int, rows: list[tuple[float, float]]) -> None:
    assert on_all_data_sets(Genotype.from_index(index)) == rows


def test_the_cell_of_1x1_convolutions_has_its_published_costs() -> None:
    rows = [(31.37601, 0.241306), (31.38186, 0.247156), (7.85164, 0.248456)]
    assert on_all_data_sets(Genotype(("nor_conv_1x1",) * 6)) == rows


def test_costs_are_linear_in_the_numbers_of_convolutions() -> None:
    for cell in CellSpace():
        threes, ones = cell.ops.count("nor_conv_3x3"), cell.ops.count("nor_conv_1x1")
        found = cost(cell)
        assert found.params == 73_306 + 243_040 * threes + 28_000 * ones
        assert found.macs == 7_783_050 + 35_389_440 * threes + 3_932_160 * ones


def test_costs_agree_with_every_row_of_the_published_table() -> None:
    if not TABLE.exists():
        pytest.skip("the NAS-Bench-201 table is not beside the repository")
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15_625
    for row in rows:
        assert published_digits(cost(Genotype.parse(row["arch"]))) == (float(row["macs_m"]), float(row["params_m"]))


def test_live_parameters_rank_cells_as_is_known() -> None:
    if not TABLE.exists():
        pytest.skip("the NAS-Bench-201 table is not beside the repository")
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        found = {Genotype.parse(row["arch"]): float(row["cifar10_50k_test_200"]) for row in csv.DictReader(file)}
    published, effective = [cost(cell).params for cell in found], [effective_params(cell) for cell in found]
    assert sum(one != other for one, other in zip(published, effective, strict=True)) == 4_250
    taus = [kendalltau(params, list(found.values())).statistic for params in (published, effective)]
    assert [round(tau, 3) for tau in taus] == [0.578, 0.654]


@given(num_nodes=st.integers(2, 6), seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_live_edges_are_those_on_some_path(num_nodes: int, seed: int) -> None:
    cell = CellSpace(num_nodes, ("none", "skip_connect")).sample(random.Random(seed))
    present = [edge for edge, op in cell.edges.items() if op != "none"]
    paths: list[list[tuple[int, int]]] = [[]]
    alive: set[tuple[int, int]] = set()
    while paths:
        path = paths.pop()
        node = path[-1][0] if path else 0
        if node == num_nodes - 1:
            alive.update(path)
        paths += [[*path, edge] for edge in present if edge[1] == node]
    assert [edge for edge, op in live(cell).edges.items() if op != "none"] == [e for e in present if e in alive]


@given(
    num_nodes=st.integers(2, 6),
    ops=st.lists(st.sampled_from(ALL_OPS), min_size=2, unique=True),
    seed=st.integers(0, 10_000),
    channels=st.integers(1, 20),
    num_cells=st.integers(1, 2),
    num_classes=st.integers(2, 130),
    image_shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_closed_form_equals_what_is_counted_in_the_built_network(
    num_nodes: int, ops: list[str], seed: int, channels: int, num_cells: int, num_classes: int,
    image_shape: tuple[int, int, int],
) -> None:  # fmt: skip
    genotype = CellSpace(num_nodes, ops).sample(random.Random(seed))
    shape = (image_shape[0], 4 * image_shape[1], 4 * image_shape[2])
    sizes = (channels, num_cells, num_classes, shape)
    assert cost(genotype, *sizes) == counted(genotype, *sizes)


def test_closed_form_equals_the_count_at_the_published_size() -> None:
    genotype = Genotype.from_index(13714)
    assert cost(genotype) == counted(genotype, 16, 5, 10, (3, 32, 32))


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"num_cells": 0}, "num_cells must be at least 1, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
    ],
)
def test_sizes_too_small_are_refused_in_the_same_words_as_the_network(sizes: Any, sentence: str) -> None:
    genotype = Genotype.from_index(0)
    for build in (cost, Network):
        with pytest.raises(SupernetError) as caught:
            build(genotype, **sizes)
        assert str(caught.value) == sentence


def test_images_without_channels_are_refused() -> None:
    with pytest.raises(SupernetError, match="image_channels must be at least 1, got 0"):
        cost(Genotype.from_index(0), image_shape=(0, 32, 32))


@pytest.mark.parametrize("size", [(30, 32), (32, 30), (0, 32), (32, 0), (2, 4), (-4, 4), (33, 33)])
def test_images_that_cannot_be_halved_twice_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(SupernetError, match=f"must be multiples of 4, .* got {size[0]} x {size[1]}; resize or pad"):
        cost(Genotype.from_index(0), image_shape=(3, *size))


@pytest.mark.parametrize("build", [cost, Network])
def test_an_unknown_operation_is_refused_with_the_nearest_name(build: Any) -> None:
    with pytest.raises(SupernetError, match=r"unknown operation 'nor_conv_7x7': did you mean 'nor_conv_\dx\d'\?"):
        build(Genotype(("nor_conv_7x7",)))


def test_cost_prints_in_millions() -> None:
    assert str(Cost(1_531_546, 220_119_690)) == "1.532 M parameters, 220.12 M MACs"


@given(seed=st.integers(0, 10_000), channels=st.integers(1, 20), num_cells=st.integers(1, 3))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_what_operations_add_makes_up_the_cost_of_any_cell(seed: int, channels: int, num_cells: int) -> None:
    network: dict[str, Any] = {"channels": channels, "num_cells": num_cells, "image_shape": (1, 8, 12)}
    added = dict(zip(ALL_OPS, operation_costs(ALL_OPS, **network), strict=True))
    cell, empty = CellSpace(4, ALL_OPS).sample(random.Random(seed)), Genotype(("none",) * 6)
    for figure in (0, 1):
        assert cost(cell, **network)[figure] - cost(empty, **network)[figure] == sum(
            added[op][figure] for op in cell.ops
        )


def test_a_latency_is_the_sum_over_three_widths_and_all_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def median(op: str, features: torch.Tensor, seconds: float) -> float:
        seen.append((op, tuple(features.shape)))
        return {"skip_connect": 1e-6, "nor_conv_3x3": 1e-3}[op] * features.shape[1]

    monkeypatch.setattr(latency, "_median_seconds", median)
    found = operation_latencies(["none", "skip_connect", "nor_conv_3x3"], 4, 5, (3, 16, 8), batch_size=2)
    assert found == pytest.approx({"none": 0, "skip_connect": 1e-3 * 5 * 28, "nor_conv_3x3": 5 * 28})
    assert seen[1::2] == [("nor_conv_3x3", shape) for shape in ((2, 4, 16, 8), (2, 8, 8, 4), (2, 16, 4, 2))]


def test_measuring_draws_from_no_generator_of_others_and_takes_time(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    found = operation_latencies(NAS_BENCH_201_OPS, 4, 1, (3, 8, 8), batch_size=2, seconds=1e-3)
    assert torch.get_rng_state().equal(state)
    assert list(found) == list(NAS_BENCH_201_OPS)
    assert found.pop("none") == 0
    assert all(ms > 0 for ms in found.values())


def test_the_table_that_is_written_is_the_one_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latency, "_median_seconds", lambda op, features, seconds: len(op) / 1000)
    path = tmp_path / "table.json"
    sizes = ["--channels", "2", "--num_cells", "2", "--image_shape", "3", "8", "8", "--batch_size", "1"]
    latency.main(["--out", str(path), "--device", "cpu", *sizes])
    assert read_table(str(path), NAS_BENCH_201_OPS) == pytest.approx(
        {op: 0 if op == "none" else 6 * len(op) for op in NAS_BENCH_201_OPS}
    )
    assert f"written to {path}" in capsys.readouterr().out
    with pytest.raises(SupernetError, match="unknown operation 'nor_conv_7x7'"):
        latency.main(["--out", str(path), "--ops", "nor_conv_7x7"])
