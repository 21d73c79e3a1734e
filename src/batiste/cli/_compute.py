"""The commands whose result has other arrays than its sources: cast, average, stack, unstack.

They work as those of ``_change.py`` do, and need JAX for what they compute: dtypes, and what arrays have in common.
Taking layers apart reads each in slices, which have no digests, so the source is verified first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from batiste.checkpoint import Checkpoint
from batiste.checkpoint import verify as verify_checkpoint
from batiste.cli._report import Exit
from batiste.cli._rules import read_patterns
from batiste.cli._sources import arrays, view
from batiste.cli._store import Output, store_tree, store_view
from batiste.tree import (
    LazyArray,
    PatternLike,
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

__all__ = ["average", "cast", "stack", "unstack"]


def cast(source: Path, dtype: str, patterns: Sequence[str], output: Output, *, regex: bool, every: bool) -> Exit:
    """Write floating leaves in another dtype."""
    opened = output.opened_for([source])[0]
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


def average(sources: Sequence[Path], weights: Sequence[float] | None, output: Output) -> Exit:
    """Write the weighted mean; what is not floating, and all that is no array, is that of the first."""
    opened = output.opened_for(sources)
    made = average_trees([unflatten(arrays(each)) for each in opened], weights=weights)
    leaves: dict[str, LazyArray] = flatten(made)
    share = weights or [1.0] * len(sources)
    lines = [f"{weight / sum(share):.4g} * {source}" for weight, source in zip(share, sources, strict=True)]
    store_view(output, view(opened[0], opened[0].paths(), leaves), lines)
    return Exit.OK


def stack(source: Path, name: str, within: str, output: Output) -> Exit:
    """Write layers ``name_0``, ``name_1``, ... as one level with a leading axis."""
    opened = output.opened_for([source])[0]
    made = _besides_text(opened, lambda tree: stack_layers(tree, name, within=within))
    store_tree(output, made, [opened], _new(opened, made), _levels(name, flatten(made), opened.paths()))
    return Exit.OK


def unstack(source: Path, name: str, within: str, output: Output) -> Exit:
    """Write a level of stacked layers as ``name_0``, ``name_1``, ..."""
    opened = output.opened_for([source])[0]
    made = _besides_text(opened, lambda tree: unstack_layers(tree, name, within=within))
    if not output.dry_run:
        verify_checkpoint(source)  # slices have no digests
    store_tree(output, made, [opened], _new(opened, made))
    return Exit.OK


def _besides_text(opened: Checkpoint, change: Callable[[Any], Any]) -> Any:
    """The tree with its layers changed, where words that are no part of a layer stay where they are."""
    tree = opened.tree()
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
