from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import SGD, Adam

import supernet.network
from supernet.bilevel import Bilevel
from supernet.descent import Descent, use_fused
from supernet.genotype import Genotype
from supernet.mixed import Plan, make_plan
from supernet.network import Network, Supernet
from supernet.replay import WARM_UP, Graph, Recorder
from supernet.space import CellSpace
from supernet.strategies import DARTS, GDAS, Batch, Loss, RandomSearch, SearchStrategy
from supernet.tally import Running, Seen, Tally
from tests.soft_graph import SoftGraph

HOST = torch.device("cpu")


class TwoPaths(DARTS):
    """Several mixtures in a step, and an architecture loss of several terms."""

    def paths(self, loss: Loss, train: Batch) -> Iterator[Tensor]:
        yield self()
        yield self().flip(1)

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        return loss(self(), val) + 0.5 * loss(2 * self(), train) - 0.1 * self().log().sum()


def batch(seed: int, size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 8, 8, generator=generator), torch.randint(4, (size,), generator=generator)


def make(strategy: Callable[[], SearchStrategy], recorder: Recorder, device: torch.device = HOST) -> Bilevel:
    torch.manual_seed(0)
    network = Supernet(channels=3, num_cells=1, num_classes=4, image_channels=1).to(device)
    search = strategy()
    search.bind(network.space, 7)
    search.to(device)
    network_optimizer = SGD(network.parameters(), 0.1, 0.9, weight_decay=1e-3, nesterov=True, fused=device == HOST)
    learned = list(search.parameters())
    arch_optimizer = Adam(learned, 0.05, (0.5, 0.999), weight_decay=1e-3) if learned else None
    return Bilevel(network, search, network_optimizer, arch_optimizer, recorder, grad_clip=0.5)


def plan_densely(space: CellSpace, mixture: Tensor, like: Tensor | None = None, support: Tensor | None = None) -> Plan:
    """As on an accelerator, where a mixture is not read."""
    tiny = torch.full_like(mixture, 1e-30)  # keeps every candidate, and is lost when added to anything that counts
    return make_plan(space, mixture + (mixture == 0) * tiny, like)


