"""Lambda-DARTS: Mitigating Performance Collapse by Harmonizing Operation Selection among Cells (Movahedi et al., 2022).

Shapes: L cells, E edges, O candidate operations.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.errors import SupernetError
from supernet.space import CellSpace
from supernet.strategies.base import Batch, FactorisedSearch, Loss, gradient, line

RADIUS = 1e-4
"""How far the mixtures of all cells are moved for a difference, in all; as in the published code for CIFAR-10."""


class LambdaDARTS(FactorisedSearch):
    """First-order DARTS whose cells are made to agree on which operations they want more of.

    All cells share one mixture, and the gradient of the training loss by the mixture of each cell says what that
    cell wants. The network descends its loss less ``weight`` times the mean cosine similarity of each pair of these
    gradients, the alignment. The alignment's gradient by the network's parameters takes second derivatives; it is the
    difference of two gradients at mixtures that are moved apart, each cell in the direction in which the alignment
    grows. So a step of the network is that of three mixtures: as it is, behind and ahead.

    Args:
        weight: of the alignment in the last epoch; it grows from zero by a line.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, weight: float = 0.125, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__(top_k, exclude_none)
        if not 0 <= weight < float("inf"):
            raise SupernetError(f"weight must be 0 or more, got {weight}")
        self.weight, self.now, self._sign = weight, 0.0, 1.0

    def bind(self, space: CellSpace, seed: int) -> None:
        """Create the logits, ``1e-3 * N(0, 1)``."""
        super().bind(space, seed)
        self.register_buffer("alignment", torch.zeros(()))
        # Of the gradient ahead in the step that is taken; on the device, where a recording of the step finds it.
        self.register_buffer("factor", torch.zeros(()), persistent=False)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Move the weight of the alignment."""
        self.now = line(0.0, self.weight, epoch, num_epochs)

    def forward(self) -> Tensor:
        """Softmax of the logits; rows sum to one."""
        return self.open_logits().softmax(dim=1)

    def paths(self, loss: Loss, train: Batch) -> Iterator[Tensor]:
        """The mixture, and if the alignment counts, what lies behind and ahead of it; (L, E, O)."""
        mixture = self().detach().expand(self.depth, -1, -1)
        yield mixture
        if not self.now:
            return
        cells = mixture.clone().requires_grad_()
        slopes = gradient(loss(cells, train), {"cells": cells})["cells"] * self.candidates.to(cells)
        aligned = alignment(slopes.requires_grad_())
        (direction,) = torch.autograd.grad(aligned, slopes)
        epsilon = RADIUS / (direction.norm() + 1e-12)
        self.get_buffer("alignment").copy_(aligned.detach())
        self.get_buffer("factor").copy_(self.now / (2 * epsilon))
        yield mixture - epsilon * direction
        yield mixture + epsilon * direction

    def network_loss(self, logits: Tensor, labels: Tensor, first: Tensor | None) -> Tensor:
        """The loss as it is; plus what of it lies behind, less what lies ahead."""
        own = F.cross_entropy(logits, labels)
        if first is None:
            self._sign = 1.0
            return own
        sign, self._sign = self._sign, -self._sign
        return sign * self.get_buffer("factor") * own

    def scalars(self) -> dict[str, float]:
        """The weight of the alignment, and the alignment at the last step."""
        return {"alignment": float(self.get_buffer("alignment")), "alignment_weight": self.now}


def alignment(slopes: Tensor) -> Tensor:
    """Mean cosine similarity of each pair of at least two cells' gradients, shape (L, E, O)."""
    unit = F.normalize(slopes.flatten(1), dim=1)
    cosines, num_cells = unit @ unit.T, len(unit)
    mean: Tensor = (cosines.sum() - cosines.diagonal().sum()) / (num_cells * (num_cells - 1))
    return mean
