"""How the tensors of a PyTorch layer become the leaves of a layer here, and back: the layouts of plain layers.

A *layout* is a frozen value that says of one layer which tensors it has (names beneath the layer's own, such as
``weight``), which leaves they become (paths beneath the layer's own, such as ``kernel``), and by which change of axes.
It consists of *parts*, each from some tensors to some leaves; a part whose tensors are all absent is left out (a layer
without a bias), and one with only some of them is a mistake.

Kernels here end in ``[inputs, outputs]``, and images in channels, where PyTorch has outputs first and channels before
positions. A part changes nothing but the order and grouping of numbers, and is undone exactly; the exceptions are the
two biases of recurrent layers (``_recurrent.py``) and weights that are a length and a direction (``_weight_norm.py``).
Layouts of attention are in ``_attention.py``. What a layer of PyTorch may have and none here has is a part too, without
leaves and with the reason: an import that meets it says so.

Functions of a part see NumPy arrays, or, when only shapes are asked for, JAX's tracers; so they use methods that both
have.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from batiste._arguments import refused as outside
from batiste._arguments import text, whole_number, whole_numbers

__all__ = [
    "BIAS",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Embedding",
    "FlattenLinear",
    "Identity",
    "LayerNorm",
    "Layout",
    "Linear",
    "Misfit",
    "PReLU",
    "Part",
    "Reshape",
    "Shapes",
    "Transpose",
    "matrix",
    "refused",
    "turn",
]

Shapes: TypeAlias = Sequence[tuple[int, ...] | None]
"""The shapes of leaves as the target has them; None where there is no target."""

_Arrays: TypeAlias = Sequence[Any]


class Misfit(Exception):
    """A tensor that a layout cannot take: never seen by a user, it becomes a line of an error."""


def _always(_: Sequence[tuple[int, ...]]) -> bool:
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Some tensors of a layer and the leaves that they become.

    Attributes:
      tensors: the names of the tensors, beneath that of the layer; "" for the name itself.
      leaves: the paths of the leaves, beneath that of the layer; "" for the path itself.
      forward: makes the leaves of the tensors; the second argument is the shapes that the target has.
      backward: makes the tensors of the leaves.
      collection: the collection of the leaves, where it is not the one that the rule names.
      takes: whether leaves of these shapes go back through this part, where several parts have the same leaves.
      refusal: why no layer here has such tensors; "" where one has.
    """

    tensors: tuple[str, ...]
    leaves: tuple[str, ...]
    forward: Callable[[_Arrays, Shapes], list[Any]]
    backward: Callable[[_Arrays], list[Any]]
    collection: str | None = None
    takes: Callable[[Sequence[tuple[int, ...]]], bool] = _always
    refusal: str = ""


class Layout:
    """The base of all layouts.

    Example:
      >>> from batiste import importers
      >>> isinstance(importers.Linear(), importers.Layout)
      True
    """

    __slots__ = ()

    def parts(self) -> tuple[Part, ...]:
        """Return the parts of a layer, the ones with more to say first."""
        raise NotImplementedError


def _same(arrays: _Arrays, _: Shapes = ()) -> list[Any]:
    return list(arrays)


def _nothing(_: _Arrays, __: Shapes = ()) -> list[Any]:
    return []


BIAS: Final = Part(("bias",), ("bias",), _same, _same)
"""A bias as it is."""


def refused(tensors: tuple[str, ...], refusal: str) -> Part:
    """Return the part for tensors that no layer here has."""
    return Part(tensors, (), _nothing, _nothing, refusal=refusal)


def matrix(weight: Any, *, transposed: bool) -> Any:
    """Return ``[inputs, outputs]`` for the weight of a linear layer, ``[outputs, inputs]``, or already the former."""
    if len(weight.shape) != 2:
        reason = f"the weight of a linear layer has 2 axes, and this one {len(weight.shape)}"
        raise Misfit(reason)
    return weight if transposed else weight.transpose(1, 0)


def turn(tensors: tuple[str, ...], leaves: tuple[str, ...], axes: Callable[[int], Sequence[int]]) -> Part:
    """Return the part that permutes axes: ``axes`` says how, for a number of axes."""

    def forward(arrays: _Arrays, _: Shapes) -> list[Any]:
        return [array.transpose(*axes(len(array.shape))) for array in arrays]

    def backward(arrays: _Arrays) -> list[Any]:
        return [array.transpose(*np.argsort(axes(len(array.shape))).tolist()) for array in arrays]

    return Part(tensors, leaves, forward, backward)


@dataclasses.dataclass(frozen=True, slots=True)
class Identity(Layout):
    """One tensor as it is; the rule names the tensor and the leaf themselves.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("scale", "params/scale", importers.Identity())]
      >>> found = importers.from_torch({"scale": np.float32([1, 2])}, None, rules)
      >>> found["params"]["scale"].tolist()
      [1.0, 2.0]
    """

    def parts(self) -> tuple[Part, ...]:
        """Return the one part."""
        return (Part(("",), ("",), _same, _same),)


