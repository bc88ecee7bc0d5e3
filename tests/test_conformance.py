"""What every search strategy has to do; a strategy takes part by being exported by `supernet.strategies`."""

from __future__ import annotations

import copy
import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

import supernet.strategies
from supernet.bilevel import Bilevel
from supernet.cli.parser import STRATEGIES
from supernet.genotype import Genotype
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.space import CellSpace, is_connected
from supernet.strategies import Batch, RandomSearch, SearchStrategy
from tests.toy import EMPTY, ToyLoss, planted

Kind = Callable[[], SearchStrategy]
KINDS = [pytest.param(getattr(supernet.strategies, name), id=name) for name in STRATEGIES]
GOLDEN = Path(__file__).with_name("golden_losses.json")

NOT_NORMALISED = {"DARTSMinus", "FairDARTS", "PCDARTS"}
"""Strategies whose rows do not sum to one, by their papers."""

WAITS = {"DrNAS"}
"""Strategies that need a look at their parameters to draw."""

SLOW_WITHOUT_VALUES = {"IDARTS"}
"""Their products with a Hessian take a minute on the device "meta", which computes formulas in Python."""

RIGHT_EDGES = {"RandomSearch": 3}
"""How many edges of the planted cell have to be found; all six by the others."""

SPACES = [CellSpace(), CellSpace(3, ("skip_connect", "nor_conv_1x1"))]


def bound(kind: Kind, space: CellSpace = CellSpace(), seed: int = 0) -> SearchStrategy:
    search = kind()
    search.bind(space, seed)
    search.start_epoch(0, 3)
    return search


def mixtures(search: SearchStrategy, draws: int = 3) -> list[Tensor]:
    """Those of the architecture's steps and those of the network's."""
    loss, found = ToyLoss(lambda mixture: (mixture * mixture).sum()), []
    for _ in range(draws):
        search.arch_loss(loss, EMPTY, EMPTY)
        found += [search(), *search.paths(loss, EMPTY)]
    return [mixture for mixture, *_ in loss.calls] + found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", SPACES, ids=lambda space: str(space.size))
