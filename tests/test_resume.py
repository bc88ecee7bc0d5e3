"""A run that was interrupted and resumed is the run that was not: bit by bit, in real processes."""

from __future__ import annotations

import functools
import inspect
import json
import os
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

import supernet.strategies
from supernet.cli import runs
from supernet.cli.parser import STRATEGIES
from tests.processes import INTERRUPT, KILL, QUICK_START, TERMINATE, USER, Ended, Fault, finish, run, start

SMALL = [
    *("--model.channels", "2", "--model.num_cells", "1"),
    *("--trainer.limit_train_batches", "4", "--trainer.log_every_n_steps", "1"),
]
SEARCH = [*SMALL, "--trainer.max_epochs", "3", "--model.score_images", "64", "--data.eval_batch_size", "64"]
RETRAIN = [*SMALL, "--genotype", "6111", "--trainer.max_epochs", "3", "--data.batch_size", "64"]
TIMES = ("seconds", "images_per_second")


def of_strategy(name: str) -> list[str]:
    """A search with this strategy, cheaply derived."""
    options = ["--model.search", name]
    few = ("top_k", "num_samples", "num_early_samples", "population", "generations", "arch_steps_per_epoch")
    for option in inspect.signature(getattr(supernet.strategies, name)).parameters:
        if option in few:
            options += [f"--model.search.{option}", "3"]
    return [*SEARCH, *options]


def interrupted(folder: Path, command: str, args: list[str], *faults: Fault) -> Ended:
    """Run it through these faults to its end, each time by the same command with ``--resume``."""
    folder.mkdir()
    for fault in faults:
        ended = run(folder, command, [*args, "--resume"], fault)
        assert ended.status == (-fault.signal if fault.signal == KILL else 128 + fault.signal), ended
    ended = run(folder, command, [*args, "--resume"])
    assert (ended.status, ended.err) == (0, ""), ended
    return ended


@functools.cache
def whole(command: str, *args: str) -> Path:
    """Where this command ran without any fault; once, however many tests compare with it."""
    folder = Path(tempfile.mkdtemp(dir=ALL_WHOLE.name))
    ended = run(folder, command, args)
    assert (ended.status, ended.err) == (0, ""), ended
    return folder


ALL_WHOLE = tempfile.TemporaryDirectory()


def last(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("logs/*/version_0/checkpoints/last.ckpt")
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Paths at which two checkpoints differ in any bit; times left out."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = (
            one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
        )
        return [] if same else [where]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in {**one, **other} if key not in TIMES]
        missing = object()
        return [
            d for key in keys for d in differences(one.get(key, missing), other.get(key, missing), f"{where}/{key}")
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for number, (a, b) in pairs for d in differences(a, b, f"{where}/{number}")]
    return [] if one == other or (one != one and other != other) else [f"{where}: {one} {other}"]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    (logs,) = folder.glob("logs/*/version_0")
    events = EventAccumulator(str(logs), size_guidance={"scalars": 0}).Reload()
    names = [name for name in events.Tags()["scalars"] if name not in TIMES]
    return {name: sorted({(event.step, event.value) for event in events.Scalars(name)}) for name in names}


def assert_same_run(one: Path, other: Path) -> None:
    assert differences(last(one), last(other)) == []
    assert curves(one) == curves(other)
    for folder in (one, other):
        assert not [*folder.glob("logs/*/version_1")]
        assert not [path for path in folder.rglob(".*.*") if path.name != ".lock"]  # nothing is left lying about


AT_THE_LAST_BATCH = ("DARTS", "ENAS", "RandomSearch")
"""An architecture that steps with the network, one that steps after an epoch, and none."""


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_goes_on_bit_by_bit(tmp_path: Path, name: str) -> None:
    # Four batches an epoch: the first process dies in the second epoch and leaves the first; the next one is asked to
    # stop in the middle of the epoch, and for some the next one at its last batch, before the validation.
    args = of_strategy(name)
    faults = [Fault(KILL, 6), Fault(TERMINATE, 2), Fault(TERMINATE, 2)]
    ended = interrupted(tmp_path / "broken", "search", args, *faults[: 3 if name in AT_THE_LAST_BATCH else 2])
    assert "going on with" in ended.out
    assert_same_run(whole("search", *args), tmp_path / "broken")
    folders = whole("search", *args), tmp_path / "broken"
    kept = [next(folder.glob("logs/*/version_0/genotype.json")) for folder in folders]
    assert json.loads(kept[0].read_text()) == json.loads(kept[1].read_text())


