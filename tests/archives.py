"""Archives in the layout of NATS-Bench and NAS-Bench-201, with made-up figures, for tests."""

from __future__ import annotations

import bz2
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from supernet.genotype import Genotype

SETS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}
SEEDS = {12: (111, 777), 200: (777, 888, 999)}


def training(rng: random.Random, dataset: str, seed: int, epochs: int) -> dict[str, Any]:
    """The results of one training; some of its numbers are numpy's."""
    numpys: Any = (float, np.float64, np.float32)
    keys = [f"{name}@{epoch}" for name in SETS[dataset] for epoch in range(epochs)]
    return {
        "name": dataset, "net_state_dict": None, "seed": seed, "epochs": epochs, "latency": [0.01, 0.02],
        "params": 1.073306, "flop": 153.27, "train_acc5es": None, "eval_names": list(SETS[dataset]),
        "arch_config": {"channel": 16, "num_cells": 5, "class_num": 10},
        "train_acc1es": {epoch: rng.uniform(0, 100) for epoch in range(epochs)},
        "train_losses": {epoch: rng.uniform(0, 3) for epoch in range(epochs)},
        "train_times": OrderedDict((epoch, rng.choice(numpys)(rng.uniform(5, 40))) for epoch in range(epochs)),
        "eval_acc1es": {key: rng.choice(numpys)(round(rng.uniform(0, 100), 2)) for key in keys},
        "eval_losses": {key: rng.uniform(0, 3) for key in keys},
        "eval_times": {key: rng.uniform(0.5, 3) for key in keys},
    }  # fmt: skip


NATS = {"12": 12, "200": 200}
"""Epochs by the names of budgets in NATS-Bench."""

SHORT = {"12": 12}


def cell(index: int, budgets: dict[str, int] = NATS) -> dict[str, Any]:
    """What an archive holds for a cell: from one to three trainings for 200 epochs, one or two for 12."""
    rng = random.Random(index)
    record: dict[str, Any] = {}
    for name, epochs in budgets.items():
        seeds = list(SEEDS[epochs][: rng.randint(1, 3)])
        record[name] = {
            "arch_index": index, "arch_str": str(Genotype.from_index(index)), "clear_net_done": True,
            "dataset_seed": dict.fromkeys(SETS, seeds),
            "all_results": {
                (dataset, seed): training(rng, dataset, seed, epochs)
                for dataset in SETS
                for seed in seeds
            },
        }  # fmt: skip
    return record


def folder(path: Path, indices: list[int], budgets: dict[str, int] = NATS, protocol: int = 4) -> Path:
    """A folder as NATS-Bench unpacks to."""
    path.mkdir()
    (path / "meta.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps({"meta_archs": []}, 4)))
    for index in indices:
        (path / f"{index:06d}.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(cell(index, budgets), protocol)))
    return path


def whole(indices: list[int]) -> dict[str, Any]:
    """What is in the one file of NAS-Bench-201."""
    budgets = {"less": 12, "full": 200}
    return {
        "meta_archs": [str(Genotype.from_index(index)) for index in range(20)],
        "arch2infos": OrderedDict((index, cell(index, budgets)) for index in indices),
        "evaluated_indexes": set(indices),
    }
