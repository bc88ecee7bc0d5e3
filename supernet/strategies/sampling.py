"""Strategies that learn nothing: the baselines every other one has to beat."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from supernet.discrete import Score, random_cells
from supernet.genotype import Genotype
from supernet.strategies.base import SearchStrategy, best, check_candidates, seeded


class RandomSearch(SearchStrategy):
    """Random search with parameter sharing (Li and Talwalkar, 2019): train uniform paths, keep the best of n cells.

    Args:
        num_samples: how many connected cells, drawn uniformly, are compared with shared parameters when deriving.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, num_samples: int = 100, exclude_none: bool = False) -> None:
        super().__init__()
        check_candidates(num_samples=num_samples)
        self.num_samples, self.exclude_none = num_samples, exclude_none

    def forward(self) -> Tensor:
        """A one-hot mixture with each operation of an edge equally likely; on the host."""
        shape = (self.space.num_edges,)
        choices = torch.randint(self.space.num_ops, shape, generator=self.generator)
        return torch.nn.functional.one_hot(choices, self.space.num_ops).float()

    def probabilities(self) -> Tensor:
        """Uniform."""
        return torch.full((self.space.num_edges, self.space.num_ops), 1 / self.space.num_ops)

    def derive(self, score: Score) -> Genotype:
        """The best of ``num_samples`` cells; deriving twice at the same step compares the same cells."""
        cells = random_cells(self.space, seeded(self.generator), exclude_none=self.exclude_none)
        return best(list(islice(cells, self.num_samples)), score)
