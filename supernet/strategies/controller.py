"""The controller of ENAS: a recurrent network that draws the operations of a cell one after another.

Shapes: N draws, S cells of the space (the last edge varying fastest), E edges, O candidate operations, H units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from supernet.strategies.policy import entropy

State = tuple[Tensor, Tensor]
"""Output and memory of one layer, each of shape (N, H)."""


class Drawn(NamedTuple):
    """Cells, and what the controller says of them."""

    choices: Tensor
    """Operation numbers, shape (N, E)."""
    log_probs: Tensor
    """Of the cells, shape (N,)."""
    entropies: Tensor
    """Of the operations of all edges, each given those before it, in nats; shape (N,)."""


class Controller(nn.Module):
    """An LSTM whose input is what was chosen on the edge before, and whose output says what to choose on this one.

    Args:
        num_ops: O.
        temperature: divides the logits.
        tanh_constant: the largest size of a logit after that, by ``tanh_constant * tanh(logit)``.
        units: H, the width of every layer.
        num_layers: of the LSTM.
    """

    def __init__(
        self, num_ops: int, temperature: float = 5.0, tanh_constant: float = 2.5, units: int = 32, num_layers: int = 2
    ) -> None:
        super().__init__()
        self.temperature, self.tanh_constant = temperature, tanh_constant
        self.start = nn.Parameter(torch.empty(1, units))
        self.layers = nn.ModuleList(nn.LSTMCell(units, units) for _ in range(num_layers))
        self.embedding = nn.Embedding(num_ops, units)
        self.head = nn.Linear(units, num_ops)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def draw(self, noise: Tensor, candidates: Tensor) -> Drawn:
        """Draw cells by Gumbel noise, shape (N, E, O), from the candidates, bool, shape (E, O)."""
        drawn: Drawn = self(len(noise), candidates, lambda edge, log_probs: (log_probs + noise[:, edge]).argmax(dim=1))
        return drawn

    def judge(self, choices: Tensor, candidates: Tensor) -> Drawn:
        """What the controller says now of cells, shape (N, E)."""
        judged: Drawn = self(len(choices), candidates, lambda edge, _: choices[:, edge])
        return judged

    def forward(self, number: int, candidates: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Drawn:
        """Go through the edges.

        Args:
            number: N.
            candidates: bool, shape (E, O).
            choose: given an edge and the log-probabilities of its operations, shape (N, O), the choices, shape (N,).
        """
        inputs, states = self._begin(number)
        choices, log_probs, entropies = [], [], []
        for edge, open_ops in enumerate(candidates.unbind()):
            log_prob, states = self._step(inputs, states, open_ops)
            choice = choose(edge, log_prob)
            inputs = self.embedding(choice)
            choices.append(choice)
            log_probs.append(log_prob.gather(1, choice[:, None])[:, 0])
            entropies.append(entropy(log_prob))
        return Drawn(torch.stack(choices, dim=1), torch.stack(log_probs).sum(dim=0), torch.stack(entropies).sum(dim=0))

    def all_log_probs(self, candidates: Tensor) -> Tensor:
        """Log-probability of every cell, shape (S,): cells that begin alike share the steps that they share."""
        inputs, states = self._begin(1)
        total = inputs.new_zeros(1)
        for open_ops in candidates.unbind():
            log_probs, states = self._step(inputs, states, open_ops)
            total = (total[:, None] + log_probs).flatten()
            number = len(open_ops)
            states = [(h.repeat_interleave(number, dim=0), c.repeat_interleave(number, dim=0)) for h, c in states]
            inputs = self.embedding.weight.repeat(len(log_probs), 1)
        return total

    def _begin(self, number: int) -> tuple[Tensor, list[State]]:
        inputs = self.start.expand(number, -1)
        nothing = torch.zeros_like(inputs)
        return inputs, [(nothing, nothing) for _ in self.layers]

    def _step(self, inputs: Tensor, states: Sequence[State], open_ops: Tensor) -> tuple[Tensor, list[State]]:
        """Log-probabilities of the operations of an edge, shape (N, O), and the states after it."""
        device, after = inputs.device.type, []
        # In reduced precision the probability of a whole cell would be off by percents.
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            for layer, state in zip(self.layers, states, strict=True):
                after.append(layer(inputs, state))
                inputs = after[-1][0]
            logits = self.tanh_constant * torch.tanh(self.head(inputs) / self.temperature)
            return logits.masked_fill(~open_ops, -torch.inf).log_softmax(dim=1), after
