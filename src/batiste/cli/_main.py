"""The way in: what happens before the first option is read.

The command works on files, so it leaves accelerators to the programs that train on them: unless ``JAX_PLATFORMS`` says
otherwise, JAX sees the CPU alone and takes no memory of a GPU. Without typer, the command says what to install.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from batiste.cli._late import Late

if TYPE_CHECKING:
    from batiste.cli import _app, _report
else:
    _app = Late("batiste.cli._app")
    _report = Late("batiste.cli._report")

__all__ = ["main"]


def main() -> None:
    """Run the command line in ``sys.argv`` and end the process with its exit code.

    Raises:
      SystemExit: always; 0 is success, and the codes are those of ``docs/concepts/cli.md``.
    """
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(f"error: the batiste command needs {' and '.join(missing)}: pip install 'batiste[cli]'\n")
        raise SystemExit(3)
    if "JAX_PLATFORMS" not in os.environ:
        os.environ["JAX_PLATFORMS"] = "cpu"
        if "jax" in sys.modules:  # which has read the environment already, and has not looked for devices yet
            sys.modules["jax"].config.update("jax_platforms", "cpu")
    try:
        _app.app(prog_name="batiste")
    except OSError as error:  # of what is printed before a command runs, such as a help text on a full disk
        raise SystemExit(int(_report.refused_by_system(error))) from None
    except SystemExit:
        _report.silenced()
        raise
