"""``python -m benchmarks``: batiste beside raw JAX, Linen, NNX, Haiku and Equinox.

    python -m benchmarks                         every row; the table, JSON files, the README and the picture
    python -m benchmarks --rows 'trace_*'        some rows
    python -m benchmarks --quick --rounds 1      tiny models: does everything run?
    python -m benchmarks report                  the README and the picture again, from the JSON files
    python -m benchmarks list                    the names of the rows

How it measures stands in ``benchmarks/README.md``.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import report, results, table
from benchmarks.rows import LIBRARIES, PROGRAMS, ROWS, programs, selected
from benchmarks.running import MismatchError, Runner
from benchmarks.worker import WorkerError

PEERS = tuple(name for name in LIBRARIES if name not in {"raw", "batiste"})
UNKNOWN = 2  # the exit code if no row has such a name


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("command", nargs="?", default="run", choices=("run", "report", "list"))
    made.add_argument("--rows", nargs="+", default=[], metavar="PATTERN", help="rows by name, with * and ?")
    made.add_argument("--rounds", type=int, default=3, help="how often every contender of a row runs (default 3)")
    made.add_argument("--quick", action="store_true", help="tiny models; the files go to runs/benchmarks")
    made.add_argument("--long", action="store_true", help="what takes minutes too: deep unrolled steps, 10 GB")
    made.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS, help="which peers (default all)")
    made.add_argument("--results", type=Path, help="the folder of the JSON files")
    return made


def run_program(name: str, folder: Path, *, quick: bool, rounds: int) -> bool:
    """Run a row that is a program of its own, and say whether it ended well."""
    program = PROGRAMS[name]
    options = program.quick if quick else program.full
    if program.has_rounds:
        options = (*options, "--rounds", str(rounds))
    command = [sys.executable, "-m", f"benchmarks.{program.file or name}", *options, "--results", str(folder)]
    return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - this project's own program


def run(options: argparse.Namespace, folder: Path, console: Console) -> int:
    """Measure the rows that are asked for and return the exit code."""
    rows, code = selected(options.rows), 0
    asked = programs(options.rows, long=options.long)
    if not rows and not asked:
        console.print(f"no row matches {' '.join(options.rows)}; `python -m benchmarks list` names them")
        return UNKNOWN
    runner = Runner(
        options.rounds,
        options.quick,
        options.long,
        options.peers,
        lambda text: console.print(f"[dim]{text}[/]", highlight=False),
    )
    for row in rows:
        try:
            results.write(folder, row.name, runner.run(row))
        except (MismatchError, WorkerError) as error:
            console.print(f"[red]{row.name} stopped[/]: {error}", highlight=False)
            code = 1
    for name in asked:
        if not run_program(name, folder, quick=options.quick, rounds=options.rounds):
            code = 1
    found = results.read(folder)
    for drawn in table.terminal(found, rows):
        console.print(drawn)
    mine = {row.name: found[row.name] for row in rows if row.name in found}
    for text in (report.missing(mine), report.unmet(mine)):
        console.print(text, highlight=False)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks."""
    options = parser().parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    folder = options.results or (results.QUICK if options.quick else results.FOLDER)
    if options.command == "list":
        for row in ROWS:
            console.print(f"{row.name:24}{row.title}", highlight=False)
        for name, program in PROGRAMS.items():
            console.print(f"{name:24}{program.title}", highlight=False)
        return 0
    code = run(options, folder, console) if options.command == "run" else 0
    if folder == results.FOLDER and code != UNKNOWN:
        for path in report.write():
            console.print(f"written: {path.relative_to(results.ROOT)}", highlight=False)
    return code


if __name__ == "__main__":
    sys.exit(main())
