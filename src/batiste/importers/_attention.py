"""The layouts of attention: PyTorch keeps all heads side by side, ``nn.MultiHeadDotProductAttention`` on an axis.

A projection to heads, ``[heads * size, inputs]``, becomes ``[inputs, heads, size]`` and its bias ``[heads, size]``; the
one from heads, ``[outputs, heads * size]``, becomes ``[heads, size, outputs]``. How many heads there are, the target's
shapes say, or ``heads=`` where there is no target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from batiste._arguments import whole_number
from batiste.importers._layouts import BIAS, Layout, Misfit, Part, Shapes, matrix, refused

__all__ = ["Attention", "AttentionIn", "AttentionOut", "FusedAttentionIn"]

_ROLES = ("query", "key", "value")


def _check_heads(layout: Any) -> None:
    """Refuse a number of heads that is none, and keep one of any kind as an ``int``."""
    if layout.heads is not None:
        object.__setattr__(layout, "heads", whole_number(layout.heads, "heads", type(layout).__name__, low=1))


@dataclasses.dataclass(frozen=True, slots=True)
class AttentionIn(Layout):
    """A ``torch.nn.Linear`` that makes queries, keys or values, to ``nn.DenseGeneral`` with heads.

    Attributes:
      heads: how many heads; None takes what the target has.
      transposed: whether the weight is ``[inputs, outputs]`` already.

    Example:
      >>> import numpy as np
      >>> from batiste import importers, tree
      >>> weights = {"q.weight": np.ones((8, 6)), "q.bias": np.ones(8)}
      >>> rules = [("q", "params/query", importers.AttentionIn(heads=2))]
      >>> found = importers.from_torch(weights, None, rules)
      >>> tree.get(found, "params/query/kernel").shape
      (6, 2, 4)
    """

    heads: int | None = None
    transposed: bool = False

    def __post_init__(self) -> None:
        """Check the number of heads."""
        _check_heads(self)

    def parts(self) -> tuple[Part, ...]:
        """Return kernel and bias."""
        return (
            Part(
                ("weight",),
                ("kernel",),
                lambda arrays, shapes: [
                    _to_heads(matrix(arrays[0], transposed=self.transposed), self.heads, shapes[0])
                ],
                lambda arrays: [matrix(_from_heads(arrays[0]), transposed=self.transposed)],
            ),
            _bias_part(("bias",), ("bias",), self.heads),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class AttentionOut(Layout):
    """The ``torch.nn.Linear`` that brings all heads together, to ``nn.DenseGeneral`` over heads.

    Attributes:
      heads: how many heads; None takes what the target has.
      transposed: whether the weight is ``[inputs, outputs]`` already.

    Example:
      >>> import numpy as np
      >>> from batiste import importers, tree
      >>> weights = {"o.weight": np.ones((6, 8)), "o.bias": np.ones(6)}
      >>> rules = [("o", "params/out", importers.AttentionOut(heads=2))]
      >>> found = importers.from_torch(weights, None, rules)
      >>> tree.get(found, "params/out/kernel").shape
      (2, 4, 6)
    """

    heads: int | None = None
    transposed: bool = False

    def __post_init__(self) -> None:
        """Check the number of heads."""
        _check_heads(self)

    def parts(self) -> tuple[Part, ...]:
        """Return kernel and bias."""
        return (_out_part("weight", "kernel", self.heads, transposed=self.transposed), BIAS)


@dataclasses.dataclass(frozen=True, slots=True)
class FusedAttentionIn(Layout):
    """One ``torch.nn.Linear`` that makes queries, keys and values one below the other, to three layers with heads.

    The leaves are ``query/kernel``, ``key/kernel``, ``value/kernel`` and their biases, beneath the rule's path.

    Attributes:
      heads: how many heads; None takes what the target has.
      transposed: whether the weight is ``[inputs, outputs]`` already, as ``c_attn`` of Hugging Face's GPT-2.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> weights = {"qkv.weight": np.ones((24, 6))}
      >>> rules = [("qkv", "params", importers.FusedAttentionIn(heads=2))]
      >>> found = importers.from_torch(weights, None, rules)
      >>> sorted(found["params"]), found["params"]["key"]["kernel"].shape
      (['key', 'query', 'value'], (6, 2, 4))
    """

    heads: int | None = None
    transposed: bool = False

    def __post_init__(self) -> None:
        """Check the number of heads."""
        _check_heads(self)

    def parts(self) -> tuple[Part, ...]:
        """Return the three kernels and the three biases."""
        return (
            _fused_kernels("weight", self.heads, transposed=self.transposed),
            _bias_part(("bias",), tuple(f"{role}/bias" for role in _ROLES), self.heads),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Attention(Layout):
    """``torch.nn.MultiheadAttention`` to ``nn.MultiHeadDotProductAttention``.

    ``in_proj_weight`` (or ``q_proj_weight``, ``k_proj_weight`` and ``v_proj_weight``, where keys and values have sizes
    of their own) and ``in_proj_bias`` become the layers ``query``, ``key`` and ``value``; ``out_proj`` becomes ``out``.
    A layer with ``bias_k`` and ``bias_v`` is refused: none here attends to a key of its own.

    Attributes:
      heads: how many heads; None takes what the target has.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> weights = {
      ...     "attn.in_proj_weight": np.ones((24, 8)),
      ...     "attn.in_proj_bias": np.ones(24),
      ...     "attn.out_proj.weight": np.ones((8, 8)),
      ...     "attn.out_proj.bias": np.ones(8),
      ... }
      >>> rules = [("attn", "params/attn", importers.Attention(heads=2))]
      >>> found = importers.from_torch(weights, None, rules)
      >>> found["params"]["attn"]["query"]["kernel"].shape
      (8, 2, 4)
    """

    heads: int | None = None

    def __post_init__(self) -> None:
        """Check the number of heads."""
        _check_heads(self)

    def parts(self) -> tuple[Part, ...]:
        """Return the projections to heads, fused or apart, and the one from heads."""
        apart = Part(
            ("q_proj_weight", "k_proj_weight", "v_proj_weight"),
            tuple(f"{role}/kernel" for role in _ROLES),
            lambda arrays, shapes: [
                _to_heads(matrix(array, transposed=False), self.heads, shape)
                for array, shape in zip(arrays, shapes, strict=True)
            ],
            lambda arrays: [matrix(_from_heads(array), transposed=False) for array in arrays],
        )
        return (
            _fused_kernels("in_proj_weight", self.heads, transposed=False),
            apart,
            _bias_part(("in_proj_bias",), tuple(f"{role}/bias" for role in _ROLES), self.heads),
            _out_part("out_proj.weight", "out/kernel", self.heads, transposed=False),
            dataclasses.replace(BIAS, tensors=("out_proj.bias",), leaves=("out/bias",)),
            refused(
                ("bias_k", "bias_v"),
                "a learnt key and value beside those of the inputs (`add_bias_kv=True`) have no counterpart in "
                "nn.MultiHeadDotProductAttention",
            ),
        )


def _count(heads: int | None, shape: tuple[int, ...] | None, rank: int, axis: int, width: int) -> int:
    """How many heads a width is divided into."""
    if heads is None and shape is not None and len(shape) == rank:
        heads = shape[axis]
    if heads is None:
        here = (
            "nothing" if shape is None else f"the target's {list(shape)}, which has {len(shape)} axes and not {rank},"
        )
        reason = f"{here} says how many heads there are"
        raise Misfit(reason + ("; give the layout `heads=`" if shape is None else ""))
    if heads < 1 or width % heads:
        reason = f"{width} is not {heads} heads of one size"
        raise Misfit(reason)
    return heads


def _to_heads(kernel: Any, heads: int | None, shape: tuple[int, ...] | None) -> Any:
    inputs, width = kernel.shape
    count = _count(heads, shape, 3, 1, width)
    return kernel.reshape(inputs, count, width // count)


def _from_heads(kernel: Any) -> Any:
    if len(kernel.shape) != 3:
        reason = f"a kernel with heads has 3 axes, and this one {len(kernel.shape)}"
        raise Misfit(reason)
    return kernel.reshape(kernel.shape[0], -1)


def _bias_part(tensors: tuple[str, ...], leaves: tuple[str, ...], heads: int | None) -> Part:
    """A bias for heads, or several one behind the other."""

    def forward(arrays: Sequence[Any], shapes: Shapes) -> list[Any]:
        bias = arrays[0]
        width = bias.shape[0] // len(leaves) if len(bias.shape) == 1 else 0
        if width * len(leaves) != bias.size or not width:
            reason = f"a bias of {list(bias.shape)} is not {len(leaves)} of one size"
            raise Misfit(reason)
        found: list[Any] = []
        for index, shape in enumerate(shapes):
            count = _count(heads, shape, 2, 0, width)
            found.append(bias[index * width : (index + 1) * width].reshape(count, width // count))
        return found

    def backward(arrays: Sequence[Any]) -> list[Any]:
        return [np.concatenate([array.reshape(-1) for array in arrays])]

    return Part(tensors, leaves, forward, backward)


def _fused_kernels(tensor: str, heads: int | None, *, transposed: bool) -> Part:
    def forward(arrays: Sequence[Any], shapes: Shapes) -> list[Any]:
        kernel = matrix(arrays[0], transposed=transposed)
        width = kernel.shape[1] // 3
        if width * 3 != kernel.shape[1]:
            reason = f"{kernel.shape[1]} outputs are not those of queries, keys and values of one size"
            raise Misfit(reason)
        thirds = [kernel[:, index * width : (index + 1) * width] for index in range(3)]
        return [_to_heads(third, heads, shape) for third, shape in zip(thirds, shapes, strict=True)]

    def backward(arrays: Sequence[Any]) -> list[Any]:
        kernel = np.concatenate([_from_heads(array) for array in arrays], axis=1)
        return [matrix(kernel, transposed=transposed)]

    leaves = tuple(f"{role}/kernel" for role in _ROLES)
    return Part((tensor,), leaves, forward, backward, takes=lambda shapes: len({shape[0] for shape in shapes}) == 1)


def _out_part(tensor: str, leaf: str, heads: int | None, *, transposed: bool) -> Part:
    def forward(arrays: Sequence[Any], shapes: Shapes) -> list[Any]:
        kernel = matrix(arrays[0], transposed=transposed)
        width, outputs = kernel.shape
        count = _count(heads, shapes[0], 3, 0, width)
        return [kernel.reshape(count, width // count, outputs)]

    def backward(arrays: Sequence[Any]) -> list[Any]:
        if len(arrays[0].shape) != 3:
            reason = f"a kernel over heads has 3 axes, and this one {len(arrays[0].shape)}"
            raise Misfit(reason)
        return [matrix(arrays[0].reshape(-1, arrays[0].shape[-1]), transposed=transposed)]

    return Part((tensor,), (leaf,), forward, backward)
