"""The cells of NAS-Bench-101 (Ying et al., 2019): what they are, their networks, and the table of their trainings."""

from supernet.nasbench101.network import Network101, num_parameters, vertex_channels
from supernet.nasbench101.space import NUM_CELLS, NUM_CELLS_BY_VERTICES, cells, sample
from supernet.nasbench101.spec import MAX_EDGES, MAX_VERTICES, OPS, Spec, is_well_formed, why_malformed

__all__ = [
    "MAX_EDGES",
    "MAX_VERTICES",
    "NUM_CELLS",
    "NUM_CELLS_BY_VERTICES",
    "OPS",
    "Network101",
    "Spec",
    "cells",
    "is_well_formed",
    "num_parameters",
    "sample",
    "vertex_channels",
    "why_malformed",
]
