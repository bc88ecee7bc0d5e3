"""Where to split a supernet: by how alike the gradients are under the operations of an edge (Hu et al., 2022).

Operations that move the shared parameters in the same direction do well to share them.

Shapes: B images, E edges, O candidate operations, D shared parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.mixed import MixedCell
from supernet.network import Supernet
from supernet.ops import CONVOLUTIONS
from supernet.ranks import average
from supernet.split import Partition, Split

NUM_CONTEXTS = 8
"""How many draws of the other edges the gradients are averaged over that are matched."""


def choose(split: Split, network: Supernet, images: Tensor, labels: Tensor, seed: int) -> Partition:
    """The partition that a split asks for; by the gradients on a batch, if it names no edge.

    Args:
        split: when and where.
        network: before it is split.
        images: normalised, shape (B, image_channels, H, W).
        labels: class numbers, shape (B,).
        seed: of the cells in which operations are compared.
    """
    space = network.space
    if split.edge is not None:
        return Partition(split.edge, tuple(range(space.num_ops)))
    contexts = torch.randint(
        space.num_ops, (NUM_CONTEXTS, space.num_edges), generator=torch.Generator().manual_seed(seed)
    )
    similarities = [
        similarity(gradients(network, images, labels, edge, contexts.tolist())) for edge in range(space.num_edges)
    ]
    return best_partition(similarities)


def gradients(
    network: Supernet, images: Tensor, labels: Tensor, edge: int, contexts: Sequence[Sequence[int]]
) -> Tensor:
    """The gradient of the shared parameters under each operation of an edge, shape (O, D), of the batch of all ranks.

    Shared is everything but the operations of this edge themselves, whose gradients count as zero.

    Args:
        network: before it is split.
        images: normalised, shape (B, image_channels, H, W).
        labels: class numbers, shape (B,).
        edge: number of the edge.
        contexts: cells as operation numbers; the mean over them is taken, each with the operation put in.
    """
    named = {name: value for name, value in network.named_parameters() if not name.startswith("others.")}
    rows = []
    for op in range(network.space.num_ops):
        cells = [[*context[:edge], op, *context[edge + 1 :]] for context in contexts]
        mixtures = [F.one_hot(torch.tensor(cell), network.space.num_ops).float() for cell in cells]
        loss = sum(F.cross_entropy(network(images, mixture), labels) for mixture in mixtures) / len(mixtures)
        slopes = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)  # type: ignore[arg-type]
        by_name = {name: slope.clone() for name, slope in zip(named, slopes, strict=True)}
        for kernel in _kernels(network, by_name, edge):
            kernel.zero_()
        rows.append(torch.cat([slope.reshape(-1) for slope in by_name.values()]))
    found = torch.stack(rows)
    average([found])
    return found


def _kernels(network: Supernet, values: dict[str, Tensor], edge: int) -> Iterator[Tensor]:
    """What belongs to the convolutions of one edge, of values that lie as the parameters do."""
    target, source = network.space.edges[edge]
    for number, block in enumerate(network.blocks):
        if isinstance(block, MixedCell):
            first = (target - source - 1) * block.channels
            for op in set(network.space.ops) & set(CONVOLUTIONS):
                kernels = values[f"blocks.{number}.convolutions.{source}.{op}.weight"]
                yield kernels[first : first + block.channels]


def similarity(rows: Tensor) -> Tensor:
    """Cosine similarity of each pair of rows, (O, D) -> (O, O); zero to a row of zeros."""
    unit = F.normalize(rows, dim=1)
    return unit @ unit.T


def minimum_cut(similarities: Tensor) -> tuple[float, tuple[int, ...]]:
    """The two groups with the smallest sum of similarities, shape (O, O), from one to the other, and that sum.

    All groups are tried. A sum has fewer terms where one group is small: where all are alike, one is cut off.
    """
    table: list[list[float]] = similarities.tolist()

    def cut(groups: Sequence[int]) -> float:
        return sum(table[i][j] for i, one in enumerate(groups) for j, other in enumerate(groups[:i]) if one != other)

    candidates = [(0, *groups) for groups in product((0, 1), repeat=len(table) - 1) if any(groups)]
    return min((cut(groups), groups) for groups in candidates)


def best_partition(similarities: Sequence[Tensor]) -> Partition:
    """The edge whose operations are cut apart at the smallest sum of similarities, (O, O) each, and the cut."""
    cuts = [minimum_cut(table) for table in similarities]
    edge = min(range(len(cuts)), key=lambda number: cuts[number][0])
    return Partition(edge, cuts[edge][1])
