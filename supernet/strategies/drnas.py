"""DrNAS: Dirichlet Neural Architecture Search (Chen et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Dirichlet

from supernet.discrete import most_likely
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.strategies.base import Batch, FactorisedSearch, Loss


class DrNAS(FactorisedSearch):
    """Every candidate runs, weighted by a draw from a Dirichlet distribution an edge.

    Its concentrations ``beta = elu(logits) + 1`` descend the validation loss by the pathwise gradient of the draw,
    and are held near ``Dir(1)`` by a Kullback-Leibler divergence. The authors' code offers the weight decay of the
    logits, whose zero is that anchor, in its place; both may be on here. The partial channels and the shrinking space
    of the paper are not part of the strategy.

    Args:
        kl_weight: of the divergence from the uniform Dirichlet distribution, summed over edges.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    is_softmax = False

    def __init__(self, kl_weight: float = 1e-3, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__(top_k, exclude_none)
        if not 0 <= kl_weight < float("inf"):
            raise SupernetError(f"kl_weight must be 0 or more, got {kl_weight}")
        self.kl_weight = kl_weight

    def concentrations(self) -> Tensor:
        """``beta = elu(logits) + 1``, shape (E, O); 1 for what is no candidate, which the callers leave out."""
        # In this form it stays above zero: elu + 1 rounds to zero in float32 below -18.
        beta = torch.where(self.logits > 0, self.logits + 1, self.logits.clamp(-80, 1).exp())
        return torch.where(self._open(), beta, 1.0)

    def forward(self) -> Tensor:
        """A draw, ``theta ~ Dir(beta)``; rows sum to one, and what is no candidate is exactly zero.

        What is left of a draw from a Dirichlet distribution when some of it is left out, and the rest scaled to sum
        to one, is a draw from that of the rest.
        """
        # Drawn by rejection, which needs to know the concentrations: they come to the host, for whose generator alone
        # draws are the same on every device. The host waits for an accelerator here, once a draw.
        beta = self.concentrations().cpu().double()
        with self.drawing():
            theta = Dirichlet(beta).rsample() * self.candidates
        return (theta / theta.sum(dim=1, keepdim=True)).to(self.logits, non_blocking=True)

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """The validation loss under a draw, and the weighted divergence."""
        return loss(self(), val) + self.kl_weight * self.divergence()

    def divergence(self) -> Tensor:
        """``KL(Dir(beta) || Dir(1))`` over the candidates of an edge, summed over edges, in nats."""
        beta, candidates = self.concentrations(), self._open()
        total = (beta * candidates).sum(dim=1)
        # Each sum runs over candidates only: for a concentration of 1 its terms are zero.
        pull = ((beta - 1) * (beta.digamma() - total.digamma().unsqueeze(1))).sum(dim=1)
        return (total.lgamma() - beta.lgamma().sum(dim=1) - candidates.sum(dim=1).to(beta).lgamma() + pull).sum()

    def probabilities(self) -> Tensor:
        """The mean of the Dirichlet distributions."""
        beta = self.concentrations().detach() * self._open()
        return beta / beta.sum(dim=1, keepdim=True)

    def likeliest(self, exclude_none: bool = False) -> Iterator[Genotype]:
        """Connected cells, the largest mean first."""
        return most_likely(self.space, self.probabilities().log(), exclude_none=exclude_none)

    def _open(self) -> Tensor:
        return self.candidates.to(self.logits.device, non_blocking=True)
