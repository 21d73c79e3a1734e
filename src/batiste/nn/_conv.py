"""Convolutions over one to three spatial axes, and more.

Inputs are ``[batch..., spatial..., channels]`` with any number of batch axes, none included; kernels are
``[spatial..., channels in, channels out]``. As everywhere in deep learning, what is called convolution is
cross-correlation: the kernel is not flipped (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning",
2016, https://arxiv.org/abs/1603.07285, has the extents of the outputs).

* ``Conv``: one kernel for all positions;
* ``ConvLocal``: a kernel for each position;
* ``ConvTranspose``: the map whose kernel is that of a convolution's gradient, for upsampling.

``padding`` is ``"SAME"``, ``"VALID"``, one integer, or an integer or a ``(low, high)`` pair for each spatial axis; and
for some layers ``"CAUSAL"`` (one spatial axis: no output sees an input after it; van den Oord and others, 2016,
https://arxiv.org/abs/1609.03499), ``"CIRCULAR"`` (the input repeats) or ``"REFLECT"`` (the input is mirrored at its
edge).

What depends on arrays runs in one jitted function (``_jitted.py``) of arrays and a ``_Geometry``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax

from batiste._arguments import array, whole_number, whole_numbers
from batiste.dtypes import canonicalize_dtype, cast, promote_dtype
from batiste.errors import (
    AxesWarning,
    ChannelGroupsError,
    InputRankError,
    KernelMaskShapeError,
    PaddingError,
    UnsupportedOptionError,
)
from batiste.module import Module, compact
from batiste.nn._axes import divisors, per_spatial_axis
from batiste.nn._initializers import lecun_normal, zeros
from batiste.nn._jitted import jitted
from batiste.nn._linear import PromoteDtype
from batiste.typing import Array, ArrayLike, DTypeLike, Initializer, PrecisionLike

__all__ = ["Conv", "ConvLocal", "ConvTranspose", "PaddingLike"]

PaddingLike: TypeAlias = str | int | Sequence[int | tuple[int, int]]
"""A padding by name, the same one for all edges, or one for each spatial axis."""

_Pads: TypeAlias = tuple[tuple[int, int], ...]

_ConvGeneral: TypeAlias = Callable[..., Array]
"""A function with the signature of ``jax.lax.conv_general_dilated``."""


class _Geometry(NamedTuple):
    """What a convolution does besides multiplying: static, and equal by value.

    Attributes:
      size: the kernel's spatial extents.
      strides: the steps between outputs.
      padding: a name that JAX knows, or explicit widths.
      edges: what is put at the edges before the convolution: ``(mode, widths)`` for ``jnp.pad``, or None.
      input_dilation: the steps between inputs, with zeros between them.
      kernel_dilation: the steps between kernel entries.
      groups: how many groups the channels form.
      is_local: whether each position has a kernel of its own.
      precision: how exactly products are computed.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str | _Pads
    edges: tuple[str, _Pads] | None
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int
    is_local: bool
    precision: PrecisionLike

    def output_extents(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Return the spatial extents of the output for an input's."""
        if self.edges is not None:
            widths = self.edges[1][1:-1]
            spatial = tuple(n + low + high for n, (low, high) in zip(spatial, widths, strict=True))
        spread = [(n - 1) * d + 1 for n, d in zip(spatial, self.input_dilation, strict=True)]
        reach = [(n - 1) * d + 1 for n, d in zip(self.size, self.kernel_dilation, strict=True)]
        pads = self.padding
        if isinstance(pads, str):
            pads = lax.padtype_to_pads(spread, reach, self.strides, pads)
        return tuple(
            max(0, (n + low + high - r) // step + 1)
            for n, (low, high), r, step in zip(spread, pads, reach, self.strides, strict=True)
        )


class _Convolution(Module):
    """What ``Conv`` and ``ConvLocal`` share: all but where the kernel applies."""

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = 1
    padding: PaddingLike = "SAME"
    input_dilation: int | Sequence[int] | None = 1
    kernel_dilation: int | Sequence[int] | None = 1
    feature_group_count: int = 1
    use_bias: bool = True
    mask: ArrayLike | None = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros
    promote_dtype: PromoteDtype = promote_dtype
    conv_general_dilated: Callable[..., Array] | None = None
    conv_general_dilated_cls: Any = None

    is_local: ClassVar[bool] = False

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Return ``[batch..., spatial..., features]`` for ``inputs`` ``[batch..., spatial..., channels]``.

        Raises:
          ArgumentError: a size, a step or a width is no whole number, or the input is no array.
          InputRankError: the input has no axis for some spatial axis or for the channels.
          ChannelGroupsError: ``feature_group_count`` does not divide the channels or the features.
          SpatialArgumentError: strides or dilations are not one for each spatial axis.
          PaddingError: the padding is unknown or does not fit the other options.
          KernelMaskShapeError: the mask has another shape than the kernel.
          UnsupportedOptionError: ``ConvLocal`` is given groups.
        """
        inputs = array(inputs, "inputs", self)
        features = whole_number(self.features, "features", self)
        geometry = _geometry(self)
        spatial = len(geometry.size)
        _check_axes(inputs, geometry.size, self)
        channels = inputs.shape[-1]
        _check_groups(channels, features, geometry.groups, self.path)
        positions: tuple[int, ...] = ()
        kernel_shape = (*geometry.size, channels // geometry.groups, features)
        if self.is_local:
            positions = geometry.output_extents(inputs.shape[-spatial - 1 : -1])
            kernel_shape = (*positions, math.prod(geometry.size) * channels, features)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, self.param_dtype)
        if self.mask is not None:
            kernel = _masked(kernel, self.mask, self.path)
        bias_shape = (*positions, features)
        bias = self.param("bias", self.bias_init, bias_shape, self.param_dtype) if self.use_bias else None
        conv = None if self.is_local else self.conv_general_dilated
        if self.conv_general_dilated_cls is not None and not self.is_local:
            conv = self.conv_general_dilated_cls()
        if conv is None and self.promote_dtype is promote_dtype:
            dtype = np.dtype(canonicalize_dtype(inputs, kernel, bias, dtype=self.dtype))
            return _convolve_jitted(inputs, kernel, bias, geometry, dtype)
        inputs, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return _convolve(inputs, kernel, bias, geometry, conv=conv)


class Conv(_Convolution):
    """A convolution: the same kernel at every position.

    ``y[i, o] = sum over offsets k and channels c of x[i * stride + k * dilation, c] W[k, c, o] + b[o]``

    Parameters: ``kernel`` ``[kernel_size..., channels / feature_group_count, features]`` and ``bias`` ``[features]``
    (LeCun and others, "Gradient-based learning applied to document recognition", 1998).

    Attributes:
      features: how many channels come out.
      kernel_size: the kernel's extent along each spatial axis; an integer stands for one spatial axis.
      strides: the steps between outputs.
      padding: what is put at the edges, by name or by widths.
      input_dilation: the steps between inputs, with zeros between them.
      kernel_dilation: the steps between kernel entries (Yu and Koltun, 2015, https://arxiv.org/abs/1511.07122).
      feature_group_count: into how many groups channels and features are split, each convolved on its own; as many as
        there are channels make a depthwise convolution.
      use_bias: whether a bias is added.
      mask: multiplied with the kernel, and of its shape.
      dtype: what to compute in; None takes what input and parameters promote to.
      param_dtype: what parameters are kept in.
      precision: how exactly products are computed, as ``jax.lax.conv_general_dilated`` takes it.
      kernel_init: draws the kernel.
      bias_init: draws the bias.
      promote_dtype: brings input, kernel and bias to one dtype.
      conv_general_dilated: convolves in place of ``jax.lax.conv_general_dilated``.
      conv_general_dilated_cls: makes what convolves, for one with state of its own.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.Conv(4, kernel_size=(3, 3), strides=2)
      >>> x = jnp.ones((1, 8, 8, 3))
      >>> y, variables = layer.init_with_output(jax.random.key(0), x)
      >>> y.shape, variables["params"]["kernel"].shape
      ((1, 4, 4, 4), (3, 3, 3, 4))
    """


class ConvLocal(_Convolution):
    """A convolution with a kernel for each position, also called a locally connected layer.

    Parameters: ``kernel`` ``[positions..., product of kernel_size * channels, features]`` and ``bias``
    ``[positions..., features]``, where positions are those of the output. The attributes are those of ``Conv``;
    ``feature_group_count`` must be 1, and ``conv_general_dilated`` is not used.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.ConvLocal(4, kernel_size=(3,), padding="VALID")
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 3)))
      >>> y.shape, variables["params"]["kernel"].shape
      ((1, 6, 4), (6, 9, 4))
    """

    is_local: ClassVar[bool] = True


class ConvTranspose(Module):
    """A transposed convolution, for upsampling: outputs are ``strides`` times as dense as inputs.

    Each input puts a copy of the kernel, times itself, into the output (Zeiler and others, "Deconvolutional networks",
    2010). With ``"SAME"`` the output has ``extent * stride`` positions, with ``"VALID"``
    ``extent * stride + max(kernel_size - stride, 0)``, and with ``"CIRCULAR"`` as many as with ``"SAME"``. With
    ``transpose_kernel`` it is the transpose of the ``Conv`` with the same kernel, strides, dilation and named padding.
    Parameters: ``kernel`` ``[kernel_size..., channels, features]`` (``[kernel_size..., features, channels]`` with
    ``transpose_kernel``) and ``bias`` ``[features]``.

    Attributes:
      features: how many channels come out.
      kernel_size: the kernel's extent along each spatial axis; an integer stands for one spatial axis.
      strides: how many outputs there are for each input; None stands for 1.
      padding: ``"SAME"``, ``"VALID"``, ``"CIRCULAR"``, or the widths that the dilated input is padded with.
      kernel_dilation: the steps between kernel entries; None stands for 1.
      use_bias: whether a bias is added.
      mask: multiplied with the kernel, and of its shape.
      dtype: what to compute in; None takes what input and parameters promote to.
      param_dtype: what parameters are kept in.
      precision: how exactly products are computed, as ``jax.lax.conv_transpose`` takes it.
      kernel_init: draws the kernel.
      bias_init: draws the bias.
      transpose_kernel: whether the kernel is that of a convolution whose transpose this is: flipped along spatial axes,
        and with its last two axes swapped.
      promote_dtype: brings input, kernel and bias to one dtype.
      preferred_element_type: what products are summed in and returned in.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.ConvTranspose(4, kernel_size=(3,), strides=(2,))
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 3)))
      >>> y.shape
      (1, 16, 4)
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: Sequence[int] | None = None
    padding: PaddingLike = "SAME"
    kernel_dilation: Sequence[int] | None = None
    use_bias: bool = True
    mask: ArrayLike | None = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros
    transpose_kernel: bool = False
    promote_dtype: PromoteDtype = promote_dtype
    preferred_element_type: DTypeLike | None = None

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Return ``[batch..., spatial..., features]`` for ``inputs`` ``[batch..., spatial..., channels]``.

        Raises:
          ArgumentError: a size, a step or a width is no whole number, or the input is no array.
          InputRankError: the input has no axis for some spatial axis or for the channels.
          SpatialArgumentError: strides or dilations are not one for each spatial axis.
          PaddingError: the padding is unknown.
          KernelMaskShapeError: the mask has another shape than the kernel.
        """
        inputs = array(inputs, "inputs", self)
        features = whole_number(self.features, "features", self)
        size = whole_numbers(self.kernel_size, "kernel_size", self, low=1)
        strides = per_spatial_axis(self.strides, size, argument="strides", layer=self)
        dilation = per_spatial_axis(self.kernel_dilation, size, argument="kernel_dilation", layer=self)
        if isinstance(self.padding, str):
            padding = _known_padding(self.padding, ("SAME", "VALID", "CIRCULAR"), self.path)
        else:
            padding = _explicit_padding(self.padding, size, self)
        _check_axes(inputs, size, self)
        channels = (inputs.shape[-1], features)
        kernel_shape = (*size, *(channels[::-1] if self.transpose_kernel else channels))
        kernel = self.param("kernel", self.kernel_init, kernel_shape, self.param_dtype)
        if self.mask is not None:
            kernel = _masked(kernel, self.mask, self.path)
        bias = self.param("bias", self.bias_init, (features,), self.param_dtype) if self.use_bias else None
        dtype = None
        if self.promote_dtype is promote_dtype:
            dtype = np.dtype(canonicalize_dtype(inputs, kernel, bias, dtype=self.dtype))
        else:
            inputs, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        options = (strides, padding, dilation, self.transpose_kernel, self.precision, self.preferred_element_type)
        return _convolve_transposed(inputs, kernel, bias, dtype, *options)


def _geometry(layer: _Convolution) -> _Geometry:
    """Return the options of ``layer`` as integers, one for each spatial axis."""
    path = layer.path
    size = whole_numbers(layer.kernel_size, "kernel_size", layer, low=1)
    strides = per_spatial_axis(layer.strides, size, argument="strides", layer=layer)
    spread = per_spatial_axis(layer.input_dilation, size, argument="input_dilation", layer=layer)
    dilation = per_spatial_axis(layer.kernel_dilation, size, argument="kernel_dilation", layer=layer)
    groups = whole_number(layer.feature_group_count, "feature_group_count", layer, low=1)
    if layer.is_local and groups != 1:
        problem = "each position has a kernel of its own, for all channels"
        advice = "Leave feature_group_count=1, or split the channels and use one ConvLocal for each part."
        raise UnsupportedOptionError(
            path=path, argument="feature_group_count", given=groups, problem=problem, advice=advice
        )
    padding, edges = _padding(layer.padding, size, spread, dilation, layer)
    return _Geometry(size, strides, padding, edges, spread, dilation, groups, layer.is_local, layer.precision)


def _padding(
    given: PaddingLike,
    size: tuple[int, ...],
    spread: tuple[int, ...],
    dilation: tuple[int, ...],
    layer: _Convolution,
) -> tuple[str | _Pads, tuple[str, _Pads] | None]:
    """Return the padding of the convolution, and what is put at the edges before it."""
    path = layer.path
    if not isinstance(given, str):
        return _explicit_padding(given, size, layer), None
    name = _known_padding(given, ("SAME", "SAME_LOWER", "VALID", "CAUSAL", "CIRCULAR", "REFLECT"), path)
    if any(step != 1 for step in spread):
        problem = "with input_dilation the widths of a named padding are not defined"
        advice = "Give the widths, as in padding=((1, 1),), or use ConvTranspose."
        raise PaddingError(path=path, given=given, problem=problem, advice=advice)
    reach = [(n - 1) * d for n, d in zip(size, dilation, strict=True)]
    if name == "CAUSAL":
        if len(size) != 1:
            problem = f"there are {len(size)} spatial axes, and causality is along one"
            advice = "Give the widths: (2, 0) for a causal axis with a kernel of 3, (1, 1) for another."
            raise PaddingError(path=path, given=given, problem=problem, advice=advice)
        return ((reach[0], 0),), None
    if name in {"CIRCULAR", "REFLECT"}:
        widths = ((0, 0), *((n // 2, n - n // 2) for n in reach), (0, 0))
        return "VALID", ("wrap" if name == "CIRCULAR" else "reflect", widths)
    return name, None


def _check_groups(channels: int, features: int, groups: int, path: tuple[str, ...]) -> None:
    for what, count in (("input channels", channels), ("features", features)):
        if groups < 1 or count % groups:
            raise ChannelGroupsError(
                path=path,
                channels=count,
                what=what,
                argument="feature_group_count",
                given=groups,
                divisors=divisors(count),
            )


def _check_axes(inputs: Array, size: tuple[int, ...], layer: _Convolution | ConvTranspose) -> None:
    """Refuse an input with too few axes, and warn of one that most likely lacks an axis, or has one too many."""
    spatial = len(size)
    shape = inputs.shape
    if inputs.ndim < spatial + 1:
        expected = f"at least {spatial + 1} axes, [batch..., {spatial} spatial, channels]"
        raise InputRankError(path=layer.path, shape=shape, expected=expected)
    if spatial == 1 and size[0] > 1 and inputs.ndim > 3 and not hasattr(layer.kernel_size, "__len__"):
        many = ", ".join([str(size[0])] * (inputs.ndim - 2))
        _warn(
            layer,
            f"has kernel_size={size[0]}, which is one spatial axis, and an input of shape {shape}, which has "
            f"{inputs.ndim - 1} axes before the channels. Write kernel_size=({many}) for {inputs.ndim - 2} spatial "
            f"axes, or ({size[0]},) if one is meant",
        )
    elif inputs.ndim == spatial + 1 and spatial == 2 and shape[0] != shape[1] == shape[2] > 4:
        _warn(
            layer,
            f"takes the last axis of an input of shape {shape} for {shape[2]} channels, and the first for a spatial "
            "one. For a batch of images with one channel write x[..., None]; x[None] says that there is no batch",
        )


def _warn(layer: Module, what: str) -> None:
    warnings.warn(f"/{'/'.join(layer.path)} {what}.", AxesWarning, stacklevel=2)


def _masked(kernel: Array, mask: ArrayLike, path: tuple[str, ...]) -> Array:
    """Return ``kernel`` times ``mask``; a mask of integers or Booleans takes the kernel's dtype."""
    if jnp.shape(mask) != kernel.shape:
        raise KernelMaskShapeError(path=path, given=jnp.shape(mask), expected=kernel.shape)
    is_inexact = jnp.issubdtype(jnp.result_type(mask), jnp.inexact)
    return kernel * (mask if is_inexact else jnp.asarray(mask, kernel.dtype))


