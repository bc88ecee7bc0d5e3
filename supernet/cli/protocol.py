"""A final training beside the published one of the same cell: where the protocols differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supernet.benchmark import Column

PUBLISHED = {
    "C": 16,
    "N": 5,
    "batch size": 256,
    "learning rate": 0.1,
    "momentum": 0.9,
    "weight decay": 5e-4,
    "precision": "32-true",
    "training batches left out": 0,
    "test batches left out": 0,
}
"""The trainings of NAS-Bench-201 (Dong and Yang, 2020), which differ in data set, images and epochs only."""


def differences(trained: Mapping[str, Any], column: Column) -> list[str]:
    """What a final training did differently from those of a column, in words; empty for the same protocol.

    Args:
        trained: what it was: the names of `PUBLISHED`, and ``data set`` and ``epochs``.
        column: what it is held against.
    """
    published = {"data set": column.dataset, "epochs": column.epochs, **PUBLISHED}
    told = [f"{name} {trained[name]} and not {value}" for name, value in published.items() if trained[name] != value]
    if trained["data set"] == column.dataset:
        if column.images == "25k":
            told.append("all training images and not the official half")
        if (column.dataset, column.measure) != ("cifar10", "test"):
            told.append("all test images and not those of the column")
    return told


def compared(accuracy: float, tabulated: float, found: list[str]) -> str:
    """Two sentences: how far a final training is from the table, and what the protocols have to do with it.

    >>> print(compared(93.0, 94.0, ["epochs 12 and not 200"]))
    It is 1.00 points below the tabulated 94.00 %. The protocols differ: epochs 12 and not 200.

    Args:
        accuracy: of the final training, in percent.
        tabulated: in percent.
        found: the `differences`.
    """
    distance = accuracy - tabulated
    far = f"It is {abs(distance):.2f} points {'below' if distance < 0 else 'above'} the tabulated {tabulated:.2f} %."
    if found:
        return f"{far} The protocols differ: {'; '.join(found)}."
    return (
        f"{far} The protocol is the same, but for the incomplete last batch of each epoch, which is left out here; the"
        " table has the mean of its trainings, and this is one."
    )
