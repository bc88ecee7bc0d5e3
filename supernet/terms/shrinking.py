"""Taking candidates out while the search goes on.

Shapes: E edges, O candidate operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from supernet.errors import SupernetError
from supernet.genotype import ZERO, Genotype
from supernet.space import CellSpace, is_connected
from supernet.strategies import SearchStrategy
from supernet.terms.base import MixtureScore, SearchTerm


class Shrink(SearchTerm):
    """Takes the least likely candidate off every edge, at evenly spaced epochs, until few are left.

    Progressive shrinking by what the strategy has learned, as in P-DARTS (Chen et al., 2019, section 3.2) within one
    search, and ASAP (Noy et al., 2020). Some connected cell always remains: see `open_after`.

    Args:
        num_left: candidates that are left on every edge in the last epochs.
        first_epochs: epochs at the beginning in which none is taken, such as those of a warm-up.
    """

    def __init__(self, num_left: int = 1, first_epochs: int = 0) -> None:
        super().__init__()
        if num_left < 1:
            raise SupernetError(f"num_left must be at least 1, got {num_left}")
        if first_epochs < 0:
            raise SupernetError(f"first_epochs must be at least 0, got {first_epochs}")
        self.num_left, self.first_epochs = num_left, first_epochs

    def bind(self, search: SearchStrategy, seed: int, network: Mapping[str, Any] = {}) -> None:
        """Refuse a strategy that learns nothing about operations."""
        super().bind(search, seed, network)
        self.open = float(search.space.num_ops)
        if not search.learns:
            raise SupernetError(
                f"Shrink takes off what is least likely, and for {type(search).__name__} all operations are equally"
                " likely; Perturbation asks the network instead"
            )
        if self.num_left > search.space.num_ops:
            raise SupernetError(f"num_left must be at most {search.space.num_ops}, got {self.num_left}")

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Refuse a search that has not an epoch for each number of candidates."""
        wanted = self.first_epochs + self.space.num_ops - self.num_left + 1
        if num_epochs < wanted:
            raise SupernetError(f"Shrink needs {wanted} epochs, one for each candidate it takes and one more after"
                                f" first_epochs, got {num_epochs}; pass --trainer.max_epochs {wanted}")  # fmt: skip

    def end_epoch(self, search: SearchStrategy, score: MixtureScore, epoch: int, num_epochs: int) -> None:
        """Take off what is due."""
        removals = self.space.num_ops - self.num_left
        progress = max(0, epoch + 1 - self.first_epochs) / (num_epochs - self.first_epochs)
        left = self.space.num_ops - min(removals, int(progress * (removals + 1) + 1e-9))
        search.candidates = shrunk(self.space, search.candidates, search.probabilities(), left, avoided(search))
        self.open = float(search.candidates.sum(dim=1).double().mean())

    def scalars(self) -> dict[str, float]:
        """The mean number of candidates of an edge."""
        return {"candidates": self.open}

    def get_extra_state(self) -> dict[str, Any]:
        """Also that number."""
        return {**super().get_extra_state(), "open": self.open}

    def set_extra_state(self, state: Any) -> None:
        """Restore `get_extra_state`."""
        super().set_extra_state(state)
        self.open = float(state["open"])


def shrunk(space: CellSpace, candidates: Tensor, probabilities: Tensor, num_left: int, avoid: frozenset[str]) -> Tensor:
    """Candidates without the least likely of each edge until ``num_left`` are left there, shape (E, O).

    Args:
        space: the cells.
        candidates: true for those that there are, shape (E, O).
        probabilities: shape (E, O).
        num_left: at least 1.
        avoid: operations that no edge is left with alone.
    """
    candidates = candidates.clone()
    for edge, row in enumerate(probabilities.tolist()):
        for column in sorted(range(space.num_ops), key=row.__getitem__):
            if int(candidates[edge].sum()) <= num_left:
                break
            fewer = candidates[edge].clone()
            fewer[column] = False
            if candidates[edge, column] and open_after(space, candidates, edge, fewer, avoid):
                candidates[edge] = fewer
    return candidates


def open_after(
    space: CellSpace, candidates: Tensor, edge: int, row: Tensor, avoid: frozenset[str] = frozenset()
) -> bool:
    """Whether a connected cell is left when an edge has only the candidates of a row, shape (O,).

    Every edge must have a candidate, and the input must reach the output over edges that have one besides ``none``.
    Operations to avoid count as no candidates.
    """
    after = candidates.clone()
    after[edge] = row
    after &= torch.tensor([op not in avoid for op in space.ops])
    some = after & torch.tensor([op != ZERO for op in space.ops])
    cell = Genotype(tuple("some" if alive else ZERO for alive in some.any(dim=1).tolist()))
    return bool(after.any(dim=1).all()) and is_connected(cell)


def avoided(search: SearchStrategy) -> frozenset[str]:
    """Operations that the strategy does not derive."""
    return frozenset({ZERO} if getattr(search, "exclude_none", False) else ())
