"""``python -m batiste.launch``: the command line of a trial."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from batiste.errors import BatisteError
from batiste.launch._run import launch

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the processes that the command line asks for, and return the exit status of the trial."""
    parser = argparse.ArgumentParser(
        prog="python -m batiste.launch",
        description="Run a program in several processes on this machine, as a cluster would: for trials.",
    )
    parser.add_argument("-n", "--processes", type=int, default=2, help="how many processes (default: 2)")
    parser.add_argument("--devices", type=int, default=None, metavar="K", help="how many CPU devices each of them has")
    parser.add_argument(
        "--grace", type=float, default=30.0, metavar="S", help="seconds that the others have to end when one has failed"
    )
    parser.add_argument("-m", dest="module", action="store_true", help="the program is a module, as in python -m")
    parser.add_argument("program", help="a script or a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what it is called with")
    given = parser.parse_args(arguments)
    start = ["-m", given.program] if given.module else [given.program]
    try:
        return launch([*start, *given.arguments], processes=given.processes, devices=given.devices, grace=given.grace)
    except BatisteError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
