"""A run as one page that can be sent to a colleague."""

from supernet.report.page import page
from supernet.report.run import Run, find_run, read_run

__all__ = ["Run", "find_run", "page", "read_run"]
