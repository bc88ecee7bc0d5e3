from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from supernet.cli import derive, search
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.replay import Recorder
from supernet.space import CellSpace, is_connected
from supernet.strategies import DARTS, JointPolicy
from supernet.strategies.policy import cells_within, connected_cells, marginals
from tests.test_bilevel import batch, make
from tests.test_cli import NETWORK, run, sentence
from tests.test_cli import TINY as TINY_RUN
from tests.toy import EMPTY, ToyLoss, planted

TINY = CellSpace(3, ("none", "skip_connect", "nor_conv_1x1"))
"""27 cells, 22 of them connected."""
PAIR = CellSpace(3, ("skip_connect", "nor_conv_1x1"))
"""8 cells, all of them connected."""
ONE, OTHER = Genotype(("skip_connect",) * 3), Genotype(("nor_conv_1x1",) * 3)
VALUES = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(8))


def made(space: CellSpace = TINY, logits: Tensor | None = None, **options: object) -> JointPolicy:
    strategy = JointPolicy(**options)  # type: ignore[arg-type]
    strategy.bind(space, 0)
    if logits is not None:
        with torch.no_grad():
            strategy.logits.copy_(logits)
    return strategy


def random_logits(seed: int = 0, size: int = 27) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def chances(strategy: JointPolicy) -> dict[Genotype, float]:
    """Probability of every cell, one by one."""
    weights = {
        cell: float(logit.exp())
        if is_connected(cell) and all(strategy.candidates[e, c] for e, c in enumerate(strategy.space.choices(cell)))
        else 0.0
        for cell, logit in zip(strategy.space, strategy.logits.detach(), strict=True)
    }
    return {cell: weight / sum(weights.values()) for cell, weight in weights.items()}


def by_reward() -> ToyLoss:
    return ToyLoss(torch.sum, reward=lambda mixture: VALUES[tuple(mixture.argmax(dim=1).tolist())])


