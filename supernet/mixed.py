"""The mixed cell: all candidate operations of all edges, computed together and only where they count.

Shapes: B images, C channels, E edges, O candidate operations. The textbook cell runs its E * O operations one by
one. This one computes the same function with less work:

* All edges that leave a node see the same input, so one convolution with ``k * C`` output channels serves its k
  edges, and a pooling is computed once.
* Batch normalisation has no affine parameters in a search cell, so the coefficient of a candidate is its scale.
* A candidate that cannot reach the output does not run, and neither does one whose coefficient is zero, if that can be
  known without waiting for an accelerator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.genotype import ZERO
from supernet.ops import CONVOLUTIONS, FIXED, check_ops
from supernet.space import CellSpace


@dataclass(frozen=True)
class Term:
    """One operation on one node, for every later node that receives it: sum += coefficient * op(node)."""

    op: str
    targets: tuple[int, ...]
    coefficients: tuple[Tensor, ...]
    """One scalar for each target."""
    scale: Tensor | None = None
    """For a convolution: the coefficients channel by channel, shape (k * C,); see `widen`."""


Plan = Sequence[Sequence[Term]]
"""The terms of each node of a cell, by source node; one plan serves all cells of one width in a step."""


def make_plan(space: CellSpace, mixture: Tensor, like: Tensor | None = None) -> Plan:
    """What a cell has to compute for this mixture, shape (E, O).

    The coefficients move to the device and type of ``like``.

    A mixture on the host is read, and only what it chooses is planned: a one-hot mixture costs one operation an
    edge, and a candidate that does not run has no gradient. A mixture on an accelerator is taken as dense, because
    reading it would make the host wait.
    """
    on_host = mixture.device.type == "cpu"
    chosen = (mixture.detach() != 0).tolist() if on_host else [[True] * space.num_ops] * space.num_edges
    wanted = {
        edge: [column for column, op in enumerate(space.ops) if row[column] and op != ZERO]
        for edge, row in zip(space.edges, chosen, strict=True)
    }
    alive = _alive([edge for edge, columns in wanted.items() if columns], space.num_nodes)
    moved = mixture if like is None else mixture.to(like, non_blocking=True)
    scalars = dict(zip(space.edges, (row.unbind() for row in moved.unbind()), strict=True))
    plan: list[list[Term]] = []
    for source in range(space.num_nodes - 1):
        terms = []
        for column, op in enumerate(space.ops):
            targets = tuple(
                target
                for target in range(source + 1, space.num_nodes)
                if {source, target} <= alive and column in wanted[target, source]
            )
            if targets:
                terms.append(Term(op, targets, tuple(scalars[target, source][column] for target in targets)))
        plan.append(terms)
    return plan


def widen(plan: Plan, channels: int) -> Plan:
    """The plan for cells of this width: batch normalisation wants a coefficient for each channel."""

    def scale(term: Term) -> Tensor | None:
        if term.op not in CONVOLUTIONS:
            return None
        # Contiguous also for one target: the backward of batch_norm on the CPU ignores a stride of zero.
        return torch.stack(term.coefficients)[:, None].expand(-1, channels).flatten().contiguous()

    return [[replace(term, scale=scale(term)) for term in terms] for terms in plan]


def is_full(space: CellSpace, plan: Plan) -> bool:
    """Whether every candidate runs on every edge."""
    return sum(len(term.targets) for terms in plan for term in terms) == space.num_edges * len({*space.ops} - {ZERO})


def _alive(edges: Sequence[tuple[int, int]], num_nodes: int) -> set[int]:
    """Nodes that the input reaches and that reach the output, over these edges ``(target, source)``."""
    reached, useful = {0}, {num_nodes - 1}
    for target, source in edges:  # ordered by target: every source is settled before it is used
        if source in reached:
            reached.add(target)
    for target, source in reversed(edges):
        if target in useful:
            useful.add(source)
    return reached & useful


class MixedCell(nn.Module):
    """A search cell over a space, with the parameters of every candidate operation.

    Convolutions have no bias and batch normalisation has neither affine parameters nor running statistics: in
    training and in evaluation it uses the statistics of the batch at hand.

    Args:
        space: nodes, edges and candidate operations.
        channels: C, the same for every node.
    """

    def __init__(self, space: CellSpace, channels: int) -> None:
        super().__init__()
        check_ops(space.ops)
        self.num_nodes, self.channels = space.num_nodes, channels
        kernels = {op: CONVOLUTIONS[op] for op in space.ops if op in CONVOLUTIONS}
        # For source node s: one convolution per kind whose C-channel slices are the edges to s + 1, s + 2, ...
        # PyTorch's initialisation depends on the fan-in only, so each slice is drawn as a convolution of its own.
        self.convolutions = nn.ModuleList(
            nn.ModuleDict(
                {
                    op: nn.Conv2d(channels, (space.num_nodes - 1 - source) * channels, k, padding=k // 2, bias=False)
                    for op, k in kernels.items()
                }
            )
            for source in range(space.num_nodes - 1)
        )
        self.fixed = nn.ModuleDict({op: FIXED[op]() for op in space.ops if op in FIXED})

    def forward(self, inputs: Tensor, plan: Plan) -> Tensor:
        """The output node, shape (B, C, H, W), of the cell on inputs of this shape, by a plan of its width."""
        sums: list[Tensor | None] = [inputs] + [None] * (self.num_nodes - 1)
        for source, terms in enumerate(plan):
            node = sums[source]
            if node is None or not terms:
                continue
            for targets, outputs in self._convolutions(source, node, terms):
                for target, output in zip(targets, outputs, strict=True):
                    sums[target] = _add(sums[target], output)
            for term in terms:
                if term.op not in CONVOLUTIONS:
                    fixed = self.fixed[term.op](node)
                    for target, coefficient in zip(term.targets, term.coefficients, strict=True):
                        sums[target] = _add(sums[target], fixed * coefficient)
        return torch.zeros_like(inputs) if (last := sums[-1]) is None else last

    def _convolutions(
        self, source: int, node: Tensor, terms: Sequence[Term]
    ) -> Iterator[tuple[tuple[int, ...], Sequence[Tensor]]]:
        """Normalised and scaled convolutions of one node, one output for each target.

        Those with the same targets are added up before they are taken apart: the gradients of the parts are put
        together again only once.
        """
        together: dict[tuple[int, ...], Tensor] = {}
        rectified: Tensor | None = None
        for term in terms:
            if term.op in CONVOLUTIONS:
                rectified = F.relu(node) if rectified is None else rectified
                outputs = self._convolve(source, rectified, term)
                together[term.targets] = _add(together.get(term.targets), outputs)
        for targets, total in together.items():
            yield targets, total.chunk(len(targets), dim=1)

    def _convolve(self, source: int, rectified: Tensor, term: Term) -> Tensor:
        """A convolution of one node for all targets of a term, shape (B, k * C, H, W)."""
        if len(term.targets) == self.num_nodes - 1 - source:
            weight: Tensor = self._weight(term.op, source)
        else:
            weight = torch.cat([self.edge_weight(term.op, target, source) for target in term.targets])
        outputs = F.conv2d(rectified, weight, padding="same")
        return F.batch_norm(outputs, None, None, weight=term.scale, training=True)

    def edge_weight(self, op: str, target: int, source: int) -> Tensor:
        """The kernel of a convolution on one edge, shape (C, C, K, K): a view into the shared parameter."""
        first = (target - source - 1) * self.channels
        return self._weight(op, source)[first : first + self.channels]

    def _weight(self, op: str, source: int) -> nn.Parameter:
        return self.convolutions[source].get_parameter(f"{op}.weight")


def _add(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term
