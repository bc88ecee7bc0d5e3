"""``python -m supernet.rank``."""

import sys
from collections.abc import Sequence

from supernet.errors import run


def _main(args: Sequence[str]) -> int:
    from supernet.cli.command import command  # here: it takes seconds, in which somebody may stop the command
    from supernet.rank.command import main

    return command(main, args)


if __name__ == "__main__":
    sys.exit(run(_main, sys.argv[1:]))
