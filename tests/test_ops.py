from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.ops import AveragePool


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 2, *[st.integers(1, 9)] * 2),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_average_pool_equals_the_one_of_torch_with_its_gradient(
    shape: tuple[int, int, int, int], channels_last: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    results = []
    inputs, grad = (torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout) for _ in range(2))
    for pool in (
        AveragePool(),
        lambda images: F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False),
    ):
        leaf = inputs.clone().requires_grad_()
        pooled = pool(leaf)
        results.append([pooled, *torch.autograd.grad(pooled, leaf, grad)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_average_pool_has_second_derivatives() -> None:
    inputs = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda images: AveragePool()(images) ** 3, inputs)


def test_average_pool_is_traced_by_vmap_and_grad_image_by_image() -> None:
    torch.manual_seed(0)
    images, pool = torch.randn(3, 2, 4, 4, dtype=torch.float64), AveragePool()
    per_image = torch.func.vmap(torch.func.grad(lambda image: pool(image[None]).pow(3).sum()))(images)
    for image, gradient in zip(images, per_image, strict=True):
        leaf = image.clone().requires_grad_()
        (expected,) = torch.autograd.grad(pool(leaf[None]).pow(3).sum(), leaf)
        torch.testing.assert_close(gradient, expected)


def test_average_pool_keeps_the_layout() -> None:
    images = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    assert AveragePool()(images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("where", [(0, 0), (1, 2), (3, 3)])
def test_average_pool_leaves_the_padding_out(where: tuple[int, int]) -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, where[0], where[1]] = 36.0
    pooled = AveragePool()(image)[0, 0]
    for row in range(4):
        for column in range(4):
            inside = [
                (r, c)
                for r in range(max(0, row - 1), min(4, row + 2))
                for c in range(max(0, column - 1), min(4, column + 2))
            ]
            assert pooled[row, column] == pytest.approx(36.0 / len(inside) if where in inside else 0.0)