def _known_padding(name: str, known: tuple[str, ...], path: tuple[str, ...]) -> str:
    if name.upper() in known:
        return name.upper()
    advice = f"Write one of {', '.join(map(repr, known))}, or the widths as integers or (low, high) pairs."
    raise PaddingError(path=path, given=name, problem="there is no such padding here", advice=advice)


def _explicit_padding(
    padding: int | Sequence[int | tuple[int, int]], size: tuple[int, ...], layer: _Convolution | ConvTranspose
) -> _Pads:
    """Return the widths as a pair for each spatial axis; negative ones cut off."""
    entries: Any = padding
    if getattr(entries, "ndim", 0) == 0 and not isinstance(padding, Sequence):
        entries = (padding,) * len(size)
    given: list[Any] = list(entries)
    pairs = [whole_numbers(entry, "padding", layer, low=None) for entry in given]
    pairs = [pair * 2 if not hasattr(entry, "__len__") else pair for pair, entry in zip(pairs, given, strict=True)]
    if len(pairs) == len(size) and all(len(pair) == 2 for pair in pairs):
        return tuple((low, high) for low, high in pairs)  # pyright: ignore[reportReturnType]
    problem = f"the kernel has {len(size)} spatial axes"
    advice = f"Give {len(size)} entries, each an integer or a (low, high) pair."
    raise PaddingError(path=layer.path, given=padding, problem=problem, advice=advice)