@pytest.mark.parametrize("deterministic", [[], ["--trainer.deterministic", "true"]], ids=["plain", "deterministic"])
def test_the_same_command_computes_the_same_in_every_bit(tmp_path: Path, deterministic: list[str]) -> None:
    args = [*of_strategy("DARTS"), "--trainer.max_epochs", "2", *deterministic]
    assert run(tmp_path, "search", args).status == 0
    assert_same_run(whole("search", *args), tmp_path)


def test_a_run_killed_at_random_steps_between_many_saves_is_the_same_run(tmp_path: Path) -> None:
    args, rng = of_strategy("GDAS"), random.Random(0)
    faults = [Fault(KILL, rng.randint(1, 4), minutes=0) for _ in range(4)]
    interrupted(tmp_path / "broken", "search", args, *faults)
    assert_same_run(whole("search", *args), tmp_path / "broken")


def test_a_run_killed_while_it_writes_a_file_is_the_same_run(tmp_path: Path) -> None:
    # The files are written in this order: configuration, then cell and checkpoint of each epoch.
    args = of_strategy("GDAS")
    faults = [Fault(KILL, at, "write") for at in (5, 2, 3, 5)]
    interrupted(tmp_path / "broken", "search", args, *faults)
    assert_same_run(whole("search", *args), tmp_path / "broken")


@pytest.mark.parametrize("of", ["validation_step", "score"])
def test_a_validation_that_is_cut_short_is_done_again(tmp_path: Path, of: str) -> None:
    args = of_strategy("RandomSearch")
    faults = Fault(TERMINATE, 2, of, and_again=True), Fault(INTERRUPT, 1, of)
    ended = interrupted(tmp_path / "broken", "search", args, *faults)
    assert "after the steps of epoch" in ended.out
    assert_same_run(whole("search", *args), tmp_path / "broken")


def test_a_file_that_may_not_grow_ends_a_run_with_the_last_state_kept(tmp_path: Path) -> None:
    # A checkpoint has about 105 kB; what TensorBoard reads passes 120 kB in the second epoch.
    args, broken = of_strategy("GDAS"), tmp_path / "broken"
    broken.mkdir()
    ended = run(broken, "search", args, Fault(0, 120_000, "byte"))
    assert ended.status == 2
    assert re.search(r"^error: the disk is full .* with --resume; it goes on from .*\n\Z", ended.err), ended.err
    assert run(broken, "search", [*args, "--resume"]).status == 0
    assert differences(last(whole("search", *args)), last(broken)) == []


