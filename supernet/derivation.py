"""Ways to derive a cell from what a strategy has learned, for any strategy: options of the search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import islice
from typing import Any

from supernet.discrete import Score, check_evolution, evolution
from supernet.drawing import seeded
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.strategies import SearchStrategy
from supernet.strategies.base import best, check_candidates


class Derivation(ABC):
    """How a cell is derived.

    Args:
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, exclude_none: bool = False) -> None:
        self.exclude_none = exclude_none

    def bind(self, search: SearchStrategy) -> None:
        """Get ready for a strategy; called once. It and this way exclude 'none' if either is told to.

        Raises:
            SupernetError: this way makes no sense for the strategy.
        """
        self.exclude_none = self.exclude_none or getattr(search, "exclude_none", False)
        search.exclude_none = self.exclude_none  # terms ask it what will not be derived

    @abstractmethod
    def derive(self, search: SearchStrategy, score: Score) -> Genotype:
        """The discovered cell.

        Args:
            search: the strategy, which stays as it is.
            score: accuracy of a cell with shared parameters, always on the same validation images.
        """


class TopK(Derivation):
    """The best of the most likely connected cells, compared with shared parameters.

    Args:
        k: how many are compared.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, k: int = 10, exclude_none: bool = False) -> None:
        super().__init__(exclude_none)
        check_candidates(k=k)
        self.k = k

    def bind(self, search: SearchStrategy) -> None:
        """Refuse a strategy to which all cells are equally likely."""
        super().bind(search)
        if not search.learns:
            raise SupernetError(
                f"{type(self).__name__} takes what is most likely, and for {type(search).__name__} all cells are"
                " equally likely; BestOf and Evolution compare them"
            )

    def derive(self, search: SearchStrategy, score: Score) -> Genotype:
        """The best of the k most likely."""
        return best(list(islice(search.likeliest(self.exclude_none), self.k)), score)


class Argmax(TopK):
    """The most likely connected cell: the most likely operation of each edge, if that cell is connected.

    Args:
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, exclude_none: bool = False) -> None:
        super().__init__(1, exclude_none)


class BestOf(Derivation):
    """The best of some cells that the strategy draws, compared with shared parameters.

    Args:
        n: how many are drawn.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(self, n: int = 100, exclude_none: bool = False) -> None:
        super().__init__(exclude_none)
        check_candidates(n=n)
        self.n = n

    def derive(self, search: SearchStrategy, score: Score) -> Genotype:
        """The best of n; deriving twice at the same step compares the same cells."""
        return best(list(islice(search.samples(self.exclude_none), self.n)), score)


class Evolution(Derivation):
    """The best cell that an evolutionary search finds with shared parameters (Guo et al., 2020, algorithm 1).

    ``population * generations`` cells are compared at most.

    Args:
        population: cells in each generation, at most.
        parents: how many of the best cells so far have children.
        num_mutations: children of one parent, in each generation.
        num_crossovers: children of two parents, with each edge from either.
        mutation_probability: that an edge of a mutant is drawn anew.
        generations: the random one included.
        exclude_none: derive only cells without the operation 'none'.
    """

    def __init__(
        self,
        population: int = 50,
        parents: int = 10,
        num_mutations: int = 25,
        num_crossovers: int = 25,
        mutation_probability: float = 0.1,
        generations: int = 20,
        exclude_none: bool = False,
    ) -> None:
        super().__init__(exclude_none)
        check_evolution(population, parents, num_mutations, num_crossovers, mutation_probability, generations)
        self.options: dict[str, Any] = {
            "population": population,
            "parents": parents,
            "num_mutations": num_mutations,
            "num_crossovers": num_crossovers,
            "mutation_probability": mutation_probability,
            "generations": generations,
        }

    def derive(self, search: SearchStrategy, score: Score) -> Genotype:
        """The best found; deriving twice at the same step finds the same."""
        return evolution(
            search.space,
            score,
            seeded(search.generator),
            **self.options,
            exclude_none=self.exclude_none,
            candidates=search.candidates,
        )
