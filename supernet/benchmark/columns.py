"""What a figure of the NAS-Bench-201 table means: trained on what, evaluated on what, for how long.

The published files name these things by keys that say less than they seem to. Here a column says all of it:
``cifar10_25k_valid_200`` is the accuracy on validation images after 200 epochs on 25,000 images of CIFAR-10.
"""

from __future__ import annotations

from dataclasses import dataclass

from supernet.errors import SupernetError, nearest

EPOCHS = (12, 200)
"""Budgets of the published trainings; the learning rate falls to zero within each."""

MEASURES = ("valid", "test", "seconds", "valid-seconds")
"""Accuracies on validation and on test images; how long the training took, and one pass over the validation images."""


@dataclass(frozen=True)
class _Trained:
    """The images of a training."""

    on: str
    valid: str
    """What the validation accuracy is taken on; empty if there is none."""

    test: str


_TRAININGS: dict[tuple[str, str], _Trained] = {
    ("cifar10", "25k"): _Trained(
        "the official 25,000 of the 50,000 training images",
        "the other 25,000 training images",
        "all 10,000 test images",
    ),
    ("cifar10", "50k"): _Trained("all 50,000 training images", "", "all 10,000 test images"),
    ("cifar100", "50k"): _Trained(
        "all 50,000 training images", "5,000 of the test images", "the other 5,000 test images"
    ),
    ("imagenet16-120", "152k"): _Trained(
        "all 151,700 training images", "3,000 of the test images", "the other 3,000 test images"
    ),
}

DATASETS = tuple(dict.fromkeys(dataset for dataset, _ in _TRAININGS))
"""Data sets of the published trainings."""

COLUMN_NAMES = tuple(
    f"{dataset}_{images}_{measure}_{epochs}"
    for (dataset, images), trained in _TRAININGS.items()
    for measure in MEASURES
    if trained.valid or "valid" not in measure
    for epochs in EPOCHS
)
"""Every figure that a table may hold for a cell, by its name."""

_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16-120": "ImageNet16-120"}


@dataclass(frozen=True)
class Column:
    """One figure for each cell.

    Accuracies are in percent, of the last epoch; times in seconds, on the hardware of the publication.

    Args:
        dataset: ``cifar10``, ``cifar100`` or ``imagenet16-120``.
        images: what it was trained on: ``25k`` or ``50k`` of CIFAR-10, else all training images, ``50k`` or ``152k``.
        measure: ``valid``, ``test``, ``seconds`` or ``valid-seconds``.
        epochs: 12 or 200.

    Raises:
        SupernetError: there is no such figure.

    >>> print(Column("cifar10", "50k", "test", 200).meaning)
    CIFAR-10, trained on all 50,000 training images for 200 epochs, tested on all 10,000 test images
    """

    dataset: str
    images: str
    measure: str
    epochs: int

    def __post_init__(self) -> None:
        if str(self) not in COLUMN_NAMES:
            raise SupernetError(f"the table has no column {self}: {nearest(str(self), COLUMN_NAMES)}")

    def __str__(self) -> str:
        return f"{self.dataset}_{self.images}_{self.measure}_{self.epochs}"

    @classmethod
    def parse(cls, name: str) -> Column:
        """The column of a name, as ``cifar10_50k_test_200``.

        Raises:
            SupernetError: no column has this name; the message lists those there are.
        """
        if name not in COLUMN_NAMES:
            raise SupernetError(f"the table has no column {name!r}: {nearest(name, COLUMN_NAMES)}")
        dataset, images, measure, epochs = name.split("_")
        return cls(dataset, images, measure, int(epochs))

    @classmethod
    def reported(cls, dataset: str, epochs: int = 200) -> Column:
        """What papers report: accuracy on test images after training on all training images. No search may see it."""
        images = max((of for name, of in _TRAININGS if name == _check(dataset)), key=lambda of: int(of[:-1]))
        return cls(dataset, images, "test", epochs)

    @classmethod
    def searched(cls, dataset: str, epochs: int = 200) -> Column:
        """What a search over the table may look at: accuracy on validation images, disjoint from those of `reported`.

        For CIFAR-10 it belongs to a training on half of the training images, for the others to that on all of them.
        """
        (images,) = (of for (name, of), trained in _TRAININGS.items() if name == _check(dataset) and trained.valid)
        return cls(dataset, images, "valid", epochs)

    @property
    def is_accuracy(self) -> bool:
        """Whether it is one, and no time."""
        return self.measure in ("valid", "test")

    @property
    def meaning(self) -> str:
        """What the figure is, in words."""
        images = _TRAININGS[self.dataset, self.images]
        trained = f"{_TITLES[self.dataset]}, trained on {images.on} for {self.epochs} epochs"
        return {
            "valid": f"{trained}, validated on {images.valid}",
            "test": f"{trained}, tested on {images.test}",
            "seconds": f"{trained}, seconds of the training",
            "valid-seconds": f"{trained}, seconds of one pass over {images.valid}",
        }[self.measure]


def _check(dataset: str) -> str:
    if dataset not in DATASETS:
        raise SupernetError(f"the table has no data set {dataset!r}: {nearest(dataset, DATASETS)}")
    return dataset
