"""What a search strategy is.

Shapes: B images, E edges, O candidate operations, P paths, L cells of the supernet; a mixture is (E, O), or (L, E, O)
where each cell has its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from supernet.discrete import Score, most_likely, sample_cells
from supernet.drawing import Drawing, seeded
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.ranks import sum_over_ranks, world_size
from supernet.space import CellSpace

Batch = tuple[Tensor, Tensor]
"""Images, shape (B, channels, H, W), and class numbers, shape (B,)."""

Parameters = Mapping[str, Tensor]
"""Parameters of the network, by name."""


class Loss(Protocol):
    """What a strategy may ask of the supernet: how well does it do under a mixture?"""

    def __call__(
        self, mixture: Tensor, batch: Batch, *, parameters: Parameters | None = None, support: Tensor | None = None
    ) -> Tensor:
        """The cross-entropy under a mixture, a scalar, and in a step of the architecture the terms of the mixture.

        Args:
            mixture: shape (E, O) or (L, E, O). On a CPU a candidate with coefficient zero does not run and has no
                gradient.
            batch: images and labels.
            parameters: other parameters for the network than its own, such as those of a virtual step.
            support: as the mixture, or (E, O) for all cells; true where a candidate has its exact gradient even if
                its coefficient is zero; on the host. An accelerator may run all of them.
        """
        ...

    def reward(self, mixture: Tensor, batch: Batch) -> Tensor:
        """Accuracy under a mixture, 0 to 1, less the terms of the mixture: a scalar without gradient.

        It is that of the whole batch on every rank.
        """
        ...

    def parameters(self) -> dict[str, Tensor]:
        """The network's parameters by name, as leaves that can be differentiated by."""
        ...

    def descended(self, parameters: Parameters, gradients: Parameters) -> dict[str, Tensor]:
        """Parameters after a step of the network's optimizer down these gradients, differentiable by both.

        It is SGD's step with its learning rate, weight decay and momentum as they are now; nothing is clipped.
        """
        ...

    @property
    def learning_rate(self) -> float:
        """Of the network's optimizer, now."""
        ...


class SearchStrategy(Drawing, ABC):
    """Owns the architecture parameters and turns them into mixtures, losses and, in the end, a cell.

    A subclass creates its parameters in `bind`, and implements `forward`, `derive` and, where it learns by
    gradient, `arch_loss`. Nothing has to be registered: any importable class can be named on the command line.
    """

    space: CellSpace

    exclude_none: bool = False
    """Whether cells with the operation 'none' are not derived."""

    candidates: Tensor
    """Which operations may still be chosen on which edge, shape (E, O), on the host; all of them at first."""

    depth = 1
    """L, how many cells the supernet has; set before the first mixture is made."""

    arch_steps_per_epoch: int | None = None
    """None: a step of the architecture before each step of the network. A number: that many in a row after the last
    network step of each epoch."""

    differentiates_mixture = False
    """Whether `network_loss` takes gradients by the mixture, and so differentiates twice."""

    is_smooth = False
    """Whether the mixture is a smooth function of logits alone, without draws: then its curvature means something."""

    def bind(self, space: CellSpace, seed: int) -> None:
        """Get ready for a space; called once, before the optimizers are made.

        Args:
            space: the cells to search.
            seed: seeds the strategy's own generator, so its draws depend on nothing else.
        """
        self.space = space
        self.candidates = torch.ones(space.num_edges, space.num_ops, dtype=torch.bool)
        self.seed(seed)

    @property
    def learns(self) -> bool:
        """Whether it has parameters: something that steps of the architecture change."""
        return any(True for _ in self.parameters())

    def make_optimizer(self, lr: float, betas: tuple[float, float], weight_decay: float) -> Optimizer:
        """The optimizer of the architecture, where there is something to learn: Adam unless overridden."""
        return Adam(self.parameters(), lr, betas, weight_decay=weight_decay)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Set what follows a schedule; ``epoch`` counts from 0 to ``num_epochs - 1``.

        A run that goes on in the middle of an epoch calls this for the same epoch again: what is set here must not
        depend on what was set before.
        """

    @abstractmethod
    def forward(self) -> Tensor:
        """The mixture for one step, shape (E, O), for all cells of the supernet, or (L, E, O), one for each.

        On a CPU only what is not zero runs; on a GPU everything does (see `Supernet.forward`).
        """

    def paths(self, loss: Loss, train: Batch) -> Iterator[Tensor]:
        """The mixtures whose losses one step of the network optimizer sums; one unless overridden.

        Args:
            loss: cross-entropy of the supernet under a mixture, its parameters frozen.
            train: the batch of this step.
        """
        yield self()

    def network_loss(self, logits: Tensor, labels: Tensor, first: Tensor | None, mixture: Tensor) -> Tensor:
        """The loss of one path in a step of the network, a scalar: the cross-entropy unless overridden.

        Args:
            logits: of the supernet under the path's mixture, shape (B, classes).
            labels: shape (B,).
            first: the logits of the step's first path, detached; None for the first path itself.
            mixture: of the path; requires its gradient if the strategy says `differentiates_mixture`.
        """
        return F.cross_entropy(logits, labels)

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor | None:
        """What the architecture optimizer descends, a scalar; None when there is nothing to learn.

        The parameters of the network are frozen while this runs.

        Args:
            loss: cross-entropy of the supernet under a mixture.
            train: the batch on which the network takes its next step.
            val: a batch of the half that trains the architecture.
        """
        return None

    def after_arch_step(self) -> None:
        """Put right what the step of the architecture optimizer must not have changed."""

    @abstractmethod
    def derive(self, score: Score) -> Genotype:
        """The discovered cell.

        Args:
            score: accuracy of a cell with shared parameters, always on the same validation images. It costs a
                pass over these images; call it only to compare cells.
        """

    def probabilities(self) -> Tensor:
        """How likely each operation is on each edge, shape (E, O); what is plotted. The mixture by default.

        That is the mean of the cells' where each has its own.
        """
        mixture: Tensor = self()
        return mixture.detach() if mixture.dim() == 2 else mixture.detach().mean(dim=0)

    def likeliest(self, exclude_none: bool = False) -> Iterator[Genotype]:
        """Connected cells, the most likely first; by `probabilities`, as if edges were independent, by default."""
        return most_likely(self.space, self.probabilities().log(), exclude_none=exclude_none)

    def samples(self, exclude_none: bool = False) -> Iterator[Genotype]:
        """Different connected cells as the strategy draws them; asked again at the same step, the same ones.

        By `probabilities`, as if edges were independent, by default.
        """
        return sample_cells(self.space, self.probabilities(), seeded(self.generator), exclude_none=exclude_none)

    def scalars(self) -> dict[str, float]:
        """Further values of this strategy to plot once an epoch, by name."""
        return {}

    def get_extra_state(self) -> dict[str, Any]:
        """The generator's state, and which candidates are left."""
        return {**super().get_extra_state(), "candidates": self.candidates}

    def set_extra_state(self, state: Any) -> None:
        """Restore `get_extra_state`."""
        super().set_extra_state(state)
        self.candidates = state["candidates"].cpu()


