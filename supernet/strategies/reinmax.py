"""ReinMax: Bridging Discrete and Backpropagation, Straight-Through and Beyond (Liu et al., 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from supernet.errors import SupernetError
from supernet.strategies.base import Batch, FactorisedSearch, Loss
from supernet.strategies.gumbel import gumbel_noise


class ReinMax(FactorisedSearch):
    """One operation an edge is drawn and counts alone; the gradient is accurate to second order.

    Where a straight-through gradient takes the loss for linear between two operations, this one goes by the slope at
    either end (Heun's method): it has no bias where the loss is quadratic in the row of an edge. The paper takes it
    to no architecture search; this strategy is GDAS with another gradient and no temperature to lower.

    Args:
        tau: temperature of the softmax that stands in for the other operations; 1 is accurate to second order,
            more has less variance.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, tau: float = 1.0, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__(top_k, exclude_none)
        if not 1 <= tau < float("inf"):
            raise SupernetError(f"tau must be 1 or more, got {tau}")
        self.tau = tau

    @torch.no_grad()
    def draw(self) -> Tensor:
        """A one-hot row an edge, as often as the softmax of the logits says, shape (E, O); without gradient."""
        logits = self.open_logits()
        choices = (logits + gumbel_noise(logits, self.generator)).argmax(dim=1, keepdim=True)
        return torch.zeros_like(logits).scatter_(1, choices, 1.0)

    def through(self, drawn: Tensor) -> Tensor:
        """One-hot rows, shape (E, O), to the last bit, with the gradient of ``2 * pi_1 - pi_0 / 2``."""
        logits = self.open_logits()
        pi_0 = logits.softmax(dim=1)
        midway = (drawn + (logits / self.tau).softmax(dim=1)) / 2
        # The softmax that is midway now, as a function of the logits; those are finite where `logits` may not be.
        pi_1 = (self.logits + (midway.log() - self.logits).detach()).softmax(dim=1)
        pi_2 = 2 * pi_1 - pi_0 / 2
        return drawn + (pi_2 - pi_2.detach())

    def forward(self) -> Tensor:
        """A one-hot mixture; every candidate has a gradient, drawn or not."""
        return self.through(self.draw())

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """The validation loss of a drawn cell; every candidate runs, for its gradient at zero."""
        return loss(self(), val, support=self.candidates)
