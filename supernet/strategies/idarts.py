"""iDARTS: Differentiable Architecture Search with Stochastic Implicit Gradients (Zhang et al., 2021)."""

from __future__ import annotations

from torch import Tensor

from supernet.errors import SupernetError
from supernet.strategies.base import Batch, Loss, Parameters, gradient
from supernet.strategies.darts import DARTS


class IDARTS(DARTS):
    """DARTS whose logits know how the trained network, not its next step alone, would answer to them.

    Where the network has been trained to its optimum w, the implicit function theorem gives the slope of the
    validation loss by the logits. The inverse of the Hessian H of the training loss in it is a Neumann series, of
    which K + 1 terms are taken, with the network's learning rate r (section 3):

        dL_val/da - r * sum_{k=0..K} v_k d2L_train/dw da,  where  v_0 = dL_val/dw  and  v_{k+1} = v_k - r * H v_k

    It converges where r is below 2 over the largest eigenvalue of H. As in the paper, both batches are those of this
    step, and weight decay and momentum of the network have no part in it.

    Args:
        num_terms: K, the terms of the series after the first. With 0 and a network at its optimum this is the second
            order of DARTS under plain SGD.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, num_terms: int = 2, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__("first", top_k, exclude_none)
        if num_terms < 0:
            raise SupernetError(f"num_terms must be 0 or more, got {num_terms}")
        self.num_terms = num_terms

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """The validation loss, whose gradient is the sum in the description."""
        mixture, w, r = self(), loss.parameters(), loss.learning_rate
        slope = gradient(loss(mixture, train, parameters=w), w, create_graph=True)
        val_loss = loss(mixture, val, parameters=w)
        v = gradient(val_loss, w)
        total = v
        for _ in range(self.num_terms):
            product = gradient(dot(slope, v), w)
            v = {name: v[name] - r * product[name] for name in v}
            total = {name: total[name] + v[name] for name in v}
        implicit = r * dot(slope, total)
        return val_loss - (implicit - implicit.detach())


def dot(first: Parameters, second: Parameters) -> Tensor:
    """The inner product, a scalar; what lies in a second that is part of a graph counts as a constant."""
    parts = [(part * second[name].detach()).sum() for name, part in first.items()]
    return sum(parts[1:], parts[0])
