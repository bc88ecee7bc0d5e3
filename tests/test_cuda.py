"""What only a CUDA device can show; skipped where there is none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch.optim import SGD

import supernet.strategies
from supernet.bilevel import Bilevel
from supernet.cli.parser import STRATEGIES as NAMES
from supernet.data import RetrainData, SearchData
from supernet.descent import Descent
from supernet.genotype import Genotype
from supernet.module import SearchModule
from supernet.network import Network, Supernet
from supernet.replay import WARM_UP, recorder
from supernet.retrain import RetrainModule
from supernet.strategies import DARTS, Batch, SearchStrategy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
FEW = {"SPOS": {"population": 3, "generations": 2}, "FairNAS": {"population": 3, "generations": 2}}
FEW |= {"AlphaNet": FEW["SPOS"], "RandomSearch": {"num_samples": 2}, "SETN": {"num_samples": 2}}
FEW |= {"ENAS": {"num_samples": 2, "num_early_samples": 2, "arch_steps_per_epoch": 2, "samples_per_step": 2}}
STRATEGIES = [pytest.param(partial(getattr(supernet.strategies, name), **FEW.get(name, {})), id=name) for name in NAMES]


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(16, 3, 16, 16, generator=generator)
    return images.cuda(), torch.randint(10, (16,), generator=generator).cuda()


def train(strategy: SearchStrategy, cuda_graphs: bool, precision: torch.dtype | None) -> Bilevel:
    torch.manual_seed(0)
    network = Supernet(channels=8, num_cells=2).cuda()
    strategy.bind(network.space, 3)
    strategy.depth = network.depth
    strategy.cuda()
    learns = any(True for _ in strategy.parameters())
    adam = strategy.make_optimizer(3e-3, (0.5, 0.999), 0.0) if learns else None
    sgd = SGD(network.parameters(), 0.025, 0.9, weight_decay=5e-4, nesterov=True, fused=True)
    bilevel = Bilevel(network, strategy, sgd, adam, recorder(torch.device("cuda"), cuda_graphs), grad_clip=5.0)
    for step in range(WARM_UP + 5):
        sgd.param_groups[0]["lr"] = 0.025 / (1 + step)
        with torch.autocast("cuda", precision or torch.bfloat16, enabled=precision is not None):
            bilevel.step(batch(2 * step), batch(2 * step + 1))
    return bilevel


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_graphs_compute_what_single_launches_compute(
    strategy: Callable[[], SearchStrategy], precision: torch.dtype | None
) -> None:
    # Kernels may be chosen differently, so the results agree up to the rounding of some steps.
    replayed, launched = (train(strategy(), cuda_graphs, precision) for cuda_graphs in (True, False))
    assert replayed.recorder.recordings
    assert not launched.recorder.recordings
    tolerance = 1e-3 if precision is None else 3e-2
    for ours, theirs in zip(replayed.supernet.parameters(), launched.supernet.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(replayed.search.parameters(), launched.search.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    one, other = replayed.descent.tally.take(), launched.descent.tally.take()
    assert one.loss == pytest.approx(other.loss, rel=tolerance)
    assert (one.steps, one.images) == (other.steps, other.images)


def test_a_gpu_computes_what_a_cpu_computes() -> None:
    torch.manual_seed(0)
    network, mixture = Supernet(channels=4, num_cells=1).double(), torch.rand(6, 5, dtype=torch.float64).softmax(1)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    there = copy.deepcopy(network).cuda()(images.cuda(), mixture.cuda())
    torch.testing.assert_close(there.cpu(), network(images, mixture), rtol=1e-9, atol=1e-10)


def test_running_statistics_are_kept_by_a_recording() -> None:
    networks = []
    for cuda_graphs in (True, False):
        torch.manual_seed(0)
        network = Network(Genotype.from_index(6111), 8, 1).cuda()
        optimizer = SGD(network.parameters(), 0.1, 0.9, nesterov=True, fused=True)
        descent = Descent(network, optimizer, recorder(torch.device("cuda"), cuda_graphs))
        for step in range(WARM_UP + 4):
            descent.step(*batch(step))
        networks.append(network)
    for (name, ours), theirs in zip(networks[0].state_dict().items(), networks[1].state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3, msg=name)


def trainer(folder: Path, precision: str, epochs: int, **further: Any) -> Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options: dict[str, Any] = {
        **dict.fromkeys(quiet, False),
        "precision": precision,
        "default_root_dir": folder,
        **further,
    }
    return Trainer(accelerator="gpu", devices=1, max_epochs=epochs, **options)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_runs_and_learns(tmp_path: Path, strategy: Callable[[], SearchStrategy], precision: str) -> None:
    seed_everything(0)
    module = SearchModule(strategy(), 8, 1, image_shape=(1, 8, 8), network_lr=0.1)
    trainer(tmp_path, precision, 6).fit(module, datamodule=SearchData())
    assert module.genotype is not None
    assert module.running["network"].loss < 2.2  # chance is 2.30


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_replayed_validation_sees_the_network_as_it_is(tmp_path: Path, precision: str) -> None:
    errors: list[float] = []

    class Comparing(Callback):
        def on_validation_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: int
        ) -> None:
            assert isinstance(pl_module, SearchModule)
            mixture = pl_module.search()
            with trainer.precision_plugin.val_step_context():
                seen = pl_module.look(batch[0], mixture).clone()
                errors.append(float((seen - pl_module(batch[0], mixture)).norm() / seen.norm()))

    seed_everything(0)
    module = SearchModule(DARTS(), 8, 1, image_shape=(1, 8, 8), network_lr=0.1)
    trainer(tmp_path, precision, 4, callbacks=[Comparing()]).fit(module, datamodule=SearchData())
    assert max(errors) < (1e-3 if precision == "32-true" else 3e-2)


def test_a_compiled_search_runs(tmp_path: Path) -> None:
    seen: set[object] = set()

    class Counting(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, SearchModule)
            seen.update(key[0] for key in pl_module.recorder.recordings)

    module = SearchModule(DARTS(), 4, 1, image_shape=(1, 8, 8), compile=True)
    trainer(tmp_path, "bf16-mixed", 2, callbacks=[Counting()]).fit(module, datamodule=SearchData())
    assert seen >= {"arch", "descent"}


def test_a_final_training_learns_the_digits(tmp_path: Path) -> None:
    seed_everything(0)
    module = RetrainModule(str(Genotype.from_index(6111)), 8, 1, image_shape=(1, 8, 8))
    run, data = trainer(tmp_path, "bf16-mixed", 8), RetrainData(batch_size=64)
    run.fit(module, datamodule=data)
    assert run.test(module, datamodule=data, verbose=False)[0]["test/accuracy"] > 0.9
