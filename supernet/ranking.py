"""Does a score put cells in the right order? Plain functions of scores and true accuracies of the same cells."""

from __future__ import annotations

from math import isnan

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, spearmanr

Values = NDArray[np.float64]


def kendall(scores: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's rank correlation, tau-b: -1 to 1; 0 if all scores, or all truths, are equal."""
    return _or_zero(kendalltau(scores, truth).statistic)


def spearman(scores: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation, -1 to 1; 0 if all scores, or all truths, are equal."""
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return 0.0
    return _or_zero(spearmanr(scores, truth).statistic)


def _or_zero(value: float) -> float:
    return 0.0 if isnan(value) else float(value)
