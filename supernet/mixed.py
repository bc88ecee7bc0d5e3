"""The mixed cell: all candidate operations of all edges, computed together and only where they count.

Shapes: B images, C channels, E edges, O candidate operations. The textbook cell runs its E * O operations one by
one. This one computes the same function with less work:

* All edges that leave a node see the same input, so one convolution with ``k * C`` output channels serves its k
  edges, and a pooling is computed once. Where every operation serves every edge, the sums of the k later nodes lie
  side by side in one tensor, (B, k * C, H, W), and an operation is added to all of them at once.
* Batch normalisation has no affine parameters in a search cell, so the coefficient of a candidate is its scale.
* A candidate that cannot reach the output does not run, and neither does one whose coefficient is zero, if that can be
  known without waiting for an accelerator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.genotype import ZERO
from supernet.norm import batch_norm
from supernet.ops import CONVOLUTIONS, FIXED, check_ops
from supernet.space import CellSpace


@dataclass(frozen=True)
class Term:
    """One operation on one node, for every later node that receives it: sum += coefficient * op(node)."""

    op: str
    targets: tuple[int, ...]
    coefficients: Tensor
    """One for each target, shape (k,)."""
    scale: Tensor | None = None
    """For a convolution: the coefficients channel by channel, shape (k * C,); see `widen`."""


Plan = Sequence[Sequence[Term]]
"""The terms of each node of a cell, by source node; one plan serves all cells of one width that share a mixture."""


def make_plan(space: CellSpace, mixture: Tensor, like: Tensor | None = None, support: Tensor | None = None) -> Plan:
    """What a cell has to compute for this mixture, shape (E, O).

    The coefficients move to the device and type of ``like``.

    A mixture on the host is read, and only what it chooses is planned: a one-hot mixture costs one operation an
    edge, and a candidate that does not run has no gradient. A mixture on an accelerator is taken as dense, because
    reading it would make the host wait. A ``support`` on the host, shape (E, O), says instead what is planned.
    """
    if support is None and mixture.device.type == "cpu":
        support = mixture.detach() != 0
    chosen = [[True] * space.num_ops] * space.num_edges if support is None else support.tolist()
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
                terms.append(Term(op, targets, torch.stack([scalars[target, source][column] for target in targets])))
        plan.append(terms)
    return plan


def widen(plan: Plan, channels: int) -> Plan:
    """The plan for cells of this width: batch normalisation wants a coefficient for each channel."""
    convolutions = [term for terms in plan for term in terms if term.op in CONVOLUTIONS]
    if not convolutions:
        return plan
    wide = torch.cat([term.coefficients for term in convolutions]).repeat_interleave(channels)
    scales = iter(torch.split(wide, [channels * len(term.targets) for term in convolutions]))
    return [
        [replace(term, scale=next(scales)) if term.op in CONVOLUTIONS else term for term in terms] for terms in plan
    ]


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

    synchronised = False
    """Whether the batch at hand is that of all ranks, or the part that this one has."""

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
        everywhere = (
            len(term.targets) == self.num_nodes - 1 - source for source, terms in enumerate(plan) for term in terms
        )
        return self._side_by_side(inputs, plan) if all(everywhere) else self._one_by_one(inputs, plan)

    def _side_by_side(self, inputs: Tensor, plan: Plan) -> Tensor:
        """The output node if every operation of a node serves all k later ones."""
        node, sums = inputs, None
        for source, terms in enumerate(plan):
            sums = self._add_to_all(source, node, terms, sums)
            if sums is None:
                return torch.zeros_like(inputs)
            if source < self.num_nodes - 2:
                node, sums = torch.split(sums, [self.channels, sums.shape[1] - self.channels], dim=1)
                node = node.clone()  # once, instead of in every operation that wants its values together
        assert sums is not None
        return sums

    def _add_to_all(self, source: int, node: Tensor, terms: Sequence[Term], sums: Tensor | None) -> Tensor | None:
        """The sums of all later nodes, (B, k * C, H, W), with the operations of one node; None while there are none."""
        for _, outputs in self._convolutions(source, node, terms):
            sums = add(sums, outputs)
        for term in terms:
            if term.op not in CONVOLUTIONS:
                if sums is None:  # in a space without convolutions
                    sums = torch.zeros_like(node).repeat(1, len(term.targets), 1, 1)
                sums = AddScaled.apply(sums, self.fixed[term.op](node), term.coefficients)
        return sums

    def _one_by_one(self, inputs: Tensor, plan: Plan) -> Tensor:
        """The output node if some operations serve some of the later nodes."""
        sums: list[Tensor | None] = [inputs] + [None] * (self.num_nodes - 1)
        for source, terms in enumerate(plan):
            if not terms:
                continue
            node = sums[source]
            assert node is not None  # a plan holds no operation on a node that nothing reaches
            self._add_to_some(source, node, terms, sums)
        return torch.zeros_like(inputs) if (last := sums[-1]) is None else last

    def _add_to_some(self, source: int, node: Tensor, terms: Sequence[Term], sums: list[Tensor | None]) -> None:
        """Add the operations of one node to the sums of the nodes that receive them."""
        for targets, outputs in self._convolutions(source, node, terms):
            for target, output in zip(targets, outputs.chunk(len(targets), dim=1), strict=True):
                sums[target] = add(sums[target], output)
        for term in terms:
            if term.op not in CONVOLUTIONS:
                fixed = self.fixed[term.op](node)
                for target, coefficient in zip(term.targets, term.coefficients.unbind(), strict=True):
                    sums[target] = add(sums[target], fixed * coefficient)

    def _convolutions(
        self, source: int, node: Tensor, terms: Sequence[Term]
    ) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Targets and normalised and scaled convolutions of one node, each (B, k * C, H, W)."""
        rectified: Tensor | None = None
        for term in terms:
            if term.op in CONVOLUTIONS:
                rectified = F.relu(node) if rectified is None else rectified
                yield term.targets, self._convolve(source, rectified, term)

    def _convolve(self, source: int, rectified: Tensor, term: Term) -> Tensor:
        """A convolution of one node for all targets of a term, shape (B, k * C, H, W)."""
        if len(term.targets) == self.num_nodes - 1 - source:
            weight = self._weight(term.op, source)
        else:
            weight = torch.cat([self.edge_weight(term.op, target, source) for target in term.targets])
        outputs = F.conv2d(rectified, weight, padding="same")
        return batch_norm(outputs, term.scale, synchronised=self.synchronised)

    def on_edge(self, op: str, target: int, source: int, node: Tensor) -> Tensor:
        """One operation, any but ``none``, on one edge alone: shape (B, C, H, W) as the source node."""
        if op in CONVOLUTIONS:
            return self._convolve(source, F.relu(node), Term(op, (target,), torch.ones(1)))
        outputs: Tensor = self.fixed[op](node)
        return outputs

    def edge_weight(self, op: str, target: int, source: int) -> Tensor:
        """The kernel of a convolution on one edge, shape (C, C, K, K): a view into the shared parameter."""
        first = (target - source - 1) * self.channels
        return self._weight(op, source)[first : first + self.channels]

    def _weight(self, op: str, source: int) -> Tensor:
        # Not get_parameter, which refuses the tensors that torch.func.functional_call puts in place of parameters.
        return self.convolutions[source].get_submodule(op).weight  # type: ignore[return-value]


