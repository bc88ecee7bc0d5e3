from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from supernet.cli import derive, search
from supernet.cost import cost
from supernet.data import RetrainData
from supernet.genotype import Genotype
from supernet.module import CHECKPOINT_KEY
from supernet.plot import sketch_cell
from supernet.retrain import RetrainModule

ROOT = Path(__file__).resolve().parents[1]
QUICK_START = ROOT / "configs" / "quickstart.yaml"
NETWORK = ["--model.channels", "2", "--model.num_cells", "1"]
TINY = [*NETWORK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|skip_connect~1|nor_conv_1x1~2|"


class Result(NamedTuple):
    status: Any
    out: str
    err: str

    def path(self, label: str) -> Path:
        """The path in the line of the output that starts with a label."""
        found = re.search(rf"^{label} +(?:.* )?(\S+)$", self.out, flags=re.MULTILINE)
        assert found, self.out
        return Path(found[1])


def run(command: Callable[..., int], *args: str, config: Path | None = None) -> Result:
    """A command in this process, as its script calls it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: Any = command(args, config or QUICK_START) if command is search else command(args)
        except SystemExit as stop:  # the parser's way to leave
            status = stop.code
    return Result(status, out.getvalue(), err.getvalue())


def sentence(result: Result) -> str:
    """The one line with which a mistake of the user ends."""
    assert result.status == 2, result
    assert result.err.startswith("error: "), result.err
    assert result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.err
    return result.err


def nothing_was_trained(result: Result, folder: Path) -> bool:
    return "epoch 1/" not in result.out and not [*folder.rglob("*.ckpt"), *folder.rglob("genotype.json")]


class Found(NamedTuple):
    folder: Path
    result: Result

    @property
    def checkpoint(self) -> str:
        return str(self.folder / self.result.path("retrain it"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The quick start, shrunk."""
    folder = tmp_path_factory.mktemp("quick_start")
    with contextlib.chdir(folder):
        return Found(folder, run(search, *TINY))


@pytest.fixture(scope="module")
def retrained(found: Found) -> Found:
    """The command that the quick start prints at its end, shrunk."""
    (line,) = re.findall(r"^retrain it +python derive\.py (.+)$", found.result.out, flags=re.MULTILINE)
    with contextlib.chdir(found.folder):
        options = [*NETWORK, "--trainer.max_epochs", "2", "--data.batch_size", "64"]
        return Found(found.folder, run(derive, *shlex.split(line), *options))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_quick_start_prints_the_cell_its_cost_and_where_everything_lies(found: Found) -> None:
    folder, (status, out, err) = found
    assert (status, err) == (0, "")
    genotype = Genotype.load(folder / found.result.path("genotype"))
    assert str(genotype) in out
    assert sketch_cell(genotype) in out
    assert f"official index {genotype.index}" in out
    assert f"{cost(genotype, 2, 1, 10, (1, 8, 8))} at C=2, N=1" in out
    logs = folder / found.result.path("TensorBoard")
    (events,) = logs.rglob("events.out.tfevents.*")
    assert "derived/cell" in EventAccumulator(str(events)).Reload().Tags()["images"]
    assert re.search(r"python train\.py --config (\S+)", out)
    assert (ROOT / re.findall(r"python train\.py --config (\S+)", out)[0]).is_file()


def test_genotype_file_and_checkpoint_agree(found: Found) -> None:
    record = json.loads((found.folder / found.result.path("genotype")).read_text())
    kept = torch.load(found.checkpoint, weights_only=True)[CHECKPOINT_KEY]
    cell = Genotype.parse(record["genotype"])
    assert kept["genotype"] == record["genotype"]
    assert record["index"] == cell.index
    assert record["edges"] == {f"{target}<-{source}": op for (target, source), op in cell.edges.items()}
    source = record["provenance"]
    assert (source["strategy"], source["seed"], source["data"]) == ("GDAS", 0, "digits")
    assert source["versions"]["torch"] == kept["versions"]["torch"]
    assert 0 <= source["metrics"]["val/derived_accuracy"] <= 1
    assert source["cost"] == cost(cell, 2, 1, 10, (1, 8, 8))._asdict()
    assert "none" not in cell.ops  # the quick start excludes it


def test_the_printed_command_retrains_the_cell_and_leaves_its_result(found: Found, retrained: Found) -> None:
    folder, (status, out, err) = retrained
    assert (status, err) == (0, "")
    cell = str(Genotype.load(found.folder / found.result.path("genotype")))
    for label in ("genotype", "drawing", "checkpoint", "program", "result"):
        assert (folder / retrained.result.path(label)).is_file(), label
    assert Genotype.load(folder / retrained.result.path("genotype")) == Genotype.parse(cell)
    result = json.loads((folder / retrained.result.path("result")).read_text())
    assert (result["genotype"], result["data"], result["epochs"], result["seed"]) == (cell, "digits", 2, 0)
    assert (result["batch_size"], result["hyperparameters"]["channels"]) == (64, 2)
    assert f"Test accuracy on digits: {100 * result['test_accuracy']:.2f} %, 2 epochs" in out
    with Image.open(folder / retrained.result.path("drawing")) as drawing:
        assert len(set(drawing.convert("RGB").get_flattened_data())) > 10


def test_the_program_needs_no_supernet_and_agrees_with_the_network(retrained: Found, tmp_path: Path) -> None:
    data = RetrainData()
    data.setup()
    assert data.normalise is not None
    images, labels = data.sets["test"]
    np.save(tmp_path / "images.npy", images.numpy())
    code = """
import sys, numpy, torch
program = torch.export.load(sys.argv[1]).module()
images = torch.from_numpy(numpy.load("images.npy"))
logits = [program(images[:size]).detach().numpy() for size in (1, 3, len(images))]
assert not [name for name in sys.modules if name.split(".")[0] in ("supernet", "pytorch_lightning")]
numpy.savez("logits.npz", *logits)
"""
    program = retrained.folder / retrained.result.path("program")
    subprocess.run([sys.executable, "-c", code, program], cwd=tmp_path, check=True, timeout=120)
    checkpoint = retrained.folder / retrained.result.path("checkpoint")
    network = RetrainModule.load_from_checkpoint(checkpoint, weights_only=True, map_location="cpu").network.eval()
    with torch.no_grad():
        expected = network(data.normalise(images))
    logits = [torch.from_numpy(part) for part in np.load(tmp_path / "logits.npz").values()]
    for size, part in zip((1, 3, len(images)), logits, strict=True):
        torch.testing.assert_close(part, expected[:size], rtol=1e-4, atol=1e-5)
    reported = json.loads((retrained.folder / retrained.result.path("result")).read_text())["test_accuracy"]
    assert reported == pytest.approx(float((logits[-1].argmax(dim=1) == labels).double().mean()))


@pytest.mark.parametrize("kind", ["checkpoint", "string", "file", "index"])
def test_a_cell_is_named_in_four_ways(found: Found, here: Path, kind: str) -> None:
    path = found.folder / found.result.path("genotype")
    cell = Genotype.load(path)
    naming = {"checkpoint": [found.checkpoint], "string": [str(cell)], "file": [str(path)], "index": [str(cell.index)]}
    args = naming[kind] if kind == "checkpoint" else ["--genotype", *naming[kind]]
    result = run(derive, *args, "--no_retrain", *NETWORK)
    assert (result.status, result.err) == (0, "")
    assert Genotype.load(result.path("genotype")) == cell
    assert result.path("drawing").is_file()
    assert str(cell) in result.out
    assert "epoch 1/" not in result.out
    assert not [*here.rglob("*.ckpt"), *here.rglob("*.pt2"), *here.rglob("result.json")]


@pytest.mark.parametrize("exclude_none", [True, False])
def test_deriving_anew_compares_the_most_likely_cells(found: Found, here: Path, exclude_none: bool) -> None:
    # Logits with one clear winner on each edge: 'none' on the first, a 3x3 convolution everywhere else.
    checkpoint = torch.load(found.checkpoint, weights_only=True)
    logits = torch.zeros(6, 5)
    logits[:, 3] = 9.0
    logits[0] = torch.tensor([9.0, 5.0, 0.0, 0.0, 0.0])
    checkpoint["state_dict"]["search.logits"] = logits
    torch.save(checkpoint, "edited.ckpt")
    options = ["--top_k", "1", "--exclude_none", str(exclude_none).lower()]
    result = run(derive, "edited.ckpt", "--no_retrain", *options, *NETWORK)
    assert (result.status, result.err) == (0, "")
    first = "skip_connect" if exclude_none else "none"
    assert Genotype.load(result.path("genotype")).ops == (first, *["nor_conv_3x3"] * 5)


def test_deriving_from_more_candidates_never_scores_lower(found: Found, here: Path) -> None:
    accuracy = []
    for top_k in ("1", "8"):
        result = run(derive, found.checkpoint, "--no_retrain", "--top_k", top_k, *NETWORK)
        assert (result.status, result.err) == (0, "")
        metrics = json.loads(result.path("genotype").read_text())["provenance"]["metrics"]
        accuracy.append(metrics["val/derived_accuracy"])
    assert accuracy[1] >= accuracy[0]


def test_the_data_of_the_search_are_the_default_and_can_be_overridden(found: Found, here: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for label in ("a", "b", "c"):
        (here / "images" / label).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(pixels).save(here / "images" / label / f"{number}.png")
    small = ["--data.image_size", "8", "--data.batch_size", "4"]
    searched = run(search, "--data.name", "folder", "--data.root", "images", *small, *TINY)
    assert searched.status == 0, searched.err
    checkpoint = str(searched.path("retrain it"))
    default = run(derive, checkpoint, "--no_retrain", *NETWORK)
    assert "retrain_folder" in str(default.path("genotype"))
    size = cost(Genotype.load(default.path("genotype")), 2, 1, 3, (3, 8, 8))
    assert json.loads(default.path("genotype").read_text())["provenance"]["cost"] == size._asdict()
    other = run(derive, found.checkpoint, "--no_retrain", "--data.name", "folder", "--data.root", "images", *NETWORK)
    assert "retrain_folder" in str(other.path("genotype"))


@pytest.mark.parametrize("command", [search, derive])
def test_the_printed_configuration_is_a_configuration_and_changes_nothing(
    here: Path, command: Callable[..., int]
) -> None:
    source = [] if command is search else ["--genotype", CELL]
    first = run(command, *source, *TINY, "--print_config")
    assert first.status == 0
    Path("printed.yaml").write_text(first.out)
    again = run(command, "--config", "printed.yaml", "--print_config")
    assert again.out == first.out
    printed = yaml.safe_load(first.out)
    assert (printed["model"]["channels"], printed["trainer"]["limit_train_batches"]) == (2, 2)


@pytest.mark.parametrize(
    ("command", "names"),
    [(search, ["model.search", "model.search.help"]), (derive, ["genotype", "no_retrain", "top_k", "exclude_none"])],
)
def test_help_names_every_option_that_stays(command: Callable[..., int], names: Sequence[str]) -> None:
    both = ["config", "model.channels", "model.num_cells", "data.name", "data.root", "data.download"]
    result = run(command, "--help")
    assert result.status == 0
    for name in [*both, "seed_everything", "trainer.max_epochs", *names]:
        assert re.search(rf"--{re.escape(name)}\b", result.out), name


def test_overrides_reach_the_run_its_configuration_and_its_checkpoint(here: Path) -> None:
    options = ["--model.search", "GDAS", "--model.search.tau_max", "5", "--seed_everything", "3"]
    result = run(search, "--config", str(ROOT / "configs" / "gdas.yaml"), "--data.name", "digits", *options, *TINY)
    assert (result.status, result.err) == (0, "")
    folder = result.path("genotype").parent
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["search"]["init_args"]["tau_max"] == 5
    assert (config["data"]["name"], config["trainer"]["max_epochs"], config["seed_everything"]) == ("digits", 1, 3)
    assert json.loads((folder / "genotype.json").read_text())["provenance"]["seed"] == 3
    checkpoint = torch.load(result.path("retrain it"), weights_only=True)
    assert checkpoint["hyper_parameters"]["search"]["init_args"]["tau_max"] == 5
    assert checkpoint["hyper_parameters"]["channels"] == 2
    assert checkpoint["datamodule_hyper_parameters"]["name"] == "digits"
    events = EventAccumulator(str(folder)).Reload()
    assert [event.value for event in events.Scalars("arch/temperature")] == [5.0]


def test_two_runs_of_one_configuration_do_not_overwrite_each_other(found: Found, here: Path) -> None:
    first = run(search, *TINY)
    kept = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    second = run(search, *TINY)
    assert first.path("genotype") != second.path("genotype")
    assert {path: path.read_bytes() for path in kept} == kept
    # The same seed finds the same cell again, in this process and in that of the fixture.
    cells = [Genotype.load(path) for path in (first.path("genotype"), second.path("genotype"))]
    assert cells == [Genotype.load(found.folder / found.result.path("genotype"))] * 2


STRATEGY = """
import torch
from supernet.strategies import FactorisedSearch

class Sigmoid(FactorisedSearch):
    def __init__(self, slope: float = 1.0, break_in: int = 99) -> None:
        super().__init__()
        self.slope, self.break_in = slope, break_in

    def start_epoch(self, epoch, num_epochs):
        self.broken = epoch >= self.break_in

    def forward(self):
        return (self.slope * self.logits).sigmoid()

    def arch_loss(self, loss, train, val):
        return loss(self(), val) * (float("inf") if self.broken else 1)
"""


def test_a_strategy_in_the_current_folder_runs_by_its_name(here: Path) -> None:
    (here / "own_strategy.py").write_text(STRATEGY)
    result = run(search, "--model.search", "own_strategy.Sigmoid", "--model.search.slope", "2", *TINY)
    assert (result.status, result.err) == (0, "")
    record = json.loads(result.path("genotype").read_text())
    assert record["provenance"]["strategy"] == "Sigmoid"
    derived = run(derive, str(result.path("retrain it")), "--no_retrain", "--top_k", "1", *NETWORK)
    assert (derived.status, derived.err) == (0, "")
    assert Genotype.load(derived.path("genotype")) == Genotype.parse(record["genotype"])


ODD = """
from supernet.strategies import RandomSearch

class Odd(RandomSearch):
    def get_extra_state(self):
        return {**super().get_extra_state(), "seen": {1, 2}}
"""


def test_a_state_that_a_run_could_not_go_on_from_is_refused_at_the_first_save(here: Path) -> None:
    (here / "odd_strategy.py").write_text(ODD)
    few = ["--model.search", "odd_strategy.Odd", "--model.search.num_samples", "1", "--trainer.max_epochs", "9"]
    result = run(search, *TINY, *few)
    assert "could not go on from what it saves" in sentence(result)
    assert "epoch 2/9" not in result.out


def test_a_loss_that_breaks_later_leaves_the_earlier_epochs_intact(here: Path) -> None:
    (here / "late_strategy.py").write_text(STRATEGY)
    breaking = ["--model.search", "late_strategy.Sigmoid", "--model.search.break_in", "1"]
    result = run(search, *TINY, *breaking, "--trainer.max_epochs", "3")
    assert re.search(r"arch/loss is (inf|nan) .* at epoch 1", sentence(result))
    (checkpoint,) = here.rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0
    assert run(derive, str(checkpoint), "--no_retrain", *NETWORK).status == 0


INTERRUPTION = """
from pytorch_lightning import Callback

class AtEpoch(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1 and not trainer.ckpt_path:
            raise KeyboardInterrupt
"""


def test_an_interrupted_search_says_how_to_go_on_and_goes_on_at_the_next_epoch(here: Path) -> None:
    (here / "interruption.py").write_text(INTERRUPTION)
    three = [*TINY, "--trainer.max_epochs", "3", "--trainer.callbacks+", "interruption.AtEpoch"]
    stopped = run(search, *three)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning left it ignored
    assert stopped.status == 130
    kept = "logs/gdas_digits/version_0/checkpoints/last.ckpt"
    assert stopped.err == f"stopped by SIGINT; its state is {kept}: the same command with --resume goes on\n"
    result = run(search, *three, "--resume")
    assert result.status == 0, result.err
    assert re.findall(r"^epoch (\d)/3", result.out, flags=re.MULTILINE) == ["2", "3"]
    assert str(result.path("retrain it")) == kept
    checkpoint = torch.load(kept, weights_only=True)
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (2, 12)  # two optimizers, two batches, three epochs


def test_train_py_runs_the_quick_start_from_any_folder(here: Path) -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "train.py", *TINY],
        cwd=here, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    done = Result(0, result.stdout, "")
    assert Genotype.load(here / done.path("genotype"))
    assert torch.load(here / done.path("retrain it"), weights_only=True)["hyper_parameters"]["network_lr"] == 0.1


BAD_SEARCH = {
    "a misspelt strategy": ("--model.search GDSA", "unknown search strategy 'GDSA': did you mean 'GDAS'"),
    "a strategy that is nowhere": ("--model.search nowhere.Thing", "nowhere.Thing cannot be used: No module named"),
    "a class that is none": ("--model.search torch.nn.Linear", "torch.nn.Linear cannot be used"),
    "a misspelt option": ("--model.chanels 3", "--model.chanels; did you mean '--model.channels'"),
    "a misspelt option of the trainer": ("--trainer.max_epoch 3", "did you mean '--trainer.max_epochs'"),
    "a misspelt option of the data": ("--data.nme x", "did you mean '--data.name'"),
    "a misspelt option of the strategy": ("--model.search.tau_mx 3", "did you mean 'tau_max'"),
    "a word too many": ("digits", "unknown option digits"),
    "text for a number": ("--model.channels two", "model.channels"),
    "a fraction for a number": ("--model.num_cells 1.5", "model.num_cells"),
    "no channels": ("--model.channels 0", "channels must be at least 1, got 0"),
    "no cells": ("--model.num_cells 0", "num_cells must be at least 1, got 0"),
    "temperatures upside down": ("--model.search.tau_max 0.01", "tau_max >= tau_min > 0"),
    "no candidates": ("--model.search.top_k 0", "top_k must be at least 1"),
    "an unknown operation": ("--model.space.ops [nor_conv_3x4]", "did you mean 'nor_conv_3x3'"),
    "a cell of one node": ("--model.space.num_nodes 1", "num_nodes must be at least 2"),
    "a misspelt data set": ("--data.name cifar11", "did you mean 'cifar10'"),
    "no data": ("--data.name cifar10 --data.root nowhere", "--data.download true"),
    "no folder of images": ("--data.name folder --data.root nowhere", "pass --data.root"),
    "an empty folder of images": ("--data.name folder --data.root .", "at least 2 are needed"),
    "no part of ImageNet": ("--data.name imagenet16-120 --data.root .", "pass --data.root"),
    "images that do not halve": ("--data.name folder --data.root . --data.image_size 30", "multiples of 4"),
    "a batch larger than the split": ("--data.batch_size 720", "pass --data.batch_size 719 or less"),
    "a batch of one": ("--data.batch_size 1", "batch_size must be at least 2"),
    "no epochs": ("--trainer.max_epochs 0", "pass --trainer.max_epochs"),
    "endless epochs": ("--trainer.max_epochs -1", "pass --trainer.max_epochs"),
    "another strategy": (
        "--trainer.devices 2 --trainer.accelerator cpu --trainer.strategy ddp_spawn",
        "several devices need --trainer.strategy auto, got ddp_spawn",
    ),
    "another batch norm": ("--trainer.sync_batchnorm true", "pass --model.sync_batchnorm"),
    "no configuration": ("--config nowhere.yaml", "nowhere.yaml"),
    "a folder for a configuration": ("--config .", "not a file"),
}


@pytest.mark.parametrize("mistake", BAD_SEARCH)
def test_a_mistake_in_a_search_is_one_sentence_before_anything_is_trained(here: Path, mistake: str) -> None:
    args, expected = BAD_SEARCH[mistake]
    result = run(search, *TINY, *args.split())
    assert expected in sentence(result)
    assert nothing_was_trained(result, here)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model:\n  chanels: 2", "did you mean '--model.channels'"),
        ("trainer:\n  max_epoch: 2", "did you mean '--trainer.max_epochs'"),
        ("model:\n  search: GDSA", "did you mean 'GDAS'"),
        ("model: {search: {class_path: GDAS, init_args: {tau_mx: 2}}}", "did you mean 'tau_max'"),
        ("model: [unclosed", "error: "),
        ("- a\n- list", "error: "),
        ("model:\n\tchannels: 2", "error: "),
        ("", "error: "),
    ],
)
def test_a_mistake_in_a_configuration_is_one_sentence(here: Path, text: str, expected: str) -> None:
    Path("own.yaml").write_text(text)
    result = run(search, *TINY, "--config", "own.yaml")
    assert expected in sentence(result)
    assert nothing_was_trained(result, here)


