"""From a state dict to variables: the plan is made and checked first, and only then are tensors read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np

from batiste.core import is_axis_metadata, stored_in
from batiste.errors import CastLossError, ImportMismatchError, TiedTensorsError
from batiste.importers._plan import DTypePolicy, Plan, Target, bare, think
from batiste.importers._rules import WeightMapping
from batiste.importers._state_dict import PREFIXES, Source
from batiste.tree import PatternLike, cast_loss, unflatten
from batiste.tree import cast as cast_tree

__all__ = ["from_torch"]


def from_torch(
    source: Source,
    target: Target,
    mapping: WeightMapping,
    *,
    ignore: str | Sequence[str] = (),
    keep: PatternLike | Sequence[PatternLike] = (),
    dtype: DTypePolicy = "error",
    nested: str | None = None,
    strip: Sequence[str] = PREFIXES,
) -> Any:
    """Return variables with the weights of a PyTorch model.

    Args:
      source: a state dict (of NumPy arrays or PyTorch's tensors), or the path of a PyTorch or safetensors file.
      target: the variables of the model or their shapes, from ``jax.eval_shape(model.init, ...)``; None where there is
        no model at hand, and then leaves are not checked.
      mapping: the rules, in order.
      ignore: patterns of tensors that are not wanted.
      keep: patterns of leaves that no tensor fills and that stay as they are in the target.
      dtype: what becomes of a tensor of another dtype than its leaf; ``"cast"`` rounds numbers and loses nothing else.
      nested: which dict within the source is the state dict, levels with slashes between; None finds it.
      strip: prefixes to take off where every name has them.

    Returns:
      Variables in the containers of the target, with NumPy arrays of their own memory; nested dicts without a target.

    Raises:
      CastLossError: if ``dtype="cast"`` would lose more than precision; the error lists all.
      ImportMismatchError: if a tensor or a leaf is not accounted for, or two do not fit; the error lists all.
      TiedTensorsError: if tensors that a rule calls the same differ.
      MappingRuleError: if a rule cannot be read.
      NestedStateDictError: if the source has several state dicts.
      NotAStateDictError: if it has none.
      UnmatchedRuleError: if a rule, or a pattern of ``ignore`` or ``keep``, applies to nothing.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from batiste import importers, nn
      >>> weights = {"out.weight": np.ones((4, 3), "f"), "out.bias": np.ones(4, "f")}
      >>> model, x = nn.Dense(4), jnp.ones((1, 3))
      >>> target = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> rules = [("out", "params", importers.Linear())]
      >>> variables = importers.from_torch(weights, target, rules)
      >>> model.apply(variables, x).tolist()
      [[4.0, 4.0, 4.0, 4.0]]
    """
    plan = think(source, target, mapping, ignore=ignore, keep=keep, dtype=dtype, nested=nested, strip=strip)
    problems = plan.report.problems
    if problems:
        raise ImportMismatchError(source=plan.report.source, count=len(problems), lines="\n".join(problems))
    _check_tied(plan)
    values = _read(plan, dtype)
    if plan.leaves is None:
        return unflatten(values)
    leaves = [_filled(leaf, values[path]) if path in values else leaf for path, leaf in plan.leaves.items()]
    structure = cast("Any", jax.tree.structure(target, is_leaf=is_axis_metadata))
    return jax.tree.unflatten(structure, leaves)


def _read(plan: Plan, dtype: DTypePolicy) -> dict[str, Any]:
    """Every leaf that tensors fill, one layer after the other."""
    values: dict[str, Any] = {}
    lines: list[str] = []
    for step in plan.steps:
        wanted = [None if plan.leaves is None else bare(plan.leaves[leaf]) for leaf in step.leaves]
        shapes = [None if leaf is None else tuple(leaf.shape) for leaf in wanted]
        arrays = [plan.state.tensors[name].read() for name in step.tensors] if step.leaves else []
        made = step.part.forward(arrays, shapes) if arrays else []
        for path, array, leaf in zip(step.leaves, made, wanted, strict=True):
            kind = np.dtype(array.dtype if leaf is None or dtype != "cast" else leaf.dtype)
            if loss := cast_loss(array, kind):
                lines.append(f"  {path}: {array.dtype.name}{list(array.shape)} -> {kind.name}: {loss}")
                continue
            found = cast_tree(array, kind, kinds="all")
            values[path] = np.array(found, order="C")  # never a view of the source's memory
    if lines:
        raise CastLossError(count=len(lines), lines="\n".join(lines))
    return values


def _filled(leaf: Any, array: Any) -> Any:
    """The leaf of the target with this value, in its box where it has one."""
    if not is_axis_metadata(leaf):
        return array
    return leaf.replace_boxed(_filled(stored_in(leaf), array))


def _check_tied(plan: Plan) -> None:
    names = plan.report.same_as
    lines: list[str] = []
    for name, other in names.items():
        one, two = plan.state.tensors[name], plan.state.tensors[other]
        if one.shape != two.shape:
            lines.append(f"  {name} {list(one.shape)} and {other} {list(two.shape)}")
        elif not np.array_equal(one.read(), two.read(), equal_nan=True):
            lines.append(f"  {name} and {other}: the values differ")
    if lines:
        raise TiedTensorsError(lines="\n".join(lines))
