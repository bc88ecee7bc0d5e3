"""What strategies share that learn a distribution over whole cells from the rewards of cells drawn from it.

Shapes: N draws, S cells of the space (the last edge varying fastest), E edges, O candidate operations.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from supernet.errors import SupernetError
from supernet.genotype import ZERO, Genotype
from supernet.space import CellSpace, is_connected
from supernet.strategies.base import Batch, Loss, SearchStrategy


class PolicySearch(SearchStrategy):
    """A distribution over cells that climbs the mean reward by REINFORCE (Williams, 1992).

    Its baseline is a moving average of all rewards so far. A reward is set against the average of those before it:
    what it has no part in adds noise to the gradient, or takes some away, but no error.

    Args:
        samples_per_step: cells drawn in each step of the architecture.
        baseline_decay: of the moving average, for each reward; at least 0 and below 1.
        entropy_weight: of the entropy, in nats, that is added to what is climbed.
        exclude_none: derive only cells without the operation 'none'.
    """

    baseline: Tensor
    has_baseline: Tensor
    rewarded: Tensor
    """In this epoch: the sum of the rewards, the best one, their number."""

    def __init__(self, samples_per_step: int, baseline_decay: float, entropy_weight: float, exclude_none: bool) -> None:
        super().__init__()
        if samples_per_step < 1:
            raise SupernetError(f"samples_per_step must be at least 1, got {samples_per_step}")
        if not 0 <= baseline_decay < 1:
            raise SupernetError(f"baseline_decay must be at least 0 and below 1, got {baseline_decay}")
        if not 0 <= entropy_weight < float("inf"):
            raise SupernetError(f"entropy_weight must be 0 or more, got {entropy_weight}")
        self.samples_per_step, self.baseline_decay = samples_per_step, baseline_decay
        self.entropy_weight, self.exclude_none = entropy_weight, exclude_none
        self.epoch, self.num_epochs = 0, 1

    def bind(self, space: CellSpace, seed: int) -> None:
        """Begin without any reward."""
        super().bind(space, seed)
        self.register_buffer("baseline", torch.zeros(()))
        self.register_buffer("has_baseline", torch.zeros((), dtype=torch.bool))
        self.register_buffer("rewarded", torch.zeros(3))

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Forget the rewards of another epoch; those of this one stay, where a run goes on within it."""
        if epoch != self.epoch:
            self.rewarded.zero_()
        self.epoch, self.num_epochs = epoch, num_epochs

    def rewards(self, loss: Loss, mixtures: Tensor, val: Batch) -> Tensor:
        """The rewards of one-hot mixtures, shape (N, E, O), all on the same batch; shape (N,), without gradient."""
        rewards = torch.stack([loss.reward(mixture, val) for mixture in mixtures]).detach().to(self.baseline)
        total, best, number = self.rewarded.unbind()
        best.copy_(torch.where(number > 0, torch.maximum(best, rewards.max()), rewards.max()))
        total.add_(rewards.sum())
        number.add_(len(rewards))
        return rewards

    def advantages(self, rewards: Tensor) -> Tensor:
        """Each reward less the moving average of those before it, shape (N,); the average moves on.

        It begins at the very first reward.
        """
        average = torch.where(self.has_baseline, self.baseline, rewards[0])
        before = []
        for reward in rewards.unbind():
            before.append(average)
            average = self.baseline_decay * average + (1 - self.baseline_decay) * reward
        self.baseline.copy_(average)
        self.has_baseline.fill_(True)
        return rewards - torch.stack(before)

    def objective(self, gains: Tensor, entropies: Tensor) -> Tensor:
        """What the optimizer descends: minus the mean gain and the entropy bonus.

        Args:
            gains: of draws, shape (N,); ``advantage * log_prob`` for REINFORCE.
            entropies: of what they were drawn from, any shape.
        """
        return -gains.mean() - self.entropy_weight * entropies.mean()

    @abstractmethod
    def cell_log_probs(self) -> Tensor:
        """Log-probability of every cell, shape (S,), without gradient."""

    def likeliest(self, exclude_none: bool = False) -> Iterator[Genotype]:
        """Connected cells, the most likely first; of cells, not of edges as if they were independent."""
        return ranked(self.space, self.cell_log_probs(), exclude_none=exclude_none)

    def probabilities(self) -> Tensor:
        """How likely each operation is on each edge, over all cells."""
        return marginals(self.space, self.cell_log_probs().exp())

    def scalars(self) -> dict[str, float]:
        """The rewards of this epoch, mean and best, and the baseline."""
        total, best, number = self.rewarded.tolist()
        if not number:
            return {}
        return {"mean_reward": total / number, "best_reward": best, "baseline": float(self.baseline)}

    def get_extra_state(self) -> dict[str, Any]:
        """Also the epoch, to which the rewards belong."""
        return {**super().get_extra_state(), "epoch": self.epoch, "num_epochs": self.num_epochs}

    def set_extra_state(self, state: Any) -> None:
        """Restore `get_extra_state`."""
        super().set_extra_state(state)
        self.epoch, self.num_epochs = int(state["epoch"]), int(state["num_epochs"])


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats over the last dimension; what has minus infinity adds nothing, to the gradient neither."""
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0)).sum(dim=-1)


def one_hots(space: CellSpace, choices: Tensor) -> Tensor:
    """The mixtures, shape (N, E, O), of operation numbers, shape (N, E), on their device."""
    mixtures = torch.zeros(*choices.shape, space.num_ops, device=choices.device)
    return mixtures.scatter_(2, choices[..., None], 1.0)


def choices_of(space: CellSpace, numbers: Tensor) -> Tensor:
    """The operation numbers, shape (N, E), of cells by their places in the space, shape (N,)."""
    return torch.stack(torch.unravel_index(numbers, (space.num_ops,) * space.num_edges), dim=1)


def marginals(space: CellSpace, probabilities: Tensor) -> Tensor:
    """How likely each operation is on each edge, shape (E, O), by the probabilities of all cells, shape (S,)."""
    num_ops = space.num_ops
    rows = [probabilities.view(num_ops**edge, num_ops, -1).sum(dim=(0, 2)) for edge in range(space.num_edges)]
    return torch.stack(rows)


def cells_within(candidates: Tensor) -> Tensor:
    """Which cells have only these operations, bool, shape (E, O); bool, shape (S,)."""
    cells = torch.ones(1, dtype=torch.bool)
    for row in candidates:
        cells = (cells[:, None] & row).flatten()
    return cells


def connected_cells(space: CellSpace) -> Tensor:
    """Which cells are connected (`is_connected`), bool, shape (S,)."""
    reached = [torch.ones(space.size, dtype=torch.bool)]
    is_open = torch.tensor([op != ZERO for op in space.ops])
    everything = torch.ones(space.num_edges, space.num_ops, dtype=torch.bool)
    reached += [~reached[0]] * (space.num_nodes - 1)
    for edge, (target, source) in enumerate(space.edges):
        with_edge = everything.clone()
        with_edge[edge] = is_open
        reached[target] = reached[target] | reached[source] & cells_within(with_edge)
    return reached[-1]


def ranked(space: CellSpace, values: Tensor, *, exclude_none: bool = False) -> Iterator[Genotype]:
    """Connected cells by falling values, shape (S,); none that has minus infinity."""
    values = values.cpu()
    numbers = values.argsort(descending=True, stable=True)
    for choices in choices_of(space, numbers[values[numbers] > -torch.inf]).tolist():
        genotype = space.genotype(choices)
        if is_connected(genotype) and not (exclude_none and ZERO in genotype.ops):
            yield genotype
