"""How things are measured here: side by side, in rounds, medians after a warm-up.

A machine that others share is slow for a second and fast for the next, so the ways that are compared take turns, and
what counts is the ratio of their medians. On a CPU the time that counts is that of the processor, not of the wall.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from supernet.versions import versions


class Sample(NamedTuple):
    """Seconds of one step, the mean over the steps of a round."""

    wall: float
    """On a CPU by the clock; on a GPU between two events, of which the second follows its last operation."""
    cpu: float
    """Of all threads of this process; loader workers are not counted."""
    data: float
    """On the clock, spent waiting for the loader."""


Way = Callable[[int], Sample]
"""Runs this many steps. It is kept between rounds, and so is whatever it has warmed up."""


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Measures from its making until `stop`.

    Args:
        device: the device that works.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        synchronize(device)
        self.begun = _event(device)
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self, steps: int, data: float = 0.0) -> Sample:
        """The time of one of so many steps; ``data`` is the time spent waiting for the loader in all of them."""
        ended = _event(self.device)
        synchronize(self.device)
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        if self.begun and ended:
            wall = self.begun.elapsed_time(ended) / 1e3
        return Sample(wall / steps, cpu / steps, data / steps)


def _event(device: torch.device) -> torch.cuda.Event | None:
    """A mark in what a GPU is given to do, with its time; None elsewhere."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def loop(
    loader: Iterable[Any],
    step: Callable[[Any], object],
    device: torch.device,
    warm_up: int,
    begin: Callable[[int], object] = lambda number: None,
) -> Way:
    """A plain loop over a loader, begun anew whenever it ends; its first steps warm it up.

    Args:
        loader: makes the batches.
        step: what is measured, for one batch.
        device: the device that works.
        warm_up: steps before anything is measured.
        begin: called before each round with its number, from 1.
    """

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    batches, numbers = endless(), count(1)
    for _ in range(warm_up):
        step(next(batches))

    def run(steps: int) -> Sample:
        begin(next(numbers))
        watch, waited = Stopwatch(device), 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            step(batch)
        return watch.stop(steps, waited)

    return run


def in_turns(ways: dict[str, Way], steps: int, rounds: int, label: str) -> dict[str, Sample]:
    """The medians of several rounds in which all ways take turns; progress goes to stderr."""
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            progress(f"{label}: round {number + 1}/{rounds}, {name}")
            samples[name].append(way(steps))
    return {name: Sample(*map(median, zip(*taken, strict=True))) for name, taken in samples.items()}


def progress(message: str) -> None:
    """Say what is going on."""
    print(message, file=sys.stderr, flush=True)


class StepCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what a step asks of the device: operations that compute, and the most bytes of tensors alive at once.

    It sees every operation of PyTorch, forward and backward, on any device; on "meta" nothing is computed, so a step
    of any size is counted in seconds. Views and empty tensors are no operations. Memory inside an operation, and what
    an allocator keeps, is not seen.
    """

    def __init__(self, alive: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.bytes = self.peak = 0
        self.known: set[int] = set()
        for tensor in alive:
            self._meet(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it."""
        given = {id(tensor.untyped_storage()) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        result = func(*args, **(kwargs or {}))
        made = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        is_view = any(id(tensor.untyped_storage()) in given for tensor in made) and not func._schema.is_mutable
        self.operations += not is_view and "empty" not in func.__name__
        for tensor in made:
            self._meet(tensor)
        return result

    def _meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self.known:
            return
        self.known.add(id(storage))
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, key: int, num_bytes: int) -> None:
        self.known.discard(key)
        self.bytes -= num_bytes


def hardware(device: torch.device) -> dict[str, str]:
    """Versions, and the name of the processor or the GPU."""
    found = versions(device)
    if device.type == "cpu":
        found["hardware"] = f"{processor()}, {torch.get_num_threads()} threads"
    return found


def processor() -> str:
    """The name that the processor gives itself, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; all columns but the first are set to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
