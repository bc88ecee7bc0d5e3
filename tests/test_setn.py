from __future__ import annotations

import torch
from scipy.stats import chisquare
from torch import Tensor

from supernet.genotype import Genotype
from supernet.space import CellSpace, is_connected
from supernet.strategies import SETN
from tests.toy import EMPTY, ToyLoss, planted


def bound(logits: Tensor | None = None, num_samples: int = 100) -> SETN:
    strategy = SETN(num_samples)
    strategy.bind(CellSpace(), 0)
    if logits is not None:
        with torch.no_grad():
            strategy.logits.copy_(logits)
    return strategy


def test_paths_are_uniform_over_the_candidates_whatever_was_learned() -> None:
    strategy = bound(5 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    strategy.candidates[1] = torch.tensor([True, False, True, False, True])
    counts = torch.zeros(6, 5)
    for _ in range(1_000):
        (mixture,) = strategy.paths(ToyLoss(torch.sum), EMPTY)
        assert mixture.sum(dim=1).equal(torch.ones(6))
        counts += mixture
    assert counts[1, [1, 3]].tolist() == [0, 0]
    for edge, row in enumerate(counts):
        seen = row[strategy.candidates[edge]]
        assert chisquare(seen.numpy()).pvalue > 1e-4


def test_the_evaluator_descends_the_validation_loss_of_the_softmax() -> None:
    # The closed form of the softmax's Jacobian, on the validation batch and nothing else.
    strategy = bound(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))
    strategy.candidates[2, 3] = False
    weights = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    loss = ToyLoss(lambda mixture: (weights * mixture).sum())
    val = torch.ones(1), torch.ones(1)
    value = strategy.arch_loss(loss, EMPTY, val)
    value.backward()
    exponentials = strategy.logits.detach().exp() * strategy.candidates
    soft = exponentials / exponentials.sum(dim=1, keepdim=True)
    torch.testing.assert_close(value.detach(), (weights * soft).sum())
    expected = soft * (weights - (soft * weights).sum(dim=1, keepdim=True))
    torch.testing.assert_close(strategy.logits.grad, expected, rtol=1e-4, atol=1e-6)
    assert [(batch is val) for _, batch, *_ in loss.calls] == [True]


def test_cells_to_compare_are_drawn_from_what_was_learned() -> None:
    logits = torch.zeros(6, 5)
    logits[:, 3] = 2.0
    logits[0, 1] = -torch.inf
    strategy, scored = bound(logits, num_samples=200), list[Genotype]()
    found = strategy.derive(lambda cell: scored.append(cell) or cell.ops.count("avg_pool_3x3"))  # type: ignore[func-returns-value]
    assert len(scored) == len(set(scored)) == 200
    assert all(map(is_connected, scored))
    assert found.ops.count("avg_pool_3x3") == max(cell.ops.count("avg_pool_3x3") for cell in scored)
    assert all(cell.ops[0] != "skip_connect" for cell in scored)
    share = sum(cell.ops.count("nor_conv_3x3") for cell in scored) / 1200
    assert 0.35 < share < 0.7  # 0.65 if cells could be drawn twice, and 0.2 if draws were uniform
    state = strategy.generator.get_state()
    strategy.derive(lambda cell: 0.0)
    assert scored[-200:] == scored[:200]
    assert strategy.generator.get_state().equal(state)


def test_it_finds_a_planted_cell() -> None:
    cell = Genotype.from_index(6111)
    strategy, loss = bound(), planted(cell)
    optimizer = strategy.make_optimizer(0.1, (0.5, 0.999), 0.0)
    for _ in range(60):
        optimizer.zero_grad()
        strategy.arch_loss(loss, EMPTY, EMPTY).backward()
        optimizer.step()
    assert next(strategy.likeliest()) == cell
    assert strategy.derive(lambda genotype: float(genotype == cell)) == cell
