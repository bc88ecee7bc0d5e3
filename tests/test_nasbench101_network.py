"""Networks of NAS-Bench-101: published parameter counts, channels by hand, the forward by plain formulas."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from supernet.errors import SupernetError
from supernet.nasbench101 import Network101, Spec, num_parameters, sample, vertex_channels
from supernet.nasbench101.network import Cell101
from tests.test_nasbench101_spec import LETTERS, PUBLISHED

PARAMETERS = [
    2_694_282, 32_426_634, 8_555_530, 10_177_674, 11_051_402, 1_920_138, 2_793_866, 882_570, 1_756_298, 882_570,
]  # fmt: skip
"""Published counts, in the order of PUBLISHED."""

fitting = st.integers(0, 10**9).map(lambda seed: sample(random.Random(seed)))


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("cell", "count"), list(zip(PUBLISHED, PARAMETERS, strict=True)))
def test_networks_have_as_many_parameters_as_published(cell: tuple[str, str], count: int) -> None:
    spec = Spec(cell[0], [LETTERS[letter] for letter in cell[1]])
    with torch.device("meta"):
        assert size(Network101(spec)) == count
    assert num_parameters(spec) == count


@given(fitting, st.integers(6, 20), st.integers(1, 4), st.integers(2, 12), st.integers(1, 4))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_closed_form_counts_what_the_module_has(
    spec: Spec, channels: int, num_cells: int, num_classes: int, image_channels: int
) -> None:
    network = (channels, num_cells, num_classes, image_channels)
    with torch.device("meta"):
        assert size(Network101(spec, *network)) == num_parameters(spec, *network)


def test_the_parameters_of_isomorphic_cells_may_differ() -> None:
    branches = "01110 00001 00001 00001 00000"  # 128 = 43 + 43 + 42
    counts = {num_parameters(Spec(branches, f"input,{ops},output"))
              for ops in ("conv3x3,maxpool3x3,maxpool3x3", "maxpool3x3,maxpool3x3,conv3x3")}  # fmt: skip
    assert len(counts) == 2


@pytest.mark.parametrize(
    ("rows", "channels", "expected"),
    [
        ("01 00", (5, 9), (5, 9)),
        ("0100 0010 0001 0000", (8, 8), (8, 8, 8, 8)),
        ("0110 0001 0001 0000", (8, 15), (8, 8, 7, 15)),
        ("01110 00001 00001 00001 00000", (8, 8), (8, 3, 3, 2, 8)),
        ("01100 00110 00001 00001 00000", (8, 9), (8, 5, 5, 4, 9)),
        ("0101 0010 0001 0000", (8, 9), (8, 9, 9, 9)),  # input to output: takes no channels
    ],
)
def test_channels_are_shared_out_as_published(rows: str, channels: tuple[int, int], expected: tuple[int, ...]) -> None:
    spec = Spec(rows, ["input", *["conv3x3"] * (len(rows.split()) - 2), "output"])
    assert vertex_channels(*channels, spec) == expected


@given(fitting, st.integers(1, 40), st.integers(5, 60))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_channels_make_up_the_output_and_never_widen(spec: Spec, channels_in: int, channels_out: int) -> None:
    cell = spec.pruned
    channels, last = vertex_channels(channels_in, channels_out, cell), cell.num_vertices - 1
    shares = [channels[v] for v in range(1, last) if cell.matrix[v][last]]
    assert not shares or (sum(shares) == channels_out and max(shares) - min(shares) <= 1)
    assert (channels[0], channels[last]) == (channels_in, channels_out)
    for v in range(1, last):
        assert all(channels[v] >= channels[w] for w in range(v, last) if cell.matrix[v][w])


def conv_bn_relu(inputs: Tensor, module: Any) -> Tensor:
    """In evaluation, from the parameters alone."""
    conv, norm, _ = module
    weight = conv.weight
    features = F.conv2d(inputs, weight, padding=(weight.shape[-1] - 1) // 2)
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    shifted = features * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]
    return shifted.clamp(min=0)


def by_formula(cell: Cell101, inputs: Tensor) -> Tensor:
    """The cell as section 3 of the paper has it, written into one tensor of all channels of the output."""
    rows, ops, last = cell.spec.matrix, cell.spec.ops, cell.spec.num_vertices - 1
    widths = vertex_channels(inputs.shape[1], cell.channels[-1], cell.spec)
    values: list[Any] = [inputs]
    for v in range(1, last):
        total = inputs.new_zeros(inputs.shape[0], widths[v], *inputs.shape[2:])
        for u in range(v):
            if rows[u][v] and u == 0:
                total = total + conv_bn_relu(inputs, cell.projections[str(v)])
            elif rows[u][v]:
                total = total + torch.narrow(values[u], 1, 0, widths[v])
        if ops[v] == "maxpool3x3":
            padded = F.pad(total, (1, 1, 1, 1), value=-torch.inf)
            values.append(padded.unfold(2, 3, 1).unfold(3, 3, 1).amax((-2, -1)))
        else:
            values.append(conv_bn_relu(total, cell.ops[str(v)]))
    output = inputs.new_zeros(inputs.shape[0], widths[last], *inputs.shape[2:])
    start = 0
    for v in range(1, last):
        if rows[v][last]:
            output[:, start : start + widths[v]] = values[v]
            start += widths[v]
    return output + conv_bn_relu(inputs, cell.projections[str(last)]) if rows[0][last] else output


@given(fitting, st.integers(0, 100), st.integers(1, 5), st.integers(5, 9))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_cell_computes_what_the_formulas_say(spec: Spec, seed: int, channels_in: int, channels_out: int) -> None:
    torch.manual_seed(seed)
    cell = Cell101(spec.pruned, channels_in, channels_out).double().eval()
    for module in cell.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                nn.init.uniform_(values, 0.5, 1.5)  # type: ignore[arg-type]
    inputs = torch.randn(2, channels_in, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(cell(inputs), by_formula(cell, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "cell", [("01 00", "io"), ("0111010 0000001 0000001 0000100 0000001 0000001 0000000", "i1333mo")]
)
def test_the_network_is_cells_between_a_stem_and_a_mean(cell: tuple[str, str]) -> None:
    torch.manual_seed(0)
    network = Network101(Spec(cell[0], [LETTERS[letter] for letter in cell[1]]), 8, 2, 5).double().eval()
    images = torch.randn(3, 3, 8, 12, dtype=torch.float64)
    stem, *blocks = network.blocks
    features, shapes = conv_bn_relu(images, stem), []
    for block in blocks:
        features = by_formula(block, features) if isinstance(block, Cell101) else features.unflatten(
            -1, (-1, 2)).unflatten(-3, (-1, 2)).amax((-3, -1))  # fmt: skip
        shapes.append(tuple(features.shape[1:]))
    assert shapes == [(8, 8, 12)] * 2 + [(8, 4, 6)] + [(16, 4, 6)] * 2 + [(16, 2, 3)] + [(32, 2, 3)] * 2
    expected = features.flatten(2).mean(2) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(images), expected, rtol=1e-12, atol=1e-12)
    assert network(images).shape == (3, 5)


def test_batch_normalisation_remembers_as_published() -> None:
    network = Network101(Spec("010 001 000", "input,maxpool3x3,output"), 2, 1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 4
    network.train()(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    for norm in norms:  # they start with the variance 1, of which 0.997 stays after a step
        assert (norm.eps, norm.affine) == (1e-5, True)
        assert norm.running_var is not None
        assert (norm.running_var >= 0.997).all()
        assert (norm.running_var < 1.01).all()
        assert (norm.running_var != 1).all()
    assert not any(isinstance(module, nn.Conv2d) and module.bias is not None for module in network.modules())


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = Network101(Spec("0111010 0000001 0000001 0000100 0000001 0000001 0000000",
                              "input,conv1x1,conv3x3,conv3x3,conv3x3,maxpool3x3,output"), 8, 1)  # fmt: skip
    F.cross_entropy(network(torch.randn(8, 3, 8, 8)), torch.arange(8)).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_what_cannot_be_built_is_refused() -> None:
    spec = Spec("01110 00001 00001 00001 00000", "input,conv3x3,conv3x3,conv3x3,output")
    for build in (num_parameters, Network101):
        with pytest.raises(SupernetError, match="has 2 channels for the 3 vertices that feed it; take at least 3"):
            build(spec, 2)
        with pytest.raises(SupernetError, match="num_cells must be at least 1, got 0"):
            build(spec, 8, 0)
        with pytest.raises(SupernetError, match=r"no network of the cell .* not connected"):
            build(Spec("00 00", "input,output"))
    with pytest.raises(SupernetError, match="multiples of 4"):
        Network101(spec, 4, 1)(torch.zeros(1, 3, 6, 8))
