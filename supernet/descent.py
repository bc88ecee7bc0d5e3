"""One step of a network down its cross-entropy, and the sums that are kept of many.

Shapes: B images, E edges, O candidate operations, P paths.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from supernet.replay import Recorder


class Seen(NamedTuple):
    """Sums over the steps since the last look."""

    steps: int
    loss: float
    right: int
    images: int


class Tally:
    """Sums over steps that stay on the device: a look at them makes the host wait, so it is taken rarely.

    Args:
        device: where the steps run.
        dtype: of the losses; the sums are kept in float32 at least.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        wide = torch.promote_types(dtype, torch.float32)
        self.loss, self.right = (torch.zeros((), dtype=wide, device=device) for _ in range(2))
        self.steps = self.images = 0  # the host knows these without looking

    def take(self) -> Seen:
        """The sums so far; counting starts again at zero."""
        loss, right = torch.stack([self.loss, self.right]).tolist()
        seen = Seen(self.steps, loss, int(right), self.images)
        self.loss.zero_()
        self.right.zero_()
        self.steps = self.images = 0
        return seen


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """How many logits, shape (B, classes), are largest at the label, shape (B,); a scalar on the device."""
    return (logits.detach().argmax(dim=1) == labels).sum()


class Running:
    """What a tally has told so far: the mean loss since the last look, and the accuracy of the epoch.

    Args:
        tally: what to look at.
    """

    def __init__(self, tally: Tally) -> None:
        self.tally, self.loss, self.right, self.images = tally, float("nan"), 0, 0

    def look(self) -> bool:
        """Take the tally; whether there was any step in it."""
        seen = self.tally.take()
        self.right, self.images = self.right + seen.right, self.images + seen.images
        if seen.steps:
            self.loss = seen.loss / seen.steps
        return seen.steps > 0

    def accuracy(self) -> float | None:
        """Share of right answers since this was asked last, 0 to 1; None if no image was seen."""
        self.look()
        share = self.right / self.images if self.images else None
        self.right = self.images = 0
        return share

    def state_dict(self) -> dict[str, Any]:
        """What was seen and what is not looked at yet."""
        tally = self.tally
        pending = {
            "loss": tally.loss.clone(),
            "right": tally.right.clone(),
            "steps": tally.steps,
            "images": tally.images,
        }
        return {"loss": self.loss, "right": self.right, "images": self.images, "pending": pending}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.loss, self.right, self.images = (state_dict[name] for name in ("loss", "right", "images"))
        pending = state_dict["pending"]
        self.tally.loss.copy_(pending["loss"])
        self.tally.right.copy_(pending["right"])
        self.tally.steps, self.tally.images = pending["steps"], pending["images"]


class Descent:
    """Takes steps of a network's optimizer.

    Args:
        network: ``network(images)``, or ``network(images, mixture)``, returns class logits.
        optimizer: steps over all parameters of the network.
        recorder: runs the step, as it is or by a recording.
        grad_clip: largest norm of the gradient; None leaves it as it is.
    """

    def __init__(
        self, network: nn.Module, optimizer: Optimizer, recorder: Recorder, grad_clip: float | None = None
    ) -> None:
        self.network, self.optimizer, self.recorder, self.grad_clip = network, optimizer, recorder, grad_clip
        self.parameters = list(network.parameters())
        self.tally = Tally(recorder.device, self.parameters[0].dtype)
        self.rate = torch.zeros((), device=recorder.device)
        if recorder.make_graph is not None:
            use_fused(optimizer)  # only this one reads the learning rate where it lies

    def step(self, images: Tensor, labels: Tensor, mixtures: Tensor | None = None) -> None:
        """One step of the optimizer.

        Args:
            images: normalised, shape (B, channels, H, W).
            labels: class numbers, shape (B,).
            mixtures: shape (P, E, O): the losses under all of them are summed; None for a network without.
        """
        if self.recorder.make_graph is not None:
            self.rate.fill_(self.optimizer.param_groups[0]["lr"])
        paths = [] if mixtures is None else [mixtures]
        self.recorder("descent", self._step, images, labels, *paths)
        self.tally.steps += 1
        self.tally.images += len(labels) * (1 if mixtures is None else len(mixtures))

    def _step(self, images: Tensor, labels: Tensor, mixtures: Tensor | None = None) -> tuple[Tensor, ...]:
        self.optimizer.zero_grad()
        for path in [()] if mixtures is None else [(mixture,) for mixture in mixtures]:
            logits = self.network(images.to(self.parameters[0].dtype), *path)
            loss = F.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.tally.loss += loss.detach()
            self.tally.right += right_answers(logits, labels)
        for parameter in self.parameters:
            if parameter.grad is None:  # an operation that did not run keeps its weight decay and its momentum
                parameter.grad = torch.zeros_like(parameter)
        if self.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        self._descend()
        return ()

    def _descend(self) -> None:
        """Take the step; in a recording the learning rate lies in memory, where a schedule can change it."""
        if self.recorder.make_graph is None:
            self.optimizer.step()
            return
        (group,) = self.optimizer.param_groups
        rate, group["lr"] = group["lr"], self.rate
        try:
            self.optimizer.step()
        finally:
            group["lr"] = rate


def use_fused(optimizer: Optimizer) -> None:
    """Step by one kernel, whatever a checkpoint says that was written elsewhere."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, None
