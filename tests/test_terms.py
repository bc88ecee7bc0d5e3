"""Terms against closed forms, autograd and statistics, alone and inside the real bilevel step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import SGD, Adam

import supernet.terms.penalties
from supernet.bilevel import Bilevel, SupernetLoss
from supernet.cost import cost, operation_costs
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.module import SearchModule
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.space import CellSpace
from supernet.strategies import DARTS, GDAS, Batch, RandomSearch, SearchStrategy
from supernet.terms import BetaDecay, CostPenalty, Entropy, OperationDropout, SearchTerm

NETWORK = {"channels": 3, "num_cells": 1, "num_classes": 4, "image_shape": (1, 8, 8)}
HOST = torch.device("cpu")


def bound(term: SearchTerm, search: SearchStrategy, seed: int = 0) -> SearchTerm:
    search.bind(CellSpace(), seed)
    term.bind(search, seed + 1, NETWORK)
    term.start_epoch(0, 1)
    return term


def batch(seed: int, size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 8, 8, generator=generator), torch.randint(4, (size,), generator=generator)


def make(search: SearchStrategy, *terms: SearchTerm) -> Bilevel:
    torch.manual_seed(0)
    network = Supernet(channels=3, num_cells=1, num_classes=4, image_channels=1)
    search.bind(network.space, 7)
    for term in terms:
        term.bind(search, 8, NETWORK)
        term.start_epoch(0, 1)
    learned = list(search.parameters())
    arch = Adam(learned, 0.05, (0.5, 0.999)) if learned else None
    return Bilevel(network, search, SGD(network.parameters(), 0.1, 0.9), arch, Recorder(HOST), 5.0, terms)


def shares(of: str = "macs") -> Tensor:
    costs = torch.tensor([float(getattr(each, of)) for each in operation_costs(CellSpace().ops, **NETWORK)])
    return costs / (6 * costs.max())


def test_the_cost_is_the_share_of_the_network_of_the_search() -> None:
    # For a one-hot mixture it is what the network of the cell costs above the empty one, over what the dearest costs.
    for of in ("params", "macs"):
        term = bound(CostPenalty(0.3, of), DARTS())
        empty, dearest, some = (
            getattr(cost(genotype, **NETWORK), of)  # type: ignore[arg-type]
            for genotype in (Genotype(("none",) * 6), Genotype(("nor_conv_3x3",) * 6), Genotype.from_index(1462))
        )
        mixture = torch.nn.functional.one_hot(torch.tensor(CellSpace().choices(Genotype.from_index(1462))), 5).float()
        assert float(term.penalty(mixture)) == pytest.approx(0.3 * (some - empty) / (dearest - empty))


def test_the_cost_reaches_the_logits_of_darts_by_the_jacobian_of_the_softmax() -> None:
    search = DARTS()
    term = bound(CostPenalty(2.0), search)
    with torch.no_grad():
        search.logits.copy_(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))
    p = search.logits.detach().softmax(dim=1)
    (found,) = torch.autograd.grad(term.penalty(search()), search.logits)
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(found, 2 * jacobian @ shares())
    assert bool((found.abs().sum(dim=1) > 1e-3).all())


def test_the_cost_reaches_the_logits_of_gdas_by_the_softmax_of_its_draw() -> None:
    search = GDAS(tau_max=2.0)
    term = bound(CostPenalty(2.0), search)
    drawn = search.generator.get_state()
    (found,) = torch.autograd.grad(term.penalty(search()), search.logits)
    again = torch.Generator()
    again.set_state(drawn)
    log_p = search.logits.detach().log_softmax(dim=1)
    noise = torch.empty(6, 5).exponential_(generator=again).log().neg()
    soft = ((log_p + noise) / 2).softmax(dim=1)
    hard = torch.nn.functional.one_hot(soft.argmax(dim=1), 5).float()
    # Only the operation that was drawn has a gradient: its cost times d soft_k / d logits, by the temperature.
    slope = (hard * shares() * soft).sum(dim=1, keepdim=True) * (hard - soft) / 2
    torch.testing.assert_close(found, 2 * slope)
    assert float(found.abs().max()) > 0


class Squares(SearchStrategy):
    """A mixture that is no softmax, and an architecture that has no logits."""

    def bind(self, space: CellSpace, seed: int) -> None:
        super().bind(space, seed)
        self.roots = torch.nn.Parameter(torch.full((space.num_edges, space.num_ops), 0.5))

    def forward(self) -> Tensor:
        return self.roots**2

    def arch_loss(self, loss: Callable[..., Tensor], train: Batch, val: Batch) -> Tensor:
        return loss(self(), val)

    def derive(self, score: Callable[[Genotype], float]) -> Genotype:
        return next(self.likeliest())


@pytest.mark.parametrize("strategy", [DARTS, GDAS, Squares])
def test_in_the_real_step_the_cost_moves_the_mixture_to_cheaper_operations(
    strategy: Callable[[], SearchStrategy],
) -> None:
    steps = []
    for weight in (0.0, 1e4):  # where the cost is nearly all of the gradient
        bilevel = make(strategy(), CostPenalty(weight))
        before = (bilevel.search.probabilities() * shares()).sum()
        for step in range(10):
            bilevel.step(batch(step), batch(step + 10))
        steps.append((bilevel.search.probabilities() * shares()).sum() - before)
    assert steps[1] < steps[0]
    assert steps[1] < 0


def test_the_gradient_in_the_real_step_is_the_sum_of_both() -> None:
    slopes = []
    for terms in ((), (CostPenalty(0.7),)):
        bilevel = make(DARTS(), *terms)
        bilevel.arch_step(batch(0), batch(1))
        slopes.append(bilevel.search.get_parameter("logits").grad)
    logits = make(DARTS()).search.get_parameter("logits").detach().requires_grad_()
    (penalty,) = torch.autograd.grad(0.7 * (logits.softmax(dim=1) * shares()).sum(), logits)
    assert slopes[0] is not None
    assert slopes[1] is not None
    torch.testing.assert_close(slopes[1], slopes[0] + penalty, rtol=1e-4, atol=1e-7)


def test_the_cost_changes_nothing_in_the_inner_step_of_second_order() -> None:
    losses, mixture = [], torch.full((6, 5), 0.2)
    for terms in ((), (CostPenalty(5.0),)):
        loss: SupernetLoss = make(DARTS("second"), *terms).loss
        w = loss.parameters()
        slope = torch.autograd.grad(loss(mixture, batch(0), parameters=w), list(w.values()), allow_unused=True)
        losses.append(slope)
    for one, other in zip(*losses, strict=True):
        assert (one is None and other is None) or (one is not None and other is not None and one.equal(other))
    # So the whole gradient differs by that of the penalty alone.
    slopes = []
    for terms in ((), (CostPenalty(5.0),)):
        bilevel = make(DARTS("second"), *terms)
        bilevel.step(batch(0), batch(1))  # SGD has its momentum from here on
        bilevel = make(DARTS("second"), *terms)
        bilevel.arch_step(batch(0), batch(1))
        slopes.append(bilevel.search.get_parameter("logits").grad)
    logits = make(DARTS()).search.get_parameter("logits").detach().requires_grad_()
    (penalty,) = torch.autograd.grad(5 * (logits.softmax(dim=1) * shares()).sum(), logits)
    assert slopes[0] is not None
    torch.testing.assert_close(slopes[1], slopes[0] + penalty, rtol=1e-4, atol=1e-6)


def test_the_cost_comes_off_the_reward() -> None:
    plain, less = (make(DARTS(), *terms).loss for terms in ((), (CostPenalty(0.25),)))
    mixture = torch.nn.functional.one_hot(torch.tensor([3, 2, 1, 0, 4, 3]), 5).float()
    difference = plain.reward(mixture, batch(0)) - less.reward(mixture, batch(0))
    assert float(difference) == pytest.approx(0.25 * float((mixture * shares()).sum()))


@given(seed=st.integers(0, 1000), closed=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=8))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_entropy_and_its_gradient_are_those_of_the_candidates_that_are_left(
    seed: int, closed: list[tuple[int, int]]
) -> None:
    search = DARTS()
    term = bound(Entropy(1.5), search)
    with torch.no_grad():
        search.logits.copy_(torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)))
    for edge, column in closed:
        search.candidates[edge, column] = False
    found = term.regularise(search)
    assert isinstance(found, Tensor)
    (slope,) = torch.autograd.grad(found, search.logits)
    total, expected = 0.0, torch.zeros(6, 5, dtype=torch.float64)
    for edge, row in enumerate(search.logits.detach().double()):
        columns = [column for column in range(5) if search.candidates[edge, column]]
        p = row[columns].softmax(dim=0)
        entropy = -float((p * p.log()).sum())
        total += entropy / 6
        for column, value in zip(columns, p, strict=True):  # dH/dx_k = -p_k (log p_k + H)
            expected[edge, column] = -1.5 / 6 * value * (value.log() + entropy)
    assert found.item() == pytest.approx(1.5 * total, abs=1e-6)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-4, atol=1e-6)


def test_the_weight_of_the_entropy_goes_by_a_line() -> None:
    search = DARTS()
    term = bound(Entropy(-1.0, 2.0), search)
    with torch.no_grad():
        search.logits.zero_()
    for epoch, weight in ((0, -1.0), (3, 0.5), (6, 2.0), (6, 2.0), (0, -1.0)):
        term.start_epoch(epoch, 7)
        assert torch.as_tensor(term.regularise(search)).item() == pytest.approx(weight * math.log(5))


def test_beta_decay_grows_from_0_to_50_and_its_gradient_is_the_softmax() -> None:
    search = DARTS()
    term = bound(BetaDecay(), search)
    with torch.no_grad():
        search.logits.copy_(torch.randn(6, 5, generator=torch.Generator().manual_seed(3)))
    x = search.logits.detach().double()
    for epoch, weight in ((0, 0.0), (10, 10.0), (25, 25.0), (50, 50.0)):
        term.start_epoch(epoch, 51)
        found = term.regularise(search)
        assert isinstance(found, Tensor)
        assert found.item() == pytest.approx(weight * float(x.exp().sum(dim=1).log().mean()), abs=1e-5)
        (slope,) = torch.autograd.grad(found, search.logits)
        torch.testing.assert_close(slope.double(), weight / 6 * x.exp() / x.exp().sum(1, True), rtol=1e-5, atol=1e-7)


def test_beta_decay_enters_each_step_of_the_architecture_once() -> None:
    slopes = []
    for terms in ((), (BetaDecay(2.0),)):
        bilevel = make(DARTS(), *terms)
        for term in terms:
            term.start_epoch(4, 5)
        bilevel.arch_step(batch(0), batch(1))
        slopes.append(bilevel.search.get_parameter("logits").grad)
    p = make(DARTS()).search().detach()
    assert slopes[0] is not None
    torch.testing.assert_close(slopes[1], slopes[0] + 2 / 6 * p, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("term", [BetaDecay(), Entropy(1.0)])
def test_terms_of_logits_refuse_a_strategy_without(term: SearchTerm) -> None:
    with pytest.raises(SupernetError, match=f"{type(term).__name__} needs a strategy with logits .* RandomSearch has"):
        bound(term, RandomSearch())


@pytest.mark.parametrize("make_term", [CostPenalty, BetaDecay])
@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_weights_that_are_no_weights_are_refused(make_term: Callable[[float], SearchTerm], weight: float) -> None:
    with pytest.raises(SupernetError, match="weight must be 0 or more, got"):
        make_term(weight)


def test_dropped_mixtures_are_the_mixture_in_the_mean_and_dropped_as_often_as_said() -> None:
    term = bound(OperationDropout(0.3, ops=["skip_connect", "none"]), DARTS())
    mixture = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    number, mean, dropped = 4_000, torch.zeros(6, 5), torch.zeros(6, 5)
    for _ in range(number):
        term.draw()
        mixed = term.mix(mixture)
        assert mixed.equal(term.mix(mixture))  # until the next draw
        mean += mixed / number
        dropped += (mixed == 0) / number
    deviation = (0.3 * 0.7 / number) ** 0.5
    assert float((dropped[:, :2] - 0.3).abs().max()) < 5 * deviation
    assert not dropped[:, 2:].any()
    assert float(((mean - mixture) / mixture).abs().max()) < 5 * deviation / 0.7


def test_the_rate_goes_by_a_line_and_wrong_rates_and_operations_are_refused() -> None:
    term = bound(OperationDropout(0.6, 0.2), DARTS())
    for epoch, rate in ((0, 0.6), (2, 0.4), (4, 0.2), (1, 0.5)):
        term.start_epoch(epoch, 5)
        assert term.scalars() == {"operation_dropout": pytest.approx(rate)}
    with pytest.raises(SupernetError, match="rate must be at least 0 and below 1, got 1"):
        OperationDropout(1.0)
    with pytest.raises(SupernetError, match=r"ops of OperationDropout must be in .*, got \['skip'\]"):
        bound(OperationDropout(0.5, ops=["skip"]), DARTS())


def test_one_draw_serves_architecture_and_network_and_the_next_step_has_another() -> None:
    seen: list[Tensor] = []

    class Spy(SearchTerm):
        def mix(self, mixture: Tensor) -> Tensor:
            seen.append(mixture.detach() == 0)
            return mixture

    bilevel = make(DARTS(), OperationDropout(0.5, 0.5), Spy())
    for step in range(3):
        bilevel.step(batch(step), batch(step + 9))
    assert len(seen) == 6
    for one, other in zip(seen[::2], seen[1::2], strict=True):
        assert one.equal(other)
    assert not seen[0].equal(seen[2])


def test_what_is_dropped_is_the_seed_s_and_goes_on_from_a_checkpoint() -> None:
    one, other, third = (bound(OperationDropout(0.5), DARTS(), seed) for seed in (5, 5, 6))
    draws = []
    for term in (one, other, third):
        term.draw()
        draws.append(term.mix(torch.ones(6, 5)))
    assert draws[0].equal(draws[1])
    assert not draws[0].equal(draws[2])
    third.load_state_dict(one.state_dict())
    for term in (one, third):
        term.draw()
        draws.append(term.mix(torch.ones(6, 5)))
    assert draws[3].equal(draws[4])


def test_latencies_are_measured_once_and_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def measure(ops: list[str], **network: object) -> dict[str, float]:
        asked.append(network)
        return {op: float(number) for number, op in enumerate(ops)}

    monkeypatch.setattr(supernet.terms.penalties, "operation_latencies", measure)
    term, search = CostPenalty(1.0, "latency"), DARTS()
    search.bind(CellSpace(), 0)
    term.bind(search, 1, NETWORK)
    assert not asked  # a checkpoint may bring them
    for epoch in (0, 0, 1):
        term.start_epoch(epoch, 2)
    assert asked == [{"channels": 3, "num_cells": 1, "image_shape": (1, 8, 8), "device": HOST}]
    assert "latency of an edge in ms, measured on cpu: none 0, skip_connect 1" in capsys.readouterr().out
    last_op = torch.nn.functional.one_hot(torch.full((6,), 4), 5).float()
    assert float(term.penalty(last_op)) == pytest.approx(1.0)
    assert float(term.penalty(last_op.roll(-2, dims=1))) == pytest.approx(0.5)
    assert term.scalars()["latency_ms/avg_pool_3x3"] == 4
    other = CostPenalty(1.0, "latency")
    other.bind(search, 2, NETWORK)
    other.load_state_dict(term.state_dict())
    other.start_epoch(1, 2)
    assert len(asked) == 1
    assert other.penalty(last_op).equal(term.penalty(last_op))


def test_a_table_takes_the_place_of_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"skip_connect": 0, "nor_conv_1x1": 1, "nor_conv_3x3": 4.0, "avg_pool_3x3": 2}))
    term = bound(CostPenalty(1.0, "latency", str(path)), GDAS())
    assert float(term.penalty(torch.full((6, 5), 0.2))) == pytest.approx(0.2 * 7 / 4)
    assert f"read from {path}" in capsys.readouterr().out
    for content, sentence in (("{}", "must tell milliseconds, 0 or more, for 'skip_connect', got None"),
                              ("[1]", "must tell milliseconds by operation, got list"),
                              ('{"skip_connect": -1}', "for 'skip_connect', got -1"),
                              ("x", "is no table of latencies")):  # fmt: skip
        path.write_text(content)
        with pytest.raises(SupernetError, match=sentence):
            bound(CostPenalty(1.0, "latency", str(path)), GDAS())
    with pytest.raises(SupernetError, match="a table tells latencies: pass of=latency with it, not macs"):
        CostPenalty(1.0, "macs", str(path))


def test_what_a_loss_of_the_architecture_is_made_of_is_shown() -> None:
    # Of the same start, the loss with terms less the loss without is the sum of what they say they have added.
    terms = (CostPenalty(0.5), Entropy(0.2, 0.4), BetaDecay(3.0))
    plain, full = make(DARTS()), make(DARTS(), *terms)
    for term in terms:
        term.start_epoch(1, 3)
        assert list(term.scalars().values())[1] == 0  # nothing yet
    totals = []
    for bilevel in (plain, full):
        losses: list[Tensor] = []
        bilevel.tally.add = lambda loss, *rest, add=bilevel.tally.add, kept=losses: (  # type: ignore[method-assign]
            kept.append(loss.clone()), add(loss, *rest))[1]  # fmt: skip
        bilevel.step(batch(0), batch(1))
        totals.append(float(losses[0]))
    shown = {name: value for term in terms for name, value in term.scalars().items()}
    weights = {name: value for name, value in shown.items() if name.endswith("_weight")}
    assert weights == pytest.approx({"cost_penalty_weight": 0.5, "entropy_weight": 0.3, "beta_decay_weight": 1.5})
    added = {name: value for name, value in shown.items() if name.endswith("_loss")}
    assert set(added) == {"cost_penalty_loss", "entropy_loss", "beta_decay_loss"}
    assert min(added.values()) > 0
    assert totals[1] - totals[0] == pytest.approx(sum(added.values()), rel=1e-4)
    again = bound(BetaDecay(3.0), DARTS())
    again.load_state_dict(terms[2].state_dict())
    assert again.scalars()["beta_decay_loss"] == added["beta_decay_loss"]


def test_two_terms_of_one_name_are_refused() -> None:
    terms: list[SearchTerm] = [Entropy(0.1), BetaDecay(), Entropy(0.2)]
    with pytest.raises(SupernetError, match="Entropy is there 2 times: leave one of them in"):
        SearchModule(DARTS(), 2, 1, terms=terms)
