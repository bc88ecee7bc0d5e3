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


def pareto_front(costs: ArrayLike, values: ArrayLike) -> NDArray[np.intp]:
    """The positions of all points that no other point beats: none is as cheap and better, or as good and cheaper.

    Args:
        costs: less is better; finite.
        values: more is better, as many as there are costs; a point whose value is NaN is on no front.

    Returns:
        Positions, by rising cost; points that are equal in both are on the front together.

    >>> pareto_front([1, 2, 2, 3], [90, 92, 91, 92]).tolist()
    [0, 1]
    """
    known = np.asarray(values, dtype=np.float64)
    prices, group = np.unique(np.asarray(costs), return_inverse=True)
    best = np.full(len(prices), -np.inf)
    np.fmax.at(best, group, known)
    cheaper = np.concatenate(([-np.inf], np.maximum.accumulate(best)))[: len(best)]
    (front,) = np.nonzero((known == best[group]) & (best > cheaper)[group])
    return front[np.argsort(group[front], kind="stable")]


def expected_best(values: ArrayLike, number: int) -> float:
    """The expected highest value of as many points drawn at random, each with equal chance at every draw.

    >>> expected_best([0, 1], 2)
    0.75
    """
    rising = np.sort(np.asarray(values, dtype=np.float64))
    below = (np.arange(len(rising) + 1) / len(rising)) ** number  # the chance that no draw lies higher
    return float(rising @ np.diff(below))


def _or_zero(value: float) -> float:
    return 0.0 if isnan(value) else float(value)