def test_callbacks_of_ones_own_and_sparse_validation_go_on_too(tmp_path: Path) -> None:
    # Validation every second epoch, early stopping, a checkpoint callback that writes the same file, and a signal while
    # callbacks are told of a validation: they must not be told twice.
    callbacks = """
trainer:
  callbacks:
    - class_path: pytorch_lightning.callbacks.EarlyStopping
      init_args: {monitor: val/loss, patience: 2, min_delta: 9, check_on_train_epoch_end: false}
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {save_last: true, every_n_epochs: 1, save_top_k: 0}
"""
    (tmp_path / "own.yaml").write_text(callbacks)
    sparse = ["--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "9"]
    config = ["--config", str(QUICK_START), "--config", str(tmp_path / "own.yaml")]
    args = [*config, *of_strategy("GDAS"), *sparse]
    faults = Fault(TERMINATE, 1, "on_validation_end"), Fault(KILL, 2), Fault(TERMINATE, 3)
    interrupted(tmp_path / "broken", "search", args, *faults)
    assert_same_run(whole("search", *args), tmp_path / "broken")
    assert last(tmp_path / "broken")["epoch"] == 5  # three validations: the first, and two that are not better
    again = run(tmp_path / "broken", "search", [*args, "--resume"])
    assert again.status == 0
    assert "epoch 7/9" not in again.out  # what was ended early stays ended
    assert_same_run(whole("search", *args), tmp_path / "broken")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_ends_a_run_with_one_sentence_and_the_last_state_kept(tiny_disk: Path) -> None:
    # The folder where output goes lies elsewhere.
    args = [*of_strategy("GDAS"), "--trainer.max_epochs", "30", "--trainer.default_root_dir", str(tiny_disk)]
    ended = run(tiny_disk.parent, "search", args)
    assert ended.status == 2
    assert re.search(r"^error: .*No space left on device.* with --resume.*\n\Z", ended.err), ended.err
    (path,) = tiny_disk.rglob("last.ckpt")
    kept = torch.load(path, weights_only=True)
    assert kept["epoch"] >= 1
    assert not [path for path in tiny_disk.rglob(".*.*") if path.name != ".lock"]
    ended = run(tiny_disk.parent, "search", [*args, "--resume"])  # as full as before
    assert ended.status == 2
    assert torch.load(path, weights_only=True)["epoch"] == kept["epoch"]


SLURM = {
    **{f"SLURM_{name}": "1" for name in ("NTASKS", "NTASKS_PER_NODE", "NNODES")},
    **{f"SLURM_{name}": "0" for name in ("NODEID", "PROCID", "LOCALID")},
    "SLURM_JOB_NAME": "search",
    "SLURM_JOB_ID": "4711",
}


def test_the_signal_of_slurm_saves_requeues_and_goes_on(tmp_path: Path) -> None:
    args, broken, bin = of_strategy("GDAS"), tmp_path / "broken", tmp_path / "bin"
    bin.mkdir()
    broken.mkdir()
    (bin / "scontrol").write_text('#!/bin/sh\necho "$@" > asked\n')  # SLURM itself is not here
    (bin / "scontrol").chmod(0o755)
    slurm = {**SLURM, "PATH": f"{bin}:{os.environ['PATH']}"}
    ended = run(broken, "search", [*args, "--resume"], Fault(USER, 6), environment=slurm)
    assert ended.status == 128 + USER
    assert "stopped by SIGUSR1" in ended.err
    assert (broken / "asked").read_text() == "requeue 4711\n"
    ended = run(broken, "search", [*args, "--resume"], environment=slurm)
    assert "after step 2 of epoch 2" in ended.out
    assert ended.status == 0
    assert_same_run(whole("search", *args), broken)


def test_a_run_that_has_ended_tells_its_end_again(tmp_path: Path) -> None:
    args = of_strategy("GDAS")
    first, again = (run(tmp_path, "search", [*args, *more]) for more in ([], ["--resume"]))
    assert (again.status, again.err) == (0, "")
    assert again.out.splitlines()[0] == "going on with logs/gdas_digits/version_0 after epoch 3"
    assert again.out[again.out.index("Derived cell") :] == first.out[first.out.index("Derived cell") :]


def test_another_command_begins_a_run_of_its_own_and_says_why(tmp_path: Path) -> None:
    args = [*of_strategy("GDAS"), "--trainer.max_epochs", "1"]
    run(tmp_path, "search", args)
    other = run(tmp_path, "search", [*args, "--model.channels", "3", "--resume"])
    assert other.status == 0
    assert "in logs/gdas_digits/version_0 --model.channels was 2, now it is 3; this is a new run" in other.out
    back = run(tmp_path, "search", [*args, "--resume", "--trainer.enable_progress_bar", "false"])
    assert "going on with logs/gdas_digits/version_0 after epoch 1" in back.out


def test_two_processes_do_not_go_on_with_the_same_run(tmp_path: Path) -> None:
    args = of_strategy("GDAS")
    run(tmp_path, "search", args, Fault(KILL, 6))
    folder = tmp_path / "logs" / "gdas_digits" / "version_0"
    held = runs.lock(folder)
    assert held is not None
    ended = run(tmp_path, "search", [*args, "--resume"])
    assert ended.status == 2
    assert "another process is at work on logs/gdas_digits/version_0; wait for its end" in ended.err
    os.close(held)
    assert run(tmp_path, "search", [*args, "--resume"]).status == 0


def test_processes_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    args = [*of_strategy("GDAS"), "--trainer.max_epochs", "1"]
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "logs").symlink_to(tmp_path, target_is_directory=True)
    started = [start(tmp_path / str(number), "search", args) for number in range(3)]
    ended = [finish(process, tmp_path / str(number)) for number, process in enumerate(started)]
    assert [end.status for end in ended] == [0, 0, 0]
    assert len([*tmp_path.glob("gdas_digits/version_*/genotype.json")]) == 3


def test_a_final_training_goes_on_bit_by_bit(tmp_path: Path) -> None:
    interrupted(tmp_path / "broken", "derive", RETRAIN, Fault(KILL, 6), Fault(TERMINATE, 2), Fault(TERMINATE, 2))
    assert_same_run(whole("derive", *RETRAIN), tmp_path / "broken")
    results = []
    for folder in (whole("derive", *RETRAIN), tmp_path / "broken"):
        (path,) = folder.glob("logs/*/version_0/result.json")
        results.append({name: value for name, value in json.loads(path.read_text()).items() if name != "seconds"})
    assert results[0] == results[1]
