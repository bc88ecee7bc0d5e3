"""Images for Lightning: the whole set in memory, split for a search or a final training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch import Tensor

from supernet.data.augment import Normalise, crop_flip, draw_crops
from supernet.data.batches import Batches, IndexBatches, Share, no_draws
from supernet.data.image_set import ImageSet
from supernet.data.images import describe, halves
from supernet.errors import SupernetError


class ImageData(LightningDataModule, ABC):
    """Images in memory as uint8, augmented and normalised in batches where the batch lives.

    Args:
        name: digits (embedded), cifar10, cifar100, imagenet16-120, or folder (a folder of class folders).
        root: folder that holds the data set.
        download: fetch CIFAR into ``root`` when it is not there.
        batch_size: images in each training batch; several devices share them.
        eval_batch_size: images in each evaluation batch, at most; several devices share them.
        image_size: height and width to which the images of ``folder`` are resized, a multiple of 4; 32 if not given.
        on_device: hold the whole set in the memory of the accelerator, if it takes less than a quarter of it.
    """

    def __init__(
        self,
        name: str = "digits",
        root: str = "data",
        download: bool = False,
        batch_size: int = 64,
        eval_batch_size: int = 512,
        image_size: int | None = None,
        on_device: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for option, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 2:
                raise SupernetError(f"{option} must be at least 2 for batch normalisation, got {value}")
        self.root = Path(root).expanduser()
        self.data_set = describe(name, self.root, image_size)
        self.num_classes = self.data_set.num_classes
        self.image_shape = self.data_set.image_shape
        self.name, self.download, self.on_device = name, download, on_device
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed = torch.initial_seed() % 2**31
        self.normalise: Normalise | None = None
        self.sets: dict[str, ImageSet] = {}
        self._published: tuple[ImageSet, ImageSet] | None = None

    @abstractmethod
    def split(self, train: ImageSet, test: ImageSet) -> dict[str, ImageSet]:
        """The sets this module serves, by name, out of the published two."""

    def prepare_data(self) -> None:
        """Fetch what is to be fetched; Lightning asks one rank of each machine, and the others wait."""
        if self.download and not self.sets:
            self._published = self.data_set.load(self.root, True)

    def setup(self, stage: str | None = None) -> None:
        """Read the images, once, and put them on the device where they fit."""
        if self.sets:
            return
        train, test = self._published or self.data_set.load(self.root, self.download)
        self._published = None
        for part in (train, test):
            if not len(part.labels) or tuple(part.images.shape[1:]) != self.image_shape:
                raise SupernetError(
                    f"data set {self.name!r} should hold images of shape {self.image_shape} under {self.root},"
                    f" got an array of shape {tuple(part.images.shape)}"
                )
        mean, std = self.data_set.mean, self.data_set.std
        if mean is None or std is None:
            pixels = train.images.transpose(0, 1).flatten(1).double()
            # A channel without any variation is left alone rather than divided by zero.
            mean, std = tuple(pixels.mean(1).tolist()), tuple(pixels.std(1).clamp_min(1.0).tolist())
        self.normalise = Normalise(mean, std)
        sets = self.split(train, test)
        device = self._home(sum(part.images.nbytes for part in sets.values()))
        self.sets = {name: ImageSet(part.images.to(device), part.labels.to(device)) for name, part in sets.items()}

    def _home(self, num_bytes: int) -> torch.device:
        """The accelerator, if the sets take less than a quarter of its memory; else the host."""
        device = self._device()
        fits = device.type == "cuda" and num_bytes < torch.cuda.mem_get_info(device)[1] / 4
        return device if fits and self.on_device else torch.device("cpu")

    def _device(self) -> torch.device:
        """Where the batches are needed."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def prepare(self, images: Tensor) -> Tensor:
        """Normalised floats of uint8 images, shape (B, C, H, W)."""
        if self.normalise is None:
            raise RuntimeError("setup() reads the images and their statistics; call it first")
        floats: Tensor = self.normalise.to(images.device)(images)
        return floats

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draw the crops and flips of so many images."""
        return draw_crops(num_images, self.data_set.padding, self.data_set.flip, generator)

    def augment(self, images: Tensor, draws: Tensor) -> Tensor:
        """Crops and flips of uint8 images, shape (B, C, H, W), as they were drawn; normalised."""
        return self.prepare(crop_flip(images, self.data_set.padding, draws))

    def state_dict(self) -> dict[str, Any]:
        """Seed of the order and the augmentation: a resumed run sees the images an uninterrupted one would."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.seed = state_dict["seed"]

    def shuffled(self, name: str, stream: int) -> Batches:
        """Augmented training batches of a set, in a fresh order each epoch; ``stream`` tells two sets apart."""
        images = self.sets[name]
        if len(images.labels) < 2:
            raise SupernetError(f"data set {self.name!r} is too small: {len(images.labels)} images to train on")
        if len(images.labels) < self.batch_size:
            raise SupernetError(
                f"batch_size {self.batch_size} is larger than the {len(images.labels)} images it is taken from;"
                f" pass --data.batch_size {len(images.labels)} or less"
            )
        share = self._share(self.batch_size, "batch_size")
        if self.batch_size % share.world_size:
            raise SupernetError(
                f"a batch is shared out evenly: batch_size {self.batch_size} is no multiple of the"
                f" {share.world_size} devices; pass --data.batch_size with a multiple"
            )
        order = self._order(name, stream)
        return Batches(images, order, self.draw, self.augment, self._device(), share)

    def image_numbers(self, epoch: int, batch: int) -> dict[str, list[int]]:
        """Which of the published training images a training batch holds, counted from 0; by the set they belong to."""
        return {"train": self._positions("train", 0, epoch, batch)}

    def _order(self, name: str, stream: int) -> IndexBatches:
        labels = self.sets[name].labels
        return IndexBatches(len(labels), self.batch_size, self.seed * 2 + stream, labels.device)

    def _positions(self, name: str, stream: int, epoch: int, batch: int) -> list[int]:
        order = self._order(name, stream)
        order.set_epoch(epoch)
        positions: list[int] = list(order)[batch % len(order)].tolist()
        return positions

    def in_order(self, name: str) -> Batches:
        """Evaluation batches of a set: every image once, the same batches every time."""
        images = self.sets[name]
        order = IndexBatches(len(images.labels), self.eval_batch_size, device=images.labels.device)
        share = self._share(len(images.labels) // max(len(order), 1), "eval_batch_size")
        return Batches(images, order, no_draws, lambda images, _: self.prepare(images), self._device(), share)

    def _share(self, smallest: int, option: str) -> Share:
        """The part of this process in every batch; a batch of ``smallest`` images has to leave some for each."""
        share = Share(self.trainer.global_rank, self.trainer.world_size) if self.trainer else Share()
        if smallest < share.world_size:
            raise SupernetError(
                f"{share.world_size} devices cannot share a batch of {smallest} images; pass a larger --data.{option},"
                " or fewer --trainer.devices"
            )
        return share


class SearchData(ImageData):
    """The training images in two halves: one trains the network, the other the architecture. No test images.

    A training batch is ``{"train": (images, labels), "val": (images, labels)}``. The half that trains the
    architecture also validates, in its own order and without augmentation.
    """

    def split(self, train: ImageSet, test: ImageSet) -> dict[str, ImageSet]:
        """The two `halves` of the training images."""
        network, architecture = halves(len(train.labels), self.data_set.by_class)
        return {"train": train.subset(network), "val": train.subset(architecture)}

    def image_numbers(self, epoch: int, batch: int) -> dict[str, list[int]]:
        """Which of the published training images a training batch holds, counted from 0; by half."""
        parts = halves(sum(len(images.labels) for images in self.sets.values()), self.data_set.by_class)
        return {
            name: [part[position] for position in self._positions(name, stream, epoch, batch)]
            for stream, (name, part) in enumerate(zip(("train", "val"), parts, strict=True))
        }

    def train_dataloader(self) -> CombinedLoader:
        """One batch of each half in every step; the longer half sets the number of steps."""
        loaders = {"train": self.shuffled("train", 0), "val": self.shuffled("val", 1)}
        return CombinedLoader(loaders, "max_size_cycle")

    def val_dataloader(self) -> Batches:
        """The half that trains the architecture, in order."""
        return self.in_order("val")

    def calibration_dataloader(self) -> Batches:
        """The half that trains the network, in order and without augmentation."""
        return self.in_order("train")


class RetrainData(ImageData):
    """All training images, and the test images for the final figure."""

    def split(self, train: ImageSet, test: ImageSet) -> dict[str, ImageSet]:
        """The published training and test images."""
        return {"train": train, "test": test}

    def train_dataloader(self) -> Batches:
        """Training batches."""
        return self.shuffled("train", 0)

    def test_dataloader(self) -> Batches:
        """Test batches."""
        return self.in_order("test")
