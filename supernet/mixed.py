"""The mixed cell: all candidate operations of all edges, computed together and only where they count.

Shapes: B images, C channels, E edges, O candidate operations. The textbook cell runs its E * O operations one by
one. This one computes the same function with less work:

* All edges that leave a node see the same input, so one convolution with ``k * C`` output channels serves its k
  edges, and a pooling is computed once.
* Batch normalisation has no affine parameters in a search cell, so the coefficient of a candidate is its scale.
* A candidate whose coefficient is zero does not run, and neither does one that cannot reach the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


Plan = Sequence[Sequence[Term]]
"""The terms of each node of a cell, by source node; one plan serves all cells of a supernet in a step."""


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
        """The output node, shape (B, C, H, W), of the cell on inputs of this shape."""
        sums: list[Tensor | None] = [inputs] + [None] * (self.num_nodes - 1)
        for source, terms in enumerate(plan):
            node = sums[source]
            if node is None or not terms:
                continue
            rectified = F.relu(node) if any(term.op in CONVOLUTIONS for term in terms) else node
            for term in terms:
                if term.op in CONVOLUTIONS:
                    outputs = self._convolve(source, rectified, term)
                else:
                    fixed = self.fixed[term.op](node)
                    outputs = [fixed * coefficient for coefficient in term.coefficients]
                for target, output in zip(term.targets, outputs, strict=True):
                    previous = sums[target]
                    sums[target] = output if previous is None else previous + output
        return torch.zeros_like(inputs) if (last := sums[-1]) is None else last

    def _convolve(self, source: int, rectified: Tensor, term: Term) -> Sequence[Tensor]:
        """The normalised and scaled convolutions of one node, one output for each target of the term."""
        if len(term.targets) == self.num_nodes - 1 - source:
            weight: Tensor = self._weight(term.op, source)
        else:
            weight = torch.cat([self.edge_weight(term.op, target, source) for target in term.targets])
        outputs = F.conv2d(rectified, weight, padding="same")
        scale = torch.stack(term.coefficients).repeat_interleave(self.channels)
        return F.batch_norm(outputs, None, None, weight=scale, training=True).chunk(len(term.targets), dim=1)

    def edge_weight(self, op: str, target: int, source: int) -> Tensor:
        """The kernel of a convolution on one edge, shape (C, C, K, K): a view into the shared parameter."""
        first = (target - source - 1) * self.channels
        return self._weight(op, source)[first : first + self.channels]

    def _weight(self, op: str, source: int) -> nn.Parameter:
        return self.convolutions[source].get_parameter(f"{op}.weight")