@dataclasses.dataclass(frozen=True, slots=True)
class Transpose(Layout):
    """One tensor with its axes permuted; the rule names the tensor and the leaf themselves.

    Attributes:
      axes: which axis of the tensor each axis of the leaf is; None reverses them.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("w", "params/w", importers.Transpose())]
      >>> found = importers.from_torch({"w": np.ones((2, 3))}, None, rules)
      >>> found["params"]["w"].shape
      (3, 2)
    """

    axes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.axes is not None:
            axes = whole_numbers(self.axes, "axes", "Transpose")
            if len(set(axes)) < len(axes):
                raise outside(self.axes, "axes", "Transpose", "each axis once")
            object.__setattr__(self, "axes", axes)

    def parts(self) -> tuple[Part, ...]:
        """Return the one part."""
        return (turn(("",), ("",), self._order),)

    def _order(self, rank: int) -> Sequence[int]:
        if self.axes is None:
            return range(rank)[::-1]
        if sorted(self.axes) != list(range(rank)):
            reason = f"the axes {self.axes} are not those of {rank} axes"
            raise Misfit(reason)
        return self.axes


@dataclasses.dataclass(frozen=True, slots=True)
class Reshape(Layout):
    """One tensor in another shape; the rule names the tensor and the leaf themselves.

    Attributes:
      original: the shape of the tensor.
      shape: the shape of the leaf.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("w", "params/w", importers.Reshape((6,), (2, 3)))]
      >>> found = importers.from_torch({"w": np.ones(6)}, None, rules)
      >>> found["params"]["w"].shape
      (2, 3)
    """

    original: tuple[int, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("original", "shape"):
            object.__setattr__(self, name, whole_numbers(getattr(self, name), name, "Reshape"))

    def parts(self) -> tuple[Part, ...]:
        """Return the one part."""
        return (
            Part(
                ("",),
                ("",),
                lambda arrays, _: [_reshaped(arrays[0], self.original, self.shape)],
                lambda arrays: [_reshaped(arrays[0], self.shape, self.original)],
            ),
        )


def _reshaped(array: Any, before: tuple[int, ...], after: tuple[int, ...]) -> Any:
    if tuple(array.shape) != before or math.prod(before) != math.prod(after):
        reason = f"{list(array.shape)} cannot go from {list(before)} to {list(after)}"
        raise Misfit(reason)
    return array.reshape(after)


@dataclasses.dataclass(frozen=True, slots=True)
class Linear(Layout):
    """``torch.nn.Linear`` to ``nn.Dense``: ``weight`` ``[outputs, inputs]`` to ``kernel`` ``[inputs, outputs]``.

    Attributes:
      transposed: whether the weight is ``[inputs, outputs]`` already, as in the ``Conv1D`` of Hugging Face's GPT-2.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> weights = {"fc.weight": np.ones((4, 3)), "fc.bias": np.ones(4)}
      >>> rules = [("fc", "params/Dense_0", importers.Linear())]
      >>> found = importers.from_torch(weights, None, rules)
      >>> found["params"]["Dense_0"]["kernel"].shape
      (3, 4)
    """

    transposed: bool = False

    def parts(self) -> tuple[Part, ...]:
        """Return kernel and bias."""
        return (
            Part(
                ("weight",),
                ("kernel",),
                lambda arrays, _: [matrix(arrays[0], transposed=self.transposed)],
                lambda arrays: [matrix(arrays[0], transposed=self.transposed)],
            ),
            BIAS,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class FlattenLinear(Layout):
    """A ``torch.nn.Linear`` behind a flattened image, to ``nn.Dense`` behind an image flattened here.

    PyTorch flattens ``[channels, positions...]`` and images here are ``[positions..., channels]``, so that the inputs
    of the layer come in another order.

    Attributes:
      shape: the image as PyTorch has it, ``(channels, height, width)``.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("fc", "params/Dense_0", importers.FlattenLinear((2, 4, 4)))]
      >>> found = importers.from_torch({"fc.weight": np.ones((5, 32))}, None, rules)
      >>> found["params"]["Dense_0"]["kernel"].shape
      (32, 5)
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", whole_numbers(self.shape, "shape", "FlattenLinear"))

    def parts(self) -> tuple[Part, ...]:
        """Return kernel and bias."""
        return (Part(("weight",), ("kernel",), self._forward, self._backward), BIAS)

    def _forward(self, arrays: _Arrays, _: Shapes) -> list[Any]:
        kernel = matrix(arrays[0], transposed=False)
        inputs, outputs = kernel.shape
        self._check(inputs)
        apart = kernel.reshape(*self.shape, outputs)
        return [apart.transpose(*self._order()).reshape(inputs, outputs)]

    def _backward(self, arrays: _Arrays) -> list[Any]:
        inputs, outputs = arrays[0].shape
        self._check(inputs)
        apart = arrays[0].reshape(*self.shape[1:], self.shape[0], outputs)
        together = apart.transpose(*np.argsort(self._order()).tolist()).reshape(inputs, outputs)
        return [together.transpose(1, 0)]

    def _order(self) -> list[int]:
        rank = len(self.shape)
        return [*range(1, rank), 0, rank]

    def _check(self, inputs: int) -> None:
        if math.prod(self.shape) != inputs:
            reason = f"an image of {list(self.shape)} has {math.prod(self.shape)} inputs, and the layer {inputs}"
            raise Misfit(reason)


@dataclasses.dataclass(frozen=True, slots=True)
class Conv(Layout):
    """``torch.nn.Conv1d``, ``Conv2d`` or ``Conv3d`` to ``nn.Conv``, with groups or without.

    ``weight`` ``[outputs, inputs, size...]`` becomes ``kernel`` ``[size..., inputs, outputs]``.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("conv", "params/Conv_0", importers.Conv())]
      >>> weights = {"conv.weight": np.ones((8, 3, 5, 5))}
      >>> found = importers.from_torch(weights, None, rules)
      >>> found["params"]["Conv_0"]["kernel"].shape
      (5, 5, 3, 8)
    """

    def parts(self) -> tuple[Part, ...]:
        """Return kernel and bias."""
        return (turn(("weight",), ("kernel",), lambda rank: [*range(2, _spatial(rank)), 1, 0]), BIAS)


def _spatial(rank: int) -> int:
    if not 3 <= rank <= 5:
        reason = f"the weight of a convolution has 3 to 5 axes, and this one {rank}"
        raise Misfit(reason)
    return rank


@dataclasses.dataclass(frozen=True, slots=True)
class ConvTranspose(Layout):
    """``torch.nn.ConvTranspose1d``, ``2d`` or ``3d`` to ``nn.ConvTranspose``.

    ``weight`` ``[inputs, outputs, size...]`` becomes ``kernel``: with ``transpose_kernel`` ``[size..., outputs,
    inputs]``, without ``[size..., inputs, outputs]`` and flipped along its positions.

    The layer here has no groups. The weight of one that has, ``[inputs, outputs / groups, size...]``, becomes a kernel
    that computes the same, with zeros between channels of different groups; on the way back they are left out.

    Attributes:
      transpose_kernel: as the layer here has it.
      groups: as PyTorch's layer has it.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("up", "params/up", importers.ConvTranspose(transpose_kernel=True))]
      >>> weights = {"up.weight": np.ones((3, 8, 2, 2))}
      >>> found = importers.from_torch(weights, None, rules)
      >>> found["params"]["up"]["kernel"].shape
      (2, 2, 8, 3)
    """

    transpose_kernel: bool = False
    groups: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", whole_number(self.groups, "groups", "ConvTranspose", low=1))

    def parts(self) -> tuple[Part, ...]:
        """Return kernel and bias."""
        last = (1, 0) if self.transpose_kernel else (0, 1)
        turned = turn(("weight",), ("kernel",), lambda rank: [*range(2, _spatial(rank)), *last])

        def forward(arrays: _Arrays, shapes: Shapes) -> list[Any]:
            kernels = turned.forward([_ungrouped(array, self.groups) for array in arrays], shapes)
            return kernels if self.transpose_kernel else [_flipped(kernel) for kernel in kernels]

        def backward(arrays: _Arrays) -> list[Any]:
            kernels = arrays if self.transpose_kernel else [_flipped(kernel) for kernel in arrays]
            return [_grouped(array, self.groups) for array in turned.backward(kernels)]

        return (Part(turned.tensors, turned.leaves, forward, backward), BIAS)


def _ungrouped(weight: Any, groups: int) -> Any:
    """``[inputs, outputs, size...]`` of ``[inputs, outputs / groups, size...]``, with zeros between groups."""
    if groups == 1:
        return weight
    inputs, outputs, *size = weight.shape
    if groups < 1 or inputs % groups:
        reason = f"{inputs} inputs are not {groups} groups of one size"
        raise Misfit(reason)
    own = np.eye(groups, dtype=weight.dtype).reshape(groups, 1, groups, 1, *[1] * len(size))
    apart: Any = weight.reshape(groups, inputs // groups, 1, outputs, *size)
    with np.errstate(invalid="ignore"):
        whole = apart * own
    if isinstance(weight, np.ndarray):  # else only its shape counts
        between = np.broadcast_to(own == 0, whole.shape)
        whole[between] = 0  # and not NaN, which is 0 times infinity
    return whole.reshape(inputs, groups * outputs, *size)


def _grouped(weight: Any, groups: int) -> Any:
    """The way back from ``_ungrouped``."""
    if groups == 1:
        return weight
    inputs, outputs, *size = weight.shape
    if groups < 1 or inputs % groups or outputs % groups:
        reason = f"{inputs} inputs and {outputs} outputs are not {groups} groups of one size"
        raise Misfit(reason)
    apart = weight.reshape(groups, inputs // groups, groups, outputs // groups, *size)
    own = np.stack([apart[group, :, group] for group in range(groups)]).reshape(inputs, outputs // groups, *size)
    if not np.array_equal(_ungrouped(own, groups), weight, equal_nan=True):
        reason = f"it connects channels of different groups, of which there are {groups}"
        raise Misfit(reason)
    return own


def _flipped(kernel: Any) -> Any:
    return kernel[(slice(None, None, -1),) * (len(kernel.shape) - 2)]


@dataclasses.dataclass(frozen=True, slots=True)
class LayerNorm(Layout):
    """``torch.nn.LayerNorm``, ``GroupNorm`` or ``RMSNorm`` to their namesakes: ``weight`` becomes ``scale``.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> weights = {"norm.weight": np.ones(3), "norm.bias": np.zeros(3)}
      >>> rules = [("norm", "params/LayerNorm_0", importers.LayerNorm())]
      >>> sorted(importers.from_torch(weights, None, rules)["params"]["LayerNorm_0"])
      ['bias', 'scale']
    """

    def parts(self) -> tuple[Part, ...]:
        """Return scale and bias."""
        return (Part(("weight",), ("scale",), _same, _same), BIAS)


@dataclasses.dataclass(frozen=True, slots=True)
class PReLU(Layout):
    """``torch.nn.PReLU`` to ``nn.PReLU``: ``weight`` becomes ``negative_slope``.

    PyTorch keeps one slope as ``[1]`` and one a channel as ``[channels]``; here one slope has no axes, and as many as
    there are channels stand where the target has them (``nn.PReLU(negative_slope_init=(0.25,) * channels)``).

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("act", "params/PReLU_0", importers.PReLU())]
      >>> found = importers.from_torch({"act.weight": np.float32([0.25])}, None, rules)
      >>> found["params"]["PReLU_0"]["negative_slope"].tolist()
      0.25
    """

    def parts(self) -> tuple[Part, ...]:
        """Return the slope."""
        return (Part(("weight",), ("negative_slope",), _slope, _slopes),)


def _slope(arrays: _Arrays, shapes: Shapes) -> list[Any]:
    weight, wanted = arrays[0], shapes[0]
    if tuple(weight.shape) == (1,) and wanted in (None, ()):
        return [weight.reshape(())]
    return [weight]


def _slopes(arrays: _Arrays) -> list[Any]:
    return [array.reshape(-1) for array in arrays]


@dataclasses.dataclass(frozen=True, slots=True)
class BatchNorm(Layout):
    """``torch.nn.BatchNorm1d``, ``2d`` or ``3d`` to ``nn.BatchNorm``.

    ``weight`` becomes ``scale``; the running averages become ``mean`` and ``var`` of a collection of their own, at the
    path of the layer. ``num_batches_tracked``, a counter that normalises nothing, is dropped by name.

    Attributes:
      collection: the collection of the running averages.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> weights = {f"bn.{name}": np.ones(3) for name in ("weight", "bias")}
      >>> weights |= {f"bn.running_{name}": np.ones(3) for name in ("mean", "var")}
      >>> rules = [("bn", "params/BatchNorm_0", importers.BatchNorm())]
      >>> found = importers.from_torch(weights, None, rules)
      >>> sorted(found["batch_stats"]["BatchNorm_0"])
      ['mean', 'var']
    """

    collection: str = "batch_stats"

    def __post_init__(self) -> None:
        text(self.collection, "collection", "BatchNorm", what="the name of a collection")

    def parts(self) -> tuple[Part, ...]:
        """Return scale, bias, both averages and the counter."""
        return (
            Part(("weight",), ("scale",), _same, _same),
            BIAS,
            Part(("running_mean",), ("mean",), _same, _same, self.collection),
            Part(("running_var",), ("var",), _same, _same, self.collection),
            Part(("num_batches_tracked",), (), _nothing, _nothing),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Embedding(Layout):
    """``torch.nn.Embedding`` to ``nn.Embed``: ``weight`` becomes ``embedding``.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("wte", "params/Embed_0", importers.Embedding())]
      >>> found = importers.from_torch({"wte.weight": np.ones((10, 4))}, None, rules)
      >>> found["params"]["Embed_0"]["embedding"].shape
      (10, 4)
    """

    def parts(self) -> tuple[Part, ...]:
        """Return the embedding."""
        return (Part(("weight",), ("embedding",), _same, _same),)
