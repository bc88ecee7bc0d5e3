"""One step of a network down its cross-entropy, and the sums that are kept of many.

Shapes: B images, E edges, O candidate operations, P paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from supernet.ranks import add_up, average, world_size
from supernet.replay import Recorder


class Seen(NamedTuple):
    """Sums over the steps since the last look."""

    loss: float
    """Of the good steps: those whose loss and gradient are finite."""
    right: int
    """Right answers in the good steps."""
    images: int
    """Images in the good steps."""
    good_steps: int
    steps: int
    first_bad: int
    """Which of the steps was the first that is not good, from 1; 0 if there was none."""
    bad_loss: float
    """Its loss."""
    bad_norm: float
    """The norm of its gradient."""


class Tally:
    """Sums over steps that stay on the device: a look at them makes the host wait, so it is taken rarely.

    Args:
        device: where the steps run.
        dtype: of the losses; the sums are kept in float32 at least.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        wide = torch.promote_types(dtype, torch.float32)
        self.sums = torch.zeros(len(Seen._fields), dtype=wide, device=device)

    def add(self, loss: Tensor, right: Tensor, num_images: int, norm: Tensor) -> Tensor:
        """Count a step.

        Args:
            loss: of the step, a scalar.
            right: number of right answers.
            num_images: among how many.
            norm: of the gradient.

        Returns:
            Whether loss and gradient are finite, as a flag on the device.
        """
        sums: Any = Seen._make(self.sums.unbind())  # views into it
        loss, norm = loss.detach().to(sums.loss), norm.detach().to(sums.loss)
        good = torch.isfinite(loss + norm)
        sums.loss.add_(torch.where(good, loss, 0))
        sums.right.add_(torch.where(good, right, 0))
        sums.images.add_(good, alpha=num_images)
        sums.good_steps.add_(good)
        sums.steps.add_(1)
        first = ~good & (sums.first_bad == 0)
        for place, value in ((sums.first_bad, sums.steps), (sums.bad_loss, loss), (sums.bad_norm, norm)):
            place.copy_(torch.where(first, value, place))
        return good

    def read(self) -> Seen:
        """The sums so far."""
        loss, *counts, bad_loss, bad_norm = self.sums.tolist()
        return Seen._make((loss, *map(int, counts), bad_loss, bad_norm))

    def take(self) -> Seen:
        """The sums so far; counting starts again at zero."""
        seen = self.read()
        self.sums.zero_()
        return seen


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """How many logits, shape (B, classes), are largest at the label, shape (B,); a scalar on the device."""
    return (logits.detach().argmax(dim=1) == labels).sum()


class MeanLoss:
    """The mean loss of images in batches of any size, over all ranks.

    Lightning's own mean over devices counts images wrong where their parts of a batch differ in size, since it
    rounds; that of torchmetrics counts batches, or else makes the host wait at each.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def add(self, loss: Tensor, num_images: int) -> None:
        """Count a batch by its mean loss, a scalar."""
        loss = loss.detach().to(torch.promote_types(loss.dtype, torch.float32))
        sums = torch.stack([loss * num_images, loss.new_full((), num_images)])
        self.sums = sums if self.sums is None else self.sums + sums

    def take(self) -> Tensor:
        """The mean so far, a scalar; counting starts again. All ranks ask for it, and have seen as many batches."""
        if self.sums is None:
            raise RuntimeError("there is no mean of nothing")
        (loss, num_images), self.sums = self.sums.clone(), None
        add_up([loss, num_images])
        mean: Tensor = loss / num_images
        return mean


class Bad(NamedTuple):
    """A step whose loss or gradient is not finite."""

    steps_ago: int
    """0 for the last step."""
    loss: float
    norm: float
    """Of the gradient."""


def first_bad(seen: Seen) -> Bad | None:
    """The first bad step among those seen."""
    return Bad(seen.steps - seen.first_bad, seen.bad_loss, seen.bad_norm) if seen.first_bad else None


class Running:
    """What a tally has told so far: the mean loss since the last look, and the accuracy of the epoch.

    Args:
        tally: what to look at.
    """

    def __init__(self, tally: Tally) -> None:
        self.tally, self.loss, self.right, self.images = tally, float("nan"), 0, 0
        self.num_bad = self.num_bad_in_a_row = 0
        self.bad: Bad | None = None

    def look(self) -> bool:
        """Take the tally; whether there was any good step in it."""
        seen = self.tally.take()
        self.bad = first_bad(seen)
        self.right, self.images = self.right + seen.right, self.images + seen.images
        bad_steps = seen.steps - seen.good_steps
        self.num_bad += bad_steps
        self.num_bad_in_a_row = 0 if seen.good_steps else self.num_bad_in_a_row + bad_steps
        if seen.good_steps:
            self.loss = seen.loss / seen.good_steps
        return seen.good_steps > 0

    def accuracy(self) -> float | None:
        """Share of right answers since this was asked last, 0 to 1; None if no image was seen."""
        self.look()
        share = self.right / self.images if self.images else None
        self.right = self.images = 0
        return share

    def state_dict(self) -> dict[str, Any]:
        """What was seen and what is not looked at yet."""
        return {**{name: getattr(self, name) for name in self._STATE}, "pending": self.tally.sums.clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        for name in self._STATE:
            setattr(self, name, state_dict[name])
        self.tally.sums.copy_(state_dict["pending"])

    _STATE = ("loss", "right", "images", "num_bad", "num_bad_in_a_row")


def go_on(tallies: Mapping[str, Tally], states: Mapping[str, dict[str, Any]]) -> dict[str, Running]:
    """What is told of each tally, from where a checkpoint has left it if there is one."""
    runnings = {part: Running(tally) for part, tally in tallies.items()}
    for part, state in states.items():
        runnings[part].load_state_dict(state)
    return runnings


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
        begin_momentum(optimizer)

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

    def _step(self, images: Tensor, labels: Tensor, mixtures: Tensor | None = None) -> tuple[Tensor, ...]:
        self.optimizer.zero_grad()
        total, right = torch.zeros((2,), dtype=self.tally.sums.dtype, device=labels.device).unbind()
        paths = [()] if mixtures is None else [(mixture,) for mixture in mixtures]
        for path in paths:
            logits = self.network(images.to(self.parameters[0].dtype), *path)
            loss = F.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            right += right_answers(logits, labels)
        for parameter in self.parameters:
            if parameter.grad is None:  # an operation that did not run keeps its weight decay and its momentum
                parameter.grad = torch.zeros_like(parameter)
        pool(self.parameters, total, right)
        norm = clip(self.parameters, self.grad_clip)
        self._descend(self.tally.add(total, right, world_size() * len(paths) * len(labels), norm))
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
