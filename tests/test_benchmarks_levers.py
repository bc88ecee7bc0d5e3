from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import levers, precision
from benchmarks.levers import AS_IT_IS, CHANGES, GPU_ONLY, ONE_PATH_ONLY, SLOW_ON_CPU, Thawed, applicable
from benchmarks.ways import Setting, bilevel_of, num_images
from supernet.bilevel import Bilevel
from supernet.descent import use_fused
from supernet.replay import WARM_UP, Recorder
from supernet.strategies import Batch
from tests.soft_graph import SoftGraph

TINY = Setting(channels=2, num_cells=1, batch=4, num_images=64, warm_up=1, num_workers=0)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(10, (4,), generator=generator)


def logits_after_steps(setting: Setting, strategy: str) -> list[Tensor]:
    bilevel = bilevel_of(strategy, setting, Recorder(setting.device))
    for step in range(3):
        bilevel.step(batch(step), batch(10 + step))
    with torch.no_grad():
        return [*copy.deepcopy(list(bilevel.search.parameters())), bilevel.supernet(batch(20)[0], torch.rand(6, 5))]


@pytest.mark.parametrize("strategy", ["DARTS", "GDAS"])
@pytest.mark.parametrize(
    "change", ["gradients of the parameters in the architecture step", "coefficient as a product",
               "channels first", "every candidate runs", "losses read in every step",
               "launched one by one, only what was drawn", "launched one by one, optimizers in loops"]
)  # fmt: skip
def test_a_lever_changes_the_time_and_nothing_else(change: str, strategy: str) -> None:
    settings = [TINY, applicable(strategy, TINY, [change])[change]]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = []
    for setting in settings:
        torch.set_rng_state(state)
        found.append(logits_after_steps(setting, strategy))
    for ours, changed in zip(*found, strict=True):
        torch.testing.assert_close(changed, ours, rtol=1e-3, atol=1e-4)


def test_a_recorded_step_that_freezes_nothing_computes_the_gradients_of_the_parameters() -> None:
    operations, logits = [], []
    for bilevel_class in (Bilevel, Thawed):
        bilevel = bilevel_of("DARTS", replace(TINY, bilevel=bilevel_class), Recorder(TINY.device, SoftGraph))
        use_fused(bilevel.descent.optimizer)
        for step in range(WARM_UP + 2):
            bilevel.step(batch(step), batch(10 + step))
        (graph,) = (made.graph for key, made in bilevel.recorder.recordings.items() if key[0] == "arch")
        assert isinstance(graph, SoftGraph)
        outputs = [result for _, _, _, result in graph.operations if isinstance(result, tuple)]
        operations.append(sum(isinstance(part, Tensor) for result in outputs for part in result))
        logits.append(bilevel.search.get_parameter("logits").detach())
    assert operations[1] > operations[0]  # the backward of a convolution returns a gradient more
    torch.testing.assert_close(logits[1], logits[0])


def test_images_are_counted_where_something_is_learned_from_them() -> None:
    assert [num_images(name, TINY) for name in ("DARTS", "GDAS", "RandomSearch")] == [8, 8, 4]


def test_what_makes_no_difference_here_is_left_out() -> None:
    named = applicable("DARTS", TINY, None)
    assert next(iter(named)) == AS_IT_IS
    assert set(named) == {AS_IT_IS, *CHANGES} - GPU_ONLY - SLOW_ON_CPU - ONE_PATH_ONLY - {"float32"}
    assert "every candidate runs" in applicable("GDAS", TINY, None)
    assert list(applicable("DARTS", TINY, ["bf16"])) == [AS_IT_IS, "bf16"]


def test_the_command_measures_each_change_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--channels", "2", "--num_cells", "1", "--batch", "4", "--rounds", "1", "--device", "cpu"]
    changes = ["--changes", "channels first", "coefficient as a product"]
    levers.main([*sizes, *changes, "--workers", "0", "--json", str(tmp_path / "levers.json")])
    rows = json.loads((tmp_path / "levers.json").read_text())["rows"]
    assert [row["way"] for row in rows] == [AS_IT_IS, "channels first", "coefficient as a product"]
    assert rows[0]["times_ours"] == 1.0
    assert all(row["times_ours"] > 0 for row in rows)
    assert "| channels first |" in capsys.readouterr().out


def test_precisions_are_compared_seed_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu"]
    precision.main(["--seeds", "2", "--markdown", str(tmp_path / "table.md"), *small])
    text = (tmp_path / "table.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "| same seed, other precision |" in text
    lines = [line for line in text.splitlines() if line.startswith(("| 0 |", "| 1 |"))]
    assert len(lines) == 2
    for line in lines:
        distance = float(line.split("|")[-2])
        assert 0 <= distance < 0.01  # two steps of bf16 are not far from two of float32


def test_a_spread_needs_two_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        precision.main(["--seeds", "1"])
    assert stop.value.code == 2
    assert "at least 2, got --seeds 1" in capsys.readouterr().err
