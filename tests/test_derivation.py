"""Ways to derive, with any strategy; and terms, ways to derive and guards by the command line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from supernet.cli import derive, search
from supernet.cli.checkpoint import build_search, read_checkpoint
from supernet.derivation import Argmax, BestOf, Derivation, Evolution, TopK
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.space import CellSpace, is_connected
from supernet.strategies import DARTS, RandomSearch, SearchStrategy
from tests.processes import QUICK_START, TERMINATE, Fault, run
from tests.test_resume import SEARCH, assert_same_run, differences


def bound(search: SearchStrategy, seed: int = 0) -> SearchStrategy:
    search.bind(CellSpace(), seed)
    if isinstance(search, DARTS):
        with torch.no_grad():
            search.logits.copy_(torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)))
    return search


class Score:
    """Of every cell, a number that has nothing to do with the strategy."""

    def __init__(self) -> None:
        self.asked: list[Genotype] = []

    def __call__(self, genotype: Genotype) -> float:
        self.asked.append(genotype)
        return random.Random(str(genotype)).random()


@pytest.mark.parametrize("exclude_none", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_the_top_k_are_those_of_sorting_all_cells(seed: int, exclude_none: bool) -> None:
    strategy, score = bound(DARTS(), seed), Score()
    space, log_p = CellSpace(), strategy.probabilities().log().tolist()
    cells = [cell for cell in space if is_connected(cell) and not (exclude_none and "none" in cell.ops)]
    cells.sort(key=lambda cell: -sum(row[op] for row, op in zip(log_p, space.choices(cell), strict=True)))
    assert Argmax(exclude_none).derive(strategy, score) == cells[0]
    assert score.asked == []
    assert TopK(7, exclude_none).derive(strategy, score) == max(cells[:7], key=Score())
    assert score.asked == cells[:7]


@pytest.mark.parametrize("strategy", [DARTS, RandomSearch])
def test_the_best_of_n_are_different_cells_and_the_same_ones_when_asked_again(strategy: type[SearchStrategy]) -> None:
    search, score = bound(strategy()), Score()
    found = BestOf(20, exclude_none=True).derive(search, score)
    assert len({*score.asked}) == len(score.asked) == 20
    assert found == max(score.asked, key=Score())
    assert all("none" not in cell.ops and is_connected(cell) for cell in score.asked)
    again = Score()
    assert BestOf(20, exclude_none=True).derive(search, again) == found
    assert again.asked == score.asked


def test_evolution_finds_more_than_as_many_draws_and_keeps_to_the_candidates() -> None:
    search = bound(RandomSearch())
    search.candidates[2] = torch.tensor([False, True, False, False, True])
    best = CellSpace().genotype([3, 3, 4, 3, 3, 3])
    asked: list[Genotype] = []

    def score(cell: Genotype) -> float:
        asked.append(cell)
        return sum(one == other for one, other in zip(cell.ops, best.ops, strict=True))

    way = Evolution(20, 5, 8, 8, 0.2, 8, exclude_none=True)
    found = way.derive(search, score)
    assert found == best
    assert len(asked) <= 160
    assert all(cell.ops[2] in ("skip_connect", "avg_pool_3x3") and "none" not in cell.ops for cell in asked)
    first, asked[:] = list(asked), []
    assert way.derive(search, score) == best
    assert asked == first


@pytest.mark.parametrize("way", [Argmax(), TopK(3), BestOf(5), Evolution(5, 2, 2, 2, 0.1, 2)])
def test_the_only_candidate_is_derived_in_every_way(way: Derivation) -> None:
    search = bound(DARTS())
    search.candidates[:] = torch.tensor([False, False, True, False, False])
    assert way.derive(search, Score()) == Genotype(("nor_conv_1x1",) * 6)


@pytest.mark.parametrize("way", [Argmax(), TopK(3)])
def test_what_is_most_likely_is_not_asked_of_a_strategy_that_does_not_know(way: Derivation) -> None:
    way.bind(bound(DARTS()))
    with pytest.raises(
        SupernetError, match=f"{type(way).__name__} takes what is most likely, and for RandomSearch all"
    ):
        way.bind(bound(RandomSearch()))
    for other in (BestOf(), Evolution()):
        other.bind(bound(RandomSearch()))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TopK(0), "k must be at least 1, got 0"),
        (lambda: BestOf(-1), "n must be at least 1, got -1"),
        (lambda: Evolution(generations=0), "generations .* got 0"),
    ],
)
def test_wrong_numbers_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(SupernetError, match=sentence):
        make()


TERMS = ["--model.terms+=BetaDecay", "--model.terms.weight=0.5", "--model.terms+=OperationDropout",
         "--model.terms.rate=0.3", "--model.terms+=CostPenalty", "--model.terms.weight=0.1", "--model.terms.of=latency",
         "--model.terms+=Shrink", "--model.terms.num_left=3"]  # fmt: skip
ALL = [*SEARCH, "--model.search", "DARTS", *TERMS, "--model.collapse", "rewind", "--model.max_skips=6",
       "--model.derivation", "TopK", "--model.derivation.k=2"]  # fmt: skip


def test_a_search_with_terms_is_resumed_bit_by_bit_and_derived_anew(tmp_path: Path) -> None:
    # The whole run reads what the first process of the broken one has measured: had its second process measured anew,
    # the logits would differ.
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    for folder in (broken, whole):
        folder.mkdir()
    assert run(broken, "search", [*ALL, "--resume"], Fault(TERMINATE, 6)).status == 128 + TERMINATE
    (first,) = broken.glob("logs/*/version_0/checkpoints/last.ckpt")
    measured = torch.load(first, weights_only=True)["state_dict"]["terms.2.costs"]
    assert bool((measured[1:] > 0).all())
    (whole / "table.json").write_text(json.dumps(dict(zip(CellSpace().ops, measured.tolist(), strict=True))))
    ended = run(broken, "search", [*ALL, "--resume"])
    assert (ended.status, ended.err) == (0, "")
    assert "latency of an edge" not in ended.out
    at = ALL.index("--model.terms.of=latency") + 1
    assert run(whole, "search", [*ALL[:at], "--model.terms.table=table.json", *ALL[at:]]).status == 0
    kept = torch.load(first, weights_only=True)
    never_broken = torch.load(whole / first.relative_to(broken), weights_only=True)
    for part in ("state_dict", "optimizer_states", "callbacks"):
        assert differences(kept[part], never_broken[part]) == []
    assert kept["state_dict"]["search._extra_state"]["candidates"].sum(dim=1).tolist() == [3] * 6
    assert [told["class_path"].rpartition(".")[2] for told in kept["hyper_parameters"]["terms"]] == [
        "BetaDecay", "OperationDropout", "CostPenalty", "Shrink"
    ]  # fmt: skip
    module = build_search(str(first), read_checkpoint(str(first)))
    assert module.terms[2].get_buffer("costs").equal(measured)
    assert isinstance(module.derivation, TopK)
    anew = run(broken, "derive", [str(first.relative_to(broken)), "--top_k", "5", "--no_retrain"])
    assert (anew.status, "Derived cell" in anew.out) == (0, True), anew


def test_a_search_with_terms_that_is_stopped_in_a_validation_goes_on_bit_by_bit(tmp_path: Path) -> None:
    # What ends an epoch comes after its validation: it must not happen twice.
    args = [*SEARCH, "--model.search", "GDAS", *TERMS[2:4], *TERMS[-2:], "--model.derivation", "BestOf"]
    args += ["--model.derivation.n=3", "--model.collapse", "stop", "--model.max_skips", "6"]
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    assert run(tmp_path / "whole", "search", args).status == 0
    fault = Fault(TERMINATE, 2, "validation_step")
    assert run(tmp_path / "broken", "search", [*args, "--resume"], fault).status == 128 + TERMINATE
    assert run(tmp_path / "broken", "search", [*args, "--resume"]).status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_terms_from_yaml_are_those_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    terms = [{"class_path": "supernet.terms.BetaDecay", "init_args": {"weight": 0.5}}, {"class_path": "Shrink"}]
    way = {"class_path": "supernet.derivation.Evolution", "init_args": {"generations": 3}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"model": {"terms": terms, "derivation": way}}))
    short = ["--model.terms+=BetaDecay", "--model.terms.weight=0.5", "--model.terms+=Shrink"]
    short += ["--model.derivation", "Evolution", "--model.derivation.generations=3"]
    printed = []
    for args in (["--config", "own.yaml"], short):
        with pytest.raises(SystemExit):
            search(["--config", str(QUICK_START), *args, "--print_config"])
        printed.append(yaml.safe_load(capsys.readouterr().out)["model"])
    assert printed[0] == printed[1]
    assert [term["class_path"] for term in printed[0]["terms"]] == ["supernet.terms.BetaDecay", "supernet.terms.Shrink"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--model.terms+=BetaDecy"], "unknown term 'BetaDecy': did you mean 'BetaDecay'? (known: "),
        (["--model.terms=[supernet.terms.Shrnk]"], "unknown term 'supernet.terms.Shrnk': did you mean 'Shrink'?"),
        (["--model.terms", "Shrink"], "terms are a list: pass --model.terms+=Shrink"),
        (
            ["--model.terms+=Shrink", "--model.terms.num_lft=2"],
            "Shrink has no option num_lft; did you mean 'num_left'?",
        ),
        (["--model.terms+=supernet.strategies.DARTS"], "cannot be used: it is no SearchTerm"),
        (["--model.terms+=nobodys.Own"], "--model.terms nobodys.Own cannot be used: No module named 'nobodys'"),
        (["--model.derivation", "TopJ"], "unknown way to derive a cell 'TopJ': did you mean 'TopK'? (known: "),
        (["--model.search", "RandomSearch", "--model.terms+=BetaDecay"], "BetaDecay needs a strategy with logits"),
        (["--model.search", "RandomSearch", "--model.derivation", "TopK"], "BestOf and Evolution compare them"),
        (["--model.collapse", "rewnd"], "rewnd"),
    ],
)
def test_mistakes_are_one_sentence(
    args: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:  # the parser ends the program itself
        raise SystemExit(search(["--config", str(QUICK_START), *args]))
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_a_checkpoint_that_tells_terms_in_another_way_is_refused(tmp_path: Path) -> None:
    whole = run(tmp_path, "search", [*SEARCH, "--trainer.max_epochs", "1", "--model.terms+=BetaDecay"])
    assert whole.status == 0
    (path,) = tmp_path.glob("logs/*/version_0/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    for name, value in (("terms", [{"class_path": "BetaDecay", "more": 1}]), ("derivation", {"x": 1})):
        hostile = {**checkpoint, "hyper_parameters": {**checkpoint["hyper_parameters"], name: value}}
        torch.save(hostile, tmp_path / "hostile.ckpt")
        with pytest.raises(
            SupernetError, match=r"its search strategy, its terms, its space or its split is not told as train.py"
        ):
            build_search(str(tmp_path / "hostile.ckpt"), read_checkpoint(str(tmp_path / "hostile.ckpt")))
    assert derive([str(tmp_path / "hostile.ckpt"), "--top_k", "2", "--no_retrain"]) == 2
