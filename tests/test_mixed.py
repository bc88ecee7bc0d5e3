from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.mixed import AddScaled, MixedCell, make_plan, products_apart, products_together, widen
from supernet.network import Supernet
from supernet.space import CellSpace
from tests.textbook import textbook_cell, textbook_supernet

SPACES = [
    CellSpace(),
    CellSpace(3, ("nor_conv_5x5", "max_pool_3x3", "none")),
    CellSpace(5, ("skip_connect", "nor_conv_1x1", "none", "max_pool_3x3")),
    CellSpace(4, ("avg_pool_3x3", "none", "skip_connect")),
    CellSpace(2, ("nor_conv_3x3", "skip_connect")),
]


def mixtures(space: CellSpace, kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (space.num_edges, space.num_ops)
    if kind == "one-hot":
        choices = torch.randint(space.num_ops, (space.num_edges,), generator=generator)
        return F.one_hot(choices, space.num_ops).double()
    mixture = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "with zeros":
        mixture *= torch.rand(shape, generator=generator) < 0.4
    return mixture


@pytest.mark.parametrize("kind", ["dense", "one-hot", "with zeros"])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: f"{space.num_nodes} nodes, {space.num_ops} operations")
@pytest.mark.parametrize("seed", range(2))
def test_logits_and_all_gradients_equal_the_textbook_supernet(space: CellSpace, kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    supernet = Supernet(space, channels=3, num_cells=1, num_classes=4, image_channels=2).double()
    images, labels = torch.randn(5, 2, 8, 8, dtype=torch.float64), torch.randint(4, (5,))
    gradients = []
    for forward in (supernet, lambda images, mixture: textbook_supernet(supernet, images, mixture)):
        mixture = mixtures(space, kind, seed).requires_grad_()
        logits = forward(images, mixture)
        supernet.zero_grad()
        F.cross_entropy(logits, labels).backward()
        parameters = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in supernet.parameters()]
        # The fused cell computes no gradient for a candidate that it does not run, so only those are compared.
        chosen = mixture.detach() != 0
        gradient = torch.zeros_like(mixture) if mixture.grad is None else mixture.grad
        gradients.append([logits.detach(), *parameters, gradient * chosen])
    for fused, textbook in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, textbook, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("learned", [True, False])
def test_adding_to_all_sums_at_once_has_exact_gradients_of_first_and_second_order(learned: bool) -> None:
    sums = torch.randn(2, 3 * 4, 2, 2, dtype=torch.float64, requires_grad=True)
    values = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(3, dtype=torch.float64, requires_grad=learned)
    expected = sums + torch.cat([coefficient * values for coefficient in coefficients], dim=1)
    torch.testing.assert_close(AddScaled.apply(sums, values, coefficients), expected)
    assert torch.autograd.gradcheck(AddScaled.apply, (sums, values, coefficients))
    assert torch.autograd.gradgradcheck(AddScaled.apply, (sums, values, coefficients))


def test_adding_to_all_sums_at_once_is_differentiated_image_by_image() -> None:
    def loss(sums: Tensor, values: Tensor, coefficients: Tensor) -> Tensor:
        total: Tensor = AddScaled.apply(sums, values, coefficients)
        return total.pow(3).sum()

    sums, values, coefficients = torch.randn(4, 1, 6, 2, 2), torch.randn(4, 1, 3, 2, 2), torch.randn(2)
    gradient = torch.func.grad(loss, argnums=2)
    together = torch.func.vmap(gradient, in_dims=(0, 0, None))(sums, values, coefficients)
    one_by_one = [gradient(*pair, coefficients) for pair in zip(sums, values, strict=True)]
    torch.testing.assert_close(together, torch.stack(one_by_one))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_both_ways_to_inner_products_are_the_sum_over_all_values(layout: torch.memory_format) -> None:
    sides, values = torch.randn(3, 8, 4, 5).to(memory_format=layout), torch.randn(3, 2, 4, 5).to(memory_format=layout)
    like = torch.empty(4, dtype=torch.float64)
    expected = torch.einsum("bkchw,bchw->k", sides.unflatten(1, (4, 2)).double(), values.double())
    for products in (products_apart, products_together):
        torch.testing.assert_close(products(sides, values, like), expected, rtol=1e-5, atol=1e-5)


