"""SETN: One-Shot Neural Architecture Search via Self-Evaluated Template Network (Dong and Yang, 2019)."""

from __future__ import annotations

from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.discrete import Score
from supernet.genotype import Genotype
from supernet.strategies.base import Batch, FactorisedSearch, Loss, best, check_candidates


class SETN(FactorisedSearch):
    """The network trains uniform paths, so that all cells are trained alike; an evaluator learns which to try.

    The evaluator is a softmax over the operations of each edge that descends the validation loss of the mixture it
    makes of them, as in the reference code of NAS-Bench-201. Cells are drawn from it, and the best one by shared
    parameters is derived.

    Args:
        num_samples: how many different connected cells, drawn by the evaluator, are compared when deriving.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, num_samples: int = 100, exclude_none: bool = False) -> None:
        super().__init__(exclude_none=exclude_none)
        del self.top_k  # cells to compare are drawn here, and not taken by rank
        check_candidates(num_samples=num_samples)
        self.num_samples = num_samples

    def forward(self) -> Tensor:
        """A one-hot mixture with each candidate of an edge equally likely; on the host."""
        choices = torch.multinomial(self.candidates.float(), 1, generator=self.generator)[:, 0]
        return F.one_hot(choices, self.space.num_ops).float()

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """The validation loss of the softmax of the logits."""
        return loss(self.open_logits().softmax(dim=1), val)

    def derive(self, score: Score) -> Genotype:
        """The best of ``num_samples`` cells; deriving twice at the same step compares the same cells."""
        return best(list(islice(self.samples(self.exclude_none), self.num_samples)), score)
