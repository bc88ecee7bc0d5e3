"""What every search finds for the same number of image passes, held against the published table of all cells.

One row is a configuration of configs/, on CIFAR-10 with its own strategy, terms and rates, but a common network, batch,
number of epochs and budget. An image pass is one image through the supernet, whatever the mixture (`passes`): a dense
strategy computes about five times as much in one as a strategy of single paths, so the processor time is there, too.
Deriving a cell and the rank correlation are not in the budget; what deriving took is shown.

``--budget small`` is for a processor core, ``reference`` the published protocols for a GPU, epochs included: there,
passes differ and are shown. Each run is appended to ``OUT/runs.jsonl`` at its end, and one that is there already is
not repeated. No run knows where the table is: it is read after the last one.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import seed_everything

from benchmarks.measure import hardware, progress
from benchmarks.passes import Ledger, fit, steps_within
from benchmarks.tabulated import Record, Table, baselines, scores_of, summary, text
from supernet.cli.parser import STRATEGIES, Parser
from supernet.data import SearchData
from supernet.discrete import random_cells
from supernet.genotype import Genotype
from supernet.module import SearchModule
from supernet.space import CellSpace

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
Options = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all searches have in common."""

    data: str = "cifar10"
    channels: int = 16
    num_cells: int = 5
    batch: int = 64
    epochs: int | None = None
    """None: as many as the configuration says."""
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


SMALL: dict[str, Options] = {}

BUDGETS = {
    # 60 batches go into an epoch by 1, 2, 3, 4, 5 or 6 passes a step: all of these spend exactly the same.
    "small": Setting("cifar10", 4, 1, 64, 5, 5 * 60 * 64, 0.1, 0.03, 500, 100, SMALL),
    "reference": Setting(),
}


@dataclass(frozen=True)
class Run:
    """One search: all that it may know."""

    method: str
    model: Options
    seed: int
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
    model |= {"channels": setting.channels, "num_cells": setting.num_cells, "score_images": setting.score_images}
    if setting.epochs is not None:
        model["warm_up_epochs"] = round(model.get("warm_up_epochs", 0) * epochs / published)
    rates = {"network_lr": setting.network_lr, "arch_lr": setting.arch_lr}
    model |= {name: rate for name, rate in rates.items() if rate is not None}
    return Run(name, merged(model, setting.overrides.get(name, {})), 0, epochs, None, setting, root)


def merged(options: Options, others: Mapping[str, Any]) -> Options:
    """Options with some of them replaced, at any depth."""
    result = dict(options)
    for name, value in others.items():
        inner = result.get(name)
        result[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return result


def module_of(model: Options, data: SearchData) -> SearchModule:
    """A search as the command line builds it."""
    parser = Parser(allow_abbrev=False)
    parser.add_lightning_class_args(SearchModule, "model")
    shapes = {"num_classes": data.num_classes, "image_shape": list(data.image_shape), "cuda_graphs": False}
    built: SearchModule = parser.instantiate(parser.parse_object({"model": model | shapes})).model
    return built


def with_steps(run: Run) -> Run:
    """The run with the steps of an epoch that its budget allows, by what two small searches on tiny images spend."""
    if run.setting.passes is None:
        return run
    spent = {}
    for steps in (2, 6):
        ledger, data = Ledger(None), SearchData(batch_size=2)
        seed_everything(0, verbose=False)
        fit(module_of(run.model | {"num_cells": 1}, data), data, ledger, run.epochs, steps)
        spent[steps] = ledger.passes // 2
    return replace(run, steps=steps_within(run.setting.passes, run.epochs, run.setting.batch, spent))


@cache
def images(name: str, root: str, batch: int, eval_batch: int) -> SearchData:
    """The images, read once in a process."""
    return SearchData(name, root, batch_size=batch, eval_batch_size=eval_batch)


def sample(setting: Setting) -> list[Genotype]:
    """The cells that every method is asked about: different ones, connected, always the same."""
    return list(islice(random_cells(CellSpace(), random.Random(201)), setting.num_compared))


def search(run: Run) -> Record:
    """Do a run."""
    _quietly_alone()
    seed_everything(run.seed, verbose=False)
    data = images(run.setting.data, run.root, run.setting.batch, min(run.setting.score_images, 500))
    data.seed = run.seed
    module = module_of(run.model, data)
    ledger = Ledger(run.setting.passes, sample(run.setting), run.setting.score_images)
    fit(module, data, ledger, run.epochs, run.steps)
    return {
        "method": run.method,
        "strategy": type(module.search).__name__,
        "seed": run.seed,
        "cell": str(module.genotype),
        **{name: getattr(ledger, name) for name in ("passes", "derive_passes", "seconds", "derive_seconds", "scores")},
        "run": run.key(),
    }


def _quietly_alone() -> None:
    """One thread for each process, which several may be, and no word of what a trainer was built with."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


def kept(path: Path) -> Iterator[Record]:
    """The runs that a file holds; one that was cut off while it was written is none."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def search_all(runs: Sequence[Run], path: Path, jobs: int) -> list[Record]:
    """The records of all runs, in their order; those that the file lacks are run, and appended to it."""
    done = {json.dumps(record["run"], sort_keys=True): record for record in kept(path)}
    keys = [json.dumps(run.key(), sort_keys=True) for run in runs]
    missing = [run for run, key in zip(runs, keys, strict=True) if key not in done]
    for number, record in enumerate(_searched(missing, jobs), start=1):
        done[json.dumps(record["run"], sort_keys=True)] = record
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        progress(f"{number}/{len(missing)}: {record['method']}, seed {record['seed']}, {record['seconds']:.0f} s")
    return [done[key] for key in keys]


def _searched(runs: Sequence[Run], jobs: int) -> Iterator[Record]:
    if jobs == 1:
        yield from map(search, runs)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("forkserver")) as pool:
        for future in as_completed([pool.submit(search, run) for run in runs]):
            yield future.result()


