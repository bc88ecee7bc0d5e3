"""Runs that take minutes: ``pytest -m long``."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.processes import finish, start
from tests.test_resume import of_strategy

pytestmark = pytest.mark.long


def resident_mb(pid: int) -> float:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_two_thousand_epochs_need_what_one_thousand_need(tmp_path: Path) -> None:
    # One batch and one validation batch an epoch: what grows from epoch to epoch grows fast.
    one = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    process = start(tmp_path, "search", [*of_strategy("GDAS"), *one, "--trainer.max_epochs", "2000"])
    assert process.pid is not None
    rows: dict[int, tuple[float, int, float, float]] = {}
    while process.is_alive():
        time.sleep(0.2)
        epoch = (tmp_path / "out").read_text().count("epoch ") if (tmp_path / "out").is_file() else 0
        due = epoch // 100 * 100
        if due and due not in rows and process.is_alive():
            logs = [path.stat().st_size for path in tmp_path.rglob("events*")]
            (checkpoint,) = tmp_path.rglob("last.ckpt")
            files = len(os.listdir(f"/proc/{process.pid}/fd"))
            rows[due] = resident_mb(process.pid), files, sum(logs) / 1e6, checkpoint.stat().st_size / 1e3
    assert finish(process, tmp_path).status == 0
    print("epochs, resident MB, open files, TensorBoard MB, checkpoint kB")
    for epoch, row in rows.items():
        print(epoch, *(round(value, 2) for value in row))
    # Libraries fill their caches in the first hundreds of epochs.
    early, late = rows[1000], rows[max(rows)]
    assert late[0] < early[0] + 15
    assert late[1] == early[1]
    assert late[2] < 15  # scalars of every epoch, pictures of some
    assert late[3] < early[3] + 50
