from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD

from supernet.bilevel import SupernetLoss, frozen
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.strategies import DARTS, Batch, darts
from tests.textbook import textbook_supernet

Order = Literal["first", "second", "second_by_differences"]
HOW: list[dict[str, Any]] = [
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.03},
    {"momentum": 0.9, "weight_decay": 0.03},
    {"weight_decay": 0.03},
    {},
]


def batch(seed: int, size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(4, (size,), generator=generator)


def trained(how: dict[str, Any]) -> tuple[Supernet, SGD, DARTS]:
    """A supernet in float64 after some steps, whose optimizer has gathered momentum."""
    torch.manual_seed(0)
    network = Supernet(channels=2, num_cells=1, num_classes=4, image_channels=1).double()
    search = DARTS()
    search.bind(network.space, 7)
    search.double()
    with torch.no_grad():
        search.logits.mul_(500)
    optimizer = SGD(network.parameters(), 0.2, **how)
    for step in range(3):
        images, labels = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(network(images, search().detach()), labels).backward()
        optimizer.step()
    return network, optimizer, search


def hypergradient(order: Order, network: Supernet, optimizer: SGD, search: DARTS) -> Tensor:
    search.order = order
    with frozen(network):
        loss = search.arch_loss(SupernetLoss(network, optimizer, Recorder(torch.device("cpu"))), batch(10), batch(11))
        (slope,) = torch.autograd.grad(loss, search.logits)
    return slope


def after_a_real_step(network: Supernet, optimizer: SGD, logits: Tensor) -> float:
    """The validation loss after the optimizer itself has taken the step, by the textbook's forward."""
    network, state = copy.deepcopy(network), copy.deepcopy(optimizer.state_dict())
    twin = SGD(network.parameters(), 0.2)
    twin.load_state_dict(state)
    mixture = logits.softmax(dim=1)
    (images, labels), (val_images, val_labels) = batch(10), batch(11)
    twin.zero_grad()
    F.cross_entropy(textbook_supernet(network, images, mixture), labels).backward()
    twin.step()
    with torch.no_grad():
        return float(F.cross_entropy(textbook_supernet(network, val_images, mixture), val_labels))


@pytest.mark.parametrize("how", HOW, ids=["nesterov", "momentum", "decay", "plain"])
def test_second_order_is_the_slope_of_the_loss_after_a_step_of_the_optimizer_itself(how: dict[str, Any]) -> None:
    # A second formulation without autograd through a step: the step is taken by torch.optim at logits a little to
    # either side.
    network, optimizer, search = trained(how)
    exact = hypergradient("second", network, optimizer, search)
    logits, size, slopes = search.logits.detach(), 1e-6, []
    for direction in torch.randn(4, *logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        ahead, behind = (after_a_real_step(network, optimizer, logits + sign * direction) for sign in (size, -size))
        slopes.append(((ahead - behind) / (2 * size), float((exact * direction).sum())))
    found, expected = torch.tensor(slopes).T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_second_order_equals_autograd_through_an_unrolled_step() -> None:
    network, optimizer, search = trained(HOW[0])
    exact = hypergradient("second", network, optimizer, search)
    logits = search.logits.detach().clone().requires_grad_()
    mixture = logits.softmax(dim=1)
    (images, labels), (val_images, val_labels) = batch(10), batch(11)
    parameters = list(network.parameters())
    loss = F.cross_entropy(textbook_supernet(network, images, mixture), labels)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    unrolled = copy.deepcopy(network)
    names = [name for name, _ in network.named_parameters()]
    for name, w, g in zip(names, parameters, slopes, strict=True):
        g = g + 0.03 * w.detach()
        velocity = 0.9 * optimizer.state[w]["momentum_buffer"] + g
        owner, _, leaf = name.rpartition(".")
        module = unrolled.get_submodule(owner)
        del module._parameters[leaf]
        setattr(module, leaf, w.detach() - 0.2 * (g + 0.9 * velocity))
    val_loss = F.cross_entropy(textbook_supernet(unrolled, val_images, mixture), val_labels)
    (expected,) = torch.autograd.grad(val_loss, logits)
    torch.testing.assert_close(exact, expected, rtol=1e-9, atol=1e-12)


def test_differences_come_as_near_as_the_parameters_they_are_taken_at(monkeypatch: pytest.MonkeyPatch) -> None:
    network, optimizer, search = trained(HOW[0])
    first, exact = (hypergradient(order, network, optimizer, search) for order in ("first", "second"))
    assert (exact - first).norm() > 0.05 * exact.norm()
    errors = []
    for radius in (darts.RADIUS, 1e-4, 1e-6):
        monkeypatch.setattr(darts, "RADIUS", radius)
        near = hypergradient("second_by_differences", network, optimizer, search)
        errors.append(float((near - exact).norm() / exact.norm()))
    assert errors[1] < 1e-6
    assert errors[2] < 1e-6
    # At the distance of the paper, ReLUs change sides on the way: here the result is off by several times its norm.
    assert errors[0] > 1


def test_the_network_is_left_as_it_was() -> None:
    network, optimizer, search = trained(HOW[0])
    before, state = copy.deepcopy(network.state_dict()), copy.deepcopy(optimizer.state_dict())
    for order in ("second", "second_by_differences"):
        hypergradient(order, network, optimizer, search)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert str(optimizer.state_dict()) == str(state)
    assert all(parameter.requires_grad for parameter in network.parameters())
