"""The ways to search that are compared: the textbook's, ours in a bare loop, and ours under Lightning.

All of them train the same supernet by the same strategy on random images of the shape of CIFAR-10: what is on an
image makes no difference to the time. What a strategy draws does, so every way draws the same in a round.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.optim import SGD, Adam

from benchmarks.measure import Sample, Stopwatch, Way, loop
from benchmarks.textbook import textbook_of, textbook_optimizers, textbook_step
from benchmarks.worker_loader import textbook_loader
from supernet.bilevel import Bilevel
from supernet.callbacks import GenotypeExport, SearchPictures
from supernet.data import ImageSet, SearchData
from supernet.genotype import NAS_BENCH_201_OPS
from supernet.module import SearchModule
from supernet.network import Supernet
from supernet.replay import WARM_UP, Recorder, recorder
from supernet.space import CellSpace
from supernet.strategies import DARTS, GDAS, Batch, RandomSearch, SearchStrategy

STRATEGIES: dict[str, Callable[[], SearchStrategy]] = {
    "DARTS": DARTS,
    "GDAS": GDAS,
    "RandomSearch": lambda: RandomSearch(num_samples=1),
}
IMAGE_SHAPE = (3, 32, 32)
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        device: where the steps run.
        channels: C, the width of the first stage.
        num_cells: N, the number of cells in each of the three stages.
        batch: images of each half in a step.
        precision: of ours, 32-true or bf16-mixed; the textbook's is always 32-true.
        num_images: images in each half.
        num_workers: worker processes of the textbook's loader.
        compile: whether the cells of ours are compiled.
        cuda_graphs: whether the steps of ours are replayed as CUDA graphs.
        warm_up: steps before anything is measured.
        network: makes the supernet of ours.
        bilevel: makes the step of ours.
        fused: whether the optimizers of ours run as one kernel on a GPU, or else in loops over the parameters.
        image_workers: whether ours takes the batches of the textbook's loader.
        ops: the candidate operations that are searched over.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    channels: int = 16
    num_cells: int = 5
    batch: int = 64
    precision: str = "32-true"
    num_images: int = 25_000
    num_workers: int = 2
    compile: bool = False
    cuda_graphs: bool = True
    warm_up: int = WARM_UP + 2
    network: Callable[..., Supernet] = Supernet
    bilevel: Callable[..., Bilevel] = Bilevel
    fused: bool = True
    image_workers: bool = False
    ops: tuple[str, ...] = NAS_BENCH_201_OPS

    def autocast(self) -> AbstractContextManager[object]:
        """What Lightning puts around a step for this precision."""
        if self.precision == "32-true":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def supernet(self) -> Supernet:
        """A supernet, always with the same parameters."""
        torch.manual_seed(0)
        return self.network(CellSpace(ops=self.ops), self.channels, self.num_cells).to(self.device)

    def images(self) -> ImageSet:
        """Both halves, one after the other; the same every time."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (2 * self.num_images, *IMAGE_SHAPE), dtype=torch.uint8, generator=generator)
        return ImageSet(images, torch.randint(10, (2 * self.num_images,), generator=generator))


class RandomImages(SearchData):
    """A search on random images in place of CIFAR-10."""

    def __init__(self, setting: Setting) -> None:
        super().__init__("cifar10", batch_size=setting.batch)
        self.setting = setting

    def setup(self, stage: str | None = None) -> None:
        """Make the images; the rest is as for CIFAR-10."""
        images = self.setting.images()
        self.data_set = type(self.data_set)(**{**vars(self.data_set), "load": lambda *_: (images, images)})
        super().setup(stage)

    def _device(self) -> torch.device:
        return self.setting.device


def search_of(name: str, network: Supernet) -> SearchStrategy:
    """A strategy with its parameters where the network is."""
    search = STRATEGIES[name]()
    search.bind(network.space, 0)
    return search.to(network.stem.get_parameter("0.weight").device)


def num_images(name: str, setting: Setting) -> int:
    """Images that a step takes: a strategy without parameters takes no step of its own."""
    search = STRATEGIES[name]()
    search.bind(CellSpace(ops=setting.ops), 0)
    return setting.batch * (1 + search.learns)


def textbook(name: str, setting: Setting) -> Way:
    """The textbook's network, step and loader."""
    supernet = setting.supernet()
    network = textbook_of(supernet, one_path=name != "DARTS")
    search = search_of(name, supernet)
    del supernet
    optimizers = textbook_optimizers(network, search)

    def step(batch: tuple[Batch, Batch]) -> None:
        textbook_step(network, search, *optimizers, *batch)

    return loop(_Workers(setting), step, setting.device, setting.warm_up, search.generator.manual_seed)


