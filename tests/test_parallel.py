from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.optim import SGD

from supernet.bilevel import SupernetLoss
from supernet.callbacks import GenotypeExport
from supernet.curvature import dominant_eigenvalue
from supernet.data import RetrainData, SearchData
from supernet.errors import SupernetError
from supernet.module import SearchModule
from supernet.network import Supernet
from supernet.parallel import DataParallel, choose_strategy, launched, launched_defaults
from supernet.ranks import rank, world_size
from supernet.replay import Recorder
from supernet.retrain import RetrainModule
from supernet.space import CellSpace
from supernet.strategies import (
    DARTS,
    ENAS,
    GDAS,
    IDARTS,
    SDARTS,
    AlphaNet,
    LambdaDARTS,
    RandomSearch,
    SearchStrategy,
)
from tests.test_bilevel import TwoPaths
from tests.together import begin, end, said, together

ROOT = Path(__file__).resolve().parents[1]
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|nor_conv_1x1~0|skip_connect~1|nor_conv_1x1~2|"
LAUNCHERS = ["TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK", "LOCAL_RANK"]
SLURM = ["SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_JOB_NAME", "SLURM_PROCID"]


SEARCHES: dict[str, Callable[[], SearchStrategy]] = {
    "DARTS": DARTS,
    "second order": partial(DARTS, order="second"),
    "implicit": partial(IDARTS, num_terms=1),
    "adversarial": partial(SDARTS, "adversarial", steps=2),
    "aligned": LambdaDARTS,
    "policy": partial(ENAS, arch_steps_per_epoch=2, samples_per_step=3, num_samples=3, num_early_samples=3),
    "distilled": partial(AlphaNet, population=3, generations=2),
    "GDAS": partial(GDAS, top_k=3),
    "random": partial(RandomSearch, num_samples=3),
    "two paths": TwoPaths,
}
DEAR = ("second order", "implicit", "adversarial", "policy", "distilled")
"""What has one epoch only."""


def make_trainer(folder: str, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    fixed: dict[str, Any] = {"max_epochs": 2, "limit_train_batches": 3, "log_every_n_steps": 1, "accelerator": "cpu"}
    fixed |= {"enable_checkpointing": False, "num_sanity_val_steps": 0, "default_root_dir": folder}
    strategy = DataParallel() if world_size() > 1 else "auto"
    return Trainer(**{**quiet, **fixed, "devices": world_size(), "strategy": strategy, **options})


def watch(kind: type[LightningModule]) -> tuple[type[Any], dict[str, list[Any]]]:
    """A module that keeps the losses of each step and marks of the images that it saw."""
    seen: dict[str, list[Any]] = {"losses": [], "images": []}

    class Watched(kind):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Any, batch_idx: int) -> None:
            parts = batch.values() if isinstance(batch, dict) else [batch]
            seen["images"].append([[mark(image) for image in images] for images, _ in parts])
            super().training_step(batch, batch_idx)
            seen["losses"].append([running.loss for running in self.running.values()])

    return Watched, seen


def mark(image: Tensor) -> str:
    return hashlib.sha1(image.float().numpy().tobytes()).hexdigest()


def search(name: str, **options: Any) -> dict[str, Any]:
    kind, seen = watch(SearchModule)
    precision = options.pop("precision", "32-true")
    seed_everything(3)
    model = {"channels": 4, "num_cells": 1, "image_shape": (1, 8, 8), "arch_lr": 0.01, "score_images": 200}
    module = kind(SEARCHES[name](), **model, **options)
    data = SearchData(batch_size=32, eval_batch_size=181)
    # GDAS is not validated in its last epoch, so that its cell is derived outside of a validation.
    every = 2 if name == "GDAS" else 1
    epochs = 1 if name in DEAR else 1 + every
    trainer = make_trainer(
        name, precision=precision, callbacks=[GenotypeExport()], check_val_every_n_epoch=every, max_epochs=epochs
    )
    trainer.fit(module, datamodule=data)
    with torch.no_grad():
        images = data.prepare(data.sets["val"].images[:20]).to(module.dtype)
        module.supernet.synchronise(False)  # all ranks look at all of these
        logits = module.supernet(images, module.supernet.one_hot(module.genotype))
    return outcome(trainer, module, seen) | {"genotype": str(module.genotype), "logits": logits}


