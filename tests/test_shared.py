"""Many cells at once: the same accuracies as one by one, and the work that is saved, counted."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import supernet.shared
from supernet.cost import live
from supernet.descent import right_answers
from supernet.genotype import ZERO, Genotype
from supernet.network import Supernet
from supernet.ops import CONVOLUTIONS
from supernet.recalibration import recalibrated
from supernet.shared import shared_accuracies
from supernet.space import CellSpace
from supernet.split import Partition, Split, SplitSupernet

SMALL = CellSpace(4, ("none", "nor_conv_3x3", "avg_pool_3x3"))
"""729 cells of all kinds."""

Batches = list[tuple[Tensor, Tensor]]


def images(num_batches: int = 2, size: int = 11) -> Batches:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(size + number, 1, 8, 8, dtype=torch.float64, generator=generator),
            torch.randint(3, (size + number,), generator=generator),
        )
        for number in range(num_batches)
    ]


def make(space: CellSpace, partial_channels: int = 1) -> Supernet:
    torch.manual_seed(1)
    return Supernet(space, 4, 1, num_classes=3, image_channels=1, partial_channels=partial_channels).double()


@torch.no_grad()
def one_by_one(supernet: Supernet, cells: list[Genotype], batches: Batches) -> dict[Genotype, float]:
    """What `SearchModule.score` does for one cell."""
    found = {}
    for cell in cells:
        right = sum(int(right_answers(supernet(x, supernet.one_hot(cell)), y)) for x, y in batches)
        found[cell] = right / sum(len(y) for _, y in batches)
    return found


def drawn(space: CellSpace, count: int) -> list[Genotype]:
    rng = random.Random(0)
    return list({space.sample(rng): None for _ in range(count)})


@pytest.mark.parametrize("space", [SMALL, CellSpace(3), CellSpace(5), CellSpace(2)], ids=["small", "3", "5", "2"])
def test_each_cell_has_the_accuracy_that_it_has_alone(space: CellSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernet.shared, "CHUNK", 13)  # so that there are several, and the last is shorter
    cells = drawn(space, 60)
    network, batches = make(space), images()
    found = list(shared_accuracies(network, cells, batches))
    assert len(found) == len(cells)
    assert dict(found) == one_by_one(network, cells, batches)
    assert len(set(dict(found).values())) > 1


def test_the_logits_are_those_of_the_whole_network() -> None:
    network, ((batch, _), *_) = make(CellSpace()), images()
    cells = sorted(drawn(CellSpace(), 40), key=CellSpace().choices)
    with torch.no_grad():
        for cell, logits in zip(cells, supernet.shared._answers(network, cells, batch), strict=True):
            torch.testing.assert_close(logits, network(batch, network.one_hot(cell)), rtol=0, atol=1e-11)


def test_cells_may_come_in_any_order() -> None:
    # Prefixes are kept from one cell to the next: this one tells whether ever too long.
    network, ((batch, _), *_) = make(CellSpace()), images()
    cells = drawn(CellSpace(), 40)
    with torch.no_grad():
        for cell, logits in zip(cells, supernet.shared._answers(network, cells, batch), strict=True):
            torch.testing.assert_close(logits, network(batch, network.one_hot(cell)), rtol=0, atol=1e-11)


def test_cells_with_statistics_of_their_own() -> None:
    network, batches = make(SMALL), images()
    calibration = [batch + 1 for batch, _ in images(3, 7)]
    cells = drawn(SMALL, 15)
    found = dict(shared_accuracies(network, cells, batches, calibration))
    for cell in cells:
        alone = recalibrated(network, cell, calibration)
        right = sum(int(right_answers(alone(x), y)) for x, y in batches)
        assert found[cell] == right / sum(len(y) for _, y in batches)
    assert found != dict(shared_accuracies(network, cells, batches))


def test_a_partial_supernet_has_no_edge_that_counts_for_nothing() -> None:
    network, batches = make(SMALL, partial_channels=2), images()
    cells = drawn(SMALL, 40)
    found = dict(shared_accuracies(network, cells, batches))
    assert found == one_by_one(network, cells, batches)
    equal = [(a, b) for a in cells for b in cells if a != b and live(a) == live(b)]
    assert any(found[a] != found[b] for a, b in equal)


def test_a_split_supernet_answers_by_the_part_of_each_cell() -> None:
    torch.manual_seed(1)
    network = SplitSupernet(Split(1, edge=2), SMALL, channels=4, num_cells=1, num_classes=3, image_channels=1).double()
    cells, batches = drawn(SMALL, 60), images()
    together = dict(shared_accuracies(network, cells, batches))
    assert together == one_by_one(network, cells, batches)
    network.split(Partition(2, (0, 1, 2)), torch.optim.SGD(network.parameters(), 0.1))
    for number, part in enumerate(network.others):
        torch.manual_seed(10 + number)
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter)
    found = dict(shared_accuracies(network, cells, batches))
    assert found == one_by_one(network, cells, batches)
    # An edge that counts for nothing still says which part has the cell.
    equal = [(a, b) for a in cells for b in cells if a != b and live(a) == live(b)]
    assert any(found[a] != found[b] for a, b in equal)


def test_under_autocast_they_are_those_of_the_whole_network_under_autocast() -> None:
    network, ((batch, _), *_) = make(CellSpace()).float(), images()
    cells = drawn(CellSpace(), 15)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for cell, logits in zip(cells, supernet.shared._answers(network, cells, batch.float()), strict=True):
            assert logits.dtype == torch.bfloat16
            torch.testing.assert_close(logits, network(batch.float(), network.one_hot(cell)), rtol=0.05, atol=0.1)


class Convolutions(TorchDispatchMode):
    """Counts the multiply-accumulates of convolutions and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.macs += outputs.numel() * args[1][0].numel()
        elif func is torch.ops.aten.addmm.default:
            self.macs += outputs.numel() * args[1].shape[1]
        return outputs


