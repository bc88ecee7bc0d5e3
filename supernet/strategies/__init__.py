"""Search strategies: whatever produces the mixture of a step."""

from supernet.strategies.alphanet import AlphaNet
from supernet.strategies.base import Batch, FactorisedSearch, Loss, Parameters, SearchStrategy
from supernet.strategies.darts import DARTS
from supernet.strategies.darts_minus import DARTSMinus
from supernet.strategies.drnas import DrNAS
from supernet.strategies.enas import ENAS
from supernet.strategies.fair_darts import FairDARTS
from supernet.strategies.fairnas import FairNAS
from supernet.strategies.gaea import GAEA
from supernet.strategies.gdas import GDAS
from supernet.strategies.idarts import IDARTS
from supernet.strategies.joint import JointPolicy
from supernet.strategies.lambda_darts import LambdaDARTS
from supernet.strategies.pc_darts import PCDARTS
from supernet.strategies.proxyless import ProxylessNAS
from supernet.strategies.reinmax import ReinMax
from supernet.strategies.sampling import RandomSearch
from supernet.strategies.sdarts import SDARTS
from supernet.strategies.setn import SETN
from supernet.strategies.snas import SNAS
from supernet.strategies.spos import SPOS

__all__ = [
    "DARTS",
    "ENAS",
    "GAEA",
    "GDAS",
    "IDARTS",
    "PCDARTS",
    "SDARTS",
    "SETN",
    "SNAS",
    "SPOS",
    "AlphaNet",
    "Batch",
    "DARTSMinus",
    "DrNAS",
    "FactorisedSearch",
    "FairDARTS",
    "FairNAS",
    "JointPolicy",
    "LambdaDARTS",
    "Loss",
    "Parameters",
    "ProxylessNAS",
    "RandomSearch",
    "ReinMax",
    "SearchStrategy",
]
