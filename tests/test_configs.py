from __future__ import annotations

import contextlib
import inspect
import io
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from supernet.cli import derive, search
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


def printed(*args: str) -> dict[str, Any]:
    """What the search command makes of its options for the model."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        search([*args, "--print_config"], ROOT / "configs" / "quickstart.yaml")
    model = yaml.safe_load(out.getvalue())["model"]
    assert isinstance(model, dict)
    return model


def by_signature(spec: dict[str, Any]) -> dict[str, Any]:
    """The options of a class: those given, and its own defaults."""
    module, _, name = spec["class_path"].rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    return {"class_path": spec["class_path"], "init_args": defaults | spec.get("init_args", {})}


@pytest.mark.parametrize("name", SEARCHES)
def test_the_search_command_adds_the_defaults_of_the_class_and_of_no_other(name: str) -> None:
    given, model = settings(name)["model"], printed("--config", str(ROOT / "configs" / name))
    assert model["search"] == by_signature(given["search"])
    if given.get("derivation"):
        assert model["derivation"] == by_signature(given["derivation"])
    assert (model["terms"] or []) == [by_signature(term) for term in given.get("terms") or []]


@pytest.mark.parametrize(
    ("args", "group", "expected"),
    [
        ("--model.search SNAS", "search", {"tau_max": 1.0, "tau_min": 0.03, "top_k": 1, "exclude_none": False}),
        ("--model.search SNAS --model.search.tau_max 3", "search", {"tau_max": 3.0, "tau_min": 0.03, "top_k": 1}),
        ("--model.search.tau_max 3", "search", {"tau_max": 3.0, "tau_min": 0.1, "top_k": 10}),
        ("--model.search GDAS --model.search.tau_max 3", "search", {"tau_max": 3.0, "top_k": 10}),
        ("--model.search SNAS --model.search GDAS", "search", {"tau_max": 10.0, "tau_min": 0.1, "top_k": 1}),
        (
            "--model.derivation TopK --model.derivation.exclude_none true --model.derivation BestOf",
            "derivation",
            {"n": 100, "exclude_none": False},
        ),
    ],
)
def test_a_class_named_in_anothers_place_starts_from_its_own_defaults(
    args: str, group: str, expected: dict[str, Any]
) -> None:
    assert printed(*args.split())[group]["init_args"].items() >= expected.items()


def test_terms_in_the_place_of_others_start_from_their_own_defaults(tmp_path: Path) -> None:
    files = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    files[0].write_text("model: {terms: [{class_path: CostPenalty, init_args: {weight: 7}}]}")
    files[1].write_text("model: {terms: [{class_path: BetaDecay}]}")
    terms = printed("--config", str(files[0]), "--config", str(files[1]))["terms"]
    assert [term["init_args"] for term in terms] == [{"weight": 50.0}]
    both = printed("--config", str(files[0]), "--model.terms+=BetaDecay")["terms"]
    assert [term["init_args"]["weight"] for term in both] == [7.0, 50.0]


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