def _dimension_numbers(rank: int) -> lax.ConvDimensionNumbers:
    """Say that inputs and outputs are ``[batch, spatial..., channels]``, and kernels ``[spatial..., in, out]``."""
    data = (0, rank - 1, *range(1, rank - 1))
    return lax.ConvDimensionNumbers(data, (rank - 1, rank - 2, *range(rank - 2)), data)


def _one_batch_axis(inputs: Array, spatial: int) -> Array:
    """Return ``inputs`` with all batch axes merged, or with one added."""
    if inputs.ndim == spatial + 2:
        return inputs
    split = inputs.ndim - spatial - 1
    return jnp.reshape(inputs, (math.prod(inputs.shape[:split]), *inputs.shape[split:]))


def _convolve(
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    geometry: _Geometry,
    dtype: np.dtype[Any] | None = None,
    conv: _ConvGeneral | None = None,
) -> Array:
    """Convolve arrays; ``dtype`` is what they are cast to before it, and ``conv`` stands for JAX's convolution."""
    spatial = len(geometry.size)
    batch_shape = inputs.shape[: inputs.ndim - spatial - 1]
    x = _one_batch_axis(inputs, spatial)  # [batch, spatial..., channels]
    if geometry.edges is not None:
        mode, widths = geometry.edges
        x = jnp.pad(x, widths, mode=mode)
    if dtype is not None:
        x, kernel = cast(x, dtype), cast(kernel, dtype)
        bias = None if bias is None else cast(bias, dtype)
    options: dict[str, Any] = {
        "lhs_dilation": geometry.input_dilation,
        "rhs_dilation": geometry.kernel_dilation,
        "dimension_numbers": _dimension_numbers(x.ndim),
        "precision": geometry.precision,
    }
    if geometry.is_local:
        options["filter_shape"] = geometry.size
        conv = lax.conv_general_dilated_local
    else:
        options["feature_group_count"] = geometry.groups
        conv = lax.conv_general_dilated if conv is None else conv
    y = conv(x, kernel, geometry.strides, geometry.padding, **options)
    if bias is not None:
        y = y + jnp.reshape(bias, (*(1,) * (y.ndim - bias.ndim), *bias.shape))
    return y if len(batch_shape) == 1 else jnp.reshape(y, (*batch_shape, *y.shape[1:]))


