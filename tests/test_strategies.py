from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from supernet.discrete import Score
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.space import CellSpace, is_connected
from supernet.strategies import DARTS, GDAS, FactorisedSearch, RandomSearch, SearchStrategy
from tests.toy import EMPTY, ToyLoss


def bound(strategy: SearchStrategy, space: CellSpace | None = None, seed: int = 0) -> SearchStrategy:
    strategy.bind(space or CellSpace(), seed)
    return strategy


def no_score(genotype: Genotype) -> float:
    raise AssertionError("a single candidate must not be scored")


def test_darts_is_the_softmax_of_its_logits() -> None:
    strategy = DARTS()
    strategy.bind(CellSpace(), 0)
    exponentials = strategy.logits.exp()
    torch.testing.assert_close(strategy(), exponentials / exponentials.sum(dim=1, keepdim=True))


def test_gdas_is_one_hot_to_the_last_bit() -> None:
    strategy = bound(GDAS())
    for _ in range(200):
        assert sorted(strategy().detach().flatten().tolist()) == [0.0] * 24 + [1.0] * 6


@pytest.mark.parametrize("tau", [10.0, 1.0, 0.1])
def test_gdas_has_the_gradient_of_the_relaxed_distribution(tau: float) -> None:
    # Closed form of the softmax Jacobian at temperature tau, with the Gumbel noise that was drawn; what was not drawn
    # did not run, and hands no gradient on.
    strategy = GDAS()
    strategy.bind(CellSpace(), 5)
    strategy.tau = tau
    state = strategy.generator.get_state()
    mixture = strategy()
    weights = torch.randn(6, 5)
    (mixture * weights).sum().backward()
    weights = weights * mixture.detach()
    generator = torch.Generator()
    generator.set_state(state)
    noise = -torch.log(torch.empty(6, 5).exponential_(generator=generator))
    soft = torch.softmax((strategy.logits.detach().log_softmax(1) + noise) / tau, dim=1)
    expected = soft * (weights - (soft * weights).sum(dim=1, keepdim=True)) / tau
    # Through log_softmax, whose Jacobian removes the sum of the incoming gradient.
    expected = expected - strategy.logits.detach().softmax(1) * expected.sum(dim=1, keepdim=True)
    torch.testing.assert_close(strategy.logits.grad, expected, rtol=1e-4, atol=1e-6)
    assert mixture.argmax(1).equal(soft.argmax(1))


def test_gdas_draws_each_operation_as_often_as_its_probability_says() -> None:
    strategy = GDAS()
    strategy.bind(CellSpace(2, ("none", "skip_connect", "nor_conv_1x1")), 0)
    with torch.no_grad():
        strategy.logits.copy_(torch.tensor([[0.0, 1.0, -1.0]]))
    counts = sum(strategy().detach() for _ in range(4000))
    assert isinstance(counts, Tensor)
    expected = 4000 * strategy.probabilities()
    assert chisquare(counts[0].numpy(), expected[0].double().numpy(), sum_check=False).pvalue > 1e-4


def test_the_temperature_falls_linearly_from_first_to_last_epoch() -> None:
    strategy, seen = GDAS(tau_max=10, tau_min=0.1), []
    for epoch in range(250):
        strategy.start_epoch(epoch, 250)
        seen.append(strategy.scalars()["temperature"])
    assert (seen[0], round(seen[-1], 12)) == (10, 0.1)
    steps = torch.tensor(seen).diff()
    torch.testing.assert_close(steps, steps[:1].expand(249), rtol=1e-4, atol=1e-5)
    strategy.start_epoch(0, 1)  # a single epoch divides by nothing
    assert strategy.tau == 10


def test_random_search_draws_every_operation_equally_often_and_learns_nothing() -> None:
    strategy = bound(RandomSearch())
    assert not list(strategy.parameters())
    assert strategy.arch_loss(ToyLoss(torch.sum), EMPTY, EMPTY) is None
    counts = sum(strategy() for _ in range(2000))
    assert isinstance(counts, Tensor)
    assert all(chisquare(row).pvalue > 1e-4 for row in counts.numpy())


