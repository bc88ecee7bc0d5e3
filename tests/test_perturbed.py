from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from supernet.bilevel import Bilevel
from supernet.descent import use_fused
from supernet.errors import SupernetError
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.space import CellSpace
from supernet.strategies import DARTS, SDARTS
from tests.soft_graph import SoftGraph
from tests.test_darts import HOW, Order, batch, hypergradient, trained
from tests.toy import EMPTY, ToyLoss

Kind = Literal["random", "adversarial"]
KINDS: list[Kind] = ["random", "adversarial"]


def bound(perturbation: Kind = "adversarial", seed: int = 0, spread: float = 1.0, **options: Any) -> SDARTS:
    search = SDARTS(perturbation, **options)
    search.bind(CellSpace(), seed)
    search.double()
    with torch.no_grad():
        search.logits.mul_(1e3 * spread)
    return search


def linear(weights: Tensor) -> ToyLoss:
    return ToyLoss(lambda mixture: (weights * mixture).sum())


def drawn(seed: int) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([1e-3, 1.0, 30.0]), progress=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_the_network_sees_distributions_from_inside_the_ball(
    kind: Kind, seed: int, spread: float, progress: int
) -> None:
    search, loss = bound(kind, seed, spread), linear(drawn(seed))
    search.candidates[0, 1:3] = search.candidates[3, :4] = False
    search.start_epoch(progress, 5)
    mixture = search().detach()
    state = search.generator.get_state()
    added = search.perturb(mixture, loss, EMPTY)
    search.generator.set_state(state)
    (path,) = search.paths(loss, EMPTY)
    assert added.abs().max() <= search.epsilon + 1e-12
    assert not path.requires_grad
    assert path.min() >= 0
    torch.testing.assert_close(path.sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert path[~search.candidates].eq(0).all()
    # By hand, row by row: clamped, then divided by what is left.
    for row, start, found in zip(added.tolist(), mixture.tolist(), path.tolist(), strict=True):
        kept = [min(1.0, max(0.0, a + b)) for a, b in zip(row, start, strict=True)]
        expected = [value / sum(kept) for value in kept] if sum(kept) else start
        assert found == pytest.approx(expected, abs=1e-9)


def test_an_edge_of_which_nothing_would_be_left_keeps_its_row() -> None:
    # Every candidate lowers the loss, so the worst that can happen is that none of them counts.
    search, loss = bound(spread=1e-3), linear(-torch.ones(6, 5, dtype=torch.float64))
    search.start_epoch(4, 5)
    (path,) = search.paths(loss, EMPTY)
    torch.testing.assert_close(path, search().detach())


@pytest.mark.parametrize("steps", [3, 7])
def test_the_adversary_finds_the_maximum_of_a_linear_loss(steps: int) -> None:
    # Over the ball of radius epsilon it is higher than in the middle by epsilon * |w|_1.
    search, weights = bound(steps=steps), drawn(1)
    loss = linear(weights)
    search.start_epoch(2, 5)
    mixture = search().detach()
    found = loss(mixture + search.perturb(mixture, loss, EMPTY), EMPTY) - loss(mixture, EMPTY)
    torch.testing.assert_close(found, search.epsilon * weights.abs().sum())
    noise = bound("random")
    noise.start_epoch(2, 5)
    for _ in range(20):
        assert loss(mixture + noise.perturb(mixture, loss, EMPTY), EMPTY) - loss(mixture, EMPTY) < found


def test_the_adversary_raises_the_training_loss_of_a_supernet_above_any_noise() -> None:
    torch.manual_seed(0)
    network = Supernet(channels=2, num_cells=1, num_classes=4, image_channels=1).double()
    images, labels = batch(0)
    loss = ToyLoss(lambda mixture: torch.nn.functional.cross_entropy(network(images, mixture), labels))
    search, noise = bound(spread=0.3), bound("random")
    mixture = search().detach()
    with torch.no_grad():
        plain = loss(mixture, EMPTY)
    worst = loss(mixture + search.perturb(mixture, loss, EMPTY), EMPTY)
    assert worst > plain
    for _ in range(5):
        assert worst > loss(mixture + noise.perturb(mixture, loss, EMPTY), EMPTY)


def test_the_adversary_asks_for_the_training_batch_as_often_as_it_has_steps() -> None:
    search, loss = bound(steps=4), linear(drawn(0))
    train = (torch.ones(1), torch.ones(1))
    (_,) = search.paths(loss, train)
    assert [asked is train for _, asked, _, _ in loss.calls] == [True] * 4
    noise = bound("random")
    (_,) = noise.paths(loss, train)
    assert len(loss.calls) == 4


def test_noise_is_uniform_and_new_in_each_step() -> None:
    search, loss = bound("random"), linear(drawn(0))
    mixture = search().detach()
    draws = torch.stack([search.perturb(mixture, loss, EMPTY) for _ in range(100)])
    assert kstest(draws.flatten().numpy(), "uniform", (-0.03, 0.06)).pvalue > 1e-4
    assert len(draws.flatten().unique()) > 2990


def test_the_ball_grows_linearly_from_first_to_last_epoch() -> None:
    search, seen = SDARTS(), []
    for epoch in [*range(50), 49]:  # the last one twice: a resumed epoch
        search.start_epoch(epoch, 50)
        seen.append(search.scalars()["epsilon"])
    assert seen == pytest.approx([0.03 + 0.27 * epoch / 49 for epoch in range(50)] + [0.3])
    search.start_epoch(0, 1)
    assert search.epsilon == 0.03


@pytest.mark.parametrize("order", ["first", "second"])
def test_the_architecture_takes_the_step_of_darts(order: Order) -> None:
    network, optimizer, darts = trained(HOW[0])
    search = SDARTS("adversarial", order=order)
    search.bind(network.space, 7)
    search.double().load_state_dict(darts.state_dict())
    search.start_epoch(1, 2)
    expected = hypergradient(order, network, optimizer, darts)
    assert hypergradient(order, network, optimizer, search).equal(expected)
    assert isinstance(search, DARTS)
    assert search().equal(darts())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_from_where_the_mixture_lies(kind: Kind) -> None:
    # "meta" has no values: whatever would read one there, and make the host wait for an accelerator, raises.
    search, loss = bound(kind).to("meta"), ToyLoss(torch.sum)
    (path,) = search.paths(loss, EMPTY)
    assert path.device.type == "meta"
    assert all(support is None for *_, support in loss.calls)


def test_a_recorded_search_takes_the_same_steps() -> None:
    found = []
    for make_graph in (None, SoftGraph):
        network, optimizer, darts = trained(HOW[0])
        search = SDARTS("adversarial", steps=2)
        search.bind(network.space, 7)
        search.double().load_state_dict(darts.state_dict())
        recorder = Recorder(torch.device("cpu"), make_graph)
        bilevel = Bilevel(network, search, optimizer, search.make_optimizer(0.1, (0.5, 0.999), 0.0), recorder, 5.0)
        use_fused(bilevel.descent.optimizer)
        for step in range(4):
            bilevel.step(batch(step), batch(10 + step))
        assert bool(recorder.recordings) == (make_graph is not None)
        found.append([value.detach() for value in (*network.parameters(), search.logits)])
    torch.testing.assert_close(found[1], found[0])


def test_what_makes_no_ball_is_refused() -> None:
    with pytest.raises(SupernetError, match=r"epsilon_min <= epsilon_max <= 1 must hold, got epsilon_min=0\.5"):
        SDARTS(epsilon_min=0.5)
    with pytest.raises(SupernetError, match="steps of the ascent must be at least 1, got 0"):
        SDARTS(steps=0)
