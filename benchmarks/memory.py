"""Launches and peak memory of one step of each way to search.

On a GPU they are read off the profiler and the allocator. Elsewhere they are counted: operations of PyTorch in place
of kernels, tensors alive in place of allocated blocks. A dense step is counted on the meta device, where nothing is
computed; a step of one path has to read which one it is, so it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import StepCount
from benchmarks.textbook import textbook_of, textbook_optimizers, textbook_step
from benchmarks.ways import IMAGE_SHAPE, WAYS, Setting, bilevel_of, search_of
from supernet.replay import Recorder


def count_step(name: str, way: str, setting: Setting) -> tuple[int, int]:
    """Launches and peak bytes of a step of this way by this strategy."""
    return _read_off(name, way, setting) if setting.device.type == "cuda" else _count(name, way, setting)


def _read_off(name: str, way: str, setting: Setting) -> tuple[int, int]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run = WAYS[way](name, setting)
    run(2)
    peak = torch.cuda.max_memory_allocated() - before
    if way == "ours":  # a run of its own each time: count the launches of the loop inside
        run = WAYS["bare loop"](name, setting)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run(1)
    kernels = sum(event.device_type == DeviceType.CUDA for event in profiler.events() or [])
    return kernels, peak


def _count(name: str, way: str, setting: Setting) -> tuple[int, int]:
    where = torch.device("meta" if name == "DARTS" else "cpu")
    step, alive = (_textbook if way == "textbook" else _ours)(name, replace(setting, device=where, compile=False))
    step()  # gradients and the state of the optimizers exist from the second step on
    with StepCount(alive()) as count:
        step()
    return count.operations, count.peak


Counted = tuple[Callable[[], object], Callable[[], Iterator[Tensor]]]
"""A step, and the tensors that are alive between two of them."""


def _textbook(name: str, setting: Setting) -> Counted:
    supernet = setting.supernet()
    network, search = textbook_of(supernet, one_path=name != "DARTS"), search_of(name, supernet)
    network_optimizer, arch_optimizer = textbook_optimizers(network, search)
    train, val = _batch(setting), _batch(setting)

    def step() -> None:
        textbook_step(network, search, network_optimizer, arch_optimizer, train, val, read=lambda loss: None)

    return step, lambda: _alive(network, search, [network_optimizer, arch_optimizer], [*train, *val])


def _ours(name: str, setting: Setting) -> Counted:
    bilevel = bilevel_of(name, setting, Recorder(setting.device))
    train, val = _batch(setting), _batch(setting)
    optimizers = [bilevel.descent.optimizer, bilevel.arch_optimizer]
    return lambda: bilevel.step(train, val), lambda: _alive(
        bilevel.supernet, bilevel.search, optimizers, [*train, *val]
    )


def _batch(setting: Setting) -> tuple[Tensor, Tensor]:
    images = torch.rand(setting.batch, *IMAGE_SHAPE, device=setting.device)
    return images, torch.zeros(setting.batch, dtype=torch.long, device=setting.device)


def _alive(
    network: nn.Module, search: nn.Module, optimizers: list[Optimizer | None], others: list[Tensor]
) -> Iterator[Tensor]:
    for parameter in [*network.parameters(), *search.parameters()]:
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
    for optimizer in optimizers:
        for state in optimizer.state.values() if optimizer else ():
            yield from (value for value in state.values() if isinstance(value, Tensor))
    yield from others
