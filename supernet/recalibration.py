"""Running statistics for one cell of a supernet, which keeps none: its accuracy then depends on no other image.

Shapes: B images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from supernet.genotype import Genotype
from supernet.network import Network, Supernet
from supernet.norm import BatchNorm2d


@torch.no_grad()
def recalibrated(supernet: Supernet, genotype: Genotype, batches: Iterable[Tensor]) -> Network:
    """The network of a cell in evaluation mode, with its shared parameters and statistics of its own.

    The running mean and variance of a layer are the means, over the batches, of what it normalises by in training
    (the variance unbiased), as ``torch.optim.swa_utils.update_bn`` makes them. On several ranks, each with its part of
    every batch, they are those of the whole batches.

    Args:
        supernet: has the parameters.
        genotype: the cell.
        batches: images, each of shape (B, channels, H, W).
    """
    network = _tracking(supernet, genotype)
    for images in batches:
        network(images)
    return network.eval()


@torch.no_grad()
def uncalibrated(
    supernet: Supernet, genotype: Genotype, paths: Iterable[Genotype], batches: Sequence[Tensor]
) -> Network:
    """The network of a cell in evaluation mode, with statistics that were gathered under other cells.

    They are those that the supernet would have, had it tracked them on the paths of its training: a layer has the
    mean over the paths that it is part of, however different its inputs are there. A layer on none of the paths is
    as it begins, with mean 0 and variance 1.

    Args:
        supernet: has the parameters.
        genotype: the cell.
        paths: cells; each sees the next of the batches.
        batches: images, each of shape (B, channels, H, W); taken again from the first after the last.
    """
    statistics: dict[str, Tensor] = {}
    for path, images in zip(paths, cycle(batches), strict=False):
        network = _tracking(supernet, path)
        _take(network, statistics)
        network(images)
        statistics |= {_layer(name, path): value for name, value in network.named_buffers()}
    network = _tracking(supernet, genotype)
    _take(network, statistics)
    return network.eval()


def _take(network: Network, statistics: Mapping[str, Tensor]) -> None:
    """Load those statistics that are of layers of this network."""
    names = {name: _layer(name, network.genotype) for name, _ in network.named_buffers()}
    known = {name: statistics[layer] for name, layer in names.items() if layer in statistics}
    network.load_state_dict(known, strict=False)


def _layer(name: str, genotype: Genotype) -> str:
    """A name for a buffer that tells the operations of an edge apart, which have the same place in a network."""
    for (target, source), op in genotype.edges.items():
        name = name.replace(f"edges.{target}<-{source}.", f"edges.{target}<-{source}.{op}.")
    return name


def _tracking(supernet: Supernet, genotype: Genotype) -> Network:
    """The network of a cell, without statistics, ready to take the mean of those of batches."""
    with torch.random.fork_rng(devices=[]):  # it is made with random parameters, which it does not keep
        network = supernet.inherit(genotype).train()
    network.synchronise(True)  # else a cell would have other statistics on each rank
    for module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.momentum = None
    return network


class Ablation(nn.Module):
    """Accuracy of one cell on the same images by statistics of its own, and by those of paths.

    Args:
        num_classes: number of classes.
    """

    NUM_PATHS = 64
    """Enough for each of five operations of an edge to be on some, but once in a million."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.recalibrated, self.uncalibrated = (
            MulticlassAccuracy(num_classes, average="micro", validate_args=False) for _ in range(2)
        )
        self.networks: dict[str, Network] = {}

    def begin(
        self, supernet: Supernet, genotype: Genotype, paths: Iterable[Genotype], batches: Sequence[Tensor]
    ) -> None:
        """Gather both kinds of statistics."""
        self.networks = {
            "recalibrated": recalibrated(supernet, genotype, batches),
            "uncalibrated": uncalibrated(supernet, genotype, paths, batches),
        }

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Count right answers, if it has begun."""
        for name, network in self.networks.items():
            self._accuracy(name).update(network(images), labels)

    def take(self) -> dict[str, Tensor]:
        """The accuracies by name, of all ranks; none if it has not begun. It ends here."""
        found = {name: self._accuracy(name).compute() for name in self.networks}
        for name in self.networks:
            self._accuracy(name).reset()
        self.networks = {}
        return found

    def _accuracy(self, name: str) -> MulticlassAccuracy:
        accuracy: MulticlassAccuracy = getattr(self, name)
        return accuracy
