from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.mixed import MixedCell
from supernet.network import Network, Supernet
from supernet.space import CellSpace

SPACES = [CellSpace(), CellSpace(5, ("nor_conv_1x1", "max_pool_3x3", "none", "nor_conv_5x5"))]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: f"{space.num_nodes} nodes")
def test_a_one_hot_mixture_equals_the_derived_network_with_the_same_parameters(space: CellSpace) -> None:
    torch.manual_seed(0)
    supernet, rng = Supernet(space, 3, 2, 7, 1).double(), random.Random(0)
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    for _ in range(40):
        genotype = space.sample(rng)
        network = supernet.inherit(genotype)
        mixed = supernet(images, supernet.one_hot(genotype))
        torch.testing.assert_close(network.train()(images), mixed, rtol=0, atol=1e-12)


def test_every_kernel_of_the_supernet_lands_on_its_own_edge() -> None:
    supernet = Supernet(channels=2, num_cells=1)
    genotype = Genotype(("nor_conv_3x3",) * 6)
    kernels = dict(supernet.inherit(genotype).named_parameters())
    copies = [kernels[f"blocks.0.edges.{target}<-{source}.1.weight"] for target, source in supernet.space.edges]
    assert len({tuple(kernel.flatten().tolist()) for kernel in copies}) == 6
    for (target, source), kernel in zip(supernet.space.edges, copies, strict=True):
        position = target - source - 1
        whole = supernet.get_parameter(f"blocks.0.convolutions.{source}.nor_conv_3x3.weight")
        assert kernel.equal(whole[2 * position : 2 * position + 2])


def test_inheriting_copies_and_shares_nothing() -> None:
    supernet = Supernet(channels=2, num_cells=1)
    before = {name: parameter.clone() for name, parameter in supernet.named_parameters()}
    with torch.no_grad():
        for parameter in supernet.inherit(Genotype.from_index(6111)).parameters():
            parameter.zero_()
    assert all(parameter.equal(before[name]) for name, parameter in supernet.named_parameters())


def test_the_supernet_has_the_published_number_of_parameters_less_its_useless_biases() -> None:
    # 1,692,698 in the reference with a bias on every search convolution and no affine parameters in the last
    # batch normalisation: 15 cells of 6 edges with two convolutions at 16, 32 or 64 channels.
    biases = 5 * 6 * 2 * (16 + 32 + 64)
    assert sum(parameter.numel() for parameter in Supernet().parameters()) == 1_692_698 - biases + 2 * 64


def test_the_supernet_keeps_no_running_statistics() -> None:
    assert not list(Supernet(channels=2, num_cells=1).buffers())


def test_evaluation_and_training_of_the_supernet_agree() -> None:
    supernet, images, mixture = Supernet(channels=2, num_cells=1), torch.randn(8, 3, 8, 8), torch.rand(6, 5)
    assert supernet.train()(images, mixture).equal(supernet.eval()(images, mixture))


def test_slices_of_a_shared_convolution_are_initialised_as_convolutions_of_their_own() -> None:
    torch.manual_seed(0)
    shared = Supernet(channels=32, num_cells=1).get_parameter("blocks.0.convolutions.0.nor_conv_3x3.weight")
    alone = nn.Conv2d(32, 32, 3, bias=False).weight
    bound = 1 / (32 * 9) ** 0.5  # uniform on +-1/sqrt(fan-in)
    for weight in (shared[:32], shared[32:64], alone):
        assert bound * 0.99 < weight.abs().max().item() <= bound
        assert abs(weight.std().item() / (bound / 3**0.5) - 1) < 0.05


def test_a_network_of_a_disconnected_cell_still_runs() -> None:
    network = Network(Genotype(("none",) * 6), channels=2, num_cells=1)
    logits = network(torch.randn(3, 3, 8, 8))
    torch.testing.assert_close(logits, logits[:1].expand(3, -1))  # nothing of the image arrives


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"num_cells": -1}, "num_cells must be at least 1, got -1"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"image_channels": 0}, "image_channels must be at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_named(sizes: dict[str, int], sentence: str) -> None:
    with pytest.raises(SupernetError, match=sentence):
        Supernet(CellSpace(), **sizes)
    with pytest.raises(SupernetError, match=sentence):
        Network(Genotype.from_index(0), **sizes)


def test_an_unknown_operation_names_the_nearest_one() -> None:
    with pytest.raises(SupernetError, match="unknown operation 'nor_conv_3x4': did you mean 'nor_conv_3x3'"):
        Network(Genotype(("nor_conv_3x4",)))
    with pytest.raises(SupernetError, match="unknown operation 'skip': "):
        Supernet(CellSpace(3, ("skip", "none")))


def test_a_cell_of_another_space_cannot_be_inherited() -> None:
    supernet = Supernet(CellSpace(3, ("skip_connect", "nor_conv_1x1")), 2, 1)
    with pytest.raises(SupernetError, match="cells of 3 nodes, got 4"):
        supernet.inherit(Genotype.from_index(0))
    with pytest.raises(SupernetError, match="'none' is no candidate operation"):
        supernet.one_hot(Genotype(("none",) * 3))


@pytest.mark.parametrize("size", [(6, 8), (8, 6), (2, 4), (30, 30)])
def test_images_that_the_reductions_do_not_divide_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(SupernetError, match=f"multiples of 4.*got {size[0]} x {size[1]}"):
        Network(Genotype.from_index(0), 2, 1)(torch.randn(2, 3, *size))
    with pytest.raises(SupernetError, match="multiples of 4"):
        Supernet(None, 2, 1)(torch.randn(2, 3, *size), torch.rand(6, 5))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_the_zero_operation_lets_no_nan_through(poison: float) -> None:
    # Node 1 is fed by a convolution that has gone wrong, and feeds nothing.
    cell = Genotype.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|none~1|avg_pool_3x3~2|")
    torch.manual_seed(0)
    supernet, images = Supernet(channels=3, num_cells=1), torch.randn(4, 3, 8, 8)
    network = supernet.inherit(cell).train()
    clean = network(images), supernet(images, supernet.one_hot(cell))
    with torch.no_grad():
        for mixed, found in zip(supernet.blocks, network.blocks, strict=True):
            if isinstance(mixed, MixedCell):
                mixed.edge_weight("nor_conv_3x3", 1, 0).fill_(poison)
                found.get_parameter("edges.1<-0.1.weight").fill_(poison)
    assert network(images).equal(clean[0])
    assert supernet(images, supernet.one_hot(cell)).equal(clean[1])
