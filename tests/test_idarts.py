from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.bilevel import SupernetLoss, frozen
from supernet.errors import SupernetError
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.space import CellSpace
from supernet.strategies import DARTS, IDARTS, Batch, Parameters
from tests.test_darts import HOW, batch, trained
from tests.textbook import textbook_supernet
from tests.toy import ToyLoss

TRAIN: Batch = (torch.zeros(1), torch.zeros(1))
VAL: Batch = (torch.ones(1), torch.ones(1))
SIZE = 4


class Quadratic:
    """L_train = w'Hw/2 - w'Bm and L_val = (w - t)'Q(w - t)/2 + c'm, for a mixture m written as one row."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        root, other = draw(SIZE, SIZE), draw(SIZE, SIZE)
        self.h, self.q = root @ root.T + torch.eye(SIZE), other @ other.T
        self.b, self.t, self.c = draw(SIZE, 30), draw(SIZE), draw(30)
        self.w = draw(SIZE)

    def train(self, w: Tensor, mixture: Tensor) -> Tensor:
        return w @ self.h @ w / 2 - w @ self.b @ mixture.flatten()

    def val(self, w: Tensor, mixture: Tensor) -> Tensor:
        return (w - self.t) @ self.q @ (w - self.t) / 2 + self.c @ mixture.flatten()

    def optimum(self, mixture: Tensor) -> Tensor:
        return torch.linalg.solve(self.h, self.b @ mixture.flatten())

    def loss(self, w: Tensor, learning_rate: float) -> ToyLoss:
        """Of parameters in two pieces."""

        def function(mixture: Tensor, batch: Batch, parameters: Parameters) -> Tensor:
            whole = torch.cat([parameters["first"], parameters["second"].flatten()])
            return self.val(whole, mixture) if batch is VAL else self.train(whole, mixture)

        return ToyLoss(function, {"first": w[:1], "second": w[1:].view(1, -1)}, learning_rate)


def hypergradient(search: DARTS, loss: ToyLoss | SupernetLoss, train: Batch = TRAIN, val: Batch = VAL) -> Tensor:
    (slope,) = torch.autograd.grad(search.arch_loss(loss, train, val), search.logits)
    return slope


def bound(search: DARTS) -> DARTS:
    search.bind(CellSpace(), 0)
    search.double()
    with torch.no_grad():
        search.logits.mul_(1e3)
    return search


def through_softmax(search: DARTS, by_mixture: Tensor) -> Tensor:
    """A gradient by the mixture as one by the logits, by the Jacobian in full."""
    rows = [
        (torch.diag(p) - torch.outer(p, p)) @ part
        for p, part in zip(search.logits.detach().softmax(1), by_mixture.view(6, 5), strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("num_terms", [0, 1, 2, 5])
def test_on_quadratics_it_is_the_truncated_series_in_closed_form(num_terms: int) -> None:
    problem, rate = Quadratic(), 0.05
    search = bound(IDARTS(num_terms))
    v = problem.q @ (problem.w - problem.t)
    step = torch.eye(SIZE, dtype=torch.float64) - rate * problem.h
    series = sum(torch.linalg.matrix_power(step, k) @ v for k in range(num_terms + 1))
    expected = through_softmax(search, problem.c + rate * problem.b.T @ series)
    torch.testing.assert_close(hypergradient(search, problem.loss(problem.w, rate)), expected, rtol=1e-11, atol=1e-12)


def test_with_many_terms_it_is_the_gradient_by_the_implicit_function_theorem() -> None:
    # A second formulation: the optimum is a formula of the mixture, and autograd goes through it.
    problem, search = Quadratic(), bound(IDARTS(400))
    rate = 1 / float(torch.linalg.eigvalsh(problem.h)[-1])
    mixture = search()
    optimum = problem.optimum(mixture)
    (expected,) = torch.autograd.grad(problem.val(optimum, mixture), search.logits)
    loss = problem.loss(optimum.detach(), rate)
    torch.testing.assert_close(hypergradient(search, loss), expected, rtol=1e-9, atol=1e-10)
    few = hypergradient(bound(IDARTS(0)), loss)
    assert (few - expected).norm() > 0.1 * expected.norm()


def test_at_the_optimum_the_first_term_is_the_second_order_of_darts_under_plain_sgd() -> None:
    problem = Quadratic()
    search, darts = bound(IDARTS(0)), bound(DARTS("second"))
    loss = problem.loss(problem.optimum(search().detach()), 0.05)
    expected = hypergradient(darts, loss)
    torch.testing.assert_close(hypergradient(search, loss), expected, rtol=1e-10, atol=1e-12)
    assert (expected - hypergradient(bound(DARTS()), loss)).norm() > 0.01


@pytest.mark.parametrize("num_terms", [0, 1, 3])
def test_at_an_optimum_it_is_the_gradient_through_as_many_steps_of_training(num_terms: int) -> None:
    # Steps from an optimum lead nowhere, so each sees the same Hessian. The loss is no quadratic.
    problem, rate = Quadratic(), 0.05

    def train(w: Tensor, mixture: Tensor) -> Tensor:
        return problem.train(w, mixture) + w.cosh().sum() + w.sin().prod()

    def function(mixture: Tensor, batch: Batch, parameters: Parameters) -> Tensor:
        return problem.val(parameters["w"], mixture) if batch is VAL else train(parameters["w"], mixture)

    search = bound(IDARTS(num_terms))
    mixture = search()
    w = torch.zeros(SIZE, dtype=torch.float64)
    for _ in range(20):  # Newton's method
        slope = torch.autograd.functional.jacobian(lambda w: train(w, mixture.detach()), w)
        w = w - torch.linalg.solve(torch.autograd.functional.hessian(lambda w: train(w, mixture.detach()), w), slope)
    assert slope.abs().max() < 1e-12
    stepped = w.clone().requires_grad_()
    for _ in range(num_terms + 1):
        (slope,) = torch.autograd.grad(train(stepped, mixture), stepped, create_graph=True)
        stepped = stepped - rate * slope
    (expected,) = torch.autograd.grad(problem.val(stepped, mixture), search.logits)
    found = hypergradient(search, ToyLoss(function, {"w": w}, rate))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def put(network: Supernet, w: Tensor) -> None:
    """Give the parameters these values, in one row."""
    parts = w.split([parameter.numel() for parameter in network.parameters()])
    with torch.no_grad():
        for parameter, part in zip(network.parameters(), parts, strict=True):
            parameter.copy_(part.view(parameter.shape))


def slope_of(network: Supernet, mixture: Tensor, batch: Batch) -> Tensor:
    """By the parameters, in one row, by the textbook's forward."""
    loss = F.cross_entropy(textbook_supernet(network, batch[0], mixture), batch[1])
    parts = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def test_on_a_supernet_it_is_the_series_of_differences_of_gradients() -> None:
    # Without a second derivative anywhere: Hessians are differences of slopes.
    network, optimizer, search = trained(HOW[0])
    train, val, size, rate = batch(10), batch(11), 1e-5, 0.2
    implicit = IDARTS(2)
    implicit.bind(network.space, 0)
    implicit.double().load_state_dict(search.state_dict())
    with frozen(network):
        found = hypergradient(implicit, SupernetLoss(network, optimizer, Recorder(torch.device("cpu"))), train, val)
    logits, w = search.logits.detach(), torch.cat([part.detach().flatten() for part in network.parameters()])

    def at(w: Tensor) -> Tensor:
        put(network, w)
        return slope_of(network, logits.softmax(1), train)

    total = v = slope_of(network, logits.softmax(1), val)
    for _ in range(2):
        v = v - rate * (at(w + size * v) - at(w - size * v)) / (2 * size)
        total = total + v
    put(network, w)

    def objective(logits: Tensor) -> float:
        mixture = logits.softmax(1)
        loss = F.cross_entropy(textbook_supernet(network, val[0], mixture), val[1])
        return float((loss - rate * slope_of(network, mixture, train) @ total).detach())

    for direction in torch.randn(3, *logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        ahead, behind = (objective(logits + sign * direction) for sign in (size, -size))
        assert (ahead - behind) / (2 * size) == pytest.approx(float((found * direction).sum()), rel=1e-4, abs=1e-6)


def test_the_loss_is_that_of_the_validation_batch() -> None:
    problem, search = Quadratic(), bound(IDARTS())
    found = search.arch_loss(problem.loss(problem.w, 0.05), TRAIN, VAL)
    torch.testing.assert_close(found, problem.val(problem.w, search()))


def test_a_series_without_a_first_term_is_refused() -> None:
    with pytest.raises(SupernetError, match="num_terms must be 0 or more, got -1"):
        IDARTS(-1)
