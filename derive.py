"""Extract a cell and retrain it: ``python derive.py CHECKPOINT`` or ``python derive.py --genotype CELL``."""

import sys

from supernet.cli import derive

if __name__ == "__main__":
    sys.exit(derive(sys.argv[1:]))
