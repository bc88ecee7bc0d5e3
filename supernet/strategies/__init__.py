"""Search strategies: whatever produces the mixture of a step."""

from supernet.strategies.base import Batch, FactorisedSearch, Loss, Parameters, SearchStrategy
from supernet.strategies.darts import DARTS
from supernet.strategies.gdas import GDAS
from supernet.strategies.pc_darts import PCDARTS
from supernet.strategies.sampling import RandomSearch

__all__ = [
    "DARTS",
    "GDAS",
    "PCDARTS",
    "Batch",
    "FactorisedSearch",
    "Loss",
    "Parameters",
    "RandomSearch",
    "SearchStrategy",
]