@pytest.mark.parametrize("space", [CellSpace(), CellSpace(2), TINY, PAIR, CellSpace(4, ("none", "skip_connect"))])
def test_cells_are_told_connected_as_one_by_one(space: CellSpace) -> None:
    assert connected_cells(space).tolist() == [is_connected(cell) for cell in space]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([TINY, CellSpace(2, ("skip_connect", "nor_conv_1x1", "none")), CellSpace(4, ("none", "a"))]),
    st.integers(0, 2**20),
)
def test_probabilities_of_edges_and_candidates_are_those_of_a_full_count(space: CellSpace, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(space.size, generator=generator, dtype=torch.float64)
    candidates = torch.rand(space.num_edges, space.num_ops, generator=generator) < 0.7
    counted = torch.zeros(space.num_edges, space.num_ops, dtype=torch.float64)
    within = []
    for cell, chance in zip(space, p, strict=True):
        for edge, choice in enumerate(space.choices(cell)):
            counted[edge, choice] += chance
        within.append(all(candidates[edge, choice] for edge, choice in enumerate(space.choices(cell))))
    torch.testing.assert_close(marginals(space, p), counted)
    assert cells_within(candidates).tolist() == within


def test_cells_are_drawn_as_often_as_their_logits_say() -> None:
    strategy = made(logits=random_logits())
    strategy.candidates[1, 2] = False
    counts = dict.fromkeys(TINY, 0)
    for mixture in strategy.mixtures(strategy.draw(strategy.log_probs(), 4_000)):
        counts[TINY.genotype(mixture.argmax(dim=1).tolist())] += 1
        assert mixture.sum(dim=1).equal(torch.ones(3))
    state = strategy.generator.get_state()
    mixture = strategy()
    strategy.generator.set_state(state)
    assert mixture.equal(strategy.mixtures(strategy.draw(strategy.log_probs(), 1))[0])
    expected = chances(strategy)
    possible = [cell for cell in TINY if expected[cell] > 0]
    assert sum(counts[cell] for cell in possible) == 4_000
    assert chisquare([counts[c] for c in possible], [4_000 * expected[c] for c in possible]).pvalue > 1e-4


def test_the_likeliest_cells_and_the_probabilities_are_those_of_a_full_sort() -> None:
    strategy = made(logits=random_logits())
    strategy.candidates[1, 2] = strategy.candidates[2, 1] = False
    expected = chances(strategy)
    for exclude_none in (False, True):
        kept = [cell for cell in TINY if expected[cell] > 0 and not (exclude_none and "none" in cell.ops)]
        assert list(strategy.likeliest(exclude_none)) == sorted(kept, key=expected.__getitem__, reverse=True)
    shown = strategy.probabilities()
    for edge, op in itertools.product(range(3), range(3)):
        total = sum(p for cell, p in expected.items() if TINY.choices(cell)[edge] == op)
        assert float(shown[edge, op]) == pytest.approx(total, abs=1e-6)


def test_different_cells_come_as_draws_without_replacement_give_them() -> None:
    strategy = made(PAIR, random_logits(size=8))
    p = chances(strategy)
    counts = dict.fromkeys(itertools.permutations(PAIR, 2), 0)
    for _ in range(1_500):
        strategy()  # moves the generator on
        first, second = itertools.islice(strategy.samples(), 2)
        counts[first, second] += 1
    assert sorted(map(str, strategy.samples())) == sorted(map(str, PAIR))
    expected = [1_500 * p[a] * p[b] / (1 - p[a]) for a, b in counts]
    assert chisquare(list(counts.values()), expected, sum_check=False).pvalue > 1e-4
    state = strategy.generator.get_state()
    assert list(strategy.samples()) == list(strategy.samples())
    assert strategy.generator.get_state().equal(state)
    with_none = made(logits=random_logits())
    assert set(with_none.samples()) == {cell for cell in TINY if is_connected(cell)}
    assert set(with_none.samples(exclude_none=True)) == {cell for cell in TINY if "none" not in cell.ops}


def test_it_believes_in_two_cells_and_in_nothing_between_them() -> None:
    # A third of the time each of three cells; edge by edge, the most likely operations are a fourth one, of
    # probability zero. Independent edges with the same rows take that one for the likeliest of all.
    three = [PAIR.genotype([int(edge != odd) for edge in range(3)]) for odd in range(3)]
    logits = torch.tensor([0.0 if cell in three else -30.0 for cell in PAIR])
    joint = made(PAIR, logits)
    assert set(itertools.islice(joint.likeliest(), 3)) == set(three)
    torch.testing.assert_close(joint.probabilities(), torch.tensor([[1 / 3, 2 / 3]]).expand(3, 2))
    factorised = DARTS()
    factorised.bind(PAIR, 0)
    with torch.no_grad():
        factorised.logits.copy_(joint.probabilities().log())
    assert next(factorised.likeliest()) == OTHER
    assert OTHER not in three
    assert chances(joint)[OTHER] < 1e-9


def test_it_learns_two_cells_that_independent_edges_cannot_tell_from_what_lies_between() -> None:
    def reward(mixture: Tensor) -> Tensor:
        return (mixture[:, 0].sum() % 3 == 0).float()  # all edges alike

    strategy = made(PAIR, estimator="reinforce", samples_per_step=20, baseline_decay=0.5, entropy_weight=0.2)
    optimizer = strategy.make_optimizer(0.05, (0.5, 0.999), 0.0)
    for _ in range(80):
        optimizer.zero_grad()
        strategy.arch_loss(ToyLoss(torch.sum, reward=reward), EMPTY, EMPTY).backward()
        optimizer.step()
    p = chances(strategy)
    assert min(p[ONE], p[OTHER]) > 0.3
    assert p[ONE] + p[OTHER] > 0.9
    rows = strategy.probabilities()
    for edges in itertools.product(range(2), repeat=3):  # of independent edges with the same rows, any is as likely
        assert float(rows[range(3), edges].prod()) < 0.3


def test_the_gradient_of_rewards_is_that_of_the_mean_reward_in_the_mean() -> None:
    # By enumeration: each connected cell drawn once, weighted by its probability, gives the exact gradient.
    strategy = made(logits=random_logits(), estimator="reinforce", entropy_weight=0.0, samples_per_step=1)
    strategy.baseline.fill_(0.3)
    strategy.has_baseline.fill_(True)
    state = {name: value.clone() for name, value in strategy.state_dict().items() if isinstance(value, Tensor)}
    mean = torch.zeros(27)
    p = torch.tensor(list(chances(strategy).values()))
    for number, chance in enumerate(p):
        if chance > 0:
            strategy.load_state_dict(state, strict=False)
            strategy.draw = lambda *_, number=number: torch.tensor([number])  # type: ignore[method-assign]
            (slope,) = torch.autograd.grad(strategy.arch_loss(by_reward(), EMPTY, EMPTY), strategy.logits)
            mean += chance * slope
    logits = strategy.logits.detach().requires_grad_()
    exact = -(logits.masked_fill(p == 0, -torch.inf).softmax(0) * VALUES.flatten()).sum()
    (expected,) = torch.autograd.grad(exact, logits)
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_straight_through_is_that_of_the_mean_mixture() -> None:
    # Closed form: of cell c, p_c (<G, onehot_c> - <G, mean>), where G is the gradient of the loss at the drawn cell.
    strategy = made(logits=random_logits(), estimator="straight_through", entropy_weight=0.5)
    strategy.candidates[0, 1] = False
    target = torch.randn(3, 3, generator=torch.Generator().manual_seed(4))
    loss = ToyLoss(lambda mixture: ((mixture - target) ** 2).sum())
    strategy.arch_loss(loss, EMPTY, EMPTY).backward()
    ((mixture, _, _, support),) = loss.calls
    assert sorted(mixture.flatten().tolist()) == [0.0] * 6 + [1.0] * 3
    assert support is strategy.candidates
    slope = 2 * (mixture - target)
    p = torch.tensor(list(chances(strategy).values()))
    hots = torch.stack([torch.nn.functional.one_hot(torch.tensor(TINY.choices(cell)), 3) for cell in TINY]).float()
    parts = (hots * slope).sum(dim=(1, 2))
    expected = p * (parts - (p * parts).sum())
    nats = torch.where(p > 0, -p.clamp_min(1e-30).log(), 0)
    expected -= 0.5 * p * (nats - (p * nats).sum())  # the entropy climbs
    torch.testing.assert_close(strategy.logits.grad, expected, rtol=1e-4, atol=1e-6)
    assert expected[p > 0].ne(0).all()


@pytest.mark.parametrize(("estimator", "lr", "steps"), [("reinforce", 0.3, 150), ("straight_through", 0.1, 60)])
def test_it_finds_a_planted_cell(estimator: str, lr: float, steps: int) -> None:
    cell = TINY.genotype((1, 2, 0))
    strategy, loss = made(estimator=estimator, top_k=5), planted(cell, TINY)
    optimizer = strategy.make_optimizer(lr, (0.5, 0.999), 0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        strategy.arch_loss(loss, EMPTY, EMPTY).backward()
        optimizer.step()
    assert next(strategy.likeliest()) == cell
    scored: list[Genotype] = []
    assert strategy.derive(lambda genotype: scored.append(genotype) or float(genotype == cell)) == cell  # type: ignore[func-returns-value]
    assert scored == list(itertools.islice(strategy.likeliest(), 5))


def test_four_cells_are_rewarded_or_one_is_differentiated() -> None:
    for estimator, rewards, losses in (("reinforce", 4, 0), ("straight_through", 0, 1)):
        strategy, asked = made(estimator=estimator), list[Tensor]()
        loss = ToyLoss(torch.sum, reward=lambda mixture, asked=asked: asked.append(mixture) or torch.zeros(()))  # type: ignore[misc]
        strategy.arch_loss(loss, EMPTY, EMPTY)
        assert (len(asked), len(loss.calls)) == (rewards, losses)


def test_disconnected_cells_are_out_from_the_start() -> None:
    strategy = made(CellSpace())
    p = strategy.cell_log_probs().exp()
    assert int((p > 0).sum()) == 15_284
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)
    assert strategy.scalars()["policy_entropy"] == pytest.approx(float(torch.tensor(15_284.0).log()), abs=1e-4)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(SupernetError, match=r"200,000 at most, and this space has 9,765,625 cells"):
        made(CellSpace(5))
    with pytest.raises(SupernetError, match="top_k must be at least 1"):
        JointPolicy(top_k=0)
    with pytest.raises(SupernetError, match="samples_per_step must be at least 1"):
        JointPolicy(samples_per_step=0)
    strategy = made()
    strategy.candidates[1:] = torch.tensor([True, False, False])
    with pytest.raises(SupernetError, match="no cell of the candidates that are left is connected"):
        strategy()


@pytest.mark.parametrize("estimator", ["reinforce", "straight_through"])
def test_nothing_waits_for_the_device(estimator: str) -> None:
    device = torch.device("meta")  # whatever asks for a value fails
    bilevel = make(lambda: JointPolicy(estimator), Recorder(device), device)  # type: ignore[arg-type]
    bilevel.search.candidates[0, 0] = False
    (images, labels), (val_images, val_labels) = batch(0), batch(1)
    for _ in range(2):
        bilevel.step((images.to(device), labels.to(device)), (val_images.to(device), val_labels.to(device)))
    with pytest.raises(NotImplementedError, match="meta"):
        bilevel.tally.take()


@pytest.mark.parametrize("name", ["JointPolicy", "SETN", "RandomSearch"])
def test_deriving_anew_takes_the_likeliest_cells_where_a_strategy_ranks_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    count = "top_k" if name == "JointPolicy" else "num_samples"
    searched = run(search, *TINY_RUN, "--model.search", name, f"--model.search.{count}", "2")
    assert searched.status == 0, searched
    derived = run(derive, str(searched.path("retrain it")), "--no_retrain", "--top_k", "3", *NETWORK)
    if name != "RandomSearch":
        assert (derived.status, derived.err) == (0, "")
        assert is_connected(Genotype.load(derived.path("genotype")))
    else:
        assert "for RandomSearch all cells are equally likely" in sentence(derived)
