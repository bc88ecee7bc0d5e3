from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from torch import Tensor

from supernet.callbacks import GenotypeExport
from supernet.data import RetrainData, SearchData
from supernet.errors import SupernetError
from supernet.module import SearchModule
from supernet.parallel import DataParallel, choose_strategy, launched, launched_defaults
from supernet.ranks import rank, world_size
from supernet.retrain import RetrainModule
from supernet.strategies import DARTS, GDAS, Batch, Loss, RandomSearch, SearchStrategy
from tests.together import begin, end, said, together

ROOT = Path(__file__).resolve().parents[1]
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|nor_conv_1x1~0|skip_connect~1|nor_conv_1x1~2|"
LAUNCHERS = ["TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK", "LOCAL_RANK"]
SLURM = ["SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_JOB_NAME", "SLURM_PROCID"]


class TwoPaths(DARTS):
    """Several mixtures in a step, and an architecture loss of several terms on both batches."""

    def paths(self) -> Iterator[Tensor]:
        yield self()
        yield self().flip(1)

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        return loss(self(), val) + 0.5 * loss(2 * self(), train) - 0.1 * self().log().sum()


SEARCHES: dict[str, Callable[[], SearchStrategy]] = {
    "DARTS": DARTS,
    "GDAS": partial(GDAS, top_k=3),
    "random": partial(RandomSearch, num_samples=3),
    "two paths": TwoPaths,
}


def make_trainer(folder: str, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    fixed: dict[str, Any] = {"max_epochs": 2, "limit_train_batches": 4, "log_every_n_steps": 1, "accelerator": "cpu"}
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
    model = {"channels": 4, "num_cells": 1, "image_shape": (1, 8, 8), "arch_lr": 0.01, "score_images": 300}
    module = kind(SEARCHES[name](), **model, **options)
    data = SearchData(batch_size=32, eval_batch_size=101)
    # Validated after one epoch only: in the last one the cell is derived on its own.
    callbacks = [GenotypeExport()]
    trainer = make_trainer(
        name, precision=precision, callbacks=callbacks, check_val_every_n_epoch=1 + (name == "GDAS"), max_epochs=3
    )
    trainer.fit(module, datamodule=data)
    return outcome(trainer, module, seen) | {"genotype": str(module.genotype), "mixture": module.search().detach()}


def retrain(name: str, **options: Any) -> dict[str, Any]:
    kind, seen = watch(RetrainModule)
    precision = options.pop("precision", "32-true")
    seed_everything(3)
    module = kind(CELL, channels=4, num_cells=1, image_shape=(1, 8, 8), **options)
    data: LightningDataModule = RetrainData(batch_size=64, eval_batch_size=101)
    trainer = make_trainer(name, precision=precision)
    trainer.fit(module, datamodule=data)
    found = outcome(trainer, module, seen)
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    return found | {"tested": tested}


def outcome(trainer: Trainer, module: LightningModule, seen: dict[str, list[Any]]) -> dict[str, Any]:
    return {
        **seen,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "parameters": {name: value.detach().clone() for name, value in module.named_parameters()},
        "buffers": {name: value.detach().clone() for name, value in module.named_buffers()},
    }


RUNS: dict[str, tuple[Callable[..., dict[str, Any]], str, dict[str, Any]]] = {
    **{name: (search, name, {"precision": "64-true"}) for name in SEARCHES},
    **{f"{name} in float32": (search, name, {}) for name in SEARCHES},
    "retrain": (retrain, "retrain", {"precision": "64-true"}),
    "retrain in float32": (retrain, "retrain", {}),
    "each for itself": (search, "GDAS", {"sync_batchnorm": False}),
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


@pytest.mark.parametrize("name", SYNCHRONISED)
def test_two_processes_equal_one_with_the_same_batches(one: Any, two: Any, name: str) -> None:
    expected = one[name]
    for found in (ranks[name] for ranks in two):
        print(
            name,
            max(abs(a - b) for x, y in zip(found["losses"], expected["losses"]) for a, b in zip(x, y)),
            max(float((value - expected["parameters"][key]).abs().max()) for key, value in found["parameters"].items()),
            {key: abs(value - expected["metrics"][key]) for key, value in found["metrics"].items()},
        )
        assert found["losses"] == [pytest.approx(losses, rel=0, abs=1e-6) for losses in expected["losses"]]