def test_planned_densely_a_mixture_with_zeros_gives_the_same_and_all_gradients() -> None:
    # What is read on the host is planned sparsely; on an accelerator every candidate runs, with coefficient zero.
    space, torch_seed = CellSpace(), 3
    torch.manual_seed(torch_seed)
    cell = MixedCell(space, 4).double()
    inputs, mixture = torch.randn(3, 4, 8, 8, dtype=torch.float64), mixtures(space, "with zeros", 1).requires_grad_()
    everything = make_plan(space, torch.ones(space.num_edges, space.num_ops))
    by_edge = {
        edge: dict(zip(space.ops, row, strict=True)) for edge, row in zip(space.edges, mixture.unbind(), strict=True)
    }
    dense = [
        [
            replace(term, coefficients=torch.stack([by_edge[target, source][term.op] for target in term.targets]))
            for term in terms
        ]
        for source, terms in enumerate(everything)
    ]
    sparse = cell(inputs, widen(make_plan(space, mixture), 4))
    torch.testing.assert_close(cell(inputs, widen(dense, 4)), sparse, rtol=1e-11, atol=1e-12)
    # Where every candidate runs, the gradient is the textbook's at the zeros, too.
    (fused,) = torch.autograd.grad(cell(inputs, widen(dense, 4)).square().sum(), mixture)
    (textbook,) = torch.autograd.grad(textbook_cell(cell, space, inputs, mixture).square().sum(), mixture)
    torch.testing.assert_close(fused, textbook, rtol=1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*grad attribute of a Tensor that is not a leaf.*")  # the tracer's own look
@pytest.mark.parametrize("kind", ["dense", "with zeros"])
def test_a_compiled_cell_is_one_graph_and_computes_the_same(kind: str) -> None:
    # Traced as for the compiler; what it would generate is run by PyTorch's own operations.
    torch.manual_seed(0)
    space = CellSpace()
    cell, inputs = MixedCell(space, 4).double(), torch.randn(3, 4, 8, 8, dtype=torch.float64)
    traced = torch.compile(cell, backend="aot_eager", fullgraph=True, dynamic=False)
    results = []
    for forward in (cell, traced):
        mixture = mixtures(space, kind, 1).requires_grad_()
        output = forward(inputs, widen(make_plan(space, mixture), 4))
        gradients = torch.autograd.grad(output.square().sum(), [mixture, *cell.parameters()], allow_unused=True)
        results.append([output, *(gradient for gradient in gradients if gradient is not None)])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-10, atol=1e-11)


def test_a_mixture_on_the_host_serves_a_supernet_elsewhere() -> None:
    supernet, images = Supernet(channels=2, num_cells=1).to("meta"), torch.empty(4, 3, 8, 8, device="meta")
    assert supernet(images, torch.rand(6, 5)).device.type == "meta"


def macs(supernet: Supernet, images: Tensor, mixture: Tensor) -> int:
    """Multiply-accumulates of the convolutions and the classifier; on "meta", where pooling is no convolution."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        supernet.to("meta")(images.to("meta"), mixture)
    return counter.get_total_flops() // 2


def test_only_the_chosen_convolutions_that_reach_the_output_run() -> None:
    supernet, images, rng = Supernet(channels=4, num_cells=2), torch.randn(2, 3, 16, 16), random.Random(0)
    pixels = [16 * 16 * 4**2, 8 * 8 * 8**2, 4 * 4 * 16**2]
    per_conv = {"nor_conv_1x1": 2 * 2 * sum(pixels), "nor_conv_3x3": 2 * 2 * 9 * sum(pixels)}
    bare = macs(supernet, images, supernet.one_hot(Genotype(("skip_connect",) * 6)))
    for _ in range(60):
        genotype = supernet.space.sample(rng)
        alive = [op for edge, op in genotype.edges.items() if lies_on_a_path(genotype, edge)]
        expected = bare + sum(per_conv.get(op, 0) for op in alive)
        assert macs(supernet, images, supernet.one_hot(genotype)) == expected, genotype


def lies_on_a_path(genotype: Genotype, edge: tuple[int, int]) -> bool:
    def paths(node: int) -> list[list[tuple[int, int]]]:
        if node == 0:
            return [[]]
        return [
            [*path, (node, source)]
            for source in range(node)
            if genotype.edges[node, source] != "none"
            for path in paths(source)
        ]

    return any(edge in path for path in paths(genotype.num_nodes - 1))


def test_all_edges_of_a_source_share_one_convolution() -> None:
    space = CellSpace()
    calls: list[tuple[int, ...]] = []
    original = F.conv2d

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
            if func is original:
                calls.append(tuple(args[1].shape))
            return func(*args, **(kwargs or {}))

    cell, inputs = MixedCell(space, 4).to("meta"), torch.empty(2, 4, 8, 8, device="meta")
    with Counting():
        cell(inputs, widen(make_plan(space, torch.rand(6, 5), like=inputs), 4))
    assert sorted(calls) == sorted((k * 4, 4, size, size) for k in (1, 2, 3) for size in (1, 3))


def test_a_cell_that_is_cut_off_gives_zeros_and_lets_no_nan_through() -> None:
    space = CellSpace()
    cut = torch.zeros(6, 5)
    cut[:, 0] = 1
    inputs = torch.full((2, 3, 4, 4), torch.nan)
    assert MixedCell(space, 3)(inputs, make_plan(space, cut)).equal(torch.zeros(2, 3, 4, 4))


def test_the_none_column_changes_nothing() -> None:
    torch.manual_seed(0)
    supernet, images, mixture = Supernet(channels=2, num_cells=1), torch.randn(4, 3, 8, 8), torch.rand(6, 5)
    changed = mixture.clone()
    changed[:, 0] = 17.0
    assert supernet(images, mixture).equal(supernet(images, changed))


@pytest.mark.parametrize("shape", [(5, 6), (6,), (6, 4), (1, 6, 5)])
def test_a_mixture_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SupernetError, match=r"one row an edge.*\(6, 5\)"):
        Supernet(channels=2, num_cells=1)(torch.randn(2, 3, 8, 8), torch.ones(shape))
