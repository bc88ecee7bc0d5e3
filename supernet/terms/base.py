"""What a term of a search is.

Shapes: E edges, O candidate operations, L cells; a mixture is (E, O), or (L, E, O) where each cell has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from supernet.drawing import Drawing
from supernet.errors import SupernetError
from supernet.space import CellSpace
from supernet.strategies import FactorisedSearch, SearchStrategy

MixtureScore = Callable[[Tensor], float]
"""Accuracy of the supernet under a mixture of shape (E, O), 0 to 1, always on the same validation images."""


class SearchTerm(Drawing):
    """Something that is done to the mixtures of a search, or added to what its architecture descends."""

    space: CellSpace

    scores_mixtures = False
    """Whether it looks at how well the supernet does under a mixture."""

    edits_rows = False
    """Whether it takes parts of a row out of a mixture, so that the rest does not add up to the same."""

    halts = False
    """Whether the architecture takes no steps in this epoch."""

    def bind(self, search: SearchStrategy, seed: int, network: Mapping[str, Any] = {}) -> None:
        """Get ready for a strategy, which knows its space; called once, after the strategy was bound.

        Args:
            search: the strategy.
            seed: seeds the term's own generator.
            network: width, depth, classes and images of the network that is searched, by the names of `cost`.

        Raises:
            SupernetError: this term does not go with the strategy.
        """
        self.space = search.space
        self.seed(seed)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Set what follows a schedule, as `SearchStrategy.start_epoch` does."""

    def end_epoch(self, search: SearchStrategy, score: MixtureScore, epoch: int, num_epochs: int) -> None:
        """Change what is searched, after the last step of an epoch; called once for each, also if a run is resumed.

        In the last epoch it is too late: the cell is derived already.
        """

    def draw(self) -> None:
        """Draw what stays the same for one step."""

    def mix(self, mixture: Tensor) -> Tensor:
        """The mixture that runs in place of the one that the strategy gave, of the same shape."""
        return mixture

    def penalty(self, mixture: Tensor) -> Tensor:
        """What is added to every loss of the architecture under a mixture, a scalar."""
        return mixture.new_zeros(())

    def regularise(self, search: SearchStrategy) -> Tensor | float:
        """What is added once to each step of the architecture, a scalar."""
        return 0.0

    def scalars(self) -> dict[str, float]:
        """Values to plot once an epoch, by name."""
        return {}


def need_logits(term: SearchTerm, search: SearchStrategy) -> FactorisedSearch:
    """The strategy, if it has logits for each edge of which it takes a softmax; else a `SupernetError`."""
    if not isinstance(search, FactorisedSearch) or not search.is_softmax:
        raise SupernetError(
            f"{type(term).__name__} needs a strategy with logits for each edge and a softmax of them, such as DARTS or"
            f" GDAS, and {type(search).__name__} has none"
        )
    return search
