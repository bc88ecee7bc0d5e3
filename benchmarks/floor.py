"""The least work of one step: multiply-accumulates, and bytes through device memory. Pure arithmetic.

Shapes: feature maps of v = C * H * W values an image; a cell has n nodes, E edges, K convolutions and O operations an
edge. F is 1 if the space has a skip or a pooling, else 0. Every candidate runs, as under a softmax mixture.

Multiply-accumulates are those of convolutions and of the classifier: once forward, once for the gradient of the inputs
and once for that of the weights. No input gradient reaches the images. The fused architecture step has the network
frozen: no weight gradients, and nothing in front of the first mixture needs a gradient.

Bytes: a kernel reads each input once and writes each output once, and nothing stays in a cache between two kernels
(a cache that holds whole feature maps can go below that). Values of one a channel or one a class are left out, and so
are augmentation, loss, accuracy and the architecture's own parameters.

``fused`` is the best that could be written while batch statistics are a barrier: a convolution's output is complete
before any of it is normalised, and its gradient is complete before any of it passes the normalisation.

    node t of a cell      reads K raw convolutions and F nodes from each earlier one    E * (K + F)
                          writes the node, and its raw convolutions with their sums     n - 1, E * K
    gradient of node s    reads gradients and raw convolutions of the later nodes       E + E * K
                          reads the node (mask, input of weight gradients), writes      2 * (n - 1)
      sums on its write   reads the raw convolutions that enter s                       E * K
                          architecture step: and F nodes that enter s                   E * F
    stem                  image, write raw; read raw, write node                        image + 3 v
      backward            sums read raw; weights read gradient, raw and image           image + 3 v
    reduction (to v)      write raw 1, shortcut; raw 1 to raw 2; raw 2, shortcut to out 2 + 2 + 3
      backward            sums read raw 2; gradient, raw 2, raw 1 to gradient 1;        1 + 4
                          gradient 1, raw 1, gradient, input (2 v) to input (2 v)       7
    head                  read; backward read and write (its sums come from forward)    3 v
    weights (fp32)        forward, backward; network: write gradient, SGD r 3, w 2      2 or 8 values a weight

A node is convolved by the kernel that makes it. Without any convolution in the space the barriers fall, and the
table is more than the least. ``textbook`` counts the eager kernels that autograd runs, forward and backward together:

    convolution           forward 1 r 1 w; input gradient 1 r 1 w; weight gradient 2 r  3 a value in and out
    batch normalisation   forward 2 r 1 w; backward 4 r 1 w                             8
    ReLU; pooling, zero   1 r 1 w, 2 r 1 w; 1 r 1 w, 1 r 1 w                            5; 4
    times coefficient     1 r 1 w; 1 r 1 w; gradient of the coefficient 2 r 1 w, 1 r    8
    sum of m terms        0 + first: 1 r 1 w; then 2 r 1 w                              3 m - 1
    m uses of one tensor  gradients added up, 2 r 1 w                                   3 (m - 1)
    weights (fp32)        2 r 1 w; network: norm 1 r, clip 1 r 1 w, SGD 9 r 5 w         3 or 20 values a weight

Run ``python -m benchmarks.floor`` for the reference protocol as a table; ``--help`` lists what can be changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple, get_args

from supernet.ops import CONVOLUTIONS, FIXED
from supernet.space import SKIP, CellSpace

Step = Literal["network", "arch"]
Way = Literal["fused", "textbook"]

WEIGHT_ACCESSES: dict[tuple[Way, Step], int] = {
    ("fused", "network"): 8, ("fused", "arch"): 2, ("textbook", "network"): 20, ("textbook", "arch"): 3,
}  # fmt: skip
"""How often a step reads or writes a value of the size of the weights."""
NUM_IMAGES, NUM_EPOCHS = 25_000, 50
"""Images in each half of CIFAR-10, and epochs of a DARTS search."""


class Floor(NamedTuple):
    """The least work of one step."""

    macs: int
    """Multiply-accumulates."""
    bytes: int
    """Bytes read from device memory and written to it."""


@dataclass(frozen=True)
class Protocol:
    """What is searched: the options of `supernet.network.Supernet`, and the images in a batch."""

    space: CellSpace = CellSpace()
    channels: int = 16
    num_cells: int = 5
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (3, 32, 32)
    batch: int = 64

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Pixels of a feature map in the three stages."""
        first = self.image_shape[1] * self.image_shape[2]
        return first, first // 4, first // 16

    @property
    def maps(self) -> tuple[int, int, int]:
        """Values of one image's feature map in the three stages, v."""
        first, second, third = self.pixels
        return self.channels * first, 2 * self.channels * second, 4 * self.channels * third


def least_work(step: Step, way: Way, value_bytes: int = 2, protocol: Protocol = Protocol()) -> Floor:
    """The least work of one step on a batch.

    Args:
        step: ``network`` or ``arch``, forward and backward and, for the network, its optimizer.
        way: ``fused`` or ``textbook``.
        value_bytes: bytes of a value in a feature map: 2 for bf16, 4 for fp32. Weights are held in fp32.
        protocol: space, sizes and batch.
    """
    image = _fused_values(step, protocol) * value_bytes
    if way == "textbook":
        # PyTorch's max pooling writes a 64-bit index for each value, and reads it to go back.
        indices = 2 * 8 * ("max_pool_3x3" in protocol.space.ops) * protocol.space.num_edges
        image = _textbook_values(protocol) * value_bytes + indices * protocol.num_cells * sum(protocol.maps)
    weights = 4 * WEIGHT_ACCESSES[way, step] * sum(_products(protocol, (1, 1, 1)))
    return Floor(protocol.batch * _macs(step, way, protocol), protocol.batch * image + weights)


