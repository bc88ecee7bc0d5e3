from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from supernet.cli import derive, search
from tests.test_cli import NETWORK, TINY, Found, found, here, run, sentence

__all__ = ["found", "here"]  # fixtures

SHORT = [*NETWORK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_a_search_does_not_go_on_from_a_damaged_checkpoint(found: Found, here: Path, damage: bytes | None) -> None:
    shutil.copytree(found.folder / "logs", "logs")
    (kept,) = here.rglob("last.ckpt")
    kept.write_bytes(kept.read_bytes()[:2000] if damage is None else damage)
    before = kept.read_bytes()
    assert re.search(r"last.ckpt is (damaged|no checkpoint)", sentence(run(search, *TINY, "--resume")))
    assert kept.read_bytes() == before


STRANGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no optimizers": lambda checkpoint: checkpoint.pop("optimizer_states"),
    "optimizers that are none": lambda checkpoint: checkpoint.update(optimizer_states=[None, 0.5]),
    "a tensor of another shape": lambda checkpoint: checkpoint["state_dict"].update({"search.logits": torch.zeros(3)}),
    "a seed that is a list": lambda checkpoint: checkpoint["SearchData"].update(seed=[]),
    "a tensor for the progress": lambda checkpoint: checkpoint["loops"].update(fit_loop=torch.zeros(0)),
    "an endless number of steps": lambda checkpoint: checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"][
        "total"
    ].update(ready=float("inf")),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_a_search_does_not_go_on_from_a_state_that_is_none(found: Found, here: Path, strange: str) -> None:
    shutil.copytree(found.folder / "logs", "logs")
    (kept,) = here.rglob("last.ckpt")
    checkpoint = torch.load(kept, weights_only=True)
    STRANGE[strange](checkpoint)
    torch.save(checkpoint, kept)
    before = kept.read_bytes()
    assert re.search("damaged|start it anew", sentence(run(search, *TINY, "--resume")))
    assert kept.read_bytes() == before


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ("--model.channels 3", "--model.channels was 2, now it is 3"),
        ("--model.search GDAS --model.search.tau_max 5", "--model.search was"),
        ("--model.space.num_nodes 3", "--model.space was"),
        ("--data.batch_size 32", "--data.batch_size was 64, now it is 32"),
        ("--trainer.max_epochs 2", "--trainer.max_epochs was 1, now it is 2"),
        ("--seed_everything 3", "--seed_everything was 0, now it is 3"),
    ],
)
def test_a_search_goes_on_as_it_began_or_begins_anew(found: Found, here: Path, args: str, name: str) -> None:
    shutil.copytree(found.folder / "logs", "logs")
    result = run(search, *TINY, *args.split(), "--resume")
    assert result.status == 0, result.err
    assert name in result.out
    assert "version_1" in str(result.path("genotype"))


MISUSE = """
--seed_everything -1
--seed_everything 99999999999999999999
--trainer.accelerator foo
--trainer.strategy foo
--trainer.devices foo
--trainer.num_nodes 0
--trainer.default_root_dir occupied
--trainer.limit_train_batches 0
--trainer.max_steps 0
--trainer.max_epochs null
--trainer.check_val_every_n_epoch 0
--trainer.val_check_interval 5
--trainer.overfit_batches 2
--trainer.fast_dev_run true
--trainer.enable_checkpointing false
--trainer.precision 16-true
--model.network_lr -1
--model.arch_lr -1
--model.network_momentum -0.5
--model.network_weight_decay -1
--model.arch_betas [0.5,2]
--model.grad_clip 0
--model.score_images 0
--config binary.yaml
--config null.yaml
""".strip().splitlines()


@pytest.mark.parametrize("args", MISUSE)
def test_a_value_that_cannot_be_used_is_one_sentence(here: Path, args: str) -> None:
    Path("occupied").write_text("x")
    Path("binary.yaml").write_bytes(bytes(range(256)))
    Path("null.yaml").write_text("data: null\n")
    sentence(run(search, *TINY, *args.split()))


def test_a_misspelt_group_in_a_file_is_not_taken_for_an_option_of_the_strategy(here: Path) -> None:
    Path("own.yaml").write_text("modle:\n  channels: 2\n")
    message = sentence(run(search, *TINY, "--config", "own.yaml"))
    assert "unknown option --modle" in message


OF_CLASSES = [
    ("--model.terms+=CostPenalty --model.terms.weight=-1", "weight must be 0 or more, got -1.0"),
    ("--model.derivation TopK --model.derivation.k 0", "k must be at least 1, got 0"),
    ("--model.derivation TopK --model.derivation.k x", "--model.derivation.k: Expected a <class 'int'>. Got value: x"),
    ("--model.split 1", "--model.split takes no value but options (--model.split.epoch, --model.split.edge), got 1"),
    ("--model.split.edge 1", "Split needs an epoch: pass --model.split.epoch=..."),
    ("--model.terms+=CostPenalty", "CostPenalty needs a weight: pass --model.terms.weight=..."),
    (
        "--model.search DARTS --model.search.tau_max 3",
        "DARTS has no option tau_max; its options are order, top_k, exclude_none",
    ),
    (
        "--model.search DARTS --model.search.topk 3",
        "DARTS has no option topk; did you mean 'top_k'? its options are order, top_k, exclude_none",
    ),
    ("--model.split.egde 1", "Split has no option egde; did you mean 'edge'? its options are epoch, edge"),
]


