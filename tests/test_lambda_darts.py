from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import SGD

import supernet.network
from supernet.bilevel import Bilevel
from supernet.errors import SupernetError
from supernet.network import Supernet
from supernet.replay import WARM_UP, Recorder
from supernet.space import CellSpace
from supernet.strategies import DARTS, Batch, LambdaDARTS
from supernet.strategies.lambda_darts import alignment
from tests.soft_graph import SoftGraph
from tests.test_bilevel import plan_densely
from tests.test_few_shot import batch

HOST = torch.device("cpu")


def made(weight: float, epoch: int = 4, lr: float = 0.1) -> tuple[Supernet, LambdaDARTS, Bilevel]:
    """A network in float64 that has been trained a little, in the last of five epochs."""
    torch.manual_seed(0)
    network = Supernet(channels=2, num_cells=1, num_classes=4, image_channels=1).double()
    search = LambdaDARTS(weight)
    search.bind(network.space, 7)
    search.double()
    search.depth = network.depth
    with torch.no_grad():
        search.logits.mul_(500)
    optimizer = SGD(network.parameters(), lr)
    search.start_epoch(epoch, 5)
    return network, search, Bilevel(network, search, optimizer, None, Recorder(HOST), 1e9)


def gradients_by_cell(network: Supernet, search: LambdaDARTS, train: Batch) -> Tensor:
    cells = search().detach().repeat(network.depth, 1, 1).requires_grad_()
    loss = F.cross_entropy(network(train[0], cells), train[1])
    (slopes,) = torch.autograd.grad(loss, cells, create_graph=True)
    return slopes


def test_a_step_of_the_network_descends_the_loss_less_the_weighted_alignment() -> None:
    network, search, bilevel = made(0.5)
    train, oracle = batch(3), copy.deepcopy(network)
    loss = F.cross_entropy(oracle(train[0], search().detach()), train[1])
    slopes = gradients_by_cell(oracle, search, train)
    pairs = [F.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in itertools.combinations(slopes, 2)]
    harmony = torch.stack(pairs).mean()
    without, own = (torch.autograd.grad(what, [*oracle.parameters()], retain_graph=True, allow_unused=True,
                                        materialize_grads=True) for what in (loss, harmony))  # fmt: skip
    bilevel.step(train, train)
    shares = []
    for parameter, old, g, h in zip(network.parameters(), oracle.parameters(), without, own, strict=True):
        found = (old - parameter) / 0.1
        torch.testing.assert_close(found, g - 0.5 * h, rtol=1e-5, atol=1e-6)
        shares.append(float((0.5 * h).norm() / g.norm()))
    assert max(shares) > 0.05  # the alignment is felt
    assert float(search.get_buffer("alignment")) == pytest.approx(harmony.item())


def test_cells_that_are_made_to_agree_agree_more() -> None:
    found = []
    for weight in (0.0, 1.0):
        network, search, bilevel = made(weight, lr=1e-3)
        for _ in range(20):
            bilevel.step(batch(3), batch(3))
        found.append(float(alignment(gradients_by_cell(network, search, batch(3)).detach())))
    assert found[1] > found[0] + 0.05


def test_the_alignment_has_the_slope_of_differences_at_the_parameters() -> None:
    # Without differentiating twice: the alignment at parameters a little to either side.
    network, search, bilevel = made(1.0)
    train, twin = batch(3), copy.deepcopy(network)
    bilevel.step(train, train)
    alone = copy.deepcopy(twin)
    F.cross_entropy(alone(train[0], search().detach()), train[1]).backward()
    generator, size = torch.Generator().manual_seed(0), 1e-6
    for _ in range(3):
        directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in twin.parameters()]
        ends = []
        for sign in (1, -1):
            moved = copy.deepcopy(twin)
            with torch.no_grad():
                for parameter, direction in zip(moved.parameters(), directions, strict=True):
                    parameter.add_(direction, alpha=sign * size)
            ends.append(float(alignment(gradients_by_cell(moved, search, train).detach())))
        of_alignment = (ends[0] - ends[1]) / (2 * size)
        rises = 0.0
        for new, old, own, direction in zip(
            *(each.parameters() for each in (network, twin, alone)), directions, strict=True
        ):
            if own.grad is not None:
                rises += float(((own.grad - (old - new).detach() / 0.1) * direction).sum())
        assert rises == pytest.approx(of_alignment, rel=1e-3, abs=1e-6)


def test_the_weight_grows_by_a_line() -> None:
    search = LambdaDARTS(0.125)
    search.bind(CellSpace(), 0)
    weights = []
    for epoch in range(5):
        search.start_epoch(epoch, 5)
        weights.append(search.scalars()["alignment_weight"])
    assert weights == [0, 0.03125, 0.0625, 0.09375, 0.125]


def test_without_weight_it_is_first_order_darts() -> None:
    network, search, bilevel = made(0.0)
    darts = DARTS()
    darts.bind(network.space, 7)
    darts.double()
    darts.load_state_dict({"logits": search.logits, "_extra_state": search.get_extra_state()})
    twin = copy.deepcopy(network)
    other = Bilevel(twin, darts, SGD(twin.parameters(), 0.1), None, Recorder(HOST), 1e9)
    for step in range(2):
        for each in (bilevel, other):
            each.step(batch(step), batch(step + 10))
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@given(st.integers(2, 6), st.integers(0, 100))
def test_alignment_is_the_mean_over_pairs_and_its_slope_that_of_the_paper(num_cells: int, seed: int) -> None:
    slopes = torch.randn(num_cells, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    flat = slopes.flatten(1)
    pairs = [F.cosine_similarity(a, b, dim=0) for a, b in itertools.combinations(flat, 2)]
    torch.testing.assert_close(alignment(slopes), torch.stack(pairs).mean())
    (found,) = torch.autograd.grad(alignment(slopes.requires_grad_()), slopes)
    # Projected off each gradient itself, the sum of all unit gradients, over its length and the number of pairs.
    unit = flat / flat.norm(dim=1, keepdim=True)
    for own, length, direction in zip(unit, flat.norm(dim=1), found, strict=True):
        projector = torch.eye(6, dtype=torch.float64) - torch.outer(own, own)
        expected = projector @ unit.sum(dim=0) / length / len(pairs)
        torch.testing.assert_close(direction.flatten(), expected)


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(SupernetError, match="weight must be 0 or more, got -1"):
        LambdaDARTS(-1)


def test_steps_by_recordings_are_the_steps_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    # What changes from epoch to epoch, the weight of the alignment, is found by a recording.
    monkeypatch.setattr(supernet.network, "make_plan", plan_densely)
    networks = []
    for recorder in (Recorder(HOST), Recorder(HOST, SoftGraph)):
        network, search, _ = made(0.5)
        bilevel = Bilevel(network, search, SGD(network.parameters(), 0.125, fused=True), None, recorder, 5.0)
        for step in range(2 * (WARM_UP + 2)):
            search.start_epoch(step // 2, WARM_UP + 2)
            bilevel.step(batch(step), batch(step))
        networks.append(network)
    for ours, theirs in zip(*(network.parameters() for network in networks), strict=True):
        assert ours.equal(theirs)
    assert recorder.recordings
