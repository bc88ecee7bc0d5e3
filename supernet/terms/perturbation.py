"""Selecting operations by what the supernet loses without them.

Shapes: E edges, O candidate operations; a mixture is (E, O).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from supernet.errors import SupernetError
from supernet.strategies import SearchStrategy
from supernet.terms.base import MixtureScore, SearchTerm
from supernet.terms.shrinking import avoided, open_after


class Perturbation(SearchTerm):
    """Keeps the operation of each edge whose removal hurts the supernet most (Wang et al., 2021, DARTS-PT, alg. 1).

    Edge by edge, in an order drawn once: the accuracy of the mixture (where mixtures are drawn, of the probabilities)
    without each candidate in turn, the other coefficients as they are, on the same validation images; the candidate
    without which it is lowest is kept alone, the likelier of equals. Before the next edge the network is tuned, and the
    architecture takes no steps any more. An operation is not kept if no connected cell would be left.

    Args:
        start_epoch: epochs before the first edge is decided; at least 1.
        tune_epochs: epochs of the network after each decision. 6 edges and 5 epochs take 30 in all.
    """

    scores_mixtures = True
    edits_rows = True

    def __init__(self, start_epoch: int = 50, tune_epochs: int = 5) -> None:
        super().__init__()
        for name, value in {"start_epoch": start_epoch, "tune_epochs": tune_epochs}.items():
            if value < 1:
                raise SupernetError(f"{name} must be at least 1, got {value}")
        self.first_epoch, self.tune_epochs = start_epoch, tune_epochs
        self.num_decided = 0

    def bind(self, search: SearchStrategy, seed: int, network: Mapping[str, Any] = {}) -> None:
        """Draw the order of the edges."""
        super().bind(search, seed, network)
        self.order: list[int] = torch.randperm(search.space.num_edges, generator=self.generator).tolist()

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Refuse a search that ends too early; tune the network alone once the edges are being decided."""
        wanted = self.first_epoch + self.tune_epochs * self.space.num_edges
        if num_epochs < wanted:
            raise SupernetError(
                f"Perturbation needs {wanted} epochs, start_epoch and tune_epochs for each of {self.space.num_edges}"
                f" edges, got {num_epochs}; pass --trainer.max_epochs {wanted}"
            )
        self.halts = epoch >= self.first_epoch

    def end_epoch(self, search: SearchStrategy, score: MixtureScore, epoch: int, num_epochs: int) -> None:
        """Decide an edge, if one is due."""
        number, rest = divmod(epoch + 1 - self.first_epoch, self.tune_epochs)
        if rest or not 0 <= number < len(self.order):
            return
        edge = self.order[number]
        mixture = search().detach() if search.is_smooth else search.probabilities()
        without: dict[int, float] = {}
        for column in torch.nonzero(search.candidates[edge])[:, 0].tolist():
            row = torch.zeros_like(search.candidates[edge])
            row[column] = True
            if open_after(self.space, search.candidates, edge, row, avoided(search)):
                perturbed = mixture.clone()
                perturbed[edge, column] = 0.0
                without[column] = score(perturbed)
        likely = search.probabilities()[edge].tolist()
        kept = min(without, key=lambda column: (without[column], -likely[column]))
        search.candidates = search.candidates.clone()
        search.candidates[edge] = False
        search.candidates[edge, kept] = True
        self.num_decided = number + 1

    def scalars(self) -> dict[str, float]:
        """How many edges are decided."""
        return {"edges_decided": float(self.num_decided)}

    def get_extra_state(self) -> dict[str, Any]:
        """The order of the edges, and how many of them are decided."""
        return {**super().get_extra_state(), "order": self.order, "num_decided": self.num_decided}

    def set_extra_state(self, state: Any) -> None:
        """Restore `get_extra_state`."""
        super().set_extra_state(state)
        self.order, self.num_decided = list(state["order"]), state["num_decided"]