class AddScaled(torch.autograd.Function):
    """``sums + coefficient * values`` for k nodes side by side: shapes (B, k * C, H, W), (B, C, H, W) and (k,).

    Autograd would write k products, forward and backward, before it adds them up.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(sums: Tensor, values: Tensor, coefficients: Tensor) -> Tensor:
        """The new sums."""
        factors = coefficients.to(values.dtype)[:, None, None, None]
        sides = torch.unflatten(sums, 1, (len(coefficients), values.shape[1]))
        return torch.addcmul(sides, values.unsqueeze(1), factors).flatten(1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Keep the values only if the coefficients are learned."""
        _, values, coefficients = inputs
        ctx.save_for_backward(values if ctx.needs_input_grad[2] else None, coefficients)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The gradients of all three."""
        values, coefficients = ctx.saved_tensors
        to_values = to_coefficients = None
        if ctx.needs_input_grad[1]:
            first, *others = zip(grad.chunk(len(coefficients), dim=1), coefficients.to(grad.dtype), strict=True)
            to_values = first[0] * first[1]
            for part, factor in others:
                to_values = torch.addcmul(to_values, part, factor)
        if ctx.needs_input_grad[2]:
            products = products_apart if grad.device.type == "cpu" else products_together
            to_coefficients = products(grad, values, coefficients)
        return grad, to_values, to_coefficients


def products_apart(sides: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """Inner products of the values, (B, C, H, W), with each of the k sides, (B, k * C, H, W), as `like`, (k,)."""
    return torch.stack([(side * values).sum(dtype=like.dtype) for side in sides.chunk(len(like), dim=1)])


def products_together(sides: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """The same in two kernels; a CPU is slow at it, where C is small."""
    products = torch.unflatten(sides, 1, (len(like), values.shape[1])) * values.unsqueeze(1)
    return products.sum((0, 2, 3, 4), dtype=like.dtype)


def add(total: Tensor | None, term: Tensor) -> Tensor:
    """A sum that may have no terms yet, and one more."""
    return term if total is None else total + term
