"""SNAS: Stochastic Neural Architecture Search (Xie et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from supernet.strategies.base import Batch, Loss
from supernet.strategies.gumbel import GumbelSearch


class SNAS(GumbelSearch):
    """Every candidate runs, weighted by one sample a step of the concrete distribution, at a falling temperature.

    Single level: logits and network descend the same loss, that on the training batch under the same sample, so
    that their gradients are those of one joint backward pass. It is two passes here, and the batches of the other
    half go unused. The paper's loss for resources is `supernet.terms.CostPenalty`.

    Args:
        tau_max: temperature in the first epoch.
        tau_min: temperature in the last epoch; it falls linearly.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, tau_max: float = 1.0, tau_min: float = 0.03, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__(tau_max, tau_min, top_k, exclude_none)
        self._sample: Tensor | None = None

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Lower the temperature; forget the sample of a step that was broken off."""
        super().start_epoch(epoch, num_epochs)
        self._sample = None

    def forward(self) -> Tensor:
        """A sample of the concrete distribution; rows sum to one."""
        return self.concrete()

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """The loss on the training batch under a sample, which is kept for the network's part of the same step."""
        sample = self()
        self._sample = sample.detach()
        return loss(sample, train)

    def paths(self, loss: Loss, train: Batch) -> Iterator[Tensor]:
        """The very sample of the architecture's part of this step; one of its own where there was none."""
        sample, self._sample = self._sample, None
        yield self() if sample is None else sample
