"""The cells of NAS-Bench-101 (Ying et al., 2019): what they are, their networks, and the table of their trainings.

The reader of the published file was written from its description, and tried on files of the same format only:
nobody had the published one, of 2 GB, at hand.
"""

from supernet.nasbench101.convert import convert, gather, missing
from supernet.nasbench101.network import Network101, num_parameters, vertex_channels
from supernet.nasbench101.records import EPOCHS, Evaluation, Record, read_records
from supernet.nasbench101.space import NUM_CELLS, NUM_CELLS_BY_VERTICES, cells, sample
from supernet.nasbench101.spec import MAX_EDGES, MAX_VERTICES, OPS, Spec, is_well_formed, why_malformed
from supernet.nasbench101.table import FIGURES, TabularBenchmark101, Trained, open_table

__all__ = [
    "EPOCHS",
    "FIGURES",
    "MAX_EDGES",
    "MAX_VERTICES",
    "NUM_CELLS",
    "NUM_CELLS_BY_VERTICES",
    "OPS",
    "Evaluation",
    "Network101",
    "Record",
    "Spec",
    "TabularBenchmark101",
    "Trained",
    "cells",
    "convert",
    "gather",
    "is_well_formed",
    "missing",
    "num_parameters",
    "open_table",
    "read_records",
    "sample",
    "vertex_channels",
    "why_malformed",
]
