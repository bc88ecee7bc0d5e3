"""The data sets: what is known of each, and how its images come into memory as uint8 tensors.

Shapes: N images of C channels, height H and width W.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100

from supernet.data.image_set import ImageSet
from supernet.data.imagenet16 import load_imagenet16
from supernet.errors import SupernetError, nearest
from supernet.files import check_regular
from supernet.network import check_image_size


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before its images are read.

    Args:
        load: ``load(root, download)`` returns the training and the test images.
        num_classes: number of classes.
        image_shape: channels, height and width.
        padding: black pixels around an image before it is cropped for training.
        flip: whether a mirrored image still shows its class.
        mean: mean of each channel over the training images, 0 to 255; None is computed from them.
        std: standard deviation of each channel, likewise.
        by_class: whether its training images come class by class. The halves then have an order of their own: batches
            of one class would lend batch normalisation the statistics of that class.
    """

    load: Callable[[Path, bool], tuple[ImageSet, ImageSet]]
    num_classes: int
    image_shape: tuple[int, int, int]
    padding: int
    flip: bool
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    by_class: bool = False


def halves(num_images: int, by_class: bool = False) -> tuple[list[int], list[int]]:
    """Positions of the images that train the network and of those that train the architecture.

    For 50,000 images this is NAS-Bench-201's official split of CIFAR-10; other sets are split by the same rule. Each
    half is in rising order, or shuffled if the images come class by class.

    >>> [part[:4] for part in halves(50_000)]
    [[0, 5, 7, 11], [1, 2, 3, 4]]
    """
    order = list(range(num_images))
    random.Random(1021).shuffle(order)
    parts = order[: num_images // 2], order[num_images // 2 :]
    return parts if by_class else (sorted(parts[0]), sorted(parts[1]))


def describe(name: str, root: Path, image_size: int | None = None) -> DataSet:
    """Look a data set up by name; ``folder`` is described by what lies under ``root``.

    Raises:
        SupernetError: no data set has this name, or its images cannot be resized, or the folder is missing, empty
            or of the wrong shape.
    """
    if name == "folder":
        return _describe_folder(root, 32 if image_size is None else image_size)
    if name not in DATA_SETS:
        raise SupernetError(f"unknown data set {name!r}: {nearest(name, [*DATA_SETS, 'folder'])}")
    if image_size is not None:
        raise SupernetError(f"the images of {name!r} have one size; image_size={image_size} is for 'folder' only")
    return DATA_SETS[name]


def _digits(root: Path, download: bool) -> tuple[ImageSet, ImageSet]:
    """1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries; a fifth of them are the test set."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.images * 15).to(torch.uint8)[:, None]  # 0..16 becomes 0..240
    everything = ImageSet(pixels, torch.from_numpy(digits.target).long())
    order = list(range(len(pixels)))
    random.Random(1021).shuffle(order)
    fifth = len(order) // 5
    return everything.subset(order[fifth:]), everything.subset(order[:fifth])


def _cifar(kind: type[CIFAR10]) -> Callable[[Path, bool], tuple[ImageSet, ImageSet]]:
    def load(root: Path, download: bool) -> tuple[ImageSet, ImageSet]:
        try:
            parts = [kind(root, train=train, download=download) for train in (True, False)]
        except (OSError, RuntimeError) as error:
            raise SupernetError(
                f"no intact {kind.base_folder} under {root.resolve()}; pass --data.download true to fetch it, or"
                f" --data.root with the folder that holds {kind.base_folder} ({error})"
            ) from None
        train, test = (
            ImageSet(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
            for part in parts
        )
        return train, test

    return load


_LAYOUT = "put the images under ROOT/train/CLASS/ and ROOT/test/CLASS/, or all of them under ROOT/CLASS/"


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _describe_folder(root: Path, image_size: int) -> DataSet:
    check_image_size(image_size, image_size)
    if image_size > _MAX_SIZE:
        raise SupernetError(f"image_size must be at most {_MAX_SIZE:,}, got {image_size}")
    if not root.is_dir():
        raise SupernetError(f"{root.resolve()} is no folder; pass --data.root, and {_LAYOUT}")
    split = (root / "train").is_dir()
    classes = _class_folders(root / "train" if split else root)
    if len(classes) < 2:
        raise SupernetError(
            f"the image folder {root.resolve()} holds {len(classes)} class folder(s), at least 2 are needed: {_LAYOUT}"
        )
    if split and not (root / "test").is_dir():
        raise SupernetError(f"the image folder {root.resolve()} has train/ but no test/: {_LAYOUT}")
    if split and _class_folders(root / "test") != classes:
        raise SupernetError(f"the classes under train/ and test/ of {root.resolve()} differ; name them alike")

    def load(root: Path, download: bool) -> tuple[ImageSet, ImageSet]:
        if split:
            return _read_folder(root / "train", image_size), _read_folder(root / "test", image_size)
        everything = _read_folder(root, image_size)
        order = list(range(len(everything.labels)))
        random.Random(1021).shuffle(order)
        fifth = len(order) // 5
        return everything.subset(order[fifth:]), everything.subset(order[:fifth])

    return DataSet(load, len(classes), (3, image_size, image_size), padding=image_size // 8, flip=True, by_class=split)


_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""What is read, whatever a file is called: Pillow would run another program for some formats."""

_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

_MAX_SIZE, _MAX_PIXELS, _MAX_FILE_BYTES = 4_096, 2**26, 2**26
"""Height and width to which images are resized; pixels of a file, which take up to half a gigabyte on the way; bytes
of a file, whose descriptions Pillow reads whole, and whose comments letter by letter."""


def _image_files(folder: Path) -> list[Path]:
    """The images anywhere under a folder, in order of their folders and names."""
    files: list[tuple[str, str]] = []
    seen: set[tuple[int, int]] = set()
    for parent, _, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            raise SupernetError(f"{parent} is a link to a folder that is there already; remove it")
        seen.add((status.st_dev, status.st_ino))
        files += [(parent, name) for name in names if name.lower().endswith(_ENDINGS)]
    if not files:
        raise SupernetError(
            f"{folder.parent.resolve()} has a class without images: {folder.name}; remove it, or fill it"
        )
    return [Path(parent, name) for parent, name in sorted(files)]


def _read_folder(folder: Path, image_size: int) -> ImageSet:
    """All images of a folder of class folders: shorter side resized, then the centre square."""
    classes = [_image_files(folder / name) for name in _class_folders(folder)]
    shape = (sum(len(files) for files in classes), image_size, image_size, 3)
    try:
        images = np.empty(shape, dtype=np.uint8)
    except MemoryError:
        raise SupernetError(f"{shape[0]} images do not fit the memory; pass a smaller --data.image_size") from None
    for position, path in enumerate(itertools.chain.from_iterable(classes)):
        try:
            images[position] = _read_image(path, image_size)
        except (*_BROKEN_IMAGE, Image.DecompressionBombError) as error:
            raise SupernetError(f"{path} cannot be read as an image ({error}); repair or remove it") from None
    labels = torch.tensor([label for label, files in enumerate(classes) for _ in files])
    return ImageSet(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels)


_BROKEN_IMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
)


