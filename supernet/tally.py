"""Counting steps where they are taken: sums on the device, and what was told of them when somebody looked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from supernet.ranks import add_up


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
