"""A cell of NAS-Bench-101 as a network: the published architecture, and its parameters in closed form.

Shapes: B images of shape (image_channels, H, W), C channels.

    stem -> N cells at C -> pool -> N cells at 2C -> pool -> N cells at 4C -> mean -> linear
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from supernet.errors import SupernetError
from supernet.nasbench101.reading import CONV1X1, CONV3X3, MAXPOOL3X3
from supernet.nasbench101.spec import Spec
from supernet.network import check_image_size, check_skeleton
from supernet.norm import BatchNorm2d

_KERNELS = {CONV3X3: 3, CONV1X1: 1}


def vertex_channels(channels_in: int, channels_out: int, spec: Spec) -> tuple[int, ...]:
    """How many channels each vertex of a pruned cell has.

    The inner vertices that feed the output share its channels, the first of them one more where that does not come
    out even; every other inner vertex has as many as the widest inner vertex that it feeds.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        spec: a pruned cell.

    Raises:
        SupernetError: the output has fewer channels than vertices that feed it.

    >>> vertex_channels(8, 8, Spec("01110 00001 00001 00001 00000", "input,conv3x3,conv3x3,conv3x3,output"))
    (8, 3, 3, 2, 8)
    """
    last = spec.num_vertices - 1
    inner = range(1, last)
    feeding = [v for v in inner if spec.matrix[v][last]]
    if channels_out < len(feeding):
        raise SupernetError(
            f"the output of the cell has {channels_out} channels for the {len(feeding)} vertices that feed it; take"
            f" at least {len(feeding)} channels"
        )
    channels = [channels_in, *[0] * (last - 1), channels_out]
    for place, v in enumerate(feeding):
        channels[v] = channels_out // len(feeding) + (place < channels_out % len(feeding))
    for v in reversed(inner):
        if v not in feeding:
            channels[v] = max(channels[w] for w in inner if spec.matrix[v][w])
    return tuple(channels)


def num_parameters(
    spec: Spec, channels: int = 128, num_cells: int = 3, num_classes: int = 10, image_channels: int = 3
) -> int:
    """Trainable parameters of ``Network101(spec, ...)``, which the defaults make the published number.

    Isomorphic cells may differ in it a little, because the order of the vertices says which of them get the odd
    channels. The published number is that of the table's own representative.

    Raises:
        SupernetError: such a network cannot be built.

    >>> num_parameters(Spec("011 001 000", "input,conv3x3,output"))
    11051402
    """
    cell = _check(spec, channels, num_cells, num_classes, image_channels)
    total = _cbr(image_channels, channels, 3) + 4 * channels * num_classes + num_classes
    for wide_in, wide_out in _widths(channels, num_cells):
        widths = vertex_channels(wide_in, wide_out, cell)
        for v, (width, op) in enumerate(zip(widths, cell.ops, strict=True)):
            total += _cbr(wide_in, width, 1) if cell.matrix[0][v] else 0
            total += _cbr(width, width, _KERNELS[op]) if op in _KERNELS else 0
    return total


def _cbr(channels_in: int, channels_out: int, kernel_size: int) -> int:
    """Parameters of a convolution and its normalisation."""
    return channels_in * channels_out * kernel_size**2 + 2 * channels_out


def _widths(channels: int, num_cells: int) -> Iterator[tuple[int, int]]:
    """Channels that each cell gets and gives."""
    before = channels
    for stack in range(3):
        for _ in range(num_cells):
            yield before, channels * 2**stack
            before = channels * 2**stack


def _check(spec: Spec, channels: int, num_cells: int, num_classes: int, image_channels: int) -> Spec:
    """The pruned cell, if such a network can be built."""
    check_skeleton(channels=channels, num_cells=num_cells, num_classes=num_classes, image_channels=image_channels)
    if spec.outside:
        raise SupernetError(f"there is no network of the cell {spec}: {spec.outside}")
    vertex_channels(channels, channels, spec.pruned)  # the narrowest: says where channels do not suffice
    return spec.pruned


class ConvBnRelu(nn.Sequential):
    """Convolution that keeps the size, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int) -> None:
        conv = nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2, bias=False)
        # The published momentum 0.997 is the share of what was; torch's is that of what is new.
        super().__init__(conv, BatchNorm2d(channels_out, eps=1e-5, momentum=0.003), nn.ReLU())


