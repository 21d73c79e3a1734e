"""What can be wrong with an update, said in words.

Optax meets a wrong argument with a ``TypeError`` from the depths of a closure, or with silence: its chains take any
name and ignore what nobody reads, and a gradient of a wrong shape broadcasts. These checks find the mistake that was
made. They run once per trace; what names the leaves of a tree runs only where a mistake was found.

What a gradient must be: the tree of the parameters, and for each the same shape, real for a real one, and no integer
for a real or complex one. Another precision is not refused, since gradients in half precision for parameters in single,
and the other way round, are what mixed precision is. Some transformations want another tree or other shapes: one
gradient for each example in differential privacy, one for the fast parameters in lookahead. What refuses gradients that
are like the parameters is given what it was given.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp

from batiste.errors import (
    GradientsMismatchError,
    OptimizerArgumentError,
    OptimizerStateError,
    OptimizerTypeError,
    StateArgumentError,
    StateCallError,
    StateCollectionError,
    nearest,
)
from batiste.train._optimizer import named_arguments
from batiste.tree import flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from batiste.typing import PyTree

P = ParamSpec("P")
T = TypeVar("T")

__all__ = [
    "by_name",
    "check_arguments",
    "check_collections",
    "check_fields",
    "check_gradients",
    "check_opt_state",
    "check_optimizer",
    "check_overwritten",
    "check_updates",
    "explain_failure",
]


def by_name(*examples: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator of a method whose arguments are all given by name, for an error that shows how.

    Args:
      *examples: what the arguments that must be there look like: ``name=value``.

    Raises:
      StateCallError: when the method is called without one of them, or with more arguments without a name.
    """
    wanted = tuple(example.partition("=")[0] for example in examples)

    def decorated(method: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(method)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            given: Any = args
            if len(given) == 1 and all(name in kwargs for name in wanted):
                return method(*args, **kwargs)
            missing = [name for name in wanted if name not in kwargs]
            problem = f"was not given {', '.join(f'{name}=' for name in missing)}"
            if len(given) > 1:
                problem = f"takes its arguments by name, and was given {len(given) - 1} without"
            is_class = isinstance(given[0], type)
            kind = (given[0] if is_class else type(given[0])).__name__
            owner = kind if is_class else "state"
            example = f"{owner}.{method.__name__}({', '.join(examples)})."
            raise StateCallError(kind=kind, method=method.__name__, problem=problem, example=example)

        return called

    return decorated


def check_optimizer(kind: str, method: str, tx: Any) -> None:
    """Refuse what is no optimiser.

    Raises:
      OptimizerTypeError: ``tx`` has no ``init`` and ``update``.
    """
    missing = [name for name in ("init", "update") if not callable(getattr(tx, name, None))]
    if missing:
        raise OptimizerTypeError(kind=kind, method=method, given=repr(tx), missing=" and no ".join(missing))


def check_fields(kind: str, given: Iterable[str], fields: Sequence[str]) -> None:
    """Refuse a field that the state does not have.

    Raises:
      StateArgumentError: a name is not in ``fields``.
    """
    for name in given:
        if name not in fields:
            raise StateArgumentError(
                kind=kind,
                method="create",
                name=name,
                reason="it is no field of the state that create leaves to you",
                advice=f"Fields that may be given: {', '.join(fields)}.{nearest(name, fields)}",
            )


def check_arguments(kind: str, tx: Any, given: Iterable[str], fields: Sequence[str], computed: Sequence[str]) -> None:
    """Refuse an extra argument of ``tx`` that would be lost.

    Args:
      kind: the class of the state.
      tx: the optimiser.
      given: the names of the extra arguments.
      fields: the fields of the state that may be replaced.
      computed: the fields of the state that the update computes.

    Raises:
      StateArgumentError: a name is one of ``computed``, or no function of ``tx`` reads it.
    """
    given = list(given)
    if not given:
        return
    known, may_be_others = named_arguments(tx.update)
    for name in given:
        if name in computed:
            reason = "it is what this method computes; set it with replace()"
        elif name in known or (may_be_others and not nearest(name, fields)):
            continue
        else:
            reason = "it is neither a field of the state nor an argument that tx reads"
        raise StateArgumentError(
            kind=kind,
            method="apply_gradients",
            name=name,
            reason=reason,
            advice=(
                f"Fields that may be replaced: {', '.join(fields)}. "
                f"Arguments that tx reads: {', '.join(sorted(known)) or 'none'}.{nearest(name, [*fields, *known])}"
            ),
        )


def check_collections(kind: str, given: Any, held: Mapping[str, Any]) -> None:
    """Refuse collections that the state does not hold so: they would change what a step returns, without a word.

    A collection may gain variables. What it has had must be there, and be of the same shape.

    Raises:
      StateCollectionError: there is no such collection, or a variable of one is missing or of another shape.
    """
    known = ", ".join(held) or "none"
    if not isinstance(given, Mapping):
        text = f"an object of type {type(given).__name__}, and not collections by name"
        raise StateCollectionError(kind=kind, given=text, known=known, nearest="")
    collections = cast("Mapping[str, Any]", given)
    unknown = [name for name in collections if name not in held]
    if unknown:
        near = nearest(str(unknown[0]), held)
        raise StateCollectionError(kind=kind, given=", ".join(map(str, unknown)), known=known, nearest=near)
    for name, new in collections.items():
        old = held[name]
        if jax.tree.structure(old) == jax.tree.structure(new) and _shapes(old) == _shapes(new):
            continue
        before, after = flatten(old), flatten(new)
        for path, leaf in before.items():
            where = f"{name}/{path}" if path else name
            if path not in after:
                raise StateCollectionError(kind=kind, given=f"{name} without {where!r}", known=known, nearest="")
            if jnp.shape(leaf) != jnp.shape(after[path]):
                text = f"{where!r} of shape {jnp.shape(after[path])} in the place of {jnp.shape(leaf)}"
                raise StateCollectionError(kind=kind, given=text, known=known, nearest="")


def check_gradients(
    kind: str, tx: Any, opt_state: PyTree, params: PyTree, grads: PyTree, extra: Mapping[str, Any]
) -> None:
    """Refuse gradients that are not those of the parameters, which arithmetic would broadcast or cast.

    Raises:
      GradientsMismatchError: they have another tree, shape or kind of dtype, and the optimiser does not ask for that.
    """
    leaves: list[Any] = jax.tree.leaves(params)
    given: list[Any] = jax.tree.leaves(grads)
    difference = _structure_difference(params, grads)
    if difference:
        if not _takes_like(tx, opt_state, params, extra):
            return
        raise GradientsMismatchError(kind=kind, difference=difference, advice=_advice(params, grads))
    if all(map(_is_fit, leaves, given)):
        return
    pairs = zip(flatten(params).items(), given, strict=True)
    path, param, grad = next((path, param, grad) for (path, param), grad in pairs if not _is_fit(param, grad))
    shape, wanted = jnp.shape(grad), jnp.shape(param)
    if shape != wanted:
        if not _takes_like(tx, opt_state, params, extra):
            return
        difference = f"The gradient of {path!r} has the shape {shape}, and the parameter has {wanted}."
        advice = " Average the gradients of several devices or examples first." if len(shape) > len(wanted) else ""
        raise GradientsMismatchError(kind=kind, difference=difference, advice=advice)
    dtype, of = _dtype(grad), _dtype(param)
    if dtype == jax.dtypes.float0:
        difference = f"{path!r} is {of}, which has no gradient."
        advice = " Keep integers in a collection beside the parameters, or give tx=optax.masked(...) for the others."
    else:
        difference = f"The gradient of {path!r} is {dtype}, and the parameter is {of}."
        advice = ""
    raise GradientsMismatchError(kind=kind, difference=difference, advice=advice)


def _dtype(leaf: Any) -> Any:
    return getattr(leaf, "dtype", None) or jnp.result_type(leaf)


def _is_fit(param: Any, grad: Any) -> bool:
    """Say whether a gradient has the shape of its parameter and a dtype that an update may add to it."""
    try:
        if grad.dtype == param.dtype:
            return grad.shape == param.shape
    except AttributeError:  # a number of Python
        pass
    dtype, of = _dtype(grad), _dtype(param)
    if jnp.issubdtype(dtype, jnp.complexfloating) and not jnp.issubdtype(of, jnp.complexfloating):
        return False
    if jnp.issubdtype(of, jnp.inexact) and not jnp.issubdtype(dtype, jnp.inexact):
        return False
    return dtype != jax.dtypes.float0 and jnp.shape(grad) == jnp.shape(param)


def _takes_like(tx: Any, opt_state: PyTree, params: PyTree, extra: Mapping[str, Any]) -> bool:
    """Say whether an optimiser takes gradients that are like the parameters, and gives updates of these shapes."""

    def update(grads: PyTree, opt_state: PyTree, params: PyTree) -> PyTree:
        return tx.update(grads, opt_state, params, **extra)[0]

    try:
        updates = jax.eval_shape(update, params, opt_state, params)
    except Exception:  # noqa: BLE001 - whatever it is, the update itself will say it
        return False
    return _shapes(updates) == _shapes(params)


def _shapes(tree: PyTree) -> list[tuple[int, ...]]:
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]


