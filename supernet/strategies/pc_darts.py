"""PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search (Xu et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernet.space import CellSpace
from supernet.strategies.base import FactorisedSearch


class PCDARTS(FactorisedSearch):
    """Each edge is a softmax over its operations, times its share in the node that it leads to (section 3.3).

    The shares are a softmax over the edges into a node, with logits of their own: edge normalisation. That only some
    channels go through the operations (section 3.2) is a property of the supernet, and is asked for by its option
    ``partial_channels``; the bypass of an edge counts with the sum of its row, which is its share. The logits descend
    the validation loss at the parameters as they are: first order.

    The paper keeps the two edges into a node whose operations have the largest products with their shares. A cell of
    this space keeps all its edges, and on one edge the operation with the largest product is that with the largest
    softmax: the shares take part in the training only.

    Args:
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    is_smooth = True

    def bind(self, space: CellSpace, seed: int) -> None:
        """Create the logits of operations and of edges, each ``1e-3 * N(0, 1)``."""
        super().bind(space, seed)
        self.edge_logits = nn.Parameter(1e-3 * torch.randn(space.num_edges, generator=self.generator))

    def shares(self) -> Tensor:
        """The share of each edge in the node that it leads to, shape (E,); those into one node sum to one."""
        # Edges are ordered by target, and node t is the target of t edges.
        into_nodes = torch.split(self.edge_logits, [*range(1, self.space.num_nodes)])
        return torch.cat([logits.softmax(dim=0) for logits in into_nodes])

    def forward(self) -> Tensor:
        """Softmax of the logits times the shares; the rows of the edges into a node sum to one together."""
        return self.open_logits().softmax(dim=1) * self.shares()[:, None]