def _read_image(path: Path, image_size: int) -> NDArray[np.uint8]:
    """The centre square of an image, shape (image_size, image_size, 3)."""
    check_regular(path, _MAX_FILE_BYTES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is odd about the description of an image, and not of its pixels
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, and {_MAX_PIXELS:,} are the limit")
            if image.mode.startswith("I") or image.mode == "F":  # Pillow would clip it to white or black
                raise ValueError(f"its pixels are of type {image.mode}, not 8 bits a channel")
            square = min(image.size)
            left, top = (image.width - square) / 2, (image.height - square) / 2
            box = (left, top, left + square, top + square)
            return np.asarray(_to_rgb(image).resize((image_size, image_size), box=box))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Three channels; a palette goes by way of RGBA, where its transparent colour is told apart."""
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


DATA_SETS: dict[str, DataSet] = {
    "digits": DataSet(_digits, 10, (1, 8, 8), padding=1, flip=False),
    "cifar10": DataSet(_cifar(CIFAR10), 10, (3, 32, 32), 4, True, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7)),
    "cifar100": DataSet(
        _cifar(CIFAR100), 100, (3, 32, 32), 4, True, mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4)
    ),
    "imagenet16-120": DataSet(
        load_imagenet16, 120, (3, 16, 16), 2, True, mean=(122.68, 116.66, 104.01), std=(63.22, 61.26, 65.09)
    ),
}
"""Every data set with a name of its own; ``folder`` is any folder of class folders."""
