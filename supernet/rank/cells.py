"""Which cells are scored."""

from __future__ import annotations

import random
from collections.abc import Sequence

from supernet.cost import cost
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.space import CellSpace, canonical

_MOST = 100_000
"""Cells, at most: five times those of NAS-Bench-201 are hours already."""


def choose_cells(space: CellSpace, which: str, seed: int) -> list[Genotype]:
    """The cells that are asked for.

    Args:
        space: where they come from.
        which: ``all``, ``distinct``, or how many to draw, without repetition.
        seed: of the draw.

    Raises:
        SupernetError: this is none of the three, or too many or too few.
    """
    if which in ("all", "distinct"):
        if space.size > _MOST:
            raise SupernetError(
                f"this space has {space.size:,} cells, and {_MOST:,} are the limit; pass a number of cells to --cells,"
                " which are drawn at random"
            )
        cells = list(space)
        return cells if which == "all" else distinct_cells(cells)
    most = min(space.size, _MOST)
    if not (which.isascii() and which.isdecimal() and len(which) < 10 and 2 <= int(which) <= most):
        raise SupernetError(f"--cells is all, distinct or a number from 2 to {most:,}, got {which!r}")
    rng, drawn = random.Random(seed), dict[Genotype, None]()
    while len(drawn) < int(which):
        drawn[space.sample(rng)] = None
    return list(drawn)


def distinct_cells(cells: Sequence[Genotype]) -> list[Genotype]:
    """One of those that compute the same function by the benchmark's rules, in the order of the first of each.

    It is the one with the fewest parameters, so with the fewest operations that have no effect; of equals, the first.
    Of all cells of NAS-Bench-201 these are 6,466.
    """
    kept: dict[str, Genotype] = {}
    for cell in cells:
        name = canonical(cell, drop_zeros=True)
        if name not in kept or cost(cell).params < cost(kept[name]).params:
            kept[name] = cell
    return list(kept.values())
