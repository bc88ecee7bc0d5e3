"""Search strategies: whatever produces the mixture of a step."""

from supernet.strategies.base import Batch, FactorisedSearch, Loss, Parameters, SearchStrategy
from supernet.strategies.darts import DARTS
from supernet.strategies.gdas import GDAS
from supernet.strategies.idarts import IDARTS
from supernet.strategies.proxyless import ProxylessNAS
from supernet.strategies.sampling import RandomSearch
from supernet.strategies.sdarts import SDARTS

__all__ = [
    "DARTS",
    "GDAS",
    "IDARTS",
    "SDARTS",
    "Batch",
    "FactorisedSearch",
    "Loss",
    "Parameters",
    "ProxylessNAS",
    "RandomSearch",
    "SearchStrategy",
]
