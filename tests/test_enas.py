from __future__ import annotations

import math

import pytest
import torch
from pytorch_lightning import Trainer
from scipy.stats import chisquare
from torch import Tensor, nn

import supernet.network
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.module import SearchModule
from supernet.recipe import sgd_with_cosine
from supernet.replay import WARM_UP, Recorder
from supernet.space import CellSpace, is_connected
from supernet.strategies import ENAS, Batch
from supernet.strategies.controller import Controller, Drawn
from tests.soft_graph import SoftGraph
from tests.test_bilevel import HOST, batch, make, plan_densely
from tests.toy import EMPTY, ToyLoss, planted

TINY = CellSpace(3, ("none", "skip_connect", "nor_conv_1x1"))
"""27 cells."""
LARGE = CellSpace(5)
"""9,765,625 cells."""
VALUES = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(8))
"""The reward of each cell of the tiny space."""


def sharp(space: CellSpace = TINY, size: float = 40, **options: float) -> ENAS:
    """A strategy whose controller prefers some cells, in double precision."""
    strategy = ENAS(**options)  # type: ignore[arg-type]
    strategy.bind(space, 3)
    strategy.double()
    with torch.no_grad():
        strategy.controller.head.weight.mul_(size)
        strategy.controller.embedding.weight.mul_(size)
    return strategy


def every_choice(space: CellSpace) -> Tensor:
    return torch.tensor([space.choices(cell) for cell in space])


def table() -> ToyLoss:
    return ToyLoss(torch.sum, reward=lambda mixture: VALUES[tuple(mixture.argmax(dim=1).tolist())])


def by_the_library(controller: Controller, choices: Tensor) -> Tensor:
    """Log-probabilities of the operations of cells, shape (N, E, O), by torch's LSTM over the whole sequence."""
    units, num_layers = controller.start.shape[1], len(controller.layers)
    lstm = nn.LSTM(units, units, num_layers, batch_first=True).to(controller.start.dtype)
    pairs: dict[str, Tensor] = {
        f"{name}_l{number}": value
        for number, layer in enumerate(controller.layers)
        for name, value in layer.named_parameters()
    }
    inputs = torch.cat([controller.start.expand(len(choices), 1, -1), controller.embedding(choices[:, :-1])], dim=1)
    outputs, _ = torch.func.functional_call(lstm, pairs, (inputs,))
    logits = 2.5 * torch.tanh(controller.head(outputs) / 5)
    return logits.log_softmax(dim=2)


def gradients(value: Tensor, strategy: ENAS) -> Tensor:
    slopes = torch.autograd.grad(value, list(strategy.parameters()), materialize_grads=True)
    return torch.cat([slope.flatten() for slope in slopes])


def test_the_controller_is_an_lstm_of_the_library_over_what_was_chosen_before() -> None:
    strategy = sharp()
    assert sum(p.numel() for p in strategy.parameters()) == 32 + 2 * (2 * 32 * 128 + 2 * 128) + 3 * 32 + 33 * 3
    choices = every_choice(TINY)
    rows = by_the_library(strategy.controller, choices)
    judged = strategy.controller.judge(choices, strategy.candidates)
    torch.testing.assert_close(judged.log_probs, rows.gather(2, choices[..., None]).sum(dim=(1, 2)))
    entropies = torch.distributions.Categorical(logits=rows).entropy().sum(dim=1)
    torch.testing.assert_close(judged.entropies, entropies)
    assert float(entropies.detach().std()) > 1e-3  # edges do depend on each other
    torch.testing.assert_close(strategy.cell_log_probs(), judged.log_probs.detach())


