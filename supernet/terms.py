"""Terms that go with any strategy: what is done to a mixture before it runs, and what is added to a loss.

Shapes: E edges, O candidate operations, L cells; a mixture is (E, O), or (L, E, O) where each cell has its own.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from supernet.cost import operation_costs
from supernet.drawing import Drawing
from supernet.errors import SupernetError
from supernet.space import CellSpace
from supernet.strategies import FactorisedSearch, SearchStrategy


class SearchTerm(Drawing):
    """Something that is done to the mixtures of a search, or added to what its architecture descends."""

    space: CellSpace

    def bind(self, search: SearchStrategy, seed: int) -> None:
        """Get ready for a strategy, which knows its space; called once, after the strategy was bound.

        Raises:
            SupernetError: this term does not go with the strategy.
        """
        self.space = search.space
        self.seed(seed)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Set what follows a schedule, as `SearchStrategy.start_epoch` does."""

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


class CostPenalty(SearchTerm):
    """Adds the cost of the mixture: ``weight * sum(mixture * cost)``, as a share of what the dearest cell costs.

    Where each cell has a mixture of its own, it is the mean of theirs.

    The cost of an edge is linear in its row, so it is the expected cost if rows are probabilities, and the gradient
    of a logit is the same as that of a loss that grows by the cost of its operation (Wu et al., 2019, FBNet, eq. 7).
    A strategy that learns by rewards gets it off its reward.

    Args:
        weight: of the cost; 1 is as much as the whole cross-entropy of e, for a cell with the dearest operation only.
        of: params or macs.
    """

    def __init__(self, weight: float, of: Literal["params", "macs"] = "macs") -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise SupernetError(f"weight must be 0 or more, got {weight}")
        self.weight, self.of = weight, of

    def bind(self, search: SearchStrategy, seed: int) -> None:
        """Look up what every operation costs."""
        super().bind(search, seed)
        costs = torch.tensor([float(getattr(cost, self.of)) for cost in operation_costs(search.space.ops)])
        self.register_buffer("share", costs / (costs.max().clamp_min(1) * search.space.num_edges), persistent=False)

    def penalty(self, mixture: Tensor) -> Tensor:
        """The cost of a mixture; 1 for the dearest cell if the weight is 1."""
        share = self.get_buffer("share").to(mixture, non_blocking=True)
        return self.weight * (mixture * share).sum(dim=(-2, -1)).mean()


class Entropy(SearchTerm):
    """Adds ``weight`` times the mean entropy of the rows, in nats: above zero makes choices sharper, below flatter.

    Args:
        weight: in the first epoch.
        final_weight: in the last epoch, by a line; the same as ``weight`` if not given.
    """

    def __init__(self, weight: float, final_weight: float | None = None) -> None:
        super().__init__()
        self.weight, self.final_weight = weight, weight if final_weight is None else final_weight
        self.now = weight

    def bind(self, search: SearchStrategy, seed: int) -> None:
        """Refuse a strategy without logits for each edge."""
        super().bind(search, seed)
        need_logits(self, search)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Move the weight."""
        self.now = line(self.weight, self.final_weight, epoch, num_epochs)

    def regularise(self, search: SearchStrategy) -> Tensor:
        """The weighted mean entropy."""
        probabilities = need_logits(self, search).open_logits().softmax(dim=1)
        entropy: Tensor = torch.special.entr(probabilities).sum(dim=1).mean()
        return self.now * entropy


class BetaDecay(SearchTerm):
    """Adds ``weight * mean(logsumexp(logits))`` over the edges (Ye et al., 2022, beta-DARTS, eq. 12).

    It decays what a softmax makes of the logits, so that no operation runs away, such as the skip connection.

    Args:
        weight: in the last epoch; it grows from zero by a line.
    """

    def __init__(self, weight: float = 50.0) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise SupernetError(f"weight must be 0 or more, got {weight}")
        self.weight, self.now = weight, 0.0

    def bind(self, search: SearchStrategy, seed: int) -> None:
        """Refuse a strategy without logits for each edge."""
        super().bind(search, seed)
        need_logits(self, search)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Move the weight."""
        self.now = line(0.0, self.weight, epoch, num_epochs)

    def regularise(self, search: SearchStrategy) -> Tensor:
        """The weighted decay."""
        return self.now * need_logits(self, search).open_logits().logsumexp(dim=1).mean()


class OperationDropout(SearchTerm):
    """Leaves out each operation of each edge with a probability, in the same steps for all cells.

    What is left is scaled up, so that it adds up to the same in the mean. An edge may be left out altogether.

    Args:
        rate: probability in the first epoch, at least 0 and below 1.
        final_rate: in the last epoch, by a line.
        ops: operations that may be left out; all of them if not given. ``[skip_connect]`` is that of P-DARTS
            (Chen et al., 2019, section 3.3).
    """

    def __init__(self, rate: float, final_rate: float = 0.0, ops: list[str] | None = None) -> None:
        super().__init__()
        for name, value in {"rate": rate, "final_rate": final_rate}.items():
            if not 0 <= value < 1:
                raise SupernetError(f"{name} must be at least 0 and below 1, got {value}")
        self.rate, self.final_rate, self.ops, self.now = rate, final_rate, ops, rate

    def bind(self, search: SearchStrategy, seed: int) -> None:
        """Find the operations."""
        super().bind(search, seed)
        if unknown := set(self.ops or ()) - set(search.space.ops):
            raise SupernetError(f"ops of OperationDropout must be in {list(search.space.ops)}, got {sorted(unknown)}")
        self.open = torch.tensor([self.ops is None or op in self.ops for op in search.space.ops])
        self.factors = torch.ones(search.space.num_edges, search.space.num_ops)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Move the rate."""
        self.now = line(self.rate, self.final_rate, epoch, num_epochs)

    def draw(self) -> None:
        """Draw what is left out."""
        kept = torch.rand(self.factors.shape, generator=self.generator) >= self.now
        self.factors = torch.where(self.open, kept / (1 - self.now), 1.0)

    def mix(self, mixture: Tensor) -> Tensor:
        """The mixture without what is left out."""
        return mixture * self.factors.to(mixture, non_blocking=True)

    def scalars(self) -> dict[str, float]:
        """The rate."""
        return {"operation_dropout": self.now}


def need_logits(term: SearchTerm, search: SearchStrategy) -> FactorisedSearch:
    """The strategy, if it has logits for each edge; else a `SupernetError`."""
    if not isinstance(search, FactorisedSearch):
        raise SupernetError(
            f"{type(term).__name__} needs a strategy with logits for each edge, such as DARTS or GDAS, and"
            f" {type(search).__name__} has none"
        )
    return search


def line(first: float, last: float, epoch: int, num_epochs: int) -> float:
    """The value in an epoch of a schedule that goes from the first to the last epoch by a line."""
    return first + (last - first) * epoch / max(1, num_epochs - 1)
