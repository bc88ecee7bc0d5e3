"""Options of a search that do not go together, each of them fine alone."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from supernet.errors import SupernetError
from supernet.split import Split
from supernet.strategies import Batch, Parameters, SearchStrategy
from supernet.terms import SearchTerm


def check_together(
    search: SearchStrategy,
    terms: Sequence[SearchTerm],
    split: Split | None,
    partial_channels: int,
    collapse: str,
    compile: bool,
    image_shape: tuple[int, int, int],
) -> None:
    """Raise `SupernetError` for options that would fail late together, or mean nothing."""
    if compile and search.differentiates_mixture:
        raise SupernetError(
            f"compiled cells can be differentiated once, and {type(search).__name__} differentiates them twice: leave"
            " --model.compile out"
        )
    if split is not None:
        _check_single_paths(search, image_shape)
    for name, number in Counter(type(term).__name__ for term in terms).items():
        if number > 1:
            raise SupernetError(
                f"each term is shown under its name, and {name} is there {number} times: leave one of them in"
            )
    for term in terms:
        _check_term(term, split, partial_channels, collapse)


def _check_term(term: SearchTerm, split: Split | None, partial_channels: int, collapse: str) -> None:
    name = type(term).__name__
    if split is not None and term.scores_mixtures:
        raise SupernetError(f"a split supernet runs single paths, and {name} looks at mixtures: leave one of them out")
    if split is not None and term.edits_rows:
        raise SupernetError(
            f"a split supernet runs one operation on each edge, and {name} leaves some edges without any: leave one of"
            " them out"
        )
    if partial_channels > 1 and term.edits_rows:
        raise SupernetError(
            f"with partial_channels the channels that bypass an edge count with the sum of its row, and {name}"
            " takes some of it out: leave one of them out"
        )
    if collapse == "rewind" and term.scores_mixtures:
        raise SupernetError(
            f"{name} decides edges by the epoch, and rewind takes epochs back: pass --model.collapse stop"
        )


def _check_single_paths(search: SearchStrategy, image_shape: tuple[int, int, int]) -> None:
    """Take a step of a copy of the strategy, with a loss that only looks at what it is asked for."""
    probe, name = copy.deepcopy(search), type(search).__name__
    batch = torch.zeros(2, *image_shape), torch.zeros(2, dtype=torch.long)
    loss = _Asked()
    mixture = probe()
    if mixture.dim() == 3:
        raise SupernetError("a split supernet runs one path in all cells: pass per=step, or leave the split out")
    loss.look(mixture)
    if not loss.is_mixed:
        for path in probe.paths(loss, batch):
            loss.look(path)
    if not loss.is_mixed and probe.learns:
        probe.arch_loss(loss, batch, batch)
    if loss.is_mixed:
        raise SupernetError(
            f"a split supernet runs single paths, one operation on each edge, and {name} asks it for mixtures of"
            " several: choose a strategy that draws single paths, such as RandomSearch or GDAS, or leave the split out"
        )
    if loss.has_support:
        raise SupernetError(
            f"a split supernet runs the operations of one part, and {name} takes a gradient of all operations of an"
            " edge: choose a strategy that does without, such as RandomSearch or GDAS, or leave the split out"
        )


class _Asked:
    """`supernet.strategies.Loss` that is always zero, and knows what it was asked for."""

    learning_rate = 0.0

    def __init__(self) -> None:
        self.is_mixed = self.has_support = False

    def look(self, mixture: Tensor) -> None:
        """See whether a mixture is a single path."""
        self.is_mixed |= not bool(((mixture.detach() != 0).sum(dim=-1) == 1).all())

    def __call__(
        self, mixture: Tensor, batch: Batch, *, parameters: Parameters | None = None, support: Tensor | None = None
    ) -> Tensor:
        """Zero, as a function of the mixture."""
        self.look(mixture)
        self.has_support |= support is not None
        return 0.0 * mixture.sum()

    def reward(self, mixture: Tensor, batch: Batch) -> Tensor:
        """Zero."""
        self.look(mixture)
        return torch.zeros(())

    def parameters(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def descended(self, parameters: Parameters, gradients: Parameters) -> dict[str, Tensor]:
        """As they were."""
        return dict(parameters)
