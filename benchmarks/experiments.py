"""The experiments whose figures stand in the README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.experiment import Experiment, Figure

CHAOS = (
    "rounding decides between cells that are close, and other hardware, versions or numbers of threads round otherwise"
)
SHARED = Figure(
    "accuracy of the cell with shared parameters",
    "logs/gdas_digits/version_0/genotype.json",
    ("provenance", "metrics", "val/derived_accuracy"),
    unit="% of the validation digits",
    scale=100,
    other=10.0,
    why=f"{CHAOS}; seeds differ by as much",
)
CELL = Figure(
    "cell", SHARED.file, ("index",), is_name=True, other=None, why=f"any cell may be found elsewhere: {CHAOS}"
)
TESTED = Figure(
    "test accuracy of the cell, trained from scratch",
    "logs/retrain_digits/version_0/result.json",
    ("test_accuracy",),
    unit="% of 359 test digits",
    scale=100,
    other=6.0,
    why=f"another cell may be trained elsewhere: {CHAOS}; cells of searches this short differ by as much",
)
DERIVE = "python derive.py logs/gdas_digits/version_0/checkpoints/last.ckpt"
OF_SEEDS = "three standard errors of a difference of two means of five; the cells may be others"

QUICK = (
    Experiment("quickstart", "quick start: GDAS on digits", ("python train.py",), (CELL, SHARED), 1),
    Experiment(
        "quickstart_retrained",
        "its cell, from scratch: 12 epochs at C=16, N=5",
        ("python train.py", DERIVE),
        (replace(CELL, headline=False), TESTED),
        1,
    ),
    Experiment(
        "quickstart_seeds",
        "both, five times",
        ("python train.py --seed_everything {seed}", f"{DERIVE} --seed_everything {{seed}}"),
        (
            replace(CELL, name="cells", headline=False),
            replace(SHARED, other=1.9, spreads=True, why=f"{CHAOS}: {OF_SEEDS}"),
            replace(TESTED, other=1.9, spreads=True, why=f"{CHAOS}: {OF_SEEDS}"),
        ),
        6,
        seeds=(0, 1, 2, 3, 4),
        notes="The spread says what one run is worth: half a minute on digits does not tell good cells from others.",
    ),
)

RULES = ("parameter count", "effective parameter count", "MACs", "number of convolutions")
"""Scores that need no network and no data, by their names in `supernet.rank`."""

RANKS = {
    "tau": "Kendall's tau, all cells",
    "tau_distinct": "Kendall's tau, distinct cells",
    "tau_best": "Kendall's tau, true top 10 %",
    "rho": "Spearman's rho, all cells",
    "regret_of_1": "regret of the first",
    "pick_of_100": "its pick of 100 random cells",
}
"""Figures of a score, by their keys there, and their names here."""


def _sized(name: str, *path: str, unit: str = "", digits: int = 3, headline: bool = False) -> Figure:
    rounding = "arithmetic over a fixed table: rounding of sums"
    return Figure(
        name, "baselines.json", path, unit, digits=digits, same=1e-6, other=1e-6, why=rounding, headline=headline
    )


SIZES = Experiment(
    "size_baselines",
    "no network, no data: how well the size of a cell ranks NAS-Bench-201 (CIFAR-10 test, 200 epochs)",
    ("python -m benchmarks.baselines --table {table} --json baselines.json",),
    (
        *(
            _sized(
                f"{name}: {title}",
                "rows",
                f"score={name}",
                key,
                headline=key in ("tau", "tau_best") and name in RULES[:2],
            )
            for name in RULES
            for key, title in RANKS.items()
        ),
        Figure(
            "the best cell",
            "baselines.json",
            ("best", "index"),
            is_name=True,
            why="of equals, that with the lowest index",
        ),
        _sized("the best of the table", "best", "accuracy", unit="%", digits=2, headline=True),
        _sized("expected best of 100 random cells", "best of 100", unit="%", digits=2, headline=True),
        _sized("mean of the connected cells", "connected", unit="%", digits=2, headline=True),
    ),
    0.5,
    needs=("table",),
    seeds=(),
    notes=(
        "The bar of a supernet is the effective parameter count, which needs no network. Distinct cells: one of each of"
        " 6,466 classes, that with the fewest parameters."
    ),
)

_GDAS = (
    "python train.py --config configs/gdas.yaml --data.root {root} --model.channels 8 --model.num_cells 1"
    " --trainer.max_epochs 5 --model.arch_lr 0.003 --model.search.top_k 16 --model.search.exclude_none true"
)
CIFAR = Experiment(
    "gdas_small",
    "GDAS on CIFAR-10, scaled down (C=8, N=1, 5 epochs), and its cell from scratch for 4 epochs",
    (
        _GDAS,
        "python derive.py logs/gdas_cifar10/version_0/checkpoints/last.ckpt --data.root {root} --model.channels 8"
        " --model.num_cells 1 --trainer.max_epochs 4",
    ),
    (
        replace(CELL, file="logs/gdas_cifar10/version_0/genotype.json"),
        replace(
            SHARED,
            file="logs/gdas_cifar10/version_0/genotype.json",
            unit="% of the 25,000 validation images",
            why=f"{CHAOS}; how much was not measured, ten points are a guess",
        ),
        replace(
            TESTED,
            file="logs/retrain_cifar10/version_0/result.json",
            unit="% of the 10,000 test images",
            other=10.0,
            why=f"another cell may be trained elsewhere: {CHAOS}; how much was not measured, ten points are a guess",
        ),
    ),
    36,
    needs=("cifar10",),
)

_FAIRNAS = (
    "python train.py --config configs/fairnas.yaml --data.root {root} --model.channels 8 --model.num_cells 1"
    " --trainer.max_epochs 12 --trainer.check_val_every_n_epoch 12 --model.search.population 50"
    " --model.search.generations 2 --model.recalibration_images 0"
)


def _ranked(score: str, key: str, other: float, headline: bool = True) -> Figure:
    """A figure of a score, from what `supernet.rank` leaves."""
    exact = score != "shared accuracy"
    why = (
        "arithmetic over a fixed table: rounding of sums"
        if exact
        else f"{CHAOS}; how much was not measured, it is a guess"
    )
    same, other = (1e-6, 1e-6) if exact else (0.0, other)
    digits = 2 if key.startswith(("regret", "pick")) else 3
    path = ("rows", f"score={score}", key)
    file = "logs/fairnas_cifar10/version_0/rank/rank.json"
    return Figure(
        f"{score}: {RANKS[key]}", file, path, digits=digits, same=same, other=other, why=why, headline=headline
    )


RANK = Experiment(
    "rank_small",
    "how well a small FairNAS supernet ranks all cells (CIFAR-10, C=8, N=1, 12 epochs; 256 validation images)",
    (
        _FAIRNAS,
        "python -m supernet.rank logs/fairnas_cifar10/version_0/checkpoints/last.ckpt --table {table} --images 256"
        " --root {root}",
    ),
    (
        *(_ranked("shared accuracy", key, 2.0 if key.startswith(("regret", "pick")) else 0.1) for key in RANKS),
        *(_ranked(name, key, 0, headline=False) for name in RULES[:2] for key in ("tau", "tau_best")),
    ),
    70,
    needs=("cifar10", "table"),
    notes=(
        "The bar is the effective parameter count, which needs no network and no image. After so short a training all"
        " cells lie within a few points of one another, and 256 images tell an accuracy to three points: this is as"
        " much the noise of the images as the supernet."
    ),
)

SEARCHES = (
    *(
        "alphanet",
        "beta_darts",
        "darts",
        "darts_minus",
        "darts_pt",
        "drnas",
        "enas",
        "fair_darts",
        "fairnas",
        "few_shot",
    ),
    *(
        "gaea",
        "gdas",
        "idarts",
        "joint",
        "joint_reinforce",
        "lambda_darts",
        "pc_darts",
        "proxyless",
        "random",
        "reinmax",
    ),
    *("sdarts", "second_order", "setn", "snas", "spos"),
)
"""Configurations that `benchmarks.strategies` compares."""


def _searched(methods: Sequence[str]) -> tuple[Figure, ...]:
    """The mean accuracy of what each search found."""
    why = "three times the spread of three seeds: of 25 means one or two fall outside by chance"
    return tuple(
        Figure(
            name,
            "strategies/strategies.json",
            ("rows", f"method={name}", "accuracy", "mean"),
            unit="%",
            spread=("rows", f"method={name}", "accuracy", "std"),
            same=3.0,
            other=3.0,
            spreads=True,
            why=why,
            headline=False,
        )
        for name in methods
    )


def _no_search(name: str, *spread: str) -> Figure:
    file, row, why = "strategies/strategies.json", ("baselines", f"method={name}"), "looked up in the table: rounding"
    deviation = (*row, *spread) if spread else ()
    path = (*row, "accuracy")
    return Figure(name, file, path, "%", spread=deviation, same=1e-6, other=1e-6, why=why, headline=False)


STRATEGIES = Experiment(
    "strategies_small",
    "all searches at equal image passes (CIFAR-10, C=4, N=1, 18,432 passes), accuracy in NAS-Bench-201",
    ("python -m benchmarks.strategies --seeds 3 --budget small --jobs 2 --data-root {root} --table {table}",),
    (
        *_searched(SEARCHES),
        _no_search("largest by parameter count"),
        _no_search("a connected cell at random", "std"),
        _no_search("the best of the table"),
    ),
    120,
    needs=("cifar10", "table"),
    seeds=(0, 1, 2),
    notes=(
        "Read it as a test that every search runs from end to end on real images, and as no ranking of methods: the"
        " image passes are 288 batches, and a supernet of C=4, N=1 learns next to nothing from them. Its accuracies of"
        " cells do not rank them (tau is around zero or below for most methods), while counting parameters does. Three"
        " seeds spread over many points. `darts_pt` spent more than the others: what it looks at after its last step"
        " counts, too. `lambda_darts` was run again after its alignment was made exact. What the columns mean is in"
        " [benchmarks](../benchmarks/README.md)."
    ),
    details="strategies/strategies.json",
)

EXPERIMENTS = (*QUICK, SIZES, CIFAR, RANK, STRATEGIES)
