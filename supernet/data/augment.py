"""Batched augmentation: one draw for every image, on whatever device the batch lives.

Shapes: a batch is (B, C, H, W), uint8 values 0 to 255.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def draw_crops(num_images: int, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Draw what `crop_flip` needs for so many images, on the host, so that every device sees the same images.

    Args:
        num_images: B, how many images.
        padding: black pixels that are added on each side before an image is cropped; 0 turns cropping off.
        flip: whether half of the images are mirrored.
        generator: source of the draws, on the host.

    Returns:
        Top and left corner of the crop, 0 to 2 * padding, and 1 for a mirrored image; int64, shape (3, B).
    """
    return torch.stack(
        [
            torch.randint(2 * padding + 1, (num_images,), generator=generator),
            torch.randint(2 * padding + 1, (num_images,), generator=generator),
            torch.randint(2, (num_images,), generator=generator) * int(flip),
        ]
    )


def crop_flip(images: Tensor, padding: int, draws: Tensor) -> Tensor:
    """Random crops of the zero-padded images and random horizontal flips, each image by its own draw.

    Args:
        images: shape (B, C, H, W), any dtype.
        padding: black pixels added on each side before an H x W crop is taken.
        draws: what `draw_crops` drew with the same padding, shape (3, B).

    Returns:
        A batch of the same shape and dtype.
    """
    batch, _, height, width = images.shape
    top, left, mirrored = draws.to(images.device, non_blocking=True)
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    crops = windows[torch.arange(batch, device=images.device), :, top, left]
    return torch.where(mirrored[:, None, None, None] > 0, crops.flip(3), crops)


class Normalise(nn.Module):
    """Images to floats of zero mean and unit deviation: ``(images - mean) / std``, channel by channel.

    Args:
        mean: mean of each channel, 0 to 255.
        std: standard deviation of each channel, 0 to 255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Float images, shape (B, C, H, W), of images with values 0 to 255."""
        return (images.float() - self.mean) / self.std
