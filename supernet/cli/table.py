"""The options --table and --column of both commands: what cells really reach, looked up for people to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser

from supernet.benchmark import open_table
from supernet.benchmark.tabulated import Tabulated, choose_column
from supernet.errors import SupernetError


def add_table_options(parser: LightningArgumentParser) -> None:
    """Add both options."""
    parser.add_argument(
        "--table",
        type=str | None,
        help="Table of NAS-Bench-201: show what the cell reaches in it. No search sees it.",
    )
    parser.add_argument(
        "--column",
        type=str | None,
        help="Its column. If not given: what papers report on this data set, or on cifar10 if it is not tabulated,"
        " after 200 epochs, or after 12 beside a training for 12 epochs.",
    )


def open_tabulated(config: Any, epochs: int = 200) -> Tabulated | None:
    """The table that a command line names, open at its column; None if it names none.

    Args:
        config: the options of the command.
        epochs: how long the trainings of the column should have been, where the command names none and the table has
            a choice; else 200.

    Raises:
        SupernetError: the table cannot be read, or has no such column.
    """
    if config.table is None:
        if config.column is not None:
            raise SupernetError(f"--column {config.column} is a column of a table: pass --table FILE, too")
        return None
    table = open_table(Path(config.table).expanduser())
    return Tabulated(table, choose_column(table, config.column, config.data.name, epochs))


def other_images(tabulated: Tabulated, dataset: str) -> str | None:
    """A sentence for figures that are of another data set than the cell is searched on; None if they are not."""
    if tabulated.column.dataset == dataset:
        return None
    return f"this search is on {dataset}, and what the table tells of its cells is of {tabulated.column.meaning}"
