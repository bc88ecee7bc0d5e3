"""The candidate operations of an edge, by name.

Every operation keeps the shape of its input, (B, C, H, W). There are two kinds, and a third that is nothing:
convolutions, which have parameters; fixed operations, which have none; and ``none``, which is the absence of an
edge and needs no module. A new operation is one more line in one of the two tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.errors import SupernetError, nearest
from supernet.genotype import ZERO
from supernet.space import SKIP

CONVOLUTIONS: dict[str, int] = {"nor_conv_1x1": 1, "nor_conv_3x3": 3, "nor_conv_5x5": 5}
"""Kernel size of each convolution: ReLU, convolution without bias, batch normalisation."""


class AveragePool(nn.Module):
    """Mean over the 3 x 3 neighbours inside the image: the padding is left out of the average.

    It computes ``nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)``. On a CPU PyTorch's kernel takes as
    long as a convolution, so there it is a box filter over a count, which takes a quarter of that.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """The pooled images, shape (B, C, H, W)."""
        if inputs.device.type != "cpu" or torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return F.avg_pool2d(inputs, 3, stride=1, padding=1, count_include_pad=False)
        pooled: Tensor = _BoxMean.apply(inputs)
        return pooled


class _BoxMean(torch.autograd.Function):
    """A 3 x 3 box filter divided by the number of pixels under it. The filter is symmetric: it is its own adjoint."""

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor) -> Tensor:
        return _box_sum(inputs) / _count(inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.count = _count(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _box_sum(grad / ctx.count)


def _box_sum(images: Tensor) -> Tensor:
    channels = images.shape[1]
    return F.conv2d(images, images.new_ones(channels, 1, 3, 3), padding=1, groups=channels)


def _count(images: Tensor) -> Tensor:
    """How many pixels lie inside the image around each one, shape (H, W): 9, fewer at the border."""
    counts = [torch.full((size,), 3.0) for size in images.shape[-2:]]
    for count in counts:
        count[0] -= 1
        count[-1] -= 1
    rows, columns = counts
    return torch.outer(rows, columns).to(images)


FIXED: dict[str, Callable[[], nn.Module]] = {
    SKIP: nn.Identity,
    "avg_pool_3x3": AveragePool,  # no batch normalisation follows (NAS-Bench-201)
    "max_pool_3x3": partial(nn.MaxPool2d, 3, stride=1, padding=1),
}
"""Operations without parameters: a factory for each."""


def check_ops(ops: Iterable[str]) -> None:
    """Raise `SupernetError` for the first name that is no operation, naming the nearest one that is."""
    known = [ZERO, *CONVOLUTIONS, *FIXED]
    for op in ops:
        if op not in known:
            raise SupernetError(f"unknown operation {op!r}: {nearest(op, known)}")


def conv_op(channels: int, kernel_size: int) -> nn.Sequential:
    """ReLU, convolution that keeps the shape, batch normalisation with running statistics."""
    conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels))


def make_op(op: str, channels: int) -> nn.Module:
    """One operation as a module of a standalone network; any name but ``none``."""
    return conv_op(channels, CONVOLUTIONS[op]) if op in CONVOLUTIONS else FIXED[op]()
