"""The bilevel step: the architecture descends its loss, then the network descends its own (Liu et al., 2019, alg. 1).

Plain PyTorch, without a trainer. Shapes: E edges, O candidate operations, L cells; a mixture is (E, O) or (L, E, O).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from supernet.descent import Descent, begin_momentum, clip, pool, right_answers, take_step, use_fused
from supernet.network import Supernet
from supernet.ranks import average, world_size
from supernet.replay import Recorder
from supernet.strategies import Batch, Parameters, SearchStrategy
from supernet.tally import Tally
from supernet.terms import SearchTerm


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


class SupernetLoss:
    """What a strategy may ask of the supernet (`supernet.strategies.Loss`); counts the right answers of its answers.

    Args:
        supernet: the network.
        optimizer: of its parameters.
        recorder: runs what the device does, as it is or by recordings.
        terms: change the mixture and add to the loss.
    """

    def __init__(
        self, supernet: Supernet, optimizer: Optimizer, recorder: Recorder, terms: Sequence[SearchTerm] = ()
    ) -> None:
        self.supernet, self.optimizer, self.recorder, self.terms = supernet, optimizer, recorder, terms
        self.dtype = supernet.stem.get_parameter("0.weight").dtype
        self.begin()

    def begin(self, val: Batch | None = None) -> None:
        """Count from zero; with other parameters than the network's own, only answers on the validation batch."""
        self.val, self.num_images = val, 0
        self.right = torch.zeros((), device=self.recorder.device)

    def __call__(
        self, mixture: Tensor, batch: Batch, *, parameters: Parameters | None = None, support: Tensor | None = None
    ) -> Tensor:
        """The cross-entropy under a mixture, a scalar, and the terms of the mixture."""
        mixed = self.mix(mixture)
        if parameters is not None:
            loss, right = self._loss(*batch, mixed, parameters, support)
        elif self.recorder.make_graph is None or not (torch.is_grad_enabled() and mixture.requires_grad):
            loss, right = self._loss(*batch, mixed, None, support)
        else:  # a recording runs every candidate
            loss, right, slope = self.recorder("arch", self._loss_and_slope, *batch, mixed.detach())
            loss = _KnownSlope.apply(mixed, loss, slope)
        if parameters is None or batch is self.val:
            self._count(right, len(batch[1]))
        return loss + self.penalty(mixture) if self.terms else loss

    @torch.no_grad()
    def reward(self, mixture: Tensor, batch: Batch) -> Tensor:
        """Accuracy under a mixture, of the whole batch of all ranks, less the terms of the mixture."""
        images, labels = batch
        (logits,) = self.recorder("reward", lambda *inputs: (self._logits(*inputs),), images, self.mix(mixture))
        right, num_images = right_answers(logits, labels).to(self.right), len(labels)
        self._count(right, num_images)
        whole = right.clone()
        average([whole])
        return whole / num_images - self.penalty(mixture)

    def parameters(self) -> dict[str, Tensor]:
        """The network's parameters by name, as leaves that can be differentiated by."""
        return {name: p.detach().requires_grad_() for name, p in self.supernet.named_parameters()}

    def descended(self, parameters: Parameters, gradients: Parameters) -> dict[str, Tensor]:
        """Parameters after a step of the network's optimizer, which is SGD, down these gradients."""
        (group,) = self.optimizer.param_groups
        momentum, after = group["momentum"], {}
        for (name, own), slope in zip(self.supernet.named_parameters(), gradients.values(), strict=True):
            step = slope + group["weight_decay"] * parameters[name]
            if momentum:
                velocity = momentum * self.optimizer.state[own]["momentum_buffer"] + step
                step = step + momentum * velocity if group["nesterov"] else velocity
            after[name] = parameters[name] - group["lr"] * step
        return after

    @property
    def learning_rate(self) -> float:
        """Of the network's optimizer, now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def penalty(self, mixture: Tensor) -> Tensor:
        """The terms of a mixture."""
        return sum((term.penalty(mixture) for term in self.terms), torch.zeros((), device=mixture.device))

    def mix(self, mixture: Tensor) -> Tensor:
        """A mixture as the terms leave it."""
        for term in self.terms:
            mixture = term.mix(mixture)
        return mixture

    def _count(self, right: Tensor, num_images: int) -> None:
        self.right += right
        self.num_images += world_size() * num_images

    def _logits(
        self, images: Tensor, mixture: Tensor, parameters: Parameters | None = None, support: Tensor | None = None
    ) -> Tensor:
        arguments = images.to(self.dtype), mixture, support
        if parameters is None:
            return self.supernet(*arguments)  # type: ignore[no-any-return]
        with self.supernet.as_written():  # it may be differentiated twice
            return torch.func.functional_call(self.supernet, dict(parameters), arguments)  # type: ignore[no-any-return]

    def _loss(self, images: Tensor, labels: Tensor, mixture: Tensor, *how: Any) -> tuple[Tensor, Tensor]:
        logits = self._logits(images, mixture, *how)
        return F.cross_entropy(logits, labels), right_answers(logits, labels)

    def _loss_and_slope(self, images: Tensor, labels: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            mixture = mixture.detach().requires_grad_()
            loss, right = self._loss(images, labels, mixture)
            (slope,) = torch.autograd.grad(loss, mixture)
        return loss.detach(), right, slope


class Bilevel:
    """Takes steps of the architecture and of the network, by turns.

    Args:
        supernet: the network.
        search: the strategy.
        network_optimizer: steps over the parameters of the supernet.
        arch_optimizer: steps over the parameters of the strategy; None if it has none.
        recorder: runs what the device does in a step, as it is or by recordings.
        grad_clip: largest norm of the network's gradient.
        terms: change mixtures, and add to what the architecture descends.
    """

    def __init__(
        self,
        supernet: Supernet,
        search: SearchStrategy,
        network_optimizer: Optimizer,
        arch_optimizer: Optimizer | None,
        recorder: Recorder,
        grad_clip: float,
        terms: Sequence[SearchTerm] = (),
    ) -> None:
        self.supernet, self.search, self.arch_optimizer, self.recorder = supernet, search, arch_optimizer, recorder
        self.terms = terms
        self.descent = Descent(
            supernet, network_optimizer, recorder, grad_clip, search.network_loss, search.differentiates_mixture
        )
        self.loss = SupernetLoss(supernet, network_optimizer, recorder, terms)
        self.plain_loss = SupernetLoss(supernet, network_optimizer, recorder)
        if arch_optimizer is not None:
            if recorder.device.type == "cuda":
                use_fused(arch_optimizer)
            begin_momentum(arch_optimizer)
        self.tally = Tally(recorder.device, self.descent.parameters[0].dtype)
        self.learns = True
        """Whether the architecture takes its steps."""

    def step(self, train: Batch, val: Batch) -> None:
        """One step of the architecture, if it learns now, then one of the network.

        Args:
            train: normalised images and labels of the half that trains the network.
            val: a batch of the half that trains the architecture.
        """
        for term in self.terms:
            term.draw()
        if self.search.arch_steps_per_epoch is None:
            self.arch_step(train, val)
        with frozen(self.supernet):
            paths = [self.loss.mix(path).detach() for path in self.search.paths(self.plain_loss, train)]
        self.descent.step(*train, torch.stack(paths))

    def arch_phase(self, train: Batch, val: Iterable[Batch]) -> None:
        """The steps in a row that some architectures take after each epoch of the network."""
        for batch in islice(val, self.search.arch_steps_per_epoch or 0) if self.learns else ():
            for term in self.terms:
                term.draw()
            self.arch_step(train, batch)

    def arch_step(self, train: Batch, val: Batch) -> None:
        """Descend the loss of the strategy with the network as it is, if there is something to learn now."""
        if self.arch_optimizer is None or not self.learns:
            return
        parameters = list(self.search.parameters())
        self.loss.begin(val)
        with frozen(self.supernet):
            loss = self.search.arch_loss(self.loss, train, val)
            if loss is None:
                return
            for term in self.terms:
                loss = loss + term.regularise(self.search)
            self.arch_optimizer.zero_grad()
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            for parameter in parameters:
                if parameter.grad is None:  # such as where the mixture cuts the input off
                    parameter.grad = torch.zeros_like(parameter)
            loss = loss.detach()
            pool(parameters, loss, self.loss.right)
            good = self.tally.add(loss, self.loss.right, self.loss.num_images, clip(parameters, None))
            take_step(self.arch_optimizer, good)
        self.search.after_arch_step()


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