def _area(space: CellSpace) -> int:
    """Taps of all convolutions of an edge."""
    return sum(CONVOLUTIONS[op] ** 2 for op in space.ops if op in CONVOLUTIONS)


def _products(protocol: Protocol, pixels: Sequence[int]) -> tuple[int, int]:
    """Multiplications of one forward pass of the stem and of the rest; one pixel a stage gives the weights."""
    widths = [protocol.channels * 2**stage for stage in range(3)]
    cells = protocol.num_cells * protocol.space.num_edges * _area(protocol.space)
    rest = sum(cells * width**2 * count for width, count in zip(widths, pixels, strict=True))
    # Two 3x3 convolutions and the 1x1 of the shortcut; the input is half as wide.
    rest += sum((9 * width // 2 + 9 * width + width // 2) * width * pixels[i] for i, width in enumerate(widths) if i)
    return 9 * protocol.image_shape[0] * widths[0] * pixels[0], rest + widths[2] * protocol.num_classes


def _macs(step: Step, way: Way, protocol: Protocol) -> int:
    """Multiply-accumulates of one image."""
    stem, rest = _products(protocol, protocol.pixels)
    if way == "textbook" or step == "network":
        return 2 * stem + 3 * rest
    first = (protocol.space.num_nodes - 1) * _area(protocol.space) * protocol.channels**2 * protocol.pixels[0]
    return stem + 2 * rest - first


def _fused_values(step: Step, protocol: Protocol) -> int:
    """Values of one image that the fused kernels read and write; the table of the module, line by line."""
    space, arch = protocol.space, step == "arch"
    edges, later = space.num_edges, space.num_nodes - 1
    convs, fixed = sum(op in CONVOLUTIONS for op in space.ops), int(any(op in FIXED for op in space.ops))
    forward = edges * (convs + fixed) + later + edges * convs
    backward = edges + edges * convs + 2 * later + edges * convs + arch * edges * fixed
    first, *reduced = protocol.maps
    image = protocol.image_shape[0] * protocol.pixels[0]
    values = protocol.num_cells * (forward + backward) * sum(protocol.maps) + (7 + 12) * sum(reduced) + 3 * reduced[-1]
    stem = image + 3 * first
    # The architecture step needs neither the stem's gradient nor that of the first cell's input.
    return values + (stem - (later + later * convs + 2) * first if arch else 2 * stem)


def _textbook_values(protocol: Protocol) -> int:
    """Values of one image that the eager kernels read and write, the same in both steps."""
    space, (first, second, third) = protocol.space, protocol.maps
    edges, ops, later = space.num_edges, space.num_ops, space.num_nodes - 1
    conv, norm, relu, pool, coefficient = 3, 8, 5, 2, 8
    convolution = relu + 2 * conv + norm
    run = sum(convolution if op in CONVOLUTIONS else 0 if op == SKIP else 2 * pool for op in space.ops)
    cell = edges * (run + coefficient * ops + 3 * ops - 1) + 3 * edges - later + 3 * (edges * ops - later)
    # In quarters of the input: it is 4, either convolution's output 2, the pooled shortcut 1.
    body = relu * 4 + conv * (4 + 2) + norm * 2 + convolution * 2
    reduction = body + pool * (4 + 1) + conv * (1 + 2) + 3 * 2 + 3 * 4  # the sum, and the two uses of the input
    stem = 2 * (protocol.image_shape[0] * protocol.pixels[0] + first) + norm * first
    head = (norm + relu + 2) * third
    return protocol.num_cells * cell * sum(protocol.maps) + reduction * (second + third) // 2 + stem + head


def table(protocol: Protocol, bandwidth: float, rate: float) -> str:
    """Markdown: one step, one image, and 50 epochs of both steps; bandwidth in TB/s, rate in TFLOP/s of bf16."""
    steps = [
        "| way | values | step | GMAC/step | MB/step | MMAC/image | MB/image |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    whole = [f"| way | values | TB | PFLOP | s at {bandwidth:g} TB/s | s at {rate:g} TFLOP/s |"]
    whole.append("|---|---|---:|---:|---:|---:|")
    repeats = NUM_EPOCHS * (NUM_IMAGES // protocol.batch)
    for way, (name, size) in product(get_args(Way), {"bf16": 2, "fp32": 4}.items()):
        works = {step: least_work(step, way, size, protocol) for step in get_args(Step)}
        for step, (macs, moved) in works.items():
            each = f"{macs / protocol.batch / 1e6:.1f} | {moved / protocol.batch / 1e6:.2f}"
            steps.append(f"| {way} | {name} | {step} | {macs / 1e9:.2f} | {moved / 1e6:.1f} | {each} |")
        terabytes = repeats * sum(work.bytes for work in works.values()) / 1e12
        teraflops = 2 * repeats * sum(work.macs for work in works.values()) / 1e12
        seconds = f"{terabytes / bandwidth:.0f} | {f'{teraflops / rate:.0f}' if size == 2 else '-'}"
        whole.append(f"| {way} | {name} | {terabytes:.0f} | {teraflops / 1e3:.2f} | {seconds} |")
    return "\n".join([*steps, "", *whole])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for the reference protocol, or for the sizes on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.floor", description="The least work of a search step.", allow_abbrev=False
    )
    parser.add_argument("--bandwidth", type=float, default=4.3, help="TB/s of device memory")
    parser.add_argument("--rate", type=float, default=790.0, help="TFLOP/s of bf16, two a multiply-accumulate")
    for name in ("channels", "num_cells", "batch"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Protocol, name))
    chosen = vars(parser.parse_args(arguments))
    bandwidth, rate = chosen.pop("bandwidth"), chosen.pop("rate")
    print(table(Protocol(**chosen), bandwidth, rate))


if __name__ == "__main__":
    main()
