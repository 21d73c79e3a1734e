"""``batiste diff`` and ``batiste verify``: the two commands whose exit code is an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batiste.checkpoint import open as open_checkpoint
from batiste.checkpoint import verify as verify_checkpoint
from batiste.cli._report import Exit
from batiste.cli._rules import read_patterns
from batiste.cli._say import say, say_json
from batiste.cli._tables import plural, size_text
from batiste.errors import CheckpointFormatError, DamagedCheckpointError, RefusedCheckpointError, UnmatchedPatternError
from batiste.tree import diff as diff_trees

__all__ = ["diff", "verify"]


def diff(
    left: Path,
    right: Path,
    patterns: Sequence[str],
    *,
    regex: bool,
    values: bool,
    rtol: float,
    atol: float,
    as_json: bool,
    quiet: bool,
) -> Exit:
    """Print how two checkpoints differ; ``Exit.DIFFERS`` if they do."""
    opened = [open_checkpoint(path) for path in (left, right)]
    trees = [each["**"] if patterns and each.manifest.opaque else each.tree() for each in opened]
    chosen = read_patterns(patterns, regex=regex) if patterns else None
    found = diff_trees(trees[0], trees[1], chosen, values=values, rtol=rtol, atol=atol)
    if chosen is not None and not found.leaves:
        raise UnmatchedPatternError(lines="\n".join(f"  {pattern.source!r}" for pattern in chosen))
    if as_json:
        entries = [dataclasses.asdict(entry) for entry in found]
        body = {"left": str(left), "right": str(right), "leaves": found.leaves, "differences": entries}
        say_json(body)
    elif not quiet:
        for line in str(found).splitlines():
            say(line)
    return Exit.DIFFERS if found else Exit.OK


def verify(paths: Sequence[Path], *, strict: bool, as_json: bool, quiet: bool) -> Exit:
    """Check every digest of checkpoints and print what is wrong; ``Exit.DIFFERS`` if anything is."""
    reports = [_verified(path, strict=strict) for path in paths]
    if as_json:
        say_json(reports)
    elif not quiet:
        for report in reports:
            for line in _lines(report):
                say(line)
    return Exit.OK if all(report["ok"] for report in reports) else Exit.DIFFERS


def _verified(path: Path, *, strict: bool) -> dict[str, Any]:
    try:
        found = verify_checkpoint(path)
    except DamagedCheckpointError as error:
        damages = [line.strip() for line in str(error.context["lines"]).splitlines()]
        return {"path": str(path), "ok": False, "damages": damages}
    except CheckpointFormatError as error:
        if not path.is_file():  # the folder of a run, or of something else: no checkpoint was to be found there
            raise
        return {"path": str(path), "ok": False, "damages": [f"it cannot be read: {error.context['reason']}"]}
    except RefusedCheckpointError as error:
        return {"path": str(path), "ok": False, "damages": [f"it is refused: {error.context['reason']}"]}
    damages = ["it has no digests, so that its bits cannot be checked"] if strict and not found.digests else []
    counted = {"leaves": found.leaves, "bytes": found.bytes, "digests": found.digests}
    return {"path": str(path), "ok": not damages, "damages": damages, **counted}


def _lines(report: dict[str, Any]) -> list[str]:
    if not report["ok"]:
        head = "DAMAGED" if "leaves" not in report else "NOT VERIFIED"  # all of it could be read
        return [f"{report['path']}: {head}", *(f"  {line}" for line in report["damages"])]
    checked = "every digest fits" if report["digests"] else "everything can be read; there are no digests"
    size = f"{plural(report['leaves'], 'leaf', 'leaves')}, {size_text(report['bytes'])}"
    return [f"{report['path']}: ok, {size}, {checked}"]
