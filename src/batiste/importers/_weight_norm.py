"""The layout of layers whose weight is a length and a direction: PyTorch's weight normalisation, folded into a kernel.

``torch.nn.utils.weight_norm`` keeps ``weight_g`` and ``weight_v`` in the place of a weight, and
``torch.nn.utils.parametrizations.weight_norm`` keeps the same two as ``parametrizations.weight.original0`` and
``original1``. The weight is ``g * v / |v|``, the length taken over all axes but one (Salimans and Kingma, 2016,
https://arxiv.org/abs/1602.07868). Here it is computed once, and the layer has a kernel as any other.

Many pairs give one weight. The way back takes the weight itself for the direction and its length for ``g``, under the
older names, which both modules of PyTorch load.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from batiste._arguments import refused, text, whole_number
from batiste.importers._layouts import Layout, Linear, Misfit, Part, Shapes

__all__ = ["WeightNorm"]


@dataclasses.dataclass(frozen=True, slots=True)
class WeightNorm(Layout):
    """A layer of PyTorch under ``weight_norm``, to the layer here with the weight that comes of it.

    Attributes:
      layout: that of the layer itself.
      tensor: the name of the weight, such as ``weight_hh_l0`` of an LSTM.
      dim: the axis along which each slice has a length of its own, as PyTorch's ``dim``; None for one length.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> weights = {"fc.weight_g": np.full((4, 1), 2.0), "fc.weight_v": np.eye(4)}
      >>> rules = [("fc", "params/Dense_0", importers.WeightNorm(importers.Linear()))]
      >>> found = importers.from_torch(weights, None, rules)
      >>> found["params"]["Dense_0"]["kernel"].diagonal().tolist()
      [2.0, 2.0, 2.0, 2.0]
    """

    layout: Layout = Linear()  # noqa: RUF009 - a frozen value
    tensor: str = "weight"
    dim: int | None = 0

    def __post_init__(self) -> None:
        if not isinstance(self.layout, Layout):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise refused(self.layout, "layout", "WeightNorm", "a layout, such as Linear()")
        text(self.tensor, "tensor", "WeightNorm", what="the name of a tensor")
        if self.dim is not None:
            object.__setattr__(self, "dim", whole_number(self.dim, "dim", "WeightNorm", low=None))

    def parts(self) -> tuple[Part, ...]:
        """Return those of the layer, with two tensors in the place of the weight."""
        found: list[Part] = []
        for part in self.layout.parts():
            if self.tensor not in part.tensors or part.refusal:
                found.append(part)
                continue
            found.append(self._folded(part, f"{self.tensor}_g", f"{self.tensor}_v"))
            above = f"parametrizations.{self.tensor}"
            found.append(self._folded(part, f"{above}.original0", f"{above}.original1"))
        return tuple(found)

    def _folded(self, part: Part, length: str, direction: str) -> Part:
        """The part with these tensors in the place of the weight."""
        at = part.tensors.index(self.tensor)

        def forward(arrays: Sequence[Any], shapes: Shapes) -> list[Any]:
            weight = self._fold(arrays[at], arrays[at + 1])
            return part.forward([*arrays[:at], weight, *arrays[at + 2 :]], shapes)

        def backward(arrays: Sequence[Any]) -> list[Any]:
            tensors = part.backward(arrays)
            weight: Any = tensors[at]
            lengths = self._lengths(weight)
            direct = weight + (lengths == 0).astype(weight.dtype)  # what has no direction gets one, of length 0
            lengths = lengths if self.dim is not None else lengths.reshape(())
            return [*tensors[:at], lengths.astype(weight.dtype), direct, *tensors[at + 1 :]]

        return dataclasses.replace(
            part,
            tensors=(*part.tensors[:at], length, direction, *part.tensors[at + 1 :]),
            forward=forward,
            backward=backward,
        )

    def _fold(self, length: Any, direction: Any) -> Any:
        lengths = self._lengths(direction)
        wanted = lengths.shape if self.dim is not None else ()
        if length.shape != wanted:
            reason = f"the lengths are {list(length.shape)}, and {list(wanted)} with dim={self.dim}"
            raise Misfit(reason)
        return (direction * (length.astype(lengths.dtype) / lengths)).astype(direction.dtype)

    def _lengths(self, direction: Any) -> Any:
        """The length of each slice, ``[1..., slices, 1...]``, squared in twice the width, so that none overflows."""
        rank = len(direction.shape)
        if self.dim is not None and not -rank <= self.dim < rank:
            reason = f"it has {rank} axes, and dim={self.dim} is none of them"
            raise Misfit(reason)
        kept = None if self.dim is None else self.dim % rank
        single = np.promote_types(direction.dtype, np.float32)
        double = np.longdouble if single == np.float64 else np.float64
        wide = direction.astype(double if isinstance(direction, np.ndarray) else single).copy()  # C order
        axes = tuple(axis for axis in range(rank) if axis != kept)
        return ((wide * wide).sum(axis=axes, keepdims=True) ** 0.5).astype(single)
