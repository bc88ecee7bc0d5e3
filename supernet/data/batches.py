"""Batches out of memory: no worker processes, many images prepared at a time.

The k-th batch of an epoch, its augmentation included, is given by seed and epoch alone. So a run goes on in the middle
of an epoch as if nothing had happened, and each of several devices takes its share of the batch that one would take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from supernet.data.image_set import ImageSet
from supernet.strategies import Batch


class Share(NamedTuple):
    """Which part of every batch this process takes."""

    rank: int = 0
    """Number of this process, from 0."""
    world_size: int = 1
    """Number of processes."""

    def of(self, num_images: int) -> slice:
        """Its part of a batch; the parts of all processes are disjoint and differ by one image at most."""
        return slice(*(num_images * rank // self.world_size for rank in (self.rank, self.rank + 1)))


EVERYTHING = Share()
"""The share of a process that is alone."""


class IndexBatches(Sampler[Tensor]):
    """Positions of the images of each batch.

    With a seed: a fresh order each epoch, given by seed and epoch alone, in full batches; the rest is left out,
    which changes from epoch to epoch. Without: every image once, in order, in batches of nearly equal size.
    """

    def __init__(
        self, num_images: int, batch_size: int, seed: int | None = None, device: torch.device | None = None
    ) -> None:
        self.num_images, self.batch_size, self.seed, self.device = num_images, batch_size, seed, device
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the Trainer calls this before each epoch."""
        self.epoch = epoch

    def generator(self, stream: int) -> torch.Generator:
        """A generator on the host for this epoch: stream 0 shuffles, stream 1 augments."""
        seed = (self.seed or 0) * 1_000_003 + self.epoch
        return torch.Generator().manual_seed((2 * seed + stream) % 2**63)

    def __len__(self) -> int:
        full = self.num_images // self.batch_size
        return full if self.seed is not None else -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        # A generator: Lightning makes the iterator before it sets the epoch, and the order must follow the latter.
        if self.seed is None:
            yield from torch.arange(self.num_images, device=self.device).tensor_split(len(self))
            return
        order = torch.randperm(self.num_images, generator=self.generator(0))
        # Moved once an epoch: an index on the host would make the device wait at every batch.
        order = order.to(self.device)
        yield from order[: len(self) * self.batch_size].view(-1, self.batch_size)


def no_draws(num_images: int, generator: torch.Generator) -> Tensor:
    """Nothing at random: shape (0, num_images)."""
    return torch.empty(0, num_images)


class Batches:
    """Batches of a set, ready for a network.

    They are gathered and prepared several at a time, on the device that trains.

    Args:
        images: the set, wherever it lies.
        sampler: positions of the images of each batch; Lightning tells it the epoch.
        draw: ``draw(num_images, generator)`` draws what the augmentation of so many images needs, shape
            (anything, num_images), on the host.
        prepare: ``prepare(images, draws)`` turns uint8 images into what the network takes.
        device: where the batches are needed.
        share: the part of every batch that is needed here.
    """

    batch_sampler = None  # Lightning asks for both

    def __init__(
        self,
        images: ImageSet,
        sampler: IndexBatches,
        draw: Callable[[int, torch.Generator], Tensor],
        prepare: Callable[[Tensor, Tensor], Tensor],
        device: torch.device,
        share: Share = EVERYTHING,
    ) -> None:
        self.images, self.sampler, self.draw, self.prepare = images, sampler, draw, prepare
        self.device, self.share = device, share
        self.num_taken = 0
        self._left_at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # All of this happens at the first batch: Lightning makes the iterator before it sets the epoch.
        rows, generator = iter(self.sampler), self.sampler.generator(1)
        left_at, self._left_at = self._left_at, {}
        skip = left_at.get("num_taken", 0) if left_at.get("epoch") == self.sampler.epoch else 0
        self.num_taken = 0
        while together := list(islice(rows, self._num_at_once())):
            # Everything is drawn, whoever needs it: the draws that follow must be those of an unbroken run.
            sizes = [len(row) for row in together]
            draws = torch.split(self.draw(sum(sizes), generator), sizes, dim=1)
            already = min(max(skip - self.num_taken, 0), len(together))
            self.num_taken += already
            for batch in self._prepared(together[already:], draws[already:]):
                self.num_taken += 1
                yield batch

    def _prepared(self, rows: list[Tensor], draws: tuple[Tensor, ...]) -> Iterator[Batch]:
        """The share of each of these batches, prepared together."""
        if not rows:
            return
        parts = [self.share.of(len(row)) for row in rows]
        positions = [row[part] for row, part in zip(rows, parts, strict=True)]
        drawn = torch.cat([draw[:, part] for draw, part in zip(draws, parts, strict=True)], dim=1)
        chosen, sizes = torch.cat(positions), [len(row) for row in positions]
        images = self.prepare(self._move(self.images.images[chosen]), drawn)
        labels = self._move(self.images.labels[chosen])
        yield from zip(torch.split(images, sizes), torch.split(labels, sizes), strict=True)

    def state_dict(self) -> dict[str, int]:
        """How far this epoch has come."""
        return {"epoch": self.sampler.epoch, "num_taken": self.num_taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave out what was taken of the epoch in which a run was interrupted, if that is the next one."""
        self._left_at = dict(state_dict)

    def _move(self, chosen: Tensor) -> Tensor:
        """To the device; from pinned memory, or else the copy would make the host wait."""
        leaves_host = self.device.type == "cuda" and chosen.device.type == "cpu"
        return (chosen.pin_memory() if leaves_host else chosen).to(self.device, non_blocking=True)

    def _num_at_once(self) -> int:
        """How many batches fit into 8 MiB of floats: enough to make the cost of each call small."""
        num_bytes = 4 * self.images.images[0].numel() * self.sampler.batch_size
        return max(1, 2**23 // num_bytes)
