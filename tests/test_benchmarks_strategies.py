"""The comparison of searches: equal image passes, ranks and correlations by brute force, and no look at the table."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import strategies
from benchmarks.passes import PassCount, fit, steps_within
from benchmarks.searches import BUDGETS, Run, Setting, merged, methods, prepared
from benchmarks.strategies import kept, main, sample, with_steps
from benchmarks.tabulated import COLUMN, RULES, baselines, scores_of, spread, summary, tau
from supernet.benchmark import NUM_CELLS, TabularBenchmark, open_table
from supernet.cli.parser import STRATEGIES
from supernet.cost import cost
from supernet.genotype import Genotype
from supernet.network import Supernet
from supernet.space import CellSpace, is_connected

FEW = {"random": {"search": {"init_args": {"num_samples": 10}}}}
TOY = Setting("digits", 2, 1, 8, 2, 2 * 2 * 6 * 8, score_images=64, num_compared=6, overrides=FEW)
CELLS = list(itertools.islice(CellSpace(), 4_000, 4_300))


def accuracies(seed: int = 0) -> dict[Genotype, float]:
    """With equal ones among them."""
    rng = random.Random(seed)
    return {cell: rng.randint(0, 60) / 2 for cell in CELLS}


def table_of(found: dict[Genotype, float]) -> TabularBenchmark:
    """A table that knows these cells only."""
    column = np.full(NUM_CELLS, np.nan)
    for cell, accuracy in found.items():
        column[cell.index] = accuracy
    return TabularBenchmark({str(COLUMN): column})


def write_table(path: Path) -> None:
    rng = random.Random(0)
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "arch", str(COLUMN)])
        writer.writerows([cell.index, str(cell), rng.uniform(10, 95)] for cell in CellSpace())


def brute_tau(ones: list[float], others: list[float]) -> float:
    """Tau-b by its definition: concordant less discordant pairs, over those that are not equal in either."""
    pairs = list(itertools.combinations(zip(ones, others, strict=True), 2))

    def sign(value: float) -> int:
        return (value > 0) - (value < 0)

    signs = [(sign(a[0] - b[0]), sign(a[1] - b[1])) for a, b in pairs]
    apart = [sum(bool(each[side]) for each in signs) for side in (0, 1)]
    return sum(a * b for a, b in signs) / (apart[0] * apart[1]) ** 0.5


def test_tau_is_that_of_all_pairs() -> None:
    found, rng = accuracies(), random.Random(3)
    table = table_of(found)
    scores = {cell: rng.randint(0, 9) + 0.1 * found[cell] for cell in CELLS[::7]}
    expected = brute_tau(list(scores.values()), [found[cell] for cell in scores])
    assert tau(table, scores) == pytest.approx(expected, abs=1e-12)
    assert tau(table, found) == pytest.approx(1)
    assert tau(table, dict.fromkeys(CELLS, 0.1)) == 0


def test_a_rank_is_one_more_than_the_number_of_better_cells() -> None:
    found = accuracies()
    table = table_of(found)
    for cell, accuracy in found.items():
        better = sum(other > accuracy for other in found.values())
        assert table.place(cell, COLUMN) == (accuracy, better + 1, max(found.values()) - accuracy)


def test_baselines_need_no_search() -> None:
    found = {cell: cost(cell).params / 1e6 for cell in CELLS}
    by_params, by_effective, drawn, best = baselines(table_of(found), CELLS[:50])
    assert by_params["accuracy"] == max(found.values())
    assert by_params["tau"] == pytest.approx(1)
    assert by_effective["tau"] < 1
    connected = [accuracy for cell, accuracy in found.items() if is_connected(cell)]
    assert 0 < len(connected) < len(found)
    assert drawn["accuracy"] == pytest.approx(sum(connected) / len(connected))
    assert drawn["regret"] == pytest.approx(max(found.values()) - drawn["accuracy"])
    assert (best["accuracy"], best["rank"], best["regret"]) == (max(found.values()), 1, 0)
    assert [name in row["method"] for name, row in zip(RULES, (by_params, by_effective), strict=True)] == [True, True]


def test_a_row_has_the_mean_and_the_spread_over_seeds() -> None:
    found = accuracies()
    table = table_of(found)
    cells = CELLS[10], CELLS[20], CELLS[30]
    records = [
        {
            "method": "one", "strategy": "One", "seed": seed, "cell": str(cell), "passes": 100 + seed,
            "derive_passes": 5, "seconds": 1.0, "scores": [(str(each), random.random()) for each in CELLS[:9]],
        }
        for seed, cell in enumerate(cells)
    ]  # fmt: skip
    (row,) = summary(records, table)
    values = torch.tensor([found[cell] for cell in cells])
    assert row["accuracy"] == pytest.approx({"mean": float(values.mean()), "std": float(values.std())}, rel=1e-6)
    assert row["rank"] == sorted(table.place(cell, COLUMN).rank for cell in cells)[1]
    taus = [brute_tau(list(scores_of(each).values()), [found[c] for c in CELLS[:9]]) for each in records]
    assert row["tau"]["mean"] == pytest.approx(sum(taus) / 3)
    assert row["passes"] == {"mean": 101, "std": 1}
    assert spread([4.0]) == {"mean": 4, "std": 0}


def test_images_are_counted_whatever_the_parameters_and_the_gradient() -> None:
    network = Supernet(channels=1, num_cells=1)
    count, mixture, images = PassCount(network), torch.full((6, 5), 0.2), torch.randn(3, 3, 4, 4)
    network(images, mixture).sum().backward()
    torch.func.functional_call(network, dict(network.named_parameters()), (images, mixture))
    with torch.no_grad():
        network(images[:2], mixture)
    assert (count.take(), count.images) == (8, 0)


@pytest.mark.parametrize(("fixed", "once", "each"), [(0, 0, 1), (0, 0, 2), (0, 7, 3), (300, 20, 12)])
def test_steps_are_the_most_that_a_budget_allows(fixed: int, once: int, each: int) -> None:
    def spent(steps: int, batch: int) -> int:
        return fixed + batch * (once + each * steps)

    for budget in range(spent(1, 64), 64 * 100 + fixed, 37):
        steps = steps_within(budget, 5, 64, spent)
        assert spent(steps, 64) <= budget < spent(steps + 1, 64)
    with pytest.raises(ValueError, match="5 epochs of one step take"):
        steps_within(spent(1, 64) - 1, 5, 64, spent)


def test_every_strategy_and_every_search_configuration_is_there() -> None:
    found = methods()
    classes = {given["model"]["search"]["class_path"].rpartition(".")[2] for given in found.values()}
    assert set(STRATEGIES) <= classes
    assert {"darts", "gdas", "random"} <= found.keys()
    assert not {"quickstart", "retrain"} & found.keys()
    for name, given in found.items():
        run = prepared(name, given, BUDGETS["reference"], "")
        assert run.epochs == given["trainer"]["max_epochs"]
        assert run.model == {**given["model"], "score_images": 5_000, "eigenvalue_every": 0}
        assert prepared(name, given, BUDGETS["small"], "").model["channels"] == 4


def test_options_are_replaced_at_any_depth() -> None:
    options: dict[str, Any] = {"search": {"class_path": "A", "init_args": {"x": 1, "y": 2}}, "terms": [1]}
    found = merged(options, {"search": {"init_args": {"y": 3}}, "terms": []})
    assert found == {"search": {"class_path": "A", "init_args": {"x": 1, "y": 3}}, "terms": []}
    assert options["search"]["init_args"]["y"] == 2


def test_the_sample_is_always_the_same_and_connected() -> None:
    cells = sample(BUDGETS["small"])
    assert cells == sample(BUDGETS["small"])
    assert len(set(cells)) == BUDGETS["small"].num_compared
    assert all(map(is_connected, cells))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGETS, "small", TOY)
    monkeypatch.setattr(strategies, "_quietly_alone", lambda: None)  # it lasts as long as the process


def test_all_searches_take_the_same_number_of_images_and_none_sees_the_table(
    toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    forward, read = Supernet.forward, open_table
    monkeypatch.setattr(Supernet, "forward", _noting(forward, seen))
    totals, events = {}, []

    def noted_fit(module: Any, data: Any, ledger: Any, epochs: int, steps: int | None) -> None:
        seen.clear()
        fit(module, data, ledger, epochs, steps)
        totals[type(module.search).__name__] = (sum(seen), ledger)
        events.append("search")

    def noted_read(path: Path) -> TabularBenchmark:
        events.append("table")
        return read(path)

    monkeypatch.setattr(strategies, "fit", noted_fit)
    monkeypatch.setattr(strategies, "open_table", noted_read)
    write_table(tmp_path / "table.csv.gz")
    arguments = ["--seeds", "1", "--strategies", "darts", "random", "--table", str(tmp_path / "table.csv.gz")]
    main([*arguments, "--out", str(tmp_path / "out")])
    assert events == ["search"] * 8 + ["table"]  # three small ones to plan each, and the search
    for name, (images, ledger) in totals.items():
        assert ledger.passes == TOY.passes, name
        # Whatever else went through the supernet scored cells: those of the sample, and those of the strategy. 719
        # digits are evaluated in 12 parts, of which two have the 64 images that are asked for.
        compared = {"RandomSearch": 10}.get(name, 0)
        assert ledger.derive_passes == compared * 120
        assert images - ledger.passes == (compared + TOY.num_compared) * 120
    written = json.loads((tmp_path / "out/strategies.json").read_text())
    assert sorted(row["method"] for row in written["rows"]) == ["darts", "random"]
    assert (tmp_path / "out/strategies.md").read_text() == capsys.readouterr().out


def _noting(forward: Callable[..., Tensor], seen: list[int]) -> Callable[..., Tensor]:
    def noted(self: Supernet, images: Tensor, *others: Any) -> Tensor:
        seen.append(len(images))
        return forward(self, images, *others)

    return noted


def test_a_run_holds_nothing_that_leads_to_a_table() -> None:
    assert set(Run.__annotations__) == {"method", "model", "seed", "batch", "epochs", "steps", "setting", "root"}
    assert not any("table" in name for name in (*Run.__annotations__, *Setting.__annotations__))


def test_what_is_there_is_not_run_again_and_what_was_cut_off_is(
    toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[tuple[str, int]] = []

    def instead(run: Run) -> Any:
        searched.append((run.method, run.seed))
        return {"method": run.method, "seed": run.seed, "seconds": 0.0, "run": run.key()}

    monkeypatch.setattr(strategies, "search", instead)
    monkeypatch.setattr(strategies, "with_steps", lambda run: replace(run, steps=3))
    arguments = ["--strategies", "gdas", "random", "--out", str(tmp_path), "--seeds"]
    main([*arguments, "1"])
    path = tmp_path / "runs.jsonl"
    path.write_text(path.read_text()[:-9])  # the last line is not whole
    assert len(list(kept(path))) == 1
    main([*arguments, "2"])
    assert searched == [("gdas", 0), ("random", 0), ("random", 0), ("gdas", 1), ("random", 1)]
    main([*arguments, "2"])
    assert len(searched) == 5
    main([*arguments, "1", "--passes", "64"])  # another budget is another run
    assert len(searched) == 7


def test_a_budget_says_how_many_steps_there_are_and_a_missing_table_ends_it(
    toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = prepared("darts", methods()["darts"], TOY, "")
    assert with_steps(run).steps == 6  # two passes a step
    assert with_steps(replace(run, setting=replace(TOY, passes=None))).steps is None
    with pytest.raises(SystemExit) as stop:
        main(["--table", str(tmp_path / "none.gz"), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "there is no table" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_table_ends_it_in_one_sentence(
    toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        strategies, "search", lambda run: {"method": run.method, "seed": 0, "seconds": 0.0, "run": run.key()}
    )
    monkeypatch.setattr(strategies, "with_steps", lambda run: replace(run, steps=3))
    (tmp_path / "table.csv.gz").write_bytes(b"\x1f\x8bnot packed")
    with pytest.raises(SystemExit) as stop:
        main(["--seeds", "1", "--table", str(tmp_path / "table.csv.gz"), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "cannot read the table" in capsys.readouterr().err
