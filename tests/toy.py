"""A supernet that is a formula: what strategies may ask of it costs nothing and is known exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from supernet.genotype import Genotype
from supernet.space import CellSpace
from supernet.strategies import Batch, Parameters

EMPTY: Batch = (torch.empty(0), torch.empty(0))


class ToyLoss:
    """`supernet.strategies.Loss` of a function of the mixture and, if it wants them, of parameters.

    The optimizer of its parameters is plain SGD.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        parameters: Parameters | None = None,
        learning_rate: float = 0.1,
        reward: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.function, self.learning_rate, self.takes_parameters = function, learning_rate, bool(parameters)
        self.own = dict(parameters or {"nothing": torch.zeros(1)})
        self.reward_of = reward or (lambda mixture: 1 - function(mixture))
        self.calls: list[tuple[Tensor, Batch, Parameters | None, Tensor | None]] = []

    def __call__(
        self, mixture: Tensor, batch: Batch, *, parameters: Parameters | None = None, support: Tensor | None = None
    ) -> Tensor:
        self.calls.append((mixture.detach().clone(), batch, parameters, support))
        w = self.own if parameters is None else parameters
        if self.takes_parameters:
            return self.function(mixture, batch, w)
        return self.function(mixture) + 0.5 * w["nothing"].square().sum().to(mixture)

    @torch.no_grad()
    def reward(self, mixture: Tensor, batch: Batch) -> Tensor:
        return self.reward_of(mixture)

    def parameters(self) -> dict[str, Tensor]:
        return {name: value.detach().requires_grad_() for name, value in self.own.items()}

    def descended(self, parameters: Parameters, gradients: Parameters) -> dict[str, Tensor]:
        return {name: value - self.learning_rate * gradients[name] for name, value in parameters.items()}


def planted(cell: Genotype, space: CellSpace | None = None) -> ToyLoss:
    """A loss that falls with the operations of a cell and rises with others; the reward is the share that is right."""
    space = space or CellSpace()
    target = torch.nn.functional.one_hot(torch.tensor(space.choices(cell)), space.num_ops).float()
    return ToyLoss(
        lambda mixture: ((0.25 - 1.25 * target) * mixture).sum(),
        reward=lambda mixture: (target * mixture).sum() / space.num_edges,
    )
