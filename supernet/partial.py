"""The partial cell: only some channels of a node go through the candidate operations (Xu et al., 2020, PC-DARTS).

Shapes: B images, C channels, E edges, O candidate operations; the first c = C / K channels of a node are mixed.

The published cell divides every edge: its first c channels go through the operations, the rest bypasses them, and the
channels of the result are shuffled, so that the next edge mixes others. Here the division is made once for a node:

* The bypass of an edge counts with the sum of its row, which is 1 if rows are probabilities. So it is one more
  operation of the edge, whose coefficient is that sum (`with_bypass`).
* The shuffle is the same for all edges, so it may as well come after their sum:
  ``node = shuffle(cat(sum of the mixed parts, sum of the bypasses))``.

``none`` stands for its share of the mixed channels only: an edge whose operation is ``none`` still lets the others
pass, as in the published code. So a one-hot mixture does not compute the derived network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from supernet.mixed import AddScaled, MixedCell, Plan, Term, add
from supernet.space import CellSpace

BYPASS = "bypass"
"""The operation of the channels that are not mixed."""


def bypassed(space: CellSpace) -> CellSpace:
    """The space with the bypass as its last operation; what a partial cell is planned by."""
    return CellSpace(space.num_nodes, (*space.ops, BYPASS))


def with_bypass(mixture: Tensor, support: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The mixture and its support with a last column for the bypass: the sum of the row, (..., E, O + 1).

    On the host only what runs is part of the sum, as a candidate that does not run has no gradient.
    """
    if support is None and mixture.device.type == "cpu":
        support = mixture.detach() != 0
    if support is None:
        return torch.cat([mixture, mixture.sum(-1, keepdim=True)], dim=-1), None
    total = (mixture * support.to(mixture.device, non_blocking=True)).sum(-1, keepdim=True)
    return torch.cat([mixture, total], dim=-1), torch.cat([support, support.any(-1, keepdim=True)], dim=-1)


class PartialCell(MixedCell):
    """A search cell that mixes one part in K of the channels, by a plan of this width, c, for the `bypassed` space.

    Args:
        space: nodes, edges and candidate operations.
        channels: C, the same for every node; a multiple of K.
        parts: K, at least 2.
    """

    def __init__(self, space: CellSpace, channels: int, parts: int) -> None:
        super().__init__(space, channels // parts)
        self.parts = parts

    def _side_by_side(self, inputs: Tensor, plan: Plan) -> Tensor:
        """The output node if every operation of a node, and its bypass, serves all k later ones."""
        node, mixed, passed = inputs, None, None
        for source, terms in enumerate(plan):
            if not terms:
                return torch.zeros_like(inputs)
            *operations, bypass = terms
            mixing, passing = self._divide(node)
            mixed = _or_zeros(self._add_to_all(source, mixing, operations, mixed), mixing, bypass)
            passed = AddScaled.apply(_or_zeros(passed, passing, bypass), passing, bypass.coefficients)
            (first, mixed), (rest, passed) = _next(mixed, mixing), _next(passed, passing)
            node = self._join(first, rest)
        return node

    def _one_by_one(self, inputs: Tensor, plan: Plan) -> Tensor:
        """The output node if some operations serve some of the later nodes."""
        mixed: list[Tensor | None] = [None] * self.num_nodes
        passed: list[Tensor | None] = [None] * self.num_nodes
        for source, terms in enumerate(plan):
            if not terms:
                continue
            *operations, bypass = terms
            mixing, passing = self._divide(self._join(mixed[source], passed[source]) if source else inputs)
            self._add_to_some(source, mixing, operations, mixed)
            for target, coefficient in zip(bypass.targets, bypass.coefficients.unbind(), strict=True):
                passed[target] = add(passed[target], passing * coefficient)
        return torch.zeros_like(inputs) if passed[-1] is None else self._join(mixed[-1], passed[-1])

    def _divide(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """The channels that are mixed and those that are not."""
        mixing, passing = torch.split(node, [self.channels, node.shape[1] - self.channels], dim=1)
        return mixing.clone(), passing

    def _join(self, mixed: Tensor | None, passed: Tensor | None) -> Tensor:
        """The node of both parts, its channels shuffled: channel ``i * c + j`` of K * c goes to ``j * K + i``."""
        assert passed is not None  # whatever reaches a node reaches it by the bypass, too
        mixed = torch.zeros_like(passed[:, : self.channels]) if mixed is None else mixed
        # With the channels last, as they lie in memory, so that this is one copy.
        node = torch.cat([mixed, passed], dim=1).movedim(1, -1)
        parts: Tensor = torch.unflatten(node, -1, (self.parts, self.channels))
        return parts.transpose(-1, -2).flatten(-2).movedim(-1, 1)


def _or_zeros(sums: Tensor | None, node: Tensor, bypass: Term) -> Tensor:
    return torch.zeros_like(node).repeat(1, len(bypass.targets), 1, 1) if sums is None else sums


def _next(sums: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the next node, and those of the nodes after it."""
    first, others = torch.split(sums, [node.shape[1], sums.shape[1] - node.shape[1]], dim=1)
    return first, others
