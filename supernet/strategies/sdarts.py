"""SDARTS: Stabilizing Differentiable Architecture Search via Perturbation-based Regularization (Chen, Hsieh, 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from supernet.errors import SupernetError
from supernet.strategies.base import Batch, Loss, gradient, line
from supernet.strategies.darts import DARTS


class SDARTS(DARTS):
    """DARTS whose network learns under a perturbed mixture, so that it does well around the mixture as well.

    The mixture A of a network step becomes A + D, where no entry of D is larger than epsilon, which grows linearly
    from the first to the last epoch. The architecture's step is that of DARTS. A + D is clamped to [0, 1] and its rows
    are made to sum to one again in the end; an edge of which nothing would be left keeps its row.

    Args:
        perturbation: "random" draws D uniformly, and costs nothing (SDARTS-RS); "adversarial" seeks the D that raises
            the training loss most by projected ascent, and costs as many steps of the architecture as it has steps
            (SDARTS-ADV). It starts at zero and follows the signs of the slope.
        epsilon_min: largest entry of D in the first epoch.
        epsilon_max: largest entry of D in the last epoch.
        steps: of the ascent. Each is 2.5 * epsilon / steps long, so that it can cross the ball.
        order: of the architecture's step, as in DARTS.
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(
        self,
        perturbation: Literal["random", "adversarial"] = "random",
        epsilon_min: float = 0.03,
        epsilon_max: float = 0.3,
        steps: int = 7,
        order: Literal["first", "second", "second_by_differences"] = "first",
        top_k: int = 1,
        exclude_none: bool = False,
    ) -> None:
        super().__init__(order, top_k, exclude_none)
        if not 0 < epsilon_min <= epsilon_max <= 1:
            raise SupernetError(
                "0 < epsilon_min <= epsilon_max <= 1 must hold,"
                f" got epsilon_min={epsilon_min}, epsilon_max={epsilon_max}"
            )
        if steps < 1:
            raise SupernetError(f"steps of the ascent must be at least 1, got {steps}")
        self.perturbation, self.steps = perturbation, steps
        self.epsilon_min, self.epsilon_max = epsilon_min, epsilon_max
        self.epsilon = epsilon_min

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Let epsilon grow linearly from ``epsilon_min`` to ``epsilon_max``."""
        self.epsilon = line(self.epsilon_min, self.epsilon_max, epoch, num_epochs)

    def paths(self, loss: Loss, train: Batch) -> Iterator[Tensor]:
        """The perturbed mixture; rows sum to one."""
        mixture = self().detach()
        perturbed = mixture + self.perturb(mixture, loss, train)
        clamped = perturbed.clamp(0, 1)
        total = clamped.sum(dim=1, keepdim=True)
        yield torch.where(total > 0, clamped / total, mixture)

    def perturb(self, mixture: Tensor, loss: Loss, train: Batch) -> Tensor:
        """What is added to a mixture, shape (E, O); at most epsilon, and zero where an operation is no candidate."""
        candidates = self.candidates.to(mixture, non_blocking=True)
        if self.perturbation == "random":
            noise = torch.rand(mixture.shape, generator=self.generator).to(mixture, non_blocking=True)
            return candidates * self.epsilon * (2 * noise - 1)
        added = torch.zeros_like(mixture)
        for _ in range(self.steps):
            added.requires_grad_()
            # A coefficient may pass through zero on its way, and keeps its slope there.
            support = self.candidates if mixture.device.type == "cpu" else None
            slope = gradient(loss(mixture + added, train, support=support), {"added": added})["added"]
            ahead = added.detach() + 2.5 * self.epsilon / self.steps * slope.sign()
            added = candidates * ahead.clamp(-self.epsilon, self.epsilon)
        return added

    def scalars(self) -> dict[str, float]:
        """Epsilon."""
        return {"epsilon": self.epsilon}
