"""Recurrent cells, and layers that run them over time: ``flax.linen.recurrent``."""

from __future__ import annotations

from typing import Any, TypeAlias

from batiste.compat.flax.core.frozen_dict import FrozenDict
from batiste.compat.flax.linen.linear import default_kernel_init
from batiste.compat.flax.typing import Array, Dtype, Initializer, InOutScanAxis, PrecisionLike, PRNGKey
from batiste.core import CollectionFilter
from batiste.dtypes import promote_dtype
from batiste.nn import (
    RNN,
    Bidirectional,
    Conv,
    ConvLSTMCell,
    Dense,
    GRUCell,
    LSTMCell,
    MGUCell,
    Module,
    OptimizedLSTMCell,
    RNNBase,
    RNNCellBase,
    SimpleCell,
    compact,
    flip_sequences,
    initializers,
    nowrap,
    sigmoid,
    tanh,
)

__all__ = [
    "Array",
    "Bidirectional",
    "Carry",
    "CarryHistory",
    "CollectionFilter",
    "Conv",
    "ConvLSTMCell",
    "Dense",
    "Dtype",
    "FrozenDict",
    "GRUCell",
    "InOutScanAxis",
    "Initializer",
    "LSTMCell",
    "MGUCell",
    "Module",
    "OptimizedLSTMCell",
    "Output",
    "PRNGKey",
    "PrecisionLike",
    "RNN",
    "RNNBase",
    "RNNCellBase",
    "SimpleCell",
    "compact",
    "default_kernel_init",
    "flip_sequences",
    "initializers",
    "nowrap",
    "promote_dtype",
    "sigmoid",
    "tanh",
]

Carry: TypeAlias = Any
"""What a cell hands from one step to the next."""

CarryHistory: TypeAlias = Any
"""The carries of all steps."""

Output: TypeAlias = Any
"""What a cell returns at a step."""
