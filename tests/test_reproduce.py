"""The ledger of evidence: figures that are measured again, and a README that no hand has typed a figure into."""

from __future__ import annotations

import json
import math
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.baselines import baselines
from benchmarks.evidence import compare, follow, holds, read_figure, shown, summed_up
from benchmarks.experiment import Experiment, Figure
from benchmarks.experiments import EXPERIMENTS
from benchmarks.pages import readme, rendered
from benchmarks.reproduce import main
from benchmarks.tabulated import COLUMN
from supernet.benchmark import open_table
from supernet.cli import search
from supernet.errors import SupernetError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
RECORDS = [each.name for each in EXPERIMENTS if (RESULTS / f"{each.name}.json").exists()]
TABLE = ROOT.parent / "shared" / "data" / "nasbench201" / "nasbench201_cifar10.csv.gz"
PAGE = "above\n<!-- results -->\nold\n<!-- /results -->\nbetween\n<!-- searches -->\n<!-- /searches -->\nbelow\n"
NUMBERS = st.floats(-1e6, 1e6)


def record(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def dice(tmp_path: Path) -> Experiment:
    """Two steps that leave a number which their seed decides."""
    script = tmp_path / "dice.py"
    script.write_text(
        "import json, pathlib, random, sys\n"
        "seed, out = int(sys.argv[1]), pathlib.Path(sys.argv[2])\n"
        "before = json.loads(out.read_text())['sum'] if out.exists() else 0\n"
        "assert pathlib.Path('configs/quickstart.yaml').is_file()\n"
        "print('rolling', flush=True)\n"
        "out.write_text(json.dumps({'sum': before + random.Random(seed).random(), 'cell': seed}))\n"
    )
    step = f"python {shlex.quote(str(script))} {{seed}} out.json"
    figures = (
        Figure("sum", "out.json", ("sum",), "%", scale=100, other=3.0, spreads=True, why="dice"),
        Figure("cell", "out.json", ("cell",), is_name=True, other=None),
    )
    return Experiment("dice", "two dice", (step, step), figures, 0.1, seeds=(3, 5, 7))


@pytest.mark.long
def test_a_search_is_recorded_and_found_again_in_every_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = (
        Figure("accuracy", "logs/gdas_digits/version_0/genotype.json", ("provenance", "metrics", "val/loss")),
        Figure("cell", "logs/gdas_digits/version_0/genotype.json", ("genotype",), is_name=True),
    )
    step = (
        "python train.py --trainer.max_epochs 1 --model.channels 2 --trainer.limit_train_batches 2 --data.batch_size 8"
    )
    tiny = Experiment("tiny", "a tiny search", (step,), figures, 0.1)
    assert main(["tiny", "--record"], [tiny], tmp_path) == 0
    assert main(["tiny"], [tiny], tmp_path) == 0
    out = capsys.readouterr().out
    assert out.count("| holds |") == 2
    assert "configuration" not in out
    assert (tmp_path / "results" / "tiny.json").stat().st_size > 500


def test_figures_of_several_seeds_are_recorded_compared_and_shown(
    dice: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text(PAGE)
    assert main(["dice", "--record"], [dice], tmp_path) == 0
    path = tmp_path / "results" / "dice.json"
    found = json.loads(path.read_text())
    sums = [200 * random.Random(seed).random() for seed in (3, 5, 7)]
    figure, cells = found["figures"]
    assert figure["values"] == pytest.approx(sums)
    assert (figure["value"], figure["std"]) == pytest.approx((np.mean(sums), np.std(sums, ddof=1)))
    assert figure["may_differ"] == {"same": 0.0, "other": pytest.approx(3 * np.std(sums, ddof=1)), "why": "dice"}
    assert (cells["value"], cells["std"]) == ("3, 5, 7", None)
    assert found["seeds"] == [3, 5, 7]
    assert (tmp_path / "results" / "dice.md").read_text() == rendered(found)
    assert main(["dice"], [dice], tmp_path) == 0

    figure["value"] += 1e-9
    path.write_text(json.dumps(found))
    assert main(["dice"], [dice], tmp_path) == 1
    assert "1 of 2 figures hold" in capsys.readouterr().out
    found["versions"]["hardware"] = "another machine"
    cells["value"] = "1, 2, 3"
    path.write_text(json.dumps(found))
    assert main(["dice"], [dice], tmp_path) == 0

    (tmp_path / "results" / "dice.md").write_text("typed by hand")
    assert main(["--readme"], [dice], tmp_path) == 0
    assert (tmp_path / "results" / "dice.md").read_text() == rendered(found)
    page = (tmp_path / "README.md").read_text()
    assert f"sum: {np.mean(sums):.2f} ± {np.std(sums, ddof=1):.2f} %" in page
    assert [word in page for word in ("above\n", "\nbetween\n", "\nbelow\n", "old")] == [True, True, True, False]
    assert main(["--list"], [dice, replace(dice, name="other")], tmp_path) == 0
    assert [line.split(" | ")[3] for line in capsys.readouterr().out.splitlines()[-2:]] == [found["date"], "no"]


@given(NUMBERS, NUMBERS, st.floats(0, 1e6), st.floats(0, 1e3))
def test_a_figure_holds_if_it_is_no_farther_than_stated(one: float, other: float, within: float, more: float) -> None:
    found = holds(one, other, within)
    assert found == (max(one, other) - min(one, other) <= within)
    assert found == holds(other, one, within)
    assert holds(one, other, within + more) >= found
    assert holds(one, one, 0)
    assert holds(one, other, None)
    assert not holds(one, math.nan, within)


@given(st.sampled_from("ab"), st.sampled_from("ab"), st.none() | st.floats(0, 1e6))
def test_a_name_holds_if_it_is_equal_or_may_be_any(one: str, other: str, within: float | None) -> None:
    assert holds(one, other, within) == (one == other or within is None)
    assert holds(one, 1.0, within) == (within is None)


@given(st.lists(NUMBERS, min_size=2, max_size=5), st.booleans(), st.none() | st.floats(0, 10), st.data())
def test_a_line_takes_the_tolerance_of_its_conditions(
    values: list[float], same: bool, factor: float | None, data: st.DataObject
) -> None:
    figure = Figure("x", "", (), same=1.0, other=factor, spreads=True)
    one = summed_up(figure, [(value, None) for value in values])
    std = statistics.stdev(values)
    now = data.draw(NUMBERS)
    recorded = {"figures": [one], "versions": {"python": "1"}}
    (line,) = compare(recorded, {"figures": [{**one, "value": now}], "versions": {"python": "1" if same else "2"}})
    allowed = std if same else math.inf if factor is None else factor * std
    assert (line.verdict == "holds") == (abs(now - statistics.fmean(values)) <= allowed or now == one["value"])


def test_a_figure_that_only_one_of_two_has_does_not_hold() -> None:
    one, two = (summed_up(Figure(name, "", ()), [(1.0, None)]) for name in "ab")
    lines = compare({"figures": [one], "versions": {}}, {"figures": [one, two], "versions": {}})
    assert [line.verdict for line in lines] == ["holds", "not recorded"]
    lines = compare({"figures": [one, two], "versions": {}}, {"figures": [one], "versions": {}})
    assert [line.verdict for line in lines] == ["holds", "not measured"]


def test_a_path_leads_to_a_figure_or_says_where_it_ends(tmp_path: Path) -> None:
    held = {
        "rows": [{"m": "a", "x": [1]}, {"m": "b", "x": {"mean": 2.5, "std": 0.5}}],
        "twice": [{"m": "a"}, {"m": "a"}],
    }
    (tmp_path / "f.json").write_text(json.dumps(held))
    figure = Figure("x", "f.json", ("rows", "m=b", "x", "mean"), scale=2, spread=("rows", "m=b", "x", "std"))
    assert read_figure(figure, tmp_path) == (5.0, 1.0)
    for path in (
        ("rows", "m=c"),
        ("twice", "m=a"),
        ("rows", "m=b", "y"),
        ("rows", "m=a", "m", "z"),
        ("rows", "m=a", "x", "0"),
    ):
        with pytest.raises(SupernetError, match="there is no"):
            follow(held, path)
    for path in (("rows", "m=a", "m"), ("rows", "m=a", "x")):
        with pytest.raises(SupernetError, match="must tell a number"):
            read_figure(replace(figure, path=path, spread=()), tmp_path)
    for file in ("none.json", "."):
        with pytest.raises(SupernetError, match="cannot read"):
            read_figure(replace(figure, file=file), tmp_path)


def test_a_step_that_fails_ends_it_and_leaves_nothing(
    dice: Experiment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = shlex.split(dice.steps[0])[1]
    failing = replace(dice, steps=(*dice.steps, f"python {shlex.quote(script)} six out.json"))
    assert main(["dice", "--record"], [failing], tmp_path) == 2
    err = capfd.readouterr().err
    assert "step 1 of 9" in err
    assert err.count("rolling") == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"error: this step ended with status 1: {failing.steps[-1]}; ")
    assert "ValueError: invalid literal for int" in last
    assert not (tmp_path / "results").exists()
    lost = replace(dice, figures=(Figure("sum", "out.json", ("sun",)),))
    assert main(["dice", "--record"], [lost], tmp_path) == 2
    assert "there is no 'sun'" in capfd.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_stop_ends_the_step_and_leaves_nothing(tmp_path: Path) -> None:
    ready, stopped = tmp_path / "ready", tmp_path / "stopped"
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import pathlib, signal, sys, time\n"
        f"def stop(*_):\n    pathlib.Path({str(stopped)!r}).touch()\n    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"pathlib.Path('here').touch(); pathlib.Path({str(ready)!r}).write_text(str(pathlib.Path.cwd()))\n"
        "time.sleep(60)\n"
    )
    runner = tmp_path / "runner.py"
    runner.write_text(
        "import pathlib, sys\n"
        "from benchmarks.experiment import Experiment\n"
        "from benchmarks.reproduce import main\n"
        f"slow = Experiment('slow', 'slow', ({('python ' + shlex.quote(str(slow)))!r},), (), 1)\n"
        f"sys.exit(main(['slow', '--record'], [slow], pathlib.Path({str(tmp_path)!r})))\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(runner)], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    while not (ready.exists() and ready.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "stopped; nothing was recorded"
    assert stopped.exists()
    assert not Path(ready.read_text()).exists()
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["quikstart"], "there is no experiment 'quikstart': did you mean 'quickstart'?"),
        (["size_baselines", "--record"], "size_baselines needs a table of NAS-Bench-201: pass --table FILE"),
        (["gdas_small", "--record"], "gdas_small needs CIFAR-10, and there is no folder cifar-10-batches-py under"),
        (["quickstart"], "there is no record of quickstart to compare with; pass --record"),
        (["--readme"], "README.md"),
    ],
)
def test_mistakes_end_in_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments, root=tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert sentence in line


