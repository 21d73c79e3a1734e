"""The commands that make one checkpoint of others: select, rename, cast, merge, average, stack, unstack, convert.

Each opens its sources, says which leaves the result has, and hands both to ``_store.py``. Nothing is read before it is
written, leaf by leaf, and what is read whole is compared with its digest on the way. Taking layers apart reads each in
slices, which have no digests, so the source is verified first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from batiste.checkpoint import Checkpoint
from batiste.checkpoint import open as open_checkpoint
from batiste.checkpoint import verify as verify_checkpoint
from batiste.cli._report import Exit
from batiste.cli._rules import read_patterns, read_rules
from batiste.cli._sources import arrays, view, whole_tree
from batiste.cli._store import Output, store_tree, store_view
from batiste.errors import CheckpointArgumentError
from batiste.tree import (
    LazyArray,
    PatternLike,
    exclude,
    flatten,
    join_path,
    split_path,
    stack_layers,
    unflatten,
    unstack_layers,
)
from batiste.tree import (
    average as average_trees,
)
from batiste.tree import (
    cast as cast_tree,
)
from batiste.tree import (
    merge as merge_trees,
)
from batiste.tree import (
    rename as rename_tree,
)
from batiste.tree import (
    select as select_leaves,
)

__all__ = ["average", "cast", "convert", "merge", "rename", "select", "stack", "unstack"]


def select(source: Path, patterns: Sequence[str], excluded: Sequence[str], output: Output, *, regex: bool) -> Exit:
    """Write the leaves that match one of the patterns and none of the excluded ones."""
    opened = _opened(output, [source])[0]
    names: Any = unflatten({path: path for path in opened.paths()})
    if patterns:
        names = select_leaves(names, read_patterns(patterns, regex=regex))
    if excluded:
        names = exclude(names, read_patterns(excluded, regex=regex))
    kept = flatten(names)
    paths = [path for path in opened.paths() if path in kept]
    if not paths:
        cure = "Give patterns that leave something to write."
        raise CheckpointArgumentError(argument="--exclude", value=list(excluded), reason="no leaf is left", cure=cure)
    leaves = arrays(opened)
    chosen = {path: leaves[path] for path in paths if path in leaves}
    store_view(output, view(opened, paths, chosen), paths)
    return Exit.OK


def rename(source: Path, rules: Sequence[str], output: Output, *, regex: bool) -> Exit:
    """Write the leaves at other paths."""
    opened = _opened(output, [source])[0]
    mapping: dict[PatternLike, str] = {**read_rules(rules, regex=regex)}
    tree = whole_tree(opened)
    before = {id(leaf): path for path, leaf in flatten(tree).items()}
    made = rename_tree(tree, mapping)
    moved = [(before.get(id(leaf), path), path) for path, leaf in flatten(made).items()]
    store_tree(output, made, [opened], [f"{old} -> {new}" for old, new in moved if old != new])
    return Exit.OK


def cast(source: Path, dtype: str, patterns: Sequence[str], output: Output, *, regex: bool, every: bool) -> Exit:
    """Write floating leaves in another dtype."""
    opened = _opened(output, [source])[0]
    leaves = arrays(opened)
    records = opened.manifest.records
    numbers = unflatten({path: leaf for path, leaf in leaves.items() if records[path].key is None})
    chosen: list[PatternLike] = list(read_patterns(patterns, regex=regex)) if patterns else ["**"]
    made = flatten(cast_tree(numbers, dict.fromkeys(chosen, dtype), kinds="all" if every else "floating"))
    changed = [
        f"{path}: {leaves[path].dtype.name} -> {leaf.dtype.name}"
        for path, leaf in made.items()
        if leaf.dtype != leaves[path].dtype
    ]
    store_view(output, view(opened, opened.paths(), {**leaves, **made}), changed)
    return Exit.OK


def merge(sources: Sequence[Path], output: Output, *, overwrite: Literal["error", "first", "last"]) -> Exit:
    """Write one checkpoint with the leaves of all."""
    opened = _opened(output, sources)
    made = merge_trees(*map(whole_tree, opened), overwrite=overwrite)
    store_tree(output, made, opened, list(flatten(made)))
    return Exit.OK


def average(sources: Sequence[Path], weights: Sequence[float] | None, output: Output) -> Exit:
    """Write the weighted mean; what is not floating, and all that is no array, is that of the first."""
    opened = _opened(output, sources)
    made = average_trees([unflatten(arrays(each)) for each in opened], weights=weights)
    leaves: dict[str, LazyArray] = flatten(made)
    share = weights or [1.0] * len(sources)
    lines = [f"{weight / sum(share):.4g} * {source}" for weight, source in zip(share, sources, strict=True)]
    store_view(output, view(opened[0], opened[0].paths(), leaves), lines)
    return Exit.OK


def stack(source: Path, name: str, within: str, output: Output) -> Exit:
    """Write layers ``name_0``, ``name_1``, ... as one level with a leading axis."""
    opened = _opened(output, [source])[0]
    made = _besides_text(opened, lambda tree: stack_layers(tree, name, within=within))
    store_tree(output, made, [opened], _new(opened, made), _levels(name, flatten(made), opened.paths()))
    return Exit.OK


def unstack(source: Path, name: str, within: str, output: Output) -> Exit:
    """Write a level of stacked layers as ``name_0``, ``name_1``, ..."""
    opened = _opened(output, [source])[0]
    made = _besides_text(opened, lambda tree: unstack_layers(tree, name, within=within))
    if not output.dry_run:
        verify_checkpoint(source)  # slices have no digests
    store_tree(output, made, [opened], _new(opened, made))
    return Exit.OK


def convert(source: Path, output: Output) -> Exit:
    """Write the same checkpoint in another format."""
    opened = _opened(output, [source])[0]
    store_view(output, view(opened, opened.paths(), arrays(opened)))
    return Exit.OK


def _opened(output: Output, sources: Sequence[Path]) -> list[Checkpoint]:
    """The sources, opened; and the output, checked before anything is read."""
    opened = [open_checkpoint(source) for source in sources]
    output.check(sources)
    return opened


def _besides_text(opened: Checkpoint, change: Callable[[Any], Any]) -> Any:
    """The tree with its layers changed, where words that are no part of a layer stay where they are."""
    tree = whole_tree(opened)
    words = {path: leaf for path, leaf in flatten(tree).items() if isinstance(leaf, str | bytes)}
    if not words:
        return change(tree)
    made = change(unflatten({**flatten(tree), **dict.fromkeys(words, 0)}, like=tree))
    leaves = flatten(made)
    if not words.keys() <= leaves.keys():
        return change(tree)  # which says which words are in the layers
    return unflatten({**leaves, **words}, like=made)


def _new(opened: Checkpoint, made: Any) -> list[str]:
    """The paths that were not there before."""
    known = set(opened.paths())
    return [path for path in flatten(made) if path not in known]


def _levels(name: str, paths: Iterable[str], before: Iterable[str]) -> list[str]:
    """The levels of this name that were not there before."""
    known = set(before)
    found: dict[str, None] = {}
    for path in paths:
        parts = split_path(path)
        if name in parts and path not in known:
            found[join_path(parts[: parts.index(name) + 1])] = None
    return list(found)
