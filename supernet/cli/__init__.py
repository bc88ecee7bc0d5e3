"""The two commands: search and derive."""

from supernet.cli.derive import derive
from supernet.cli.search import search

__all__ = ["derive", "search"]
