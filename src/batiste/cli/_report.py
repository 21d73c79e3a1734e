"""How a command ends: its exit code, and what it says when something is wrong.

An error of the catalogue is one line on standard error, without a traceback: what was given, why it cannot work, what
to do instead, the code. Where a hint of the catalogue speaks of Python's arguments, the command line has its own words
for it. ``BATISTE_TRACEBACK=1`` shows the traceback too. Anything that is not of the catalogue is a mistake in batiste,
and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Final, ParamSpec

import typer

from batiste.cli._say import say
from batiste.errors import (
    BatisteError,
    CheckpointChangedError,
    CheckpointExistsError,
    CheckpointNotFoundError,
    DamagedCheckpointError,
    FormatLossError,
    ImportMismatchError,
    MergeConflictError,
    NestedStateDictError,
    NotAnArrayError,
    UnmatchedPatternError,
)

__all__ = ["Exit", "one_line", "refused_by_system", "reported", "silenced"]

_Arguments = ParamSpec("_Arguments")

_MOST_LINES: Final = 5
_HINTS: Final[tuple[tuple[type[BatisteError], str], ...]] = (
    (CheckpointChangedError, "Run it again, or copy the checkpoint first."),
    (CheckpointExistsError, "Choose another path, or pass --force: the old one then stays until the new is complete."),
    (CheckpointNotFoundError, "Check the path; `batiste show FOLDER` says which steps a run has."),
    (DamagedCheckpointError, "`batiste verify` lists all that is wrong; restore a copy or an earlier step."),
    (FormatLossError, "Write a folder, .safetensors or .npz, which hold everything, or leave it out with --lossy."),
    (ImportMismatchError, "Add rules to the mapping; --ignore leaves tensors out, --dtype cast changes dtypes."),
    (MergeConflictError, "Pass --overwrite first or --overwrite last to say which wins, or `batiste select` before."),
    (NestedStateDictError, "Say which one is meant with --nested."),
    (NotAnArrayError, "Leave them out with `batiste select` before."),
    (UnmatchedPatternError, "Correct the pattern; `batiste show PATH --paths` lists every path."),
)


class Exit(enum.IntEnum):
    """The exit codes.

    Attributes:
      OK: done, or nothing differs.
      DIFFERS: two checkpoints differ, or one does not verify.
      USAGE: the command line itself is wrong.
      ERROR: an error of the catalogue.
      BUG: an error that no one has foreseen.
      INTERRUPTED: stopped by the user.
      PIPE: the reader of the output has gone.
    """

    OK = 0
    DIFFERS = 1
    USAGE = 2
    ERROR = 3
    BUG = 4
    INTERRUPTED = 130
    PIPE = 141


def one_line(error: BatisteError) -> str:
    """Return the text of an error as one line: of a list of leaves the first few, and how many more there are."""
    head, *lines = [line.strip() for line in error.message.format(**error.context).splitlines()]
    shown = lines[:_MOST_LINES]
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more")
    hint = error.hint.format(**error.context)
    if not isinstance(error, CheckpointNotFoundError) or "Manager(" in hint:
        hint = next((text for kind, text in _HINTS if isinstance(error, kind)), hint)
    if shown:  # in one line nobody needs their number
        head = re.sub(r": [0-9]+$", ":", head)
    parts = [head + (f" {'; '.join(shown)}." if shown else ""), " ".join(hint.split()), f"[{error.code}]"]
    return " ".join(part for part in parts if part)


def refused_by_system(error: OSError) -> Exit:
    """Say in one line what the system has refused, where anything can still be said."""
    where = f" {error.filename}:" if error.filename else ""
    if os.environ.get("BATISTE_TRACEBACK"):
        traceback.print_exc()
    with contextlib.suppress(OSError):
        say(f"error:{where} {error.strerror or error} [system]", err=True)
    silenced()
    return Exit.ERROR


def silenced() -> None:
    """Send what is still to be written nowhere, or Python complains at its end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def reported(command: Callable[_Arguments, Exit]) -> Callable[_Arguments, None]:
    """Return the command with its result and its errors turned into exit codes."""

    @functools.wraps(command)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        code = _code(lambda: command(*args, **kwargs))
        if code is not Exit.OK:
            raise typer.Exit(int(code))

    return run


def _code(command: Callable[[], Exit]) -> Exit:
    try:
        code = command()
        sys.stdout.flush()  # a full disk is known only then
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except BatisteError as error:
        if os.environ.get("BATISTE_TRACEBACK"):
            traceback.print_exc()
        say(f"error: {one_line(error)}", err=True)
        return Exit.ERROR
    except BrokenPipeError:
        silenced()
        return Exit.PIPE
    except OSError as error:  # of the output, as a rule: what concerns checkpoints has an error of its own
        return refused_by_system(error)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        return Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last one who can say anything
        if isinstance(error, ModuleNotFoundError) and not (error.name or "batiste").startswith("batiste"):
            say(f"error: this needs {error.name}: pip install 'batiste[cli,checkpoint]'", err=True)
            return Exit.ERROR
        traceback.print_exc()
        typer.echo("error: this is a mistake in batiste; please report it with the lines above", err=True)
        return Exit.BUG
    else:
        return code
