"""FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search (Chu, Zhang and Xu, 2021)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.strategies.base import Batch, Loss
from supernet.strategies.spos import SPOS


class FairNAS(SPOS):
    """Strict fairness: after each step every operation of an edge has been trained equally often (algorithm 1).

    A step has as many paths as there are operations. Each edge goes through its operations in a random order of its
    own, one operation a path, and the gradients of all paths add up to one step. Where an edge has fewer candidates
    than another one, it goes through them again, in another order, and stops when the step has all its paths: some
    are then trained once more than others, at random. Cells are searched as in SPOS; the paper does so by NSGA-II.

    Args:
        population: cells in each generation of the evolution.
        generations: of the evolution, the random one included.
        parents: how many of the best cells so far have children: half of them mutants, half crossovers of two.
        mutation_probability: that an edge of a mutant is drawn anew.
        exclude_none: derive only cells without the operation 'none'.
    """

    def paths(self, loss: Loss, train: Batch) -> Iterator[Tensor]:
        """One-hot mixtures that use every candidate of an edge equally often, as far as the numbers allow."""
        open_ops = [row.nonzero()[:, 0] for row in self.candidates]
        num_paths = max(len(ops) for ops in open_ops)
        orders = torch.stack([self._order(ops, num_paths) for ops in open_ops], dim=1)
        yield from F.one_hot(orders, self.space.num_ops).float()

    def _order(self, ops: Tensor, num_paths: int) -> Tensor:
        """The operation of an edge on each path: one random order after another, cut off at the last path."""
        num_rounds = -(-num_paths // len(ops))
        rounds = [ops[torch.randperm(len(ops), generator=self.generator)] for _ in range(num_rounds)]
        return torch.cat(rounds)[:num_paths]
