"""The NAS-Bench-201 skeleton, once with mixed cells (`Supernet`) and once with a discovered one (`Network`).

Shapes: B images of shape (image_channels, H, W), C channels, E edges, O candidate operations, L cells.

    stem -> N cells at C -> reduction -> N cells at 2C -> reduction -> N cells at 4C -> BN, ReLU, pool, linear
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from supernet.errors import SupernetError
from supernet.genotype import ZERO, Genotype
from supernet.mixed import MixedCell, Plan, is_full, make_plan, widen
from supernet.norm import BatchNorm2d
from supernet.ops import CONVOLUTIONS, check_ops, make_op
from supernet.partial import PartialCell, bypassed, with_bypass
from supernet.space import CellSpace


class Reduction(nn.Module):
    """Residual block that halves the resolution: (B, C_in, H, W) -> (B, C_out, H/2, W/2)."""

    def __init__(self, channels_in: int, channels_out: int, *, track: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
            BatchNorm2d(channels_out, track_running_stats=track),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            BatchNorm2d(channels_out, track_running_stats=track),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels_in, channels_out, 1, bias=False))

    def forward(self, inputs: Tensor) -> Tensor:
        """Sum of the two convolutions and the pooled shortcut."""
        outputs: Tensor = self.body(inputs) + self.shortcut(inputs)
        return outputs


class Cell(nn.Module):
    """A discovered cell as plain modules, one for each edge that is not ``none``."""

    def __init__(self, genotype: Genotype, channels: int) -> None:
        super().__init__()
        self.num_nodes = genotype.num_nodes
        self.edges = nn.ModuleDict(
            {
                f"{target}<-{source}": make_op(op, channels)
                for (target, source), op in genotype.edges.items()
                if op != ZERO
            }
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """The output node; a node that no edge feeds is zero."""
        nodes = [inputs]
        for target in range(1, self.num_nodes):
            edges = [(source, f"{target}<-{source}") for source in range(target)]
            terms = [self.edges[name](nodes[source]) for source, name in edges if name in self.edges]
            nodes.append(sum(terms[1:], terms[0]) if terms else torch.zeros_like(inputs))
        return nodes[-1]


class Skeleton(nn.Module):
    """Everything around the cells; the two networks differ in their cells and in what these are called with.

    Args:
        make_cell: builds a cell for a number of channels.
        channels: C, the width of the first stage; at least 1.
        num_cells: N, the number of cells in each of the three stages; at least 1.
        num_classes: number of classes; at least 2.
        image_channels: channels of the images, 3 for colour.
        track: whether batch normalisation keeps running statistics for evaluation.

    Raises:
        SupernetError: a number is too small, or far above any network in use.
    """

    layout = torch.channels_last
    """How parameters and features lie in memory. Convolutions run fastest with the channels innermost; no value and no
    shape depends on it."""

    def __init__(
        self,
        make_cell: Callable[[int], nn.Module],
        *,
        channels: int,
        num_cells: int,
        num_classes: int,
        image_channels: int,
        track: bool,
    ) -> None:
        super().__init__()
        check_skeleton(channels=channels, num_cells=num_cells, num_classes=num_classes, image_channels=image_channels)
        self.stem = nn.Sequential(
            nn.Conv2d(image_channels, channels, 3, padding=1, bias=False),
            BatchNorm2d(channels, track_running_stats=track),
        )
        self.widths = (channels, 2 * channels, 4 * channels)
        blocks: list[nn.Module] = [make_cell(channels) for _ in range(num_cells)]
        for width in self.widths[1:]:
            blocks.append(Reduction(width // 2, width, track=track))
            blocks.extend(make_cell(width) for _ in range(num_cells))
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Sequential(
            BatchNorm2d(4 * channels, track_running_stats=track),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * channels, num_classes),
        )
        self.to(memory_format=self.layout)

    def synchronise(self, on: bool) -> None:
        """Whether batch normalisation uses the batches of all ranks, or the part that each has; the latter at first."""
        for module in self.modules():
            if isinstance(module, BatchNorm2d | MixedCell):
                module.synchronised = on


def check_skeleton(*, channels: int, num_cells: int, num_classes: int, image_channels: int) -> None:
    """Raise `SupernetError` for a skeleton that cannot be built, naming the first number that is too small or large."""
    limits = {
        "channels": (channels, 1, 4_096),
        "num_cells": (num_cells, 1, 1_000),
        "num_classes": (num_classes, 2, 1_000_000),
        "image_channels": (image_channels, 1, 1_024),
    }
    for name, (value, floor, ceiling) in limits.items():
        if value < floor:
            raise SupernetError(f"{name} must be at least {floor}, got {value}")
        if value > ceiling:
            raise SupernetError(f"{name} must be at most {ceiling:,}, got {value}")


def check_image_size(height: int, width: int) -> None:
    """Raise `SupernetError` for images that the two reductions do not divide."""
    if height < 4 or width < 4 or height % 4 or width % 4:
        raise SupernetError(
            "image height and width must be multiples of 4, because the network halves them twice,"
            f" got {height} x {width}; resize or pad the images"
        )


class Network(Skeleton):
    """A standalone network of one discovered cell, as it is trained from scratch: ``network(images)``.

    Args:
        genotype: the cell, the same at every depth.
        channels: C, the width of the first stage.
        num_cells: N, the number of cells in each of the three stages.
        num_classes: number of classes.
        image_channels: channels of the images.

    >>> cell = Genotype.from_index(11472)
    >>> sum(parameter.numel() for parameter in Network(cell).parameters())
    559386
    """

    def __init__(
        self,
        genotype: Genotype,
        channels: int = 16,
        num_cells: int = 5,
        num_classes: int = 10,
        image_channels: int = 3,
    ) -> None:
        check_ops(genotype.ops)
        super().__init__(
            lambda width: Cell(genotype, width),
            channels=channels,
            num_cells=num_cells,
            num_classes=num_classes,
            image_channels=image_channels,
            track=True,
        )
        self.genotype = genotype

    def forward(self, images: Tensor) -> Tensor:
        """Class logits, shape (B, num_classes), of normalised images, shape (B, image_channels, H, W)."""
        check_image_size(*images.shape[2:])
        features = self.stem(images.contiguous(memory_format=self.layout))
        for block in self.blocks:
            features = block(features)
        logits: Tensor = self.head(features)
        return logits


class Supernet(Skeleton):
    """A network whose every edge holds all candidate operations: ``supernet(images, mixture)``.

    It knows no search algorithm: the mixture says how much of each candidate runs on each edge, in all cells.
    It keeps no running statistics anywhere. Statistics gathered under many mixtures describe none of them, so in
    evaluation, too, batch normalisation uses the batch at hand.

    Args:
        space: nodes, edges and candidate operations of the cell.
        channels: C, the width of the first stage.
        num_cells: N, the number of cells in each of the three stages.
        num_classes: number of classes.
        image_channels: channels of the images.
        partial_channels: K; only one channel in K goes through the operations, the others bypass them
            (`supernet.partial`). If it is not 1, a one-hot mixture is the cell with its bypasses, which is neither
            the derived network nor can be inherited by it.
    """

    is_compiled = False
    may_compile = True

    def __init__(
        self,
        space: CellSpace | None = None,
        channels: int = 16,
        num_cells: int = 5,
        num_classes: int = 10,
        image_channels: int = 3,
        partial_channels: int = 1,
    ) -> None:
        self_space = CellSpace() if space is None else space
        if partial_channels < 1 or channels % partial_channels:
            raise SupernetError(
                f"channels must be a multiple of partial_channels, of which one part is mixed, got {channels} and"
                f" {partial_channels}"
            )
        super().__init__(
            lambda width: (
                MixedCell(self_space, width)
                if partial_channels == 1
                else PartialCell(self_space, width, partial_channels)
            ),
            channels=channels,
            num_cells=num_cells,
            num_classes=num_classes,
            image_channels=image_channels,
            track=False,
        )
        self.space, self.partial_channels = self_space, partial_channels

    def forward(self, images: Tensor, mixture: Tensor, support: Tensor | None = None) -> Tensor:
        """Class logits of normalised images under a mixture.

        Args:
            images: shape (B, image_channels, H, W); H and W are multiples of 4.
            mixture: shape (E, O), the coefficient of each candidate operation on each edge; any real numbers.
                Or (L, E, O), with one for each cell, in the order in which the images pass them.
                On the host it is read: candidates with coefficient zero do not run, and get the gradient zero.
                On an accelerator it is not read: all candidates run, and the gradient is exact at zeros, too.
            support: as the mixture, or (E, O) for all cells; true where a candidate runs and has its exact gradient,
                whatever its coefficient; on the host. The caller sees to it that coefficients are zero elsewhere.

        Returns:
            Logits, shape (B, num_classes).
        """
        check_image_size(*images.shape[2:])
        return self.onwards(self.stem(images.contiguous(memory_format=self.layout)), mixture, support)

    def onwards(self, features: Tensor, mixture: Tensor, support: Tensor | None = None, first: int = 0) -> Tensor:
        """Class logits, shape (B, num_classes), from the features that go into a block, on its way to the head.

        Args:
            features: what the stem, or the block before, has made of images.
            mixture: as in `forward`; for all cells, those before the block included.
            support: as in `forward`.
            first: number of the block in `blocks`.
        """
        self._check_shape(mixture)
        space = self.space
        if self.partial_channels > 1:
            space, (mixture, support) = bypassed(space), with_bypass(mixture, support)
        plans = self._plans(space, mixture, support)
        # A compiled cell serves the training steps that run every candidate; for anything else, called past its
        # compilation, it would be compiled anew, for each cell that is scored.
        distinct = plans if mixture.dim() == 3 else plans[:1]
        plain = self.is_compiled and not (
            self.may_compile and torch.is_grad_enabled() and all(is_full(space, plan) for plan in distinct)
        )
        passed = sum(isinstance(block, MixedCell) for block in self.blocks[:first])
        remaining = iter(plans[passed:])
        for block in self.blocks[first:]:
            if isinstance(block, MixedCell):
                cell = block.forward if plain else block
                features = cell(features, next(remaining))
            else:
                features = block(features)
        logits: Tensor = self.head(features)
        return logits

    def part_of(self, genotype: Genotype) -> Supernet:
        """The supernet that has the parameters of a cell: this one."""
        return self

    @property
    def depth(self) -> int:
        """Number of cells, L."""
        return len(self._widths())

    def _widths(self) -> list[int]:
        """The channels of each cell."""
        return [block.channels for block in self.blocks if isinstance(block, MixedCell)]

    def _check_shape(self, mixture: Tensor) -> None:
        """Refuse what is neither a mixture for all cells nor one for each."""
        one = (self.space.num_edges, self.space.num_ops)
        if mixture.shape not in (one, (self.depth, *one)):
            raise SupernetError(f"the mixture has one row an edge and one column an operation, {one}, or one such table"
                                f" for each of {self.depth} cells, got {tuple(mixture.shape)}")  # fmt: skip

    def _plans(self, space: CellSpace, mixture: Tensor, support: Tensor | None) -> list[Plan]:
        """What each cell has to compute; cells of one width have the same plan unless each has its own mixture."""
        like, widths = self.stem.get_submodule("0").weight, self._widths()
        if mixture.dim() == 2:
            plan = make_plan(space, mixture, like, support)  # type: ignore[arg-type]
            wide = {width: widen(plan, width) for width in set(widths)}
            return [wide[width] for width in widths]
        supports = [None] * len(widths) if support is None else support.expand_as(mixture)
        rows = zip(mixture, supports, widths, strict=True)
        return [widen(make_plan(space, row, like, its), width) for row, its, width in rows]  # type: ignore[arg-type]

    @contextmanager
    def as_written(self) -> Iterator[None]:
        """Run no compiled cell inside the block: they can be differentiated once, and what is in it may be twice."""
        self.may_compile = False
        try:
            yield
        finally:
            self.may_compile = True

    def compile_cells(self) -> None:
        """Let ``torch.compile`` fuse what lies between the convolutions of the cells; logits and parameters stay.

        It compiles in the first steps that run every candidate, for every width and either step: minutes on a CPU.
        """
        self.is_compiled = True
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, 32)  # a few for each width, of one and the same code
        for block in self.blocks:
            if isinstance(block, MixedCell):
                block.compile(dynamic=False)

    def one_hot(self, genotype: Genotype) -> Tensor:
        """The mixture, shape (E, O), that makes the supernet compute this one cell; on the host."""
        choices = torch.tensor(self.space.choices(genotype))
        return nn.functional.one_hot(choices, self.space.num_ops).float()

    def inherit(self, genotype: Genotype) -> Network:
        """The standalone network of a cell with a copy of the parameters that it has in this supernet.

        In training mode it computes the same logits as this supernet does under `one_hot`.

        Raises:
            SupernetError: the cell is none of this space, or only some channels go through its operations here.
        """
        if self.partial_channels > 1:
            raise SupernetError(
                f"a network cannot inherit parameters of a supernet with partial_channels={self.partial_channels},"
                " whose operations have fewer channels; train it from scratch"
            )
        self.space.choices(genotype)
        stem = self.stem.get_parameter("0.weight")
        head = self.head.get_parameter("4.weight")
        num_cells = (len(self.blocks) - 2) // 3
        network = Network(genotype, stem.shape[0], num_cells, head.shape[0], stem.shape[1]).to(stem)
        with torch.no_grad():
            shared = dict(self.named_parameters())
            for name, parameter in network.named_parameters():
                if name in shared:
                    parameter.copy_(shared[name])
            for mixed, cell in zip(self.blocks, network.blocks, strict=True):
                if isinstance(mixed, MixedCell):
                    _copy_kernels(mixed, cell, genotype)
        return network


def _copy_kernels(mixed: MixedCell, cell: nn.Module, genotype: Genotype) -> None:
    for (target, source), op in genotype.edges.items():
        if op in CONVOLUTIONS:
            kernel = cell.get_parameter(f"edges.{target}<-{source}.1.weight")
            kernel.copy_(mixed.edge_weight(op, target, source))
