"""Functions run by several processes that train together, over gloo on this machine.

They are forked from a server that has imported everything once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_utilities.core.rank_zero import rank_zero_only

from tests import processes


def begin(folder: Path, function: Callable[..., Any], *args: Any, world_size: int = 2) -> list[BaseProcess]:
    """Start ``function(*args)`` on every rank; ``folder`` is where they meet and leave what it returns."""
    folder.mkdir(parents=True, exist_ok=True)
    ranks: list[BaseProcess] = []
    for rank in range(world_size):
        task = (str(folder), rank, world_size, function, args)
        process = processes._SERVER.Process(target=_work, args=task)
        process.start()
        ranks.append(process)
    return ranks


def together(folder: Path, function: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
    """What ``function(*args)`` returns on each rank."""
    ranks = begin(folder, function, *args, world_size=world_size)
    statuses = end(ranks)
    if any(statuses):
        raise AssertionError(f"{statuses}\n" + "\n".join(said(folder, rank) for rank in range(world_size)))
    return [torch.load(folder / f"result_{rank}", weights_only=False) for rank in range(world_size)]


def end(ranks: list[BaseProcess], timeout: float = 240) -> list[int]:
    """Exit statuses; whoever is still at work after so many seconds is killed, and the test fails."""
    for process in ranks:
        process.join(timeout)
    late = [process for process in ranks if process.exitcode is None]
    for process in late:
        process.kill()
    assert not late, f"{len(late)} ranks are still at work"
    return [process.exitcode or 0 for process in ranks]


def said(folder: Path, rank: int) -> str:
    """What a rank has printed."""
    return (folder / f"said_{rank}").read_text()


def _work(folder: str, rank: int, world_size: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.chdir(folder)
    said = os.open(f"said_{rank}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(said, stream.fileno())
    torch.set_num_threads(1)
    # As if each had been started by hand, for Lightning.
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(world_size))
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    try:
        result = function(*args)
        torch.save(result, f"result_{rank}")
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
