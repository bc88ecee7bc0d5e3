"""The least work against what PyTorch counts: in networks without data, and kernel by kernel in a tiny one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floor import WEIGHT_ACCESSES, Protocol, Step, Way, least_work, main
from benchmarks.textbook import TextbookSupernet, textbook_optimizers
from supernet.bilevel import frozen
from supernet.cost import cost
from supernet.genotype import Genotype
from supernet.network import Supernet
from supernet.space import CellSpace
from supernet.strategies import RandomSearch

STEPS: tuple[Step, ...] = get_args(Step)
WAYS: tuple[Way, ...] = get_args(Way)
PROTOCOLS = [
    Protocol(batch=1),
    Protocol(CellSpace(3, ("nor_conv_5x5", "max_pool_3x3", "none")), 4, 1, 7, (1, 8, 12), 3),
    Protocol(CellSpace(5, ("skip_connect", "nor_conv_1x1", "nor_conv_3x3")), 6, 2, 10, (2, 16, 16), 2),
    Protocol(CellSpace(2, ("nor_conv_1x1",)), 1, 3, 2, (3, 4, 4), 5),
]
IDS = [f"{protocol.space.num_nodes} nodes, C={protocol.channels}, N={protocol.num_cells}" for protocol in PROTOCOLS]


def built(kind: type[Supernet | TextbookSupernet], protocol: Protocol, device: str) -> tuple[Any, Tensor, Tensor]:
    """The network, images and a mixture that requires its gradient."""
    space, image_channels = protocol.space, protocol.image_shape[0]
    with torch.device(device):
        network = kind(space, protocol.channels, protocol.num_cells, protocol.num_classes, image_channels)
        images = torch.randn(protocol.batch, *protocol.image_shape)
        mixture = torch.full((space.num_edges, space.num_ops), 0.3, requires_grad=True)
    return network, images, mixture


def counted_macs(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    flops = counter.get_total_flops()
    assert flops % 2 == 0  # it counts the multiplication and the addition
    return flops // 2


def one_step(network: Any, step: Step, images: Tensor, mixture: Tensor) -> None:
    """Forward and backward as `SearchModule` runs them for the supernet; the textbook way freezes nothing."""
    fused = isinstance(network, Supernet)
    used = mixture.detach() if fused and step == "network" else mixture
    with frozen(network) if fused and step == "arch" else nullcontext():
        network(images, used).sum().backward()


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", [Supernet, TextbookSupernet])
def test_macs_are_those_that_pytorch_counts(kind: Any, step: Step, protocol: Protocol) -> None:
    network, images, mixture = built(kind, protocol, "meta")
    way: Way = "fused" if kind is Supernet else "textbook"
    found = counted_macs(lambda: one_step(network, step, images, mixture))
    assert found == least_work(step, way, protocol=protocol).macs


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
@pytest.mark.parametrize("kind", [Supernet, TextbookSupernet])
def test_the_forward_pass_is_a_third_of_the_network_step_but_for_the_gradient_of_the_images(
    kind: Any, protocol: Protocol
) -> None:
    network, images, mixture = built(kind, protocol, "meta")
    with torch.no_grad():
        forward = counted_macs(lambda: network(images, mixture))
    weight = network.stem[0].weight
    stem = weight.numel() * images.numel() // images.shape[1]
    assert least_work("network", "textbook", protocol=protocol).macs == 3 * forward - stem


def test_the_forward_pass_is_the_published_cost_of_its_convolutions() -> None:
    protocol = Protocol(batch=1)
    stem, bias = 9 * 3 * 16 * 32 * 32, 10
    empty, conv1, conv3 = (cost(Genotype((op,) * 6)).macs for op in ("none", "nor_conv_1x1", "nor_conv_3x3"))
    assert least_work("network", "fused", protocol=protocol).macs == 3 * (conv1 + conv3 - empty - bias) - stem


class CountValues(TorchDispatchMode):
    """Adds up the feature maps that each kernel reads and writes: 4-dimensional, of the batch, more than a pixel.

    What PyTorch hands to a kernel is what it reads, once, with these exceptions:
    * Batch normalisation reads its inputs once for the statistics and once more to use them, in both directions.
    * The two gradients of a convolution are two kernels: one reads the output's gradient and the weights, the other
      the output's gradient and the inputs.
    * The gradient of a pooling is made of the output's gradient (and the indices): the inputs are passed on for
      their shape. `mean` has a gradient of one value a channel, expanded: no map is read.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.values, self.indices = batch, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in {"detach", "expand", "view", "_unsafe_view"}:
            return outputs
        reads = [args, kwargs or {}]
        if name in {"native_batch_norm", "native_batch_norm_backward", "cudnn_batch_norm"}:
            reads *= 2
        if name == "convolution_backward":
            gradient, inputs, _ = args[:3]
            wants_inputs, wants_weights, _ = args[-1]
            reads = [gradient] * wants_inputs + [gradient, inputs] * wants_weights
        if name in {"avg_pool2d_backward", "max_pool2d_with_indices_backward"}:
            reads = [args[0], args[-1]]
        for tensor in (*tree_iter(reads), *tree_iter(outputs)):
            self._count(tensor)
        return outputs

    def _count(self, tensor: object) -> None:
        if not isinstance(tensor, Tensor) or tensor.dim() != 4 or tensor.shape[0] != self.batch:
            return
        if math.prod(tensor.shape[2:]) == 1 or 0 in tensor.stride():
            return
        if tensor.is_floating_point():
            self.values += tensor.numel()
        else:
            self.indices += tensor.numel()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(channels=4, num_cells=1, image_shape=(3, 8, 8), batch=11),
        Protocol(CellSpace(3, ("nor_conv_5x5", "max_pool_3x3", "none")), 3, 2, 7, (1, 8, 12), 13),
        Protocol(CellSpace(5, ("skip_connect", "nor_conv_1x1", "avg_pool_3x3")), 2, 1, 5, (2, 16, 8), 17),
    ],
    ids=lambda protocol: f"{protocol.space.num_nodes} nodes",
)
def test_textbook_bytes_are_those_that_its_kernels_read_and_write(protocol: Protocol, step: Step) -> None:
    torch.manual_seed(0)
    network, images, mixture = built(TextbookSupernet, protocol, "cpu")
    with CountValues(protocol.batch) as counter:
        one_step(network, step, images, mixture)
    for value_bytes in (2, 4):
        found = feature_bytes(step, "textbook", value_bytes, protocol)
        assert found == counter.values * value_bytes + counter.indices * 8


