"""Strategies that learn nothing about cells while they train: the baselines every other one has to beat."""

from __future__ import annotations

from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from supernet.discrete import Score
from supernet.genotype import Genotype
from supernet.strategies.base import SearchStrategy, best, check_candidates


class RandomSearch(SearchStrategy):
    """Random search with parameter sharing (Li and Talwalkar, 2019): train uniform paths, keep the best of n cells.

    Args:
        num_samples: how many connected cells, drawn uniformly, are compared with shared parameters when deriving.
        exclude_none: derive only cells without the operation 'none'.
        per: draw one path for all cells in a "step", or another one for each "cell", as the code of NAS-Bench-201
            does.
    """

    def __init__(
        self, num_samples: int = 100, exclude_none: bool = False, per: Literal["step", "cell"] = "step"
    ) -> None:
        super().__init__()
        check_candidates(num_samples=num_samples)
        self.num_samples, self.exclude_none, self.per = num_samples, exclude_none, per

    def forward(self) -> Tensor:
        """A one-hot mixture with each operation of an edge equally likely, or one for each cell; on the host."""
        num_draws = self.depth if self.per == "cell" else 1
        choices = torch.multinomial(self.probabilities().repeat(num_draws, 1), 1, generator=self.generator)
        mixtures = torch.nn.functional.one_hot(choices.view(num_draws, -1), self.space.num_ops).float()
        return mixtures if self.per == "cell" else mixtures[0]

    def probabilities(self) -> Tensor:
        """Uniform."""
        return self.candidates / self.candidates.sum(dim=1, keepdim=True)

    def derive(self, score: Score) -> Genotype:
        """The best of ``num_samples`` cells; deriving twice at the same step compares the same cells."""
        return best(list(islice(self.samples(self.exclude_none), self.num_samples)), score)
