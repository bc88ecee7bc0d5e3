from __future__ import annotations

import os

import pytest
import torch

# The tensors of the tests are too small to share among threads, and one thread adds in one order.
torch.set_num_threads(1)

MOST_WORKERS = 8
"""Each imports everything, and gets whole files; more of them would wait for the longest one."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Share the files of the whole suite out among the processors; what is named runs here, without a delay."""
    if hasattr(config, "workerinput"):  # a worker runs this, too: it would start workers of its own, and so would they
        return
    option = config.option
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    watched = option.usepdb or option.collectonly or option.capture == "no"
    if named or watched or not config.pluginmanager.hasplugin("xdist") or option.numprocesses is not None:
        return
    option.numprocesses = min(num_processors(), MOST_WORKERS)
    if option.dist == "no":
        option.dist = "loadfile"  # the tests of a file share what was computed once


def num_processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