class FactorisedSearch(SearchStrategy):
    """A strategy with one independent categorical distribution an edge, given by logits of shape (E, O).

    Args:
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    is_softmax = True
    """Whether the probabilities of the operations of an edge are the softmax of its logits."""

    def __init__(self, top_k: int = 1, exclude_none: bool = False) -> None:
        super().__init__()
        check_candidates(top_k=top_k)
        self.top_k, self.exclude_none = top_k, exclude_none

    def bind(self, space: CellSpace, seed: int) -> None:
        """Create the logits, ``1e-3 * N(0, 1)``."""
        super().bind(space, seed)
        noise = torch.randn(space.num_edges, space.num_ops, generator=self.generator)
        self.logits = nn.Parameter(1e-3 * noise)

    def open_logits(self) -> Tensor:
        """The logits, minus infinity where an operation is no candidate any more; what a mixture is made of."""
        if bool(self.candidates.all()):
            return self.logits
        return self.logits.masked_fill(~self.candidates.to(self.logits.device, non_blocking=True), -torch.inf)

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor | None:
        """First order: the loss of the current mixture on the validation batch."""
        return loss(self(), val)

    def probabilities(self) -> Tensor:
        """Softmax of the logits."""
        return self.open_logits().detach().softmax(dim=1)

    def likeliest(self, exclude_none: bool = False) -> Iterator[Genotype]:
        """Connected cells, the most likely first."""
        return most_likely(self.space, self.open_logits().detach().log_softmax(dim=1), exclude_none=exclude_none)

    def derive(self, score: Score) -> Genotype:
        """The best of the ``top_k`` most likely connected cells.

        Raises:
            SupernetError: none of very many is connected.
        """
        return best(list(islice(self.likeliest(self.exclude_none), self.top_k)), score)


def gradient(loss: Tensor, parameters: Parameters, *, create_graph: bool = False) -> dict[str, Tensor]:
    """The gradient of a loss by parameters, of the whole batch of all ranks; zero for what did not take part.

    Args:
        loss: a scalar.
        parameters: by name; each took part in the loss as it is, or not at all.
        create_graph: whether the gradient can be differentiated again.
    """
    leaves = list(parameters.values())
    own = torch.autograd.grad(loss, leaves, retain_graph=True, create_graph=create_graph, materialize_grads=True)
    if world_size() > 1:
        flat = sum_over_ranks(torch.cat([part.reshape(-1) for part in own])) / world_size()
        parts = torch.split(flat, [part.numel() for part in own])
        own = tuple(part.view_as(whole) for part, whole in zip(parts, own, strict=True))
    return dict(zip(parameters, own, strict=True))


def line(first: float, last: float, epoch: int, num_epochs: int) -> float:
    """The value in an epoch of a schedule that goes from the first to the last epoch by a line."""
    progress = epoch / max(1, num_epochs - 1)
    return first * (1 - progress) + last * progress  # ends exactly where it should


def check_candidates(**number: int) -> None:
    """Raise `SupernetError` for a number of cells to compare that is below 1, or would take for ever."""
    for name, value in number.items():
        if value < 1:
            raise SupernetError(f"{name} must be at least 1, got {value}")
        if value > 100_000:
            raise SupernetError(f"{name} must be at most 100,000, got {value}")


def best(cells: list[Genotype], score: Score) -> Genotype:
    """The cell with the highest score, the first of equals; a single cell is not scored.

    Raises:
        SupernetError: there are none.
    """
    if not cells:
        raise SupernetError("none of the cells to derive from is connected; exclude_none keeps to those that are")
    return cells[0] if len(cells) == 1 else max(cells, key=score)
