"""AlphaNet: Improved Training of Supernets with Alpha-Divergence (Wang et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.cost import operation_costs
from supernet.distillation import adaptive_alpha_divergence
from supernet.errors import SupernetError
from supernet.genotype import ZERO
from supernet.strategies.base import Batch, Loss
from supernet.strategies.spos import SPOS


class AlphaNet(SPOS):
    """The sandwich rule (Yu and Huang, 2019), with the adaptive alpha-divergence as what the smaller nets learn from.

    A step trains the largest cell by the labels, then the smallest one and some random ones by what the largest one
    answers, all on the same batch, and sums their gradients. In the paper cells differ in width and depth; here the
    largest has the dearest operation on each edge (3x3 convolutions), and the smallest the cheapest that is not
    'none' (skip connections). Cells are searched as in SPOS; the paper does so for each budget of operations.

    Args:
        num_random: random cells in each step, beside the largest and the smallest.
        label_smoothing: of the cross-entropy of the largest cell.
        clip: largest importance weight of the divergence, at least 2.
        population: cells in each generation of the evolution.
        generations: of the evolution, the random one included.
        parents: how many of the best cells so far have children: half of them mutants, half crossovers of two.
        mutation_probability: that an edge of a mutant is drawn anew.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(
        self,
        num_random: int = 2,
        label_smoothing: float = 0.1,
        clip: float = 5.0,
        population: int = 50,
        generations: int = 20,
        parents: int = 10,
        mutation_probability: float = 0.1,
        exclude_none: bool = False,
    ) -> None:
        super().__init__(population, generations, parents, mutation_probability, exclude_none)
        if not 0 <= num_random <= 1_000:
            raise SupernetError(f"num_random must be from 0 to 1,000, got {num_random}")
        if not 0 <= label_smoothing < 1:
            raise SupernetError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        if not clip >= 2:
            raise SupernetError(f"clip must be at least 2, got {clip}")
        self.num_random, self.label_smoothing, self.clip = num_random, label_smoothing, clip

    def paths(self, loss: Loss, train: Batch) -> Iterator[Tensor]:
        """The largest cell, the smallest one, and random ones; one-hot."""
        yield from self._sandwich()
        for _ in range(self.num_random):
            yield self()

    def network_loss(self, logits: Tensor, labels: Tensor, first: Tensor | None, mixture: Tensor) -> Tensor:
        """The largest cell learns from the labels, the others from it."""
        if first is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return adaptive_alpha_divergence(logits, first, self.clip).mean()

    def _sandwich(self) -> tuple[Tensor, Tensor]:
        """The dearest and the cheapest cell of the candidates by multiply-accumulates, the first of equals.

        'none' is on an edge only where nothing else is left.
        """
        macs = [cost.macs for cost in operation_costs(self.space.ops)]
        largest, smallest = [], []
        for row in self.candidates.tolist():
            open_ops = [column for column, is_open in enumerate(row) if is_open]
            running = [column for column in open_ops if self.space.ops[column] != ZERO] or open_ops
            largest.append(max(running, key=macs.__getitem__))
            smallest.append(min(running, key=macs.__getitem__))
        dearest, cheapest = F.one_hot(torch.tensor([largest, smallest]), self.space.num_ops).float()
        return dearest, cheapest
