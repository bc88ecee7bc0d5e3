"""Commands in processes of their own, which can be killed.

They are forked from a server that has imported everything once and computed nothing yet.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from supernet import keep
from supernet.cli import derive, search
from supernet.module import SearchModule
from supernet.retrain import RetrainModule

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.processes"])
QUICK_START = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"


class Fault(NamedTuple):
    """What happens to a process."""

    signal: int
    at: int
    """At which call, counted in this process from 1."""
    of: str = "training_step"
    """Of what: a method of the modules, which has done its work when it happens; or "write", half done; or "byte", of
    any file, at which the file system refuses to write more."""
    minutes: float = 10.0
    """Between two saves in an epoch."""
    and_again: bool = False
    """The same signal once more, while the state is saved."""


class Ended(NamedTuple):
    status: int
    """Negative: the signal that killed it."""
    out: str
    err: str


def start(
    folder: Path, command: str, args: Sequence[str], fault: Fault | None = None, environment: Mapping[str, str] = {}
) -> BaseProcess:
    """A command ("search" or "derive") at work in a folder, with variables of the environment."""
    process = _SERVER.Process(target=_work, args=(str(folder), command, list(args), fault, dict(environment)))
    process.start()
    return process


def finish(process: BaseProcess, folder: Path, timeout: float = 120) -> Ended:
    """Wait for its end."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still at work after {timeout} s: {(folder / 'err').read_text()}")
    return Ended(process.exitcode, (folder / "out").read_text(), (folder / "err").read_text())


def run(
    folder: Path, command: str, args: Sequence[str], fault: Fault | None = None, environment: Mapping[str, str] = {}
) -> Ended:
    """A command, from its start to its end."""
    return finish(start(folder, command, args, fault, environment), folder)


def _work(folder: str, command: str, args: list[str], fault: Fault | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        os.dup2(os.open(name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), stream.fileno())
    torch.set_num_threads(1)
    if fault is not None:
        _hit(fault)
    status = search(args, QUICK_START) if command == "search" else derive(args)
    sys.stdout.flush()
    os._exit(status)


def _hit(fault: Fault) -> None:
    """Send this process a signal in the middle of its work."""
    keep.LastCheckpoint.__init__.__defaults__ = (fault.minutes, None)
    calls = itertools.count(1)

    def hit(method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            result = method(*args)
            if next(calls) == fault.at:
                if fault.and_again:
                    setattr(os, "fsync", again)  # noqa: B010  another type
                os.kill(os.getpid(), fault.signal)
            return result

        return wrapped

    def again(handle: Any) -> None:
        os.kill(os.getpid(), fault.signal)

    def fsync(handle: Any) -> None:
        if next(calls) == fault.at:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), fault.signal)

    if fault.of == "byte":
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.at, fault.at))
        return
    if fault.of == "write":
        setattr(os, "fsync", fsync)  # noqa: B010  another type
        return
    for module in (SearchModule, RetrainModule):
        setattr(module, fault.of, hit(getattr(module, fault.of, print)))


INTERRUPT, KILL, TERMINATE, USER = signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1
