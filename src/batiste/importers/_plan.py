"""An import, thought through before anything is read: the report, and the steps that carry it out.

The report accounts for every tensor of the source and every leaf of the target: used exactly once, or named with what
becomes of it. What is wrong is in ``problems``, a line each with both sides; nothing is left out in silence.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import jax
import numpy as np

from batiste._arguments import choice
from batiste.core import is_axis_metadata, stored_in
from batiste.errors import UnmatchedRuleError, nearest
from batiste.importers._layouts import Layout, Misfit
from batiste.importers._resolve import Resolved, Step, resolve
from batiste.importers._rules import WeightMapping, compile_mapping, compile_patterns
from batiste.importers._state_dict import PREFIXES, Source, StateDict, open_state_dict
from batiste.tree import PatternLike, compile_pattern, path_string

__all__ = ["DTypePolicy", "Plan", "Report", "Target", "Use", "bare", "plan_import", "target_leaves", "think"]

DTypePolicy: TypeAlias = Literal["error", "cast", "keep"]
"""What becomes of a tensor whose dtype is not the leaf's: an error, the leaf's dtype, or its own."""

Target: TypeAlias = Any
"""Variables or their shapes (``jax.eval_shape``), in any containers; None where there is no model at hand."""


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """Some tensors of one layer, and the leaves that they become.

    Attributes:
      layout: the name of the layout.
      tensors: the tensors by name.
      leaves: the leaves by path; none where the layout drops the tensors.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("fc", "params/Dense_0", importers.Linear())]
      >>> report = importers.plan_import({"fc.weight": np.ones((4, 3))}, None, rules)
      >>> report.uses[0].tensors, report.uses[0].leaves
      (('fc.weight',), ('params/Dense_0/kernel',))
    """

    layout: str
    tensors: tuple[str, ...]
    leaves: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What an import does, or would do.

    Attributes:
      source: where the tensors come from.
      uses: which tensors become which leaves.
      dropped: tensors that a rule or a layout drops by name.
      same_as: of these, the ones that are another name of a tensor.
      tied: tensors that several rules use.
      ignored: tensors that ``ignore=`` names.
      kept: leaves that ``keep=`` names.
      stripped: prefixes that were taken off every name; ``*_orig_mod.`` was taken out of the middle of some.
      nested: the dict within the source that was taken, or "".
      outside: how many leaves lie beside that dict, by their first level.
      problems: what is wrong, a line each.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("fc", "params/Dense_0", importers.Linear())]
      >>> weights = {"fc.weight": np.ones((4, 3)), "other": np.ones(2)}
      >>> report = importers.plan_import(weights, None, rules)
      >>> report.complete, len(report.problems)
      (False, 1)
    """

    source: str
    uses: tuple[Use, ...]
    dropped: tuple[str, ...]
    same_as: Mapping[str, str]
    tied: tuple[str, ...]
    ignored: tuple[str, ...]
    kept: tuple[str, ...]
    stripped: tuple[str, ...]
    nested: str
    outside: Mapping[str, int]
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor and every leaf is accounted for."""
        return not self.problems

    def __str__(self) -> str:
        tensors = len({name for use in self.uses if use.leaves for name in use.tensors})
        leaves = sum(len(use.leaves) for use in self.uses)
        lines = [f"{self.source}: {tensors} tensors, {leaves} leaves"]
        if self.nested:
            beside = "".join(f", {name} ({count})" for name, count in self.outside.items())
            lines.append(
                f"  taken from {self.nested!r}; not looked at{beside.replace(',', ':', 1)}"
                if beside
                else f"  taken from {self.nested!r}"
            )
        lines += [f"  prefix taken off: {prefix}" for prefix in self.stripped]
        lines += [
            f"  {', '.join(use.tensors)} -> {', '.join(use.leaves)} ({use.layout})" for use in self.uses if use.leaves
        ]
        lines += [
            f"  {name} dropped: the same as {self.same_as[name]}" if name in self.same_as else f"  {name} dropped"
            for name in self.dropped
        ]
        lines += [f"  {name} ignored" for name in self.ignored]
        lines += [f"  {path} kept as it is in the target" for path in self.kept]
        lines += [f"wrong:{line[1:]}" for line in self.problems]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A report, and what it needs to be carried out."""

    report: Report
    state: StateDict
    steps: tuple[Step, ...]
    dropped: Mapping[str, str | None]
    leaves: Mapping[str, Any] | None


