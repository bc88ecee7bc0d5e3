"""Leaving operations out for a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from supernet.errors import SupernetError
from supernet.strategies import SearchStrategy
from supernet.strategies.base import line
from supernet.terms.base import SearchTerm


class OperationDropout(SearchTerm):
    """Leaves out each operation of each edge with a probability, in the same steps for all cells.

    What is left is scaled up, so that it adds up to the same in the mean. An edge may be left out altogether. One draw
    serves the architecture and the network in a step.

    Args:
        rate: probability in the first epoch, at least 0 and below 1.
        final_rate: in the last epoch, by a line.
        ops: operations that may be left out; all of them if not given. ``[skip_connect]`` is that of P-DARTS
            (Chen et al., 2019, section 3.3).
    """

    edits_rows = True

    def __init__(self, rate: float, final_rate: float = 0.0, ops: list[str] | None = None) -> None:
        super().__init__()
        for name, value in {"rate": rate, "final_rate": final_rate}.items():
            if not 0 <= value < 1:
                raise SupernetError(f"{name} must be at least 0 and below 1, got {value}")
        self.rate, self.final_rate, self.ops, self.now = rate, final_rate, ops, rate

    def bind(self, search: SearchStrategy, seed: int, network: Mapping[str, Any] = {}) -> None:
        """Find the operations."""
        super().bind(search, seed, network)
        if unknown := set(self.ops or ()) - set(search.space.ops):
            raise SupernetError(f"ops of OperationDropout must be in {list(search.space.ops)}, got {sorted(unknown)}")
        self.open = torch.tensor([self.ops is None or op in self.ops for op in search.space.ops])
        self.factors = torch.ones(search.space.num_edges, search.space.num_ops)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Move the rate."""
        self.now = line(self.rate, self.final_rate, epoch, num_epochs)

    def draw(self) -> None:
        """Draw what is left out."""
        kept = torch.rand(self.factors.shape, generator=self.generator) >= self.now
        self.factors = torch.where(self.open, kept / (1 - self.now), 1.0)

    def mix(self, mixture: Tensor) -> Tensor:
        """The mixture without what is left out."""
        return mixture * self.factors.to(mixture, non_blocking=True)

    def scalars(self) -> dict[str, float]:
        """The rate."""
        return {"operation_dropout": self.now}
