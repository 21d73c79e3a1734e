"""``cond``, ``switch`` and ``while_loop`` over functions of modules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

from batiste._arguments import function as checked
from batiste._arguments import refused
from batiste.core import CollectionFilter, check_filter, intersect_filters, is_filter_empty, is_tracer
from batiste.errors import BranchVariablesError
from batiste.lift._axes import table, without_modules
from batiste.lift._first import Body, FirstValues, all_shared, first_values, make_first
from batiste.lift._groups import check_carried, held, leaves, region_of, whole
from batiste.module import KeyGroups, Place, Region, wrap_method_once
from batiste.typing import Key

__all__ = ["cond", "switch", "while_loop"]

C = TypeVar("C")
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


def cond(
    pred: Any,
    true_fun: Callable[..., C],
    false_fun: Callable[..., C],
    mdl: Any,
    *operands: Any,
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
) -> C:
    """Run one of two functions of a module, as ``jax.lax.cond`` does.

    Args:
      pred: a boolean scalar.
      true_fun: called as ``true_fun(mdl, *operands)`` if it is true.
      false_fun: called likewise if it is false.
      mdl: a bound module.
      *operands: the arguments after the module.
      variables: the collections that are seen inside.
      rngs: the random streams that are seen inside.

    Raises:
      BranchVariablesError: if a function makes a variable that the others do not make.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Either(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, doubled):
      ...         layer = nn.Dense(3, use_bias=False, kernel_init=nn.initializers.ones)
      ...         twice, once = lambda f, x: 2 * f(x), lambda f, x: f(x)
      ...         return nn.cond(doubled, twice, once, layer, x)
      >>> variables = Either().init(jax.random.key(0), jnp.ones((2, 3)), True)
      >>> Either().apply(variables, jnp.ones((2, 3)), True)[0].tolist()
      [6.0, 6.0, 6.0]
    """
    return _choose("cond", pred, [true_fun, false_fun], mdl, operands, variables, rngs)


def switch(
    index: Any,
    branches: Sequence[Callable[..., C]],
    mdl: Any,
    *operands: Any,
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
) -> C:
    """Run the function at ``index``, as ``jax.lax.switch`` does.

    Args:
      index: an integer scalar; one that is out of range is clamped.
      branches: each called as ``branch(mdl, *operands)``.
      mdl: a bound module.
      *operands: the arguments after the module.
      variables: the collections that are seen inside.
      rngs: the random streams that are seen inside.

    Raises:
      BranchVariablesError: if a function makes a variable that the others do not make.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Times(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, index):
      ...         layer = nn.Dense(3, use_bias=False, kernel_init=nn.initializers.ones)
      ...         scaled = [lambda f, x, n=n: n * f(x) for n in range(3)]
      ...         return nn.switch(index, scaled, layer, x)
      >>> variables = Times().init(jax.random.key(0), jnp.ones((2, 3)), 0)
      >>> Times().apply(variables, jnp.ones((2, 3)), 2)[0].tolist()
      [6.0, 6.0, 6.0]
    """
    if not isinstance(branches, list | tuple):
        raise refused(branches, "branches", "switch", "a list of functions of a module")
    return _choose("switch", index, list(branches), mdl, operands, variables, rngs)


def _choose(
    name: str,
    choice: Any,
    branches: list[Callable[..., Any]],
    mdl: Any,
    operands: tuple[Any, ...],
    variables: CollectionFilter,
    rngs: CollectionFilter,
) -> Any:
    what = "functions of a module, at least one"
    if not branches:
        raise refused(branches, "branches", name, what)
    functions = [wrap_method_once(checked(branch, "branches", name, what=what)) for branch in branches]
    check_filter(variables)
    check_filter(rngs)
    region = region_of(name, branches[0], (mdl, *operands), {}, [variables], [rngs])
    made = first_values(region, all_shared(region))
    chosen = _known(name, choice, len(functions)) if made.is_noting else None
    values, fill = without_modules(operands)

    def body(number: int) -> Callable[..., Any]:
        def run(groups: Any, streams: Any, values: list[Any]) -> Any:
            function, args = functions[number], (mdl, *fill(values))
            if number == chosen:  # what it makes are the first values; what the others make is not kept
                return made.run(Body(function, args, {}, groups), region.streams)
            return region.run(function, groups, streams, args, {}, premade=made.entry())

        return run

    bodies, arguments = [body(number) for number in range(len(functions))], (region.variables, region.streams, values)
    if not is_filter_empty(intersect_filters(region.filters[0], region.frame.mutable)):
        bodies = _writing_alike(region, made, bodies, arguments)
    if name == "cond":
        output, written = cast("Any", jax.lax.cond(choice, *bodies, *arguments))
    else:
        output, written = cast("Any", jax.lax.switch(choice, bodies, *arguments))
    made.finish()
    region.publish(written)
    return output


def _known(name: str, choice: Any, count: int) -> int | None:
    """Return the number of the branch that will run, where the trace knows it."""
    if is_tracer(choice) or jnp.ndim(choice) != 0:
        return None
    return int(not choice) if name == "cond" else max(0, min(int(choice), count - 1))


def _writing_alike(
    region: Region, made: FirstValues, bodies: list[Callable[..., Any]], arguments: tuple[Any, ...]
) -> list[Callable[..., Any]]:
    """Return bodies that all write the same variables: what others write and they do not, as it is.

    First values that are noted are written by none. What each writes is known from a trace. ``jax.jit`` keeps it, so
    that no body is traced once more within the branch; should it not, the body draws the same keys again.

    Raises:
      BranchVariablesError: if a body makes a variable that the others do not make.
    """
    kept: list[Any] = [jax.jit(body, inline=True) for body in bodies]
    counts: list[Any] = []
    places: list[set[Place]] = []
    for each in kept:
        counts.append(region.counts())
        before = made.noted
        written = jax.eval_shape(each, *arguments)[1][0]
        places.append({*written, *(made.noted - before)})
    ended, noted, every = region.counts(), made.noted, set[Place]().union(*places)
    odd = [place for place in every if not all(place in written for written in places)]
    first = made.values or {}
    made_here = [place for place in odd if place not in first and held(region, region.variables[0], place) is None]
    if made_here:
        names = ", ".join(sorted("/".join(place) for place in made_here))
        raise BranchVariablesError(transform=region.transform, path=region.path, names=names)

    def branch(number: int) -> Callable[..., Any]:
        def run(groups: Any, streams: Any, values: list[Any]) -> Any:
            region.count_from(counts[number])
            output, (written,) = kept[number](groups, streams, values)
            region.count_from(ended)
            kept_as = {place: held(region, groups[0], place) for place in sorted(every - written.keys() - noted)}
            left = {place: first[place] if value is None else value for place, value in kept_as.items()}
            return output, ({**{place: written[place] for place in written.keys() - noted}, **left},)

        return run

    return [branch(number) for number in range(len(kept))]


def while_loop(
    cond_fn: Callable[[Any, C], Any],
    body_fn: Callable[[Any, C], C],
    mdl: Any,
    init: C,
    carry_variables: CollectionFilter = False,
    broadcast_variables: CollectionFilter = True,
    split_rngs: Mapping[CollectionFilter, bool] = _NOTHING,
) -> C:
    """Run ``body_fn(mdl, state)`` as long as ``cond_fn(mdl, state)`` is true, as ``jax.lax.while_loop`` does.

    On ``init`` the body is run once beforehand, so that its variables are made.

    Args:
      cond_fn: returns a boolean scalar; it may read variables.
      body_fn: returns the next state, of the same shapes; it may change carried variables.
      mdl: a bound module.
      init: the first state.
      carry_variables: collections that the body may change.
      broadcast_variables: collections that it may only read.
      split_rngs: for random streams, whether every step draws its own numbers. Streams that are not named are not seen
        inside.

    Raises:
      LoopVariableError: if the body makes a variable.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Doubled(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         layer = nn.Dense(1, use_bias=False)
      ...         small, step = lambda f, x: x.sum() < 100, lambda f, x: f(x)
      ...         return nn.while_loop(small, step, layer, x)
      >>> variables = {"params": {"Dense_0": {"kernel": jnp.full((1, 1), 2.0)}}}
      >>> Doubled().apply(variables, jnp.ones((1, 1))).item()
      128.0
    """
    test = wrap_method_once(checked(cond_fn, "cond_fn", "while_loop", what="a function of a module and a state"))
    function = wrap_method_once(checked(body_fn, "body_fn", "while_loop", what="a function of a module and a state"))
    split_rngs = table(split_rngs, "split_rngs", "while_loop")
    check_filter(carry_variables)
    check_filter(broadcast_variables)
    filters = [carry_variables, broadcast_variables]
    region = region_of(
        "while_loop",
        body_fn,
        (mdl,),
        {},
        filters,
        list(split_rngs),
        mutable=[True, False],
        splits=list(split_rngs.values()),
    )
    if region.is_initializing:
        make_first(region, Body(function, (mdl, init), {}, region.variables), [0, 1], counted=False)
    shared = region.variables[1]
    changed: set[Place] = set()

    def keys_of(number: Any) -> KeyGroups:
        """Return the keys of a step."""
        return tuple(
            jax.tree.map(functools.partial(_fold, number), group) if is_split else group
            for group, is_split in zip(region.streams, region.splits, strict=True)
        )

    def go_on(state: Any) -> Any:
        number, carried, value = state
        return region.run(test, (carried, shared), keys_of(number), (mdl, value), {}, mutable=False)[0]

    def step(state: Any) -> Any:
        number, carried, value = state
        value, written = region.run(function, (carried, shared), keys_of(number), (mdl, value), {})
        check_carried(region, carried, written[0])
        changed.update(written[0])
        return number + 1, whole(region, 0, (carried,), written), value

    _, carried, value = jax.lax.while_loop(go_on, step, (jnp.uint32(0), region.variables[0], init))
    region.publish((leaves(region, carried, changed), {}))
    return value


def _fold(number: Any, key: Key) -> Key:
    return jax.random.fold_in(key, number)
