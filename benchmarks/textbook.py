"""The textbook way to search, as the public implementations do it: the baseline of every ratio in this folder.

Every candidate operation of every edge is a module of its own and runs by itself; its output is multiplied by its
coefficient, and the products are added up. A one-path search runs the chosen operation of an edge and adds the bare
coefficients of the others, which are zero. Both steps compute the gradients of everything, the network's parameters
and the architecture's, although each uses only one of them. All runs eagerly in the default memory layout, the
optimizers take the parameters one by one, and every loss is read on the host at once.

Shapes: B images, C channels, E edges, O candidate operations; a mixture is (E, O).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from supernet.genotype import ZERO
from supernet.mixed import MixedCell
from supernet.network import Skeleton, Supernet
from supernet.ops import CONVOLUTIONS
from supernet.space import SKIP, CellSpace
from supernet.strategies import Batch, SearchStrategy

FIXED: dict[str, Callable[[], nn.Module]] = {
    ZERO: lambda: Zero(),
    SKIP: nn.Identity,
    "avg_pool_3x3": lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    "max_pool_3x3": lambda: nn.MaxPool2d(3, stride=1, padding=1),
}
"""The operations without parameters, each as PyTorch's own module."""
GRAD_CLIP = 5.0
"""Largest norm of the network's gradient."""


class Zero(nn.Module):
    """The operation ``none``."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Zeros of the shape of the inputs."""
        return inputs.mul(0.0)


def textbook_op(op: str, channels: int) -> nn.Module:
    """One candidate operation of a search cell, with batch normalisation that has no affine parameters."""
    if op not in CONVOLUTIONS:
        return FIXED[op]()
    kernel = CONVOLUTIONS[op]
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels, affine=False, track_running_stats=False),
    )


class TextbookCell(nn.Module):
    """All candidate operations of all edges, one by one."""

    def __init__(self, space: CellSpace, channels: int) -> None:
        super().__init__()
        self.space = space
        self.edges = nn.ModuleList(
            nn.ModuleList(textbook_op(op, channels) for op in space.ops) for _ in range(space.num_edges)
        )

    def forward(self, inputs: Tensor, mixture: Tensor, chosen: Sequence[int] | None = None) -> Tensor:
        """The output node, shape (B, C, H, W); with ``chosen``, shape (E,), one operation an edge runs."""
        nodes = [inputs]
        for target in range(1, self.space.num_nodes):
            edges = [(edge, source) for edge, (end, source) in enumerate(self.space.edges) if end == target]
            terms = (
                self._edge(edge, nodes[source], mixture[edge], None if chosen is None else chosen[edge])
                for edge, source in edges
            )
            nodes.append(_sum(terms))
        return nodes[-1]

    def _edge(self, edge: int, inputs: Tensor, row: Tensor, chosen: int | None) -> Tensor:
        ops = self.edges[edge]
        assert isinstance(ops, nn.ModuleList)
        return _sum(
            coefficient * op(inputs) if chosen is None or column == chosen else coefficient
            for column, (coefficient, op) in enumerate(zip(row, ops, strict=True))
        )


def _sum(terms: Iterable[Tensor]) -> Tensor:
    """Python's sum, which starts by adding the first term to 0: one kernel more, in the public code as here."""
    total = sum(terms)
    assert isinstance(total, Tensor)
    return total


