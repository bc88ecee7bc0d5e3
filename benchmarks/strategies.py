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
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from pytorch_lightning import seed_everything

from benchmarks.measure import hardware, progress
from benchmarks.passes import Ledger, fit, steps_within
from benchmarks.searches import BUDGETS, Options, Run, Setting, methods, prepared
from benchmarks.tabulated import Record, baselines, scores_of, summary, text
from supernet.benchmark import TabularBenchmark, open_table
from supernet.cli.parser import Parser
from supernet.data import SearchData
from supernet.discrete import random_cells
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.module import SearchModule
from supernet.space import CellSpace


def module_of(model: Options, data: SearchData) -> SearchModule:
    """A search as the command line builds it."""
    parser = Parser(allow_abbrev=False)
    parser.add_lightning_class_args(SearchModule, "model")
    shapes = {"num_classes": data.num_classes, "image_shape": list(data.image_shape), "cuda_graphs": False}
    # A copy: the parser changes what it is given.
    built: SearchModule = parser.instantiate(parser.parse_object({"model": deepcopy(model) | shapes})).model
    return built


def with_steps(run: Run) -> Run:
    """The run with the steps of an epoch that its budget allows, by what small searches on tiny images spend."""
    if run.setting.passes is None:
        return run

    def spent(steps: int, batch: int) -> int:
        ledger, data = Ledger(None), SearchData(batch_size=batch, eval_batch_size=100)
        seed_everything(0, verbose=False)
        fit(module_of(run.model | {"num_cells": 1}, data), data, ledger, run.epochs, steps)
        return ledger.passes

    return replace(run, steps=steps_within(run.setting.passes, run.epochs, run.batch, spent))


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
    data = images(run.setting.data, run.root, run.batch, min(run.setting.score_images, 500))
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


def _is_cut_off(path: Path) -> bool:
    return bool(content := path.read_bytes()) and not content.endswith(b"\n")


def search_all(runs: Sequence[Run], path: Path, jobs: int) -> list[Record]:
    """The records of all runs, in their order; those that the file lacks are run, and appended to it."""
    done = {json.dumps(record["run"], sort_keys=True): record for record in kept(path)}
    keys = [json.dumps(run.key(), sort_keys=True) for run in runs]
    missing = [run for run, key in zip(runs, keys, strict=True) if key not in done]
    for number, record in enumerate(_searched(missing, jobs), start=1):
        done[json.dumps(record["run"], sort_keys=True)] = record
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * _is_cut_off(path) + json.dumps(record) + "\n")
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
    parser.add_argument("--table", type=Path, help="table of NAS-Bench-201; without it, there are only runs")
    parser.add_argument("--out", type=Path, default=Path("strategies"), help="folder for runs, figures and tables")
    parser.add_argument("--jobs", type=int, default=1, help="searches at the same time")
    options = parser.parse_args(arguments)
    for name in ("passes", "seeds", "jobs"):
        if (number := getattr(options, name)) is not None and number < 1:
            parser.error(f"--{name} must be at least 1, got {number}")
    if options.table and not options.table.is_file():
        parser.error(f"there is no table {options.table}")
    setting = BUDGETS[options.budget]
    if options.passes is not None and setting.passes is not None:
        setting = replace(setting, passes=options.passes)
    _quietly_alone()
    options.out.mkdir(parents=True, exist_ok=True)
    planned = []
    for run in (prepared(name, known[name], setting, options.data_root) for name in options.strategies):
        try:
            planned.append(with_steps(run))
        except ValueError as error:
            parser.error(f"{run.method}: {error}")
    runs = [replace(run, seed=seed) for seed in range(options.seeds) for run in planned]
    try:
        records = search_all(runs, options.out / "runs.jsonl", options.jobs)
    except SupernetError:
        if setting.data != "cifar10" or Path(options.data_root, "cifar-10-batches-py").is_dir():
            raise
        parser.error(f"there is no folder cifar-10-batches-py under {options.data_root}; pass --data-root")
    if options.table:
        try:
            table = open_table(options.table)
        except SupernetError as error:
            parser.error(str(error))
        _report(records, table, options, setting, arguments)


def _sizes(setting: Setting) -> str:
    if setting.passes is None:
        return "network, batch and epochs as published"
    return (
        f"C={setting.channels}, N={setting.num_cells}, batch {setting.batch}, {setting.epochs} epochs of at most"
        f" {setting.passes:,} image passes in all"
    )


def _report(
    records: list[Record],
    table: TabularBenchmark,
    options: argparse.Namespace,
    setting: Setting,
    arguments: Sequence[str] | None,
) -> None:
    rows, base = summary(records, table), baselines(table, list(scores_of(records[0])))
    found = hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    conditions = (
        f"{found['hardware']}; torch {found['torch']}; {_sizes(setting)}; {options.seeds}"
        f" seeds, mean ± standard deviation; tau over {setting.num_compared} cells by {setting.score_images:,}"
        " validation images."
    )
    written = f"{conditions}\n\n{text(rows, base)}"
    print(written)
    (options.out / "strategies.md").write_text(written + "\n", encoding="utf-8")
    command = shlex.join(["python", "-m", "benchmarks.strategies", *(sys.argv[1:] if arguments is None else arguments)])
    record = {"rows": rows, "baselines": base, "setting": asdict(setting), "command": command, "versions": found}
    (options.out / "strategies.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
