"""GDAS: Searching for a Robust Neural Architecture in Four GPU Hours (Dong and Yang, 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from supernet.strategies.gumbel import GumbelSearch


class GDAS(GumbelSearch):
    """One operation an edge is drawn by Gumbel-max and counts alone; its gradient is that of the softmax (eq. 4).

    One draw serves all cells in a step. In the reference code of NAS-Bench-201 the operations that were not drawn
    add their bare coefficient, zero, to the features and so get a gradient; here they get none, as in the paper.

    Args:
        tau_max: temperature in the first epoch.
        tau_min: temperature in the last epoch; it falls linearly.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, tau_max: float = 10.0, tau_min: float = 0.1, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__(tau_max, tau_min, top_k, exclude_none)

    def forward(self) -> Tensor:
        """A one-hot mixture whose gradient is that of ``softmax((log p + Gumbel noise) / tau)`` (eq. 4)."""
        soft = self.concrete()
        hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
        # Exactly one-hot, since the bracket is exactly one; only what was drawn has a gradient.
        return hard * (1.0 + (soft - soft.detach()))
