from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.optim import SGD

from supernet.bilevel import Bilevel
from supernet.data import SearchData
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.module import SearchModule
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.space import CellSpace, is_connected
from supernet.strategies import DARTS, GAEA, SNAS, Batch, DARTSMinus, DrNAS, FactorisedSearch, FairDARTS, ReinMax
from supernet.terms import BetaDecay
from tests.test_configs import parser_of
from tests.test_configs import settings as settings_of
from tests.textbook import textbook_supernet
from tests.toy import EMPTY, ToyLoss, planted

KINDS: list[type[FactorisedSearch]] = [SNAS, DrNAS, ReinMax, GAEA, FairDARTS, DARTSMinus]
WIDE = CellSpace(16, ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"))
"""120 edges: with the same logits on all of them, one call is 120 independent draws."""


S = TypeVar("S", bound=FactorisedSearch)


def ready(search: S, logits: Tensor, space: CellSpace | None = None, seed: int = 0) -> S:
    """A strategy in float64 with these logits, on every edge if they are a row."""
    search.bind(space or CellSpace(), seed)
    search.double()
    with torch.no_grad():
        search.logits.copy_(logits)
    return search


def logits_of(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def closed(search: FactorisedSearch) -> Tensor:
    """Close some candidates, a different number on each edge; those that are left."""
    search.candidates = torch.ones(6, 5, dtype=torch.bool)
    for edge in range(5):
        search.candidates[edge, : edge + 1 if edge < 4 else 3] = False
    return search.candidates


def slope(search: FactorisedSearch, loss: ToyLoss, train: Batch = EMPTY, val: Batch = EMPTY) -> Tensor:
    value = search.arch_loss(loss, train, val)
    assert value is not None
    (result,) = torch.autograd.grad(value, search.logits)
    return result


def linear(factors: Tensor) -> ToyLoss:
    return ToyLoss(lambda mixture: (mixture * factors).sum())


# What all of them have in common.


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_candidate_is_exactly_zero_and_learns_nothing(kind: type[FactorisedSearch]) -> None:
    search = ready(kind(), logits_of(0))
    if isinstance(search, DARTSMinus):
        search.start_epoch(9, 10)  # the auxiliary skip is no candidate, and gone by now
    left = closed(search)
    for mixture in (search(), *search.paths(ToyLoss(torch.sum), EMPTY), search.probabilities()):
        assert mixture.isfinite().all()
        assert (mixture[~left] == 0).all()
        if not isinstance(search, FairDARTS):
            torch.testing.assert_close(mixture.sum(dim=1), torch.ones(6).double())
    grad = slope(search, linear(logits_of(1)))
    assert grad.isfinite().all()
    assert isinstance(search, GAEA) or (grad[~left] == 0).all()
    cell = search.derive(lambda genotype: 0.0)
    assert all(left[edge, column] for edge, column in enumerate(search.space.choices(cell)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_cell_is_found_by_the_strategy_s_own_optimizer(kind: type[FactorisedSearch]) -> None:
    cell = Genotype.from_index(6111)
    search, loss = kind(), planted(cell)
    search.bind(CellSpace(), 0)
    optimizer = search.make_optimizer(0.1, (0.5, 0.999), 1e-3)
    for epoch in range(120):
        search.start_epoch(epoch, 240)
        value = search.arch_loss(loss, EMPTY, EMPTY)
        assert value is not None
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        search.after_arch_step()
        list(search.paths(loss, EMPTY))
    assert search.derive(lambda genotype: pytest.fail("a single candidate must not be scored")) == cell


@pytest.mark.parametrize("kind", KINDS)
def test_draws_depend_on_the_seed_alone_and_go_on_after_a_checkpoint(kind: type[FactorisedSearch]) -> None:
    search, twin = (ready(kind(), logits_of(0), seed=5) for _ in range(2))
    for _ in range(3):
        mixture = search()
        torch.rand(7)  # somebody else's draw
        assert mixture.equal(twin())
    other = ready(kind(), logits_of(3), seed=6)
    other.load_state_dict(search.state_dict())
    assert all(other().equal(search()) for _ in range(3))


@pytest.mark.parametrize("kind", KINDS)
def test_likeliest_begins_with_the_argmax_and_never_rises(kind: type[FactorisedSearch]) -> None:
    # By hand: the product of what is plotted, over the columns of the cell.
    search = ready(kind(), logits_of(8))
    probabilities, previous = search.probabilities(), float("inf")
    for number, cell in zip(range(40), search.likeliest(), strict=False):
        choices = torch.tensor(search.space.choices(cell))
        product = float(probabilities.gather(1, choices[:, None]).prod())
        assert product <= previous * (1 + 1e-9)
        previous = product
        if number == 0 and is_connected(search.space.genotype(search.logits.argmax(dim=1).tolist())):
            assert choices.equal(search.logits.argmax(dim=1))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SNAS(tau_max=0.01), "tau_max >= tau_min > 0 must hold, got tau_max=0.01, tau_min=0.03"),
        (lambda: DrNAS(kl_weight=-1), "kl_weight must be 0 or more, got -1"),
        (lambda: ReinMax(tau=0.5), "tau must be 1 or more, got 0.5"),
        (lambda: FairDARTS(zero_one_weight=float("nan")), "zero_one_weight must be 0 or more, got nan"),
        (lambda: GAEA(top_k=0), "top_k must be at least 1, got 0"),
        (
            lambda: DARTSMinus().bind(CellSpace(4, ("none", "nor_conv_3x3")), 0),
            r"DARTSMinus needs a space with 'skip_connect', .* got \['none', 'nor_conv_3x3'\]; add it or take DARTS",
        ),
    ],
)
def test_impossible_options_are_named(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(SupernetError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("name", "epochs", "expected"),
    [
        ("snas", 150, SNAS(1.0, 0.03)),
        ("drnas", 100, DrNAS(kl_weight=0)),
        ("reinmax", 250, ReinMax(1.0)),
        ("gaea", 25, GAEA(single_level=True, exclude_none=True)),
        ("fair_darts", 50, FairDARTS(10.0, exclude_none=True)),
        ("darts_minus", 50, DARTSMinus()),
        ("second_order", 50, DARTS("second")),
        ("beta_darts", 100, DARTS("first")),
    ],
    ids=str,
)
def test_a_configuration_is_the_protocol_that_it_names(name: str, epochs: int, expected: FactorisedSearch) -> None:
    given = settings_of(f"{name}.yaml")
    trainer = given.pop("trainer")
    parser = parser_of(SearchModule, SearchData)
    built = parser.instantiate_classes(parser.parse_object(given)).model
    assert (given["data"]["name"], trainer["max_epochs"]) == ("cifar10", epochs)
    for option in ("tau_max", "tau_min", "kl_weight", "tau", "single_level", "zero_one_weight", "order"):
        assert getattr(built.search, option, None) == getattr(expected, option, None)
    assert (built.search.top_k, built.search.exclude_none) == (1, expected.exclude_none)
    assert [(type(term), term.weight) for term in built.terms] == ([(BetaDecay, 50.0)] if name == "beta_darts" else [])


# SNAS


def test_a_cold_concrete_sample_is_one_hot_as_often_as_the_softmax_says() -> None:
    row = torch.tensor([0.0, 1.0, -1.0, 0.5]).double()
    search = ready(SNAS(), row, WIDE)
    search.tau = 1e-4
    samples = torch.cat([search().detach() for _ in range(40)])
    assert (samples.amax(dim=1) > 1 - 1e-6).double().mean() > 0.99
    counts = F.one_hot(samples.argmax(dim=1), 4).sum(dim=0)
    assert chisquare(counts.numpy(), (4800 * row.softmax(dim=0)).numpy()).pvalue > 1e-4


def test_a_concrete_sample_has_the_density_of_the_concrete_distribution() -> None:
    # Two operations: the log-odds are logistic, at the log-odds of the probabilities, with scale 1 / tau.
    search = ready(SNAS(), torch.tensor([1.0, 0.0]), CellSpace(16, ("skip_connect", "nor_conv_3x3")))
    search.tau = 0.5
    odds = torch.cat([search().detach().log().diff(dim=1).neg() for _ in range(40)]) * search.tau - 1.0
    below = torch.histc(odds.sigmoid(), 10, 0, 1)
    assert chisquare(below.numpy()).pvalue > 1e-4


def test_a_concrete_sample_has_the_pathwise_gradient() -> None:
    search, factors = ready(SNAS(), logits_of(0)), logits_of(1)
    search.tau = 0.4
    state = search.generator.get_state()

    def value(logits: Tensor) -> Tensor:
        search.generator.set_state(state)
        with torch.no_grad():
            search.logits.copy_(logits)
            return (search() * factors).sum()

    search.generator.set_state(state)
    exact = slope(search, linear(factors))
    logits, size = search.logits.detach().clone(), 1e-6
    for direction in (logits_of(2), logits_of(3)):
        found = (value(logits + size * direction) - value(logits - size * direction)) / (2 * size)
        torch.testing.assert_close((exact * direction).sum(), found, rtol=1e-5, atol=1e-8)


def test_the_temperature_of_snas_falls_linearly_from_1_to_a_33rd() -> None:
    search, seen = SNAS(), []
    for epoch in range(5):
        search.start_epoch(epoch, 5)
        seen.append(search.scalars()["temperature"])
    assert seen == pytest.approx([1.0, 0.7575, 0.515, 0.2725, 0.03])


def test_a_step_of_snas_has_the_gradients_of_one_joint_backward_pass() -> None:
    torch.manual_seed(0)
    network = Supernet(channels=2, num_cells=1, num_classes=4, image_channels=1).double()
    search = ready(SNAS(), logits_of(4))
    search.tau = 0.7
    train, val = ((torch.randn(6, 1, 8, 8).double(), torch.randint(4, (6,))) for _ in range(2))
    twin, twin_search = copy.deepcopy(network), copy.deepcopy(search)
    twin_search.generator.set_state(search.generator.get_state())
    images, labels = train
    F.cross_entropy(textbook_supernet(twin, images, twin_search()), labels).backward()

    # The architecture takes a long step between the two halves, which the network must not notice.
    bilevel = Bilevel(
        network,
        search,
        SGD(network.parameters(), 0.1),
        search.make_optimizer(1.0, (0.5, 0.999), 0.0),
        Recorder(torch.device("cpu")),
        grad_clip=1e9,
    )
    bilevel.step(train, val)
    torch.testing.assert_close(search.logits.grad, twin_search.logits.grad, rtol=1e-9, atol=1e-12)
    for (name, own), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert own.grad is not None
        expected = torch.zeros_like(own) if other.grad is None else other.grad
        torch.testing.assert_close(own.grad, expected, rtol=1e-8, atol=1e-11, msg=name)


def test_a_sample_serves_one_step_only() -> None:
    search, loss = ready(SNAS(), logits_of(0)), ToyLoss(torch.sum)
    search.arch_loss(loss, EMPTY, EMPTY)
    (first,), (second,) = search.paths(loss, EMPTY), search.paths(loss, EMPTY)  # the second in a warm-up
    assert first.equal(loss.calls[0][0])
    assert not first.requires_grad
    assert not first.equal(second)
    search.arch_loss(loss, EMPTY, EMPTY)  # and then the run was broken off
    search.start_epoch(3, 5)
    (third,) = search.paths(loss, EMPTY)
    assert not third.equal(loss.calls[-1][0])


def test_snas_learns_on_the_training_batch_alone() -> None:
    train, val = (torch.zeros(1), torch.zeros(1)), (torch.ones(1), torch.ones(1))
    search, loss = ready(SNAS(), logits_of(0)), ToyLoss(torch.sum)
    search.arch_loss(loss, train, val)
    assert [batch is train for _, batch, _, _ in loss.calls] == [True]


# DrNAS

ROW = torch.tensor([-1.5, 0.0, 0.8, 2.0]).double()


def concentration(row: Tensor) -> Tensor:
    return F.elu(row) + 1


@pytest.mark.parametrize("left", [[0, 1, 2, 3], [0, 2, 3], [1, 3], [2]], ids=str)
def test_dirichlet_draws_have_the_mean_and_the_variances_of_the_candidates(left: list[int]) -> None:
    search = ready(DrNAS(), ROW, WIDE)
    search.candidates[:] = torch.tensor([column in left for column in range(4)])
    draws = torch.cat([search().detach() for _ in range(100)])
    beta = concentration(ROW)[left]
    total, mean = beta.sum(), beta / beta.sum()
    variance = mean * (1 - mean) / (total + 1)
    found = draws[:, left]
    assert (draws[:, [column for column in range(4) if column not in left]] == 0).all()
    assert ((found.mean(dim=0) - mean).abs() <= 5 * (variance / len(draws)).sqrt() + 1e-12).all()
    torch.testing.assert_close(found.var(dim=0), variance, rtol=0.08, atol=1e-12)
    expected = torch.zeros(4).double().index_copy(0, torch.tensor(left), mean)
    torch.testing.assert_close(search.probabilities(), expected.expand(120, 4))


def test_the_gradient_of_a_draw_is_in_the_mean_that_of_the_mean() -> None:
    # E of a linear function of a draw is that function of the mean, whose gradient is known.
    search, factors = ready(DrNAS(kl_weight=0), ROW, WIDE), torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    search.candidates[:60, 1] = False
    slopes = torch.stack([slope(search, linear(factors)) for _ in range(150)])
    for rows, columns in ((slice(60), [0, 2, 3]), (slice(60, 120), [0, 1, 2, 3])):
        found = slopes[:, rows].reshape(-1, 4)
        row = ROW.clone().requires_grad_()
        beta = concentration(row)[columns]
        ((beta / beta.sum()) * factors[columns]).sum().backward()
        assert row.grad is not None
        error = found.std(dim=0) / len(found) ** 0.5
        assert ((found.mean(dim=0) - row.grad).abs() <= 5 * error + 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 4.0))
def test_the_divergence_and_its_gradient_are_those_of_the_distributions(seed: int, scale: float) -> None:
    search = ready(DrNAS(), logits_of(seed, scale))
    left = closed(search)
    divergence = search.divergence()
    (found,) = torch.autograd.grad(divergence, search.logits)
    logits = search.logits.detach().requires_grad_()
    parts = [concentration(row[open]) for row, open in zip(logits, left, strict=True) if open.sum() > 1]
    oracle = torch.stack([kl_divergence(Dirichlet(beta), Dirichlet(torch.ones_like(beta))) for beta in parts]).sum()
    (expected,) = torch.autograd.grad(oracle, logits)
    torch.testing.assert_close(divergence, oracle, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_the_divergence_is_the_mean_log_ratio_of_the_densities() -> None:
    search = ready(DrNAS(), ROW, WIDE)
    draws = torch.cat([search().detach() for _ in range(100)])
    beta = concentration(ROW)
    normaliser = beta.lgamma().sum() - beta.sum().lgamma()
    # The density of Dir(1) is 3! everywhere.
    ratios = ((beta - 1) * draws.log()).sum(dim=1) - normaliser - torch.tensor(6.0).log()
    assert abs(ratios.mean() - search.divergence() / 120) < 5 * ratios.std() / len(ratios) ** 0.5


def test_the_loss_of_drnas_is_that_of_a_draw_and_the_weighted_divergence() -> None:
    search, factors = ready(DrNAS(kl_weight=0.25), logits_of(3)), logits_of(1)
    loss = linear(factors)
    value = search.arch_loss(loss, EMPTY, EMPTY)
    draw = loss.calls[0][0]
    torch.testing.assert_close(value, (draw * factors).sum() + 0.25 * search.divergence())


def test_concentrations_stay_above_zero_and_draws_finite_in_single_precision() -> None:
    search = DrNAS()
    search.bind(CellSpace(), 0)
    for low in (-10.0, -30.0, -200.0):
        with torch.no_grad():
            search.logits.fill_(low)
            search.logits[:3, 2] = 20.0
        assert (search.concentrations() > 0).all()
        value = search.arch_loss(linear(torch.randn(6, 5)), EMPTY, EMPTY)
        (grad,) = torch.autograd.grad(value, search.logits)
        assert value.isfinite()
        assert grad.isfinite().all()
        assert search().isfinite().all()
    with torch.no_grad():
        search.logits.copy_(logits_of(0))
    torch.testing.assert_close(search.concentrations(), F.elu(search.logits) + 1)


# ReinMax


def quadratic(seed: int) -> Callable[[Tensor], Tensor]:
    """A quadratic function of one row, which couples its columns."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(5, 5, dtype=torch.float64, generator=generator)
    vector = torch.randn(5, dtype=torch.float64, generator=generator)
    return lambda row: row @ matrix @ row + (vector * row).sum()


def mean_estimate(function: Callable[[Tensor], Tensor], estimator: Callable[[int], tuple[Tensor, Tensor]]) -> Tensor:
    """The mean of a gradient over what can be drawn on an edge, by enumeration."""
    total = torch.zeros(5, dtype=torch.float64)
    for column in range(5):
        logits, mixture = estimator(column)
        (part,) = torch.autograd.grad(function(mixture[0]), logits)
        total += logits.detach().softmax(dim=1)[0, column] * part[0]
    return total


def exact_gradient(function: Callable[[Tensor], Tensor], row: Tensor) -> Tensor:
    row = row.clone().requires_grad_()
    corners = torch.stack([function(corner) for corner in torch.eye(5, dtype=torch.float64)])
    (result,) = torch.autograd.grad((row.softmax(dim=0) * corners).sum(), row)
    return result


@pytest.mark.parametrize("seed", range(5))
def test_reinmax_has_no_bias_where_the_loss_is_quadratic_and_straight_through_has(seed: int) -> None:
    search = ready(ReinMax(), logits_of(seed))

    def drawn(column: int) -> Tensor:
        return F.one_hot(torch.full((6,), column), 5).double()

    def straight_through(column: int) -> tuple[Tensor, Tensor]:
        soft = search.logits.softmax(dim=1)
        return search.logits, drawn(column) + soft - soft.detach()

    function = quadratic(seed)
    exact = exact_gradient(function, search.logits.detach()[0])
    found = mean_estimate(function, lambda column: (search.logits, search.through(drawn(column))))
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)
    biased = mean_estimate(function, straight_through)
    assert (biased - exact).norm() > 0.05 * exact.norm()


@pytest.mark.parametrize("tau", [1.0, 2.0, 5.0])
def test_a_temperature_is_that_of_the_softmax_midway(tau: float) -> None:
    # Written out by Jacobians, 2 J(pi_1) - J(pi_0) / 2, where J(p) = diag(p) - p p'.
    search, factors = ready(ReinMax(tau), logits_of(0)), logits_of(1)
    logits, drawn = search.logits.detach(), F.one_hot(torch.tensor([0, 1, 2, 3, 4, 0]), 5).double()
    powers = logits.exp() ** (1 / tau)
    pi_0, pi_1 = logits.softmax(dim=1), (drawn + powers / powers.sum(dim=1, keepdim=True)) / 2
    first, second = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1) for p in (pi_0, pi_1))
    expected = torch.einsum("eij,ej->ei", 2 * second - first / 2, factors)
    (found,) = torch.autograd.grad((search.through(drawn) * factors).sum(), search.logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_reinmax_leaves_closed_columns_out_of_an_unbiased_gradient() -> None:
    search = ready(ReinMax(), logits_of(1))
    search.candidates[:, 0] = False
    function, one_hot = quadratic(1), F.one_hot(torch.arange(5), 5).double()
    row = search.logits.detach()[0].clone().requires_grad_()
    corners = torch.stack([function(corner) for corner in one_hot[1:]])
    (exact,) = torch.autograd.grad((row[1:].softmax(dim=0) * corners).sum(), row)
    total = torch.zeros(5, dtype=torch.float64)
    for column, share in enumerate(search.probabilities()[0].tolist()):
        if share:
            value = function(search.through(one_hot[column].expand(6, 5))[0])
            total += share * torch.autograd.grad(value, search.logits)[0][0]
    torch.testing.assert_close(total, exact, rtol=1e-10, atol=1e-12)


def test_reinmax_is_one_hot_to_the_last_bit_as_often_as_the_softmax_says() -> None:
    row = torch.tensor([0.0, 1.0, -1.0, 0.5])
    search = ready(ReinMax(), row, WIDE).float()
    drawn = torch.cat([search().detach() for _ in range(40)])
    assert set(drawn.flatten().tolist()) == {0.0, 1.0}
    assert drawn.sum(dim=1).eq(1).all()
    expected = 4800 * row.double().softmax(dim=0)
    assert chisquare(drawn.sum(dim=0).double().numpy(), expected.numpy()).pvalue > 1e-4


def test_reinmax_has_the_gradient_of_a_real_network_at_what_was_not_drawn() -> None:
    # The textbook's cell runs every candidate; the fused one has to be told to, on a CPU.
    torch.manual_seed(0)
    network = Supernet(channels=2, num_cells=1, num_classes=4, image_channels=1).double()
    search = ready(ReinMax(), logits_of(2))
    batch = torch.randn(6, 1, 8, 8).double(), torch.randint(4, (6,))
    state = search.generator.get_state()
    bilevel = Bilevel(network, search, SGD(network.parameters(), 0.1), None, Recorder(torch.device("cpu")), 5.0)
    value = search.arch_loss(bilevel.loss, batch, batch)
    (found,) = torch.autograd.grad(value, search.logits)
    search.generator.set_state(state)
    (expected,) = torch.autograd.grad(
        F.cross_entropy(textbook_supernet(network, batch[0], search()), batch[1]), search.logits
    )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


# GAEA


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1.0))
def test_a_step_multiplies_the_mixture_by_the_exponentiated_gradient(seed: int, lr: float) -> None:
    search, factors = ready(GAEA(), logits_of(seed)), logits_of(seed + 1)
    optimizer = search.make_optimizer(lr, (0.5, 0.999), 1e-3)
    for _ in range(3):
        theta = search().detach()
        value = search.arch_loss(ToyLoss(lambda mixture: (mixture.square() * factors).sum()), EMPTY, EMPTY)
        assert value is not None
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        grown = theta * (-lr * 2 * theta * factors).exp()
        expected = grown / grown.sum(dim=1, keepdim=True)
        torch.testing.assert_close(search().detach(), expected, rtol=1e-12, atol=1e-14)


def test_the_value_of_the_mixture_is_the_softmax_and_its_gradient_its_own() -> None:
    search, factors = ready(GAEA(), logits_of(0)), logits_of(1)
    exponentials = search.logits.exp()
    torch.testing.assert_close(search(), exponentials / exponentials.sum(dim=1, keepdim=True))
    assert slope(search, linear(factors)).equal(factors)


@pytest.mark.parametrize("single_level", [False, True])
def test_gaea_learns_on_the_batch_that_it_says(single_level: bool) -> None:
    train, val = (torch.zeros(1), torch.zeros(1)), (torch.ones(1), torch.ones(1))
    search, loss = ready(GAEA(single_level), logits_of(0)), ToyLoss(torch.sum)
    search.arch_loss(loss, train, val)
    assert [batch is (train if single_level else val) for _, batch, _, _ in loss.calls] == [True]


def test_a_share_that_is_rounded_to_zero_still_learns_on_a_cpu() -> None:
    torch.manual_seed(0)
    network = Supernet(channels=2, num_cells=1, num_classes=4, image_channels=1).double()
    logits = logits_of(2)
    logits[3, 3] = -2000  # the direct edge to the output
    search = ready(GAEA(), logits)
    batch = torch.randn(6, 1, 8, 8).double(), torch.randint(4, (6,))
    bilevel = Bilevel(network, search, SGD(network.parameters(), 0.1), None, Recorder(torch.device("cpu")), 5.0)
    value = search.arch_loss(bilevel.loss, batch, batch)
    assert search()[3, 3] == 0
    (found,) = torch.autograd.grad(value, search.logits)
    mixture = search().detach().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(textbook_supernet(network, batch[0], mixture), batch[1]), mixture)
    assert found[3, 3] != 0
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


# Fair DARTS


def test_fair_darts_has_the_gradient_of_sigmoids_and_of_the_zero_one_loss() -> None:
    search, factors = ready(FairDARTS(), logits_of(0)), logits_of(1)
    p = 1 / (1 + (-search.logits.detach()).exp())
    torch.testing.assert_close(search().detach(), p)
    # 30 sigmoids; the weight is 10 by default.
    expected = (factors - 10 * 2 * (p - 0.5) / 30) * p * (1 - p)
    torch.testing.assert_close(slope(search, linear(factors)), expected)


def test_the_zero_one_loss_drives_every_sigmoid_to_the_nearer_end() -> None:
    search = ready(FairDARTS(), logits_of(0, 0.1))
    signs = search.logits.detach().sign()
    optimizer = SGD(search.parameters(), 20.0)
    for _ in range(300):
        search.logits.grad = slope(search, linear(torch.zeros(6, 5)))
        optimizer.step()
    assert ((search() - 0.5) * signs > 0.4).all()


# DARTS-


def test_the_auxiliary_skip_fades_linearly_and_is_on_every_edge_in_its_own_column() -> None:
    search = ready(DARTSMinus(), logits_of(0))
    plain = search.logits.softmax(dim=1)
    for epoch, beta in enumerate((1.0, 0.75, 0.5, 0.25, 0.0)):
        search.start_epoch(epoch, 5)
        auxiliary = search() - plain
        torch.testing.assert_close(auxiliary[:, 1], torch.full((6,), beta).double())
        torch.testing.assert_close(auxiliary[:, [0, 2, 3, 4]], torch.zeros(6, 4).double())
        assert search.scalars() == {"auxiliary_skip": beta}
        torch.testing.assert_close(search.probabilities(), plain)
    search.start_epoch(0, 1)  # a single epoch divides by nothing
    assert search.beta == 1


def test_the_auxiliary_skip_has_no_part_in_what_is_derived() -> None:
    logits = torch.zeros(6, 5).double()
    logits[:, 3] = 0.1
    assert ready(DARTSMinus(), logits).derive(lambda genotype: 0.0).ops == ("nor_conv_3x3",) * 6


def test_the_auxiliary_skip_stays_where_the_candidate_is_closed() -> None:
    search = ready(DARTSMinus(), logits_of(0))
    search.candidates[:, 1] = False
    search.start_epoch(1, 5)
    torch.testing.assert_close(search()[:, 1], torch.full((6,), 0.75).double())
    assert (search.probabilities()[:, 1] == 0).all()


def test_the_gradient_of_darts_minus_is_that_at_the_sum() -> None:
    # A loss that is not linear sees the auxiliary part; checked against differences.
    search, factors = ready(DARTSMinus(), logits_of(0)), logits_of(1)
    cubic = ToyLoss(lambda mixture: (mixture**3 * factors).sum())
    assert torch.autograd.gradcheck(lambda logits: _value(search, cubic, logits), logits_of(2).requires_grad_())


def _value(search: FactorisedSearch, loss: ToyLoss, logits: Tensor) -> Tensor:
    """The loss of the architecture as a function of the logits."""
    value: Tensor = torch.func.functional_call(_ArchLoss(search, loss), {"search.logits": logits}, ())
    return value


class _ArchLoss(torch.nn.Module):
    def __init__(self, search: FactorisedSearch, loss: ToyLoss) -> None:
        super().__init__()
        self.search, self.loss = search, loss

    def forward(self) -> Tensor:
        value = self.search.arch_loss(self.loss, EMPTY, EMPTY)
        assert value is not None
        return value
