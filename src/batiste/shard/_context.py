"""The rules in effect: which mesh axis each logical name is laid along, for the code that runs now.

Rules are pairs ``(logical name, mesh axes)`` in order of precedence. They are written where a program decides on its
mesh, far away from the layers that use the names, so they are in effect for whatever runs within ``logical_axis_rules``
(or after ``set_logical_axis_rules``), in this thread.

They are kept where JAX keeps its own context, such as the mesh of ``jax.set_mesh``: a context that is part of the key
of every ``jax.jit`` cache. A function that was compiled under other rules is traced anew, and never runs with the old
ones. It is the only state of ``batiste.shard``; what rules mean is decided in ``_logical.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import jax
from jax.sharding import PartitionSpec

from batiste.errors import LogicalRulesError

__all__ = [
    "LogicalRules",
    "MeshAxes",
    "as_rules",
    "get_logical_axis_rules",
    "logical_axis_rules",
    "set_logical_axis_rules",
]

MeshAxes: TypeAlias = str | tuple[str, ...] | None
"""The mesh axes that an axis of an array is split along: one, several, or None if it is whole everywhere."""

LogicalRules: TypeAlias = Sequence[tuple[str, MeshAxes]]
"""Pairs of a logical name and the mesh axes it is laid along; of several for a name, the first that is free counts."""

_rules: Any = jax.make_user_context(default_value=())


def get_logical_axis_rules() -> LogicalRules:
    """Return the rules in effect; none is the empty tuple.

    Example:
      >>> from batiste import nn
      >>> with nn.logical_axis_rules([("batch", "data")]):
      ...     print(nn.get_logical_axis_rules())
      (('batch', 'data'),)
    """
    return _rules.value


@contextlib.contextmanager
def logical_axis_rules(rules: LogicalRules) -> Generator[None, None, None]:
    """Put rules into effect for the length of a ``with`` block, in this thread.

    Args:
      rules: pairs ``(logical name, mesh axes)``. None as mesh axes says that the axis is not split, and
        ``jax.P.UNCONSTRAINED`` that the compiler may decide.

    Raises:
      LogicalRulesError: if they are not such pairs.

    Example:
      >>> from batiste import nn
      >>> with nn.logical_axis_rules([("batch", "data"), ("embed", None)]):
      ...     print(nn.logical_to_mesh_axes(("batch", "embed")))
      P('data', None)
    """
    with _rules(as_rules(rules)):
        yield


def set_logical_axis_rules(rules: LogicalRules) -> None:
    """Put rules into effect from now on, in this thread; the end of an enclosing ``logical_axis_rules`` undoes it.

    Args:
      rules: as for ``logical_axis_rules``.

    Raises:
      LogicalRulesError: if they are not pairs.

    Example:
      >>> from batiste import nn
      >>> nn.set_logical_axis_rules([("batch", "data")])
      >>> nn.logical_to_mesh_axes(("batch",))
      P('data',)
      >>> nn.set_logical_axis_rules([])
    """
    _rules(as_rules(rules)).__enter__()


def as_rules(rules: Any) -> tuple[tuple[str, MeshAxes], ...]:
    """Return rules as a tuple of pairs, which compares by value.

    Raises:
      LogicalRulesError: if they are not pairs of a name and mesh axes.
    """
    given = repr(rules)
    if isinstance(rules, str | Mapping) or not isinstance(rules, Iterable):
        raise LogicalRulesError(given=given, reason="rules are a sequence of pairs")
    return tuple(_as_rule(rule, repr(rule)) for rule in cast("Iterable[Any]", rules))


def _as_rule(rule: Any, given: str) -> tuple[str, Any]:
    parts: tuple[Any, ...] = tuple(cast("Sequence[Any]", rule)) if isinstance(rule, tuple | list) else ()
    if len(parts) != 2:
        raise LogicalRulesError(given=given, reason="a rule is a pair of a logical name and mesh axes")
    name, axes = parts
    if not isinstance(name, str):
        raise LogicalRulesError(given=given, reason=f"{name!r} is not a name")
    if axes is None or isinstance(axes, str) or axes is PartitionSpec.UNCONSTRAINED:
        return name, axes
    several: tuple[Any, ...] = tuple(cast("Sequence[Any]", axes)) if isinstance(axes, tuple | list) else (axes,)
    if all(isinstance(axis, str) for axis in several):
        return name, several
    raise LogicalRulesError(given=given, reason=f"{parts[1]!r} is neither a mesh axis, nor several, nor None")
