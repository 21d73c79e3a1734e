"""``python -m batiste.compat.flax SCRIPT ...``: run a Flax program, unchanged, on batiste.

The program sees what it would see under ``python SCRIPT ...`` or ``python -m MODULE ...``: its own ``sys.argv``,
``sys.path[0]`` and ``__main__``. Its ``import flax`` and everything under it are served by batiste (``_serve.py``).
When the process ends, whatever the program asked for that batiste does not have, and every switch that it set without
effect, is said on standard error.
"""

from __future__ import annotations

import argparse
import atexit
import importlib.machinery
import runpy
import sys
import traceback
from pathlib import Path
from types import ModuleType, TracebackType

from batiste.compat.flax import config
from batiste.compat.flax._serve import Server

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the program that the command line names.

    Args:
      arguments: the command line after the program's name; ``sys.argv`` unless given.
    """
    parser = argparse.ArgumentParser(
        prog="python -m batiste.compat.flax",
        description="Run a Flax program on batiste: what it imports from flax, batiste serves.",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="take the program for a module's name")
    parser.add_argument("program", metavar="SCRIPT", help="the program: a file, or a folder with a __main__.py")
    parser.add_argument("rest", metavar="...", nargs=argparse.REMAINDER, help="what the program gets in sys.argv")
    options = parser.parse_args(arguments)
    if not options.module and not Path(options.program).exists():
        parser.error(f"there is no file {options.program!r}")
    server = Server()
    server.install()
    atexit.register(_report, server)
    sys.argv = [options.program, *options.rest]
    try:
        if options.module:
            runpy.run_module(options.program, run_name="__main__", alter_sys=True)
        else:
            _run_file(Path(options.program))
    except Exception as error:  # noqa: BLE001 - the program's, to be shown as Python shows it
        _show(error)
        sys.exit(1)


def _run_file(program: Path) -> None:
    """Run a file as ``__main__``, which stays afterwards: pickles, threads and exit handlers look there."""
    if program.is_dir() or program.suffix in {".pyz", ".zip"}:
        runpy.run_path(str(program), run_name="__main__")
        return
    if not sys.flags.safe_path:
        sys.path[0] = str(program.resolve().parent)
    path = str(program.absolute())
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    module = ModuleType("__main__")
    vars(module).update(__file__=path, __loader__=loader, __builtins__=__builtins__, __cached__=None)
    code = compile(loader.get_data(path), path, "exec", dont_inherit=True)
    sys.modules["__main__"] = module
    exec(code, vars(module))  # noqa: S102 - running the program is what was asked for


def _show(error: BaseException) -> None:
    """Show an error of the program as Python would, without the frames that lead to the program."""
    frames = error.__traceback__
    while frames is not None and _leads_to_program(frames):
        frames = frames.tb_next
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(type(error), error, frames)
    else:
        sys.excepthook(type(error), error, frames)


def _leads_to_program(frames: TracebackType) -> bool:
    path = frames.tb_frame.f_code.co_filename
    return path in {__file__, runpy.__file__, "<frozen runpy>"}


def _report(server: Server) -> None:
    """Say what the program asked for in vain."""
    lines = [f"  {name}" for name in server.missing]
    if lines:
        lines.insert(0, "batiste.compat.flax: the program asked for what batiste does not have:")
    if config.ignored:
        lines.append("batiste.compat.flax: these switches have no effect in batiste:")
        lines += [f"  {name} = {value!r}" for name, value in config.ignored.items()]
    if lines:
        sys.stderr.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