def check_updates(kind: str, params: PyTree, updates: PyTree) -> None:
    """Refuse updates of other shapes than the parameters, which addition would broadcast.

    Raises:
      GradientsMismatchError: an update has another shape than its parameter.
    """
    shapes, given = _shapes(params), _shapes(updates)
    if shapes == given or len(shapes) != len(given):  # of another tree: applying them says so
        return
    paths = flatten(params)
    path, old, new = next(row for row in zip(paths, shapes, given, strict=True) if row[1] != row[2])
    raise GradientsMismatchError(
        kind=kind,
        difference=f"The update would give {path!r} of shape {old} the shape {new}.",
        advice=" Average the gradients of several devices or examples first.",
    )


def check_overwritten(kind: str, name: str, before: PyTree, given: PyTree) -> None:
    """Refuse new values of another tree or of other shapes for a collection whose gradients are its values.

    Raises:
      GradientsMismatchError: they are not those of ``before``.
    """
    difference = f"No gradient is given for {name!r}." if given is None else _structure_difference(before, given)
    if difference:
        raise GradientsMismatchError(kind=kind, difference=difference, advice="")
    check_updates(kind, before, given)


def check_opt_state(kind: str, before: PyTree, after: PyTree) -> None:
    """Refuse an update that gave the state of the optimiser other shapes: it was that of other parameters.

    Raises:
      OptimizerStateError: a leaf has another shape.
    """
    old, new = _shapes(before), _shapes(after)
    if old == new or len(old) != len(new):
        return
    path, was, is_now = next(row for row in zip(flatten(before), old, new, strict=True) if row[1] != row[2])
    difference = f"an update turned its {path!r} of shape {was} into {is_now}."
    raise OptimizerStateError(kind=kind, difference=difference)


