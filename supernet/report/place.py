"""Where a cell lies in the space, by the table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from supernet.benchmark import NUM_CELLS, Column, Place, TabularBenchmark
from supernet.benchmark.tabular import Figures
from supernet.genotype import Genotype
from supernet.ranking import expected_pick, pareto_front
from supernet.space import CellSpace

NUM_DRAWN = 100
"""Random cells whose best one a search has to beat; where fewer are known, it is as many as these."""


class Neighbour(NamedTuple):
    """A cell that differs on one edge."""

    edge: tuple[int, int]
    old: str
    new: str
    place: Place


class Standing(NamedTuple):
    """A cell among all cells."""

    column: Column
    source: str
    cell: Genotype
    place: Place
    share_below: float
    """Of all cells, how many are worse; 0 to 1."""
    best: Genotype
    best_place: Place
    num_drawn: int
    """Cells drawn at random."""
    random_best: float
    """Expected best of them, in percent."""
    macs: Figures
    """Of all cells, in millions, by official index."""
    accuracies: Figures
    front: NDArray[np.intp]
    """Official indices of the Pareto front, by rising cost."""
    neighbours: list[Neighbour]
    """All that the table knows, the best first."""

    @property
    def num_known(self) -> int:
        """Cells that the table knows."""
        return int(np.count_nonzero(~np.isnan(self.accuracies)))


def standing(table: TabularBenchmark, column: Column, cell: Genotype) -> Standing:
    """Look a cell up, and all that it is compared with.

    Raises:
        SupernetError: the table does not know the cell.
    """
    place, accuracies = table.place(cell, column), table.values(column)
    known = accuracies[~np.isnan(accuracies)]
    costs = [table.cost(Genotype.from_index(index), column.dataset).macs for index in range(NUM_CELLS)]
    macs, best, num_drawn = np.array(costs) / 1e6, table.best(column), min(NUM_DRAWN, len(known))
    return Standing(
        column, table.source, cell, place, float(np.mean(known < place.accuracy)), best, table.place(best, column),
        num_drawn, expected_pick(known, known, num_drawn), macs, accuracies, pareto_front(macs, accuracies),
        _neighbours(table, column, cell),
    )  # fmt: skip


def _neighbours(table: TabularBenchmark, column: Column, cell: Genotype) -> list[Neighbour]:
    found = []
    for other in CellSpace().neighbours(cell):
        (edge,) = (edge for edge, op in cell.edges.items() if other.edges[edge] != op)
        if not np.isnan(table.values(column)[other.index]):
            found.append(Neighbour(edge, cell.edges[edge], other.edges[edge], table.place(other, column)))
    return sorted(found, key=lambda neighbour: neighbour.place.rank)
