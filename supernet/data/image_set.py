"""Images and their classes, held in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ImageSet(NamedTuple):
    """Images and their classes."""

    images: Tensor
    """uint8, shape (N, C, H, W)."""
    labels: Tensor
    """int64, shape (N,), classes numbered from 0."""

    def subset(self, indices: list[int]) -> ImageSet:
        """The images with these positions, in this order."""
        chosen = torch.tensor(indices, dtype=torch.long)
        return ImageSet(self.images[chosen], self.labels[chosen])
