"""A run as one page that can be sent to a colleague."""

from supernet.report.page import page
from supernet.report.read import find_run, read_run
from supernet.report.run import Run

__all__ = ["Run", "find_run", "page", "read_run"]