def test_a_mixture_has_a_row_an_edge(kind: Kind, space: CellSpace) -> None:
    search = bound(kind, space)
    for mixture in (*mixtures(search), search.probabilities()):
        assert mixture.shape[-2:] == (space.num_edges, space.num_ops)
        assert mixture.dtype == torch.float32
        assert mixture.isfinite().all()
        assert (mixture >= 0).all()
        if kind.__name__ not in NOT_NORMALISED:
            torch.testing.assert_close(mixture.sum(dim=-1), torch.ones(mixture.shape[:-1]))
    assert not search.probabilities().requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_has_the_type_of_the_logits(kind: Kind) -> None:
    search = bound(kind).double()
    if [*search.parameters()]:
        assert search.arch_loss(ToyLoss(torch.sum), EMPTY, EMPTY).dtype == torch.float64  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_draws_depend_on_the_seed_alone_and_touch_no_other_randomness(kind: Kind) -> None:
    def draws(seed: int, disturb: bool) -> list[Tensor]:
        search, drawn = bound(kind, seed=seed), []
        for _ in range(5):
            if disturb:
                torch.rand(7)
                random.random()
            drawn += mixtures(search, 1)
        return drawn

    state = torch.get_rng_state(), random.getstate()
    first, other = draws(1, False), draws(2, False)
    assert torch.get_rng_state().equal(state[0])
    assert random.getstate() == state[1]
    again = draws(1, True)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not all(a.equal(b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_an_operation_that_is_no_candidate_is_nowhere(kind: Kind) -> None:
    search = bound(kind)
    search.candidates[0] = torch.tensor([False, False, True, True, False])
    search.candidates[3] = torch.tensor([False, True, False, False, True])
    search.candidates[5] = torch.tensor([False, False, False, True, False])
    open_to = search.candidates
    auxiliary = torch.zeros_like(open_to)
    if kind.__name__ == "DARTSMinus":  # its auxiliary skip is no candidate
        auxiliary[:, 1] = True
    for mixture in mixtures(search):
        assert mixture.isfinite().all()
        assert not mixture.detach()[..., ~(open_to | auxiliary)].any()
    assert not search.probabilities()[~open_to].any()
    cells = [search.derive(lambda genotype: float(len(str(genotype))))]
    cells += [next(search.samples()), next(search.likeliest())]
    for cell in cells:
        choices = search.space.choices(cell)
        assert all(open_to[edge, choice] for edge, choice in enumerate(choices))
    if [*search.parameters()]:
        search.arch_loss(ToyLoss(lambda m: (m * m).sum()), EMPTY, EMPTY).backward()  # type: ignore[union-attr]
        assert all(p.grad is None or p.grad.isfinite().all() for p in search.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_derived_cell_is_connected_and_in_the_space(kind: Kind) -> None:
    for space in SPACES:
        for seed in range(3):
            search = bound(kind, space, seed)
            for epoch in (0, 2):
                search.start_epoch(epoch, 3)
                state = copy.deepcopy(search.state_dict())
                cell = search.derive(lambda genotype: float(len(str(genotype))))
                assert cell in space
                assert is_connected(cell)
                assert search.derive(lambda genotype: float(len(str(genotype)))) == cell
                assert search.generator.get_state().equal(state["_extra_state"]["generator"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_cell_is_found(kind: Kind) -> None:
    cell = Genotype.from_index(6111)
    search, loss = bound(kind), planted(cell)
    optimizer = search.make_optimizer(0.1, (0.5, 0.999), 0.0) if [*search.parameters()] else None
    for epoch in range(200):
        search.start_epoch(epoch, 400)
        if optimizer is not None:
            value = search.arch_loss(loss, EMPTY, EMPTY)
            assert value is not None
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            search.after_arch_step()
    search.start_epoch(399, 400)

    def right_edges(found: Genotype) -> int:
        return sum(a == b for a, b in zip(found.ops, cell.ops, strict=True))

    assert right_edges(search.derive(right_edges)) >= RIGHT_EDGES.get(kind.__name__, 6)


def batch(seed: int, size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 8, 8, generator=generator), torch.randint(4, (size,), generator=generator)


def make(kind: Kind, seed: int = 7) -> Bilevel:
    torch.manual_seed(0)
    network = Supernet(channels=2, num_cells=1, num_classes=4, image_channels=1)
    search = bound(kind, network.space, seed)
    search.depth = network.depth
    network_optimizer = SGD(network.parameters(), 0.1, 0.9, weight_decay=1e-3, nesterov=True)
    arch_optimizer: Optimizer | None = None
    if [*search.parameters()]:
        arch_optimizer = search.make_optimizer(0.05, (0.5, 0.999), 1e-3)
    return Bilevel(network, search, network_optimizer, arch_optimizer, Recorder(torch.device("cpu")), 0.5)


def advance(bilevel: Bilevel, first: int, last: int) -> list[float]:
    """Steps by number, two an epoch; the losses of network and architecture."""
    losses = []
    for step in range(first, last):
        if step % 2 == 0:
            bilevel.search.start_epoch(step // 2, 3)
        train, val = batch(2 * step), batch(2 * step + 1)
        bilevel.step(train, val)
        if step % 2 and bilevel.search.arch_steps_per_epoch:
            bilevel.arch_phase(train, [val] * min(2, bilevel.search.arch_steps_per_epoch))
        losses += [tally.take().loss for tally in (bilevel.descent.tally, bilevel.tally)]
    return losses


def values(bilevel: Bilevel) -> list[Tensor]:
    return [value.detach().clone() for part in (bilevel.supernet, bilevel.search) for value in part.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_search_goes_on_where_it_stopped(kind: Kind) -> None:
    original, twin = make(kind), make(kind, seed=99)
    advance(original, 0, 4)
    twin.supernet.load_state_dict(original.supernet.state_dict())
    twin.search.load_state_dict(copy.deepcopy(original.search.state_dict()))
    for ours, theirs in (
        (twin.descent.optimizer, original.descent.optimizer),
        (twin.arch_optimizer, original.arch_optimizer),
    ):
        if ours is not None and theirs is not None:
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert advance(twin, 4, 6) == advance(original, 4, 6)
    assert all(a.equal(b) for a, b in zip(values(twin), values(original), strict=True))
    score = lambda genotype: float(hash(str(genotype)) % 1000)  # noqa: E731
    assert twin.search.derive(score) == original.search.derive(score)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_changes_what_it_should_and_nothing_else(kind: Kind) -> None:
    bilevel = make(kind)
    advance(bilevel, 0, 2)
    num_learned = len([*bilevel.search.parameters()])
    randomness, candidates = torch.get_rng_state(), bilevel.search.candidates.clone()
    before = values(bilevel)
    bilevel.arch_step(batch(50), batch(51))
    after = values(bilevel)
    split = len(before) - num_learned
    assert all(a.equal(b) for a, b in zip(before[:split], after[:split], strict=True))
    assert all(not a.equal(b) for a, b in zip(before[split:], after[split:], strict=True)) or not num_learned
    momentum = [state["momentum_buffer"].clone() for state in bilevel.descent.optimizer.state.values()]
    bilevel.arch_step(batch(50), batch(51))
    kept = [state["momentum_buffer"] for state in bilevel.descent.optimizer.state.values()]
    assert all(a.equal(b) for a, b in zip(momentum, kept, strict=True))
    before = values(bilevel)
    bilevel.learns = False
    bilevel.step(batch(52), batch(53))
    after = values(bilevel)
    assert all(a.equal(b) for a, b in zip(before[split:], after[split:], strict=True))
    assert all(not a.equal(b) for a, b in zip(before[:split], after[:split], strict=True))
    assert all(parameter.requires_grad for parameter in bilevel.supernet.parameters())
    assert torch.get_rng_state().equal(randomness)
    assert bilevel.search.candidates.equal(candidates)


@functools.cache
def losses(kind: Kind, seed: int = 7) -> list[float]:
    return advance(make(kind, seed), 0, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_has_the_same_losses_and_another_seed_others(kind: Kind) -> None:
    assert advance(make(kind), 0, 6) == losses(kind)
    assert losses(kind, 8) != losses(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_that_were_written_down(kind: Kind) -> None:
    # They guard against a change by mistake; after one on purpose, `python -m tests.test_conformance` writes them anew.
    golden = json.loads(GOLDEN.read_text())
    assert losses(kind) == pytest.approx(golden[kind.__name__], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.id not in WAITS | SLOW_WITHOUT_VALUES])
def test_a_step_never_waits_for_the_device(kind: Kind) -> None:
    # Tensors on "meta" hold no values: whatever asks for one fails.
    device = torch.device("meta")
    torch.manual_seed(0)
    network = Supernet(channels=2, num_cells=1, num_classes=4, image_channels=1).to(device)
    search = bound(kind, network.space).to(device)
    search.depth = network.depth
    sgd = SGD(network.parameters(), 0.1, 0.9, nesterov=True)
    learned = search.make_optimizer(0.05, (0.5, 0.999), 1e-3) if [*search.parameters()] else None
    bilevel = Bilevel(network, search, sgd, learned, Recorder(device), 0.5)
    train, val = ([part.to(device) for part in batch(seed)] for seed in (0, 1))
    for _ in range(2):
        bilevel.step(tuple(train), tuple(val))  # type: ignore[arg-type]
        bilevel.arch_step(tuple(train), tuple(val))  # type: ignore[arg-type]


def test_nobody_is_left_out() -> None:
    assert RandomSearch.__name__ in STRATEGIES
    assert {*json.loads(GOLDEN.read_text())} == {*STRATEGIES}


def write_golden() -> None:
    """Write down the losses of today."""
    found: dict[str, Any] = {name: losses(getattr(supernet.strategies, name)) for name in sorted(STRATEGIES)}
    rounded = {name: [float(f"{loss:.6g}") for loss in values] for name, values in found.items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in rounded.items())
    GOLDEN.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    write_golden()
