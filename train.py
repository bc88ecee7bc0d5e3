"""Search a cell: ``python train.py --config configs/gdas.yaml``; ``python train.py`` alone is the quick start."""

import sys
from pathlib import Path

from supernet.cli import search

if __name__ == "__main__":
    sys.exit(search(sys.argv[1:], quick_start=Path(__file__).parent / "configs" / "quickstart.yaml"))
