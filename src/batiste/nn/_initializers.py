"""Initialisers that are equal by value: ``normal(0.02) == normal(0.02)``.

The values are drawn by ``jax.nn.initializers`` and are the same bits. What is added is identity: JAX's factories
return a fresh closure each time, so that nothing can tell that two layers are initialised alike. Here a factory returns
a ``ConfiguredInitializer``, which knows its factory and arguments. Two that were configured alike are equal, so that
equal Modules are equal and ``init`` compiles one program for all of them; they pickle, and print as they were written.

``1``, ``1.0`` and ``True`` are different arguments, since they may give different dtypes.

The formulas: LeCun and others, "Efficient BackProp", 1998 (``lecun_*``); Glorot and Bengio, "Understanding the
difficulty of training deep feedforward neural networks", 2010 (``glorot_*``, ``xavier_*``); He and others, "Delving
Deep into Rectifiers", 2015, https://arxiv.org/abs/1502.01852 (``he_*``, ``kaiming_*``); Saxe and others, 2013,
https://arxiv.org/abs/1312.6120 (``orthogonal``); Xiao and others, 2018, https://arxiv.org/abs/1806.05393
(``delta_orthogonal``). Throughout, ``in_axis`` and ``out_axis`` are the axes of the kernel that count as inputs and as
outputs, and ``batch_axis`` those that count as neither.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import array, choice, dtype_name, number, refused, whole_number, whole_numbers
from batiste.core import Fingerprint, fingerprint
from batiste.errors import ArgumentError
from batiste.typing import Array, ArrayLike, Axes, DTypeLike, Initializer, Key, Shape

__all__ = [
    "ConfiguredInitializer",
    "FlattenedInitializer",
    "constant",
    "delta_orthogonal",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "ones_init",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
    "zeros_init",
]

_OF_ANY_DTYPE = ("ones", "zeros", "constant")
_OF_ANY_RANK = (*_OF_ANY_DTYPE, "uniform", "normal", "truncated_normal")
_USUAL_DTYPES = frozenset(map(np.dtype, (jnp.bfloat16, np.float16, np.float32, np.float64)))
_CONSTANTS = ("ones", "zeros")  # in jax.nn.initializers these are initialisers, and not factories of them
_ORTHOGONAL = ("orthogonal", "delta_orthogonal")
_HALVES = (np.dtype(jnp.bfloat16), np.dtype(np.float16))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConfiguredInitializer:
    """An initialiser of ``jax.nn.initializers`` that knows how it was made.

    Attributes:
      factory: the name of the function in ``jax.nn.initializers`` that makes it.
      arguments: what that function is called with, by name.
      honours_shape: True: its result has the shape that it is called with, so that no one needs to run it to know.

    Example:
      >>> from batiste import nn
      >>> init = nn.initializers.he_normal()
      >>> init.factory, init.arguments["in_axis"]
      ('he_normal', -2)
    """

    factory: str
    arguments: Mapping[str, Any]

    honours_shape: ClassVar[bool] = True

    def __call__(
        self, key: Key | None, shape: Shape, dtype: DTypeLike | None = None, out_sharding: Any = None
    ) -> Array:
        """Return an array of ``shape``, drawn with ``key``.

        An array without numbers needs no fans to be drawn by. Orthogonal matrices in half precision are drawn in
        float32, since there is no QR decomposition in less.

        Args:
          key: a random key; the constants do without.
          shape: the extent of each axis.
          dtype: what to draw in; None takes the factory's.
          out_sharding: where the result lies, as ``jax.nn.initializers`` take it.

        Raises:
          ArgumentError: the shape or the dtype is none, or this initialiser cannot draw in it.
        """
        options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        if out_sharding is not None:
            options["out_sharding"] = out_sharding
        try:
            if dtype is not None and dtype not in _USUAL_DTYPES:
                self._explain(shape, dtype)
            wanted = self.arguments.get("dtype") if dtype is None else dtype
            if "in_axis" in self.arguments and 0 in shape:
                return jnp.zeros(shape, wanted)
            if self.factory in _ORTHOGONAL and wanted in _HALVES:
                return self._draw(key, shape, **(options | {"dtype": jnp.float32})).astype(wanted)
            return self._draw(key, shape, **options)
        except ArgumentError:
            raise
        except (TypeError, ValueError):
            self._explain(shape, dtype)
            raise

    def _explain(self, shape: Any, dtype: Any) -> None:
        """Raise an error of the catalogue where the reason of a failure is known; return where it is not."""
        where = repr(self)
        extents = whole_numbers(shape, "shape", where)
        kind = None if dtype is None else dtype_name(dtype, "dtype", where)
        if kind is not None and self.factory not in _OF_ANY_DTYPE and not jnp.issubdtype(kind, jnp.inexact):
            advice = "Keep the parameter in fractions: param_dtype=jnp.float32. zeros, ones and constant fill integers."
            raise refused(kind.name, "dtype", where, "a floating-point or complex dtype", advice)
        if self.factory not in _OF_ANY_RANK and len(extents) < 2:
            advice = "Inputs and outputs are counted along axes of their own; normal or zeros fill any shape."
            raise refused(extents, "shape", where, "a shape of two axes or more", advice)

    @functools.cached_property
    def _draw(self) -> Callable[..., Array]:
        made = getattr(jax.nn.initializers, self.factory)
        return made if self.factory in _CONSTANTS else made(**self.arguments)

    @functools.cached_property
    def _value(self) -> Fingerprint:
        return fingerprint((self.factory, dict(self.arguments)))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, ConfiguredInitializer) and self._value == other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        if self.factory in _CONSTANTS:
            return self.factory
        known = inspect.signature(getattr(jax.nn.initializers, self.factory)).parameters
        shown = (
            f"{name}={_show(name, argument)}"
            for name, argument in self.arguments.items()
            if fingerprint(argument) != fingerprint(known[name].default)
        )
        return f"{self.factory}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfiguredInitializer, (self.factory, dict(self.arguments))


@dataclasses.dataclass(frozen=True)
class FlattenedInitializer:
    """Draws with ``initializer`` in ``flat_shape``, and reshapes what it drew.

    A kernel of many axes is drawn as the matrix that it acts as, so that the fans of its initialiser are those of the
    matrix. What the initialiser boxes stays boxed.

    Attributes:
      initializer: draws the flat values.
      flat_shape: the shape that it draws.
    """

    initializer: Initializer
    flat_shape: tuple[int, ...]

    @property
    def honours_shape(self) -> bool:
        """Whether the result is known to have the shape that this is called with."""
        return getattr(self.initializer, "honours_shape", False)

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = jnp.float32, /) -> Array:
        """Return an array of ``shape``, drawn with ``key`` in ``flat_shape``."""
        flat = self.initializer(key, self.flat_shape, dtype)
        return jax.tree.map(functools.partial(jnp.reshape, shape=shape), flat)


zeros = ConfiguredInitializer("zeros", {})
"""Zeros: ``zeros(key, shape, dtype)``; the key is not used."""

ones = ConfiguredInitializer("ones", {})
"""Ones: ``ones(key, shape, dtype)``; the key is not used."""


def zeros_init() -> ConfiguredInitializer:
    """Return ``zeros``.

    Example:
      >>> from batiste import nn
      >>> nn.initializers.zeros_init()(None, (2, 2)).tolist()
      [[0.0, 0.0], [0.0, 0.0]]
    """
    return zeros


def ones_init() -> ConfiguredInitializer:
    """Return ``ones``.

    Example:
      >>> from batiste import nn
      >>> nn.initializers.ones_init()(None, (2, 2)).tolist()
      [[1.0, 1.0], [1.0, 1.0]]
    """
    return ones


def constant(value: ArrayLike, dtype: DTypeLike | None = None) -> ConfiguredInitializer:
    """Return an initialiser that fills with ``value``, which may be an array that broadcasts to the shape.

    Raises:
      ArgumentError: it is no number and no array.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> nn.initializers.constant(0.5)(None, (2, 2)).tolist()
      [[0.5, 0.5], [0.5, 0.5]]
      >>> nn.initializers.constant(jnp.arange(2.0))(None, (2, 2)).tolist()
      [[0.0, 1.0], [0.0, 1.0]]
    """
    if type(value) not in (float, int):
        array(value, "value", "constant")
    return ConfiguredInitializer("constant", {"value": value, "dtype": dtype})


def uniform(scale: float = 1e-2, dtype: DTypeLike | None = None) -> ConfiguredInitializer:
    """Return an initialiser that draws uniformly from [0, scale).

    Raises:
      ArgumentError: ``scale`` is no number.

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> drawn = nn.initializers.uniform(0.1)(jax.random.key(0), (3, 3))
      >>> drawn.shape, bool(((drawn >= 0) & (drawn < 0.1)).all())
      ((3, 3), True)
    """
    _check_factor(scale, "scale", "uniform")
    return ConfiguredInitializer("uniform", {"scale": scale, "dtype": dtype})


def normal(stddev: float = 1e-2, dtype: DTypeLike | None = None) -> ConfiguredInitializer:
    """Return an initialiser that draws from the normal distribution with mean 0 and the given standard deviation.

    Raises:
      ArgumentError: ``stddev`` is no number of at least 0.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> nn.initializers.normal(0.02)(jax.random.key(0), (2, 3), jnp.bfloat16).dtype
      dtype(bfloat16)
    """
    _check_factor(stddev, "stddev", "normal", low=0)
    return ConfiguredInitializer("normal", {"stddev": stddev, "dtype": dtype})


def truncated_normal(
    stddev: float = 1e-2, dtype: DTypeLike | None = None, lower: float = -2.0, upper: float = 2.0
) -> ConfiguredInitializer:
    """Return an initialiser that draws from a normal distribution cut off at ``lower`` and ``upper``.

    The bounds are in units of ``stddev``, which is that of the distribution before it is cut.

    Raises:
      ArgumentError: ``stddev`` is no number of at least 0, or the bounds are no numbers, the upper above the lower.

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> drawn = nn.initializers.truncated_normal(0.02)(jax.random.key(0), (2, 3))
      >>> bool((abs(drawn) <= 0.04).all())
      True
    """
    _check_factor(stddev, "stddev", "truncated_normal", low=0)
    if not (hasattr(lower, "shape") or hasattr(upper, "shape")):
        least = number(lower, "lower", "truncated_normal", finite=False)
        number(upper, "upper", "truncated_normal", above=least, finite=False)
    arguments = {"stddev": stddev, "dtype": dtype, "lower": lower, "upper": upper}
    return ConfiguredInitializer("truncated_normal", arguments)


def variance_scaling(
    scale: float,
    mode: Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"],
    distribution: Literal["truncated_normal", "normal", "uniform"],
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: DTypeLike | None = None,
) -> ConfiguredInitializer:
    """Return an initialiser of variance ``scale / n``, where ``n`` is the fan that ``mode`` names.

    Raises:
      ArgumentError: ``scale`` is no number of at least 0, ``mode`` or ``distribution`` is not one of the above, or the
        axes are no whole numbers.

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
      >>> drawn = init(jax.random.key(0), (3, 3))
      >>> bool((abs(drawn) <= 1).all())  # sqrt(3 * variance), with a fan of 3
      True
    """
    _check_factor(scale, "scale", "variance_scaling", low=0)
    choice(mode, "mode", "variance_scaling", ("fan_in", "fan_out", "fan_avg", "fan_geo_avg"))
    choice(distribution, "distribution", "variance_scaling", ("truncated_normal", "normal", "uniform"))
    arguments = {"scale": scale, "mode": mode, "distribution": distribution}
    return ConfiguredInitializer("variance_scaling", arguments | _fans(in_axis, out_axis, batch_axis, dtype))


def lecun_normal(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: DTypeLike | None = None
) -> ConfiguredInitializer:
    """Return the truncated normal initialiser of variance ``1 / fan_in`` (LeCun and others, 1998).

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> nn.initializers.lecun_normal()(jax.random.key(0), (2, 3)).shape
      (2, 3)
    """
    return ConfiguredInitializer("lecun_normal", _fans(in_axis, out_axis, batch_axis, dtype))


def lecun_uniform(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: DTypeLike | None = None
) -> ConfiguredInitializer:
    """Return the uniform initialiser of variance ``1 / fan_in`` (LeCun and others, 1998).

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> drawn = nn.initializers.lecun_uniform()(jax.random.key(0), (3, 3))
      >>> bool((abs(drawn) <= 1).all())  # sqrt(3 * variance), with a fan of 3
      True
    """
    return ConfiguredInitializer("lecun_uniform", _fans(in_axis, out_axis, batch_axis, dtype))


def glorot_normal(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: DTypeLike | None = None
) -> ConfiguredInitializer:
    """Return the truncated normal initialiser of variance ``2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010).

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> nn.initializers.glorot_normal()(jax.random.key(0), (2, 3)).shape
      (2, 3)
    """
    return ConfiguredInitializer("glorot_normal", _fans(in_axis, out_axis, batch_axis, dtype))


def glorot_uniform(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: DTypeLike | None = None
) -> ConfiguredInitializer:
    """Return the uniform initialiser of variance ``2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010).

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> drawn = nn.initializers.glorot_uniform()(jax.random.key(0), (3, 3))
      >>> bool((abs(drawn) <= 1).all())  # sqrt(3 * variance), with fans of 3
      True
    """
    return ConfiguredInitializer("glorot_uniform", _fans(in_axis, out_axis, batch_axis, dtype))


def he_normal(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: DTypeLike | None = None
) -> ConfiguredInitializer:
    """Return the truncated normal initialiser of variance ``2 / fan_in`` (He and others, 2015).

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> nn.initializers.he_normal()(jax.random.key(0), (2, 3)).shape
      (2, 3)
    """
    return ConfiguredInitializer("he_normal", _fans(in_axis, out_axis, batch_axis, dtype))


def he_uniform(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: DTypeLike | None = None
) -> ConfiguredInitializer:
    """Return the uniform initialiser of variance ``2 / fan_in`` (He and others, 2015).

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> drawn = nn.initializers.he_uniform()(jax.random.key(0), (3, 3))
      >>> bool((abs(drawn) <= 1.42).all())  # sqrt(3 * variance), with a fan of 3
      True
    """
    return ConfiguredInitializer("he_uniform", _fans(in_axis, out_axis, batch_axis, dtype))


xavier_normal = glorot_normal
xavier_uniform = glorot_uniform
kaiming_normal = he_normal
kaiming_uniform = he_uniform


def orthogonal(scale: float = 1.0, column_axis: int = -1, dtype: DTypeLike | None = None) -> ConfiguredInitializer:
    """Return an initialiser of uniformly drawn orthogonal matrices times ``scale`` (Saxe and others, 2013).

    ``column_axis`` is the axis of the columns; the others together are the rows. If there are more of one than of the
    other, the shorter ones are orthonormal.

    Raises:
      ArgumentError: ``scale`` is no number, or ``column_axis`` no axis.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> q = nn.initializers.orthogonal()(jax.random.key(0), (2, 2))
      >>> bool(jnp.allclose(q @ q.T, jnp.eye(2), atol=1e-5))
      True
    """
    _check_factor(scale, "scale", "orthogonal")
    whole_number(column_axis, "column_axis", "orthogonal", low=None)
    return ConfiguredInitializer("orthogonal", {"scale": scale, "column_axis": column_axis, "dtype": dtype})


def delta_orthogonal(
    scale: float = 1.0, column_axis: int = -1, dtype: DTypeLike | None = None
) -> ConfiguredInitializer:
    """Return an initialiser of convolution kernels that are orthogonal at their centre, else 0 (Xiao and others, 2018).

    The shape is ``[spatial..., inputs, outputs]`` with one to three spatial axes and no more inputs than outputs.

    Raises:
      ArgumentError: ``scale`` is no number, or ``column_axis`` no axis.

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> kernel = nn.initializers.delta_orthogonal()(jax.random.key(0), (3, 2, 2))
      >>> kernel.shape, bool((kernel[0] == 0).all())
      ((3, 2, 2), True)
    """
    _check_factor(scale, "scale", "delta_orthogonal")
    whole_number(column_axis, "column_axis", "delta_orthogonal", low=None)
    return ConfiguredInitializer("delta_orthogonal", {"scale": scale, "column_axis": column_axis, "dtype": dtype})


def _check_factor(value: Any, argument: str, where: str, *, low: float | None = None) -> None:
    """Refuse a factor that is no number; arrays pass, since JAX broadcasts them, and traced ones may be learned."""
    if not hasattr(value, "shape") or isinstance(value, np.generic):
        number(value, argument, where, low=low)


def _fans(in_axis: Axes, out_axis: Axes, batch_axis: Axes, dtype: DTypeLike | None) -> dict[str, Any]:
    for argument, axes in (("in_axis", in_axis), ("out_axis", out_axis), ("batch_axis", batch_axis)):
        if type(axes) is not int:
            whole_numbers(axes, argument, "variance_scaling", low=None)
    return {"in_axis": in_axis, "out_axis": out_axis, "batch_axis": batch_axis, "dtype": dtype}


def _show(name: str, argument: Any) -> str:
    return repr(jnp.dtype(argument).name) if name == "dtype" else repr(argument)
