"""The commands that make one checkpoint of the leaves of others, as they are: select, rename, merge, convert.

Each opens its sources, says which leaves the result has, and hands both to ``_store.py``. Nothing is read before it is
written, leaf by leaf, and what is read whole is compared with its digest on the way. Those that compute new arrays are
in ``_compute.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from batiste.cli._report import Exit
from batiste.cli._rules import read_rules
from batiste.cli._sources import arrays, matching, view
from batiste.cli._store import Output, store_tree, store_view
from batiste.errors import CheckpointArgumentError
from batiste.tree import PatternLike, flatten, unflatten
from batiste.tree import merge as merge_trees
from batiste.tree import rename as rename_tree

__all__ = ["convert", "merge", "rename", "select"]


def select(source: Path, patterns: Sequence[str], excluded: Sequence[str], output: Output, *, regex: bool) -> Exit:
    """Write the leaves that match one of the patterns and none of the excluded ones."""
    opened = output.opened_for([source])[0]
    paths = opened.paths()
    if patterns:
        paths = matching(paths, patterns, regex=regex)
    if excluded:
        without = set(matching(paths, excluded, regex=regex))
        paths = [path for path in paths if path not in without]
    if not paths:
        cure = "Give patterns that leave something to write."
        raise CheckpointArgumentError(argument="--exclude", value=list(excluded), reason="no leaf is left", cure=cure)
    leaves = arrays(opened)
    chosen = {path: leaves[path] for path in paths if path in leaves}
    store_view(output, view(opened, paths, chosen, partly=True), paths)
    return Exit.OK


def rename(source: Path, rules: Sequence[str], output: Output, *, regex: bool) -> Exit:
    """Write the leaves at other paths."""
    opened = output.opened_for([source])[0]
    mapping: dict[PatternLike, str] = {**read_rules(rules, regex=regex)}
    moved = flatten(rename_tree(unflatten({path: path for path in opened.paths()}), mapping))
    made = rename_tree(opened.tree(), mapping)
    store_tree(output, made, [opened], [f"{old} -> {new}" for new, old in moved.items() if old != new])
    return Exit.OK


def merge(sources: Sequence[Path], output: Output, *, overwrite: Literal["error", "first", "last"]) -> Exit:
    """Write one checkpoint with the leaves of all."""
    opened = output.opened_for(sources)
    made = merge_trees(*(each.tree() for each in opened), overwrite=overwrite)
    store_tree(output, made, opened, list(flatten(made)))
    return Exit.OK


def convert(source: Path, output: Output) -> Exit:
    """Write the same checkpoint in another format."""
    opened = output.opened_for([source])[0]
    store_view(output, view(opened, opened.paths(), arrays(opened)))
    return Exit.OK