def feature_bytes(step: Step, way: Way, value_bytes: int, protocol: Protocol) -> int:
    """Bytes of the images of a batch: what doubles when the batch does."""
    once = least_work(step, way, value_bytes, protocol)
    twice = least_work(step, way, value_bytes, dataclasses.replace(protocol, batch=2 * protocol.batch))
    return twice.bytes - once.bytes


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
@pytest.mark.parametrize(
    ("way", "step", "accesses"),
    [
        # Forward and backward read the weights, the gradient is written, SGD reads three tensors and writes two.
        ("fused", "network", 1 + 1 + 1 + 3 + 2),
        ("fused", "arch", 1 + 1),
        # As above, then the norm (1), the clip (2), and Nesterov's five kernels: four of two inputs, one of one.
        ("textbook", "network", 1 + 1 + 1 + 1 + 2 + 4 * 3 + 2),
        ("textbook", "arch", 1 + 1 + 1),
    ],
)
def test_bytes_that_no_image_causes_are_those_of_the_weights(
    way: Way, step: Step, accesses: int, protocol: Protocol
) -> None:
    network, _, _ = built(Supernet, protocol, "meta")
    weights = sum(parameter.numel() for parameter in network.parameters() if parameter.dim() > 1)
    once = least_work(step, way, 2, protocol)
    assert once.bytes - feature_bytes(step, way, 2, protocol) == 4 * accesses * weights


