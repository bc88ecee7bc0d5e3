"""Strategies of single paths: which paths a step takes, what it learns from them, and a mixture for each cell."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.optim import SGD, Adam

import supernet.network
from supernet.bilevel import Bilevel
from supernet.cost import cost
from supernet.discrete import Score
from supernet.distillation import adaptive_alpha_divergence
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.mixed import MixedCell
from supernet.network import Supernet
from supernet.replay import WARM_UP, Recorder
from supernet.space import CellSpace, is_connected
from supernet.strategies import DARTS, SPOS, AlphaNet, Batch, FairNAS, Loss, RandomSearch, SearchStrategy
from supernet.terms import CostPenalty, OperationDropout
from tests.soft_graph import SoftGraph
from tests.test_bilevel import HOST, batch, plan_densely
from tests.test_evolution import some_candidates, spaces
from tests.test_module import fit
from tests.textbook import textbook_cell
from tests.toy import EMPTY, ToyLoss

NO_LOSS = ToyLoss(torch.sum)
SMALL: dict[str, Any] = {"population": 6, "generations": 3, "parents": 2}


def bound(strategy: SearchStrategy, space: CellSpace | None = None, seed: int = 0) -> SearchStrategy:
    strategy.bind(space or CellSpace(), seed)
    return strategy


def steps(strategy: SearchStrategy, number: int = 1) -> list[Tensor]:
    """The paths of each step, (P, E, O)."""
    return [torch.stack(list(strategy.paths(NO_LOSS, EMPTY))) for _ in range(number)]


# SPOS


def test_a_single_path_is_uniform_and_the_same_for_all_cells() -> None:
    counts = sum(paths[0] for paths in steps(bound(SPOS()), 2000))
    assert isinstance(counts, Tensor)
    assert counts.shape == (6, 5)
    assert all(chisquare(row).pvalue > 1e-4 for row in counts.numpy())
    assert all(paths.shape == (1, 6, 5) for paths in steps(bound(SPOS())))


@pytest.mark.parametrize("kind", [SPOS, FairNAS, AlphaNet])
def test_the_evolution_comes_in_the_last_epoch_only(kind: Callable[..., SPOS]) -> None:
    strategy, scored = bound(kind(**SMALL)), Counter[Genotype]()

    def score(genotype: Genotype) -> float:
        scored[genotype] += 1
        return genotype.ops.count("nor_conv_3x3")

    numbers = []
    for epoch in (0, 3, 4):
        strategy.start_epoch(epoch, 5)
        scored.clear()
        found, state = strategy.derive(score), strategy.generator.get_state()
        numbers.append(len(scored))
        assert set(scored.values()) == {1}
        assert found in strategy.space
        assert is_connected(found)
        assert score(found) == max(score(cell) for cell in list(scored))
        assert strategy.derive(score) == found  # the same cells again: deriving disturbs no draw
        assert strategy.generator.get_state().equal(state)
    assert numbers == [6, 6, 18]
    # What is restored from a finished search evolves as well.
    restored = bound(kind(**SMALL))
    restored.load_state_dict(strategy.state_dict())
    scored.clear()
    assert restored.derive(score) == strategy.derive(score)
    assert len(scored) == 18
    assert set(scored.values()) == {2}


def test_derived_cells_are_made_of_candidates() -> None:
    strategy, scored = bound(SPOS(**SMALL)), set[Genotype]()
    strategy.candidates = some_candidates(strategy.space, random.Random(4))
    for epoch in (0, 1):
        strategy.start_epoch(epoch, 2)
        strategy.derive(lambda cell: float(scored.add(cell) is None))  # type: ignore[func-returns-value]
    for cell in scored:
        assert all(strategy.candidates[edge, choice] for edge, choice in enumerate(strategy.space.choices(cell)))


# FairNAS


@settings(deadline=None, max_examples=40)
@given(space=spaces, seed=st.integers(0, 2**32), number=st.integers(1, 4))
def test_after_any_step_each_operation_of_each_edge_was_used_equally_often(
    space: CellSpace, seed: int, number: int
) -> None:
    used = torch.zeros(space.num_edges, space.num_ops)
    for step, paths in enumerate(steps(bound(FairNAS(), space, seed), number), start=1):
        assert paths.shape == (space.num_ops, space.num_edges, space.num_ops)
        assert paths.sum(dim=2).equal(torch.ones(space.num_ops, space.num_edges))
        assert set(paths.flatten().tolist()) <= {0.0, 1.0}
        used += paths.sum(dim=0)
        assert used.equal(torch.full_like(used, step))


@settings(deadline=None, max_examples=40)
@given(space=spaces, seed=st.integers(0, 2**32))
def test_an_edge_with_fewer_candidates_uses_them_as_evenly_as_it_can(space: CellSpace, seed: int) -> None:
    strategy = bound(FairNAS(), space, seed)
    strategy.candidates = some_candidates(space, random.Random(seed))
    (paths,) = steps(strategy)
    assert len(paths) == strategy.candidates.sum(dim=1).max()
    assert paths.sum(dim=2).equal(torch.ones(paths.shape[:2]))
    for times, is_open in zip(paths.sum(dim=0), strategy.candidates, strict=True):
        assert not times[~is_open].any()
        assert times[is_open].max() - times[is_open].min() <= 1
        assert times[is_open].min() >= 1


def test_the_orders_of_edges_are_independent_and_uniform() -> None:
    # The pairs of operations on two edges of the first path, and of the last one.
    for position in (0, -1):
        pairs = Counter((paths[position, 0].argmax().item(), paths[position, 3].argmax().item())
                        for paths in steps(bound(FairNAS(), seed=position % 7), 1000))  # fmt: skip
        assert len(pairs) == 25
        assert chisquare(list(pairs.values())).pvalue > 1e-4


# AlphaNet


def test_a_sandwich_is_the_dearest_cell_the_cheapest_and_random_ones() -> None:
    strategy = bound(AlphaNet(num_random=3))
    largest, smallest, *others = (strategy.space.genotype(path.argmax(1).tolist()) for path in steps(strategy)[0])
    assert largest.ops == ("nor_conv_3x3",) * 6
    assert smallest.ops == ("skip_connect",) * 6
    assert len(others) == 3
    counts = sum(paths[2:].sum(dim=0) for paths in steps(strategy, 700))
    assert isinstance(counts, Tensor)
    assert all(chisquare(row).pvalue > 1e-4 for row in counts.numpy())


@settings(deadline=None, max_examples=30)
@given(space=spaces.filter(lambda space: space.size <= 5_000), seed=st.integers(0, 2**32))
def test_no_cell_of_the_candidates_is_dearer_than_the_first_or_cheaper_than_the_second(
    space: CellSpace, seed: int
) -> None:
    strategy = bound(AlphaNet(num_random=0), space, seed)
    strategy.candidates = some_candidates(space, random.Random(seed))
    largest, smallest = (space.genotype(path.argmax(1).tolist()) for path in steps(strategy)[0])
    rng = random.Random(seed)
    for _ in range(50):
        ops = [rng.choice([op for op, is_open in zip(space.ops, row, strict=True) if is_open])
               for row in strategy.candidates.tolist()]  # fmt: skip
        if "none" not in ops:
            assert cost(smallest).macs <= cost(Genotype(tuple(ops))).macs <= cost(largest).macs
    assert "none" not in (*largest.ops, *smallest.ops)
    assert all(strategy.candidates[edge, space.ops.index(op)] for edge, op in enumerate(smallest.ops))


def test_an_edge_that_has_nothing_but_none_keeps_it() -> None:
    strategy = bound(AlphaNet(num_random=0))
    strategy.candidates[2] = torch.tensor([True, False, False, False, False])
    assert steps(strategy)[0][:, 2, 0].tolist() == [1, 1]


def bilevel_of(strategy: SearchStrategy, recorder: Recorder, **sgd: float) -> Bilevel:
    torch.manual_seed(0)
    network = Supernet(channels=3, num_cells=1, num_classes=4, image_channels=1)
    strategy.bind(network.space, 7)
    strategy.depth = network.depth
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3, **sgd}
    optimizer = SGD(network.parameters(), fused=True, **options)  # type: ignore[arg-type]
    learned = list(strategy.parameters())
    arch_optimizer = Adam(learned, 0.05) if learned else None
    return Bilevel(network, strategy, optimizer, arch_optimizer, recorder, grad_clip=1e9)


def test_a_step_learns_the_largest_cell_from_labels_and_the_others_from_it() -> None:
    # No momentum and no decay: the step is the learning rate times the summed gradient.
    bilevel = bilevel_of(AlphaNet(), Recorder(HOST), lr=0.5, momentum=0, weight_decay=0)
    torch.manual_seed(0)
    twin = Supernet(channels=3, num_cells=1, num_classes=4, image_channels=1)
    paths = steps(bound(AlphaNet(), twin.space, 7))[0]
    images, labels = batch(0)
    first, *others = [twin(images, path) for path in paths]
    log_probs = first.log_softmax(dim=1)
    smooth = -(0.9 * log_probs[range(6), labels] + 0.1 * log_probs.mean(dim=1)).mean()
    total = smooth + sum(adaptive_alpha_divergence(logits, first.detach()).mean() for logits in others)
    total.backward()
    bilevel.step((images, labels), batch(1))
    for after, before in zip(bilevel.supernet.parameters(), twin.parameters(), strict=True):
        step = torch.zeros_like(before) if before.grad is None else 0.5 * before.grad
        torch.testing.assert_close(after, before - step, rtol=1e-4, atol=1e-6)
    seen = bilevel.descent.tally.take()
    assert seen.loss == pytest.approx(total.item(), rel=1e-5)


PATHS: list[Callable[[], SearchStrategy]] = [SPOS, FairNAS, AlphaNet, partial(RandomSearch, per="cell")]


@pytest.mark.parametrize("strategy", PATHS, ids=["SPOS", "FairNAS", "AlphaNet", "per cell"])
def test_replayed_steps_equal_the_steps_themselves(
    strategy: Callable[[], SearchStrategy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernet.network, "make_plan", plan_densely)
    itself, replayed = bilevel_of(strategy(), Recorder(HOST)), bilevel_of(strategy(), Recorder(HOST, SoftGraph))
    for step in range(WARM_UP + 3):
        for bilevel in (itself, replayed):
            bilevel.step(batch(2 * step), batch(2 * step + 1))
    assert len(replayed.recorder.recordings) == 1
    for ours, theirs in zip(replayed.supernet.parameters(), itself.supernet.parameters(), strict=True):
        assert ours.equal(theirs)
    assert replayed.descent.tally.take() == itself.descent.tally.take()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SPOS(population=0), "population must be from 1"),
        (lambda: SPOS(mutation_probability=2.0), "mutation_probability must be from 0 to 1, got 2.0"),
        (lambda: AlphaNet(num_random=-1), "num_random must be from 0 to 1,000, got -1"),
        (lambda: AlphaNet(label_smoothing=1.0), "label_smoothing must be at least 0 and below 1, got 1.0"),
        (lambda: AlphaNet(clip=1.0), "clip must be at least 2, got 1.0"),
    ],
)
def test_impossible_options_are_named(make: Callable[[], SearchStrategy], sentence: str) -> None:
    with pytest.raises(SupernetError, match=sentence):
        make()


# A mixture for each cell


def textbook(network: Supernet, images: Tensor, mixtures: Tensor) -> Tensor:
    features, remaining = network.stem(images), iter(mixtures)
    for block in network.blocks:
        if isinstance(block, MixedCell):
            features = textbook_cell(block, network.space, features, next(remaining))
        else:
            features = block(features)
    logits: Tensor = network.head(features)
    return logits


def gradients(run: Callable[[Tensor], Tensor], network: nn.Module, mixture: Tensor, labels: Tensor) -> list[Tensor]:
    mixture = mixture.clone().requires_grad_()
    network.zero_grad()
    logits = run(mixture)
    F.cross_entropy(logits, labels).backward()
    of_network = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]
    assert mixture.grad is not None
    return [logits.detach(), *of_network, mixture.grad * (mixture.detach() != 0)]


SETTINGS = [(CellSpace(), 2), (CellSpace(3, ("nor_conv_1x1", "max_pool_3x3", "none")), 1)]


def setting(space: CellSpace, num_cells: int) -> tuple[Supernet, Tensor, Tensor]:
    torch.manual_seed(0)
    network = Supernet(space, 3, num_cells, 4, 1).double()
    return network, torch.randn(5, 1, 8, 8, dtype=torch.float64), torch.randint(4, (5,))


@pytest.mark.parametrize("kind", ["dense", "one-hot"])
@pytest.mark.parametrize(("space", "num_cells"), SETTINGS, ids=["NAS-Bench-201", "3 nodes"])
def test_a_mixture_for_each_cell_equals_the_textbook_with_its_gradients(
    space: CellSpace, num_cells: int, kind: str
) -> None:
    network, images, labels = setting(space, num_cells)
    assert network.depth == 3 * num_cells
    mixture = torch.randn(network.depth, space.num_edges, space.num_ops, dtype=torch.float64)
    if kind == "one-hot":
        mixture = F.one_hot(mixture.argmax(dim=2), space.num_ops).double()
    fused = gradients(lambda mixture: network(images, mixture), network, mixture, labels)
    oracle = gradients(lambda mixture: textbook(network, images, mixture), network, mixture, labels)
    for ours, theirs in zip(fused, oracle, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("space", "num_cells"), SETTINGS, ids=["NAS-Bench-201", "3 nodes"])
def test_the_same_mixture_in_every_cell_is_one_mixture(space: CellSpace, num_cells: int) -> None:
    network, images, labels = setting(space, num_cells)
    one = torch.randn(space.num_edges, space.num_ops, dtype=torch.float64)
    each = one.repeat(network.depth, 1, 1)
    ours = gradients(lambda mixture: network(images, mixture), network, each, labels)
    theirs = gradients(lambda mixture: network(images, mixture), network, one, labels)
    assert all(a.equal(b) for a, b in zip(ours[:-1], theirs[:-1], strict=True))
    torch.testing.assert_close(ours[-1].sum(dim=0), theirs[-1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("per_cell", [True, False], ids=["for each cell", "for all cells"])
def test_a_support_says_where_the_gradient_is_exact(per_cell: bool) -> None:
    network, images, labels = setting(CellSpace(), 1)
    choices = torch.randint(5, (3, 6))
    mixture = F.one_hot(choices, 5).double().requires_grad_()
    everything = torch.ones(3, 6, 5, dtype=torch.bool)
    support = everything if per_cell else everything[0]
    found, expected = (
        torch.autograd.grad(F.cross_entropy(logits, labels), mixture)[0]
        for logits in (network(images, mixture, support), textbook(network, images, mixture))
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(2, 6, 5), (1, 6, 5), (3, 5, 6), (3, 1, 6, 5), (5, 6)])
def test_another_number_of_mixtures_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SupernetError, match="for each of 3 cells, got"):
        Supernet(channels=2, num_cells=1)(torch.randn(2, 3, 8, 8), torch.ones(shape))


def test_random_search_draws_each_cell_on_its_own_by_option() -> None:
    strategy = bound(RandomSearch(per="cell"))
    strategy.depth = 3
    draws = torch.stack([strategy() for _ in range(1500)])
    assert draws.shape == (1500, 3, 6, 5)
    assert draws.sum(dim=3).equal(torch.ones(1500, 3, 6))
    # Pairs of operations on the same edge of two cells: all 25 equally often.
    pairs = torch.einsum("nao,nbp->abop", draws[:, 0], draws[:, 2])
    for edge in range(6):
        assert chisquare(pairs[edge, edge].flatten().numpy()).pvalue > 1e-4
    assert strategy.probabilities().shape == (6, 5)
    once = bound(RandomSearch())
    once.depth = 3
    assert once().shape == (6, 5)


class PerCell(DARTS):
    """Learns a mixture for each cell: one that is shared, tilted towards the later operations in later cells."""

    def forward(self) -> Tensor:
        tilt = torch.arange(float(self.depth))[:, None, None] * torch.linspace(-1, 1, self.space.num_ops)
        return (self.open_logits() + tilt).softmax(dim=2)

    def probabilities(self) -> Tensor:
        return SearchStrategy.probabilities(self)

    def derive(self, score: Score) -> Genotype:
        return next(self.likeliest())


def test_a_mixture_for_each_cell_is_learned_from_and_shown_as_their_mean() -> None:
    bilevel = bilevel_of(PerCell(), Recorder(HOST))
    search = bilevel.search
    mixture = search()
    assert mixture.shape == (3, 6, 5)
    torch.testing.assert_close(search.probabilities(), mixture.detach().sum(dim=0) / 3)
    before = [parameter.detach().clone() for parameter in (*search.parameters(), *bilevel.supernet.parameters())]
    bilevel.step(batch(0), batch(1))
    after = (*search.parameters(), *bilevel.supernet.parameters())
    assert not any(ours.equal(theirs) for ours, theirs in zip(after, before, strict=True))
    assert bilevel.tally.take().good_steps == 1


def test_terms_take_a_mixture_for_each_cell() -> None:
    search = bound(DARTS())
    penalty, dropout = CostPenalty(2.0, "macs"), OperationDropout(0.5)
    for term in (penalty, dropout):
        term.bind(search, 1)
    mixtures = torch.rand(4, 6, 5)
    torch.testing.assert_close(
        penalty.penalty(mixtures), torch.stack([penalty.penalty(one) for one in mixtures]).mean()
    )
    dropout.draw()
    mixed = dropout.mix(mixtures)
    assert mixed.equal(torch.stack([dropout.mix(one) for one in mixtures]))
    assert 0 < (mixed == 0).sum() < mixed.numel()


class Both(RandomSearch):
    """Several paths in a step, each with a mixture for each cell."""

    def paths(self, loss: Loss, train: Batch) -> list[Tensor]:  # type: ignore[override]
        return [self(), self()]


def test_several_paths_with_a_mixture_for_each_cell_make_one_step() -> None:
    bilevel = bilevel_of(Both(per="cell"), Recorder(HOST))
    bilevel.step(batch(0), batch(1))
    seen = bilevel.descent.tally.take()
    assert (seen.good_steps, seen.images) == (1, 12)


def test_a_search_with_a_mixture_for_each_cell_knows_how_many_there_are(tmp_path: Path) -> None:
    search = RandomSearch(num_samples=2, per="cell")
    module = fit(tmp_path, search, limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=1)
    assert search.depth == module.supernet.depth == 3
    assert search().shape == (3, 6, 5)
    assert 0 <= module.trainer.callback_metrics["val/mixed_accuracy"] <= 1
