"""A table of every layer, one row each; `test_laws.py` holds all laws for every row.

A new layer is a new row: how to make it, what to call it with, and, where training differs from evaluation, with which
keyword arguments, streams and mutable collections. Extents are small, and every array is float32 or of integers: the
laws of precision cast them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax import lax

from batiste import nn

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One layer.

    Attributes:
      make: returns the Module, a new one each time.
      args: what it is called with.
      train: keyword arguments in training.
      evaluate: keyword arguments in evaluation; those of training if there is no difference.
      mutable: the collections that training writes.
      rngs: the random streams that training draws from.
      is_strict: whether it runs under strict promotion where all inputs and variables are of one dtype.
      keeps_dtype: whether outputs then have that dtype.
      precisions: the dtypes that it runs in besides float32.
      has_gradient: whether a sum of its outputs has a gradient with respect to inputs or parameters.
    """

    make: Callable[[], nn.Module]
    args: tuple[Any, ...]
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluate: Mapping[str, Any] | None = None
    mutable: tuple[str, ...] = ()
    rngs: tuple[str, ...] = ()
    is_strict: bool = True
    keeps_dtype: bool = True
    precisions: tuple[str, ...] = ("bfloat16", "float64")
    has_gradient: bool = True


class Tied(nn.Module):
    """Looks vectors up, and multiplies them with the same table."""

    @nn.compact
    def __call__(self, ids: Any) -> Any:
        embed = nn.Embed(5, 3)
        return embed.attend(embed(ids))


class Pooled(nn.Module):
    """All pooling functions: they are no Modules."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        options = {"window_shape": (2,), "padding": "SAME"}
        total = nn.pool(x, 0.0, lax.add, (2,), (1,), "SAME")
        return total + nn.avg_pool(x, **options) + nn.max_pool(x, **options) + nn.min_pool(x, **options)


class Merged(nn.Module):
    """A layer under one more batch axis."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.BatchApply(nn.Dense(3))(x)


BATCH_STATS = {
    "train": {"use_running_average": False},
    "evaluate": {"use_running_average": True},
    "mutable": ("batch_stats",),
}
SINGULAR = {"train": {"update_stats": True}, "evaluate": {"update_stats": False}, "mutable": ("batch_stats",)}
# A recurrence starts from the cell's own param_dtype, and cannot widen what it carries.
FIRST_CARRY = {"is_strict": False, "keeps_dtype": False, "precisions": ("bfloat16",)}

CASES: Mapping[str, Case] = {
    "Dense": Case(make=lambda: nn.Dense(3), args=(normal(2, 4),)),
    "DenseGeneral": Case(make=lambda: nn.DenseGeneral((3, 2), axis=(-1,), batch_dims=(0,)), args=(normal(2, 3, 4),)),
    "Einsum": Case(make=lambda: nn.Einsum((4, 3), "...d,dh->...h"), args=(normal(2, 3, 4),)),
    "Conv": Case(make=lambda: nn.Conv(4, (3, 2), strides=(2, 1), feature_group_count=2), args=(normal(2, 5, 4, 2),)),
    "Conv, circular": Case(make=lambda: nn.Conv(3, 2, padding="CIRCULAR"), args=(normal(2, 5, 2),)),
    "ConvLocal": Case(make=lambda: nn.ConvLocal(3, (2,)), args=(normal(2, 4, 2),)),
    "ConvTranspose": Case(make=lambda: nn.ConvTranspose(3, (2,), strides=(2,)), args=(normal(2, 4, 2),)),
    "Embed": Case(make=Tied, args=(np.array([[0, 3], [4, 4]], np.int32),)),
    "LayerNorm": Case(make=nn.LayerNorm, args=(normal(2, 3, 4),)),
    "RMSNorm": Case(make=nn.RMSNorm, args=(normal(2, 3, 4),)),
    "GroupNorm": Case(make=lambda: nn.GroupNorm(2), args=(normal(2, 3, 4),)),
    "InstanceNorm": Case(make=nn.InstanceNorm, args=(normal(2, 3, 4),)),
    "BatchNorm": Case(make=nn.BatchNorm, args=(normal(4, 3),), **BATCH_STATS),
    "WeightNorm": Case(make=lambda: nn.WeightNorm(nn.Dense(3)), args=(normal(2, 4),)),
    "SpectralNorm": Case(make=lambda: nn.SpectralNorm(nn.Dense(3)), args=(normal(2, 4),), **SINGULAR),
    "Dropout": Case(
        make=lambda: nn.Dropout(0.5),
        args=(normal(3, 4),),
        train={"deterministic": False},
        evaluate={"deterministic": True},
        rngs=("dropout",),
    ),
    "PReLU": Case(make=nn.PReLU, args=(normal(3, 4),)),
    "Sequential": Case(make=lambda: nn.Sequential([nn.Dense(3), nn.PReLU(), nn.Dense(2)]), args=(normal(2, 4),)),
    "Repeat": Case(make=lambda: nn.Repeat(nn.Dense(4), 2), args=(normal(2, 4),)),
    "BatchApply": Case(make=Merged, args=(normal(2, 3, 4),)),
    "pooling": Case(make=Pooled, args=(normal(2, 5, 3),)),
    "MultiHeadAttention": Case(make=lambda: nn.MultiHeadAttention(2, qkv_features=4), args=(normal(2, 3, 4),)),
    "MultiHeadAttention, cross": Case(
        make=lambda: nn.MultiHeadDotProductAttention(2, qkv_features=4), args=(normal(2, 3, 4), normal(2, 5, 4))
    ),
    "MultiHeadAttention, dropout": Case(
        make=lambda: nn.MultiHeadAttention(2, qkv_features=4, dropout_rate=0.5),
        args=(normal(2, 3, 4),),
        train={"deterministic": False},
        evaluate={"deterministic": True},
        rngs=("dropout",),
    ),
    "GroupedQueryAttention": Case(
        make=lambda: nn.GroupedQueryAttention(num_heads=4, num_kv_heads=2, head_dim=4),
        args=(normal(2, 3, 8),),
        is_strict=False,  # rotates in float32
    ),
    "MoE": Case(make=lambda: nn.MoE(4, 6, capacity_factor=8.0), args=(normal(2, 3, 4),), is_strict=False),
    "SimpleCell": Case(make=lambda: nn.RNN(nn.SimpleCell(3)), args=(normal(2, 4, 3),), **FIRST_CARRY),
    "LSTMCell": Case(make=lambda: nn.RNN(nn.LSTMCell(3)), args=(normal(2, 4, 3),), **FIRST_CARRY),
    "OptimizedLSTMCell": Case(make=lambda: nn.RNN(nn.OptimizedLSTMCell(3)), args=(normal(2, 4, 3),), **FIRST_CARRY),
    "GRUCell": Case(make=lambda: nn.RNN(nn.GRUCell(3)), args=(normal(2, 4, 3),), **FIRST_CARRY),
    "MGUCell": Case(make=lambda: nn.RNN(nn.MGUCell(3)), args=(normal(2, 4, 3),), **FIRST_CARRY),
    "ConvLSTMCell": Case(make=lambda: nn.RNN(nn.ConvLSTMCell(2, (2,))), args=(normal(2, 3, 4, 2),), **FIRST_CARRY),
    "Bidirectional": Case(
        make=lambda: nn.Bidirectional(nn.RNN(nn.GRUCell(3)), nn.RNN(nn.GRUCell(3))),
        args=(normal(2, 4, 3),),
        **FIRST_CARRY,
    ),
}
