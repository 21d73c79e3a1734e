"""From logical names to mesh axes: ``("batch", "embed")`` becomes ``P("data", None)``.

A layer names the axes of its arrays after what they mean. Rules say which mesh axes a name is laid along. The rules are
gone through in order: a rule applies if its name is there and has nothing yet, and none of its mesh axes is taken by
another axis of the array; so no mesh axis is used twice, and a name may have a second choice further down.

Two things can be wrong. A name may have *no rule at all*: most often it is mistyped, or a rule was forgotten, and the
array would silently lie whole on every device. That is an error, unless ``fallback`` says otherwise. Or every rule of a
name may lead to mesh axes that are *taken*: that is what precedence is for, and the axis is not split.

Nothing here knows which axes a mesh has: that is checked in ``_mesh.py``, where there is one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import jax
from jax.sharding import PartitionSpec

from batiste._arguments import refused
from batiste.errors import AxisNamesError, DuplicateAxisNameError, UnknownLogicalAxisError, nearest
from batiste.shard._context import LogicalRules, as_rules, get_logical_axis_rules

__all__ = [
    "LogicalNames",
    "RulesFallback",
    "as_names",
    "check_fallback",
    "is_names",
    "is_open",
    "is_spec",
    "logical_to_mesh",
    "logical_to_mesh_axes",
    "resolve",
]

LogicalNames: TypeAlias = Sequence[str | None]
"""A name for each axis of an array, or None for an axis that is not split."""

_UNDECIDED = object()


class RulesFallback(enum.Enum):
    """What becomes of a name that no rule applies to, be it that it has none or that all are taken.

    Example:
      >>> from batiste import shard
      >>> [each.name for each in shard.RulesFallback]
      ['AXIS_IS_UNSHARDED', 'RAISE_ERROR', 'NO_CONSTRAINT']
    """

    AXIS_IS_UNSHARDED = "axis_is_unsharded"
    """The axis is not split."""

    RAISE_ERROR = "raise_error"
    """It is an error."""

    NO_CONSTRAINT = "no_constraint"
    """The whole array is left as it is."""


def logical_to_mesh_axes(
    array_dim_names: LogicalNames | None,
    rules: LogicalRules | None = None,
    *,
    fallback: RulesFallback | None = None,
) -> PartitionSpec | None:
    """Return the partition spec of an array whose axes have logical names.

    Args:
      array_dim_names: a name, None or ``jax.P.UNCONSTRAINED`` for each axis; None for no names, which gives None.
      rules: pairs ``(logical name, mesh axes)``; by default those in effect.
      fallback: what becomes of a name that no rule applies to. None: a name that has no rule is an error, and one whose
        rules are all taken is not split.

    Raises:
      ArgumentError: if the fallback is none.
      AxisNamesError: if these are no names.
      DuplicateAxisNameError: if two axes have one name.
      UnknownLogicalAxisError: if a name has no rule.

    Example:
      >>> from batiste import nn
      >>> rules = [("batch", "data"), ("embed", None), ("mlp", "model")]
      >>> nn.logical_to_mesh_axes(("batch", None, "mlp"), rules)
      P('data', None, 'model')
    """
    check_fallback(fallback, "logical_to_mesh_axes")
    if array_dim_names is None:
        return None
    known = get_logical_axis_rules() if rules is None else as_rules(rules)
    return resolve(as_names(array_dim_names), known, fallback)


def logical_to_mesh(tree: Any, rules: LogicalRules | None = None, *, fallback: RulesFallback | None = None) -> Any:
    """Return a tree of partition specs in mesh axes for one in logical names.

    Args:
      tree: a pytree of ``PartitionSpec`` whose entries are logical names, such as ``get_partition_spec`` returns.
      rules: as for ``logical_to_mesh_axes``.
      fallback: likewise.

    Raises:
      AxisNamesError: if a leaf is no ``PartitionSpec``.
      UnknownLogicalAxisError: if a name has no rule.

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> specs = {"kernel": jax.P("embed", "mlp"), "bias": jax.P("mlp")}
      >>> nn.logical_to_mesh(specs, [("embed", None), ("mlp", "model")])
      {'bias': P('model',), 'kernel': P(None, 'model')}
    """
    check_fallback(fallback, "logical_to_mesh")

    def in_mesh_axes(names: Any) -> PartitionSpec | None:
        return logical_to_mesh_axes(names, rules, fallback=fallback)

    return jax.tree.map(in_mesh_axes, tree, is_leaf=is_spec)


def check_fallback(fallback: Any, where: str) -> None:
    """Refuse what is no fallback.

    Raises:
      ArgumentError: it is something else.
    """
    if fallback is not None and not isinstance(fallback, RulesFallback):
        known = ", ".join(f"RulesFallback.{one.name}" for one in RulesFallback)
        raise refused(fallback, "fallback", where, f"None, or one of {known}")


def is_spec(value: Any) -> bool:
    """Return whether a value is a ``PartitionSpec``."""
    return isinstance(value, PartitionSpec)


def is_names(value: Any) -> bool:
    """Return whether a value names the axes of one array, rather than being a container of such."""
    if isinstance(value, PartitionSpec):
        return True
    if type(value) not in (tuple, list):  # a named tuple is a container
        return False
    entries = cast("Sequence[Any]", value)
    is_flat = all(isinstance(entry, str) or is_open(entry) for entry in entries)
    return is_flat and (type(value) is tuple or any(isinstance(entry, str) for entry in entries))


def is_open(entry: Any) -> bool:
    """Return whether an axis is not split, or left to the compiler."""
    return entry is None or entry is PartitionSpec.UNCONSTRAINED


def as_names(names: Any) -> tuple[Any, ...]:
    """Return the names of an array's axes as a tuple.

    Raises:
      AxisNamesError: if they are not a sequence of names.
    """
    given = repr(names)
    if isinstance(names, str):
        raise AxisNamesError(given=given, reason="it is one name, and a sequence of names is needed")
    if not isinstance(names, tuple | list | PartitionSpec):
        raise AxisNamesError(given=given, reason="it is not a sequence of names")
    entries: tuple[Any, ...] = tuple(cast("Sequence[Any]", names))
    for entry in entries:
        if not isinstance(entry, str) and not is_open(entry):
            raise AxisNamesError(given=given, reason=f"{entry!r} is not a logical name")
    return entries


def resolve(names: tuple[Any, ...], rules: LogicalRules, fallback: RulesFallback | None) -> PartitionSpec | None:
    """Return the spec of names under rules; None if ``fallback`` leaves the array as it is."""
    for name in names:
        if isinstance(name, str) and names.count(name) > 1:
            raise DuplicateAxisNameError(names=names, name=name)
    entries = [name if is_open(name) else _UNDECIDED for name in names]
    taken: set[str] = set()
    for name, axes in rules:
        if name in names and entries[names.index(name)] is _UNDECIDED:
            wanted = {axes} if isinstance(axes, str) else set(axes) if isinstance(axes, tuple) else set[str]()
            if not wanted & taken:
                entries[names.index(name)] = axes or None
                taken |= wanted
    known = dict(rules)
    for name, entry in zip(names, entries, strict=True):
        if entry is _UNDECIDED and fallback is RulesFallback.NO_CONSTRAINT:
            return None
        if entry is _UNDECIDED and (fallback is RulesFallback.RAISE_ERROR or (fallback is None and name not in known)):
            if name in known:
                problem, near = "whose rules lead to mesh axes that other axes of the array have taken", ""
            else:
                problem = "which no rule mentions" if known else "and there are no rules"
                near = nearest(name, known)
            raise UnknownLogicalAxisError(names=names, name=name, problem=problem, near=near)
    return PartitionSpec(*(None if entry is _UNDECIDED else entry for entry in entries))
