"""Terms that go with any strategy: what is done to mixtures and candidates, and what is added to a loss."""

from supernet.terms.base import SearchTerm
from supernet.terms.dropout import OperationDropout
from supernet.terms.penalties import BetaDecay, CostPenalty, Entropy
from supernet.terms.perturbation import Perturbation
from supernet.terms.shrinking import Shrink

__all__ = ["BetaDecay", "CostPenalty", "Entropy", "OperationDropout", "Perturbation", "SearchTerm", "Shrink"]