@pytest.mark.parametrize(("args", "expected"), OF_CLASSES)
def test_a_mistake_in_an_option_of_a_class_is_told_in_its_own_words(here: Path, args: str, expected: str) -> None:
    assert sentence(run(search, *TINY, *args.split())) == f"error: {expected}\n"


IN_FILES = [
    ("split: {epoc: 2}", "Split has no option epoc; did you mean 'epoch'?"),
    ("terms: [{class_path: CostPenalty, init_args: {wieght: 2}}]", "CostPenalty has no option wieght"),
    ("terms: [{class_path: CostPenalty, init_args: {weight: -1}}]", "error: weight must be 0 or more, got -1.0\n"),
    ("derivation: {class_path: TopK, init_args: {kk: 2}}", "TopK has no option kk; did you mean 'k'?"),
    ("derivation: {class_path: TopK, init_args: {k: 0}}", "error: k must be at least 1, got 0\n"),
    ("search: {class_path: DARTS, init_args: {tau_max: 2}}", "DARTS has no option tau_max"),
]


@pytest.mark.parametrize(("text", "expected"), IN_FILES)
def test_a_mistake_in_a_file_is_told_of_the_class_that_it_is_in(here: Path, text: str, expected: str) -> None:
    Path("own.yaml").write_text(f"model: {{{text}}}")
    message = sentence(run(search, *TINY, "--config", "own.yaml"))
    assert expected in message
    assert "--model.search" not in message


@pytest.mark.parametrize("args", ["--top_k 3", "--exclude_none true", "--model.genotype 7"])
def test_options_that_would_be_ignored_are_refused(here: Path, args: str) -> None:
    sentence(run(derive, "--genotype", "5", "--no_retrain", *NETWORK, *args.split()))


@pytest.mark.parametrize("top_k", ["0", "-1"])
def test_a_number_of_candidates_below_one_is_refused(found: Found, here: Path, top_k: str) -> None:
    assert "at least 1" in sentence(run(derive, found.checkpoint, "--no_retrain", "--top_k", top_k, *NETWORK))


def test_deriving_anew_where_all_cells_are_equally_likely_says_what_to_leave_out(here: Path) -> None:
    options = [
        "--model.search",
        "RandomSearch",
        "--model.search.num_samples",
        "1",
        "--trainer.limit_train_batches",
        "1",
    ]
    searched = run(search, *TINY, *options)
    checkpoint = str(searched.path("retrain it"))
    message = sentence(run(derive, checkpoint, "--no_retrain", "--top_k", "5", *NETWORK))
    assert message.endswith("leave --top_k out\n")
    assert "BestOf" not in message
    assert run(derive, checkpoint, "--no_retrain", *NETWORK).status == 0


def rename(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["x"] = checkpoint["state_dict"].pop("search.logits")


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no record": lambda checkpoint: checkpoint.update(supernet=None),
    "a number for a cell": lambda checkpoint: checkpoint["supernet"].update(genotype=5),
    "no hyperparameters of the data": lambda checkpoint: checkpoint.pop("datamodule_hyper_parameters"),
    "hyperparameters that are none": lambda checkpoint: checkpoint.update(datamodule_hyper_parameters=None),
    "no hyperparameters": lambda checkpoint: checkpoint.pop("hyper_parameters"),
    "no parameters": lambda checkpoint: checkpoint.pop("state_dict"),
    "a renamed parameter": rename,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_one_sentence(found: Found, here: Path, damage: str) -> None:
    checkpoint = torch.load(found.checkpoint, weights_only=True)
    DAMAGE[damage](checkpoint)
    torch.save(checkpoint, "damaged.ckpt")
    sentence(run(derive, "damaged.ckpt", "--no_retrain", "--top_k", "1", *NETWORK))


@pytest.mark.parametrize("args", ["--model.lr -1", "--model.momentum -1", "--trainer.limit_train_batches 0"])
def test_a_final_training_that_cannot_work_is_one_sentence(here: Path, args: str) -> None:
    sentence(run(derive, "--genotype", "5", *SHORT, *args.split()))


def test_epochs_reported_are_those_trained(here: Path) -> None:
    result = run(derive, "--genotype", "5", *NETWORK, "--trainer.max_epochs", "9", "--trainer.max_time", "00:00:00:01")
    told = json.loads(result.path("result").read_text())
    assert told["epochs"] < 9
    assert f" {told['epochs']} epochs from scratch" in result.out


def test_the_program_runs_after_training_in_another_precision(here: Path) -> None:
    result = run(derive, "--genotype", "5", *SHORT, "--trainer.precision", "64-true")
    program = torch.export.load(result.path("program")).module()
    assert program(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)).shape == (3, 10)


@pytest.mark.parametrize("logger", [["false"], ["CSVLogger", "--trainer.logger.save_dir", "x"]])
def test_another_logger_leaves_files_that_exist_and_no_word_of_tensorboard(here: Path, logger: list[str]) -> None:
    for _ in range(2):  # the second run finds the first one's folder
        result = run(search, *TINY, "--trainer.limit_train_batches", "1", "--trainer.logger", *logger)
        assert result.status == 0, result.err
        assert result.path("genotype").is_file()
        assert result.path("retrain it").is_file()
        assert "TensorBoard" not in result.out


def test_a_long_index_is_quoted_as_typed(here: Path) -> None:
    assert "1234567890123456" in sentence(run(derive, "--genotype", "1234567890123456", "--no_retrain"))
