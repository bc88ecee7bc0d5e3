"""One distribution over all cells of a space at once, by two estimators of its gradient.

Shapes: N draws, S cells of the space (the last edge varying fastest), E edges, O candidate operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from supernet.discrete import Score
from supernet.drawing import gumbel
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.space import CellSpace
from supernet.strategies.base import Batch, Loss, best, check_candidates
from supernet.strategies.policy import (
    PolicySearch,
    cells_within,
    choices_of,
    connected_cells,
    entropy,
    marginals,
    one_hots,
    ranked,
)

_MOST_CELLS = 200_000


class JointPolicy(PolicySearch):
    """A softmax over all connected cells, each with a logit of its own: 15,284 in the default space.

    It can hold any distribution over cells. One independent choice an edge cannot: if two cells are good that differ
    on several edges, it has to believe in the mixed ones between them as well. No paper; it is what REINFORCE
    (Williams, 1992) and straight-through gradients (Bengio et al., 2013) are when nothing is factorised. Cells that
    are not connected have probability zero from the start: they compute a constant, so they have nothing to learn.

    Args:
        estimator: "straight_through" descends the loss of drawn cells with the gradient of the mean mixture in place
            of theirs: biased, but a cell that was never drawn learns from those that share operations with it.
            "reinforce" climbs the accuracy of drawn cells: unbiased, and each cell learns from its own draws only,
            which takes many times as many draws as there are cells.
        samples_per_step: cells drawn in each step of the architecture; if not given, 4 for "reinforce" and 1 for
            "straight_through", where the gradient of one needs all candidates.
        baseline_decay: for "reinforce", of the moving average of the rewards, for each reward; at least 0 and below 1.
        entropy_weight: of the entropy, in nats, that is added to what is climbed.
        top_k: how many of the most likely cells are compared with shared parameters when deriving.
        exclude_none: derive only cells without the operation 'none'.
    """

    connected: Tensor

    def __init__(
        self,
        estimator: Literal["straight_through", "reinforce"] = "straight_through",
        samples_per_step: int | None = None,
        baseline_decay: float = 0.99,
        entropy_weight: float = 1e-4,
        top_k: int = 1,
        exclude_none: bool = False,
    ) -> None:
        if samples_per_step is None:
            samples_per_step = 4 if estimator == "reinforce" else 1
        super().__init__(samples_per_step, baseline_decay, entropy_weight, exclude_none)
        check_candidates(top_k=top_k)
        self.estimator, self.top_k = estimator, top_k

    def bind(self, space: CellSpace, seed: int) -> None:
        """Create a logit for each cell, ``1e-3 * N(0, 1)``.

        Raises:
            SupernetError: the space has too many cells.
        """
        if space.size > _MOST_CELLS:
            raise SupernetError(
                f"JointPolicy has a logit for each cell, {_MOST_CELLS:,} at most, and this space has"
                f" {space.size:,} cells; choose another strategy, or a smaller space"
            )
        super().bind(space, seed)
        self.logits = nn.Parameter(1e-3 * torch.randn(space.size, generator=self.generator))
        self.on_host = connected_cells(space)  # asked without waiting for a device
        self.register_buffer("connected", self.on_host.clone(), persistent=False)

    def log_probs(self) -> Tensor:
        """Log-probability of every cell, shape (S,); minus infinity if it is not connected, or has no candidate.

        Raises:
            SupernetError: this leaves no cell.
        """
        is_open = self.connected
        if not bool(self.candidates.all()):
            within = cells_within(self.candidates)
            if not bool((within & self.on_host).any()):
                raise SupernetError("no cell of the candidates that are left is connected")
            is_open = is_open & within.to(is_open.device, non_blocking=True)
        return self.logits.masked_fill(~is_open, -torch.inf).log_softmax(dim=0)

    def draw(self, log_probs: Tensor, number: int) -> Tensor:
        """Draw cells, shape (N,), by noise from the host, so that nothing waits for a device."""
        noise = gumbel(log_probs, self.generator, number)
        return (log_probs.detach() + noise).argmax(dim=1)

    def mixtures(self, numbers: Tensor) -> Tensor:
        """The one-hot mixtures, shape (N, E, O), of cells, shape (N,)."""
        return one_hots(self.space, choices_of(self.space, numbers))

    def forward(self) -> Tensor:
        """A one-hot mixture: a cell drawn from all of them, without gradient."""
        return self.mixtures(self.draw(self.log_probs(), 1))[0]

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """Minus the gain of the cells that were drawn, and of the entropy."""
        log_probs = self.log_probs()
        numbers = self.draw(log_probs, self.samples_per_step)
        mixtures = self.mixtures(numbers)
        if self.estimator == "reinforce":
            gains = self.advantages(self.rewards(loss, mixtures, val)) * log_probs[numbers]
        else:
            mean = marginals(self.space, log_probs.exp())
            # Exactly one-hot, since the bracket is exactly zero.
            gains = torch.stack(
                [-loss(mixture + (mean - mean.detach()), val, support=self.candidates) for mixture in mixtures]
            )
        return self.objective(gains, entropy(log_probs))

    def cell_log_probs(self) -> Tensor:
        """Log-probability of every cell."""
        return self.log_probs().detach()

    def samples(self, exclude_none: bool = False) -> Iterator[Genotype]:
        """Different cells as they are drawn one after another; asked again at the same step, the same ones."""
        log_probs = self.cell_log_probs()
        # The order of all cells by noise is that of draws without replacement.
        noise = gumbel(log_probs, self.generator.clone_state())
        return ranked(self.space, log_probs + noise, exclude_none=exclude_none)

    def derive(self, score: Score) -> Genotype:
        """The best of the ``top_k`` most likely cells."""
        return best(list(islice(self.likeliest(self.exclude_none), self.top_k)), score)

    def scalars(self) -> dict[str, float]:
        """Rewards and baseline, and the entropy of the distribution over cells, in nats."""
        return {**super().scalars(), "policy_entropy": float(entropy(self.cell_log_probs()))}
