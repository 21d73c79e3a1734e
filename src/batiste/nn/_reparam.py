"""Reparametrisations: layers whose variables are normalised before they are used.

``WeightNorm`` and ``SpectralNorm`` wrap a Module. When they are called, the variables of the wrapped Module pass
through a function of theirs (``batiste.lift.map_variables``), and the wrapped Module runs on the result. What they keep
of their own is named after the variable that it belongs to: ``Dense_0/kernel/scale``, ``Dense_0/kernel/u``. As in
Linen, ``init`` returns the wrapped variables normalised once already.

Lengths and singular values of float16 are taken in float32, since its squares are infinite from 256 on, and an epsilon
of 1e-12 is 0 there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from batiste._arguments import number, whole_number
from batiste.dtypes import canonicalize_dtype, cast, matched, square_dtype
from batiste.errors import NonMatrixError
from batiste.lift import map_variables
from batiste.module import Module, compact
from batiste.nn._axes import kept_extents, sorted_axes
from batiste.nn._initializers import ones
from batiste.nn._jitted import jitted
from batiste.typing import Array, Axes, DTypeLike, Initializer

__all__ = ["SpectralNorm", "WeightNorm"]


class WeightNorm(Module):
    """Weight normalisation: the length and the direction of a weight are learned apart.

    ``w = scale * v / |v|``, where ``v`` is the wrapped Module's variable and ``|v|`` its length over all axes but
    ``feature_axes`` (Salimans and Kingma, 2016, https://arxiv.org/abs/1602.07868). Parameters: for each such variable a
    ``scale`` with the extents of ``feature_axes``.

    Attributes:
      layer_instance: the wrapped Module.
      epsilon: keeps the division away from zero.
      dtype: what the weights are used in; None takes what variable and scale promote to.
      param_dtype: what scales are kept in.
      use_scale: whether lengths are learned; if not, they are 1.
      scale_init: draws the scales.
      feature_axes: the axes along which each entry has a length of its own; None for one length in all.
      variable_filter: the names of what is normalised: a variable is, if one of them occurs in its path; None for all.
    """

    layer_instance: Module
    epsilon: float = 1e-12
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    scale_init: Initializer = ones
    feature_axes: Axes | None = -1
    variable_filter: Iterable[str] | None = frozenset({"kernel"})

    @compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the wrapped Module returns for these arguments, with normalised weights.

        Raises:
          ArgumentError: ``epsilon`` or the axes are no numbers.
          AxesError: a variable has no such feature axis.
        """
        epsilon = number(self.epsilon, "epsilon", self, low=0)
        wanted = self.variable_filter
        names = () if wanted is None else (wanted,) if isinstance(wanted, str) else tuple(wanted)

        def normalise(name: str, value: Array) -> Array:
            if names and not any(part in name for part in names):
                return value
            given = () if self.feature_axes is None else self.feature_axes
            features = sorted_axes(given, value.ndim, argument="feature_axes", layer=self)
            shape = tuple(value.shape[axis] for axis in features)
            scale = None
            if self.use_scale:
                scale = self.param(f"{name}/scale", self.scale_init, shape, self.param_dtype)
            dtype = np.dtype(canonicalize_dtype(value, scale, dtype=self.dtype))
            return _scaled_direction(value, scale, features, epsilon, dtype)

        return _call_with(self, normalise, args, kwargs, mutable=False)


class SpectralNorm(Module):
    """Spectral normalisation: weights are divided by their largest singular value.

    ``w = v / sigma``, where ``v`` is a variable of the wrapped Module with two axes or more, taken as the matrix
    ``[all other axes, last axis]``. ``sigma`` is found by power iteration, which continues from call to call if
    ``update_stats`` is true and ``collection_name`` is mutable (Miyato and others, 2018,
    https://arxiv.org/abs/1802.05957). Variables: for each such variable ``u``, the singular vector ``[1, last axis]``,
    and ``sigma``.

    Attributes:
      layer_instance: the wrapped Module.
      n_steps: how many iterations each call makes.
      epsilon: keeps the division of vectors by their length away from zero.
      dtype: what the weights are used in; None takes what weight and vectors promote to.
      param_dtype: what the first ``u`` and ``sigma`` are kept in.
      error_on_non_matrix: whether a variable with more than two axes is an error.
      collection_name: the collection of ``u`` and ``sigma``.
    """

    layer_instance: Module
    n_steps: int = 1
    epsilon: float = 1e-12
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    error_on_non_matrix: bool = False
    collection_name: str = "batch_stats"

    @compact
    def __call__(self, *args: Any, update_stats: bool, **kwargs: Any) -> Any:
        """Return what the wrapped Module returns for these arguments, with normalised weights.

        Args:
          *args: positional arguments of the wrapped Module.
          update_stats: whether ``u`` and ``sigma`` are kept for the next call: true in training, false in evaluation.
          **kwargs: keyword arguments of the wrapped Module.

        Raises:
          ArgumentError: ``n_steps`` is no whole number, or ``epsilon`` no number.
          NonMatrixError: a variable has more than two axes, and ``error_on_non_matrix`` is true.
          ModifyScopeVariableError: ``update_stats`` is true, and the collection is not mutable.
        """
        epsilon = number(self.epsilon, "epsilon", self, low=0)
        kept_in: Any = self.param_dtype
        if kept_in is not None:
            kept_in = canonicalize_dtype(dtype=kept_in, inexact=False)
        dtype = None if self.dtype is None else np.dtype(canonicalize_dtype(dtype=self.dtype, inexact=False))
        n_steps = whole_number(self.n_steps, "n_steps", self)

        def normalise(name: str, value: Array) -> Array:
            if value.ndim < 2:
                return value
            if value.ndim > 2 and self.error_on_non_matrix:
                raise NonMatrixError(path=self.path, name=name, shape=value.shape)
            collection, shape = self.collection_name, (1, value.shape[-1])
            key = None if self.has_variable(collection, f"{name}/u") else self.make_rng("params")
            u = self.variable(collection, f"{name}/u", jax.random.normal, key, shape, kept_in)
            sigma = self.variable(collection, f"{name}/sigma", ones, None, (), kept_in)
            normal, new_u, new_sigma = _divided_by_norm(value, u.value, n_steps, epsilon, dtype)
            if update_stats:
                u.value, sigma.value = new_u, new_sigma
            return normal

        return _call_with(self, normalise, args, kwargs, mutable=True)


def _call_with(
    layer: WeightNorm | SpectralNorm,
    normalise: Callable[[str, Array], Array],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    mutable: bool,
) -> Any:
    """Call the wrapped Module with each of its variables replaced by ``normalise`` of its name and value."""

    def call(wrapped: Module) -> Any:
        function: Any = wrapped
        return function(*args, **kwargs)

    def normalise_all(variables: Any) -> Any:
        def normalise_one(path: tuple[Any, ...], value: Array) -> Array:
            return normalise(_name(layer.layer_instance.name, path), value)

        return jax.tree_util.tree_map_with_path(normalise_one, variables)

    lifted = map_variables(call, trans_in_fn=normalise_all, init=layer.is_initializing(), mutable=mutable)
    return lifted(layer.layer_instance)


def _name(root: str | None, path: tuple[Any, ...]) -> str:
    """Return the name of a variable at ``path``, whose first part is its collection; in a box it ends in ``value``."""
    names = [str(getattr(part, "key", getattr(part, "name", part))) for part in path[1:]]
    return "/".join([str(root), *names])


@jitted(arrays=2)
def _scaled_direction(
    value: Array, scale: Array | None, features: tuple[int, ...], epsilon: float, dtype: np.dtype[Any]
) -> Array:
    others = tuple(axis for axis in range(value.ndim) if axis not in features)
    direction = _over_length(cast(value, square_dtype(value.dtype)), others, epsilon)
    if scale is not None:
        extents = kept_extents(value.shape, features)
        direction = jnp.multiply(*matched(direction, jnp.reshape(scale, extents)))
    return cast(direction, dtype)


@jitted(arrays=2)
def _divided_by_norm(
    value: Array, u: Array, n_steps: int, epsilon: float, dtype: np.dtype[Any] | None
) -> tuple[Array, Array, Array]:
    """Return ``value`` over its largest singular value, the singular vector after ``n_steps`` steps, and the former."""
    kept_in = np.dtype(canonicalize_dtype(value, u))
    dtype = np.dtype(canonicalize_dtype(value, u, dtype=dtype))
    matrix = jnp.reshape(cast(value, square_dtype(value.dtype)), (-1, value.shape[-1]))
    v = u = cast(u, square_dtype(u.dtype))
    for _ in range(n_steps):
        v = _over_length(jnp.matmul(u, matrix.T), (0, 1), epsilon)
        u = _over_length(jnp.matmul(v, matrix), (0, 1), epsilon)
    u, v = lax.stop_gradient(u), lax.stop_gradient(v)
    sigma = jnp.matmul(jnp.matmul(v, matrix), u.T)[0, 0]
    normal = jnp.divide(*matched(matrix, jnp.where(sigma != 0, sigma, 1)))
    return cast(jnp.reshape(normal, value.shape), dtype), cast(u, kept_in), cast(sigma, kept_in)


def _over_length(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    return x * lax.rsqrt(jnp.sum(x * x, axis=axes, keepdims=True) + epsilon)