class Cell101(nn.Module):
    """One cell: (B, channels_in, H, W) -> (B, channels_out, H, W).

    An edge from the input goes through a projection, a 1x1 convolution, whatever the channels; an edge between inner
    vertices passes the first channels on, as many as its target has; a vertex applies its operation to the sum. The
    output is the inner vertices that feed it, one after the other, plus the projected input if that feeds it.
    """

    def __init__(self, spec: Spec, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.spec, last = spec, spec.num_vertices - 1
        self.channels = vertex_channels(channels_in, channels_out, spec)
        self.projections = nn.ModuleDict(
            {str(v): ConvBnRelu(channels_in, self.channels[v], 1) for v in range(1, last + 1) if spec.matrix[0][v]}
        )
        self.ops = nn.ModuleDict({str(v): _make_op(spec.ops[v], self.channels[v]) for v in range(1, last)})

    def forward(self, inputs: Tensor) -> Tensor:
        """The output vertex."""
        matrix, last = self.spec.matrix, self.spec.num_vertices - 1
        vertices = {0: inputs}
        for v in range(1, last):
            terms = [vertices[u][:, : self.channels[v]] for u in range(1, v) if matrix[u][v]]
            vertices[v] = self.ops[str(v)](_sum(terms + self._projected(inputs, v)))
        feeding = [vertices[v] for v in range(1, last) if matrix[v][last]]
        return _sum(([torch.cat(feeding, 1)] if feeding else []) + self._projected(inputs, last))

    def _projected(self, inputs: Tensor, vertex: int) -> list[Tensor]:
        """What the input gives to a vertex: one term or none."""
        return [self.projections[str(vertex)](inputs)] if str(vertex) in self.projections else []


def _sum(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])


def _make_op(op: str, channels: int) -> nn.Module:
    if op == MAXPOOL3X3:
        return nn.MaxPool2d(3, stride=1, padding=1)
    return ConvBnRelu(channels, channels, _KERNELS[op])


class Network101(nn.Module):
    """The network that NAS-Bench-101 trained for a cell: ``network(images)``.

    Its parameters start as torch starts them, and not as the publication did.

    Args:
        spec: the cell, pruned here, the same at every depth.
        channels: C, the width of the first of the three stacks.
        num_cells: N, the number of cells in each stack.
        num_classes: number of classes.
        image_channels: channels of the images.

    Raises:
        SupernetError: the cell is not in the domain, or a number is too small.

    >>> with torch.device("meta"):
    ...     network = Network101(Spec("01 00", "input,output"))
    >>> sum(parameter.numel() for parameter in network.parameters())
    882570
    """

    def __init__(
        self, spec: Spec, channels: int = 128, num_cells: int = 3, num_classes: int = 10, image_channels: int = 3
    ) -> None:
        super().__init__()
        self.spec = _check(spec, channels, num_cells, num_classes, image_channels)
        blocks: list[nn.Module] = [ConvBnRelu(image_channels, channels, 3)]
        for place, (wide_in, wide_out) in enumerate(_widths(channels, num_cells)):
            if place and place % num_cells == 0:
                blocks.append(nn.MaxPool2d(2))
            blocks.append(Cell101(self.spec, wide_in, wide_out))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(4 * channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits, shape (B, num_classes), of normalised images, shape (B, image_channels, H, W)."""
        check_image_size(*images.shape[2:])
        logits: Tensor = self.head(self.blocks(images).mean((2, 3)))
        return logits
