"""What can be wrong with an update, said in words.

Optax meets a wrong argument with a ``TypeError`` from the depths of a closure, or with silence: its chains take any
name and ignore what nobody reads, and a gradient of a wrong shape broadcasts. These checks find the mistake that was
made. They run once per trace; those that walk the trees in Python run only when an update has failed already.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from batiste.errors import (
    GradientsMismatchError,
    OptimizerArgumentError,
    OptimizerTypeError,
    StateArgumentError,
    StateCollectionError,
    nearest,
)
from batiste.train._optimizer import named_arguments
from batiste.tree import flatten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batiste.typing import PyTree

__all__ = ["check_arguments", "check_collections", "check_fields", "check_optimizer", "check_shapes", "explain_failure"]


def check_optimizer(kind: str, tx: Any) -> None:
    """Refuse what is no optimiser.

    Raises:
      OptimizerTypeError: ``tx`` has no ``init`` and ``update``.
    """
    missing = [name for name in ("init", "update") if not callable(getattr(tx, name, None))]
    if missing:
        raise OptimizerTypeError(kind=kind, given=repr(tx), missing=" and no ".join(missing))


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


def check_collections(kind: str, given: Iterable[str], held: Mapping[str, Any]) -> None:
    """Refuse a collection that the state does not hold: it would change the tree that a step returns.

    Raises:
      StateCollectionError: a name is not in ``held``.
    """
    unknown = [name for name in given if name not in held]
    if unknown:
        raise StateCollectionError(
            kind=kind,
            given=", ".join(unknown),
            known=", ".join(held) or "none",
            nearest=nearest(unknown[0], held),
        )


def check_shapes(kind: str, before: PyTree, after: PyTree) -> None:
    """Refuse an update that broadcast a parameter to another shape.

    Raises:
      GradientsMismatchError: a leaf of ``after`` has another shape than the same leaf of ``before``.
    """
    shapes, new_shapes = ([jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (before, after))
    if shapes == new_shapes:
        return
    for (path, old), new in zip(flatten(before).items(), new_shapes, strict=True):
        if jnp.shape(old) != new:
            raise GradientsMismatchError(
                kind=kind,
                difference=f"The update would give {path!r} of shape {jnp.shape(old)} the shape {new}.",
                advice=" Average the gradients of several devices or examples first.",
            )


def explain_failure(kind: str, tx: Any, error: Exception, params: PyTree, grads: PyTree) -> None:
    """Raise an error of the catalogue where the reason of a failed update is known; return where it is not.

    Raises:
      GradientsMismatchError: the gradients have another structure than the parameters.
      OptimizerArgumentError: the optimiser misses an argument.
    """
    difference = _structure_difference(params, grads)
    if difference:
        of_all = isinstance(grads, dict) and "params" in grads and "params" not in params
        advice = " These look like gradients of all variables: give grads['params']." if of_all else ""
        raise GradientsMismatchError(kind=kind, difference=difference, advice=advice) from error
    found = re.search(r"missing \d+ required [\w-]+ arguments?: (.*)$", str(error))
    names = re.findall(r"'(\w+)'", found[1]) if found else []
    if names and set(names) <= named_arguments(tx.update)[0]:
        example = ", ".join(f"{name}=..." for name in names)
        raise OptimizerArgumentError(kind=kind, names=", ".join(names), example=example) from error


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