def multiply_accumulates(run: Callable[[], object]) -> int:
    with Convolutions() as counter:
        run()
    return counter.macs


def test_the_work_is_the_stem_the_prefixes_and_what_follows_once_for_each_different_cell() -> None:
    # One batch, and all cells in one chunk. A convolution costs the same in every stage.
    space = CellSpace(4, ("none", "nor_conv_3x3"))
    network, cells, (batch, labels) = make(space), list(space), images(1)[0]
    pixels, channels = 64 * len(labels), 4
    edge = pixels * channels * channels * 9
    stem = pixels * channels * 9
    reductions = sum(
        pixels // 4**stage * (9 * wide * wide // 2 + 9 * wide * wide + wide * wide // 2)
        for stage, wide in ((1, 2 * channels), (2, 4 * channels))
    )
    fixed = reductions + len(labels) * 4 * channels * 3  # and the classifier
    different = {live(cell) for cell in cells}
    convolutions = sum(op in CONVOLUTIONS for cell in different for op in cell.ops)
    # What an operation makes of a node is the same for all cells with the same live edges into this and earlier nodes.
    outputs = {
        (target, source, tuple(op for (t, _), op in cell.edges.items() if t <= source))
        for cell in different
        for (target, source), op in cell.edges.items()
        if op in CONVOLUTIONS
    }
    assert len(different) < supernet.shared.CHUNK
    spent = multiply_accumulates(lambda: list(shared_accuracies(network, cells, [(batch, labels)])))
    assert spent == stem + edge * len(outputs) + len(different) * fixed + 2 * edge * convolutions
    alone = multiply_accumulates(lambda: one_by_one(network, cells, [(batch, labels)]))
    assert alone == len(cells) * (stem + fixed) + 3 * edge * sum(
        op in CONVOLUTIONS for cell in cells for op in live(cell).ops
    )
    assert spent < 0.5 * alone


def test_of_the_whole_space_two_fifths_are_not_run() -> None:
    assert len({live(cell) for cell in CellSpace()}) == 9_445
    assert sum(op == ZERO for op in live(Genotype((ZERO,) * 6)).ops) == 6


def test_nothing_changes_and_nothing_is_drawn() -> None:
    network = make(SMALL)
    before, state = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
    for calibration in ([], [images()[0][0]]):
        list(shared_accuracies(network, drawn(SMALL, 5), images(), calibration))
    assert torch.get_rng_state().equal(state)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
