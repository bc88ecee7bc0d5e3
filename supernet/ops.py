"""The candidate operations of an edge, by name.

Every operation keeps the shape of its input, (B, C, H, W). There are two kinds, and a third that is nothing:
convolutions, which have parameters; fixed operations, which have none; and ``none``, which is the absence of an
edge and needs no module. A new operation is one more line in one of the two tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from torch import nn

from supernet.errors import SupernetError, nearest
from supernet.genotype import ZERO
from supernet.norm import BatchNorm2d
from supernet.space import SKIP

CONVOLUTIONS: dict[str, int] = {"nor_conv_1x1": 1, "nor_conv_3x3": 3, "nor_conv_5x5": 5}
"""Kernel size of each convolution: ReLU, convolution without bias, batch normalisation."""

FIXED: dict[str, Callable[[], nn.Module]] = {
    SKIP: nn.Identity,
    # The padding is left out of the average, and no batch normalisation follows (NAS-Bench-201).
    "avg_pool_3x3": partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=False),
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
    return nn.Sequential(nn.ReLU(), conv, BatchNorm2d(channels))


def make_op(op: str, channels: int) -> nn.Module:
    """One operation as a module of a standalone network; any name but ``none``."""
    return conv_op(channels, CONVOLUTIONS[op]) if op in CONVOLUTIONS else FIXED[op]()
