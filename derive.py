"""Extract a cell and retrain it: ``python derive.py CHECKPOINT`` or ``python derive.py --genotype CELL``."""

import sys
from pathlib import Path

from supernet.cli import derive

if __name__ == "__main__":
    sys.exit(derive(sys.argv[1:], default_config=Path(__file__).parent / "configs" / "retrain.yaml"))
