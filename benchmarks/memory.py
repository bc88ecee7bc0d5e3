"""Launches and peak memory of one step of each way to search.

On a GPU they are read off the profiler and the allocator. Elsewhere they are counted: operations of PyTorch in place
of kernels, tensors alive in place of allocated blocks. A dense step is counted on the meta device, where nothing is
computed; a step of one path has to read which one it is, so it is computed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import StepCount, Way
from benchmarks.textbook import textbook_of, textbook_optimizers, textbook_step
from benchmarks.ways import IMAGE_SHAPE, WAYS, Setting, bilevel_of, search_of
from supernet.replay import Recorder


def count_step(name: str, way: str, setting: Setting) -> tuple[int, int]:
    """Launches and peak bytes of a step of this way by this strategy."""
    if setting.device.type == "cuda":
        # Under Lightning every run is one of its own: the launches are those of the loop inside.
        loop = "bare loop" if way == "ours" else way
        return read_off(lambda: WAYS[way](name, setting), lambda: WAYS[loop](name, setting))
    where = torch.device("meta" if name == "DARTS" else "cpu")
    step, alive = (_textbook if way == "textbook" else _ours)(name, replace(setting, device=where, compile=False))
    return count(step, alive)


def read_off(build: Callable[[], Way], build_loop: Callable[[], Way]) -> tuple[int, int]:
    """Kernels of a step on the GPU, also those of a recording, and the peak of the bytes that the allocator took.

    Args:
        build: makes the way whose memory is measured.
        build_loop: makes the loop whose kernels are counted, one step at a time.
    """
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    build()(2)
    peak = torch.cuda.max_memory_reserved() - before  # what a recording uses is reserved, not allocated
    run = build_loop()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run(1)
    return sum(event.device_type == DeviceType.CUDA for event in profiler.events() or []), peak


def count(step: Callable[[], object], alive: Callable[[], Iterator[Tensor]]) -> tuple[int, int]:
    """Operations and peak bytes of a step; ``alive`` gives the tensors that are there between two steps."""
    step()  # gradients and the state of the optimizers exist from the second step on
    with StepCount(alive()) as counter:
        step()
    return counter.operations, counter.peak


Counted = tuple[Callable[[], object], Callable[[], Iterator[Tensor]]]
"""A step, and the tensors that are alive between two of them."""


def _textbook(name: str, setting: Setting) -> Counted:
    supernet = setting.supernet()
    network, search = textbook_of(supernet, one_path=name != "DARTS"), search_of(name, supernet)
    network_optimizer, arch_optimizer = textbook_optimizers(network, search)
    train, val = random_batch(setting), random_batch(setting)

    def step() -> None:
        textbook_step(network, search, network_optimizer, arch_optimizer, train, val, read=lambda loss: None)

    return step, lambda: alive_between([network, search], [network_optimizer, arch_optimizer], [*train, *val])


def _ours(name: str, setting: Setting) -> Counted:
    bilevel = bilevel_of(name, setting, Recorder(setting.device))
    train, val = random_batch(setting), random_batch(setting)
    optimizers = [bilevel.descent.optimizer, bilevel.arch_optimizer]
    return lambda: bilevel.step(train, val), lambda: alive_between(
        [bilevel.supernet, bilevel.search], optimizers, [*train, *val]
    )


def random_batch(setting: Setting) -> tuple[Tensor, Tensor]:
    """Images and labels on the device of a setting."""
    images = torch.rand(setting.batch, *IMAGE_SHAPE, device=setting.device)
    return images, torch.zeros(setting.batch, dtype=torch.long, device=setting.device)


def alive_between(
    modules: Iterable[nn.Module], optimizers: Iterable[Optimizer | None], others: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Parameters, buffers, gradients and states of optimizers, and what else is kept between two steps."""
    for module in modules:
        yield from module.buffers()
        for parameter in module.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad
    for optimizer in optimizers:
        for state in optimizer.state.values() if optimizer else ():
            yield from (value for value in state.values() if isinstance(value, Tensor))
    yield from others
