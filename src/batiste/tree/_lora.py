"""Low-rank adapters on parameters that stay as they are.

An adapter of a kernel ``W [in..., out...]`` is a pair ``a [in..., rank]`` and ``b [rank, out...]``; what the model
sees is ``W + alpha / rank * a @ b``. ``lora_init`` draws a tree of such pairs for the kernels that a pattern names;
``lora_merge`` puts them into the parameters, for good, or as a view inside a loss function that is differentiated by
the adapters alone. The adapters are a tree of their own, nested as the parameters are, and are trained, saved and sent
around alone::

    adapters = lora_init(key, params, "**/attn/*/kernel", rank=8, alpha=16.0, inputs={"**/out/kernel": 2, "**": 1})
    loss = lambda adapters: model_loss(lora_merge(params, adapters), batch)

Which axes of a kernel are inputs cannot be told from a shape of more than two axes (``[d, heads, head_dim]`` of a
query, ``[heads, head_dim, d]`` of an output projection), so ``inputs`` says it. Leading axes of stacked layers are
not part of the kernel: ``stacked`` counts them, each layer has its own pair, and inside a scan a slice of the
adapters fits a slice of the parameters. ``lora_merge`` reads all of this from the shapes.

Where ``alpha`` is given to ``lora_init`` it is a third leaf beside each pair, so that saved adapters are complete. It
gets no gradient; keep weight decay from it with ``label(adapters, {"**/alpha": "frozen"}, default="train")``.

Source: Hu et al. 2021, LoRA, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import dtype_name, number, whole_number
from batiste.errors import AdapterMismatchError, AdapterTargetError, AmbiguousKernelError, TreeValueError
from batiste.tree._containers import take_apart
from batiste.tree._conversion import cast_loss, number_kind
from batiste.tree._lazy import LazyArray
from batiste.tree._leaves import dtype_of, is_array, is_floating, is_key, is_traced, leaf_text, shape_of
from batiste.tree._paths import flatten, unflatten
from batiste.tree._patterns import Patterns, as_patterns, check_matched, first_match
from batiste.typing import ArrayLike, DTypeLike, Key

__all__ = ["lora_init", "lora_merge"]


def lora_init(
    key: Key,
    params: Any,
    patterns: Patterns,
    rank: int,
    *,
    alpha: float | None = None,
    dtype: DTypeLike | None = None,
    inputs: int | Mapping[Any, int] | None = None,
    stacked: int | Mapping[Any, int] = 0,
) -> Any:
    """Return adapters for the kernels that match: ``a`` drawn with variance ``1 / fan_in``, ``b`` zero.

    The draw for a kernel depends on the key and on its path alone, not on what else matches.

    Args:
      key: a random key.
      params: a tree of parameters; abstract and lazy ones are good enough.
      patterns: which kernels get an adapter.
      rank: the rank of each adapter.
      alpha: the numerator of the scale ``alpha / rank``, saved beside each pair; where not given, the scale is
        ``lora_merge``'s matter.
      dtype: of the adapters; where not given the kernel's, as JAX holds it (``float64`` as ``float32`` by default).
      inputs: how many axes of a kernel are inputs, for all or by pattern; needed for kernels of more than two axes.
      stacked: how many leading axes are layers, for all or by pattern.

    Returns:
      Nested dicts as the parameters are, with ``{"a": [layers..., in..., rank], "b": [layers..., rank, out...]}``, and
      ``"alpha": [layers...]`` where it was given, in the place of each kernel.

    Raises:
      ArgumentError: if ``rank``, ``alpha``, ``inputs`` or ``stacked`` is no number of its kind, or ``dtype`` none.
      UnmatchedPatternError: if a pattern matches no path.
      AdapterTargetError: if a leaf is not a floating array of at least two axes; the error lists all.
      AmbiguousKernelError: if a kernel has more than two axes and ``inputs`` does not say how to split them.
      TreeValueError: if the rank is not positive, or no adapter can be of the dtype.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from batiste import tree
      >>> params = {"up": {"kernel": np.ones((8, 4), np.float32)}}
      >>> adapters = tree.lora_init(jax.random.key(0), params, "**/kernel", rank=2)
      >>> jax.tree.map(jnp.shape, adapters)
      {'up': {'kernel': {'a': (8, 2), 'b': (2, 4)}}}
    """
    rank = whole_number(rank, "rank", "lora_init", low=None)
    if alpha is not None:
        number(alpha, "alpha", "lora_init")
    kept = None if dtype is None else dtype_name(dtype, "dtype", "lora_init", inexact=True)
    for argument, given in (("inputs", inputs), ("stacked", stacked)):
        for axes in cast("Any", given).values() if isinstance(given, Mapping) else (given,):
            if axes is not None:
                whole_number(axes, argument, "lora_init", low=1 if argument == "inputs" else 0)
    if rank < 1:
        raise TreeValueError(argument="rank", value=rank, reason="it must be positive", cure="Give a small number: 8.")
    leaves = flatten(params)
    compiled = as_patterns(patterns)
    check_matched(compiled, list(leaves), unmatched="error")
    chosen = {path: leaf for path, leaf in leaves.items() if any(pattern.matches(path) for pattern in compiled)}
    splits = _splits(chosen, inputs, stacked)
    adapters: dict[str, Any] = {}
    for path, split in splits.items():
        kind = _adapter_dtype(chosen[path], kept)
        own_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        deviation = 1 / math.sqrt(max(1, math.prod(split.inputs)))
        draws = np.dtype(np.float32) if kind.itemsize == 1 else kind  # of eight bits there are few different ones
        drawn = jax.random.normal(own_key, (*split.layers, *split.inputs, rank), draws)
        prefix = f"{path}/" if path else ""
        adapters[f"{prefix}a"] = (drawn * jnp.asarray(deviation, draws)).astype(kind)
        adapters[f"{prefix}b"] = jnp.zeros((*split.layers, rank, *split.outputs), kind)
        if alpha is not None:
            adapters[f"{prefix}alpha"] = jnp.full(split.layers, alpha, jnp.float32)
    return unflatten(adapters)


def lora_merge(params: Any, adapters: Any, *, alpha: float | ArrayLike | None = None) -> Any:
    """Return the parameters with ``W + alpha / rank * a @ b`` in the place of each adapted kernel ``W``.

    Works inside ``jit``, ``grad``, ``vmap`` and ``scan``. A lazy kernel stays lazy. Product and sum are computed in
    float32 at least, and by NumPy where JAX could not hold the dtype of the kernel (``float64`` by default).

    Args:
      params: a tree of parameters.
      adapters: what ``lora_init`` returned for it, or a part of that.
      alpha: overrides the ``alpha`` in the adapters; where neither is given it is the rank, so that the scale is one.

    Returns:
      A tree of the structure of ``params``; merged kernels keep their dtype, all other leaves are the same objects.

    Raises:
      ArgumentError: if ``alpha`` is no number.
      AdapterMismatchError: if adapters have no kernel, half of a pair, shapes that do not fit, or numbers that the
        kernel's dtype has no place for (fractions, imaginary parts); the error lists all.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from batiste import tree
      >>> params = {"kernel": np.zeros((2, 2), np.float32)}
      >>> adapters = {"kernel": {"a": jnp.ones((2, 1)), "b": jnp.full((1, 2), 3.0)}}
      >>> tree.lora_merge(params, adapters)["kernel"].tolist()
      [[3.0, 3.0], [3.0, 3.0]]
    """
    if alpha is not None and not hasattr(alpha, "shape"):
        number(alpha, "alpha", "lora_merge")
    leaves = flatten(params)
    pairs = _pairs(flatten(adapters))
    _check_fit(leaves, pairs)
    merged = {
        path: _merged(leaves[path], pair, alpha) if (pair := pairs.get(path)) else leaves[path] for path in leaves
    }
    return take_apart(params)[1](merged.values())


def _adapter_dtype(kernel: Any, dtype: DTypeLike | None) -> np.dtype[Any]:
    """The dtype of an adapter, which has fractions of both signs, and zero."""
    found = np.dtype(dtype_of(kernel) if dtype is None else jnp.dtype(dtype))
    held = jax.dtypes.canonicalize_dtype(found)
    reason = "JAX holds it only with `jax_enable_x64`" if dtype is not None and held != found else ""
    if number_kind(found) not in ("float", "complex") or cast_loss(np.array([0.0, -0.5]), found):
        reason = "it has no zero, no negative numbers or no fractions"
    if reason:
        cure = "Give a floating dtype, such as 'float32'."
        raise TreeValueError(argument="dtype", value=repr(found.name), reason=reason, cure=cure)
    return held


@dataclasses.dataclass(frozen=True, slots=True)
class _Split:
    """The axes of a kernel."""

    layers: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def _splits(
    kernels: Mapping[str, Any],
    inputs: int | Mapping[Any, int] | None,
    stacked: int | Mapping[Any, int],
) -> dict[str, _Split]:
    """How the axes of each kernel are shared out between layers, inputs and outputs."""
    inputs_of, layers_of = _by_path(inputs, kernels), _by_path(stacked, kernels)
    found: dict[str, _Split] = {}
    unfit: list[str] = []
    unclear: list[str] = []
    for path, leaf in kernels.items():
        shape = shape_of(leaf)
        layers = layers_of.get(path, 0)
        axes = len(shape) - layers
        if not is_array(leaf) or not is_floating(leaf) or axes < 2:
            unfit.append(f"  {path}: {leaf_text(leaf)}" + (f" with {layers} axes of layers" if layers else ""))
            continue
        count = inputs_of.get(path, 1 if axes == 2 else 0)
        if 0 < count < axes:
            middle = layers + count
            found[path] = _Split(shape[:layers], shape[layers:middle], shape[middle:])
        else:
            unclear.append(f"  {path}: {leaf_text(leaf)}" + (f", not {count} inputs" if count else ""))
    if unfit:
        raise AdapterTargetError(count=len(unfit), lines="\n".join(unfit))
    if unclear:
        raise AmbiguousKernelError(count=len(unclear), lines="\n".join(unclear))
    return found


def _by_path(value: int | Mapping[Any, int] | None, paths: Mapping[str, Any]) -> dict[str, int]:
    if value is None:
        return {}
    return dict.fromkeys(paths, value) if isinstance(value, int) else first_match(value, paths, unmatched="error")


def _pairs(adapters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path, leaf in adapters.items():
        kernel, _, part = path.rpartition("/")
        found.setdefault(kernel, {})[part] = leaf
    return found


def _check_fit(leaves: Mapping[str, Any], pairs: Mapping[str, dict[str, Any]]) -> None:
    lines: list[str] = []
    for path, pair in pairs.items():
        if path not in leaves:
            lines.append(f"  {path}: the parameters have no such leaf")
        elif not {"a", "b"} <= set(pair) <= {"a", "b", "alpha"}:
            lines.append(f"  {path}: an adapter is `a`, `b` and perhaps `alpha`, and this has {', '.join(pair)}")
        elif not _fits(shape_of(leaves[path]), {part: shape_of(leaf) for part, leaf in pair.items()}):
            shapes = ", ".join(f"{part} {leaf_text(leaf)}" for part, leaf in pair.items())
            lines.append(f"  {path}: {leaf_text(leaves[path])} with {shapes}")
        elif not is_floating(leaves[path]) or any(
            _is_complex(leaf) > _is_complex(leaves[path]) or is_key(leaf) for leaf in pair.values()
        ):
            dtypes = ", ".join(f"{part} {leaf_text(leaf)}" for part, leaf in pair.items())
            lines.append(f"  {path}: {leaf_text(leaves[path])} has no place for the numbers of {dtypes}")
    if lines:
        raise AdapterMismatchError(lines="\n".join(lines))


def _fits(kernel: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    a, b = shapes["a"], shapes["b"]
    layers = len(a) + len(b) - 2 - len(kernel)
    if a[-1:] == (0,) or layers < 0 or min(len(a), len(b)) < layers + 2:
        return False
    shared = a[:layers] == b[:layers] == kernel[:layers] and a[-1] == b[layers]
    return shared and shapes.get("alpha", ()) in ((), kernel[:layers]) and kernel == (*a[:-1], *b[layers + 1 :])


def _wide(dtype: Any) -> np.dtype[Any]:
    """The dtype that a product is computed in: four bytes at least."""
    return np.dtype(np.float32) if not jnp.issubdtype(dtype, jnp.inexact) or dtype.itemsize < 4 else np.dtype(dtype)


def _is_complex(leaf: Any) -> bool:
    return bool(jnp.issubdtype(dtype_of(leaf), jnp.complexfloating))


def _merged(kernel: Any, pair: Mapping[str, Any], alpha: float | ArrayLike | None) -> Any:
    if isinstance(kernel, jax.ShapeDtypeStruct):
        return kernel
    is_held = jax.dtypes.canonicalize_dtype(dtype_of(kernel)) == dtype_of(kernel)
    if not is_held and not any(map(is_traced, (*pair.values(), alpha))):
        if isinstance(kernel, LazyArray):
            return kernel.map(lambda array: _added(np, array, pair, alpha))
        return _added(np, kernel, pair, alpha)
    if isinstance(kernel, LazyArray):
        return kernel.map(lambda array: np.asarray(_added(jnp, array, pair, alpha)))
    return _added(jnp, kernel, pair, alpha)


def _added(numpy: Any, kernel: Any, pair: Mapping[str, Any], alpha: float | ArrayLike | None) -> Any:
    """The merged kernel, computed by NumPy or by what has NumPy's functions."""
    base, a, b = numpy.asarray(kernel), numpy.asarray(pair["a"]), numpy.asarray(pair["b"])
    wide = functools.reduce(np.promote_types, map(_wide, (a.dtype, b.dtype, base.dtype)))
    layers, rank = base.shape[: a.ndim + b.ndim - 2 - base.ndim], a.shape[-1]
    left = a.astype(wide).reshape(*layers, math.prod(a.shape[len(layers) : -1]), rank)  # [layers..., in, rank]
    right = b.astype(wide).reshape(*layers, rank, math.prod(b.shape[len(layers) + 1 :]))  # [layers..., rank, out]
    change = (left @ right).reshape(base.shape)
    numerator = numpy.asarray(pair.get("alpha", rank) if alpha is None else alpha, wide)
    scale = (numerator if numpy is np else jax.lax.stop_gradient(numerator)) / rank
    scale = scale.reshape(*scale.shape, *(1,) * (base.ndim - scale.ndim))
    return (base.astype(wide) + scale * change).astype(base.dtype)
