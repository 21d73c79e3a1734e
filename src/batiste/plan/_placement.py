"""How values lie on a mesh, and what devices have sent each other so far.

A ``World`` is a mesh with a list of what was sent on it. A ``Placement`` holds how each value of one program lies, and
how values must lie because of what they become. Bytes are what one device sends around a ring
(https://arxiv.org/abs/1909.09756, section 3): ``(n - 1) / n`` of the whole for a gather or a scatter, twice that for an
all-reduce.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from batiste.core import nbytes
from batiste.plan._flat import Body, Step

__all__ = ["Collective", "Placement", "Spec", "Sum", "World", "moved", "reshaped", "whole", "without_repeats"]

Spec = tuple[tuple[str, ...], ...]
"""For each axis of an array the mesh axes that cut it."""

_ROUNDS = MappingProxyType({"all-reduce": 2})


@dataclasses.dataclass(frozen=True, slots=True)
class Collective:
    """What devices send each other for one module.

    Attributes:
      path: the module.
      kind: ``all-reduce``, ``all-gather``, ``reduce-scatter``, ``all-to-all`` or ``permute``.
      axes: the mesh axes along which it goes.
      bytes: what one device sends in a whole step.
      count: how often in a step.
      unused: of the bytes those that are gathered and not read, such as the rows of a table that nobody looks up.

    Example:
      >>> from batiste import nn
      >>> from batiste.plan import plan
      >>> layer, x = nn.Dense(8), "float32[8,8]"
      >>> found = plan(layer, x, mesh="data=4", rules="data", remat=False)
      >>> sorted({each.kind for each in found.costs.collectives})
      ['all-reduce']
    """

    path: tuple[str, ...]
    kind: str
    axes: tuple[str, ...]
    bytes: float
    count: float
    unused: float = 0


def whole(aval: Any) -> Spec:
    """Return the spec of a value that no axis cuts."""
    return ((),) * len(getattr(aval, "shape", ()))


class World:
    """A mesh, and what has been sent on it so far.

    Attributes:
      mesh: the size of each axis.
      manual: the size of each axis along which the program itself sends (``jax.shard_map``).
      at: the module that is being looked at, and how often it runs.
      held: the bytes of what the step at hand has gathered, and of what it has before a sum.
    """

    def __init__(self, mesh: Mapping[str, int], manual: Mapping[str, int] | None = None) -> None:
        self.mesh = dict(mesh)
        self.manual = dict(manual or {})
        self.at: tuple[tuple[str, ...], float] = ((), 1)
        self.held: float = 0
        self._sent: dict[tuple[tuple[str, ...], str, tuple[str, ...]], tuple[float, float, float]] = {}

    def parts(self, axes: Sequence[str]) -> int:
        """Return into how many parts mesh axes cut."""
        return math.prod(self.mesh.get(axis) or self.manual.get(axis, 1) for axis in axes)

    def send(self, kind: str, axes: Sequence[str], size: float, *, unused: float = 0, back: bool = False) -> None:
        """Note a collective over ``size`` bytes: what it gathers, or what goes in where it reduces.

        Args:
          kind: which one.
          axes: the mesh axes along which it goes.
          size: the bytes.
          unused: the part of them that is gathered and not read, between 0 and 1.
          back: whether to take back that it was noted.
        """
        axes = tuple(axis for axis in axes if self.parts((axis,)) > 1)
        if not axes or not size:
            return
        count = self.parts(axes)
        path, times = self.at
        times = -times if back else times
        sent = size * _ROUNDS.get(kind, 1) * (1 if kind == "permute" else (count - 1) / count)
        self._add((path, kind, axes), (sent * times, times, sent * times * unused))

    def _add(self, key: tuple[tuple[str, ...], str, tuple[str, ...]], figures: tuple[float, float, float]) -> None:
        sent, count, unused = self._sent.get(key, (0.0, 0.0, 0.0))
        self._sent[key] = (sent + figures[0], count + figures[1], unused + figures[2])

    def take(self, other: World) -> None:
        """Add what has been sent in another world."""
        for key, figures in other._sent.items():
            self._add(key, figures)

    def collectives(self) -> list[Collective]:
        """Return what has been sent, the most first."""
        found = [Collective(*key, *value) for key, value in self._sent.items() if value[1]]
        return sorted(found, key=lambda each: -each.bytes)

    def spec_of(self, given: Any, ndim: int) -> Spec:
        """Return the spec of a ``PartitionSpec``, without mesh axes that are not here."""
        entries = [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in given]
        entries += [()] * (ndim - len(entries))
        return tuple(tuple(str(axis) for axis in entry if str(axis) in self.mesh) for entry in entries[:ndim])

    def body(
        self, body: Body, specs: Sequence[Spec], wanted: Sequence[Spec | None], weights: Sequence[bool]
    ) -> Placement:
        """Return the specs of a program's values, as far as its arguments give them."""
        return Placement(self, body, specs, wanted, weights)


