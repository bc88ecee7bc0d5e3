"""ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware (Cai, Zhu and Han, 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from supernet.strategies.base import Batch, FactorisedSearch, Loss


class ProxylessNAS(FactorisedSearch):
    """A network step trains one path, and an architecture step lets two operations of each edge compete.

    Path and pair are drawn by the softmax of the logits; the pair without replacement. Of the pair, whose
    probabilities are rescaled to sum to one, one is drawn to run. The slope of the loss by both binary gates moves the
    two logits (eq. 4), and both are shifted afterwards, so that the other operations stay as likely as they were
    (section 3.2), whatever momentum, weight decay or a term did to these. One draw serves all cells in a step. The
    paper's optimizer is Adam with a learning rate of 1e-3, betas of 0 and 0.999, and no weight decay.

    Args:
        top_k: how many of the most likely connected cells are compared with shared parameters when deriving.
            1 takes the most likely one, which is the per-edge argmax if that cell is connected.
        exclude_none: derive only cells without the operation 'none'.
    """

    pair: Tensor
    """The operations of each edge that compete in this step, shape (E, O)."""

    before: Tensor
    """The logits before this step."""

    def forward(self) -> Tensor:
        """A path: a one-hot mixture without gradient, drawn by the softmax of the logits (eq. 2)."""
        return self._draw(self.open_logits().detach(), 1).to(self.logits)

    def arch_loss(self, loss: Loss, train: Batch, val: Batch) -> Tensor:
        """The loss of the gates that are drawn of a pair of operations on each edge."""
        self.pair = self._draw(self.open_logits().detach(), 2)
        self.before = self.logits.detach().clone()
        # Where the logits lie on an accelerator, the pair does so, too: there all candidates run.
        return loss(self.gates(), val, support=self.pair if self.pair.device.type == "cpu" else None)

    def gates(self) -> Tensor:
        """Binary gates of the pair, shape (E, O), with the gradient ``dL/da_i = sum_j dL/dg_j p_j (d_ij - p_i)``."""
        logits = self.logits.masked_fill(~self.pair, -torch.inf)
        p = logits.softmax(dim=1)
        return self._draw(logits.detach(), 1) + (p - p.detach())

    @torch.no_grad()
    def after_arch_step(self) -> None:
        """Give the pair the probability that it had together, and the other logits what they were."""
        before, after = (logits.masked_fill(~self.pair, -torch.inf) for logits in (self.before, self.logits))
        # No step, no shift: of equal logits this is zero to the last bit.
        shift = before.logsumexp(dim=1, keepdim=True) - after.logsumexp(dim=1, keepdim=True)
        self.logits.copy_(torch.where(self.pair, self.logits + shift, self.before))

    def _draw(self, logits: Tensor, num_ops: int) -> Tensor:
        """Draw operations of each edge without replacement, as a mask of shape (E, O).

        The largest of the logits with Gumbel noise are such a draw (Kool et al., 2019). The noise comes from the host,
        and the host waits for nothing.
        """
        # -log of an exponential variate is a Gumbel variate; the exponential is never exactly zero.
        noise = torch.empty(logits.shape).exponential_(generator=self.generator).log().neg()
        keys = logits + noise.to(logits, non_blocking=True)
        drawn = torch.zeros_like(keys, dtype=torch.bool)
        drawn.scatter_(1, keys.topk(min(num_ops, keys.shape[1]), dim=1).indices, True)
        return drawn & (logits > -torch.inf)  # an edge may have a single candidate
