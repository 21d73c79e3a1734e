"""The command that makes a checkpoint of PyTorch's weights, by a mapping in a file or a ready one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from batiste.checkpoint import open as open_checkpoint
from batiste.cli._report import Exit
from batiste.cli._say import say
from batiste.cli._store import Output, store_tree
from batiste.errors import UnknownMappingError
from batiste.importers import Report, Rule, from_torch, load_mapping, plan_import, pretrained

__all__ = ["import_torch"]


def import_torch(
    source: Path,
    mapping: str,
    output: Output,
    *,
    like: Path | None,
    ignore: Sequence[str],
    dtype: Literal["error", "cast", "keep"],
    nested: str | None,
) -> Exit:
    """Write the weights of a PyTorch model as variables, and say what of them is not used."""
    opened = open_checkpoint(source)
    output.check([source])
    rules = _mapping(mapping)
    target: Any = None if like is None else open_checkpoint(like).tree()
    report = plan_import(opened, target, rules, ignore=ignore, dtype=dtype, nested=nested)
    if output.dry_run and report.complete:
        for line in str(report).splitlines()[1:]:
            say(line.strip())
    elif not output.quiet and report.complete:
        for line in _said(report):
            say(line)
    made = from_torch(opened, target, rules, ignore=ignore, dtype=dtype, nested=nested)
    store_tree(output, made, [])
    return Exit.OK


def _mapping(name: str) -> tuple[Rule, ...]:
    if Path(name).exists():
        return load_mapping(name)
    try:
        return pretrained.ready_mapping(name)
    except UnknownMappingError:
        if Path(name).suffix == ".json":
            return load_mapping(name)  # which says that there is no such file
        raise


def _said(report: Report) -> list[str]:
    """What became of tensors that are in no leaf, and what was taken off."""
    lines = [f"taken from {report.nested!r}"] if report.nested else []
    lines += [f"prefix taken off: {prefix}" for prefix in report.stripped]
    for what, names in (("dropped", report.dropped), ("ignored", report.ignored)):
        lines += [f"{what}: {', '.join(names)}"] if names else []
    return lines
