"""Mistakes in the command lines of modules: one sentence, and nothing is measured or searched."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import strategies
from benchmarks.searches import Run
from supernet import latency

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--batch_size -3", "batch_size must be at least 1, got -3"),
        ("--device foo", "nothing can be computed on device 'foo'"),
        ("--device meta", "nothing can be computed on device 'meta'"),
        pytest.param("--device cuda", "nothing can be computed on device 'cuda'", marks=WITHOUT_GPU),
        ("--ops nor_conv_7x7", "unknown operation 'nor_conv_7x7'"),
    ],
)
def test_a_mistake_in_measuring_latencies_is_one_sentence(
    args: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.json"
    monkeypatch.setattr(sys, "argv", ["latency", "--out", str(out), *args.split()])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(latency.__file__), run_name="__main__")
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith(f"error: {expected}")
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--jobs 0", "--jobs must be at least 1, got 0"),
        ("--passes -5", "--passes must be at least 1, got -5"),
        ("--seeds 0", "--seeds must be at least 1, got 0"),
    ],
)
def test_a_comparison_of_nothing_is_refused(
    args: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        strategies.main(["--out", str(tmp_path / "out"), *args.split()])
    assert (stop.value.code, expected in capsys.readouterr().err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_budget_too_small_for_its_epochs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(strategies, "_quietly_alone", lambda: None)  # it lasts as long as the process
    with pytest.raises(SystemExit) as stop:
        strategies.main(["--strategies", "random", "--passes", "3", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "random: 8 epochs of one step take" in capsys.readouterr().err


def test_a_comparison_without_images_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_three(run: Run) -> Run:
        return replace(run, steps=3)

    monkeypatch.setattr(strategies, "with_steps", with_three)
    monkeypatch.setattr(strategies, "_quietly_alone", lambda: None)  # it lasts as long as the process
    with pytest.raises(SystemExit) as stop:
        strategies.main(["--strategies", "random", "--data-root", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert f"there is no folder cifar-10-batches-py under {tmp_path}; pass --data-root" in capsys.readouterr().err
