"""Search strategies: whatever produces the mixture of a step."""

from supernet.strategies.alphanet import AlphaNet
from supernet.strategies.base import Batch, FactorisedSearch, Loss, Parameters, SearchStrategy
from supernet.strategies.darts import DARTS
from supernet.strategies.fairnas import FairNAS
from supernet.strategies.gdas import GDAS
from supernet.strategies.sampling import RandomSearch
from supernet.strategies.spos import SPOS

__all__ = [
    "DARTS",
    "GDAS",
    "SPOS",
    "AlphaNet",
    "Batch",
    "FactorisedSearch",
    "FairNAS",
    "Loss",
    "Parameters",
    "RandomSearch",
    "SearchStrategy",
]
