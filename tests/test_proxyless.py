from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.optim import SGD, Optimizer

from supernet.bilevel import Bilevel
from supernet.genotype import Genotype
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.space import CellSpace
from supernet.strategies import ProxylessNAS
from tests.test_darts import batch
from tests.toy import EMPTY, ToyLoss, planted

WAYS = {"the paper's": ((0.0, 0.999), 0.0), "with momentum and decay": ((0.9, 0.999), 0.1)}


def bound(space: CellSpace | None = None, seed: int = 0, spread: float = 1.0) -> ProxylessNAS:
    search = ProxylessNAS()
    search.bind(space or CellSpace(), seed)
    search.double()
    with torch.no_grad():
        search.logits.mul_(1e3 * spread)
    return search


def slope_of(search: ProxylessNAS, loss: ToyLoss) -> Tensor:
    (slope,) = torch.autograd.grad(search.arch_loss(loss, EMPTY, EMPTY), search.logits)
    return slope


def step(search: ProxylessNAS, loss: ToyLoss, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    search.arch_loss(loss, EMPTY, EMPTY).backward()
    optimizer.step()
    search.after_arch_step()


def test_the_gradient_is_that_of_the_gates_by_the_jacobian_of_a_softmax_of_two() -> None:
    search, slopes = bound(), torch.randn(6, 5, dtype=torch.float64)
    found = slope_of(search, ToyLoss(lambda mixture: (slopes * mixture).sum()))
    for edge, pair in enumerate(search.pair):
        columns = pair.nonzero()[:, 0]
        assert len(columns) == 2
        jacobian = torch.autograd.functional.jacobian(
            lambda logits: logits.softmax(dim=0), search.logits.detach()[edge, columns]
        )
        torch.testing.assert_close(found[edge, columns], slopes[edge, columns] @ jacobian)
    assert found[~search.pair].eq(0).all()
    assert found.abs().sum() > 0.1


def test_the_mean_of_the_gates_is_the_softmax_of_the_two() -> None:
    # So the gradient is that of the mean of a linear loss: in the mean over draws, it is what differences of it say.
    search = bound(CellSpace(2), spread=0.5)
    search.pair = torch.tensor([[True, False, False, True, False]])
    with torch.no_grad():
        counts = sum(search.gates() for _ in range(4000))
    assert isinstance(counts, Tensor)
    pair = search.logits.detach()[0, [0, 3]].softmax(dim=0)
    assert counts[0, [1, 2, 4]].eq(0).all()
    assert chisquare(counts[0, [0, 3]].numpy(), 4000 * pair.numpy(), sum_check=False).pvalue > 1e-4


def test_the_loss_is_asked_for_one_operation_an_edge_with_the_pair_in_support() -> None:
    search, loss = bound(), ToyLoss(torch.sum)
    search.arch_loss(loss, EMPTY, EMPTY)
    ((gates, _, parameters, support),) = loss.calls
    assert parameters is None
    assert support is not None
    assert support.sum(dim=1).tolist() == [2] * 6
    assert sorted(gates.flatten().tolist()) == [0.0] * 24 + [1.0] * 6
    assert gates[~support].eq(0).all()


def test_pairs_come_as_often_as_two_draws_without_replacement() -> None:
    space = CellSpace(2)
    search, loss, counts = bound(space, spread=0.7), ToyLoss(torch.sum), Counter[tuple[int, ...]]()
    for _ in range(3000):
        search.arch_loss(loss, EMPTY, EMPTY)
        counts[tuple(search.pair[0].nonzero()[:, 0].tolist())] += 1
    p = search.probabilities()[0].tolist()
    pairs = list(combinations(range(5), 2))
    expected = [3000 * p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in pairs]
    assert sum(expected) == pytest.approx(3000)
    assert set(counts) <= set(pairs)
    assert chisquare([counts[pair] for pair in pairs], expected, sum_check=False).pvalue > 1e-4


def test_a_path_is_drawn_by_the_softmax_of_the_logits() -> None:
    search = bound(CellSpace(2), spread=0.7)
    counts = sum(search() for _ in range(4000))
    assert isinstance(counts, Tensor)
    assert not counts.requires_grad
    expected = 4000 * search.probabilities()[0]
    assert chisquare(counts[0].numpy(), expected.numpy(), sum_check=False).pvalue > 1e-4


@pytest.mark.parametrize("way", WAYS)
def test_a_step_leaves_the_others_what_they_were_and_as_likely_as_they_were(way: str) -> None:
    search, slopes = bound(), torch.randn(6, 5, dtype=torch.float64)
    loss = ToyLoss(lambda mixture: (slopes * mixture).sum())
    betas, decay = WAYS[way]
    optimizer = search.make_optimizer(0.1, betas, decay)
    for _ in range(20):
        before, likely = search.logits.detach().clone(), search.probabilities()
        step(search, loss, optimizer)
        after, others = search.logits.detach(), ~search.pair
        assert after[others].equal(before[others])
        torch.testing.assert_close(search.probabilities()[others], likely[others], rtol=0, atol=1e-12)
        ratios, ratios_before = (logits[search.pair].view(6, 2).diff(dim=1) for logits in (after, before))
        assert (ratios - ratios_before).abs().median() > 1e-3  # of the two, one has become likelier


@pytest.mark.parametrize("num_ops", [1, 2])
def test_edges_with_a_choice_of_one_or_two_work(num_ops: int) -> None:
    space = CellSpace(4, CellSpace().ops[-num_ops:])
    search, loss = bound(space), ToyLoss(torch.sum)
    optimizer = search.make_optimizer(0.1, (0.0, 0.999), 0.0)
    assert search().sum(dim=1).tolist() == [1] * 6
    before = search.logits.detach().clone()
    step(search, loss, optimizer)
    assert search.pair.all()
    assert search.logits.isfinite().all()
    if num_ops == 1:
        torch.testing.assert_close(search.logits.detach(), before)


def test_an_operation_that_is_no_candidate_is_never_drawn_and_never_moved() -> None:
    search, loss = bound(), ToyLoss(lambda mixture: mixture.square().sum() + mixture[:, 0].sum())
    search.candidates[0] = torch.tensor([False, False, True, False, False])
    search.candidates[1, 2:] = False
    optimizer = search.make_optimizer(0.1, (0.9, 0.999), 0.1)
    before = search.logits.detach().clone()
    for _ in range(30):
        assert search()[~search.candidates].eq(0).all()
        step(search, loss, optimizer)
        assert search.pair[:2].sum(dim=1).tolist() == [1, 2]
        assert not search.pair[~search.candidates].any()
    assert search.logits[~search.candidates].equal(before[~search.candidates])
    torch.testing.assert_close(search.logits[0], before[0])
    assert search.logits.isfinite().all()


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    torch.manual_seed(0)
    network = Supernet(channels=2, num_cells=1, num_classes=4, image_channels=1).double()
    search = bound()
    optimizer = search.make_optimizer(0.1, (0.9, 0.999), 0.1)
    bilevel = Bilevel(network, search, SGD(network.parameters(), 0.1), optimizer, Recorder(torch.device("cpu")), 5.0)
    images, labels = batch(0)
    bilevel.arch_step((images, labels), (images, labels))
    before = search.logits.detach().clone()
    bilevel.arch_step((images, labels), (images * torch.nan, labels))
    assert search.logits.equal(before)
    bilevel.arch_step((images, labels), (images, labels))
    assert not search.logits.equal(before)
    assert search.logits.isfinite().all()


def test_nothing_is_read_from_where_the_logits_lie() -> None:
    # "meta" has no values: whatever would read one there, and make the host wait for an accelerator, raises.
    search = bound().to("meta")
    assert search().device.type == "meta"
    loss = ToyLoss(torch.sum)
    search.arch_loss(loss, EMPTY, EMPTY).backward()
    search.after_arch_step()
    assert loss.calls[0][3] is None


def test_a_planted_cell_is_found() -> None:
    cell = Genotype.from_index(6111)
    search = bound(seed=1, spread=1e-3)
    optimizer = search.make_optimizer(0.1, (0.0, 0.999), 0.0)
    for _ in range(300):
        step(search, planted(cell), optimizer)
    assert search.derive(lambda genotype: 0.0) == cell
