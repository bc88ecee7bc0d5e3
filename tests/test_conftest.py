"""Who gets workers: the whole suite, and nobody else. A worker that started workers would never end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import MOST_WORKERS, num_processors, pytest_cmdline_main

SOURCE = pytest.Config.ArgsSource


def configured(source: Any = SOURCE.TESTPATHS, xdist: bool = True, worker: bool = False, **options: Any) -> Any:
    defaults = {"usepdb": False, "collectonly": False, "capture": "fd", "dist": "no", "numprocesses": None}
    manager = SimpleNamespace(hasplugin=lambda name: xdist and name == "xdist")
    config = SimpleNamespace(args_source=source, pluginmanager=manager, option=SimpleNamespace(**defaults | options))
    if worker:
        config.workerinput = {}
    pytest_cmdline_main(config)  # type: ignore[arg-type]
    return config.option


def test_the_whole_suite_is_shared_out_by_files() -> None:
    option = configured()
    assert option.numprocesses == min(num_processors(), MOST_WORKERS) >= 1
    assert option.dist == "loadfile"
    assert configured(dist="worksteal").dist == "worksteal"


@pytest.mark.parametrize(
    "case",
    [
        {"worker": True}, {"xdist": False}, {"source": SOURCE.ARGS}, {"usepdb": True}, {"collectonly": True},
        {"capture": "no"},
    ],
)  # fmt: skip
def test_nobody_else_gets_workers(case: Any) -> None:
    option = configured(**case)
    assert (option.numprocesses, option.dist) == (None, "no")


def test_what_the_command_line_says_counts() -> None:
    assert configured(numprocesses=0).numprocesses == 0
    assert configured(numprocesses=3).numprocesses == 3