_convolve_jitted = jitted(arrays=3)(_convolve)


@jitted(arrays=3)
def _convolve_transposed(
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    dtype: np.dtype[Any] | None,
    strides: tuple[int, ...],
    padding: str | _Pads,
    dilation: tuple[int, ...],
    transpose_kernel: bool,
    precision: PrecisionLike,
    preferred_element_type: DTypeLike | None,
) -> Array:
    spatial = len(strides)
    batch_shape = inputs.shape[: inputs.ndim - spatial - 1]
    x = _one_batch_axis(inputs, spatial)  # [batch, spatial..., channels]
    if dtype is not None:
        x, kernel = cast(x, dtype), cast(kernel, dtype)
        bias = None if bias is None else cast(bias, dtype)
    is_circular = padding == "CIRCULAR"
    y = lax.conv_transpose(
        x,
        kernel,
        strides,
        "VALID" if is_circular else padding,
        rhs_dilation=dilation,
        transpose_kernel=transpose_kernel,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    if is_circular:
        # The whole of y, wrapped around, begins before the result: as the circular padding of Conv does, if this is its
        # transpose, else as "SAME" does.
        periods = tuple(n * step for n, step in zip(x.shape[1:-1], strides, strict=True))
        reach = [(n - 1) * d for n, d in zip(kernel.shape, dilation, strict=False)]
        same = [max(n + 1 - step, 0) for n, step in zip(reach, strides, strict=True)]
        y = _wrap(y, periods, [n // 2 for n in (reach if transpose_kernel else same)])
    if bias is not None:
        y = y + jnp.reshape(bias, (*(1,) * (y.ndim - 1), bias.shape[0]))
    return y if len(batch_shape) == 1 else jnp.reshape(y, (*batch_shape, *y.shape[1:]))


def _wrap(y: Array, periods: tuple[int, ...], starts: list[int]) -> Array:
    """Add up all positions of ``y`` ``[batch, spatial..., channels]`` that are a whole number of periods apart.

    The result begins at the position of ``y`` that ``starts`` says.
    """
    if 0 in periods:
        return jnp.zeros((y.shape[0], *periods, y.shape[-1]), y.dtype)
    lows = [-start % period for start, period in zip(starts, periods, strict=True)]
    highs = [-(low + n) % period for low, n, period in zip(lows, y.shape[1:-1], periods, strict=True)]
    y = jnp.pad(y, ((0, 0), *zip(lows, highs, strict=True), (0, 0)))
    for axis, period in enumerate(periods, start=1):
        copies = y.shape[axis] // period
        y = jnp.sum(jnp.reshape(y, (*y.shape[:axis], copies, period, *y.shape[axis + 1 :])), axis=axis)
    return y
