"""What a table says of the cell that a search has found: for people to read, and for no search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from supernet.benchmark.columns import DATASETS, Column
from supernet.benchmark.tabular import Place, TabularBenchmark
from supernet.errors import SupernetError, nearest
from supernet.genotype import NAS_BENCH_201_OPS, Genotype
from supernet.space import CellSpace


def choose_column(table: TabularBenchmark, named: str | None, dataset: str, epochs: int = 200) -> Column:
    """The accuracies of a table to which a cell is held.

    Args:
        table: of NAS-Bench-201.
        named: the name of the column, if somebody has chosen it.
        dataset: what the cell was found or trained on. Without a name it is what papers report on this data set, or
            on CIFAR-10 where the table does not have it.
        epochs: 12 if the trainings of the column should have been that long, where the table has such; else 200.

    Raises:
        SupernetError: the table has no such column, or it holds no accuracies.
    """
    accuracies = {str(column): column for column in table.columns if column.is_accuracy}
    if not accuracies:
        raise SupernetError(f"{table.source} has no accuracies; take a table of NAS-Bench-201")
    if named is not None:
        if named not in accuracies:
            raise SupernetError(f"{table.source} has no accuracies {named}: {nearest(named, accuracies)}")
        return accuracies[named]
    own = [dataset] if dataset in DATASETS else []
    lengths = [12, 200] if epochs == 12 else [200]
    reported = [str(Column.reported(name, length)) for name in (*own, "cifar10") for length in lengths]
    return accuracies[next((name for name in reported if name in accuracies), next(iter(accuracies)))]


@dataclass(frozen=True, eq=False)
class Tabulated:
    """One accuracy of a table, looked up for cells that are reported.

    A table may lack a cell. A report says so, and goes on.

    Args:
        table: of NAS-Bench-201.
        column: which accuracy.

    Raises:
        SupernetError: the table has no such column, or knows no cell in it; or the column is no accuracy.
    """

    table: TabularBenchmark
    column: Column

    def __post_init__(self) -> None:
        choose_column(self.table, str(self.column), self.column.dataset)
        if not self.num_cells:
            raise SupernetError(f"{self.table.source} has no figure in its column {self.column}")

    @property
    def num_cells(self) -> int:
        """How many cells it has."""
        return int(np.count_nonzero(~np.isnan(self.table.values(self.column))))

    def place(self, cell: Genotype) -> Place | None:
        """Where a cell stands among those of the table; None for a cell that it lacks."""
        if cell.index is None or np.isnan(self.table.values(self.column)[cell.index]):
            return None
        return self.table.place(cell, self.column)

    def record(self, cell: Genotype) -> dict[str, Any]:
        """The column and what it means, accuracy in percent, rank and regret; these three are None for no figure."""
        place = self.place(cell)
        figures = dict.fromkeys(Place._fields) if place is None else place._asdict()
        return {"column": str(self.column), "meaning": self.column.meaning, **figures}

    def told(self, cell: Genotype) -> str:
        """In words, such as "94.37 % (CIFAR-10, ...); rank 1 of 15,625, the best"."""
        place = self.place(cell)
        if place is None:
            whole = "the cells of NAS-Bench-201 only" if cell.index is None else "no figure of this cell"
            return f"not known: {self.table.source} has {whole}"
        below = f"{place.regret:.2f} below the best" if place.regret else "the best"
        rank = f"rank {place.rank:,} of {self.num_cells:,}, {below}"
        return f"{place.accuracy:.2f} % ({self.column.meaning}); {rank}"


def check_tabulated(space: CellSpace, source: str) -> None:
    """Raise `SupernetError` for a space with cells that no table of NAS-Bench-201 has."""
    if space.num_nodes != 4 or not {*space.ops} <= {*NAS_BENCH_201_OPS}:
        raise SupernetError(
            f"{source} has the cells of NAS-Bench-201, with 4 nodes and {', '.join(NAS_BENCH_201_OPS)}, and this space"
            f" has {space.num_nodes} nodes and {', '.join(space.ops)}: leave the table out"
        )