def plan_import(
    source: Source,
    target: Target,
    mapping: WeightMapping,
    *,
    ignore: str | Sequence[str] = (),
    keep: PatternLike | Sequence[PatternLike] = (),
    dtype: DTypePolicy = "error",
    nested: str | None = None,
    strip: Sequence[str] = PREFIXES,
) -> Report:
    """Return what ``from_torch`` would do with the same arguments, without reading an array.

    Raises:
      MappingRuleError: if a rule cannot be read.
      NestedStateDictError: if the source has several state dicts.
      NotAStateDictError: if it has none.
      UnmatchedRuleError: if a rule, or a pattern of ``ignore`` or ``keep``, applies to nothing.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rules = [("fc", "params/Dense_0", importers.Linear())]
      >>> report = importers.plan_import({"fc.weight": np.ones((4, 3))}, None, rules)
      >>> report.complete, report.uses[0].layout
      (True, 'Linear')
    """
    return think(source, target, mapping, ignore=ignore, keep=keep, dtype=dtype, nested=nested, strip=strip).report


def think(
    source: Source,
    target: Target,
    mapping: WeightMapping,
    *,
    ignore: str | Sequence[str],
    keep: PatternLike | Sequence[PatternLike],
    dtype: DTypePolicy,
    nested: str | None,
    strip: Sequence[str],
) -> Plan:
    """Return the plan of an import: the report of ``plan_import`` with its steps."""
    choice(dtype, "dtype", "from_torch", ("error", "cast", "keep"))
    rules = compile_mapping(mapping)
    state = open_state_dict(source, nested=nested, strip=strip)
    leaves = None if target is None else target_leaves(target)
    resolved = resolve(state.tensors, rules)
    idle = list(resolved.idle)
    ignored, missed = _ignored(state, resolved, ignore)
    kept, unkept = _kept(leaves, keep)
    idle += missed + unkept
    if idle:
        raise UnmatchedRuleError(source=state.label, lines="\n".join(idle))
    used = collections.Counter(name for step in resolved.steps for name in step.tensors)
    filled: dict[str, Step] = {}
    problems = [*resolved.broken, *_twice(resolved.steps, filled)]
    problems += _unused(state, resolved, ignored)
    problems += [
        f"  {name}: said to be the same as {other}, which no leaf is made of"
        for name, other in resolved.dropped.items()
        if other is not None and other not in used
    ]
    if leaves is not None:
        problems += _unfilled(leaves, filled, kept)
    problems += _misfits(state, resolved.steps, leaves, dtype)
    report = Report(
        source=state.label,
        uses=tuple(Use(type(step.rule.layout).__name__, step.tensors, step.leaves) for step in resolved.steps),
        dropped=(
            *resolved.dropped,
            *(name for step in resolved.steps if not step.leaves for name in step.tensors),
        ),
        same_as={name: other for name, other in resolved.dropped.items() if other is not None},
        tied=tuple(name for name, times in used.items() if times > 1),
        ignored=tuple(ignored),
        kept=tuple(path for path in kept if path not in filled),
        stripped=state.stripped,
        nested=state.nested,
        outside=state.outside,
        problems=tuple(problems),
    )
    return Plan(report, state, tuple(resolved.steps), resolved.dropped, leaves)


def target_leaves(target: Target) -> dict[str, Any]:
    """Return the leaves of a target by path; a box counts as the leaf in it, and keeps its own path."""
    flatten = cast("Any", jax.tree_util.tree_flatten_with_path)
    return {path_string(keys): leaf for keys, leaf in flatten(target, is_leaf=is_axis_metadata)[0]}


def bare(leaf: Any) -> Any:
    """Return what is in a box, without any sharding constraint; what is in none as it is."""
    while is_axis_metadata(leaf):
        leaf = stored_in(leaf)
    return leaf


