"""Which searches are compared, and what they have in common: configurations of configs/ under one setting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from supernet.cli.parser import STRATEGIES

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
Options = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all searches have in common."""

    data: str = "cifar10"
    channels: int | None = None
    num_cells: int | None = None
    batch: int | None = None
    epochs: int | None = None
    """None: these four as the configuration says."""
    passes: int | None = None
    """Image passes of a search; None: whole epochs."""
    network_lr: float | None = None
    arch_lr: float | None = None
    """None: learning rates as the configuration says. Few steps want larger ones."""
    score_images: int = 5_000
    num_compared: int = 200
    """Cells over which the rank correlation is taken."""
    overrides: Mapping[str, Options] = field(default_factory=dict)
    """Options of a model by the name of its configuration, where the network or the budget is too small for those."""


EVOLUTION = {"population": 20, "generations": 5, "parents": 5}
"""A hundred cells, as many as the others compare; all by the statistics of the batch at hand, as for the others."""
FEW = {"search": {"init_args": EVOLUTION}, "recalibration_images": 0}
SMALL: dict[str, Options] = {
    "alphanet": FEW,
    "darts_pt": {
        "terms": [{"class_path": "supernet.terms.Perturbation", "init_args": {"start_epoch": 2, "tune_epochs": 1}}],
        "score_images": 100,  # thirty looks at the mixture come out of the budget
    },
    # As many rewards as passes of the network, as by the protocol; the controller is no row of logits.
    "enas": {
        "search": {"init_args": {"arch_steps_per_epoch": 6, "samples_per_step": 3}},
        "network_lr_epochs": None,
        "arch_lr": 0.01,
    },
    "fairnas": FEW,
    "few_shot": {"split": {"epoch": 4}},
    "gaea": {"arch_lr": 1.0},  # of the exponentiated gradient
    "spos": FEW,
}

BUDGETS = {
    # 36 batches go into an epoch by 1, 2, 3, 4, 6, 9 or 12 passes a step: all of these spend exactly the same.
    "small": Setting("cifar10", 4, 1, 64, 8, 8 * 36 * 64, 0.1, 0.03, 500, 100, SMALL),
    "reference": Setting(),
}


@dataclass(frozen=True)
class Run:
    """One search: all that it may know."""

    method: str
    model: Options
    seed: int
    batch: int
    epochs: int
    steps: int | None
    setting: Setting
    root: str

    def key(self) -> Options:
        """What makes another run the same one, in plain values."""
        asked = {name: value for name, value in asdict(self).items() if name != "root"}
        plain: Options = json.loads(json.dumps(asked))
        del plain["setting"]["overrides"]  # they are in the model already
        return plain


def methods() -> dict[str, Options]:
    """Configurations of searches on CIFAR-10 by name, and every strategy without one as it is."""
    read = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CONFIGS.glob("*.yaml"))}
    found: dict[str, Options] = {
        name: given for name, given in read.items() if given.get("data", {}).get("name") == "cifar10"
    }
    named = {given["model"]["search"]["class_path"].rpartition(".")[2] for given in found.values()}
    for strategy in STRATEGIES:
        if strategy not in named:
            search = {"class_path": f"supernet.strategies.{strategy}"}
            found[strategy] = {"model": {"search": search}, "trainer": {"max_epochs": 50}}
    return found


def prepared(name: str, given: Options, setting: Setting, root: str) -> Run:
    """A run of a configuration under a setting; how many steps it takes remains to be seen.

    Where it is shorter than published, so is its warm-up.
    """
    model, published = deepcopy(given["model"]), given["trainer"]["max_epochs"]
    epochs = setting.epochs or published
    model["score_images"] = setting.score_images
    model["eigenvalue_every"] = 0  # it watches the search, and has no part in it
    if setting.epochs is not None:
        model["warm_up_epochs"] = round(model.get("warm_up_epochs", 0) * epochs / published)
    common = {option: getattr(setting, option) for option in ("channels", "num_cells", "network_lr", "arch_lr")}
    model |= {option: value for option, value in common.items() if value is not None}
    batch = setting.batch or given.get("data", {}).get("batch_size", 64)
    return Run(name, merged(model, setting.overrides.get(name, {})), 0, batch, epochs, None, setting, root)


def merged(options: Options, others: Mapping[str, Any]) -> Options:
    """Options with some of them replaced, at any depth."""
    result = dict(options)
    for name, value in others.items():
        inner = result.get(name)
        result[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return result
