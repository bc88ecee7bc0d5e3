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


class LambdaDARTS(FactorisedSearch):
    """First-order DARTS whose cells are made to agree on which operations they want more of.

    All cells share one mixture, and the gradient of the training loss by the mixture of each cell says what that
    cell wants. The network descends its loss less ``weight`` times the mean cosine similarity of each pair of these
    gradients, the alignment. The paper takes the alignment's gradient by a finite difference of mixtures. ReLUs
    change sides on the way, and what comes out is not the gradient, so autograd takes it here, differentiating twice.

    Args:
        weight: of the alignment in the last epoch; it grows from zero by a line.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    differentiates_mixture = True
    is_smooth = True

    def __init__(self, weight: float = 0.125, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__(top_k, exclude_none)
        if not 0 <= weight < float("inf"):
            raise SupernetError(f"weight must be 0 or more, got {weight}")
        self.weight = weight

    def bind(self, space: CellSpace, seed: int) -> None:
        """Create the logits, ``1e-3 * N(0, 1)``."""
        super().bind(space, seed)
        # On the device, where a recording of the step finds what changes from step to step.
        self.register_buffer("alignment", torch.zeros(()))
        self.register_buffer("weight_now", torch.zeros(()), persistent=False)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Move the weight of the alignment."""
        self.get_buffer("weight_now").fill_(line(0.0, self.weight, epoch, num_epochs))

    def forward(self) -> Tensor:
        """Softmax of the logits; rows sum to one."""
        return self.open_logits().softmax(dim=1)

    def paths(self, loss: Loss, train: Batch) -> Iterator[Tensor]:
        """The mixture, once for each cell; (L, E, O)."""
        yield self().detach().expand(self.depth, -1, -1)

    def network_loss(self, logits: Tensor, labels: Tensor, first: Tensor | None, mixture: Tensor) -> Tensor:
        """The loss less the weighted alignment of its gradients by the mixtures of the cells."""
        loss = F.cross_entropy(logits, labels)
        slopes = gradient(loss, {"mixture": mixture}, create_graph=True)["mixture"]
        aligned = alignment(slopes)
        self.get_buffer("alignment").copy_(aligned.detach())
        return loss - self.get_buffer("weight_now") * aligned

    def scalars(self) -> dict[str, float]:
        """The weight of the alignment, and the alignment at the last step."""
        return {name: float(self.get_buffer(key)) for name, key in _SCALARS.items()}


_SCALARS = {"alignment": "alignment", "alignment_weight": "weight_now"}


def alignment(slopes: Tensor) -> Tensor:
    """Mean cosine similarity of each pair of at least two cells' gradients, shape (L, E, O)."""
    unit = F.normalize(slopes.flatten(1), dim=1)
    cosines, num_cells = unit @ unit.T, len(unit)
    mean: Tensor = (cosines.sum() - cosines.diagonal().sum()) / (num_cells * (num_cells - 1))
    return mean
