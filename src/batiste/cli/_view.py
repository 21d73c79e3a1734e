"""``batiste view``: one page about a checkpoint, about runs, or about a model.

What is named tells which: ``package.module:name`` is a model, a folder with rows of metrics or with steps is a run, and
anything else is a checkpoint, whose page takes no JAX.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batiste.cli._late import Late
from batiste.cli._report import Exit
from batiste.cli._say import say
from batiste.cli._tables import plural
from batiste.errors import CheckpointExistsError
from batiste.view import checkpoint

if TYPE_CHECKING:
    from batiste.cli import _view_live
else:
    _view_live = Late("batiste.cli._view_live")

__all__ = ["run"]


def run(
    targets: Sequence[str],
    *,
    diff: Path | None,
    stats: str,
    spectra: Sequence[str],
    shapes: Sequence[str],
    options: Sequence[str],
    output: Path,
    force: bool,
    quiet: bool,
) -> Exit:
    """Write the page, and say where it is."""
    kinds = {_kind(target) for target in targets}
    if len(targets) > 1 and kinds != {"run"}:
        message = "several TARGETs are runs whose curves lie over each other; two checkpoints are compared with --diff"
        raise typer.BadParameter(message)
    if kinds != {"model"} and (shapes or options):
        message = "--input and --option are for a model, package.module:name"
        raise typer.BadParameter(message)
    if os.path.lexists(output) and not force:
        raise CheckpointExistsError(path=output)
    if kinds == {"model"}:
        if diff is not None or spectra:
            message = "a model has no numbers yet: --diff and --spectra are for checkpoints and runs"
            raise typer.BadParameter(message)
        page = _view_live.model_page(targets[0], shapes, options)
    elif kinds == {"run"}:
        page = _view_live.runs_page(targets, diff=diff, stats=stats, spectra=spectra)
    else:
        page = checkpoint(targets[0], diff=diff, stats=stats, spectra=spectra)
    page.write(output)
    if not quiet:
        leaves = page.data.get("leaves", {"path": [], "unread": 0})
        told = [plural(len(leaves["path"]), "leaf", "leaves")]
        told += [f"{leaves['unread']:,} of them not read (--stats all)"] if leaves["unread"] else []
        say(f"wrote {output}: {', '.join(told)}")
    return Exit.OK


def _kind(target: str) -> str:
    place = Path(target)
    if re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", target) and not place.exists():
        return "model"
    try:
        inside = list(place.iterdir()) if place.is_dir() else []
    except OSError:
        inside = []
    has_steps = any(entry.name.isdecimal() and entry.is_dir() for entry in inside)
    return "run" if has_steps or (place / "metrics.jsonl") in inside else "checkpoint"