def test_a_loss_that_is_not_finite_says_what_to_lower(here: Path) -> None:
    result = run(search, *TINY, "--model.network_lr", "1e30")
    assert "--model.network_lr (now 1e+30)" in sentence(result)
    assert not list(here.rglob("*.ckpt"))
    result = run(derive, "--genotype", CELL, *TINY, "--model.lr", "1e30")
    assert "--model.lr (now 1e+30)" in sentence(result)
    assert not [*here.rglob("*.ckpt"), *here.rglob("*.pt2")]


BAD_DERIVE = {
    "no cell": ("", "name the cell once"),
    "two cells": ("a.ckpt --genotype 5", "name the cell once"),
    "no such checkpoint": ("nowhere.ckpt", "there is no checkpoint nowhere.ckpt"),
    "a folder": (".", "no checkpoint at all"),
    "an index out of range": ("--genotype 15625", "an official NAS-Bench-201 index is 0 to 15624, got 15625"),
    "a negative index": ("--genotype -1", "index is 0 to 15624, got -1"),
    "a malformed string": ("--genotype |nor_conv_3x3~0|+|x", "malformed cell string: node 2 should read |op~0|op~1|"),
    "an unknown operation": ("--genotype |nor_conv_3x4~0|", "did you mean 'nor_conv_3x3'"),
    "no such file": ("--genotype nowhere.json", "cannot read the genotype file 'nowhere.json'"),
    "a genotype of another space": ("--genotype darts.json", "of another search space cannot be used here"),
    "a file that contradicts itself": ("--genotype torn.json", "contradicts itself: 'index' says 4"),
    "half a file": ("--genotype half.json", "half.json: a genotype file holds JSON"),
    "a misspelt option": ("--genotype 5 --no_retrian", "did you mean '--no_retrain'"),
    "a misspelt source": ("--genotpe 5", "did you mean '--genotype'"),
    "a batch larger than the set": ("--genotype 5 --data.batch_size 1439", "pass --data.batch_size 1438 or less"),
    "no channels": ("--genotype 5 --model.channels 0", "channels must be at least 1, got 0"),
    "no data": ("--genotype 5 --data.name cifar100 --data.root nowhere", "--data.download true"),
    "no epochs": ("--genotype 5 --trainer.max_epochs 0", "pass --trainer.max_epochs"),
}