def retrain(name: str, **options: Any) -> dict[str, Any]:
    kind, seen = watch(RetrainModule)
    precision = options.pop("precision", "32-true")
    seed_everything(3)
    module = kind(CELL, channels=4, num_cells=1, image_shape=(1, 8, 8), **options)
    data = RetrainData(batch_size=64, eval_batch_size=181)
    trainer = make_trainer(name, precision=precision)
    trainer.fit(module, datamodule=data)
    found = outcome(trainer, module, seen)
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    with torch.no_grad():
        logits = module.eval()(data.prepare(data.sets["test"].images[:20]))
    return found | {"metrics": {**found["metrics"], **tested}, "logits": logits}


def outcome(trainer: Trainer, module: LightningModule, seen: dict[str, list[Any]]) -> dict[str, Any]:
    return {
        **seen,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "parameters": {name: value.detach().clone() for name, value in module.named_parameters()},
        "buffers": {name: value.detach().clone() for name, value in module.named_buffers()},
    }


RUNS: dict[str, tuple[Callable[..., dict[str, Any]], str, dict[str, Any]]] = {
    **{name: (search, name, {"precision": "64-true"}) for name in SEARCHES},
    "retrain": (retrain, "retrain", {"precision": "64-true"}),
    "DARTS in float32": (search, "DARTS", {}),
    "GDAS in float32": (search, "GDAS", {}),
    "each for itself": (search, "DARTS", {"sync_batchnorm": False}),
    "retrain, each for itself": (retrain, "retrain", {"sync_batchnorm": False}),
}


def everything() -> dict[str, dict[str, Any]]:
    return {name: run(argument, **options) for name, (run, argument, options) in RUNS.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    return together(tmp_path_factory.mktemp("two"), everything)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    (found,) = together(tmp_path_factory.mktemp("one"), everything, world_size=1)
    assert isinstance(found, dict)
    return found


SYNCHRONISED = [name for name in RUNS if "itself" not in name]


def close(found: Any, expected: Any, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in SYNCHRONISED if "float32" not in name])
def test_two_processes_equal_one_with_the_same_batches(one: Any, two: Any, name: str) -> None:
    # In float64: in float32 the last bits of a sum depend on its order, and sooner or later a ReLU tells apart what
    # differs in the last bit, with one process as with two.
    for found in (ranks[name] for ranks in two):
        for what in ("losses", "logits", "parameters", "buffers"):
            close(found[what], one[name][what], 1e-9)
        close(found["metrics"], one[name]["metrics"], 1e-6)  # Lightning keeps them in float32
        assert found.get("genotype") == one[name].get("genotype")