def bilevel_of(name: str, setting: Setting, run: Recorder) -> Bilevel:
    """Our step, with the optimizers that a `SearchModule` makes."""
    network = setting.supernet()
    if setting.compile:
        network.compile_cells()
    search, fused = search_of(name, network), setting.fused and setting.device.type == "cuda"
    # Without fused kernels the loops of the textbook's.
    kind: dict[str, bool] = {"fused": True} if fused else {"foreach": False}
    sgd = SGD(network.parameters(), 0.025, 0.9, weight_decay=5e-4, nesterov=True, **kind)
    learned = list(search.parameters())
    adam = Adam(learned, 3e-4, (0.5, 0.999), weight_decay=1e-3, **kind) if learned else None
    return setting.bilevel(network, search, sgd, adam, run, grad_clip=5.0)


def bare(name: str, setting: Setting) -> Way:
    """Our step and our batches in a plain loop, without Lightning."""
    bilevel = bilevel_of(name, setting, recorder(setting.device, setting.cuda_graphs))

    def step(batch: tuple[Batch, Batch]) -> None:
        with setting.autocast():
            bilevel.step(*batch)

    loader = _Workers(setting) if setting.image_workers else _Prepared(setting)
    return loop(loader, step, setting.device, setting.warm_up, bilevel.search.generator.manual_seed)


class _Workers:
    """Pairs of batches from the textbook's loader, brought to the device one by one."""

    def __init__(self, setting: Setting) -> None:
        halves = list(range(setting.num_images)), list(range(setting.num_images, 2 * setting.num_images))
        device = setting.device
        options: dict[str, Any] = {"batch_size": setting.batch, "num_workers": setting.num_workers}
        self.loader = textbook_loader(setting.images(), halves, MEAN, STD, **options, device=device.type)
        self.device = device

    def __iter__(self) -> Iterator[tuple[Batch, Batch]]:
        for batch in self.loader:
            images, labels, val_images, val_labels = (part.to(self.device, non_blocking=True) for part in batch)
            yield (images, labels), (val_images, val_labels)


class _Prepared:
    """Pairs of batches as a search takes them."""

    def __init__(self, setting: Setting) -> None:
        data = RandomImages(setting)
        data.setup()
        self.loader = data.train_dataloader()

    def __iter__(self) -> Iterator[tuple[Batch, Batch]]:
        for batch, *_ in self.loader:
            yield batch["train"], batch["val"]


def ours(name: str, setting: Setting) -> Way:
    """What ``train.py`` runs: Lightning's loop with loggers and callbacks; every round is a run of its own."""
    data, numbers = RandomImages(setting), count(1)

    def run(steps: int) -> Sample:
        options: dict[str, Any] = {"compile": setting.compile, "cuda_graphs": setting.cuda_graphs}
        torch.manual_seed(0)
        space = CellSpace(ops=setting.ops)
        module = SearchModule(STRATEGIES[name](), setting.channels, setting.num_cells, space, **options)
        begin = partial(module.search.generator.manual_seed, next(numbers))
        return under_lightning(module, data, setting, steps, [GenotypeExport(), SearchPictures()], begin)

    return run


def under_lightning(
    module: LightningModule,
    data: LightningDataModule,
    setting: Setting,
    steps: int,
    callbacks: list[Callback],
    begin: Callable[[], object] = lambda: None,
) -> Sample:
    """The time of one of so many steps of a run of its own, with a logger, after its warm-up and ``begin``."""
    timer = _Timer(setting.device, setting.warm_up, steps, begin)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator=setting.device.type,
            devices=1,
            precision=setting.precision,  # type: ignore[arg-type]
            max_epochs=1,
            limit_train_batches=setting.warm_up + steps + 1,  # the last one is always logged, so it does not count
            limit_val_batches=0,
            default_root_dir=folder,
            logger=TensorBoardLogger(folder, default_hp_metric=False),
            callbacks=[*callbacks, timer],
            log_every_n_steps=10,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            benchmark=True,
        )
        trainer.fit(module, datamodule=data)
    return timer.sample


class _Timer(Callback):
    """Measures the last steps of a run."""

    sample: Sample

    def __init__(self, device: torch.device, warm_up: int, steps: int, begin: Callable[[], object]) -> None:
        self.device, self.warm_up, self.steps, self.begin = device, warm_up, steps, begin
        self.data, self.asked = 0.0, time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch has arrived."""
        self.data += time.perf_counter() - self.asked

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start after the warm-up, stop after the last step."""
        if batch_idx + 1 == self.warm_up:
            self.begin()
            self.watch, self.data = Stopwatch(self.device), 0.0
        if batch_idx + 1 == self.warm_up + self.steps:
            self.sample = self.watch.stop(self.steps, self.data)
        self.asked = time.perf_counter()


WAYS: dict[str, Callable[[str, Setting], Way]] = {"textbook": textbook, "bare loop": bare, "ours": ours}
"""From the slowest to what users run."""
