"""GAEA: Geometry-Aware Gradient Algorithms for Neural Architecture Search (Li et al., 2021)."""

from __future__ import annotations

from torch import Tensor
from torch.optim import SGD, Optimizer

from supernet.strategies.base import Batch, FactorisedSearch, Loss


class GAEA(FactorisedSearch):
    """DARTS by exponentiated gradient: ``theta <- theta * exp(-lr * dL/dtheta)``, normalised for each edge.

    The logits are ``log theta`` up to a constant. The mixture hands them its own gradient as it is, without the slope
    of the softmax, and a plain step of gradient descent on them is that update. ``arch_lr`` is its learning rate, 0.1
    in the authors' code; ``arch_betas`` and ``arch_weight_decay`` belong to Adam and have no part in it. That code
    begins at exactly equal shares and lets none fall below 1e-5; here they begin near that, and may become very small.

    Args:
        single_level: learn the logits on the batches that train the network, as empirical risk minimisation, instead
            of on the other half.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, single_level: bool = False, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__(top_k, exclude_none)
        self.single_level = single_level

    def make_optimizer(self, lr: float, betas: tuple[float, float], weight_decay: float) -> Optimizer:
        """Gradient descent without momentum, which makes the update a multiplication; it has no use for the rest."""
        return SGD(self.parameters(), lr)

    def forward(self) -> Tensor:
        """Softmax of the logits; rows sum to one. The gradient of the logits is that of the mixture."""
        theta = self.open_logits().softmax(dim=1).detach()
        return theta + (self.logits - self.logits.detach())

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """The loss of the mixture; every candidate runs, however small its share."""
        return loss(self(), train if self.single_level else val, support=self.candidates)