class TextbookSupernet(Skeleton):
    """The same function as `supernet.network.Supernet`, computed as the public implementations do.

    Args:
        space: nodes, edges and candidate operations of the cell.
        channels: C, the width of the first stage.
        num_cells: N, the number of cells in each of the three stages.
        num_classes: number of classes.
        image_channels: channels of the images.
        one_path: run only the operation with the largest coefficient on each edge; for one-hot mixtures.
    """

    def __init__(
        self,
        space: CellSpace | None = None,
        channels: int = 16,
        num_cells: int = 5,
        num_classes: int = 10,
        image_channels: int = 3,
        *,
        one_path: bool = False,
    ) -> None:
        self_space = CellSpace() if space is None else space
        super().__init__(
            lambda width: TextbookCell(self_space, width),
            channels=channels,
            num_cells=num_cells,
            num_classes=num_classes,
            image_channels=image_channels,
            track=False,
        )
        self.space, self.one_path = self_space, one_path
        for parameter in self.parameters():
            # Whatever layout the skeleton prefers. A 1x1 kernel counts as contiguous in either, so only a copy helps.
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)

    def forward(self, images: Tensor, mixture: Tensor) -> Tensor:
        """Class logits, shape (B, num_classes), of normalised images under a mixture, shape (E, O)."""
        mixture = mixture.to(self.stem.get_parameter("0.weight"))
        # The host reads the choice where the mixture lives, and on an accelerator waits for it.
        chosen = mixture.argmax(dim=1).tolist() if self.one_path else None
        features = self.stem(images.contiguous())
        for block in self.blocks:
            features = block(features, mixture, chosen) if isinstance(block, TextbookCell) else block(features)
        logits: Tensor = self.head(features)
        return logits


def textbook_of(supernet: Supernet, *, one_path: bool = False) -> TextbookSupernet:
    """The textbook network with a copy of a supernet's parameters: both compute the same logits."""
    stem, head = supernet.stem.get_parameter("0.weight"), supernet.head.get_parameter("4.weight")
    num_cells = (len(supernet.blocks) - 2) // 3
    sizes = (stem.shape[0], num_cells, head.shape[0], stem.shape[1])
    network = TextbookSupernet(supernet.space, *sizes, one_path=one_path).to(stem)
    shared = dict(supernet.named_parameters())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in shared:
                parameter.copy_(shared[name])
        for mixed, cell in zip(supernet.blocks, network.blocks, strict=True):
            if isinstance(mixed, MixedCell):
                _copy_kernels(mixed, cell, supernet.space)
    return network


def _copy_kernels(mixed: MixedCell, cell: nn.Module, space: CellSpace) -> None:
    for edge, (target, source) in enumerate(space.edges):
        for column, op in enumerate(space.ops):
            if op in CONVOLUTIONS:
                kernel = cell.get_parameter(f"edges.{edge}.{column}.1.weight")
                kernel.copy_(mixed.edge_weight(op, target, source))


def textbook_optimizers(network: nn.Module, search: SearchStrategy) -> tuple[SGD, Adam | None]:
    """The optimizers of the network and, if it learns anything, of the architecture, in their plain loops."""
    sgd = SGD(network.parameters(), 0.025, momentum=0.9, weight_decay=5e-4, nesterov=True, foreach=False)
    learned = list(search.parameters())
    if not learned:
        return sgd, None
    return sgd, Adam(learned, 3e-4, betas=(0.5, 0.999), weight_decay=1e-3, foreach=False)


def textbook_step(
    network: TextbookSupernet,
    search: SearchStrategy,
    network_optimizer: Optimizer,
    arch_optimizer: Optimizer | None,
    train: Batch,
    val: Batch,
    read: Callable[[Tensor], object] = Tensor.item,
) -> None:
    """One step of the architecture, if it learns anything, then one of the network; batches on its device.

    ``read`` takes each loss at once, on the host, as the running averages of the public code do.
    """

    def cross_entropy(mixture: Tensor, batch: Batch) -> Tensor:
        images, labels = batch
        return F.cross_entropy(network(images, mixture), labels)

    loss_of: Any = cross_entropy  # all that the strategies which are compared here ask for
    if arch_optimizer is not None and (arch_loss := search.arch_loss(loss_of, train, val)) is not None:
        _zero_gradients(network_optimizer, arch_optimizer)
        torch.autograd.backward(arch_loss)
        arch_optimizer.step()
        read(arch_loss.detach())
    _zero_gradients(network_optimizer, arch_optimizer)
    for mixture in search.paths(loss_of, train):
        loss = cross_entropy(mixture, train)
        torch.autograd.backward(loss)
        read(loss.detach())
    nn.utils.clip_grad_norm_(network.parameters(), GRAD_CLIP, foreach=False)
    network_optimizer.step()


def _zero_gradients(*optimizers: Optimizer | None) -> None:
    for optimizer in optimizers:
        if optimizer is not None:
            optimizer.zero_grad()
