"""ENAS: Efficient Neural Architecture Search via Parameter Sharing (Pham et al., 2018).

Shapes: N draws, E edges, O candidate operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from supernet.discrete import Score, different
from supernet.drawing import gumbel
from supernet.errors import SupernetError
from supernet.genotype import ZERO, Genotype
from supernet.space import CellSpace
from supernet.strategies.base import Batch, Loss, best, check_candidates
from supernet.strategies.controller import Controller, Drawn
from supernet.strategies.policy import PolicySearch, entropy, one_hots

_MOST_CELLS = 100_000
"""Of a space whose cells are all looked at."""


class ENAS(PolicySearch):
    """A recurrent controller draws cells; the network trains one cell a step, and accuracies are the rewards.

    After each epoch of the network (section 2.2) the controller climbs the mean reward of its cells by REINFORCE.
    The controller is that of NAS-Bench-201 (Dong and Yang, 2020). Its reference code forgets the moving average of
    the rewards from step to step, lets the gradient of the entropy in through the reward, and compares the cells to
    derive on different batches. Here the average is carried on, the entropy is a bonus beside the reward, and cells
    are compared on the same images.

    Args:
        arch_steps_per_epoch: steps of the controller after each epoch of the network.
        samples_per_step: cells drawn in each of these steps, all rewarded on the same validation batch.
        num_samples: how many different cells, drawn by the controller, are compared when deriving in the last epoch.
        num_early_samples: the same in all epochs before.
        ppo_epochs: steps in a row that use the same cells. 1 is REINFORCE; more is proximal policy optimisation
            (Schulman et al., 2017, eq. 7), with fewer rewards to compute for as many steps.
        ppo_clip: how far the probability of a cell may move in these steps, as a share; used if there are several.
        baseline_decay: of the moving average of the rewards, for each reward; at least 0 and below 1.
        entropy_weight: of the entropy, in nats, that is added to what is climbed.
        temperature: divides the logits of the controller.
        tanh_constant: the largest size of a logit after that.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(
        self,
        arch_steps_per_epoch: int = 50,
        samples_per_step: int = 20,
        num_samples: int = 100,
        num_early_samples: int = 10,
        ppo_epochs: int = 1,
        ppo_clip: float = 0.2,
        baseline_decay: float = 0.99,
        entropy_weight: float = 1e-4,
        temperature: float = 5.0,
        tanh_constant: float = 2.5,
        exclude_none: bool = False,
    ) -> None:
        super().__init__(samples_per_step, baseline_decay, entropy_weight, exclude_none)
        check_candidates(num_samples=num_samples, num_early_samples=num_early_samples)
        if arch_steps_per_epoch < 1 or ppo_epochs < 1 or arch_steps_per_epoch % ppo_epochs:
            raise SupernetError(
                "arch_steps_per_epoch must be a multiple of ppo_epochs, both at least 1, got"
                f" {arch_steps_per_epoch} and {ppo_epochs}: cells are not kept from one epoch to the next"
            )
        for name, value in {"ppo_clip": ppo_clip, "temperature": temperature, "tanh_constant": tanh_constant}.items():
            if not 0 < value < float("inf"):
                raise SupernetError(f"{name} must be above 0, got {value}")
        self.arch_steps_per_epoch, self.ppo_epochs, self.ppo_clip = arch_steps_per_epoch, ppo_epochs, ppo_clip
        self.num_samples, self.num_early_samples = num_samples, num_early_samples
        self.temperature, self.tanh_constant = temperature, tanh_constant
        # No part of the state: at the end of an epoch, when a run may stop, all cells are used up.
        self.drawn: tuple[Drawn, Tensor] | None = None
        """Cells that were drawn, and their advantages."""
        self.steps_left = 0
        self.sampled: dict[str, float] = {}

    def bind(self, space: CellSpace, seed: int) -> None:
        """Create the controller, its parameters uniform in -0.1 to 0.1."""
        super().bind(space, seed)
        with self.drawing():
            self.controller = Controller(space.num_ops, self.temperature, self.tanh_constant)

    def make_optimizer(self, lr: float, betas: tuple[float, float], weight_decay: float) -> Optimizer:
        """Adam with the epsilon of the reference, 1e-3."""
        return Adam(self.parameters(), lr, betas, eps=1e-3, weight_decay=weight_decay)

    @torch.no_grad()
    def draw(self, number: int, generator: torch.Generator, candidates: Tensor | None = None) -> Drawn:
        """Draw cells from the candidates.

        The noise comes from the host, and all else stays where the controller lies: nothing waits for a device, and
        every device draws the same.
        """
        open_ops = self.candidates if candidates is None else candidates
        noise = gumbel(self.controller.start.new_empty(open_ops.shape), generator, number)
        return self.controller.draw(noise, self._beside(open_ops))

    def _beside(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.controller.start.device, non_blocking=True)

    def forward(self) -> Tensor:
        """A one-hot mixture: a cell that the controller draws, without gradient."""
        return one_hots(self.space, self.draw(1, self.generator).choices)[0]

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """Minus the gain of cells, whose gradient is the policy gradient, and the entropy bonus."""
        if self.steps_left == 0 or self.drawn is None:
            drawn = self.draw(self.samples_per_step, self.generator)
            rewards = self.rewards(loss, one_hots(self.space, drawn.choices), val)
            self.steps_left, self.drawn = self.ppo_epochs, (drawn, self.advantages(rewards))
        self.steps_left -= 1
        before, advantages = self.drawn
        now = self.controller.judge(before.choices, self._beside(self.candidates))
        if self.ppo_epochs == 1:
            return self.objective(advantages * now.log_probs, now.entropies)
        ratio = (now.log_probs - before.log_probs).exp()
        near = ratio.clamp(1 - self.ppo_clip, 1 + self.ppo_clip)
        return self.objective(torch.minimum(ratio * advantages, near * advantages), now.entropies)

    def derive(self, score: Score) -> Genotype:
        """The best of the cells that the controller draws: of more in the last epoch than before."""
        number = self.num_samples if self.epoch + 1 >= self.num_epochs else self.num_early_samples
        accuracies = {cell: score(cell) for cell in islice(self.samples(self.exclude_none), number)}
        found = best(list(accuracies), accuracies.__getitem__)
        self.sampled = {
            "sampled_accuracy": sum(accuracies.values()) / len(accuracies),
            "best_sampled_accuracy": accuracies[found],
        }
        return found

    def samples(self, exclude_none: bool = False) -> Iterator[Genotype]:
        """Different connected cells as the controller draws them; asked again at the same step, the same ones."""
        candidates = self.candidates.clone()
        if exclude_none and ZERO in self.space.ops:
            candidates[:, self.space.ops.index(ZERO)] = False
        if not bool(candidates.any(dim=1).all()):
            raise SupernetError("an edge has no operation to draw but 'none', which exclude_none leaves out")
        generator = self.generator.clone_state()
        hundreds = (self.draw(100, generator, candidates).choices.tolist() for _ in count())
        draws = (self.space.genotype(choices) for choices in chain.from_iterable(hundreds))
        return different(draws, math.prod(candidates.sum(dim=1).tolist()))

    @torch.no_grad()
    def cell_log_probs(self) -> Tensor:
        """Log-probability of every cell.

        Raises:
            SupernetError: the space has too many.
        """
        if self.space.size > _MOST_CELLS:
            raise SupernetError(
                f"ENAS looks at all cells of a space of up to {_MOST_CELLS:,} cells, and this one has"
                f" {self.space.size:,}; draw from it instead"
            )
        return self.controller.all_log_probs(self._beside(self.candidates))

    def probabilities(self) -> Tensor:
        """How likely each operation is on each edge; of a large space as 1,000 draws show it."""
        if self.space.size <= _MOST_CELLS:
            return super().probabilities()
        return one_hots(self.space, self._look().choices).mean(dim=0)

    def scalars(self) -> dict[str, float]:
        """Rewards and baseline, accuracies of the cells that were compared, and the entropy over cells, in nats."""
        enumerable = self.space.size <= _MOST_CELLS
        nats = entropy(self.cell_log_probs()) if enumerable else self._look().entropies.mean()
        return {**super().scalars(), **self.sampled, "policy_entropy": float(nats)}

    def _look(self) -> Drawn:
        return self.draw(1_000, self.generator.clone_state())

    def get_extra_state(self) -> dict[str, Any]:
        """Also the accuracies of the cells that were compared last."""
        return {**super().get_extra_state(), "sampled": self.sampled}

    def set_extra_state(self, state: Any) -> None:
        """Restore `get_extra_state`."""
        super().set_extra_state(state)
        self.sampled = {str(name): float(value) for name, value in state["sampled"].items()}