class Placement:
    """How the values of one program lie.

    Attributes:
      world: the mesh.
      body: the program.
      sums: for a value that has been summed over mesh axes, which these were.
      summed: for such a value, its bytes on one device before the sum.
    """

    def __init__(
        self, world: World, body: Body, specs: Sequence[Spec], wanted: Sequence[Spec | None], weights: Sequence[bool]
    ) -> None:
        self.world, self.body = world, body
        self._specs: dict[int, Spec] = dict(zip(body.ins, specs, strict=True))
        self._weights = {value for value, mark in zip(body.ins, weights, strict=True) if mark}
        self._wanted: dict[int, Spec] = {}
        self._work: dict[int, float] = {}
        self._repeated = {step.outs[0] for step in body.steps if step.name == "broadcast_in_dim"}
        self.sums: dict[int, Sum] = {}
        self.summed: dict[int, float] = {}
        if world.mesh:
            self._want(body, wanted)

    def _want(self, body: Body, wanted: Sequence[Spec | None]) -> None:
        """Follow what results must be back to where they are computed."""
        for value, spec in zip(body.outs, wanted, strict=True):
            if value is not None and spec is not None:
                self._wanted[value] = spec
        for step in reversed(body.steps):
            asked = self._wanted.get(step.outs[0]) if step.outs else None
            if asked is None or not step.ins or step.ins[0] is None:
                continue
            before = _backwards(step, asked, self)
            if before is not None:
                self._wanted.setdefault(step.ins[0], before)

    def spec(self, value: int | None, aval: Any) -> Spec:
        """Return how a value lies."""
        found = None if value is None else self._specs.get(value)
        return whole(aval) if found is None else found

    def result(self, value: int | None) -> Spec:
        """Return how a result lies."""
        return () if value is None else self.spec(value, self.body.avals[value])

    def wanted(self, value: int) -> Spec | None:
        """Return how a value must lie, if that is known."""
        return self._wanted.get(value)

    def is_weight(self, value: int | None) -> bool:
        """Say whether a value is a parameter, or one in another shape or dtype."""
        return value in self._weights

    def place(self, step: Step, specs: Sequence[Spec]) -> None:
        """Note how the results of a step lie."""
        for value, spec in zip(step.outs, specs, strict=True):
            self._specs[value] = spec
        if step.ins and step.ins[0] in self._weights and step.name in _KEEPS_WEIGHT:
            self._weights.update(step.outs)

    def lies_with(self, value: int | None, spec: Spec) -> None:
        """Note how a value lies that is the same numbers again and again: as what it is used with."""
        if value is not None and value in self._repeated:
            self._specs[value] = spec

    def share(self, value: int) -> float:
        """Return which part of a value one device has."""
        spec = self._specs.get(value)
        return 1 / math.prod(map(self.world.parts, spec)) if spec else 1.0

    def bytes_of(self, value: int) -> int:
        """Return the bytes of a value on one device."""
        aval = self.body.avals[value]
        shape, size = getattr(aval, "shape", ()), nbytes(aval)
        spec = self._specs.get(value)
        if not spec or not size or not self.world.mesh:
            return size
        one = size // math.prod(shape)
        cut = (-(-length // self.world.parts(axes)) for length, axes in zip(shape, spec, strict=True))
        return math.prod(cut) * one

    def waiting(self, values: Sequence[int | None]) -> tuple[int, int]:
        """Return the bytes of what a compiler sums together, before the sum, and of what comes of it after.

        It is one collective up to a size, or else the largest value.
        """
        found = {value: self.summed[value] for value in values if value is not None and value in self.summed}
        if not found:
            return 0, 0
        if sum(found.values()) > _TOGETHER:
            largest = max(found, key=lambda value: found[value])
            return int(max(_TOGETHER, found[largest])), self.bytes_of(largest)
        return int(sum(found.values())), sum(map(self.bytes_of, found))

    def does(self, step: Step, axes: Sequence[str]) -> None:
        """Note the mesh axes that share the work of a step out."""
        self._work[step.outs[0]] = 1 / self.world.parts(axes)

    def work_share(self, step: Step) -> float:
        """Return which part of the work of a step one device does."""
        return self._work.get(step.outs[0], 1.0)


_TOGETHER = 30 << 20
"""Bytes of collectives that XLA puts together by default."""
_KEEPS_WEIGHT = frozenset({
    "broadcast_in_dim", "concatenate", "convert_element_type", "dynamic_slice", "expand_dims", "reshape",
    "sharding_constraint", "slice", "squeeze", "stack", "transpose", "unstack",
})  # fmt: skip


def moved(world: World, before: Spec, after: Spec, aval: Any) -> None:
    """Note what is sent when a value that lies as ``before`` is to lie as ``after``."""
    old = {axis: at for at, axes in enumerate(before) for axis in axes}
    new = {axis: at for at, axes in enumerate(after) for axis in axes}
    kept = [axis for axis in old if new.get(axis) == old[axis]]
    gathered = [axis for axis in old if axis not in new]
    turned = [axis for axis in old if axis in new and new[axis] != old[axis]]
    part = nbytes(aval) / world.parts(kept)
    if world.parts([*gathered, *turned]) > 1:
        world.held += part / world.parts(turned)
    if gathered:
        world.send("all-gather", gathered, part / world.parts(turned))
    if turned:
        world.send("all-to-all", turned, part / world.parts(turned))


def without_repeats(spec: Sequence[tuple[str, ...]]) -> Spec:
    """Return a spec in which each mesh axis is used once: where it is met first."""
    seen: set[str] = set()
    found: list[tuple[str, ...]] = []
    for axes in spec:
        own = tuple(axis for axis in axes if axis not in seen)
        seen.update(own)
        found.append(own)
    return tuple(found)


class Sum(NamedTuple):
    """A sum over mesh axes that a value has come out of."""

    axes: tuple[str, ...]
    size: float
    at: tuple[tuple[str, ...], float]


def reshaped(world: World, before: Sequence[int], after: Sequence[int], spec: Spec) -> Spec:
    """Return how a value lies after a reshape: the first of several axes that become one, or that one becomes."""
    result: list[tuple[str, ...]] = [()] * len(after)
    i = j = 0
    while i < len(before) and j < len(after):
        first, second, left, right = i, j, before[i], after[j]
        i, j = i + 1, j + 1
        while left != right and (i < len(before) or j < len(after)):
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            elif j < len(after):
                right, j = right * after[j], j + 1
            else:
                break
        into = next((at for at in range(second, j) if after[at] > 1), second)
        for source in range(first, i):
            if spec[source] and after[into] % world.parts(spec[source]) == 0:
                result[into] = spec[source]
                break
    return tuple(result)


def _backwards(step: Step, asked: Spec, state: Placement) -> Spec | None:
    """Return how the operand of a step that only moves numbers must lie, if the result must lie as ``asked``."""
    before = step.eqn.invars[0].aval
    if step.name == "transpose":
        found = dict(zip(step.eqn.params["permutation"], asked, strict=True))
        return tuple(found[at] for at in range(len(asked)))
    if step.name == "reshape":
        return reshaped(state.world, step.eqn.outvars[0].aval.shape, before.shape, asked)
    if step.name == "unstack":
        axis = step.eqn.params.get("axis", 0)
        return (*asked[:axis], (), *asked[axis:])
    if step.name in ("squeeze", "reduce_sum"):
        rest = iter(asked)
        gone = {at % len(before.shape) for at in step.eqn.params.get("dimensions", step.eqn.params.get("axes"))}
        return tuple(() if at in gone else next(rest) for at in range(len(before.shape)))
    if step.name in ("dynamic_slice", "slice"):
        extents = zip(before.shape, step.eqn.outvars[0].aval.shape, asked, strict=True)
        return tuple(axes if length == new else () for length, new, axes in extents)
    same = getattr(before, "shape", None) == step.eqn.outvars[0].aval.shape
    if same and step.name in ("convert_element_type", "copy", "mul", "div", "neg", "add_any", "sharding_constraint"):
        return asked
    return None
