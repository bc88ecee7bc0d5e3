"""The ways to train one cell from scratch: the textbook's, ours in a bare loop, and ours under Lightning.

The textbook's network is what the public implementations build: every edge is a module, ``none`` is one that
multiplies by zero, all in the default memory layout, with PyTorch's own pooling. Its loop reads every loss at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

from benchmarks.measure import Sample, Way, loop
from benchmarks.memory import alive_between, count, random_batch, read_off
from benchmarks.textbook import FIXED
from benchmarks.ways import MEAN, STD, Setting, under_lightning
from benchmarks.worker_loader import PairedImages
from supernet.data import ImageSet, RetrainData
from supernet.descent import Descent
from supernet.genotype import Genotype
from supernet.network import Network, Skeleton
from supernet.ops import CONVOLUTIONS
from supernet.replay import Recorder, recorder
from supernet.retrain import RetrainModule
from supernet.strategies import Batch


class TextbookCell(nn.Module):
    """A discovered cell, a module for every edge."""

    def __init__(self, genotype: Genotype, channels: int) -> None:
        super().__init__()
        self.num_nodes = genotype.num_nodes
        self.edges = nn.ModuleDict(
            {f"{target}<-{source}": textbook_op(op, channels) for (target, source), op in genotype.edges.items()}
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """The output node, shape (B, C, H, W)."""
        nodes = [inputs]
        for target in range(1, self.num_nodes):
            total = sum(self.edges[f"{target}<-{source}"](node) for source, node in enumerate(nodes))
            assert isinstance(total, Tensor)
            nodes.append(total)
        return nodes[-1]


def textbook_op(op: str, channels: int) -> nn.Module:
    """One operation of a final network: batch normalisation is affine and keeps running statistics."""
    if op not in CONVOLUTIONS:
        return FIXED[op]()
    kernel = CONVOLUTIONS[op]
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels))


class TextbookNetwork(Skeleton):
    """The same function as `supernet.network.Network`, with parameters of the same names.

    Args:
        genotype: the cell.
        channels: C, the width of the first stage.
        num_cells: N, the number of cells in each of the three stages.
        num_classes: number of classes.
        image_channels: channels of the images.
    """

    def __init__(
        self, genotype: Genotype, channels: int = 16, num_cells: int = 5, num_classes: int = 10, image_channels: int = 3
    ) -> None:
        super().__init__(
            lambda width: TextbookCell(genotype, width),
            channels=channels,
            num_cells=num_cells,
            num_classes=num_classes,
            image_channels=image_channels,
            track=True,
        )
        for parameter in self.parameters():
            # Whatever layout the skeleton prefers. A 1x1 kernel counts as contiguous in either, so only a copy helps.
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits, shape (B, num_classes), of normalised images."""
        features = self.stem(images.contiguous())
        for block in self.blocks:
            features = block(features)
        logits: Tensor = self.head(features)
        return logits


def textbook_sgd(network: nn.Module) -> SGD:
    """The optimizer of the final recipe, parameter by parameter."""
    return SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, foreach=False)


def textbook_step(
    network: nn.Module, optimizer: Optimizer, batch: Batch, read: Callable[[Tensor], object] = Tensor.item
) -> None:
    """One step on a batch on the device; ``read`` takes the loss at once, as a running average does."""
    images, labels = batch
    optimizer.zero_grad()
    loss = F.cross_entropy(network(images), labels)
    torch.autograd.backward(loss)
    optimizer.step()
    read(loss.detach())


