"""Few-shot search: after some epochs every part of the space gets a copy of the supernet of its own.

The space is split at one edge: each part has all cells whose operation on this edge is in one group. So parameters
are shared among fewer cells. Zhao et al. (2021, few-shot NAS) give each operation a part of its own. Hu et al. (2022,
generalizing few-shot NAS with gradient matching) put operations together under which the shared parameters have
similar gradients; see `supernet.matching`.

Shapes: B images, E edges, O candidate operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.network import Network, Supernet
from supernet.space import CellSpace


@dataclass(frozen=True)
class Split:
    """When and where a supernet is split.

    Args:
        epoch: at whose beginning it is split, counted from 0; at least 1.
        edge: number of the edge at which it is split, one part for each of its operations (Zhao et al., 2021). Not
            given: the edge, and two groups of its operations, are chosen by gradient matching (Hu et al., 2022).
    """

    epoch: int
    edge: int | None = None

    def num_parts(self, space: CellSpace) -> int:
        """How many parts there will be.

        Raises:
            SupernetError: there is no such edge or epoch, or nothing to tell apart.
        """
        if self.epoch < 1:
            raise SupernetError(
                f"epoch of a split must be at least 1, so that there is something to copy, got {self.epoch}"
            )
        if space.num_ops < 2:
            raise SupernetError(f"a split needs two operations to tell apart, got {list(space.ops)}")
        if self.edge is None:
            return 2
        if not 0 <= self.edge < space.num_edges:
            raise SupernetError(f"edge of a split must be from 0 to {space.num_edges - 1}, got {self.edge}")
        return space.num_ops


@dataclass(frozen=True)
class Partition:
    """The groups of the operations of one edge: ``groups[o]`` is the number of the part with operation ``o``."""

    edge: int
    groups: tuple[int, ...]

    def named(self, space: CellSpace) -> list[list[str]]:
        """The names of the operations of each part."""
        return [[op for op, group in zip(space.ops, self.groups, strict=True) if group == part]
                for part in range(max(self.groups) + 1)]  # fmt: skip

    def told(self, space: CellSpace) -> str:
        """In words, such as "at edge 0 (node 0 to node 1): none, skip_connect | nor_conv_3x3"."""
        target, source = space.edges[self.edge]
        parts = " | ".join(", ".join(ops) for ops in self.named(space))
        return f"at edge {self.edge} (node {source} to node {target}): {parts}"

    def record(self, space: CellSpace) -> dict[str, Any]:
        """In plain values."""
        return {"edge": self.edge, "groups": self.named(space)}


class SplitSupernet(Supernet):
    """A supernet that becomes several: one for each part of the space, with the parameters that it had till then.

    It answers for single paths only, mixtures with one operation an edge, and runs the part that has the operation
    of the split edge. The parameters of all parts are there from the beginning, so that optimizers and checkpoints
    keep their shape; those of the first part are the supernet's own, and the others are idle before the split. A part
    that does not run in a step is not moved by it, not even by weight decay or momentum.

    The mixture is read on the host: one on an accelerator is waited for, and no step can be recorded.

    Args:
        split: when and where it is split.
        space: nodes, edges and candidate operations of the cell.
        sizes: as those of `Supernet`.
    """

    def __init__(self, split: Split, space: CellSpace | None = None, **sizes: int) -> None:
        super().__init__(space, **sizes)
        num_parts = split.num_parts(self.space)
        self.others = nn.ModuleList(Supernet(self.space, **sizes) for _ in range(num_parts - 1))
        self.partition: Partition | None = None

    def forward(self, images: Tensor, mixture: Tensor, support: Tensor | None = None) -> Tensor:
        """Class logits of normalised images under a single path, by its part."""
        chosen = mixture.detach() != 0
        if not bool((chosen.sum(dim=-1) == 1).all()):
            raise SupernetError(
                "a supernet that is split needs single paths, one operation on each edge, as RandomSearch draws them;"
                " got a mixture of several operations or of none"
            )
        part = self if self.partition is None else self.part(chosen[..., self.partition.edge, :])
        return Supernet.forward(part, images, mixture, support)

    def part(self, chosen: Tensor) -> Supernet:
        """The part for operations of the split edge, true where they are chosen, shape (..., O)."""
        assert self.partition is not None
        columns = chosen.reshape(-1, self.space.num_ops).any(dim=0).tolist()
        numbers = {group for group, yes in zip(self.partition.groups, columns, strict=True) if yes}
        if len(numbers) != 1:
            raise SupernetError("a supernet that is split cannot run operations of several parts at once")
        return self.parts()[numbers.pop()]

    def parts(self) -> list[Supernet]:
        """All parts, the supernet itself as the first."""
        return [self, *self.others]

    def parameters_apart(self) -> list[list[nn.Parameter]]:
        """The parameters of each part."""
        others = [list(other.parameters()) for other in self.others]
        theirs = {id(parameter) for part in others for parameter in part}
        return [[parameter for parameter in self.parameters() if id(parameter) not in theirs], *others]

    def split(self, partition: Partition, optimizer: Optimizer) -> None:
        """Let every part go on by itself from what there is, and so the state of the optimizer, such as momentum."""
        own, *others = self.parameters_apart()
        with torch.no_grad():
            for part in others:
                for parameter, parent in zip(part, own, strict=True):
                    parameter.copy_(parent)
                    state = optimizer.state.get(parent, {})
                    optimizer.state[parameter] = {
                        name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()
                    }
        self.partition = partition

    def inherit(self, genotype: Genotype) -> Network:
        """The standalone network of a cell with a copy of the parameters that it has in its part."""
        return Supernet.inherit(self.part_of(genotype), genotype)

    def part_of(self, genotype: Genotype) -> Supernet:
        """The part that has the parameters of a cell; the supernet itself as long as it is not split."""
        choices = torch.tensor(self.space.choices(genotype))
        if self.partition is None:
            return self
        return self.part(F.one_hot(choices[self.partition.edge], self.space.num_ops).bool())

    def compile_cells(self) -> None:
        """Let ``torch.compile`` fuse what lies between the convolutions of the cells of all parts."""
        for part in self.parts():
            Supernet.compile_cells(part)

    def get_extra_state(self) -> dict[str, Any]:
        """Where it is split, if it is."""
        found = self.partition
        return {} if found is None else {"edge": found.edge, "groups": list(found.groups)}

    def set_extra_state(self, state: Any) -> None:
        """Restore `get_extra_state`."""
        if not state:
            self.partition = None
            return
        edge, groups = state["edge"], tuple(state["groups"])
        fits = edge in range(self.space.num_edges) and len(groups) == self.space.num_ops
        if not fits or {*groups} != {*range(len(self.parts()))}:
            raise SupernetError(f"a split of this supernet is an edge and its groups of operations, got {state}")
        self.partition = Partition(edge, groups)


def make_supernet(split: Split | None, space: CellSpace | None = None, **sizes: int) -> Supernet:
    """A supernet that will be split, if a split is given."""
    return Supernet(space, **sizes) if split is None else SplitSupernet(split, space, **sizes)