@pytest.mark.parametrize("arguments", [[], ["quickstart", "--list"], ["--record", "--readme"], ["--readm"]])
def test_the_command_line_is_one_thing_at_a_time(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments, root=tmp_path)
    assert stop.value.code == 2


@pytest.mark.parametrize("name", RECORDS)
def test_the_markdown_is_that_of_the_record(name: str) -> None:
    assert (RESULTS / f"{name}.md").read_text(encoding="utf-8") == rendered(record(name))


def test_every_result_belongs_to_an_experiment() -> None:
    assert {path.stem for path in RESULTS.iterdir() if path.suffix in {".json", ".md"}} == set(RECORDS)


def test_the_readme_is_that_of_the_records() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    records = [record(name) for name in RECORDS]
    assert readme(page, records) == page
    for number, found in enumerate(records):  # each headline is there, and would be another if its record were
        for figure in found["figures"]:
            if figure["headline"]:
                assert f"{figure['name']}: {shown(figure)}" in page
                changed = json.loads(json.dumps(records))
                (twin,) = (each for each in changed[number]["figures"] if each["name"] == figure["name"])
                twin["value"] = "?" if isinstance(twin["value"], str) else twin["value"] + 1
                assert readme(page, changed) != page


@pytest.mark.parametrize("page", [PAGE.replace("<!-- /results -->", ""), PAGE + PAGE])
def test_a_page_without_its_places_is_refused(page: str) -> None:
    with pytest.raises(SupernetError, match="must have one place"):
        readme(page, [])


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda each: each.name)
def test_the_searches_of_an_experiment_are_understood(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for step in reversed(experiment.steps):
        words = shlex.split(step.format(root="data", table="table", seed=1))
        assert words[0] == "python"
        if words[1] == "-m" and find_spec(words[2]) is None:
            pytest.skip(f"{words[2]} is not here yet")
        if words[1] == "train.py":
            with pytest.raises(SystemExit) as stop:
                search([*words[2:], "--print_config"], quick_start=ROOT / "configs" / "quickstart.yaml")
            assert stop.value.code == 0, capsys.readouterr().err
    assert len({figure.name for figure in experiment.figures}) == len(experiment.figures)


@pytest.mark.skipif(not TABLE.exists(), reason="the table is not here")
def test_the_bar_is_what_is_known_of_it() -> None:
    found = baselines(open_table(TABLE))
    rows = {row["score"]: row for row in found["rows"]}
    assert rows["parameter count"]["cells"] == {"all": 15_625, "distinct": 6_466, "best": 1_566}
    assert rows["parameter count"]["tau"] == pytest.approx(0.578, abs=5e-4)
    assert rows["parameter count"]["tau_distinct"] == pytest.approx(0.607, abs=5e-4)
    assert rows["effective parameter count"]["tau"] == pytest.approx(0.654, abs=5e-4)
    assert found["best"]["index"] == 6111
    drawn = np.random.default_rng(0).choice(open_table(TABLE).values(COLUMN), (4_000, 100)).max(axis=1)
    assert found["best of 100"] == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 4_000**0.5)
