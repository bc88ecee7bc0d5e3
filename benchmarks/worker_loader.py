"""The textbook way to load images: each one augmented by itself, in worker processes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

from supernet.data import ImageSet


class PairedImages(Dataset[tuple[Tensor, int, Tensor, int]]):
    """An image of the network's half with one drawn from the architecture's half, each augmented by itself.

    Args:
        images: all training images, uint8, shape (N, channels, H, W), and their labels.
        halves: positions of the images that train the network and of those that train the architecture.
        transform: a PIL image to a normalised tensor, shape (channels, H, W).
    """

    def __init__(self, images: ImageSet, halves: tuple[Sequence[int], Sequence[int]], transform: Compose) -> None:
        self.pixels = images.images.permute(0, 2, 3, 1).squeeze(-1).numpy()  # a grey PIL image has no channel axis
        self.labels = images.labels.tolist()
        self.train, self.val = halves
        self.transform = transform

    def __len__(self) -> int:
        return len(self.train)

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor, int]:
        train, val = self.train[index], random.choice(self.val)
        return self._image(train), self.labels[train], self._image(val), self.labels[val]

    def _image(self, position: int) -> Tensor:
        image: Tensor = self.transform(Image.fromarray(self.pixels[position]))
        return image


def textbook_loader(
    images: ImageSet,
    halves: tuple[Sequence[int], Sequence[int]],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    padding: int = 4,
    batch_size: int = 64,
    num_workers: int = 2,
    device: str = "cpu",
) -> DataLoader[Any]:
    """Shuffled batches ``(images, labels, val_images, val_labels)``, augmented one by one in worker processes.

    Args:
        images: all training images, uint8, square, and their labels.
        halves: positions of the images that train the network and of those that train the architecture.
        mean: mean of each channel, 0 to 255.
        std: standard deviation of each channel, 0 to 255.
        padding: black pixels around an image before it is cropped.
        batch_size: images of each half in a batch; the last batch of an epoch may be smaller.
        num_workers: worker processes; 0 augments in this one.
        device: where the batches will go; for an accelerator they are put into pinned memory.
    """
    transform = Compose(
        [
            RandomHorizontalFlip(),
            RandomCrop(images.images.shape[-1], padding=padding),
            ToTensor(),
            Normalize([value / 255 for value in mean], [value / 255 for value in std]),
        ]
    )
    return DataLoader(
        PairedImages(images, halves, transform),
        batch_size=batch_size,
        shuffle=True,
        num_workers=num_workers,
        pin_memory=device.startswith("cuda"),
    )