class CountWeights(TorchDispatchMode):
    """Adds up what kernels read and write of tensors of one shape."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.accesses = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ != "detach":
            tensors = [tensor for tensor in tree_iter((args, outputs)) if isinstance(tensor, Tensor)]
            self.accesses += sum(tensor.shape == self.shape for tensor in tensors)
        return outputs


def test_clip_and_nesterov_read_and_write_the_weights_as_often_as_counted() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 5))
    layer = torch.nn.ParameterList([weight])
    optimizer, _ = textbook_optimizers(layer, RandomSearch())
    for _ in range(2):  # the first step creates the momentum
        weight.grad = torch.randn(3, 5)
        with CountWeights(weight.shape) as counter:
            torch.nn.utils.clip_grad_norm_(layer.parameters(), 5.0, foreach=False)
            optimizer.step()
    # Forward, input gradient and the write of the weights' own gradient come on top, as in the architecture step.
    assert counter.accesses + WEIGHT_ACCESSES["textbook", "arch"] == WEIGHT_ACCESSES["textbook", "network"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", WAYS)
def test_bf16_halves_the_bytes_of_feature_maps_and_leaves_the_products(way: Way, step: Step) -> None:
    protocol = Protocol()
    assert 2 * feature_bytes(step, way, 2, protocol) == feature_bytes(step, way, 4, protocol)
    assert least_work(step, way, 2).macs == least_work(step, way, 4).macs


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", WAYS)
def test_a_wider_network_moves_in_proportion_and_multiplies_by_the_square(way: Way, step: Step) -> None:
    narrow, wide = (Protocol(channels=channels, image_shape=(0, 32, 32), num_classes=0) for channels in (16, 32))
    assert feature_bytes(step, way, 2, wide) == 2 * feature_bytes(step, way, 2, narrow)
    assert least_work(step, way, 2, wide).macs == 4 * least_work(step, way, 2, narrow).macs


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("value_bytes", [2, 4])
def test_fused_is_less_than_textbook(value_bytes: int, step: Step, protocol: Protocol) -> None:
    fused, textbook = (least_work(step, way, value_bytes, protocol) for way in WAYS)
    assert fused.bytes < textbook.bytes
    assert fused.macs <= textbook.macs


def fused_kernels(step: Step, num_nodes: int, convs: int, *, fixed: bool, first: bool) -> int:
    """Maps that one cell's kernels read and write, listed kernel by kernel as sets of tensors."""
    nodes, raws = range(num_nodes), range(convs)
    kernels: list[tuple[set[Any], set[Any]]] = []
    reads: set[Any]
    for node in nodes[1:]:
        reads = {("raw", source, node, conv) for source in range(node) for conv in raws}
        reads |= {("node", source) for source in range(node) if fixed}
        kernels.append((reads, {("node", node)}))
    # Written by the kernel that makes the node, which for the first node belongs to the block before this cell.
    kernels.append((set(), {("raw", node, later, conv) for later in nodes for node in range(later) for conv in raws}))
    for node in nodes[1:]:  # the sums of the normalisations, in the kernel that writes the node's gradient
        reads = {("raw", source, node, conv) for source in range(node) for conv in raws}
        reads |= {("node", source) for source in range(node) if fixed and step == "arch"}
        kernels.append((reads, set()))
    for node in nodes[int(first and step == "arch") : -1]:
        reads = {("raw", node, later, conv) for later in nodes[node + 1 :] for conv in raws}
        reads |= {("gradient", later) for later in nodes[node + 1 :]} | {("node", node)}
        kernels.append((reads, {("gradient", node)}))
    return sum(len(reads) + len(writes) for reads, writes in kernels)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
@pytest.mark.parametrize("step", STEPS)
def test_fused_bytes_are_those_of_a_list_of_kernels(step: Step, protocol: Protocol) -> None:
    convs = sum(op.startswith("nor_conv") for op in protocol.space.ops)
    fixed = any(op in ("skip_connect", "avg_pool_3x3", "max_pool_3x3") for op in protocol.space.ops)
    image_channels, height, width = protocol.image_shape
    values = 0
    for stage in range(3):
        size = protocol.channels * 2**stage * (height >> stage) * (width >> stage)
        for cell in range(protocol.num_cells):
            first = stage == cell == 0
            values += size * fused_kernels(step, protocol.space.num_nodes, convs, fixed=fixed, first=first)
        if stage == 0:  # convolve, normalise; in the network step: sums, gradient of the weights
            image = image_channels * height * width
            values += image + 3 * size + (step == "network") * (1 * size + 2 * size + image)
        else:  # two convolutions, the pooled shortcut, the sum; two sums, two gradients, the second twice as large
            values += size * ((1 + 1) + (1 + 1) + (2 + 1)) + size * (1 + (3 + 1) + (3 + 2 + 2))
    values += size * (1 + 1 + 1)
    assert feature_bytes(step, "fused", 2, protocol) == 2 * protocol.batch * values


def test_the_table_holds_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--batch", "32", "--channels", "8", "--num_cells", "2", "--bandwidth", "2", "--rate", "100"])
    printed = capsys.readouterr().out
    protocol = Protocol(channels=8, num_cells=2, batch=32)
    works = [least_work(step, "textbook", 2, protocol) for step in STEPS]
    network = works[0]
    assert f"| textbook | bf16 | network | {network.macs / 1e9:.2f} | {network.bytes / 1e6:.1f} |" in printed
    moved, macs = (
        50 * (25_000 // 32) * sum(values) for values in zip(*[(w.bytes, w.macs) for w in works], strict=True)
    )
    row = f"| {moved / 1e12:.0f} | {macs * 2 / 1e15:.2f} | {moved / 2e12:.0f} | {macs * 2 / 100e12:.0f} |"
    assert f"| textbook | bf16 {row}" in printed


def test_fp32_has_no_seconds_at_the_rate_of_bf16(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" | - |")]
    assert [row.split("|")[1:3] for row in rows] == [[" fused ", " fp32 "], [" textbook ", " fp32 "]]


def test_cross_entropy_moves_no_feature_map() -> None:
    logits = torch.randn(11, 10, requires_grad=True)
    with CountValues(11) as counter:
        F.cross_entropy(logits, torch.zeros(11, dtype=torch.long)).backward()
    assert counter.values == 0