def explain_failure(kind: str, tx: Any, error: Exception, opt_state: PyTree, params: PyTree, grads: PyTree) -> None:
    """Raise an error of the catalogue where the reason of a failed update is known; return where it is not.

    Raises:
      GradientsMismatchError: the gradients have another structure than the parameters.
      OptimizerArgumentError: the optimiser misses an argument.
      OptimizerStateError: the state of the optimiser is not that of these parameters.
    """
    difference = _structure_difference(params, grads)
    if difference:
        raise GradientsMismatchError(kind=kind, difference=difference, advice=_advice(params, grads)) from error
    found = re.search(r"missing \d+ required [\w-]+ arguments?: (.*)$", str(error))
    names = re.findall(r"'(\w+)'", found[1]) if found else []
    if names and set(names) <= named_arguments(tx.update)[0]:
        example = ", ".join(f"{name}=..." for name in names)
        raise OptimizerArgumentError(kind=kind, names=", ".join(names), example=example) from error
    difference = _state_difference(tx, opt_state, params)
    if difference:
        raise OptimizerStateError(kind=kind, difference=difference) from error


def _state_difference(tx: Any, opt_state: PyTree, params: PyTree) -> str:
    """Say in words where the state of an optimiser differs from a fresh one; "" where it does not."""
    fresh: PyTree = jax.eval_shape(tx.init, params)
    if jax.tree.structure(fresh) != jax.tree.structure(opt_state):
        wanted, given = flatten(fresh), flatten(opt_state)
        missing = [path for path in wanted if path not in given]
        extra = [path for path in given if path not in wanted]
        parts = [f"it lacks {_some(missing)}"] if missing else []
        parts += [f"nothing of it is called {_some(extra)}"] if extra else []
        return (" and ".join(parts) or "it has other containers") + "."
    rows = zip(flatten(fresh).items(), jax.tree.leaves(opt_state), strict=True)
    return next(
        (
            f"its {path!r} has the shape {jnp.shape(held)}, and for these parameters it is {jnp.shape(wanted)}."
            for (path, wanted), held in rows
            if jnp.shape(held) != jnp.shape(wanted)
        ),
        "",
    )


def _advice(params: PyTree, grads: PyTree) -> str:
    """Return what is known of gradients of another tree."""
    if isinstance(grads, dict) and "params" in grads and "params" not in params:
        return " These look like gradients of all variables: give grads['params']."
    if isinstance(grads, tuple) and len(cast("tuple[Any, ...]", grads)) == 2:
        first, second = cast("tuple[Any, Any]", grads)
        if jax.tree.structure(second) == jax.tree.structure(params):
            return " jax.value_and_grad returns a pair, (value, gradients): give its second."
        if jax.tree.structure(first) == jax.tree.structure(params):
            return " With has_aux=True jax.grad returns a pair, (gradients, aux): give its first."
    return ""


def _structure_difference(params: PyTree, grads: PyTree) -> str:
    """Say in words where two trees differ in structure; "" where they do not."""
    if jax.tree.structure(params) == jax.tree.structure(grads):
        return ""
    wanted, given = flatten(params), flatten(grads)
    missing = [path for path in wanted if path not in given]
    extra = [path for path in given if path not in wanted]
    if not missing and not extra:
        return f"They have other containers: {jax.tree.structure(grads)} instead of {jax.tree.structure(params)}."
    parts = [f"no gradient is given for {_some(missing)}"] if missing else []
    parts += [f"no parameter is there for {_some(extra)}"] if extra else []
    text = " and ".join(parts)
    return text[0].upper() + text[1:] + "."


def _some(paths: list[str]) -> str:
    """Name the first path and count the others."""
    return repr(paths[0]) + (f" (and {len(paths) - 1} more)" if len(paths) > 1 else "")
