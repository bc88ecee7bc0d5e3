"""DARTS-: Robustly Stepping out of Performance Collapse without Indicators (Chu et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from supernet.errors import SupernetError
from supernet.space import SKIP, CellSpace
from supernet.strategies.base import FactorisedSearch, line


class DARTSMinus(FactorisedSearch):
    """DARTS, first order, with an auxiliary skip connection on every edge that fades out.

    It stabilises the training of the network in place of the candidate, which then has to win by what it is worth as
    an operation. Its coefficient falls linearly from 1 in the first epoch to 0 in the last one. It is no candidate: it
    is there even where 'skip_connect' may not be chosen any more, and has no part in what is derived.

    Args:
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    is_smooth = True

    def __init__(self, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__(top_k, exclude_none)
        self.beta = 1.0

    def bind(self, space: CellSpace, seed: int) -> None:
        """Find the column of the skip connection.

        Raises:
            SupernetError: the space has none.
        """
        if SKIP not in space.ops:
            raise SupernetError(
                f"DARTSMinus needs a space with {SKIP!r}, which lends the auxiliary skip its column, got"
                f" {list(space.ops)}; add it or take DARTS"
            )
        super().bind(space, seed)
        self.register_buffer("skip", torch.tensor([float(op == SKIP) for op in space.ops]), persistent=False)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Let the auxiliary skip fade."""
        self.beta = line(1.0, 0.0, epoch, num_epochs)

    def forward(self) -> Tensor:
        """Softmax of the logits, and the auxiliary skip; rows sum to ``1 + beta``."""
        return self.open_logits().softmax(dim=1) + self.beta * self.get_buffer("skip")

    def scalars(self) -> dict[str, float]:
        """The coefficient of the auxiliary skip."""
        return {"auxiliary_skip": self.beta}
