"""DARTS: Differentiable Architecture Search (Liu, Simonyan and Yang, 2019)."""

from __future__ import annotations

from torch import Tensor

from supernet.strategies.base import FactorisedSearch


class DARTS(FactorisedSearch):
    """First-order DARTS: every candidate runs, weighted by a softmax over the operations of its edge (eq. 2).

    The logits descend the validation loss with the network's parameters as they are, which is eq. 7 with xi = 0.
    """

    def forward(self) -> Tensor:
        """Softmax of the logits; rows sum to one."""
        return self.logits.softmax(dim=1)