def test_parameters_begin_uniform_and_come_from_the_seed_alone() -> None:
    one, other = ENAS(), ENAS()
    one.bind(CellSpace(), 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    other.bind(CellSpace(), 1)
    assert torch.get_rng_state().equal(before)
    values = torch.cat([p.detach().flatten() for p in one.parameters()])
    assert values.abs().max() <= 0.1
    assert float(values.var()) == pytest.approx(0.1**2 / 3, rel=0.05)
    assert all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_cells_are_drawn_as_often_as_the_controller_says() -> None:
    strategy = sharp()
    drawn = strategy.draw(20_000, strategy.generator)
    numbers = (drawn.choices * torch.tensor([9, 3, 1])).sum(dim=1)
    expected = 20_000 * strategy.cell_log_probs().exp()
    assert float(expected.sum()) == pytest.approx(20_000)
    assert float(expected.max()) > 1.5 * float(expected.min())
    assert chisquare(numbers.bincount(minlength=27).numpy(), expected.numpy()).pvalue > 1e-4
    torch.testing.assert_close(drawn.log_probs, strategy.cell_log_probs()[numbers])
    mixture = strategy()
    assert not mixture.requires_grad
    assert mixture.sum(dim=1).equal(torch.ones(3))


def test_the_step_is_the_mean_of_the_gradients_of_its_cells_each_with_its_advantage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Every cell once. Advantages come from a formula, and log-probabilities from the other formulation.
    strategy, choices, unused = sharp(entropy_weight=0.3, samples_per_step=27), every_choice(TINY), torch.empty(27)
    monkeypatch.setattr(strategy, "draw", lambda *_: Drawn(choices, unused, unused))
    rewards, baseline, advantages = VALUES.flatten().tolist(), float(VALUES[0, 0, 0]), []
    for reward in rewards:
        advantages.append(reward - baseline)
        baseline = 0.99 * baseline + 0.01 * reward
    found = gradients(strategy.arch_loss(table(), EMPTY, EMPTY), strategy)
    rows = by_the_library(strategy.controller, choices)
    gain = (torch.tensor(advantages) * rows.gather(2, choices[..., None]).sum(dim=(1, 2))).mean()
    bonus = 0.3 * torch.distributions.Categorical(logits=rows).entropy().sum(dim=1).mean()
    torch.testing.assert_close(found, gradients(-gain - bonus, strategy), rtol=1e-4, atol=1e-7)


def test_the_policy_gradient_is_that_of_the_mean_reward_in_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    # By enumeration: the steps that draw each one of the cells, weighted by their probabilities, add up to the gradient
    # of the mean reward.
    strategy, unused = sharp(entropy_weight=0, samples_per_step=1), torch.empty(1)
    mean, chances = torch.zeros(()), strategy.cell_log_probs().exp()
    for choices, chance in zip(every_choice(TINY), chances, strict=True):
        strategy.baseline.fill_(0.3)
        strategy.has_baseline.fill_(True)
        monkeypatch.setattr(strategy, "draw", lambda *_, row=choices[None]: Drawn(row, unused, unused))
        mean = mean + chance * gradients(strategy.arch_loss(table(), EMPTY, EMPTY), strategy)
    choices = every_choice(TINY)
    log_probs = by_the_library(strategy.controller, choices).gather(2, choices[..., None]).sum(dim=(1, 2))
    exact = gradients(-(log_probs.exp() * VALUES.flatten()).sum(), strategy)
    torch.testing.assert_close(mean, exact, rtol=1e-6, atol=1e-9)


def test_no_gradient_goes_through_a_reward_and_the_entropy_is_no_part_of_it() -> None:
    found = []
    for leak in (True, False):
        strategy = sharp(entropy_weight=50)
        loss = table()

        def reward(mixture: Tensor, batch: Batch, leak: bool = leak, strategy: ENAS = strategy) -> Tensor:
            value = (mixture[:, 2].sum() - 1) * strategy.controller.start.sum()
            return value if leak else value.detach()

        loss.reward = reward  # type: ignore[method-assign]
        found.append(gradients(strategy.arch_loss(loss, EMPTY, EMPTY), strategy))
        scale = float(strategy.controller.start.detach().sum())
        possible = scale * torch.tensor([-1.0, 0.0, 1.0, 2.0])
        assert float((possible - strategy.scalars()["best_reward"]).abs().min()) < 1e-6
    assert found[0].equal(found[1])


def test_the_baseline_is_one_moving_average_of_all_rewards_of_all_steps() -> None:
    strategy, loss, rewards = sharp(baseline_decay=0.9, samples_per_step=5), table(), []
    of = loss.reward_of
    loss.reward_of = lambda mixture: rewards.append(of(mixture)) or rewards[-1]  # type: ignore[func-returns-value]
    for step in range(6):
        strategy.start_epoch(step // 2, 3)
        if step == 3:  # it goes on in another process
            state = strategy.state_dict()
            strategy = sharp(baseline_decay=0.9, samples_per_step=5)
            strategy.load_state_dict(state)
        strategy.arch_loss(loss, EMPTY, EMPTY)
    assert len(rewards) == 30
    weights = 0.1 * 0.9 ** torch.arange(29, -1, -1.0)
    weights[0] = 0.9**29
    assert float(weights.sum()) == pytest.approx(1)
    torch.testing.assert_close(float(strategy.baseline), float((weights * torch.stack(rewards)).sum()))


def test_all_cells_of_a_step_are_rewarded_on_its_validation_batch() -> None:
    strategy, asked = ENAS(), []
    strategy.bind(TINY, 0)
    loss = ToyLoss(torch.sum)
    loss.reward = lambda mixture, batch: asked.append(batch) or torch.zeros(())  # type: ignore[method-assign,func-returns-value]
    batches = [(torch.full((1,), float(step)), torch.empty(0)) for step in range(3)]
    for val in batches:
        strategy.arch_loss(loss, EMPTY, val)
    assert [id(given) for given in asked] == [id(val) for val in batches for _ in range(20)]


def test_what_is_shown_is_of_this_epoch_and_goes_on_within_it() -> None:
    strategy, values = sharp(samples_per_step=4), torch.tensor([0.1, 0.5, 0.3, 0.2, -0.9, -0.3, -0.2, -0.2])
    rewards = iter(values)
    loss = ToyLoss(torch.sum, reward=lambda _: next(rewards))
    assert set(strategy.scalars()) == {"policy_entropy"}
    strategy.start_epoch(1, 9)
    strategy.arch_loss(loss, EMPTY, EMPTY)
    restored = sharp(samples_per_step=4)
    restored.load_state_dict(strategy.state_dict())
    restored.start_epoch(1, 9)
    shown = restored.scalars()
    assert (shown["mean_reward"], shown["best_reward"]) == pytest.approx((0.275, 0.5))
    log_probs = restored.cell_log_probs()
    assert shown["policy_entropy"] == pytest.approx(float(-(log_probs.exp() * log_probs).sum()))
    restored.start_epoch(2, 9)
    assert "mean_reward" not in restored.scalars()
    restored.arch_loss(loss, EMPTY, EMPTY)
    assert (restored.scalars()["mean_reward"], restored.scalars()["best_reward"]) == pytest.approx((-0.4, -0.2))


def test_clipped_steps_use_the_same_cells_and_begin_as_reinforce() -> None:
    plain, clipped = sharp(arch_steps_per_epoch=6), sharp(arch_steps_per_epoch=6, ppo_epochs=3)
    asked, slopes = [], []
    for strategy in (plain, clipped):
        seen = list[Tensor]()
        loss = ToyLoss(torch.sum, reward=lambda mixture, seen=seen: seen.append(mixture) or mixture[:, 2].sum())  # type: ignore[misc]
        slopes.append([gradients(strategy.arch_loss(loss, EMPTY, EMPTY), strategy) for _ in range(6)])
        asked.append(torch.stack(seen))
    torch.testing.assert_close(slopes[0][0], slopes[1][0])
    assert (len(asked[0]), len(asked[1])) == (120, 40)
    for step in (1, 2):  # nothing has moved in between, so neither have the slopes
        assert slopes[1][step].equal(slopes[1][0])
    assert not slopes[1][3].equal(slopes[1][0])
    assert clipped.steps_left == 0


def test_a_probability_that_has_moved_far_enough_moves_no_further() -> None:
    strategy = sharp(ppo_epochs=2, samples_per_step=200, entropy_weight=0)
    strategy.arch_loss(table(), EMPTY, EMPTY)
    assert strategy.drawn is not None
    before, advantages = strategy.drawn
    with torch.no_grad():
        strategy.controller.head.bias.add_(torch.tensor([2.0, -2.0, 0.5]))
    found = gradients(strategy.arch_loss(table(), EMPTY, EMPTY), strategy)
    now = strategy.controller.judge(before.choices, strategy.candidates)
    ratio = (now.log_probs.detach() - before.log_probs).exp()
    clipped = (advantages > 0) & (ratio > 1.2) | (advantages < 0) & (ratio < 0.8)
    assert 10 < int(clipped.sum()) < 190
    expected = -(advantages * ratio * now.log_probs)[~clipped].sum() / 200
    torch.testing.assert_close(found, gradients(expected, strategy))


@pytest.mark.parametrize("ppo_epochs", [1, 5])
def test_it_finds_the_only_cell_with_a_reward(ppo_epochs: int) -> None:
    cell = TINY.genotype((1, 2, 0))
    strategy = ENAS(ppo_epochs=ppo_epochs, baseline_decay=0.9)
    strategy.bind(TINY, 0)
    loss = ToyLoss(torch.sum, reward=lambda mixture: (mixture.argmax(1) == torch.tensor([1, 2, 0])).all().float())
    optimizer = strategy.make_optimizer(0.03, (0.0, 0.999), 0.0)
    for _ in range(75):
        optimizer.zero_grad()
        strategy.arch_loss(loss, EMPTY, EMPTY).backward()
        optimizer.step()
    assert next(strategy.likeliest()) == cell
    assert strategy.derive(lambda genotype: float(genotype == cell)) == cell


def test_its_cells_are_better_than_random_ones() -> None:
    # A fifth of the edges of a random cell are right.
    strategy, loss = ENAS(), planted(Genotype.from_index(6111))
    strategy.bind(CellSpace(), 0)
    optimizer = strategy.make_optimizer(0.02, (0.0, 0.999), 0.0)
    for epoch in range(2):
        strategy.start_epoch(epoch, 2)
        for _ in range(30):
            optimizer.zero_grad()
            strategy.arch_loss(loss, EMPTY, EMPTY).backward()
            optimizer.step()
    shown = strategy.scalars()
    assert shown["mean_reward"] > 0.4
    assert shown["best_reward"] > shown["mean_reward"] > shown["baseline"] - 0.1
    assert shown["policy_entropy"] < math.log(15_625) - 2


def test_more_cells_are_compared_in_the_last_epoch() -> None:
    strategy, scored = ENAS(num_samples=40, num_early_samples=7), list[Genotype]()
    strategy.bind(CellSpace(), 0)
    state = strategy.generator.get_state()

    def derive(strategy: ENAS) -> set[Genotype]:
        scored.clear()
        strategy.derive(lambda genotype: scored.append(genotype) or float(len(scored)))  # type: ignore[func-returns-value]
        assert len(scored) == len(set(scored))
        assert all(map(is_connected, scored))
        return set(scored)

    for epoch, number in ((0, 7), (1, 7), (2, 40)):
        strategy.start_epoch(epoch, 3)
        assert len(derive(strategy)) == number
    assert derive(strategy) == derive(strategy)
    assert strategy.generator.get_state().equal(state)
    for epoch, number in ((1, 7), (2, 40)):  # a restored one knows where it is
        strategy.start_epoch(epoch, 3)
        restored = ENAS(num_samples=40, num_early_samples=7)
        restored.bind(CellSpace(), 1)
        restored.load_state_dict(strategy.state_dict())
        found = derive(restored)
        assert len(found) == number
        assert found == derive(strategy)


def test_draws_end_where_the_space_does_and_leave_none_out_if_asked() -> None:
    strategy = sharp()
    assert set(strategy.samples()) == {cell for cell in TINY if is_connected(cell)}
    without = [cell for cell in TINY if "none" not in cell.ops]
    assert sorted(map(str, strategy.samples(exclude_none=True))) == sorted(map(str, without))


def test_the_likeliest_cells_and_the_probabilities_are_those_of_a_full_count() -> None:
    strategy = sharp()
    choices = every_choice(TINY)
    with torch.no_grad():
        rows = by_the_library(strategy.controller, choices)
    chances = rows.gather(2, choices[..., None]).sum(dim=(1, 2)).exp().tolist()
    by_cell = dict(zip(TINY, chances, strict=True))
    for exclude_none in (False, True):
        kept = [cell for cell in TINY if is_connected(cell) and not (exclude_none and "none" in cell.ops)]
        assert list(strategy.likeliest(exclude_none)) == sorted(kept, key=by_cell.__getitem__, reverse=True)
    for edge, row in enumerate(strategy.probabilities().tolist()):
        for op, value in zip(TINY.ops, row, strict=True):
            assert value == pytest.approx(sum(p for cell, p in by_cell.items() if cell.ops[edge] == op))


def test_a_large_space_is_drawn_from_and_not_counted() -> None:
    strategy = ENAS()
    strategy.bind(LARGE, 0)
    with torch.no_grad():  # whatever went before, the same preference: an entropy and probabilities in closed form
        strategy.controller.head.weight.zero_()
        strategy.controller.head.bias.copy_(5 * torch.tensor([0.0, 0.0, 0.0, 0.3, 0.8]).atanh())
    with pytest.raises(SupernetError, match=r"up to 100,000 cells, and this one has 9,765,625"):
        strategy.likeliest()
    row = (2.5 * torch.tensor([0.0, 0.0, 0.0, 0.3, 0.8])).softmax(dim=0)
    torch.testing.assert_close(strategy.probabilities(), row.expand(10, 5), rtol=0, atol=0.07)
    assert strategy.scalars()["policy_entropy"] == pytest.approx(10 * float(torch.special.entr(row).sum()), rel=1e-4)
    assert is_connected(strategy.derive(lambda genotype: 0.0))


def test_what_is_no_candidate_is_never_drawn_and_the_rest_is_learned() -> None:
    strategy = sharp()
    strategy.candidates[0, 1] = strategy.candidates[2, 0] = False
    slopes = gradients(strategy.arch_loss(table(), EMPTY, EMPTY), strategy)
    assert slopes.isfinite().all()
    assert slopes.abs().sum() > 0
    left = [cell for cell in TINY if cell.ops[0] != "skip_connect" and cell.ops[2] != "none"]
    assert {TINY.genotype(row) for row in strategy.draw(2_000, strategy.generator).choices.tolist()} <= set(left)
    assert set(strategy.likeliest()) == set(strategy.samples()) == set(filter(is_connected, left))
    assert float(strategy.cell_log_probs().exp().sum()) == pytest.approx(1)
    strategy.candidates[1] = torch.tensor([True, False, False])
    with pytest.raises(SupernetError, match="exclude_none"):
        strategy.samples(exclude_none=True)


def test_probabilities_of_whole_cells_are_computed_in_full_precision() -> None:
    strategy = ENAS()
    strategy.bind(TINY, 0)
    choices = every_choice(TINY)
    full = strategy.controller.judge(choices, strategy.candidates)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = strategy.controller.judge(choices, strategy.candidates)
    assert all(a.equal(b) for a, b in zip(full, mixed, strict=True))


def test_nothing_waits_for_the_device() -> None:
    device = torch.device("meta")  # whatever asks for a value fails
    bilevel = make(lambda: ENAS(samples_per_step=2, arch_steps_per_epoch=2), Recorder(device), device)
    (images, labels), val = batch(0), tuple(part.to(device) for part in batch(1))
    train = images.to(device), labels.to(device)
    bilevel.step(train, (val[0], val[1]))
    bilevel.arch_phase(train, [(val[0], val[1])] * 2)
    with pytest.raises(NotImplementedError, match="meta"):
        bilevel.tally.take()


def test_replayed_rewards_train_the_controller_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernet.network, "make_plan", plan_densely)

    def few() -> ENAS:
        return ENAS(samples_per_step=3, arch_steps_per_epoch=1)

    itself, replayed = make(few, Recorder(HOST)), make(few, Recorder(HOST, SoftGraph))
    for step in range(WARM_UP + 3):
        for bilevel in (itself, replayed):
            bilevel.step(batch(2 * step), batch(2 * step + 1))
            bilevel.arch_phase(batch(2 * step), [batch(2 * step + 1)])
    assert len(replayed.recorder.recordings) == 2
    for ours, theirs in zip(replayed.search.parameters(), itself.search.parameters(), strict=True):
        assert ours.equal(theirs)


def test_the_optimizer_is_that_of_the_reference() -> None:
    strategy = ENAS()
    strategy.bind(TINY, 0)
    (group,) = strategy.make_optimizer(1e-3, (0.0, 0.999), 0.0).param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-3, (0.0, 0.999), 1e-3, 0.0)
    assert (strategy.arch_steps_per_epoch, strategy.samples_per_step) == (50, 20)


