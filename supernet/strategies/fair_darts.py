"""Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search (Chu et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from supernet.discrete import most_likely
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.strategies.base import Batch, FactorisedSearch, Loss


class FairDARTS(FactorisedSearch):
    """Every candidate runs, weighted by a sigmoid of its own: operations need not win at the expense of others.

    A zero-one loss drives the sigmoids apart, since nothing else makes them choose. The paper keeps an operation
    whose sigmoid is above a threshold, up to two edges a node; a cell of this space has one on each edge, which is
    that of the largest sigmoid. The operation 'none' gets no gradient but that of the zero-one loss: exclude it.

    Args:
        zero_one_weight: of the zero-one loss, ``-mean((sigmoid(logits) - 0.5)^2)``.
        top_k: how many of the connected cells with the largest product of sigmoids are compared with shared
            parameters when deriving. 1 takes the first, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    is_smooth = True
    is_softmax = False

    def __init__(self, zero_one_weight: float = 10.0, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__(top_k, exclude_none)
        if not 0 <= zero_one_weight < float("inf"):
            raise SupernetError(f"zero_one_weight must be 0 or more, got {zero_one_weight}")
        self.zero_one_weight = zero_one_weight

    def forward(self) -> Tensor:
        """Sigmoids of the logits, each between 0 and 1; exactly zero for what is no candidate."""
        return self.open_logits().sigmoid()

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """The validation loss and the zero-one loss."""
        mixture: Tensor = self()
        return loss(mixture, val) - self.zero_one_weight * (mixture - 0.5).square().mean()

    def probabilities(self) -> Tensor:
        """The sigmoids; rows do not sum to one."""
        mixture: Tensor = self()
        return mixture.detach()

    def likeliest(self, exclude_none: bool = False) -> Iterator[Genotype]:
        """Connected cells, the largest product of sigmoids first."""
        return most_likely(self.space, F.logsigmoid(self.open_logits().detach()), exclude_none=exclude_none)
