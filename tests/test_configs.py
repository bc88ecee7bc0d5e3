from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from supernet.cli import derive
from supernet.cli.parser import Parser
from supernet.data import RetrainData, SearchData
from supernet.module import SearchModule
from supernet.retrain import RetrainModule

ROOT = Path(__file__).resolve().parents[1]
SEARCHES = sorted(path.name for path in (ROOT / "configs").glob("*.yaml") if path.name != "retrain.yaml")


def parser_of(model: type[Any], data: type[Any]) -> Parser:
    parser = Parser(allow_abbrev=False)
    parser.add_lightning_class_args(model, "model")
    parser.add_lightning_class_args(data, "data")
    return parser


def settings(name: str) -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "configs" / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_config_builds_its_strategy_and_says_only_what_differs(name: str) -> None:
    given = settings(name)
    trainer = given.pop("trainer")
    assert trainer["max_epochs"] >= 1
    parser = parser_of(SearchModule, SearchData)
    config = parser.parse_object(given)
    built = parser.instantiate_classes(config)
    assert type(built.model.search).__name__ == given["model"]["search"]["class_path"].rpartition(".")[2]
    defaults = parser_of(SearchModule, SearchData).parse_object({"model": {"search": given["model"]["search"]}})
    for group in ("model", "data"):
        for option, value in given.get(group, {}).items():
            said = value != defaults[group].get(option) or option in ("search", "name")
            assert said, f"{name} repeats the default of {group}.{option}"


@pytest.mark.parametrize(("name", "epochs"), [("gdas.yaml", 250), ("darts.yaml", 50), ("random.yaml", 250)])
def test_the_reference_protocols_search_cifar10_as_long_as_published(name: str, epochs: int) -> None:
    given = settings(name)
    assert given["data"]["name"] == "cifar10"
    assert given["trainer"]["max_epochs"] == epochs


def test_the_defaults_are_the_published_search_recipe() -> None:
    config = parser_of(SearchModule, SearchData).parse_object(
        {"model": {"search": {"class_path": "supernet.strategies.GDAS"}}}
    )
    model, search = config.model, config.model.search.init_args
    assert (model.channels, model.num_cells, config.data.batch_size, model.grad_clip) == (16, 5, 64, 5)
    assert (model.network_lr, model.network_lr_min) == (0.025, 0.001)
    assert (model.network_momentum, model.network_weight_decay) == (0.9, 5e-4)
    assert (model.arch_lr, model.arch_betas, model.arch_weight_decay) == (3e-4, (0.5, 0.999), 1e-3)
    assert (search.tau_max, search.tau_min) == (10, 0.1)


def test_final_training_is_the_published_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert derive(["--genotype", "6111", "--config", str(ROOT / "configs" / "retrain.yaml"), "--no_retrain"]) == 0
    parser = parser_of(RetrainModule, RetrainData)
    model = parser.parse_object({"model": {"genotype": "|nor_conv_3x3~0|"}}).model
    assert (model.channels, model.num_cells, model.lr, model.momentum, model.weight_decay) == (16, 5, 0.1, 0.9, 5e-4)


def test_derive_trains_by_that_recipe_whatever_configuration_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    for config, epochs in (([], 12), (["--config", str(ROOT / "configs" / "retrain.yaml")], 200)):
        with pytest.raises(SystemExit):
            derive(["--genotype", "6111", *config, "--print_config"])
        printed = yaml.safe_load(capsys.readouterr().out)
        assert (printed["data"]["batch_size"], printed["trainer"]["max_epochs"]) == (256, epochs)
