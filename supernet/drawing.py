"""Randomness of what is part of a search: passed in by a seed, drawn on the host, and kept by a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Drawing(nn.Module):
    """A module with a generator of its own, which is part of its state."""

    generator: torch.Generator
    """Source of every random draw of the module; on the host, so that every device draws the same."""

    def seed(self, seed: int) -> None:
        """Make the generator; what is drawn from now on depends on nothing else."""
        self.generator = torch.Generator().manual_seed(seed)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let ``torch.distributions``, which take no generator, draw from this one inside the block."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.generator.get_state())
            yield
            self.generator.set_state(torch.get_rng_state())

    def get_extra_state(self) -> dict[str, Any]:
        """The state of the generator: a resumed search draws on where it stopped."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: Any) -> None:
        """Restore `get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())


def seeded(generator: torch.Generator) -> random.Random:
    """A Python generator seeded by the current state of a torch one, which it leaves as it was."""
    return random.Random(bytes(generator.get_state().tolist()))


def gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Gumbel noise on the host: the largest of log-probabilities with noise added is a draw from them."""
    # -log of an exponential variate is a Gumbel variate; the exponential is never exactly zero.
    return torch.empty(tuple(shape)).exponential_(generator=generator).log().neg()
