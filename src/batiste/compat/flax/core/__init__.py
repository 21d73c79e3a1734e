"""``flax.core``: frozen dicts, and the functional core over scopes.

Frozen dicts are here at once. The names of ``scope``, ``lift``, ``meta``, ``tracers`` and ``axes_scan`` load when they
are first asked for.
"""

from __future__ import annotations

import typing as _typing

from batiste._later import later as _later
from batiste.compat.flax.core.frozen_dict import FrozenDict, copy, freeze, pop, pretty_repr, unfreeze

if _typing.TYPE_CHECKING:
    from batiste.compat.flax.core.axes_scan import broadcast
    from batiste.compat.flax.core.lift import (
        custom_vjp,
        jit,
        jvp,
        remat,
        remat_scan,
        scan,
        vjp,
        vmap,
        while_loop,
    )
    from batiste.compat.flax.core.meta import AxisMetadata, map_axis_meta, unbox
    from batiste.compat.flax.core.scope import Array, DenyList, Scope, apply, bind, init, lazy_init
    from batiste.compat.flax.core.tracers import check_trace_level, current_trace

__all__ = [
    "Array",
    "AxisMetadata",
    "DenyList",
    "FrozenDict",
    "Scope",
    "apply",
    "bind",
    "broadcast",
    "check_trace_level",
    "copy",
    "current_trace",
    "custom_vjp",
    "freeze",
    "init",
    "jit",
    "jvp",
    "lazy_init",
    "map_axis_meta",
    "pop",
    "pretty_repr",
    "remat",
    "remat_scan",
    "scan",
    "unbox",
    "unfreeze",
    "vjp",
    "vmap",
    "while_loop",
]

__getattr__, __dir__ = _later(
    __name__,
    (
        "axes_scan",
        "frozen_dict",
        "lift",
        "meta",
        "nn",
        "partial_eval",
        "scope",
        "spmd",
        "tracers",
        "variables",
    ),
    {
        "axes_scan": ("broadcast",),
        "lift": ("custom_vjp", "jit", "jvp", "remat", "remat_scan", "scan", "vjp", "vmap", "while_loop"),
        "meta": ("AxisMetadata", "map_axis_meta", "unbox"),
        "scope": ("Array", "DenyList", "Scope", "apply", "bind", "init", "lazy_init"),
        "tracers": ("check_trace_level", "current_trace"),
    },
)
