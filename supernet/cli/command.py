"""Running a command: quiet libraries, mistakes without tracebacks, a way out when it is stopped."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lightning_fabric.utilities.exceptions import MisconfigurationException

from supernet.errors import SupernetError, run
from supernet.parallel import is_first


def requeue() -> None:
    """Put the job of this process back into SLURM's queue, if it is one."""
    names = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")  # one task of an array may have the number of the array
    array = "_".join(os.environ[name] for name in names if name in os.environ)
    if job := array or os.environ.get("SLURM_JOB_ID"):
        try:
            subprocess.run(["scontrol", "requeue", job], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"could not requeue job {job} ({error}); submit it again", file=sys.stderr)


class Interrupted(KeyboardInterrupt):
    """A run was stopped from outside; its arguments are the checkpoint it left, or None, and the signal."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep Lightning's tips to itself, and warnings about things that are meant to be as they are."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    said, threading.excepthook = threading.excepthook, _say_unless_said_again
    with warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            threading.excepthook = said


def _say_unless_said_again(args: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread hands what stopped it on to the next one who logs, who says it in one sentence."""
    if type(args.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(args)


def command(main: Callable[[Sequence[str]], None], args: Sequence[str]) -> int:
    """Run a command; a mistake of the user becomes one sentence.

    Args:
        main: the command.
        args: its command line.

    Returns:
        Exit status: 0; 2 for a mistake of the user; 128 and the number of the signal for a run that was stopped.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)  # a strategy in a file beside the user is importable
    try:
        return run(partial(_run, main), args)
    finally:
        sys.path.remove(here)


def _run(main: Callable[[Sequence[str]], None], args: Sequence[str]) -> int:
    """What `run` does not know: the libraries of a training."""
    try:
        with quiet_libraries():
            main(args)
    except MisconfigurationException as error:
        raise SupernetError(str(error)) from error
    except Interrupted as stop:
        path, number = stop.args
        if not is_first():  # rank 0 speaks for all; Lightning kills it when another ends with an error
            return 0
        saved = f"its state is {path}: the same command with --resume goes on" if path else "nothing was saved yet"
        print(f"stopped by {signal.Signals(number).name}; {saved}", file=sys.stderr)
        return 128 + int(number)
    return 0


_KNOWN_WARNINGS = (
    ".*does not have many workers.*",  # the images are in memory: workers would only copy them
    ".*is an instance of `nn.Module` and is already saved.*",  # the strategy, saved as text by the command line
    ".*smaller than the logging interval.*",  # the last batch of an epoch is always looked at
    ".*no pre-optimization state was saved.*",  # a run goes on from the state after a step
    ".*lr_scheduler.step.*before.*",  # the steps were taken before the run was interrupted
    ".*sync_dist=True.*",  # what is logged was added up over all devices before
    ".*LeafSpec.*",  # Lightning 2.6 with torch 2.12 and newer
)
"""Warnings of libraries about things that are meant to be as they are."""