@pytest.mark.parametrize("mistake", BAD_DERIVE)
def test_a_mistake_in_deriving_is_one_sentence_before_anything_is_trained(here: Path, mistake: str) -> None:
    whole = Genotype.from_index(5).to_json()
    Path("darts.json").write_text('{"normal": [["sep_conv_3x3", 0]], "reduce": []}')
    Path("torn.json").write_text(whole.replace('"index": 5', '"index": 4'))
    Path("half.json").write_text(whole[: len(whole) // 2])
    args, expected = BAD_DERIVE[mistake]
    result = run(derive, *TINY, *args.split())
    assert expected in sentence(result)
    assert "epoch 1/" not in result.out
    assert not [*here.rglob("*.ckpt"), *here.rglob("*.pt2")]


class Hostile:
    """Runs a shell command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.marker))}",)


@pytest.mark.parametrize("options", [[], ["--top_k", "1"]], ids=["kept", "anew"])
def test_a_checkpoint_with_code_in_it_is_refused_and_not_executed(found: Found, here: Path, options: list[str]) -> None:
    checkpoint = torch.load(found.checkpoint, weights_only=True)
    checkpoint["hyper_parameters"]["extra"] = Hostile(here / "executed")
    torch.save(checkpoint, "foreign.ckpt")
    assert "foreign.ckpt is no checkpoint" in sentence(run(derive, "foreign.ckpt", "--no_retrain", *options, *NETWORK))
    assert not (here / "executed").exists()
    torch.load("foreign.ckpt", weights_only=False)  # it would have
    assert (here / "executed").exists()


def test_a_checkpoint_of_something_else_is_refused(retrained: Found, here: Path) -> None:
    trained = str(retrained.folder / retrained.result.path("checkpoint"))
    torch.save({"state_dict": {}}, "other.ckpt")
    torch.save(torch.zeros(3), "tensor.ckpt")
    Path("empty.ckpt").touch()
    for path in (trained, "other.ckpt", "tensor.ckpt"):
        assert "a checkpoint of something else" in sentence(run(derive, path, "--no_retrain"))
    assert "empty.ckpt" in sentence(run(derive, "empty.ckpt", "--no_retrain"))


def mutants(whole: bytes, rng: random.Random) -> list[bytes]:
    """Cut short; bits flipped anywhere; bytes replaced in the pickle, with the archive around it intact."""
    archive = zipfile.ZipFile(io.BytesIO(whole))
    parts = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in parts if name.endswith("data.pkl"))
    results = [whole[: rng.randrange(len(whole))] for _ in range(4)]
    for _ in range(7):
        flipped = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        results.append(bytes(flipped))
    for _ in range(7):
        changed = bytearray(parts[pickled])
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as written:
            for name, content in parts.items():
                written.writestr(name, bytes(changed) if name == pickled else content)
        results.append(buffer.getvalue())
    return results


def test_a_damaged_checkpoint_gives_its_cell_or_one_sentence(found: Found, here: Path) -> None:
    refused = 0
    for mutant in mutants(Path(found.checkpoint).read_bytes(), random.Random(1)):
        Path("damaged.ckpt").write_bytes(mutant)
        result = run(derive, "damaged.ckpt", "--no_retrain", "--trainer.logger", "false", *NETWORK)
        if result.status == 0:
            assert Genotype.load(result.path("genotype"))
        else:
            sentence(result)
            refused += 1
    assert refused > 8
