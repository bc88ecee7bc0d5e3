"""What a step of each search computes: multiply-accumulates of the convolutions, forward and backward, on a CPU.

Counted, not timed, at the size of the reference (C=16, N=5), and given in steps of random search, which trains one
single path: the mean over some steps, since what is drawn differs. Steps that an architecture takes in a row after an
epoch are spread over the 195 steps of an epoch of batches of 128 images. A GPU that replays recordings runs every
candidate of every path instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, cast

import torch
from pytorch_lightning import seed_everything
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.measure import markdown, progress
from benchmarks.searches import Options, merged, methods
from benchmarks.strategies import module_of
from supernet.bilevel import Bilevel
from supernet.data import SearchData
from supernet.replay import Recorder
from supernet.strategies import Batch
from supernet.terms import SearchTerm

STEPS_PER_EPOCH = 195


class Macs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-accumulates of convolutions and matrix products by the formulas of PyTorch's counter.

    That counter itself follows the modules, and loses its way where a module is called without gradients.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and count."""
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result) // 2
        return result


def bilevel_of(given: Options, data: SearchData) -> Bilevel:
    """The steps of a search, in the middle of its epochs."""
    seed_everything(0, verbose=False)
    module, epochs = module_of(given["model"], data), given["trainer"]["max_epochs"]
    search, network, terms = module.search, module.supernet, cast(list[SearchTerm], list(module.terms))
    learned = search.make_optimizer(1e-3, (0.5, 0.999), 0.0) if search.learns else None
    search.start_epoch(epochs // 2, epochs)
    for term in terms:
        term.start_epoch(epochs // 2, epochs)
    sgd = SGD(network.parameters(), 0.025, 0.9, nesterov=True)
    return Bilevel(network, search, sgd, learned, Recorder(torch.device("cpu")), 5.0, terms)


def macs_of_a_step(given: Options, data: SearchData, num_steps: int, num_images: int) -> float:
    """Multiply-accumulates of a step and an image, the mean over some steps."""
    bilevel = bilevel_of(given, data)

    def batch() -> Batch:
        return torch.randn(num_images, *data.image_shape), torch.randint(data.num_classes, (num_images,))

    with Macs() as steps:
        for _ in range(num_steps):
            bilevel.step(batch(), batch())
    macs = steps.total / num_steps
    if in_a_row := bilevel.search.arch_steps_per_epoch:
        with Macs() as phase:
            bilevel.arch_step(batch(), batch())
        macs += phase.total * in_a_row / STEPS_PER_EPOCH
    return float(macs / num_images)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and print the table."""
    known = methods()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_costs", description="What a step of each search computes.", allow_abbrev=False
    )
    parser.add_argument("--searches", nargs="+", choices=list(known), default=list(known), metavar="NAME")
    parser.add_argument("--channels", type=int, default=16, help="C, the width of the first stage")
    parser.add_argument("--num_cells", type=int, default=5, help="N, cells in each stage")
    parser.add_argument("--steps", type=int, default=8, help="steps that are counted")
    parser.add_argument("--batch", type=int, default=2, help="images in a batch")
    options = parser.parse_args(arguments)
    size, data = {"channels": options.channels, "num_cells": options.num_cells}, SearchData("cifar10")
    counted = {}
    for name in dict.fromkeys(("random", *options.searches)):
        counted[name] = macs_of_a_step(merged(known[name], {"model": size}), data, options.steps, options.batch)
        progress(f"{name}: {counted[name] / 1e6:,.0f} million")
    rows = [
        [name, f"{counted[name] / 1e6:,.0f}", f"{counted[name] / counted['random']:.1f}"] for name in options.searches
    ]
    print(markdown(["search", "million multiply-accumulates a step and image", "steps of random search"], rows))


if __name__ == "__main__":
    main()
