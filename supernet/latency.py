"""How long each operation takes on a device: ``python -m supernet.latency --out FILE`` writes a table of it."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from supernet.errors import SupernetError, run
from supernet.files import write_whole
from supernet.genotype import NAS_BENCH_201_OPS, ZERO
from supernet.network import Skeleton, check_image_size, check_skeleton
from supernet.ops import check_ops, make_op


@torch.no_grad()
def operation_latencies(
    ops: Sequence[str],
    channels: int = 16,
    num_cells: int = 5,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    seconds: float = 0.05,
) -> dict[str, float]:
    """Milliseconds that each operation adds to a network on one edge of all its cells, for a batch in evaluation.

    The median of many runs of the operation alone, at the three widths; ``none`` takes no time.

    Args:
        ops: names of operations.
        channels: C, the width of the first stage.
        num_cells: N, the number of cells in each of the three stages.
        image_shape: channels, height and width of the images.
        device: where to measure.
        batch_size: images at a time; 1 is what a device in somebody's hand sees.
        seconds: how long to measure each operation at each width, at least.
    """
    check_ops(ops)
    check_skeleton(channels=channels, num_cells=num_cells, num_classes=2, image_channels=image_shape[0])
    check_image_size(*image_shape[1:])
    found = dict.fromkeys(ops, 0.0)
    for stage in range(3):
        shape = (batch_size, channels * 2**stage, image_shape[1] // 2**stage, image_shape[2] // 2**stage)
        features = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        features = features.contiguous(memory_format=Skeleton.layout)
        for op in ops:
            if op != ZERO:
                found[op] += 1000 * num_cells * _median_seconds(op, features, seconds)
    return found


def _median_seconds(op: str, features: torch.Tensor, seconds: float) -> float:
    from torch.utils.benchmark import Timer  # here: it looks for compilers, and says on stderr what it does not find

    with torch.random.fork_rng(devices=[]):  # its parameters do not matter, and nobody else's draws may change
        module = make_op(op, features.shape[1]).to(features.device).to(memory_format=Skeleton.layout).eval()
    timer = Timer("module(features)", globals={"module": module, "features": features})
    return float(timer.blocked_autorange(min_run_time=seconds).median)


def read_table(path: str, ops: Sequence[str]) -> dict[str, float]:
    """Read the latency of each operation in milliseconds from a JSON file, ``{"nor_conv_3x3": 0.4, ...}``.

    Raises:
        SupernetError: there is no such file, or it does not say how long one of the operations takes.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SupernetError(
            f"{path} is no table of latencies: {error}; python -m supernet.latency writes one"
        ) from None
    if not isinstance(table, dict):
        raise SupernetError(f"{path} must tell milliseconds by operation, got {type(table).__name__}")
    table = {ZERO: 0.0, **table}
    for op in ops:
        value: Any = table.get(op)
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise SupernetError(f"{path} must tell milliseconds, 0 or more, for {op!r}, got {value!r}")
    return {op: float(table[op]) for op in ops}


def main(args: Sequence[str]) -> None:
    """Measure, and write a table."""
    parser = argparse.ArgumentParser(prog="python -m supernet.latency", description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--ops", nargs="+", default=[*NAS_BENCH_201_OPS], help="operations")
    parser.add_argument("--channels", type=int, default=16, help="width of the first stage")
    parser.add_argument("--num_cells", type=int, default=5, help="cells in each of the three stages")
    parser.add_argument("--image_shape", type=int, nargs=3, default=[3, 32, 32], help="channels, height, width")
    parser.add_argument("--batch_size", type=int, default=64, help="images at a time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to measure")
    given = vars(parser.parse_args(args))
    out, given["image_shape"] = given.pop("out"), tuple(given["image_shape"])
    if given["batch_size"] < 1:
        raise SupernetError(f"batch_size must be at least 1, got {given['batch_size']}")
    check_device(given["device"])
    table = operation_latencies(**given)
    write_whole(out, (json.dumps(table, indent=2) + "\n").encode())
    for op, ms in table.items():
        print(f"{op:<16}{ms:.4g} ms")
    print(f"written to {out}")


def check_device(name: str) -> None:
    """Raise `SupernetError` for a device that is not there."""
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:  # of the last two are devices that torch lacks
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].removesuffix(".")
        raise SupernetError(f"nothing can be computed on device {name!r} ({reason}); pass --device cpu") from None


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
