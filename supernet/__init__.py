"""One-shot neural architecture search over the NAS-Bench-201 cell: search, derive, retrain."""

__version__ = "0.1.0"