STRATEGIES = [DARTS, TwoPaths, GDAS, RandomSearch]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_replayed_steps_equal_the_steps_themselves(
    strategy: Callable[[], SearchStrategy], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Same operations in the same order: not a bit may differ. The learning rate, the temperature, the batches and
    # what is drawn change from step to step.
    monkeypatch.setattr(supernet.network, "make_plan", plan_densely)
    itself, replayed = make(strategy, Recorder(HOST)), make(strategy, Recorder(HOST, SoftGraph))
    for step in range(WARM_UP + 6):
        for bilevel in (itself, replayed):
            bilevel.descent.optimizer.param_groups[0]["lr"] = 0.1 * (1 + step % 3)
            bilevel.search.start_epoch(step // 2, 8)
            bilevel.step(batch(2 * step), batch(2 * step + 1))
    assert len(replayed.recorder.recordings) == (1 if strategy is RandomSearch else 2)
    assert isinstance(replayed.descent.optimizer.param_groups[0]["lr"], float)
    for ours, theirs in zip(replayed.supernet.parameters(), itself.supernet.parameters(), strict=True):
        assert ours.equal(theirs)
    for ours, theirs in zip(replayed.search.parameters(), itself.search.parameters(), strict=True):
        assert ours.equal(theirs)
    assert replayed.tally.take() == itself.tally.take()
    assert replayed.descent.tally.take() == itself.descent.tally.take()


def test_replayed_steps_of_a_standalone_network_keep_its_running_statistics() -> None:
    networks = []
    for recorder in (Recorder(HOST), Recorder(HOST, SoftGraph)):
        torch.manual_seed(0)
        network = Network(Genotype.from_index(6111), 2, 1, 4, 1)
        optimizer = SGD(network.parameters(), 0.1, 0.9, nesterov=True, fused=True)
        descent = Descent(network, optimizer, recorder)
        for step in range(WARM_UP + 4):
            descent.step(*batch(step))
        networks.append(network)
    for (name, ours), theirs in zip(networks[1].state_dict().items(), networks[0].state_dict().values(), strict=True):
        assert ours.equal(theirs), name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_never_waits_for_the_device(strategy: Callable[[], SearchStrategy]) -> None:
    # Tensors on "meta" hold no values: whatever asks for one fails.
    device = torch.device("meta")
    bilevel = make(strategy, Recorder(device), device)
    (images, labels), (val_images, val_labels) = batch(0), batch(1)
    for _ in range(2):
        bilevel.step((images.to(device), labels.to(device)), (val_images.to(device), val_labels.to(device)))
    with pytest.raises(NotImplementedError, match="meta"):
        bilevel.descent.tally.take()


@pytest.mark.parametrize("strategy", [GDAS, RandomSearch])
def test_a_host_that_skips_candidates_trains_as_a_device_that_runs_them_all(
    strategy: Callable[[], SearchStrategy], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Operations that were not drawn have no gradient, but they keep their weight decay and their momentum.
    sparse = make(strategy, Recorder(HOST))
    for step in range(4):
        sparse.step(batch(2 * step), batch(2 * step + 1))
    monkeypatch.setattr(supernet.network, "make_plan", plan_densely)
    dense = make(strategy, Recorder(HOST))
    for step in range(4):
        dense.step(batch(2 * step), batch(2 * step + 1))
    for ours, theirs in zip(sparse.supernet.parameters(), dense.supernet.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_tally_holds_losses_and_right_answers_of_all_steps() -> None:
    bilevel = make(DARTS, Recorder(HOST))
    twin = copy.deepcopy(bilevel.supernet), copy.deepcopy(bilevel.search)
    train, val = batch(0), batch(1)
    with torch.no_grad():
        logits = twin[0](val[0], twin[1]())
    bilevel.step(train, val)
    seen = bilevel.tally.take()
    assert seen.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, val[1])))
    assert (seen.steps, seen.right, seen.images) == (1, int((logits.argmax(1) == val[1]).sum()), 6)
    assert bilevel.tally.take() == Seen(0, 0, 0, 0, 0, 0, 0, 0)


def test_running_means_are_of_the_steps_between_two_looks_and_accuracies_of_all() -> None:
    tally = Tally(HOST)
    running = Running(tally)
    assert not running.look()
    norm = torch.ones(())
    for losses, right in (([1.0, 3.0], 3), ([5.0], 2)):
        for loss in losses:
            tally.add(torch.tensor(loss), torch.tensor(right / len(losses)), 4 // len(losses), norm)
        assert running.look()
    tally.add(torch.tensor(5.0), torch.tensor(1), 2, norm)
    assert running.loss == 5.0
    assert running.accuracy() == 6 / 10  # it looks itself: a run can stop between two looks
    assert running.accuracy() is None


BAD = float("nan"), float("inf"), float("-inf")


@given(
    losses=st.lists(st.sampled_from([*BAD, 1.0, 2.0]), max_size=8),
    norms=st.lists(st.sampled_from([*BAD[:2], 1.0]), min_size=8, max_size=8),
)
def test_a_step_that_is_not_finite_counts_as_nothing_else(losses: list[float], norms: list[float]) -> None:
    tally, good = Tally(HOST), []
    for loss, norm in zip(losses, norms, strict=False):
        good.append(bool(tally.add(torch.tensor(loss), torch.tensor(3), 5, torch.tensor(norm))))
    assert good == [math.isfinite(loss) and math.isfinite(norm) for loss, norm in zip(losses, norms, strict=False)]
    running = Running(tally)
    assert running.look() == any(good)
    assert (running.right, running.images) == (3 * sum(good), 5 * sum(good))
    assert running.num_bad == len(good) - sum(good)
    if any(good):
        assert running.loss == sum(loss for loss, is_good in zip(losses, good, strict=True) if is_good) / sum(good)
    if all(good):
        assert running.bad is None
    else:
        first = good.index(False)
        assert running.bad is not None
        assert running.bad.steps_ago == len(good) - 1 - first
        found = torch.tensor([running.bad.loss, running.bad.norm])
        torch.testing.assert_close(found, torch.tensor([losses[first], norms[first]]), equal_nan=True)
    assert running.num_bad_in_a_row == (0 if any(good) else len(good))


@pytest.mark.parametrize("graph", [None, SoftGraph], ids=["host", "fused"])
def test_a_bad_step_leaves_running_statistics_as_they_were(graph: Callable[[], Graph] | None) -> None:
    states = []
    for steps in ([0, None, 1, 2, 3, 4, None, None, 5], [0, 1, 2, 3, 4, 5]):
        torch.manual_seed(0)
        network = Network(Genotype.from_index(6111), 2, 1, 4, 1)
        optimizer = SGD(network.parameters(), 0.1, 0.9, nesterov=True, fused=graph is not None)
        descent = Descent(network, optimizer, Recorder(HOST, graph))
        for step in steps:
            images, labels = batch(0 if step is None else step)
            descent.step(images * (float("inf") if step is None else 1.0), labels)
        states.append(network.state_dict())
    for name, value in states[0].items():
        assert value.isfinite().all(), name
        assert value.equal(states[1][name]), name


class Poisoned(DARTS):
    """Its architecture loss is not a number in some steps."""

    step, poison = 0, (0, 3)

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        bad = float("nan") if self.step in self.poison else 1.0
        self.step += 1
        return loss(self(), val) * bad


@pytest.mark.parametrize("graph", [None, SoftGraph], ids=["host", "fused"])
def test_a_bad_step_is_as_if_it_had_not_been(
    graph: Callable[[], Graph] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first step of all is one of them: an optimizer has no state then.
    monkeypatch.setattr(supernet.network, "make_plan", plan_densely)
    poisoned, clean = make(Poisoned, Recorder(HOST, graph)), make(Poisoned, Recorder(HOST, graph))
    clean.search.poison = ()  # type: ignore[assignment]
    if graph is not None:
        for bilevel in (poisoned, clean):
            assert bilevel.arch_optimizer is not None
            use_fused(bilevel.arch_optimizer)
    bad = torch.full((6, 1, 8, 8), float("nan")), batch(0)[1]
    for step in range(8):
        train, val = batch(2 * step), batch(2 * step + 1)
        poisoned.arch_step(train, val)
        if step not in Poisoned.poison:
            clean.arch_step(train, val)
        for images in [bad, train] if step in (0, 4, 5) else [train]:
            poisoned.descent.step(*images, poisoned.search()[None].detach())
        clean.descent.step(*train, clean.search()[None].detach())
    for ours, theirs in zip(poisoned.supernet.parameters(), clean.supernet.parameters(), strict=True):
        assert ours.equal(theirs)
    for ours, theirs in zip(poisoned.search.parameters(), clean.search.parameters(), strict=True):
        assert ours.equal(theirs)
    seen = poisoned.descent.tally.take()
    assert (seen.steps, seen.good_steps, seen.first_bad) == (11, 8, 1)
    assert (poisoned.tally.take().good_steps, clean.tally.take().good_steps) == (6, 6)