@pytest.mark.parametrize("name", [name for name in SYNCHRONISED if "float32" in name])
def test_the_losses_of_the_first_steps_are_the_same_in_float32(one: Any, two: Any, name: str) -> None:
    for found in (ranks[name] for ranks in two):
        close(found["losses"][:3], one[name]["losses"][:3], 1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_ranks_agree_bit_for_bit(two: Any, name: str) -> None:
    first, second = (ranks[name] for ranks in two)
    for what in ("losses", "parameters", "metrics"):
        close(second[what], first[what], 0)
    assert first.get("genotype") == second.get("genotype")
    if "itself" not in name:
        close(second["buffers"], first["buffers"], 0)
        close(second["logits"], first["logits"], 0)


def test_ranks_that_normalise_on_their_own_find_something_else(one: Any, two: Any) -> None:
    for name in ("each for itself", "retrain, each for itself"):
        difference = torch.tensor(two[0][name]["losses"]) - torch.tensor(one[name]["losses"])
        assert difference.abs().min() > 1e-4


@pytest.mark.parametrize("name", ["DARTS", "retrain"])
def test_ranks_have_disjoint_halves_of_each_batch_of_one_process(one: Any, two: Any, name: str) -> None:
    whole = one[name]["images"]
    assert len(whole) == 6
    for step, parts in enumerate(zip(*(ranks[name]["images"] for ranks in two), strict=True)):
        for first, second, both in zip(*parts, whole[step], strict=True):
            assert first + second == both
            assert len(first) == len(second) > 0


def curvature() -> float:
    """By a rank that has its part of a batch."""
    torch.manual_seed(0)
    network = Supernet(CellSpace(3, ("skip_connect", "nor_conv_3x3")), 2, 1, 4, image_channels=1).double()
    network.synchronise(True)
    search = DARTS()
    search.bind(network.space, 0)
    search.double()
    images, labels = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    part = slice(rank() * 6 // world_size(), (rank() + 1) * 6 // world_size())
    loss = SupernetLoss(network, SGD(network.parameters(), 0.1), Recorder(torch.device("cpu")))
    return dominant_eigenvalue(search, loss, (images[part], labels[part]))


def test_two_processes_with_halves_of_a_batch_find_the_curvature_of_the_whole(tmp_path: Path) -> None:
    expected = curvature()
    assert abs(expected) > 1e-3
    assert together(tmp_path, curvature) == [pytest.approx(expected, rel=1e-9)] * 2


def fail(rank_that_fails: int, how: str) -> None:
    class Failing(SearchModule):
        steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> None:
            super().training_step(batch, batch_idx)
            self.steps += 1
            if self.steps == 2 and rank() == rank_that_fails:
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise RuntimeError("out of memory")

    seed_everything(0)
    module = Failing(GDAS(), 4, 1, image_shape=(1, 8, 8))
    make_trainer("failing", max_epochs=1000, limit_train_batches=1.0).fit(module, datamodule=SearchData())


@pytest.mark.parametrize("how", ["killed", "an exception"])
@pytest.mark.parametrize("which", [0, 1])
def test_when_one_rank_dies_the_others_end_with_an_error_in_under_a_minute(
    tmp_path: Path, which: int, how: str
) -> None:
    ranks = begin(tmp_path, fail, which, how)
    ranks[which].join(120)
    died = time.monotonic()
    statuses = end(ranks, 60)
    assert time.monotonic() - died < 60
    assert statuses[which] == (-signal.SIGKILL if how == "killed" else 1)
    assert statuses[1 - which] == 1
    assert f"rank {1 - which} lost another rank, or waited for it in vain" in said(tmp_path, 1 - which)


def refuse() -> list[str]:
    """What is said of trainings that cannot be."""
    sentences = []
    for options, batch_size, seed in (
        ({"strategy": "ddp"}, 64, 0),
        ({}, 63, 0),
        ({}, 64, rank()),
        ({"sync_batchnorm": True}, 64, 0),
    ):
        seed_everything(seed)
        module = SearchModule(RandomSearch(), 2, 1, image_shape=(1, 8, 8))
        with pytest.raises(SupernetError) as error:
            make_trainer("refused", **options).fit(module, datamodule=SearchData(batch_size=batch_size))
        sentences.append(str(error.value))
    return sentences


def test_what_cannot_be_done_by_two_is_refused_by_both_in_a_sentence(tmp_path: Path) -> None:
    for sentences in together(tmp_path, refuse):
        assert re.search("2 devices need the strategy supernet.parallel.DataParallel, got DDPStrategy", sentences[0])
        assert re.search("batch_size 63 is no multiple of the 2 devices; pass --data.batch_size", sentences[1])
        assert re.search("the processes began with different seeds; call seed_everything", sentences[2])
        assert re.search("sync_batchnorm does not know search cells; pass --model.sync_batchnorm", sentences[3])


def launch_by(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in (*LAUNCHERS, *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_launchers_set_the_number_of_devices_and_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    launch_by(monkeypatch)
    assert launched() is None
    assert launched_defaults() == {"devices": 1, "num_nodes": 1}
    launch_by(monkeypatch, TORCHELASTIC_RUN_ID="7", LOCAL_WORLD_SIZE="4", WORLD_SIZE="8", RANK="5")
    assert launched_defaults() == {"devices": 4, "num_nodes": 2}
    slurm = {"SLURM_JOB_NAME": "search", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3"}
    launch_by(monkeypatch, **slurm)
    assert launched_defaults() == {"devices": 2, "num_nodes": 3}
    launch_by(monkeypatch, SLURM_JOB_NAME="search")  # inside sbatch, and not under srun
    assert launched() is None
    launch_by(monkeypatch, **{**slurm, "SLURM_JOB_NAME": "bash"})  # an interactive shell
    assert launched() is None


def test_several_devices_get_this_strategy_and_one_device_none(monkeypatch: pytest.MonkeyPatch) -> None:
    launch_by(monkeypatch)
    for devices in (2, "2", "auto", -1, "0,1", [0, 1]):
        assert isinstance(choose_strategy(devices, 1, "auto"), DataParallel)
    for devices in (1, "1", [0]):
        assert choose_strategy(devices, 1, "auto") == "auto"
    assert isinstance(choose_strategy(1, 1, "ddp"), DataParallel)
    with pytest.raises(SupernetError, match=r"several devices need --trainer\.strategy auto, got ddp_spawn"):
        choose_strategy(2, 1, "ddp_spawn")
    with pytest.raises(SupernetError, match="2 nodes need a launcher that starts a process for each device: torchrun"):
        choose_strategy(1, 2, "auto")


def start(folder: Path, by: str, *args: str) -> subprocess.Popen[str]:
    """A search in processes that a launcher starts; each leaves the number of its process."""
    script = folder / "train_here.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom supernet.cli import search\n"
        "from supernet.module import SearchModule\n\nstep = SearchModule.training_step\n\n\n"
        "def training_step(self, *args):\n    step(self, *args)\n"
        '    Path(f"at_work_{self.global_rank}").write_text(str(os.getpid()))\n\n\n'
        "SearchModule.training_step = training_step\n"
        f"sys.exit(search(sys.argv[1:], Path({str(ROOT / 'configs' / 'quickstart.yaml')!r})))\n"
    )
    small = ["--model.channels", "2", "--model.num_cells", "1", "--trainer.accelerator", "cpu"]
    launcher = [sys.executable] if by == "lightning" else [*TORCHRUN, "--nproc-per-node", "2"]
    devices = ["--trainer.devices", "2"] if by == "lightning" else []
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    return subprocess.Popen(
        [*launcher, str(script), *small, *devices, *args],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def at_work(folder: Path, process: subprocess.Popen[str]) -> list[int]:
    """The numbers of both processes, once they are at work."""
    paths = [folder / f"at_work_{rank}" for rank in range(2)]
    while not all(path.exists() and path.read_text() for path in paths):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return [int(path.read_text()) for path in paths]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("by", ["lightning", pytest.param("torchrun", marks=pytest.mark.long)])
def test_a_search_on_two_devices_leaves_one_run_and_one_report(tmp_path: Path, by: str) -> None:
    process = start(tmp_path, by, "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("epoch 1/2") == out.count("Derived cell") == out.count("TensorBoard") == 1
    assert "error" not in err
    (folder,) = (tmp_path / "logs").glob("*/*")
    names = {path.name.partition(".tfevents")[0] for path in folder.rglob("*") if path.is_file()}
    assert names >= {"config.yaml", "genotype.json", "last.ckpt", "events.out"}
    assert len(list(folder.rglob("*tfevents*"))) == 1
    assert json.loads((folder / "genotype.json").read_text())["provenance"]["epoch"] == 1


@pytest.mark.long
@pytest.mark.parametrize("who", [0, 1, "launcher"])
@pytest.mark.parametrize("by", ["lightning", "torchrun"])
def test_nobody_outlives_a_killed_process(tmp_path: Path, by: str, who: int | str) -> None:
    process = start(tmp_path, by, "--trainer.max_epochs", "5000", "--trainer.check_val_every_n_epoch", "5000")
    pids = at_work(tmp_path, process)
    killed = time.monotonic()
    os.kill(process.pid if isinstance(who, str) else pids[who], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() - killed < 60
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.parametrize("by", ["lightning", "torchrun"])
def test_a_stopped_search_goes_on_and_ends_as_one_that_was_not(tmp_path: Path, by: str) -> None:
    args = ("--trainer.max_epochs", "12", "--trainer.check_val_every_n_epoch", "12")
    found = []
    for stop in (False, True):
        folder = tmp_path / str(stop)
        folder.mkdir()
        process = start(folder, by, *args)
        if stop:
            at_work(folder, process)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=120)
            assert process.returncode == (143 if by == "lightning" else 1)
            assert err.count("stopped by SIGTERM; its state is") == 1
            process = start(folder, by, *args, "--resume")
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert out.count("going on with") == stop
        (path,) = folder.glob("logs/*/version_0/checkpoints/last.ckpt")
        assert len(list(path.parents[2].iterdir())) == 1
        found.append(torch.load(path, weights_only=True)["state_dict"])
    for name, value in found[0].items():
        if isinstance(value, Tensor):
            assert value.equal(found[1][name]), name
