"""Launching a whole step at once: record it as a CUDA graph, then replay it.

A training step is thousands of small kernels, and a host launches them more slowly than the device runs them. A
recording is launched as one, for the price of rules: the recorded function does the same operations on the same
memory every time, waits for nothing, and keeps nothing on the host that changes from call to call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from supernet.errors import SupernetError
from supernet.ranks import world_size

Function = Callable[..., Sequence[Tensor]]
"""Takes tensors and returns tensors; whatever else it changes, it changes in place."""

WARM_UP = 3
"""Calls before a recording: libraries choose their algorithms, and optimizers make their state, on the way."""


class Graph(Protocol):
    """What records operations and replays them; `CudaGraph`, or a stand-in where there is no such device."""

    def record(self) -> AbstractContextManager[object]:
        """Record what is done inside the block."""

    def replay(self) -> None:
        """Do it again, on the same memory."""


class CudaGraph:
    """The operations that one stream was given, launched together.

    Args:
        pool: memory that recordings share which never run at the same time.
    """

    def __init__(self, pool: Any) -> None:
        self.pool, self.graph = pool, torch.cuda.CUDAGraph()

    def record(self) -> AbstractContextManager[object]:
        """Record what is done inside the block."""
        # Other threads, such as one that pins batches, may go on with the device.
        graph: AbstractContextManager[object] = torch.cuda.graph(
            self.graph, pool=self.pool, capture_error_mode="thread_local"
        )
        return graph

    def replay(self) -> None:
        """Launch it."""
        self.graph.replay()


class Recording:
    """A function of tensors, recorded once; a call copies new inputs over the old ones and replays.

    What a call returns may be overwritten as soon as any recording is called again: they share their memory.

    Args:
        function: what to record.
        inputs: an example; later inputs have the same shapes, types and layouts.
        graph: an empty graph.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor], graph: Graph) -> None:
        self.graph = graph
        with_gradients = torch.is_grad_enabled()
        torch.clear_autocast_cache()  # a cast that was made before would not be made anew in a replay
        try:
            # Tensors made in inference mode could be written in that mode only, and a replay writes them anywhere.
            with torch.inference_mode(False), torch.set_grad_enabled(with_gradients):
                self.inputs = [torch.empty_like(value).copy_(value) for value in inputs]
                with graph.record():
                    self.outputs = function(*self.inputs)
        except RuntimeError as error:
            cause = _first(error)  # the end of a failed recording fails as well, and says nothing of the reason
            if not isinstance(cause, RuntimeError):
                raise cause from None
            reason = str(cause).strip().partition("\n")[0]
            raise SupernetError(
                f"this step cannot be recorded as a CUDA graph ({reason}); pass --model.cuda_graphs false"
            ) from error
        finally:
            # Autocast keeps casts of parameters; those made while recording lie in memory of the recording.
            torch.clear_autocast_cache()

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs for new inputs."""
        for static, value in zip(self.inputs, inputs, strict=True):
            static.copy_(value, non_blocking=True)
        self.graph.replay()
        return self.outputs


def _first(error: BaseException) -> BaseException:
    """The error at the beginning of a chain of errors."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class Recorder:
    """Runs functions by their recordings, one for each name and shapes of inputs.

    Args:
        device: where the inputs are needed.
        make_graph: makes an empty graph; None runs every function as it is.
    """

    def __init__(self, device: torch.device, make_graph: Callable[[], Graph] | None = None) -> None:
        self.device, self.make_graph = device, make_graph
        self.recordings: dict[tuple[Hashable, ...], Recording] = {}
        self.calls: Counter[tuple[Hashable, ...]] = Counter()

    def __call__(self, name: str, function: Function, *inputs: Tensor) -> Sequence[Tensor]:
        """What the function returns for these inputs."""
        if self.make_graph is None:
            return function(*inputs)
        moved = [value.to(self.device, non_blocking=True) for value in inputs]
        key = (name, *((value.shape, value.dtype, value.stride()) for value in moved))
        self.calls[key] += 1
        if self.calls[key] <= WARM_UP:
            return function(*moved)
        if key not in self.recordings:
            self.recordings[key] = Recording(function, moved, self.make_graph())
        return self.recordings[key](moved)


def recorder(device: torch.device, cuda_graphs: bool) -> Recorder:
    """A recorder that replays CUDA graphs on a CUDA device, if asked to, and runs functions as they are elsewhere.

    Several processes record nothing: a recording could not wait for the others.
    """
    if device.type != "cuda" or not cuda_graphs or world_size() > 1:
        return Recorder(device)
    pool = torch.cuda.graph_pool_handle()
    return Recorder(device, lambda: CudaGraph(pool))
