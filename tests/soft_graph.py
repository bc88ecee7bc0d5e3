"""A stand-in for a CUDA graph on any device: it keeps each operation with the very tensors it ran on.

A replay runs the same operations on the same memory, and no Python in between: whatever a step keeps on the host is
as it was while recording. Reading a value on the host is refused, as it is while a CUDA graph is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class SoftGraph:
    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    @contextmanager
    def record(self) -> Iterator[None]:
        """Recording runs nothing on a CUDA device, so what it does to memory from outside is undone."""
        operations = self.operations
        before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage | None]] = {}

        class Recording(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func in READS:
                    raise RuntimeError(f"operation not permitted when stream is capturing: {func}\nand more")
                for tensor in tensors((args, kwargs)):
                    storage = tensor.untyped_storage()
                    before.setdefault(storage.data_ptr(), (storage, storage.clone()))
                result = func(*args, **(kwargs or {}))
                for tensor in tensors(result):
                    storage = tensor.untyped_storage()
                    before.setdefault(storage.data_ptr(), (storage, None))  # made here: nothing to restore
                operations.append((func, args, kwargs or {}, result))
                return result

        try:
            with Recording():
                yield
        except Exception:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904, as CUDA says
        for storage, content in before.values():
            if content is not None:
                storage.copy_(content)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, results in self.operations:
            given = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
            for old, new in zip(tensors(results), tensors(func(*args, **kwargs)), strict=True):
                if old.untyped_storage().data_ptr() not in given:  # else it is a view, or was changed in place
                    old.copy_(new)