class SingleImages(PairedImages):
    """One image of the set, augmented by itself, and its label."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:  # type: ignore[override]
        return self._image(index), self.labels[index]


def textbook_loader(images: ImageSet, batch_size: int, num_workers: int, device: torch.device) -> DataLoader[Any]:
    """Shuffled batches ``(images, labels)``, augmented one by one in worker processes."""
    crop = RandomCrop(images.images.shape[-1], padding=4)
    scale = Normalize([value / 255 for value in MEAN], [value / 255 for value in STD])
    everything = range(len(images.labels))
    data = SingleImages(images, (everything, ()), Compose([RandomHorizontalFlip(), crop, ToTensor(), scale]))
    return DataLoader(data, batch_size, shuffle=True, num_workers=num_workers, pin_memory=device.type == "cuda")


class RandomImages(RetrainData):
    """A final training on random images in place of CIFAR-10."""

    def __init__(self, setting: Setting) -> None:
        super().__init__("cifar10", batch_size=setting.batch)
        self.setting = setting

    def setup(self, stage: str | None = None) -> None:
        """Make the images; the rest is as for CIFAR-10."""
        images = self.setting.images()
        self.data_set = replace(self.data_set, load=lambda *_: (images, images.subset([0])))
        super().setup(stage)

    def _device(self) -> torch.device:
        return self.setting.device


def network_of(genotype: Genotype, setting: Setting) -> Network:
    """The standalone network of a cell, always with the same parameters."""
    torch.manual_seed(0)
    return Network(genotype, setting.channels, setting.num_cells).to(setting.device)


def textbook_of(genotype: Genotype, setting: Setting) -> tuple[TextbookNetwork, SGD]:
    """The textbook's network with the parameters of `network_of`, and its optimizer."""
    network = TextbookNetwork(genotype, setting.channels, setting.num_cells).to(setting.device)
    network.load_state_dict(network_of(genotype, setting).state_dict())
    return network, textbook_sgd(network)


def descent_of(genotype: Genotype, setting: Setting, run: Recorder) -> Descent:
    """Our step, with the optimizer that a `RetrainModule` makes."""
    network = network_of(genotype, setting)
    fused = setting.device.type == "cuda"
    return Descent(network, SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True, fused=fused), run)


def textbook(genotype: Genotype, setting: Setting) -> Way:
    """The textbook's network, step and loader."""
    network, optimizer = textbook_of(genotype, setting)
    loader = textbook_loader(setting.images(), setting.batch, setting.num_workers, setting.device)

    def step(batch: list[Tensor]) -> None:
        images, labels = (part.to(setting.device, non_blocking=True) for part in batch)
        textbook_step(network, optimizer, (images, labels))

    return loop(loader, step, setting.device, setting.warm_up)


def bare(genotype: Genotype, setting: Setting) -> Way:
    """Our step and our batches in a plain loop, without Lightning."""
    descent = descent_of(genotype, setting, recorder(setting.device, setting.cuda_graphs))
    data = RandomImages(setting)
    data.setup()

    def step(batch: Batch) -> None:
        with setting.autocast():
            descent.step(*batch)

    return loop(data.train_dataloader(), step, setting.device, setting.warm_up)


def ours(genotype: Genotype, setting: Setting) -> Way:
    """What ``derive.py`` runs: Lightning's loop with a logger; every round is a run of its own."""
    data = RandomImages(setting)

    def run(steps: int) -> Sample:
        torch.manual_seed(0)
        sizes = setting.channels, setting.num_cells
        module = RetrainModule(str(genotype), *sizes, cuda_graphs=setting.cuda_graphs)
        return under_lightning(module, data, setting, steps, [])

    return run


WAYS: dict[str, Callable[[Genotype, Setting], Way]] = {"textbook": textbook, "bare loop": bare, "ours": ours}
"""From the slowest to what users run."""


def count_step(genotype: Genotype, way: str, setting: Setting) -> tuple[int, int]:
    """Launches and peak bytes of a step: measured on a GPU, counted elsewhere; see `benchmarks.memory`."""
    if setting.device.type == "cuda":
        in_loop = "bare loop" if way == "ours" else way
        return read_off(lambda: WAYS[way](genotype, setting), lambda: WAYS[in_loop](genotype, setting))
    setting = replace(setting, device=torch.device("meta"))
    batch = random_batch(setting)
    if way == "textbook":
        network, optimizer = textbook_of(genotype, setting)
        return count(
            lambda: textbook_step(network, optimizer, batch, read=lambda loss: None),
            lambda: alive_between([network], [optimizer], batch),
        )
    descent = descent_of(genotype, setting, Recorder(setting.device))
    return count(lambda: descent.step(*batch), lambda: alive_between([descent.network], [descent.optimizer], batch))