def _ignored(state: StateDict, resolved: Resolved, ignore: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """The tensors that are ignored, and lines for patterns that match none."""
    free = [name for name in (*state.tensors, *state.others) if name not in resolved.owners]
    patterns = compile_patterns(ignore)
    missed = [f"  ignore={pattern.source!r}" for pattern in patterns if not any(map(pattern.matches, free))]
    return [name for name in free if any(pattern.matches(name) for pattern in patterns)], missed


def _kept(leaves: Mapping[str, Any] | None, keep: PatternLike | Sequence[PatternLike]) -> tuple[list[str], list[str]]:
    """The leaves that are kept, and lines for patterns that match none."""
    several = keep if isinstance(keep, list | tuple) else (keep,)
    patterns = [compile_pattern(cast("PatternLike", pattern)) for pattern in several]
    paths = list(leaves or ())
    missed = [f"  keep={pattern.source!r}" for pattern in patterns if not any(map(pattern.matches, paths))]
    return [path for path in paths if any(pattern.matches(path) for pattern in patterns)], missed


def _twice(steps: Sequence[Step], filled: dict[str, Step]) -> Iterator[str]:
    for step in steps:
        for leaf in step.leaves:
            first = filled.setdefault(leaf, step)
            if first is not step:
                yield f"  {leaf}: filled twice, from {', '.join(first.tensors)} and from {', '.join(step.tensors)}"


def _unused(state: StateDict, resolved: Resolved, ignored: Sequence[str]) -> Iterator[str]:
    for name, tensor in state.tensors.items():
        if name not in resolved.owners and name not in ignored and name not in state.aliases:
            twin = _twin(name, state, resolved)
            hint = f" (it has the values of {twin}: if they are tied, say `same_as={twin!r}`)" if twin else ""
            yield f"  {name}: {_text(tensor)}, no rule takes it{hint}"
    for name, kind in state.others.items():
        if name not in ignored:
            yield f"  {name}: {kind}, which is no tensor"


def _twin(name: str, state: StateDict, resolved: Resolved) -> str | None:
    """A used tensor with the same values as an unused one, where they are many enough to be no accident."""
    tensor = state.tensors[name]
    for other in resolved.owners:
        twin = state.tensors[other]
        if twin.shape == tensor.shape and twin.dtype == tensor.dtype and tensor.ndim > 1:
            array = tensor.read()
            if array.any() and array.tobytes() == twin.read().tobytes():
                return other
    return None


def _unfilled(leaves: Mapping[str, Any], filled: Mapping[str, Step], kept: Sequence[str]) -> Iterator[str]:
    for path, leaf in leaves.items():
        if path in filled:
            continue
        if path not in kept:
            yield f"  {path}: {_text(bare(leaf))}, no tensor fills it"
        elif isinstance(bare(leaf), jax.ShapeDtypeStruct):
            yield f"  {path}: {_text(bare(leaf))}, to be kept, and the target has its shape alone"


def _misfits(
    state: StateDict, steps: Sequence[Step], leaves: Mapping[str, Any] | None, dtype: DTypePolicy
) -> Iterator[str]:
    known: dict[Any, Any] = {}
    for step in steps:
        absent = [leaf for leaf in step.leaves if leaves is not None and leaf not in leaves]
        for leaf in absent:
            near = nearest(leaf, leaves or ()).strip()
            near = f" ({near})" if near else ""
            yield f"  {leaf}: no such leaf in the target, from {_tensors_text(state, step)}{near}"
        if absent:
            continue
        wanted = tuple(None if leaves is None else tuple(bare(leaves[leaf]).shape) for leaf in step.leaves)
        shapes = _shapes(state, step, wanted, known)
        if isinstance(shapes, str):
            yield f"  {', '.join(step.leaves) or 'nothing'}: from {_tensors_text(state, step)}: {shapes}"
            continue
        for leaf, shape, want in zip(step.leaves, shapes, wanted, strict=True):
            if want is None or leaves is None:
                continue
            text = _text(bare(leaves[leaf]))
            if shape != want:
                yield f"  {leaf}: {text} in the target, {list(shape)} from {_tensors_text(state, step)}"
            elif dtype == "error":
                others = {state.tensors[name].dtype for name in step.tensors} - {np.dtype(bare(leaves[leaf]).dtype)}
                if others:
                    yield f"  {leaf}: {text} in the target, {others.pop().name} from {', '.join(step.tensors)}"


def _shapes(
    state: StateDict, step: Step, wanted: tuple[tuple[int, ...] | None, ...], known: dict[Any, Any]
) -> list[tuple[int, ...]] | str:
    """The shapes of the leaves of a step, or what is wrong with its tensors; equal layers are asked once."""
    shapes = [state.tensors[name].shape for name in step.tensors]
    layout: Layout = step.rule.layout
    key = (layout, step.part.tensors, tuple(shapes), wanted)
    if key not in known:
        abstract = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]

        def forward(arrays: list[Any]) -> list[Any]:
            return step.part.forward(arrays, wanted)

        try:
            made = jax.eval_shape(forward, abstract)
            known[key] = [tuple(leaf.shape) for leaf in made]
        except Misfit as error:
            known[key] = str(error)
        except (TypeError, ValueError):
            known[key] = "its shape is not one that the layout takes"
    return known[key]


def _tensors_text(state: StateDict, step: Step) -> str:
    return ", ".join(f"{name} {_text(state.tensors[name])}" for name in step.tensors)


def _text(leaf: Any) -> str:
    if not hasattr(leaf, "shape"):
        return type(leaf).__name__
    return f"{getattr(leaf.dtype, 'name', leaf.dtype)}{list(leaf.shape)}"
