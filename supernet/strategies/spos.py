"""Single Path One-Shot Neural Architecture Search with Uniform Sampling (Guo et al., 2020)."""

from __future__ import annotations

from typing import Any

from supernet.discrete import Score, check_evolution, evolution
from supernet.drawing import seeded
from supernet.genotype import Genotype
from supernet.strategies.sampling import RandomSearch


class SPOS(RandomSearch):
    """Trains one uniform path in each step, for all cells, and searches the cells by evolution (algorithm 1).

    The evolution comes once, in the last epoch: it scores up to ``population * generations`` cells. A cell derived
    before that, to look how the training goes, is the best of its random first generation. The paper gathers the
    statistics of batch normalisation anew for each cell: that is ``--model.recalibration_images``; without it, they
    are those of the batch at hand.

    Args:
        population: cells in each generation of the evolution.
        generations: of the evolution, the random one included.
        parents: how many of the best cells so far have children: half of them mutants, half crossovers of two.
        mutation_probability: that an edge of a mutant is drawn anew.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(
        self,
        population: int = 50,
        generations: int = 20,
        parents: int = 10,
        mutation_probability: float = 0.1,
        exclude_none: bool = False,
    ) -> None:
        check_evolution(population, parents, population // 2, population // 2, mutation_probability, generations)
        super().__init__(population, exclude_none)
        self.population, self.generations, self.parents = population, generations, parents
        self.mutation_probability = mutation_probability
        self.epoch, self.num_epochs = 0, 2  # not the last one

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Know the last epoch."""
        self.epoch, self.num_epochs = epoch, num_epochs

    def derive(self, score: Score) -> Genotype:
        """In the last epoch the best cell of the evolution, before it the best of ``population`` random cells."""
        if self.epoch + 1 < self.num_epochs:
            return super().derive(score)
        return evolution(
            self.space,
            score,
            seeded(self.generator),
            population=self.population,
            parents=self.parents,
            num_mutations=self.population // 2,
            num_crossovers=self.population // 2,
            mutation_probability=self.mutation_probability,
            generations=self.generations,
            exclude_none=self.exclude_none,
            candidates=self.candidates,
        )

    def get_extra_state(self) -> dict[str, Any]:
        """Also the epoch: a cell that is derived anew from a finished search is one of the evolution."""
        return {**super().get_extra_state(), "epoch": self.epoch, "num_epochs": self.num_epochs}

    def set_extra_state(self, state: Any) -> None:
        """Restore `get_extra_state`."""
        super().set_extra_state(state)
        self.epoch, self.num_epochs = int(state["epoch"]), int(state["num_epochs"])