def rates(epochs: int | None, number: int, stop_at: int | None = None) -> list[float]:
    """The learning rates of the epochs of a search; it may go on with a new optimizer."""

    def begin() -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.CosineAnnealingLR]:
        trainer = Trainer(max_epochs=number, logger=False, enable_checkpointing=False, accelerator="cpu")
        parameters = [nn.Parameter(torch.ones(1))]
        return sgd_with_cosine(
            parameters, trainer, lr=0.05, lr_min=0.0005, momentum=0.9, weight_decay=0.0, epochs=epochs
        )

    (optimizer, schedule), seen = begin(), []
    for epoch in range(number):
        if epoch == stop_at:
            states = optimizer.state_dict(), schedule.state_dict()
            optimizer, schedule = begin()
            optimizer.load_state_dict(states[0])
            schedule.load_state_dict(states[1])
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("epochs", [10, 7, 1, None])
def test_the_rate_of_the_network_falls_and_rises_by_a_cosine(epochs: int | None) -> None:
    length = epochs or 45
    wave = [0.0005 + 0.0495 * (1 + math.cos(math.pi * epoch / length)) / 2 for epoch in range(45)]
    seen = rates(epochs, 45)
    assert seen == pytest.approx(wave, rel=1e-9)
    for stop_at in (10, 11, 20, 33):
        assert rates(epochs, 45, stop_at) == seen


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ppo_epochs": 3}, "arch_steps_per_epoch must be a multiple of ppo_epochs, .* got 50 and 3"),
        ({"arch_steps_per_epoch": 0}, "arch_steps_per_epoch must be a multiple"),
        ({"ppo_epochs": 0}, "both at least 1, got 50 and 0"),
        ({"ppo_clip": 0.0}, "ppo_clip must be above 0, got 0"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"tanh_constant": math.nan}, "tanh_constant must be above 0"),
        ({"samples_per_step": 0}, "samples_per_step must be at least 1"),
        ({"baseline_decay": 1.0}, "baseline_decay must be at least 0 and below 1, got 1"),
        ({"entropy_weight": -1.0}, "entropy_weight must be 0 or more"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"num_early_samples": 10**9}, "num_early_samples must be at most"),
    ],
)
def test_impossible_options_are_named(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(SupernetError, match=sentence):
        ENAS(**options)  # type: ignore[arg-type]


def test_a_rate_that_falls_in_no_epochs_is_refused() -> None:
    with pytest.raises(SupernetError, match="network_lr_epochs must be above 0, got 0"):
        SearchModule(ENAS(), network_lr_epochs=0)
