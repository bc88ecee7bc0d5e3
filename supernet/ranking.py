"""Does a score put cells in the right order? Plain functions of scores and true accuracies of the same cells.

Shapes: N cells; scores and truths are (N,), and the higher is the better. What is asked of the best cell by a score is
an expectation: of cells with equal scores each is as likely to be taken.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln
from scipy.stats import kendalltau, spearmanr

Values = NDArray[np.float64]


def kendall(scores: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's rank correlation, tau-b: -1 to 1; 0 if all scores, or all truths, are equal."""
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(kendalltau(scores, truth).statistic)


def spearman(scores: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation, -1 to 1; 0 if all scores, or all truths, are equal."""
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(spearmanr(scores, truth).statistic)


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


def among_best(truth: ArrayLike, share: float = 0.1) -> NDArray[np.bool_]:
    """Which cells are among the truly best, shape (N,): that share of all, rounded up, and those equal to the last.

    >>> among_best([3, 1, 2, 2, 0], share=0.4).tolist()
    [True, False, True, True, False]
    """
    values = np.asarray(truth, dtype=np.float64)
    last = np.sort(values)[-ceil(share * len(values))]
    return np.asarray(values >= last)


def expected_pick(scores: ArrayLike, truth: ArrayLike, num_drawn: int) -> float:
    """Expected truth of the cell with the highest score among so many, 1 to N, drawn at random without repetition.

    >>> expected_pick([1, 2, 3], [90, 80, 70], num_drawn=2)  # 80, or 70 with probability 2/3
    73.333...
    """
    order, chances = _highest(np.asarray(scores, dtype=np.float64), num_drawn)
    return float(chances @ np.asarray(truth, dtype=np.float64)[order])


def expected_best(scores: ArrayLike, truth: ArrayLike, num_kept: int) -> float:
    """Expected highest truth among so many cells, 1 to N, with the highest scores.

    Equal scores matter where only some of them are kept.

    >>> expected_best([2, 1, 1], [70, 80, 90], num_kept=2)
    85.0
    """
    values, truths = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    last = np.sort(values)[-num_kept]
    certain, equal = truths[values > last], truths[values == last]
    order, chances = _highest(equal, num_kept - len(certain))
    return float(chances @ np.maximum(equal[order], certain.max(initial=-np.inf)))


def regret(scores: ArrayLike, truth: ArrayLike, num_kept: int = 1, best: float | None = None) -> float:
    """How far `expected_best` is below the highest truth there is, that of these cells if not given; at least 0."""
    highest = float(np.max(truth)) if best is None else best
    return max(0.0, highest - expected_best(scores, truth, num_kept))


def _highest(values: Values, num_drawn: int) -> tuple[NDArray[np.intp], Values]:
    """An order of N values, and how likely each is the highest of so many that are drawn without repetition.

    The highest of n is among the lowest r of N with probability ``C(r, n) / C(N, n)``; equal values share alike.
    """
    order = np.argsort(values, kind="stable")
    _, group, sizes = np.unique(values[order], return_inverse=True, return_counts=True)
    below = np.concatenate([[0.0], np.cumsum(sizes)])
    total = float(len(values))
    # As logarithms: the numbers of subsets have thousands of digits.
    logarithms = np.full(len(below), -np.inf)
    enough = below >= num_drawn
    logarithms[enough] = (
        gammaln(below[enough] + 1) - gammaln(below[enough] - num_drawn + 1)
        - gammaln(total + 1) + gammaln(total - num_drawn + 1)
    )  # fmt: skip
    chances = np.diff(np.exp(logarithms)) / sizes
    return order, chances[group]
