"""What cells really reach: the tables of NAS-Bench-201."""

from supernet.benchmark.columns import COLUMN_NAMES, DATASETS, Column
from supernet.benchmark.files import open_table, write_table
from supernet.benchmark.ledger import BudgetError, Ledger, Query
from supernet.benchmark.tabular import NUM_CELLS, Answer, Place, Repeat, TabularBenchmark

__all__ = [
    "COLUMN_NAMES",
    "DATASETS",
    "NUM_CELLS",
    "Answer",
    "BudgetError",
    "Column",
    "Ledger",
    "Place",
    "Query",
    "Repeat",
    "TabularBenchmark",
    "open_table",
    "write_table",
]
