"""What strategies share that draw by Gumbel noise and lower a temperature.

Shapes: E edges, O candidate operations.
"""

from __future__ import annotations

from torch import Tensor

from supernet.drawing import gumbel
from supernet.errors import SupernetError
from supernet.strategies.base import FactorisedSearch, line


class GumbelSearch(FactorisedSearch):
    """A strategy that draws from the concrete distribution, at a temperature that falls from epoch to epoch.

    Args:
        tau_max: temperature in the first epoch.
        tau_min: temperature in the last epoch; it falls linearly.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, tau_max: float, tau_min: float, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__(top_k, exclude_none)
        if not tau_max >= tau_min > 0:
            raise SupernetError(f"tau_max >= tau_min > 0 must hold, got tau_max={tau_max}, tau_min={tau_min}")
        self.tau_max, self.tau_min = tau_max, tau_min
        self.tau = tau_max

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Lower the temperature linearly from ``tau_max`` to ``tau_min``."""
        self.tau = line(self.tau_max, self.tau_min, epoch, num_epochs)

    def concrete(self) -> Tensor:
        """A sample of the concrete distribution, ``softmax((log p + Gumbel noise) / tau)``, shape (E, O)."""
        log_probs = self.open_logits().log_softmax(dim=1)
        return ((log_probs + gumbel(log_probs, self.generator)) / self.tau).softmax(dim=1)

    def scalars(self) -> dict[str, float]:
        """The temperature."""
        return {"temperature": self.tau}
