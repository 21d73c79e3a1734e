"""``remat``, ``remat_scan``, ``jit`` and ``named_call``: transforms that change how a module runs, not what it gives.

On ``init`` nothing runs that could be recomputed or compiled, so the body is passed through as it is.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CodeType, MappingProxyType
from typing import Any, TypeVar, cast

import jax

from batiste._arguments import refused, whole_numbers
from batiste.core import CollectionFilter
from batiste.errors import LiftAxisSizeError, TransformTargetError, UnsupportedOptionError
from batiste.lift._axes import AxisSpec, is_traceable, metadata, traced_args
from batiste.lift._first import Body, all_shared, first_values
from batiste.lift._groups import fold_streams, from_keys, region_of, to_keys
from batiste.lift._scan import scan
from batiste.lift._target import Methods, lifted

__all__ = ["checkpoint", "jit", "named_call", "remat", "remat_scan"]

Target = TypeVar("Target")


@dataclasses.dataclass(frozen=True)
class _Remat:
    variables: CollectionFilter
    rngs: CollectionFilter
    concrete: bool
    prevent_cse: bool
    static_argnums: int | Iterable[int]
    policy: Callable[..., bool] | None
    static_argnames: str | Iterable[str] = ()


def remat(
    target: Target,
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
    methods: Methods = None,
    *,
    static_argnames: str | Iterable[str] = (),
    keep_name: bool = False,
) -> Target:
    """Return a module, or a function of a module, whose intermediates are recomputed for the gradient.

    Chen and others, "Training Deep Nets with Sublinear Memory Cost" (2016), https://arxiv.org/abs/1604.06174.

    Args:
      target: a Module class, or a function whose first argument is a module.
      variables: the collections that are seen inside.
      rngs: the random streams that are seen inside.
      concrete: only False: what is to keep its Python value is named in ``static_argnums``.
      prevent_cse: whether the compiler is kept from undoing the recomputation; not needed inside of ``scan``.
      static_argnums: arguments that keep their Python values, counted with the module as 0, and given by position or
        by name. Python numbers and flags that are not named here are traced, as by ``jax.checkpoint``: an ``if`` on
        them raises. What cannot be traced, such as text, functions and modules, stays what it is.
      policy: which intermediates are kept, as for ``jax.checkpoint``.
      methods: the methods of a class; by default ``__call__``.
      static_argnames: keyword arguments that keep their Python values.
      keep_name: whether a class keeps its name, so that automatic names are those of the class itself.

    Raises:
      UnsupportedOptionError: for ``concrete=True``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Model(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.remat(nn.Dense)(4)(x)
      >>> variables = Model().init(jax.random.key(0), jnp.ones((2, 3)))
      >>> jax.tree.map(jnp.shape, variables)
      {'params': {'CheckpointDense_0': {'bias': (4,), 'kernel': (3, 4)}}}
    """
    if concrete:
        raise UnsupportedOptionError(
            path="remat",
            argument="concrete",
            given=concrete,
            problem="jax.checkpoint has no such option any more",
            advice="Name what is to keep its Python value: static_argnums=(2,), counted with the module as 0.",
        )
    options = _Remat(variables, rngs, concrete, prevent_cse, static_argnums, policy, static_argnames)
    return lifted("checkpoint", target, _run_remat, options, methods=methods, keep_name=keep_name)


checkpoint = remat


def _run_remat(options: _Remat, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    def transform(body: Callable[..., Any]) -> Callable[..., Any]:
        return cast("Any", jax.checkpoint)(body, prevent_cse=options.prevent_cse, policy=options.policy)

    return _run_whole("remat", transform, options, function, args, kwargs)


@dataclasses.dataclass(frozen=True)
class _Jit:
    variables: CollectionFilter
    rngs: CollectionFilter
    static_argnums: int | Iterable[int]
    static_argnames: str | Iterable[str]
    donate_argnums: int | Iterable[int]
    device: Any
    backend: str | None


def jit(
    target: Target,
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
    device: Any = None,
    backend: str | None = None,
    methods: Methods = None,
    *,
    keep_name: bool = False,
) -> Target:
    """Return a module, or a function of a module, that is compiled as a part of its own.

    Args:
      target: a Module class, or a function whose first argument is a module.
      variables: the collections that are seen inside.
      rngs: the random streams that are seen inside.
      static_argnums: arguments that are constants of the program, counted with the module as 0, and given by position
        or by name. Python numbers and flags that are not named are traced, as by ``jax.jit``. What cannot be traced,
        such as text, functions and modules, stays what it is.
      static_argnames: keyword arguments that are constants of the program.
      donate_argnums: accepted for Flax's signature; inside of a program JAX decides what is reused.
      device: accepted for Flax's signature; JAX places a program where its arguments are.
      backend: likewise.
      methods: the methods of a class; by default ``__call__``.
      keep_name: whether a class keeps its name, so that automatic names are those of the class itself.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Model(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.jit(nn.Dense)(4)(x)
      >>> Model().init_with_output(jax.random.key(0), jnp.ones((2, 3)))[0].shape
      (2, 4)
    """
    options = _Jit(variables, rngs, static_argnums, static_argnames, donate_argnums, device, backend)
    return lifted("jit", target, _run_jit, options, methods=methods, keep_name=keep_name)


def _run_jit(options: _Jit, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _run_whole("jit", cast("Any", jax.jit), options, function, args, kwargs)


def _run_whole(
    name: str,
    transform: Callable[..., Any],
    options: _Remat | _Jit,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run a function of modules within a transform that takes all variables alike."""
    region = region_of(name, function, args, kwargs, [options.variables], [options.rngs])
    starts = fold_streams(region, options.rngs) if name == "jit" else None
    if region.frame.recorder is not None:
        return region.run_in_place(function, args, kwargs, starts=starts)
    made = first_values(region, all_shared(region))
    given = options.static_argnums
    numbers: tuple[int, ...] = (given,) if isinstance(given, int) else tuple(given)
    fixed = {number % len(args) for number in numbers if -len(args) <= number < len(args)}
    fixed |= {index for index, value in enumerate(args) if not _can_move(value)}
    moving = [value for index, value in enumerate(args) if index not in fixed]
    named = _static_names(options.static_argnames, function, numbers) if kwargs else frozenset[str]()
    moving_kwargs = {n: v for n, v in kwargs.items() if n not in named and _can_move(v)}
    fixed_kwargs = {n: v for n, v in kwargs.items() if n not in moving_kwargs}
    arrays, fill = traced_args((moving, moving_kwargs))

    def body(groups: Any, streams: Any, folded: Any, arrays: list[Any]) -> Any:
        moved, moved_kwargs = fill(arrays)
        rest = iter(moved)
        whole = tuple(value if index in fixed else next(rest) for index, value in enumerate(args))
        starts = None if folded is None else from_keys(folded)
        moving_kwargs = moved_kwargs | fixed_kwargs
        return made.run(Body(function, whole, moving_kwargs, groups), streams, starts=starts)

    folded = None if starts is None else to_keys(starts)
    output, written = transform(body)(region.variables, region.streams, folded, arrays)
    region.publish(written)
    return output


def _can_move(value: Any) -> bool:
    return any(map(is_traceable, jax.tree.leaves(value)))


def _static_names(given: str | Iterable[str], function: Callable[..., Any], numbers: tuple[int, ...]) -> frozenset[str]:
    """Return the keywords that are static: those that are named, and those of the arguments at some places."""
    code: CodeType | None = getattr(inspect.unwrap(function), "__code__", None)
    held = () if code is None else code.co_varnames[: code.co_argcount]
    placed = [held[number] for number in numbers if -len(held) <= number < len(held)]
    return frozenset([given] if isinstance(given, str) else given).union(placed)


_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_ALL: Mapping[Any, Any] = MappingProxyType({True: 0})
_SPLIT: Mapping[Any, Any] = MappingProxyType({True: True})


def remat_scan(
    target: Target,
    lengths: Sequence[int] | None = (),
    policy: Callable[..., bool] | None = None,
    variable_broadcast: CollectionFilter = False,
    variable_carry: CollectionFilter = False,
    variable_axes: Mapping[CollectionFilter, AxisSpec] = _ALL,
    split_rngs: Mapping[CollectionFilter, bool] = _SPLIT,
    *,
    metadata_params: Mapping[Any, Any] | Sequence[Mapping[Any, Any]] = _NOTHING,
    keep_name: bool = False,
) -> Target:
    """Return a module that is run ``prod(lengths)`` times on its own result, in nested loops that recompute.

    Memory grows with the sum of the lengths, not with their product.

    Args:
      target: a Module class, or a function of a module, with one input of the shape of its result.
      lengths: the number of steps of each loop, from the outermost.
      policy: which intermediates are kept, as for ``jax.checkpoint``.
      variable_broadcast: collections that every step shares.
      variable_carry: collections that each step hands on.
      variable_axes: collections that are stacked; by default all, along the first axis.
      split_rngs: whether every step draws its own random numbers; by default of every stream.
      metadata_params: told to boxes when a stacked axis comes and goes; in a sequence, one for each loop.
      keep_name: whether a class keeps its name, so that automatic names are those of the class itself.

    Raises:
      LiftAxisSizeError: if there are more or fewer metadata_params than loops.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> Deep = nn.remat_scan(nn.Dense, lengths=(2, 3))
      >>> variables = jax.eval_shape(Deep(4).init, jax.random.key(0), jnp.ones((2, 4)))
      >>> variables["params"]["kernel"].shape
      (2, 3, 4, 4)
    """
    steps = () if lengths is None else whole_numbers(lengths, "lengths", "remat_scan", low=1)
    if isinstance(metadata_params, Mapping):
        told: tuple[Any, ...] = (metadata_params,) * len(steps)
    elif isinstance(metadata_params, tuple | list):
        told = tuple(metadata_params)
    else:
        raise refused(metadata_params, "metadata_params", "remat_scan", "a dict, or a list of dicts")
    if len(told) != len(steps):
        raise LiftAxisSizeError(
            transform="remat_scan",
            path=getattr(target, "__name__", repr(target)),
            problem=f"{len(told)} metadata_params for {len(steps)} loops",
            advice="Give one mapping for all loops, or one for each of lengths.",
        )
    loops = tuple((length, metadata(each, "remat_scan")) for length, each in zip(steps, told, strict=True))
    options = _RematScan(loops, policy, variable_broadcast, variable_carry, variable_axes, split_rngs)
    return lifted("remat_scan", target, _run_remat_scan, options, keep_name=keep_name)


@dataclasses.dataclass(frozen=True)
class _RematScan:
    loops: tuple[tuple[int, dict[Any, Any]], ...]
    policy: Callable[..., bool] | None
    variable_broadcast: CollectionFilter
    variable_carry: CollectionFilter
    variable_axes: Mapping[CollectionFilter, AxisSpec]
    split_rngs: Mapping[CollectionFilter, bool]


def _run_remat_scan(
    options: _RematScan, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    def call(module: Any, carry: Any) -> Any:
        return function(module, carry, **kwargs)

    for length, metadata_params in reversed(options.loops):
        call = _looped(remat(call, policy=options.policy, prevent_cse=False), length, metadata_params, options)
    return call(*args)


def _looped(
    function: Callable[..., Any], length: int, metadata_params: dict[Any, Any], options: _RematScan
) -> Callable[..., Any]:
    def body(module: Any, carry: Any, _: Any) -> tuple[Any, None]:
        return function(module, carry), None

    loop: Callable[..., Any] = scan(
        body,
        variable_axes=options.variable_axes,
        variable_broadcast=options.variable_broadcast,
        variable_carry=options.variable_carry,
        split_rngs=options.split_rngs,
        length=length,
        metadata_params=metadata_params,
    )

    def call(module: Any, carry: Any) -> Any:
        return loop(module, carry, None)[0]

    return call


def named_call(class_fn: Target, force: bool = True) -> Target:
    """Return ``class_fn`` as it is: the methods of modules have their names in profiles anyway.

    Example:
      >>> from batiste import nn
      >>> nn.named_call(nn.Dense) is nn.Dense
      True
    """
    del force
    if not callable(class_fn):
        raise TransformTargetError(transform="named_call", given=f"an object of type {type(class_fn).__name__}")
    return class_fn
