"""What the processes of a training do together; each of them is a *rank*, and has its own part of every batch.

Plain ``torch.distributed``. Where there is one process, nothing happens: the functions return what they were given.
A call waits for the same call of all other ranks, so all of them have to make it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from supernet.errors import SupernetError


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, all on one device, by their sums over all ranks; in one message, whatever their number."""
    _reduce(tensors, dist.ReduceOp.SUM)


def total(value: int, device: torch.device) -> int:
    """The sum of a number over all ranks; ``device`` is where this training computes."""
    if world_size() == 1:
        return value
    summed = torch.tensor(value, device=device)
    add_up([summed])
    return int(summed)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, all on one device, by their means over all ranks; in one message, whatever their number."""
    _reduce(tensors, dist.ReduceOp.SUM, world_size())


def largest(values: Sequence[int], device: torch.device) -> list[int]:
    """The largest of each value over all ranks; ``device`` is where this training computes."""
    if world_size() == 1:
        return list(values)
    found = torch.tensor(values, device=device)
    _reduce([found], dist.ReduceOp.MAX)
    return [int(value) for value in found.tolist()]


def is_the_same(value: int, device: torch.device) -> bool:
    """Whether all ranks have the same number, at least 0; ``device`` is where this training computes."""
    highest, lowest = largest([value, -value], device)
    return highest == -lowest


def _reduce(tensors: Sequence[Tensor], operation: Any, divisor: int = 1) -> None:
    if world_size() == 1 or not tensors:
        return
    with torch.no_grad():
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _others():
            dist.all_reduce(flat, operation)
        if divisor > 1:
            flat /= divisor
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def spread(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by those of rank 0."""
    if world_size() > 1:
        with torch.no_grad(), _others():
            for tensor in tensors:
                whole = tensor.contiguous()  # a message takes no other layout
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)


@contextmanager
def _others() -> Iterator[None]:
    """Say what it means when a message does not get through."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise SupernetError(
            f"rank {rank()} lost another rank, or waited for it in vain: look for what that one said, then repeat the"
            f" command with --resume ({str(error).partition(chr(10))[0]})"
        ) from error


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks.

    It can be differentiated, any number of times. What is differentiated is then the sum of the outputs of all
    ranks: a part of one rank adds to all of them, so its gradient is the sum of theirs.
    """
    if world_size() == 1:
        return tensor
    summed: Tensor = _SumOverRanks.apply(tensor)
    return summed


class _SumOverRanks(torch.autograd.Function):
    """A sum over ranks; its gradient is one as well."""

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        with _others():
            dist.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """A sum remembers nothing."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return sum_over_ranks(grad)
