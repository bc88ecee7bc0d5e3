"""GDAS: Searching for a Robust Neural Architecture in Four GPU Hours (Dong and Yang, 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from supernet.drawing import gumbel
from supernet.errors import SupernetError
from supernet.strategies.base import FactorisedSearch


class GDAS(FactorisedSearch):
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
        super().__init__(top_k, exclude_none)
        if not tau_max >= tau_min > 0:
            raise SupernetError(f"tau_max >= tau_min > 0 must hold, got tau_max={tau_max}, tau_min={tau_min}")
        self.tau_max, self.tau_min = tau_max, tau_min
        self.tau = tau_max

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Lower the temperature linearly from ``tau_max`` to ``tau_min``."""
        progress = epoch / max(1, num_epochs - 1)
        self.tau = self.tau_max - (self.tau_max - self.tau_min) * progress

    def forward(self) -> Tensor:
        """A one-hot mixture whose gradient is that of ``softmax((log p + Gumbel noise) / tau)`` (eq. 4).

        The noise comes from the host, so that every device draws the same.
        """
        log_probs = self.open_logits().log_softmax(dim=1)
        noise = gumbel(log_probs.shape, self.generator).to(log_probs, non_blocking=True)
        soft = ((log_probs + noise) / self.tau).softmax(dim=1)
        hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
        # Exactly one-hot, since the bracket is exactly one; only what was drawn has a gradient.
        return hard * (1.0 + (soft - soft.detach()))

    def scalars(self) -> dict[str, float]:
        """The temperature."""
        return {"temperature": self.tau}
