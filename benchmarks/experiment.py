"""What an experiment is: commands a user types, where their figures are, how far each may move. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Need = Literal["table", "cifar10", "gpu"]
"""What an experiment cannot do without."""


@dataclass(frozen=True)
class Figure:
    """One figure of an experiment, and how much it may differ when it is measured again.

    Args:
        name: what it is, in words.
        file: the JSON file that a step leaves, relative to the folder in which the steps run.
        path: how to get to it: keys, one after the other; ``key=value`` is the one entry of a list that says so.
        unit: behind the number.
        scale: what the number in the file is multiplied by.
        digits: of the number, when it is shown.
        spread: the path of its standard deviation, where the file tells that, too.
        is_name: it names something (a cell), and is equal or not.
        same: how much it may differ on the same hardware with the same versions, in its unit; None for any value.
        other: how much it may differ elsewhere.
        spreads: the two are multiples of its standard deviation.
        why: why it may differ.
        headline: it stands in the README.
    """

    name: str
    file: str
    path: tuple[str, ...]
    unit: str = ""
    scale: float = 1.0
    digits: int = 2
    spread: tuple[str, ...] = ()
    is_name: bool = False
    same: float | None = 0.0
    other: float | None = 0.0
    spreads: bool = False
    why: str = ""
    headline: bool = True


@dataclass(frozen=True)
class Experiment:
    """Commands and their figures.

    Args:
        name: of its files in results/.
        what: one line, for the README.
        steps: commands, run one after the other in an empty folder that has train.py, derive.py and configs/. In them
            ``{root}`` is the folder of CIFAR-10, ``{table}`` the file of the table, ``{seed}`` a seed.
        figures: what is read when they have ended.
        minutes: how long it takes on two CPU cores, about.
        needs: what has to be there.
        seeds: all of them, none if nothing is drawn; the steps run once for each if ``{seed}`` is in them.
        notes: how to read the figures.
        details: a JSON file of the last step that is kept as it is.
    """

    name: str
    what: str
    steps: tuple[str, ...]
    figures: tuple[Figure, ...]
    minutes: float
    needs: tuple[Need, ...] = ()
    seeds: tuple[int, ...] = (0,)
    notes: str = ""
    details: str = ""

    @property
    def runs(self) -> tuple[int, ...]:
        """The seeds for which the steps run."""
        return self.seeds if any("{seed}" in step for step in self.steps) else (0,)
