from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import supernet.network
from supernet.errors import SupernetError
from supernet.mixed import Plan, make_plan
from supernet.module import SearchModule
from supernet.network import Supernet
from supernet.ops import CONVOLUTIONS
from supernet.partial import PartialCell, bypassed, with_bypass
from supernet.space import CellSpace
from supernet.strategies import DARTS
from tests.test_bilevel import plan_densely
from tests.test_mixed import SPACES, mixtures
from tests.textbook import textbook_op

Way = Callable[[PartialCell, Tensor, Plan], Tensor]


def shuffle(features: Tensor, groups: int) -> Tensor:
    return nn.ChannelShuffle(groups)(features.contiguous())


def textbook_partial_cell(cell: PartialCell, space: CellSpace, inputs: Tensor, mixture: Tensor) -> Tensor:
    """Every edge by itself, as published: divide, mix one part, bypass with the rest, shuffle, then weigh the edge."""
    nodes = [inputs]
    for target in range(1, space.num_nodes):
        node = torch.zeros_like(inputs)
        for source in range(target):
            row = mixture[space.edges.index((target, source))]
            width = inputs.shape[1] // cell.parts
            mixing, passing = nodes[source][:, :width], nodes[source][:, width:]
            mixed = torch.zeros_like(mixing)
            for coefficient, op in zip(row, space.ops, strict=True):
                kernel = cell.edge_weight(op, target, source) if op in CONVOLUTIONS else None
                mixed = mixed + coefficient * textbook_op(op, mixing, kernel)
            node = node + shuffle(torch.cat([mixed, row.sum() * passing], dim=1), cell.parts)
        nodes.append(node)
    return nodes[-1]


def textbook(network: Supernet, images: Tensor, mixture: Tensor) -> Tensor:
    features = network.stem(images)
    for block in network.blocks:
        if isinstance(block, PartialCell):
            features = textbook_partial_cell(block, network.space, features, mixture)
        else:
            features = block(features)
    logits: Tensor = network.head(features)
    return logits


def logits_and_gradients(network: Supernet, logits: Tensor, labels: Tensor, mixture: Tensor) -> list[Tensor]:
    network.zero_grad()
    F.cross_entropy(logits, labels).backward()
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]
    return [logits.detach(), *slopes, torch.zeros_like(mixture) if mixture.grad is None else mixture.grad]


@pytest.mark.parametrize("kind", ["dense", "one-hot", "with zeros"])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: f"{space.num_nodes} nodes, {space.num_ops} operations")
@pytest.mark.parametrize(("parts", "channels"), [(3, 3), (2, 4)])
def test_logits_and_all_gradients_equal_the_textbook(space: CellSpace, kind: str, parts: int, channels: int) -> None:
    torch.manual_seed(parts)
    network = Supernet(space, channels, num_cells=1, num_classes=4, image_channels=2, partial_channels=parts).double()
    images, labels = torch.randn(4, 2, 8, 8, dtype=torch.float64), torch.randint(4, (4,))
    results = []
    for forward in (network, lambda images, mixture: textbook(network, images, mixture)):
        mixture = mixtures(space, kind, parts).requires_grad_()
        *found, slope = logits_and_gradients(network, forward(images, mixture), labels, mixture)
        # As ever, what does not run on the host has no gradient.
        results.append([*found, slope * (mixture.detach() != 0)])
    for fused, expected in zip(*results, strict=True):
        torch.testing.assert_close(fused, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["one-hot", "with zeros"])
