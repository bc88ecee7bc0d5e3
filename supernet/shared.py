"""Accuracies of many cells with shared parameters, on the same images: what `score` says of each, with less work.

Shapes: B images, C channels, E edges, O candidate operations.

* Edges on no path from the input to the output count for nothing (`supernet.cost.live`): cells that differ there only
  are one cell here, and are run once.
* All cells have the stem in common. In the first cell of the network a node depends on the operations of the edges
  into it and into the nodes before it, which are a prefix of the operations of a genotype. So cells are taken in the
  order in which the last edges vary fastest, and the nodes of the present prefix are kept, and what each operation
  makes of them.

What follows the first cell differs from cell to cell, and is run for each. Cells are not run side by side in larger
kernels: batches are large already, and every normalisation would have to keep the images of cells apart.

Besides the batch and what a network needs for it, memory holds E * O tensors of the first cell at most, (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from supernet.cost import live
from supernet.descent import right_answers
from supernet.genotype import ZERO, Genotype, edge_list
from supernet.mixed import MixedCell, add
from supernet.network import Supernet
from supernet.recalibration import recalibrated

CHUNK = 64
"""Different cells between two moments at which the host waits for the device; the stem runs once in each."""


@torch.no_grad()
def shared_accuracies(
    supernet: Supernet,
    cells: Iterable[Genotype],
    batches: Sequence[tuple[Tensor, Tensor]],
    calibration: Sequence[Tensor] = (),
) -> Iterator[tuple[Genotype, float]]:
    """Accuracy of each cell with shared parameters, 0 to 1: that of `supernet.module.SearchModule.score`, but faster.

    Sums are taken in the same order, yet a convolution may round otherwise where it serves another number of edges:
    in float32 an image between two classes can change sides.

    Args:
        supernet: has the parameters.
        cells: cells of its space, each once.
        batches: images and labels, on the device.
        calibration: batches of images that the statistics of a cell are made of; without, they are those of each
            batch. With them nothing is shared but what counts for nothing.

    Yields:
        Cells with their accuracies, not in the order in which they were given.
    """
    num_images = sum(len(labels) for _, labels in batches)
    different = _different(supernet, cells)
    for start in range(0, len(different), CHUNK):
        chunk = different[start : start + CHUNK]
        right = torch.stack([_right(supernet, [equals[0] for equals in chunk], *batch, calibration)
                             for batch in batches]).sum(dim=0)  # fmt: skip
        for equals, count in zip(chunk, right.tolist(), strict=True):
            yield from ((cell, count / num_images) for cell in equals)


def _different(supernet: Supernet, cells: Iterable[Genotype]) -> list[list[Genotype]]:
    """Groups of cells that are one in this supernet; by part, and in it the last edges vary fastest."""
    groups: dict[tuple[int, tuple[int, ...]], list[Genotype]] = {}
    parts: dict[Supernet, int] = {}
    for cell in cells:
        part = parts.setdefault(supernet.part_of(cell), len(parts))
        groups.setdefault((part, _choices(supernet, cell)), []).append(cell)
    return [groups[key] for key in sorted(groups)]


def _choices(supernet: Supernet, cell: Genotype) -> tuple[int, ...]:
    """What tells a cell from others. Channels that bypass the operations make every edge count."""
    choices = supernet.space.choices(cell)
    if supernet.partial_channels > 1:
        return choices
    kept = live(cell)
    return tuple(-1 if op == ZERO else choice for op, choice in zip(kept.ops, choices, strict=True))


def _right(
    supernet: Supernet, cells: Sequence[Genotype], images: Tensor, labels: Tensor, calibration: Sequence[Tensor]
) -> Tensor:
    """How many images each cell gets right, on the device, one number each."""
    answers: Iterator[Tensor]
    if calibration:
        answers = (recalibrated(supernet, cell, calibration)(images) for cell in cells)
    elif supernet.partial_channels > 1:
        answers = (supernet(images, supernet.one_hot(cell)) for cell in cells)
    else:
        answers = _answers(supernet, cells, images)
    return torch.stack([right_answers(logits, labels) for logits in answers])


def _answers(supernet: Supernet, cells: Sequence[Genotype], images: Tensor) -> Iterator[Tensor]:
    """Logits of each cell, (B, classes), with the statistics of the batch."""
    prefixes: dict[Supernet, _Prefixes] = {}
    for cell in cells:
        part = supernet.part_of(cell)
        if part not in prefixes:
            prefixes.clear()  # one part at a time
            prefixes[part] = _Prefixes(part, images)
        yield part.onwards(prefixes[part](live(cell)), part.one_hot(cell), first=1)


class _Prefixes:
    """The first cell of a supernet on one batch, for one genotype after another.

    Args:
        supernet: has the parameters.
        images: the batch.
    """

    def __init__(self, supernet: Supernet, images: Tensor) -> None:
        (first, *_) = supernet.blocks
        assert isinstance(first, MixedCell)
        self.cell = first
        self.nodes: list[Tensor | None] = [supernet.stem(images.contiguous(memory_format=supernet.layout))]
        self.prefix: tuple[str, ...] = ()
        self.outputs: dict[tuple[int, int, str], Tensor] = {}
        """By target, source and operation: what becomes of the nodes that there are."""

    def __call__(self, genotype: Genotype) -> Tensor:
        """The output node, (B, C, H, W), of a cell whose edges are all `live`, or ``none``."""
        same = self._same(genotype)
        del self.nodes[same:]
        self.outputs = {key: value for key, value in self.outputs.items() if key[1] < same}
        for target in range(same, genotype.num_nodes):
            self.nodes.append(self._node(genotype, target))
        self.prefix = genotype.ops
        output = self.nodes[-1]
        return torch.zeros_like(self._input) if output is None else output

    @property
    def _input(self) -> Tensor:
        assert self.nodes[0] is not None
        return self.nodes[0]

    def _same(self, genotype: Genotype) -> int:
        """How many nodes, from the input on, are what they are for the genotype before."""
        pairs = zip(edge_list(genotype.num_nodes), genotype.ops, self.prefix, strict=False)
        different = (target for (target, _), op, before in pairs if op != before)
        return min(next(different, genotype.num_nodes), len(self.nodes))

    def _node(self, genotype: Genotype, target: int) -> Tensor | None:
        """The sum of the edges into a node, in the order in which `supernet.mixed.MixedCell` adds them up."""
        total = None
        for source in range(target):
            if (op := genotype.edges[target, source]) != ZERO:
                total = add(total, self._output(target, source, op))
        return total

    def _output(self, target: int, source: int, op: str) -> Tensor:
        key, node = (target, source, op), self.nodes[source]
        assert node is not None  # nothing live leaves a node that nothing reaches
        if key not in self.outputs:
            self.outputs[key] = self.cell.on_edge(op, target, source, node)
        return self.outputs[key]
