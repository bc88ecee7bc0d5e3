"""Batch normalisation by the batches of all ranks, as if one device had them all.

``torch.nn.SyncBatchNorm`` is not used: it refuses tensors on a CPU, where it could not be tested, it needs a module,
while a search cell normalises by a function, and its gradient cannot be differentiated again.

Shapes: B images on this rank, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.ranks import sum_over_ranks, world_size


def batch_norm(inputs: Tensor, scale: Tensor | None, *, synchronised: bool) -> Tensor:
    """Normalise by the batch at hand, without running statistics.

    Args:
        inputs: shape (B, C, H, W).
        scale: factor of each channel, shape (C,).
        synchronised: whether the batch is that of all ranks, or the part that this one has.
    """
    if not synchronised or world_size() == 1:
        return F.batch_norm(inputs, None, None, weight=scale, training=True)
    outputs, _, _, _ = normalise(inputs, scale, None, 1e-5)
    return outputs


def normalise(
    inputs: Tensor, scale: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise by the statistics of the batches of all ranks, which may differ in size; two messages.

    The statistics are in float32 at least. The variance is the mean of the centred squares: the mean of the squares
    less the square of the mean loses its digits where the mean is large.

    Args:
        inputs: shape (B, C, H, W).
        scale: factor of each channel, shape (C,); None for 1.
        bias: what is added to each channel, shape (C,); None for 0.
        eps: added to the variance.

    Returns:
        The normalised inputs; the mean and the biased variance of each channel, shape (C,); how many values of a
        channel they are made of, a scalar.
    """
    values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    num_values = values.new_full((1,), inputs.numel() // inputs.shape[1])
    sums = sum_over_ranks(torch.cat([values.sum((0, 2, 3)), num_values]))
    count = sums[-1]
    mean = sums[:-1] / count
    centred = values - mean[:, None, None]
    variance = sum_over_ranks(centred.square().sum((0, 2, 3))) / count
    factor = (variance + eps).rsqrt()
    outputs = centred * (factor if scale is None else factor * scale)[:, None, None]
    if bias is not None:
        outputs = outputs + bias[:, None, None]
    return outputs.to(inputs.dtype), mean, variance, count


class BatchNorm2d(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` that can normalise by the batches of all ranks.

    It does where `synchronised` is set, there are several ranks, and it normalises by batches at all, which is in
    training, or without running statistics. Its running statistics are then those of the whole batch, too.
    """

    synchronised = False

    def forward(self, input: Tensor) -> Tensor:
        """The normalised inputs, shape (B, C, H, W)."""
        by_batch = self.training or self.running_mean is None
        if not self.synchronised or not by_batch or world_size() == 1:
            outputs: Tensor = super().forward(input)
            return outputs
        outputs, mean, variance, count = normalise(input, self.weight, self.bias, self.eps)
        if self.training and self.track_running_stats:
            self._follow(mean, variance * (count / (count - 1)))
        return outputs

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch; the variance is the unbiased one."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked.to(mean.dtype) if self.momentum is None else self.momentum
        self.running_mean += share * (mean - self.running_mean)
        self.running_var += share * (variance - self.running_var)