def main(arguments: Sequence[str] | None = None) -> None:
    """Search, then compare with the table."""
    known = methods()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.strategies", description="What every search finds at equal cost.", allow_abbrev=False
    )
    parser.add_argument("--budget", choices=list(BUDGETS), default="small")
    parser.add_argument("--passes", type=int, help="image passes of a search, where the budget has a number")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each method")
    parser.add_argument("--strategies", nargs="+", choices=list(known), default=list(known), metavar="NAME")
    parser.add_argument("--data-root", default="data", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--table", type=Path, help="nasbench201_cifar10.csv.gz; without it, there are only runs")
    parser.add_argument("--out", type=Path, default=Path("strategies"), help="folder for runs, figures and tables")
    parser.add_argument("--jobs", type=int, default=1, help="searches at the same time")
    options = parser.parse_args(arguments)
    if options.table and not options.table.is_file():
        parser.error(f"there is no table {options.table}")
    setting = BUDGETS[options.budget]
    if options.passes is not None and setting.passes is not None:
        setting = replace(setting, passes=options.passes)
    _quietly_alone()
    options.out.mkdir(parents=True, exist_ok=True)
    planned = [with_steps(prepared(name, known[name], setting, options.data_root)) for name in options.strategies]
    runs = [replace(run, seed=seed) for seed in range(options.seeds) for run in planned]
    records = search_all(runs, options.out / "runs.jsonl", options.jobs)
    if options.table:
        _report(records, Table.read(options.table), options, setting, arguments)


def _report(
    records: list[Record], table: Table, options: argparse.Namespace, setting: Setting, arguments: Sequence[str] | None
) -> None:
    rows, base = summary(records, table), baselines(table, list(scores_of(records[0])))
    found = hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    conditions = (
        f"{found['hardware']}; torch {found['torch']}; C={setting.channels}, N={setting.num_cells}, batch"
        f" {setting.batch}; {options.seeds} seeds, mean ± standard deviation; tau over {setting.num_compared} cells by"
        f" {setting.score_images:,} validation images."
    )
    written = f"{conditions}\n\n{text(rows, base)}"
    print(written)
    (options.out / "strategies.md").write_text(written + "\n", encoding="utf-8")
    command = shlex.join(["python", "-m", "benchmarks.strategies", *(sys.argv[1:] if arguments is None else arguments)])
    record = {"rows": rows, "baselines": base, "setting": asdict(setting), "command": command, "versions": found}
    (options.out / "strategies.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
