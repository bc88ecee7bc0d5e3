"""``python -m supernet.rank``."""

import sys

from supernet.cli.command import command
from supernet.rank.command import main

if __name__ == "__main__":
    sys.exit(command(main, sys.argv[1:]))
