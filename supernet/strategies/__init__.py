"""Search strategies: whatever produces the mixture of a step."""

from supernet.strategies.base import Batch, FactorisedSearch, Loss, Parameters, SearchStrategy
from supernet.strategies.darts import DARTS
from supernet.strategies.enas import ENAS
from supernet.strategies.gdas import GDAS
from supernet.strategies.joint import JointPolicy
from supernet.strategies.sampling import RandomSearch
from supernet.strategies.setn import SETN

__all__ = [
    "DARTS",
    "ENAS",
    "GDAS",
    "SETN",
    "Batch",
    "FactorisedSearch",
    "JointPolicy",
    "Loss",
    "Parameters",
    "RandomSearch",
    "SearchStrategy",
]
