"""What a cell costs once it is a network: parameters and multiply-accumulates, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from supernet.genotype import ZERO, Genotype
from supernet.network import check_image_size, check_skeleton
from supernet.ops import CONVOLUTIONS, check_ops


class Cost(NamedTuple):
    """Cost of one network."""

    params: int
    """Number of parameters; edges that cannot reach the output count, as in the published figures."""
    macs: int
    """Multiply-accumulates for one image: convolutions, and the classifier with its bias, as published."""

    def __str__(self) -> str:
        return f"{self.params / 1e6:.3f} M parameters, {self.macs / 1e6:.2f} M MACs"


def cost(
    genotype: Genotype,
    channels: int = 16,
    num_cells: int = 5,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (3, 32, 32),
) -> Cost:
    """The cost of ``Network(genotype, ...)`` for images of a shape (channels, height, width).

    For the defaults this is ``73,306 + 243,040 n3 + 28,000 n1`` parameters with n3 and n1 the numbers of 3x3 and
    1x1 convolutions, and ``7.78305 + 35.38944 n3 + 3.93216 n1`` million multiply-accumulates.

    Raises:
        SupernetError: such a network cannot be built, or the two reductions do not divide the image.

    >>> print(cost(Genotype.from_index(11472)))
    0.559 M parameters, 78.56 M MACs
    """
    image_channels, height, width = image_shape
    check_ops(genotype.ops)
    check_skeleton(channels=channels, num_cells=num_cells, num_classes=num_classes, image_channels=image_channels)
    check_image_size(height, width)
    pixels = height * width
    stem = image_channels * channels * 9
    params = stem + 2 * channels
    macs = stem * pixels
    for stage in range(3):
        wide = channels * 2**stage
        if stage:
            pixels //= 4
            reduction = 9 * (wide // 2) * wide + 9 * wide * wide + (wide // 2) * wide
            params += reduction + 2 * (2 * wide)
            macs += reduction * pixels
        for op in genotype.ops:
            if op in CONVOLUTIONS:
                kernel = CONVOLUTIONS[op] ** 2 * wide * wide
                params += num_cells * (kernel + 2 * wide)
                macs += num_cells * kernel * pixels
    classifier = 4 * channels * num_classes + num_classes
    return Cost(params + 2 * (4 * channels) + classifier, macs + classifier)


def live(genotype: Genotype) -> Genotype:
    """The cell with ``none`` on every edge that lies on no path from the input to the output.

    What such an edge computes never counts, whatever its operation.

    >>> str(live(Genotype.parse("|none~0|+|skip_connect~0|nor_conv_3x3~1|+|avg_pool_3x3~0|none~1|none~2|")))
    '|none~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|none~2|'
    """
    edges = {edge: op for edge, op in genotype.edges.items() if op != ZERO}
    # Edges are ordered by target, so a node is complete before any edge leaves it, and backwards after.
    fed, used = {0}, {genotype.num_nodes - 1}
    for target, source in edges:
        if source in fed:
            fed.add(target)
    for target, source in reversed(edges):
        if target in used:
            used.add(source)
    alive = {(target, source) for target, source in edges if source in fed and target in used}
    return Genotype(tuple(op if edge in alive else ZERO for edge, op in genotype.edges.items()))


def effective_params(genotype: Genotype, **network: Any) -> int:
    """The number of parameters that the output depends on: those of `cost` without edges that lead nowhere.

    Over all 15,625 cells its rank correlation with the accuracy is higher than that of the published number, without
    any network or data: what a search knows about cells has to be measured against it.

    Args:
        genotype: the cell.
        network: width, depth, classes and images, as in `cost`.

    >>> cell = Genotype.parse("|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|none~2|")
    >>> cost(cell).params, effective_params(cell)
    (559386, 73306)
    """
    return cost(live(genotype), **network).params


def operation_costs(ops: Sequence[str], **network: Any) -> list[Cost]:
    """What each operation adds to the cost of a network, on any edge.

    Args:
        ops: names of operations.
        network: width, depth, classes and images, as in `cost`.
    """
    empty, *alone = (cost(Genotype((op,)), **network) for op in ("none", *ops))
    return [Cost(*(int(one - none) for one, none in zip(each, empty, strict=True))) for each in alone]
