from __future__ import annotations

import importlib
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from supernet.benchmark import NUM_CELLS, TabularBenchmark, write_table
from supernet.cli import derive, search
from supernet.cli.parser import STRATEGIES
from supernet.cost import Cost

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
SMALL = ["--model.channels", "2", "--model.num_cells", "1", "--trainer.max_epochs", "1"]


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("python train.py --config")])
def test_every_search_command_is_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [word if word[:7] != "configs" else str(ROOT / word) for word in shlex.split(command)[2:]]
    with pytest.raises(SystemExit) as stop:
        search([*arguments, *([] if "--print_config" in arguments else ["--print_config"])])
    assert stop.value.code == 0
    assert "class_path: supernet.strategies" in capsys.readouterr().out


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("python derive.py")])
def test_every_derive_command_is_understood(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = [word if word[:7] != "configs" else str(ROOT / word) for word in shlex.split(command)[2:]]
    if "--genotype" not in arguments:
        assert search(["--trainer.logger", "false", *SMALL, "--trainer.limit_train_batches", "1"]) == 0
        (arguments[0],) = map(str, tmp_path.rglob("last.ckpt"))
    assert derive([*arguments, *([] if "--no_retrain" in arguments else ["--no_retrain"])]) == 0


def test_the_strategy_of_your_own_runs_and_has_ten_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (text for text in blocks("python") if "class Sigmoid" in text)
    assert len(block.strip().splitlines()) <= 10 + block.count("\n\n")
    (tmp_path / "mine.py").write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert search(["--model.search", "mine.Sigmoid", *SMALL]) == 0
    assert list(tmp_path.rglob("logs/sigmoid_digits/version_0/genotype.json"))


def test_the_space_of_the_yaml_block_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (text for text in blocks("yaml") if "num_nodes" in text)
    (tmp_path / "space.yaml").write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    configs = ["--config", str(ROOT / "configs" / "quickstart.yaml"), "--config", "space.yaml"]
    assert search([*configs, *SMALL, "--trainer.limit_train_batches", "2"]) == 0
    assert "4<-3" in next(tmp_path.rglob("genotype.json")).read_text(encoding="utf-8")


def test_the_line_against_collapse_is_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (text for text in blocks("yaml") if "collapse" in text)
    (tmp_path / "guard.yaml").write_text(block, encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        search(
            [
                "--config",
                str(ROOT / "configs" / "darts.yaml"),
                "--config",
                str(tmp_path / "guard.yaml"),
                "--print_config",
            ]
        )
    assert stop.value.code == 0
    assert "collapse: rewind" in capsys.readouterr().out


def test_the_table_of_strategies_names_all_of_them_and_counts_their_lines() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\((supernet/strategies/\w+\.py)\).*?\| (\d+) \|", README, flags=re.MULTILINE)
    assert {name for name, _, _ in rows} == {*STRATEGIES}
    for name, path, lines in rows:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert f"class {name}(" in source
        assert len(source.splitlines()) == int(lines), path


def test_the_exported_program_runs_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (text for text in blocks("python") if "torch.export.load" in text)
    monkeypatch.chdir(tmp_path)
    assert derive(["--genotype", "6111", *SMALL, "--data.batch_size", "256"]) == 0
    shown: list[torch.Tensor] = []
    exec(block, {"print": shown.append})
    assert shown[0].shape == (5,)


def test_the_quick_start_is_on_the_first_fifteen_lines_and_its_pictures_exist() -> None:
    assert "python train.py" in "\n".join(README.splitlines()[:15])
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file()


def test_links_and_named_files_exist() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(
        r"`((?:supernet|tests|configs)/[\w/.]+)`", README
    ):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^python -m (supernet\..*)", "\n".join(COMMANDS), re.M))))
def test_every_other_command_is_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, *arguments = shlex.split(command)
    spec = find_spec(module)
    inner = ("__main__", "command") if spec and spec.submodule_search_locations else ()
    places = [module, *(f"{module}.{name}" for name in inner)]
    loaded = next(found for found in map(importlib.import_module, places) if hasattr(found, "main"))
    with pytest.raises(SystemExit) as stop:
        loaded.main([*arguments, "--help"])
    assert stop.value.code == 0
    assert f"usage: python -m {module}" in capsys.readouterr().out


def test_a_table_answers_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (text for text in blocks("python") if "Ledger" in text)
    names = [f"cifar10_25k_{measure}" for measure in ("valid_12", "valid_200", "seconds_200", "valid-seconds_200")]
    names += ["cifar10_50k_test_200", "cifar100_50k_test_200"]
    monkeypatch.chdir(tmp_path)
    columns = {name: np.full((NUM_CELLS, 1), 10.0 + number) for number, name in enumerate(names)}
    write_table(Path("nasbench201.npz"), TabularBenchmark(columns))
    shown: list[object] = []
    exec(block, {"print": lambda *values: shown.extend(values)})
    assert shown == [14.0, 10.0, Cost(1_073_466, 153_272_970), 15.0, 11.0, 12.0 + 13.0]


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"python -m (benchmarks\.[^`#\n]*)", README + BENCHMARKS)), key=str)
)
def test_every_benchmark_command_is_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, *arguments = shlex.split(command)
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(module).main([*arguments, "--help"])
    assert stop.value.code == 0
    assert f"usage: python -m {module}" in capsys.readouterr().out


def test_the_gpu_script_has_the_parts_that_are_named() -> None:
    script = (ROOT / "benchmarks" / "gpu.sh").read_text(encoding="utf-8")
    parts = re.findall(r"bash benchmarks/gpu.sh (\w+)", BENCHMARKS)
    assert len(parts) == 8
    for part in parts:
        assert f"\n  {part})\n" in script


def test_no_placeholder_is_left() -> None:
    assert not re.search(r"^[A-Z]{5,}$", README + BENCHMARKS, flags=re.MULTILINE)
