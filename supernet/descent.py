"""One step of a network down its cross-entropy.

Shapes: B images, E edges, O candidate operations, P paths, L cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from supernet.ranks import average, world_size
from supernet.replay import Recorder
from supernet.tally import Tally


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """How many logits, shape (B, classes), are largest at the label, shape (B,); a scalar on the device."""
    return (logits.detach().argmax(dim=1) == labels).sum()


PathLoss = Callable[..., Tensor]
"""``path_loss(logits, labels, first, mixture)``; see `supernet.strategies.SearchStrategy.network_loss`."""


def cross_entropy(logits: Tensor, labels: Tensor, first: Tensor | None, mixture: Tensor | None) -> Tensor:
    """The loss of a path that learns from the labels alone."""
    return F.cross_entropy(logits, labels)


class Descent:
    """Takes steps of a network's optimizer.

    Args:
        network: ``network(images)``, or ``network(images, mixture)``, returns class logits.
        optimizer: steps over all parameters of the network.
        recorder: runs the step, as it is or by a recording.
        grad_clip: largest norm of the gradient; None leaves it as it is.
        path_loss: the loss of one mixture.
        differentiates_mixture: whether it takes gradients by the mixture.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        recorder: Recorder,
        grad_clip: float | None = None,
        path_loss: PathLoss = cross_entropy,
        differentiates_mixture: bool = False,
    ) -> None:
        self.path_loss, self.differentiates_mixture = path_loss, differentiates_mixture
        self.network, self.optimizer, self.recorder, self.grad_clip = network, optimizer, recorder, grad_clip
        self.parameters, self.buffers = list(network.parameters()), list(network.buffers())
        apart: Callable[[], list[list[nn.Parameter]]] = getattr(network, "parameters_apart", lambda: [self.parameters])
        self.parts = apart()
        self.tally = Tally(recorder.device, self.parameters[0].dtype)
        self.rate = torch.zeros((), device=recorder.device)
        if recorder.make_graph is not None or recorder.device.type == "cuda":
            use_fused(optimizer)  # it alone reads on the device what the learning rate is, and whether to step
        begin_momentum(optimizer)

    def step(self, images: Tensor, labels: Tensor, mixtures: Tensor | None = None) -> None:
        """One step of the optimizer.

        Args:
            images: normalised, shape (B, channels, H, W).
            labels: class numbers, shape (B,).
            mixtures: shape (P, E, O) or (P, L, E, O): the losses under all of them are summed; None for a network
                without.
        """
        if self.recorder.make_graph is not None:
            self.rate.fill_(self.optimizer.param_groups[0]["lr"])
        paths = [] if mixtures is None else [mixtures]
        self.recorder("descent", self._step, images, labels, *paths)

    def _step(self, images: Tensor, labels: Tensor, mixtures: Tensor | None = None) -> tuple[Tensor, ...]:
        self.optimizer.zero_grad()
        kept = [buffer.clone() for buffer in self.buffers]
        total, right = torch.zeros((2,), dtype=self.tally.sums.dtype, device=labels.device).unbind()
        paths: list[Tensor | None] = [None] if mixtures is None else [mixture.detach() for mixture in mixtures]
        first: Tensor | None = None
        for path in paths:
            if path is not None and self.differentiates_mixture:
                path.requires_grad_()
            logits = self.network(images.to(self.parameters[0].dtype), *([] if path is None else [path]))
            loss = self.path_loss(logits, labels, first, path)
            first = logits.detach() if first is None else first
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            right += right_answers(logits, labels)
        for part in self.parts:
            if all(parameter.grad is None for parameter in part):
                continue  # a part of a network that is several stays as it is
            for parameter in part:
                if parameter.grad is None:  # an operation that did not run keeps its weight decay and its momentum
                    parameter.grad = torch.zeros_like(parameter)
        pool(self.parameters, total, right)
        norm = clip(self.parameters, self.grad_clip)
        good = self.tally.add(total, right, world_size() * len(paths) * len(labels), norm)
        self._descend(good)
        put_back(self.buffers, kept, good, on_device=bool(self.optimizer.param_groups[0].get("fused")))
        return ()

    def _descend(self, good: Tensor) -> None:
        """Take a good step; in a recording the learning rate lies in memory, where a schedule can change it."""
        if self.recorder.make_graph is None:
            take_step(self.optimizer, good)
            return
        (group,) = self.optimizer.param_groups
        rate, group["lr"] = group["lr"], self.rate
        try:
            take_step(self.optimizer, good)
        finally:
            group["lr"] = rate


def pool(parameters: Sequence[nn.Parameter], loss: Tensor, right: Tensor) -> None:
    """Make the gradients and the loss those of the whole batch, and the right answers too, on every rank.

    The ranks have equal parts of the batch, so its mean loss is the mean of theirs. All of it goes in one message,
    and all ranks come to the same verdict on a step.
    """
    if world_size() > 1:
        right *= world_size()
        average([*(parameter.grad for parameter in parameters if parameter.grad is not None), loss, right])


def clip(parameters: list[nn.Parameter], largest: float | None) -> Tensor:
    """Scale the gradients down to a largest norm, unless that is None; the norm that they had."""
    if largest is not None:
        return nn.utils.clip_grad_norm_(parameters, largest)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def take_step(optimizer: Optimizer, good: Tensor) -> None:
    """Step if a flag on the device says so; a fused optimizer reads it there, so that the host need not wait."""
    if optimizer.param_groups[0].get("fused"):
        optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif good.is_meta or good:  # on "meta" there are operations to count, and no values
        optimizer.step()


def put_back(buffers: list[Tensor], kept: list[Tensor], good: Tensor, *, on_device: bool) -> None:
    """Give running statistics the values that were kept, unless a flag says that the step is good.

    The forward pass has moved them before anybody knew.
    """
    if not on_device:
        if not (good.is_meta or good):
            for buffer, old in zip(buffers, kept, strict=True):
                buffer.copy_(old)
        return
    for dtype in {buffer.dtype for buffer in buffers}:  # all of a kind at once: there are hundreds of small ones
        pairs = [(new, old) for new, old in zip(buffers, kept, strict=True) if new.dtype == dtype]
        new, before = (torch.cat([tensor.reshape(-1) for tensor in side]) for side in zip(*pairs, strict=True))
        chosen = torch.split(torch.where(good, new, before), [buffer.numel() for buffer, _ in pairs])
        torch._foreach_copy_(
            [buffer for buffer, _ in pairs],
            [part.view_as(buffer) for part, (buffer, _) in zip(chosen, pairs, strict=True)],
        )


def use_fused(optimizer: Optimizer) -> None:
    """Step by one kernel, whatever a checkpoint says that was written elsewhere."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, None


def begin_momentum(optimizer: Optimizer) -> None:
    """Begin SGD's momentum at zero, which changes no step: else it began with whatever a skipped first step left."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
