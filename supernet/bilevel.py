"""The bilevel step: the architecture descends its loss, then the network descends its own (Liu et al., 2019, alg. 1).

Plain PyTorch, without a trainer. Shapes: E edges, O candidate operations; a mixture is (E, O).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from supernet.descent import Descent, clip, pool, right_answers, take_step, use_fused
from supernet.network import Supernet
from supernet.ranks import world_size
from supernet.replay import Recorder
from supernet.strategies import Batch, SearchStrategy
from supernet.tally import Tally


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of a module's parameters inside the block; other gradients are the same bit for bit."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class Bilevel:
    """Takes steps of the architecture and of the network, by turns.

    Args:
        supernet: the network.
        search: the strategy.
        network_optimizer: steps over the parameters of the supernet.
        arch_optimizer: steps over the parameters of the strategy; None if it has none.
        recorder: runs what the device does in a step, as it is or by recordings.
        grad_clip: largest norm of the network's gradient.
    """

    def __init__(
        self,
        supernet: Supernet,
        search: SearchStrategy,
        network_optimizer: Optimizer,
        arch_optimizer: Optimizer | None,
        recorder: Recorder,
        grad_clip: float,
    ) -> None:
        self.supernet, self.search, self.arch_optimizer, self.recorder = supernet, search, arch_optimizer, recorder
        self.descent = Descent(supernet, network_optimizer, recorder, grad_clip)
        if arch_optimizer is not None and recorder.device.type == "cuda":
            use_fused(arch_optimizer)
        self.tally = Tally(recorder.device, self.descent.parameters[0].dtype)

    def step(self, train: Batch, val: Batch) -> None:
        """One step of the architecture, if it learns, then one of the network.

        Args:
            train: normalised images and labels of the half that trains the network.
            val: a batch of the half that trains the architecture.
        """
        if self.arch_optimizer is not None:
            self.arch_step(self.arch_optimizer, train, val)
        self.descent.step(*train, torch.stack([mixture.detach() for mixture in self.search.paths()]))

    def arch_step(self, optimizer: Optimizer, train: Batch, val: Batch) -> None:
        """Descend the loss of the strategy with the network as it is."""
        parameters = list(self.search.parameters())
        self._right, self._num_images = torch.zeros((), device=self.recorder.device), 0

        def cross_entropy(mixture: Tensor, batch: Batch) -> Tensor:
            return self.loss(mixture, batch, count=batch is val)

        with frozen(self.supernet):
            loss = self.search.arch_loss(cross_entropy, train, val)
            if loss is None:
                return
            optimizer.zero_grad()
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            else:  # the mixture cuts the input off: where every candidate runs, its gradient is zero
                for parameter in parameters:
                    parameter.grad = torch.zeros_like(parameter)
            loss = loss.detach()
            pool(parameters, loss, self._right)
            take_step(optimizer, self.tally.add(loss, self._right, self._num_images, clip(parameters, None)))

    def loss(self, mixture: Tensor, batch: Batch, *, count: bool = False) -> Tensor:
        """Cross-entropy of the supernet under a mixture, a scalar; its right answers may count for the step."""
        if self.recorder.make_graph is None or not (torch.is_grad_enabled() and mixture.requires_grad):
            loss, right = self._loss(*batch, mixture)
        else:
            loss, right, slope = self.recorder("arch", self._loss_and_slope, *batch, mixture.detach())
            loss = _KnownSlope.apply(mixture, loss, slope)
        if count:
            self._right += right
            self._num_images += world_size() * len(batch[1])
        return loss

    def _loss(self, images: Tensor, labels: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.supernet(images.to(self.descent.parameters[0].dtype), mixture)
        return F.cross_entropy(logits, labels), right_answers(logits, labels)

    def _loss_and_slope(self, images: Tensor, labels: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            mixture = mixture.detach().requires_grad_()
            loss, right = self._loss(images, labels, mixture)
            (slope,) = torch.autograd.grad(loss, mixture)
        return loss.detach(), right, slope


class _KnownSlope(torch.autograd.Function):
    """A loss whose gradient is there already: it was computed together with the loss."""

    @staticmethod
    def forward(ctx: Any, mixture: Tensor, loss: Tensor, slope: Tensor) -> Tensor:
        # Copies: a recording overwrites what it returned.
        ctx.slope = slope.to(mixture, copy=True)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.to(ctx.slope) * ctx.slope, None, None
