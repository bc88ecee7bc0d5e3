"""The supernet of a checkpoint, and the images on which its cells are compared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supernet.cli.checkpoint import build_search, progress, read_checkpoint, search_images
from supernet.data import ImageSet
from supernet.network import Supernet


@dataclass(frozen=True)
class Opened:
    """What scoring needs, on the device."""

    supernet: Supernet
    batches: list[tuple[Tensor, Tensor]]
    """Images and labels."""

    calibration: list[Tensor]
    """Images of which a cell makes its statistics; none if it takes those of the batch at hand."""

    identity: dict[str, Any]
    """What decides a score, in plain values: scores are of one search only if this is the same."""

    epoch: int
    """How many the search has completed."""

    step: int
    """How many batches it has had, by which TensorBoard counts."""


def open_search(
    path: Path,
    root: str | None,
    num_images: int,
    recalibration_images: int | None,
    device: torch.device,
    batch_size: int | None = None,
) -> Opened:
    """Open a checkpoint and the first images of the validation of its search, in equal batches.

    Args:
        path: the checkpoint.
        root: folder that holds the images; that of the search if not given.
        num_images: images on which cells are compared; all there are if these are fewer.
        recalibration_images: images of the other half, of which a cell makes its statistics; 0 for none,
            None for as many as the search takes when it compares cells.
        device: where it is computed.
        batch_size: images in a batch, at most; as in the validation of the search if not given.

    Raises:
        SupernetError: it is no such checkpoint, or there are no such images.
    """
    checkpoint = read_checkpoint(str(path))
    asked = {"root": root, "eval_batch_size": batch_size, "download": False}
    data = search_images(str(path), checkpoint, **{name: value for name, value in asked.items() if value is not None})
    module = build_search(str(path), checkpoint)
    step, _ = progress(checkpoint)
    epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    supernet = module.supernet.to(device).requires_grad_(False)
    if recalibration_images is None:
        recalibration_images = int(module.hparams["recalibration_images"])
    data.setup()
    for name, limit in {"val": num_images, "train": recalibration_images}.items():
        images, labels = data.sets[name]
        data.sets[name] = ImageSet(images[:limit], labels[:limit])
    like = supernet.stem.get_parameter("0.weight")
    batches = [(images.to(like), labels.to(device)) for images, labels in data.val_dataloader()]
    calibration = [images.to(like) for images, _ in data.calibration_dataloader()] if recalibration_images else []
    digest = hashlib.sha256()
    for part in (*data.sets["val"], *(data.sets["train"] if calibration else ())):
        digest.update(part.cpu().numpy().tobytes())
    identity = {
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "data": data.name,
        "images": len(data.sets["val"].labels),
        "norm": "recalibrated" if calibration else "batch",
        "recalibration_images": len(data.sets["train"].labels) if calibration else 0,
        "batch_size": max(len(labels) for _, labels in batches),
        "images_sha256": digest.hexdigest(),
        "device": device.type,
    }
    return Opened(supernet, batches, calibration, identity, epoch, step)