def test_random_search_scores_n_distinct_cells_and_returns_the_best() -> None:
    strategy = bound(RandomSearch(num_samples=30, exclude_none=True))
    scored: list[Genotype] = []

    def score(genotype: Genotype) -> float:
        scored.append(genotype)
        return genotype.ops.count("nor_conv_3x3")

    found = strategy.derive(score)
    assert len(scored) == len(set(scored)) == 30
    assert found.ops.count("nor_conv_3x3") == max(cell.ops.count("nor_conv_3x3") for cell in scored)
    assert all("none" not in cell.ops for cell in scored)
    state = strategy.generator.get_state()
    assert strategy.derive(score) == found  # the same cells again: deriving disturbs no draw
    assert strategy.generator.get_state().equal(state)


def test_random_search_ends_where_the_space_does() -> None:
    strategy, scored = (
        bound(RandomSearch(num_samples=1000), CellSpace(3, ("none", "skip_connect"))),
        Counter[Genotype](),
    )

    def score(genotype: Genotype) -> float:
        scored[genotype] += 1
        return 0.0

    strategy.derive(score)
    assert set(scored) == {cell for cell in strategy.space if is_connected(cell)}
    assert set(scored.values()) == {1}


def with_logits(strategy: FactorisedSearch, logits: Tensor) -> FactorisedSearch:
    strategy.bind(CellSpace(), 0)
    with torch.no_grad():
        strategy.logits.copy_(logits)
    return strategy


@pytest.mark.parametrize("exclude_none", [False, True])
def test_top_k_scores_the_k_likeliest_connected_cells(exclude_none: bool) -> None:
    torch.manual_seed(0)
    strategy = with_logits(DARTS(top_k=25, exclude_none=exclude_none), torch.randn(6, 5))
    log_probs = strategy.logits.detach().log_softmax(dim=1)

    def joint(choices: tuple[int, ...]) -> float:
        return float(sum(log_probs[edge, choice] for edge, choice in enumerate(choices)))

    ops = range(1 if exclude_none else 0, 5)
    ranked = sorted(itertools.product(ops, repeat=6), key=joint, reverse=True)
    cells = [cell for choices in ranked if is_connected(cell := strategy.space.genotype(choices))]
    scored: list[Genotype] = []
    strategy.derive(lambda genotype: scored.append(genotype) or float(genotype == cells[17]))  # type: ignore[func-returns-value]
    assert set(scored) == set(cells[:25])
    assert strategy.derive(lambda genotype: float(genotype == cells[17])) == cells[17]


def test_top_1_is_the_argmax_and_costs_no_score() -> None:
    torch.manual_seed(1)
    logits = torch.randn(6, 5)
    logits[:, 0] -= 10
    strategy = with_logits(GDAS(), logits)
    assert strategy.derive(no_score) == strategy.space.genotype(logits.argmax(1).tolist())


def test_an_argmax_of_none_gives_the_likeliest_connected_cell_instead() -> None:
    logits = torch.zeros(6, 5)
    logits[:, 0] = 5
    logits[3, 3] = 1  # opening the direct edge to the output costs least
    assert with_logits(DARTS(), logits).derive(no_score).ops == ("none", "none", "none", "nor_conv_3x3", "none", "none")


def test_excluding_none_takes_the_second_choice_of_an_edge() -> None:
    logits = torch.zeros(6, 5)
    logits[:, 0], logits[:, 2] = 5, 1
    assert with_logits(DARTS(exclude_none=True), logits).derive(no_score).ops == ("nor_conv_1x1",) * 6


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GDAS(tau_max=0.1, tau_min=1), "tau_max >= tau_min > 0"),
        (lambda: GDAS(tau_min=0), "tau_max >= tau_min > 0"),
        (lambda: DARTS(top_k=0), "top_k must be at least 1, got 0"),
        (lambda: RandomSearch(num_samples=0), "num_samples must be at least 1, got 0"),
    ],
)
def test_impossible_options_are_named(make: object, sentence: str) -> None:
    assert callable(make)
    with pytest.raises(SupernetError, match=sentence):
        make()


def test_derive_has_no_default() -> None:
    class Incomplete(SearchStrategy):
        def forward(self) -> Tensor:
            return torch.ones(6, 5)

    with pytest.raises(TypeError, match="derive"):
        Incomplete()  # type: ignore[abstract]


def test_a_strategy_without_a_distribution_shows_its_mixture() -> None:
    class Half(SearchStrategy):
        def forward(self) -> Tensor:
            return torch.full((6, 5), 0.5)

        def derive(self, score: Score) -> Genotype:
            return Genotype.from_index(0)

    assert bound(Half()).probabilities().equal(torch.full((6, 5), 0.5))
