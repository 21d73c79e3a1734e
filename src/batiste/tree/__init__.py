"""Algebra over nested dicts and any other pytree of arrays: paths, patterns, and what can be done by them.

A name's file is loaded when the name is first asked for: the files that lazy and NumPy arrays need do without JAX.
"""

import typing as _typing

from batiste._later import later as _later

if _typing.TYPE_CHECKING:
    from batiste.tree._average import add_scaled, average, interpolate
    from batiste.tree._conversion import cast_loss
    from batiste.tree._count import Total, bytes, count, totals  # noqa: A004 - `tree.bytes` beside `tree.count`
    from batiste.tree._diff import Diff, Difference, diff
    from batiste.tree._layers import by_layer, stack_layers, unstack_layers
    from batiste.tree._lazy import LazyArray
    from batiste.tree._lora import lora_init, lora_merge
    from batiste.tree._map import cast, label, map  # noqa: A004 - `tree.map` is what JAX calls it too
    from batiste.tree._names import join_path, path_string, split_path
    from batiste.tree._paths import flatten, get, items, unflatten
    from batiste.tree._patterns import Pattern, PatternLike, Patterns, compile_pattern
    from batiste.tree._rename import rename
    from batiste.tree._select import exclude, merge, partition, paths, select
else:
    __getattr__, __dir__ = _later(
        __name__,
        (),
        {
            "_average": ("add_scaled", "average", "interpolate"),
            "_conversion": ("cast_loss",),
            "_count": ("Total", "bytes", "count", "totals"),
            "_diff": ("Diff", "Difference", "diff"),
            "_layers": ("by_layer", "stack_layers", "unstack_layers"),
            "_lazy": ("LazyArray",),
            "_lora": ("lora_init", "lora_merge"),
            "_map": ("cast", "label", "map"),
            "_names": ("join_path", "path_string", "split_path"),
            "_paths": ("flatten", "get", "items", "unflatten"),
            "_patterns": ("Pattern", "PatternLike", "Patterns", "compile_pattern"),
            "_rename": ("rename",),
            "_select": ("exclude", "merge", "partition", "paths", "select"),
        },
    )


__all__ = [
    "Diff",
    "Difference",
    "LazyArray",
    "Pattern",
    "PatternLike",
    "Patterns",
    "Total",
    "add_scaled",
    "average",
    "by_layer",
    "bytes",
    "cast",
    "cast_loss",
    "compile_pattern",
    "count",
    "diff",
    "exclude",
    "flatten",
    "get",
    "interpolate",
    "items",
    "join_path",
    "label",
    "lora_init",
    "lora_merge",
    "map",
    "merge",
    "partition",
    "path_string",
    "paths",
    "rename",
    "select",
    "split_path",
    "stack_layers",
    "totals",
    "unflatten",
    "unstack_layers",
]
