"""DARTS: Differentiable Architecture Search (Liu, Simonyan and Yang, 2019)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from supernet.strategies.base import Batch, FactorisedSearch, Loss, gradient

RADIUS = 0.01
"""How far the parameters are moved for a difference, in all (Liu et al., 2019, footnote to eq. 8)."""


class DARTS(FactorisedSearch):
    """Every candidate runs, weighted by a softmax over the operations of its edge (eq. 2).

    The logits descend the validation loss at the parameters that the network will have after its next step (eq. 6).
    First order takes those that it has, which is eq. 6 with a learning rate of zero. Second order takes the step of
    the network's optimizer with its momentum and weight decay, but without the clipping of its gradient.

    Args:
        order: "first"; "second" differentiates through the network's step by autograd; "second_by_differences"
            replaces that by two more gradients at nearby parameters, as in the paper (eq. 8): cheaper in memory, and
            not to be trusted, since ReLUs change sides on the way there.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    is_smooth = True

    def __init__(
        self,
        order: Literal["first", "second", "second_by_differences"] = "first",
        top_k: int = 1,
        exclude_none: bool = False,
    ) -> None:
        super().__init__(top_k, exclude_none)
        self.order = order

    def forward(self) -> Tensor:
        """Softmax of the logits; rows sum to one."""
        return self.open_logits().softmax(dim=1)

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """The validation loss after the network's next step (eq. 6)."""
        mixture = self()
        if self.order == "first":
            return loss(mixture, val)
        if self.order == "second":
            w = loss.parameters()
            slope = gradient(loss(mixture, train, parameters=w), w, create_graph=True)
            return loss(mixture, val, parameters=loss.descended(w, slope))
        return self._by_differences(loss, mixture, train, val)

    def _by_differences(self, loss: Loss, mixture: Tensor, train: Batch, val: Batch) -> Tensor:
        """The validation loss after the virtual step, with the gradient of eqs. 7 and 8 as its gradient."""
        w = loss.parameters()
        slope = gradient(loss(mixture.detach(), train, parameters=w), w)
        # What of the validation loss arrives at the slope, -xi v by eq. 7, whatever the optimizer makes of a slope.
        slope = {name: part.detach().requires_grad_() for name, part in slope.items()}
        after = loss(mixture, val, parameters=loss.descended(w, slope))
        direction = gradient(after, slope)
        norm = sum(part.square().sum() for part in direction.values()) ** 0.5
        epsilon = RADIUS / (norm + 1e-12)
        ahead, behind = (
            loss(mixture, train, parameters={name: w[name].detach() + sign * part for name, part in direction.items()})
            for sign in (epsilon, -epsilon)
        )
        second = (ahead - behind) / (2 * epsilon)
        return after + (second - second.detach())
