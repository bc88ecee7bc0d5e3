"""What columns mean: against the protocol of the publication."""

from __future__ import annotations

import pytest

from supernet.benchmark import COLUMN_NAMES, DATASETS, Column
from supernet.errors import SupernetError


def test_every_name_is_that_of_its_column() -> None:
    assert len(set(COLUMN_NAMES)) == len(COLUMN_NAMES)
    for name in COLUMN_NAMES:
        assert str(Column.parse(name)) == name


def test_there_is_a_figure_for_all_that_was_published() -> None:
    """Three of the four trainings validate: two accuracies and two times a budget; the fourth has one of each."""
    assert len(COLUMN_NAMES) == 2 * (3 * 4 + 2)
    assert sum(Column.parse(name).is_accuracy for name in COLUMN_NAMES) == 2 * (3 * 2 + 1)


def test_what_is_reported_is_never_searched() -> None:
    for dataset in DATASETS:
        for epochs in (12, 200):
            searched, reported = Column.searched(dataset, epochs), Column.reported(dataset, epochs)
            assert (searched.measure, reported.measure) == ("valid", "test")
            assert "validated on" in searched.meaning
            assert "tested on" in reported.meaning
            # Only of CIFAR-10 is the validation cut from the training images.
            assert (searched.images == reported.images) == (dataset != "cifar10")
    assert str(Column.searched("cifar10")) == "cifar10_25k_valid_200"
    assert str(Column.reported("cifar10", 12)) == "cifar10_50k_test_12"


def test_meanings_tell_columns_apart() -> None:
    meanings = {Column.parse(name).meaning for name in COLUMN_NAMES}
    assert len(meanings) == len(COLUMN_NAMES)
    for name in COLUMN_NAMES:
        column = Column.parse(name)
        assert f" for {column.epochs} epochs" in column.meaning
        assert ("seconds" in column.meaning) == (not column.is_accuracy)


@pytest.mark.parametrize(
    "name", ["cifar10_50k_valid_200", "cifar10_50k_test_90", "", "cifar10", "CIFAR10_50k_test_200"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(SupernetError, match="known: cifar10_25k_valid_12"):
        Column.parse(name)


def test_other_data_sets_are_refused() -> None:
    for method in (Column.reported, Column.searched):
        with pytest.raises(SupernetError, match="no data set 'cifar-10': did you mean 'cifar10'"):
            method("cifar-10")
    with pytest.raises(SupernetError, match="no column cifar10_50k_test_90"):
        Column.reported("cifar10", 90)
