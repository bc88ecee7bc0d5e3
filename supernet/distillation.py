"""What a network learns from another one's answers: divergences between class probabilities, of which q learns from p.

Shapes: B images.
"""

from __future__ import annotations

import torch
from torch import Tensor


def alpha_divergence(logits: Tensor, teacher: Tensor, alpha: float, clip: float = torch.inf) -> Tensor:
    """``D_alpha(p || q) = sum(q * ((p / q)**alpha - 1)) / (alpha * (alpha - 1))`` for each image, shape (B,).

    At 1 it is its limit, KL(p || q), which has q spread over all that p deems possible; at 0 it is KL(q || p). The
    gradient is that of the closed form, ``-sum(q * w * grad(log q))`` with the importance weights
    ``w = (p / q)**alpha / alpha`` held fixed (Wang et al., 2021), so that they can be clipped. At 1 they
    are not: there ``q * w`` is p, which is bounded.

    Args:
        logits: of q, shape (B, classes); what learns.
        teacher: logits of p, shape (B, classes); no gradient goes there.
        alpha: any number; the larger, the dearer it is to overlook what p deems possible, and the smaller, the
            dearer it is to deem possible what p does not.
        clip: largest value of ``(p / q)**alpha``, in the divergence as well; from 2 on it stays at least 0 for every
            alpha from -1 to 1.
    """
    log_q, log_p = logits.log_softmax(dim=1), teacher.detach().log_softmax(dim=1)
    fixed = log_q.detach()
    q, log_ratio = fixed.exp(), log_p - fixed
    if alpha == 1:
        value, weighted = log_p.exp() * log_ratio, log_p.exp()
    elif alpha == 0:
        value, weighted = -q * log_ratio, q * log_ratio
    else:
        power = (alpha * log_ratio).exp().clamp(max=clip)
        value, weighted = q * (power - 1) / (alpha * (alpha - 1)), q * power / alpha
    slope = -(weighted * log_q).sum(dim=1)
    return value.sum(dim=1) + (slope - slope.detach())


def adaptive_alpha_divergence(logits: Tensor, teacher: Tensor, clip: float = 5.0) -> Tensor:
    """For each image the larger one of the alpha-divergences at -1 and at 1, shape (B,) (Wang et al., 2021).

    So the student is called to order both where it deems likely what the teacher does not, and where it overlooks
    what the teacher deems likely.

    Args:
        logits: of the student, shape (B, classes).
        teacher: logits of the teacher, shape (B, classes); no gradient goes there.
        clip: largest importance weight.
    """
    sides = [alpha_divergence(logits, teacher, alpha, clip) for alpha in (-1.0, 1.0)]
    return torch.maximum(*sides)
