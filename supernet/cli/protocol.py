"""A final training beside the published one of the same cell, and where their protocols differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Trainer

from supernet.benchmark import Column
from supernet.benchmark.tabulated import Tabulated
from supernet.data import RetrainData
from supernet.genotype import Genotype
from supernet.retrain import RetrainModule

PUBLISHED = {
    "C": 16,
    "N": 5,
    "batch size": 256,
    "learning rate": 0.1,
    "momentum": 0.9,
    "weight decay": 5e-4,
    "precision": "32-true",
    "batch normalisation": "of whole batches",
    "steps that are not finite": "stop",
    "training batches left out": 0,
    "test batches left out": 0,
}
"""All trainings of NAS-Bench-201 (Dong and Yang, 2020); they differ in data set, images and epochs."""


def trained(trainer: Trainer, module: RetrainModule, data: RetrainData) -> dict[str, Any]:
    """What a final training was, under the names of `PUBLISHED`, ``data set`` and ``epochs``."""
    epochs, planned, hparams = trainer.current_epoch, trainer.max_epochs, module.hparams
    is_whole = hparams["sync_batchnorm"] or trainer.world_size == 1
    return {
        "data set": data.name,
        "epochs": epochs if epochs == planned else f"{epochs} of {planned}",
        "C": hparams["channels"],
        "N": hparams["num_cells"],
        "batch size": data.batch_size,
        "learning rate": hparams["lr"],
        "momentum": hparams["momentum"],
        "weight decay": hparams["weight_decay"],
        "precision": trainer.precision,
        "batch normalisation": "of whole batches" if is_whole else "of the part of each device",
        "steps that are not finite": hparams["bad_step"],
        "training batches left out": len(data.train_dataloader()) - int(trainer.num_training_batches),
        "test batches left out": len(data.test_dataloader()) - sum(map(int, trainer.num_test_batches)),
    }


def differences(training: Mapping[str, Any], column: Column) -> list[str]:
    """Where a final training departs from those of a column, in words; empty for the same protocol."""
    published = {"data set": column.dataset, "epochs": column.epochs, **PUBLISHED}
    told = [f"{name} {training[name]} and not {value}" for name, value in published.items() if training[name] != value]
    if training["data set"] == column.dataset:
        if column.images == "25k":
            told.append("all training images and not the official half of them")
        if (column.dataset, column.measure) != ("cifar10", "test"):
            told.append("all test images and not those of the column")
    return told


def beside_the_table(
    tabulated: Tabulated, training: Mapping[str, Any], cell: Genotype, accuracy: float | None
) -> tuple[dict[str, Any], str | None]:
    """How far a final training came from the table, for ``result.json`` and in words; None if one is not known.

    Args:
        tabulated: the table.
        training: what was trained.
        cell: the cell.
        accuracy: on the test images, 0 to 1; None if it was not tested.
    """
    record, found = tabulated.record(cell), differences(training, tabulated.column)
    known = None if accuracy is None or record["accuracy"] is None else 100 * accuracy - record["accuracy"]
    result = {"tabulated": {**record, "difference": known, "protocol_differences": found}}
    return result, None if known is None else _told(known, record["accuracy"], found)


def _told(difference: float, tabulated: float, found: list[str]) -> str:
    """Two sentences.

    >>> print(_told(-1.0, 94.0, ["epochs 12 and not 200"]))
    It is 1.00 points below the tabulated 94.00 %. The protocols differ: epochs 12 and not 200.
    """
    side = "below" if difference < 0 else "above"
    far = f"It is {abs(difference):.2f} points {side} the tabulated {tabulated:.2f} %."
    if found:
        return f"{far} The protocols differ: {'; '.join(found)}."
    return (
        f"{far} The protocol is the same, but for the incomplete last batch of each epoch, which is left out here; the"
        " table has the mean of its trainings, and this is one."
    )
