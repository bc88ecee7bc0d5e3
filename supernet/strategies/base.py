"""What a search strategy is.

Shapes: E edges, O candidate operations; a mixture is (E, O).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from supernet.discrete import Score, most_likely
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.space import CellSpace

Batch = tuple[Tensor, Tensor]
"""Images, shape (B, channels, H, W), and class numbers, shape (B,)."""

Loss = Callable[[Tensor, Batch], Tensor]
"""``loss(mixture, batch)``: the cross-entropy of the supernet under a mixture, a scalar."""


class SearchStrategy(nn.Module, ABC):
    """Owns the architecture parameters and turns them into mixtures, losses and, in the end, a cell.

    A subclass creates its parameters in `bind`, and implements `forward`, `derive` and, where it learns by
    gradient, `arch_loss`. Nothing has to be registered: any importable class can be named on the command line.
    """

    space: CellSpace
    generator: torch.Generator
    """Source of every random draw of the strategy; on the host, and part of a checkpoint."""

    def bind(self, space: CellSpace, seed: int) -> None:
        """Get ready for a space; called once, before the optimizers are made.

        Args:
            space: the cells to search.
            seed: seeds the strategy's own generator, so its draws depend on nothing else.
        """
        self.space = space
        self.generator = torch.Generator().manual_seed(seed)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Set what follows a schedule; ``epoch`` counts from 0 to ``num_epochs - 1``.

        A run that goes on in the middle of an epoch calls this for the same epoch again: what is set here must not
        depend on what was set before.
        """

    @abstractmethod
    def forward(self) -> Tensor:
        """The mixture for one step, shape (E, O), for all cells of the supernet.

        On a CPU only what is not zero runs; on a GPU everything does (see `Supernet.forward`).
        """

    def paths(self) -> Iterator[Tensor]:
        """The mixtures whose losses one step of the network optimizer sums; one unless overridden."""
        yield self()

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor | None:
        """What the architecture optimizer descends, a scalar; None when there is nothing to learn.

        The parameters of the network are frozen while this runs.

        Args:
            loss: cross-entropy of the supernet under a mixture.
            train: the batch on which the network takes its next step.
            val: a batch of the half that trains the architecture.
        """
        return None

    @abstractmethod
    def derive(self, score: Score) -> Genotype:
        """The discovered cell.

        Args:
            score: accuracy of a cell with shared parameters, always on the same validation images. It costs a
                pass over these images; call it only to compare cells.
        """

    def probabilities(self) -> Tensor:
        """How likely each operation is on each edge, shape (E, O); what is plotted. The mixture by default."""
        mixture: Tensor = self()
        return mixture.detach()

    def scalars(self) -> dict[str, float]:
        """Further values of this strategy to plot once an epoch, by name."""
        return {}

    def get_extra_state(self) -> dict[str, Tensor]:
        """The state of the generator: a resumed search draws on where it stopped."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: Any) -> None:
        """Restore `get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())


class FactorisedSearch(SearchStrategy):
    """A strategy with one independent categorical distribution an edge, given by logits of shape (E, O).

    Args:
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__()
        check_candidates(top_k=top_k)
        self.top_k, self.exclude_none = top_k, exclude_none

    def bind(self, space: CellSpace, seed: int) -> None:
        """Create the logits, ``1e-3 * N(0, 1)``."""
        super().bind(space, seed)
        noise = torch.randn(space.num_edges, space.num_ops, generator=self.generator)
        self.logits = nn.Parameter(1e-3 * noise)

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor | None:
        """First order: the loss of the current mixture on the validation batch."""
        return loss(self(), val)

    def probabilities(self) -> Tensor:
        """Softmax of the logits."""
        return self.logits.detach().softmax(dim=1)

    def derive(self, score: Score) -> Genotype:
        """The best of the ``top_k`` most likely connected cells.

        Raises:
            SupernetError: none of very many is connected.
        """
        log_probs = self.logits.detach().log_softmax(dim=1)
        cells = list(islice(most_likely(self.space, log_probs, exclude_none=self.exclude_none), self.top_k))
        if not cells:
            raise SupernetError("none of the most likely cells is connected; exclude_none keeps to those that are")
        return best(cells, score)


def check_candidates(**number: int) -> None:
    """Raise `SupernetError` for a number of cells to compare that is below 1, or would take for ever."""
    for name, value in number.items():
        if value < 1:
            raise SupernetError(f"{name} must be at least 1, got {value}")
        if value > 100_000:
            raise SupernetError(f"{name} must be at most 100,000, got {value}")


def best(cells: list[Genotype], score: Score) -> Genotype:
    """The cell with the highest score, the first of equals; a single cell is not scored."""
    return cells[0] if len(cells) == 1 else max(cells, key=score)


def seeded(generator: torch.Generator) -> random.Random:
    """A Python generator seeded by the current state of a torch one, which it leaves as it was."""
    return random.Random(bytes(generator.get_state().tolist()))
