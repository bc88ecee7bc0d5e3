from __future__ import annotations

import pytest
import torch

from supernet.ops import make_op


@pytest.mark.parametrize("where", [(0, 0), (1, 2), (3, 3)])
def test_average_pool_leaves_the_padding_out(where: tuple[int, int]) -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, where[0], where[1]] = 36.0
    pooled = make_op("avg_pool_3x3", 1)(image)[0, 0]
    for row in range(4):
        for column in range(4):
            inside = [
                (r, c)
                for r in range(max(0, row - 1), min(4, row + 2))
                for c in range(max(0, column - 1), min(4, column + 2))
            ]
            assert pooled[row, column] == pytest.approx(36.0 / len(inside) if where in inside else 0.0)
