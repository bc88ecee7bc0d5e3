from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from supernet.bilevel import SupernetLoss
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.space import CellSpace
from supernet.strategies import DARTS, PCDARTS
from tests.toy import EMPTY, ToyLoss

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "max_pool_3x3")


def bound(space: CellSpace | None = None, seed: int = 0, scale: float = 2.0) -> PCDARTS:
    """A strategy in float64 whose logits are as far apart as after a search."""
    search = PCDARTS()
    search.bind(space or CellSpace(), seed)
    search.double()
    with torch.no_grad():
        for parameter in search.parameters():
            parameter.mul_(1000 * scale)
    return search


spaces = st.builds(lambda nodes, ops: CellSpace(nodes, OPS[1 : 1 + ops]), st.integers(2, 6), st.integers(1, 5))


@given(space=spaces, seed=st.integers(0, 1000), scale=st.floats(0, 5))
def test_rows_sum_to_shares_and_the_shares_into_each_node_to_one(space: CellSpace, seed: int, scale: float) -> None:
    search = bound(space, seed, scale)
    mixture, into = search().detach(), torch.zeros(space.num_nodes, dtype=torch.float64)
    for (target, _), row, logit in zip(space.edges, mixture, search.edge_logits.detach(), strict=True):
        rivals = [other for (node, _), other in zip(space.edges, search.edge_logits, strict=True) if node == target]
        share = logit.exp() / sum(other.detach().exp() for other in rivals)
        torch.testing.assert_close(row.sum(), share)
        into[target] += row.sum()
    torch.testing.assert_close(into[1:], torch.ones(space.num_nodes - 1, dtype=torch.float64))
    assert (mixture >= 0).all()


def test_the_mixture_has_exact_gradients_in_both_kinds_of_logits() -> None:
    search = bound()

    def mixture(logits: Tensor, edge_logits: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(search, {"logits": logits, "edge_logits": edge_logits}, ())
        return found

    assert torch.autograd.gradcheck(mixture, (search.logits, search.edge_logits))


def test_what_is_no_candidate_any_more_is_left_out_and_gets_no_gradient() -> None:
    search = bound()
    search.candidates[1, 2:] = False
    mixture = search()
    assert mixture[1, 2:].equal(torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(mixture[1].sum(), search.shares()[1])
    (mixture.square().sum()).backward()
    assert search.logits.grad is not None
    assert search.logits.grad[1, 2:].equal(torch.zeros(3, dtype=torch.float64))
    assert search.edge_logits.grad is not None
    assert search.edge_logits.grad[1:].abs().min() > 0  # the first edge alone leads to the first node


def test_the_cell_is_the_one_with_the_largest_products_of_operation_and_share() -> None:
    for seed in range(20):
        search = bound(CellSpace(4, OPS[1:]), seed)
        assert search.space.choices(search.derive(lambda genotype: 0.0)) == tuple(search().argmax(dim=1).tolist())


def test_shares_are_learned_where_operations_are_equal() -> None:
    # All operations of the edge 3<-1 are good and those of 3<-0 bad: nothing tells operations apart, so the logits
    # of operations stay where they are.
    search = bound(scale=0)
    worth = torch.zeros(6, 5, dtype=torch.float64)
    worth[4], worth[3] = 1, -1
    loss = search.arch_loss(ToyLoss(lambda mixture: -(worth * mixture).sum()), EMPTY, EMPTY)
    assert loss is not None
    loss.backward()
    assert search.logits.grad is not None
    assert search.logits.grad.abs().max() < 1e-15
    expected = torch.tensor([0, 0, 0, 1 / 3, -1 / 3, 0], dtype=torch.float64)
    torch.testing.assert_close(search.edge_logits.grad, expected)


def test_the_shares_count_for_the_channels_that_bypass() -> None:
    # The gradient of the shares through the real network, by differences: with one channel in two mixed.
    torch.manual_seed(0)
    search, network = bound(scale=0.5), Supernet(channels=4, num_cells=1, num_classes=3, partial_channels=2).double()
    loss = SupernetLoss(network, torch.optim.SGD(network.parameters(), 0.1), Recorder(torch.device("cpu")))
    val = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = search.arch_loss(loss, val, val)
    assert found is not None
    (slope,) = torch.autograd.grad(found, search.edge_logits)
    for edge in range(1, 6):
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                search.edge_logits[edge] += step
                ends.append(float(loss(search(), val)))
                search.edge_logits[edge] -= step
        assert slope[edge] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_both_kinds_of_logits_begin_near_zero_and_are_learned_and_saved() -> None:
    search, darts = PCDARTS(), DARTS()
    search.bind(CellSpace(), 3)
    darts.bind(CellSpace(), 3)
    assert search.logits.equal(darts.logits)
    assert 1e-4 < search.edge_logits.std() < 1e-2
    assert {"logits", "edge_logits"} <= set(search.state_dict())
