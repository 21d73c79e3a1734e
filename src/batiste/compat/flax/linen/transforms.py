"""Lifted transforms: ``flax.linen.transforms``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from batiste.compat.flax.core.frozen_dict import (
    FrozenDict,
)
from batiste.compat.flax.typing import (
    InOutAxis,
    InOutScanAxis,
)
from batiste.core import (
    CollectionFilter,
)
from batiste.nn import (
    Module,
    Variable,
    add_metadata_axis,
    checkpoint,
    cond,
    custom_vjp,
    fold_rngs,
    grad,
    jit,
    jvp,
    map_variables,
    named_call,
    remat,
    remat_scan,
    scan,
    switch,
    value_and_grad,
    vjp,
    vmap,
    while_loop,
    wrap_method_once,
)

__all__ = [
    "CollectionFilter",
    "FrozenDict",
    "InOutAxis",
    "InOutScanAxis",
    "Module",
    "TransformTarget",
    "Variable",
    "add_metadata_axis",
    "checkpoint",
    "cond",
    "custom_vjp",
    "fold_rngs",
    "grad",
    "jit",
    "jvp",
    "map_variables",
    "named_call",
    "remat",
    "remat_scan",
    "scan",
    "switch",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
    "wrap_method_once",
]

TransformTarget: TypeAlias = type[Module] | Callable[..., Any]
"""What a transform takes: a Module class, or a function whose first argument is a module."""