def test_on_an_accelerator_and_by_a_support_the_gradient_is_exact_at_zeros_too(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    space = CellSpace()
    network = Supernet(space, 4, 1, 4, 2, partial_channels=2).double()
    images, labels = torch.randn(4, 2, 8, 8, dtype=torch.float64), torch.randint(4, (4,))
    mixture = mixtures(space, kind, 1).requires_grad_()
    expected = logits_and_gradients(network, textbook(network, images, mixture), labels, mixture)
    mixture = mixtures(space, kind, 1).requires_grad_()
    everything = torch.ones(mixture.shape, dtype=torch.bool)
    by_support = logits_and_gradients(network, network(images, mixture, everything), labels, mixture)
    for fused, textbook_value in zip(by_support, expected, strict=True):
        torch.testing.assert_close(fused, textbook_value, rtol=1e-9, atol=1e-10)
    monkeypatch.setattr(supernet.network, "make_plan", plan_densely)
    dense = network(images, mixtures(space, kind, 1))
    torch.testing.assert_close(dense, expected[0], rtol=1e-9, atol=1e-10)


def test_both_ways_through_the_cell_are_taken_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, images = Supernet(channels=4, num_cells=1, partial_channels=2).double(), torch.randn(3, 3, 8, 8).double()
    mixture, taken = torch.rand(6, 5, dtype=torch.float64), []
    for way in ("_side_by_side", "_one_by_one"):
        original: Way = getattr(PartialCell, way)

        def note(cell: PartialCell, inputs: Tensor, plan: Plan, way: str = way, original: Way = original) -> Tensor:
            taken.append(way)
            return original(cell, inputs, plan)

        monkeypatch.setattr(PartialCell, way, note)
    together = network(images, mixture)
    assert set(taken) == {"_side_by_side"}
    monkeypatch.setattr(PartialCell, "_side_by_side", PartialCell._one_by_one)
    torch.testing.assert_close(network(images, mixture), together, rtol=1e-10, atol=1e-11)
    assert taken[-1] == "_one_by_one"


def test_the_channels_that_are_not_mixed_pass_an_edge_that_is_none() -> None:
    space = CellSpace(2, ("none", "skip_connect"))
    cell, inputs = PartialCell(space, 6, 3), torch.randn(2, 6, 4, 4)
    mixture, support = with_bypass(torch.tensor([[1.0, 0.0]]), None)
    nothing = torch.zeros(2, 4, 4)
    passed = [inputs[:, channel] for channel in range(2, 6)]
    expected = torch.stack([nothing, passed[0], passed[2], nothing, passed[1], passed[3]], dim=1)
    assert cell(inputs, make_plan(bypassed(space), mixture, inputs, support)).equal(expected)


def test_a_cell_that_is_cut_off_gives_zeros_and_lets_no_nan_through() -> None:
    space, inputs = CellSpace(), torch.full((2, 4, 4, 4), torch.nan)
    mixture = torch.rand(6, 5)
    mixture[3:] = 0  # nothing at all leads to the output
    mixture, support = with_bypass(mixture, None)
    plan = make_plan(bypassed(space), mixture, inputs, support)
    assert PartialCell(space, 4, 2)(inputs, plan).equal(torch.zeros(2, 4, 4, 4))


def test_convolutions_are_as_much_cheaper_as_published() -> None:
    costs = []
    for parts in (1, 2, 4):
        network = Supernet(channels=8, num_cells=2, partial_channels=parts).to("meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(2, 3, 16, 16, device="meta"), torch.rand(6, 5))
        costs.append(counter.get_total_flops())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(2, 3, 16, 16, device="meta"), network.one_hot(network.space.genotype([1] * 6)))
    cells = [cost - counter.get_total_flops() for cost in costs]
    assert cells[0] == 4 * cells[1] == 16 * cells[2] > 0


def test_without_partial_channels_nothing_is_planned_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    spaces = []

    def plan(space: CellSpace, *args: Tensor) -> Plan:
        spaces.append(space)
        return make_plan(space, *args)

    monkeypatch.setattr(supernet.network, "make_plan", plan)
    network = Supernet(channels=4, num_cells=1)
    network(torch.randn(2, 3, 8, 8), torch.rand(6, 5))
    assert spaces == [network.space]
    assert not any(isinstance(module, PartialCell) for module in network.modules())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_the_features_stays_that_of_the_network(layout: torch.memory_format) -> None:
    network = Supernet(channels=8, num_cells=1, partial_channels=2)
    seen: list[Tensor] = []
    network.blocks[1].register_forward_pre_hook(lambda module, args: seen.extend(args))
    network(torch.randn(2, 3, 8, 8).to(memory_format=layout), torch.rand(6, 5))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("channels", "parts"), [(6, 4), (3, 2), (4, 0), (4, -2), (2, 4)])
def test_channels_that_cannot_be_divided_are_refused(channels: int, parts: int) -> None:
    with pytest.raises(SupernetError, match=rf"multiple of partial_channels, .* got {channels} and {parts}"):
        SearchModule(DARTS(), channels, 1, partial_channels=parts)


def test_nothing_can_be_inherited_from_operations_with_fewer_channels() -> None:
    network = Supernet(channels=4, num_cells=1, partial_channels=2)
    with pytest.raises(SupernetError, match=r"inherit .* partial_channels=2, .* train it from scratch"):
        network.inherit(network.space.genotype([1] * 6))
