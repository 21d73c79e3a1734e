"""What a traced program costs, module by module: FLOPs, bytes moved, memory for intermediate values, collectives.

``costs`` walks over a program as ``jax.make_jaxpr`` gives it, so no array is made. The body of a loop counts as often
as it runs, a branch as the dearest one. With a mesh and the specs of the arguments it follows how every value lies
(``_propagate.py``), and counts what one device does besides what all do.

*Bytes moved* are estimated as for a compiler that computes what goes number by number where it is read: operations that
read or write memory in any case (products, convolutions, lookups, sums) count with operands and results, and the rest
is free. *Peak bytes* follow the life of each value that has to be in memory, in the order of the program.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from batiste.core import flops, nbytes, scan_extents
from batiste.plan._flat import Body, Step, flat, inner
from batiste.plan._lives import peak_of
from batiste.plan._names import Pass, Path, Place
from batiste.plan._operations import elementwise_operations, is_fused, touches_part
from batiste.plan._placement import Collective, Spec, World, moved, whole
from batiste.plan._propagate import propagated

__all__ = ["Cost", "Costs", "costs"]


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What a part of a program costs.

    Attributes:
      flops: of matrix products and convolutions, on all devices together.
      operations: numbers that are computed one by one, on all devices together.
      bytes: read and written, estimated, on all devices together.
      device_flops: the FLOPs of one device.
      device_bytes: the bytes of one device.

    Example:
      >>> import jax
      >>> from batiste.plan import costs
      >>> x = jax.ShapeDtypeStruct((4, 4), "float32")
      >>> total = costs(jax.make_jaxpr(lambda x: x @ x)(x)).total
      >>> total.flops, total.bytes
      (128, 192)
    """

    flops: float = 0
    operations: float = 0
    bytes: float = 0
    device_flops: float = 0
    device_bytes: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.operations + other.operations,
            self.bytes + other.bytes,
            self.device_flops + other.device_flops,
            self.device_bytes + other.device_bytes,
        )

    @property
    def intensity(self) -> float:
        """FLOPs for each byte that is moved."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a program costs, by module and pass.

    Attributes:
      rows: for the path of each module and each pass what its own equations cost, without the modules below.
      collectives: what devices send each other.
      peak_bytes: the most memory that values between arguments and results take at one time on a device, results among
        them.
      specs: how each result lies.
      times: how often the equations of a module run: 80 for the body of a loop over 80 layers.
      unknown_loops: modules with a loop whose length is known only when it runs; its body counts once.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> from batiste.plan import Pass, costs
      >>> model, x = nn.Dense(4), jnp.ones((2, 3))
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> found = costs(jax.make_jaxpr(model.apply)(variables, x))
      >>> found.by_pass()[Pass.FORWARD].flops, found.unknown_loops
      (48, ())
    """

    rows: Mapping[Place, Cost]
    collectives: tuple[Collective, ...]
    peak_bytes: int
    specs: tuple[Spec, ...]
    times: Mapping[Path, float]
    unknown_loops: tuple[Path, ...]

    @property
    def total(self) -> Cost:
        """The cost of the whole program."""
        return sum(self.rows.values(), Cost())

    def by_pass(self) -> dict[Pass, Cost]:
        """Return the cost of each pass."""
        found: dict[Pass, Cost] = {}
        for (_, which), cost in self.rows.items():
            found[which] = found.get(which, Cost()) + cost
        return found

    def by_path(self, depth: int | None = None) -> dict[Path, Cost]:
        """Return the cost of each module with all that is below it, the root ``()`` first.

        Args:
          depth: how many names a path has at most; None for any.
        """
        found: dict[Path, Cost] = {(): Cost()}
        for (path, _), cost in self.rows.items():
            for length in range(1 + (len(path) if depth is None else min(depth, len(path)))):
                found[path[:length]] = found.get(path[:length], Cost()) + cost
        return found


def costs(program: Any, mesh: Mapping[str, int] | None = None, specs: Sequence[Spec] | None = None,
          wanted: Sequence[Spec | None] | None = None, weights: Sequence[bool] | None = None) -> Costs:  # fmt: skip
    """Return what a traced program costs.

    Args:
      program: what ``jax.make_jaxpr`` returns.
      mesh: the size of each mesh axis; None for one device.
      specs: for each argument, for each of its axes, the mesh axes that cut it; None for arguments that lie whole.
      wanted: the same for results that must lie so; None where it is left open.
      weights: which arguments are parameters: where a mesh axis cuts both operands of a product, these are gathered.

    Example:
      >>> import jax
      >>> from batiste.plan import costs
      >>> x = jax.ShapeDtypeStruct((4, 4), "float32")
      >>> loop = lambda x: jax.lax.fori_loop(0, 5, lambda _, y: y @ y, x)
      >>> costs(jax.make_jaxpr(loop)(x)).total.flops
      640
    """
    body = flat(program)
    walk = _Walk(World(dict(mesh or {})))
    given = list(specs) if specs is not None else [whole(body.avals[value]) for value in body.ins]
    marks = list(weights) if weights is not None else [False] * len(body.ins)
    asked = list(wanted) if wanted is not None else [None] * len(body.outs)
    placed, peak = walk.run(body, given, asked, marks, ((), Pass.FORWARD), 1, with_results=True)
    world = walk.world
    world.at = ((), 1)
    for value, before, after in zip(body.outs, placed, asked, strict=True):
        if value is not None and after is not None:
            moved(world, before, after, body.avals[value])
    return Costs(walk.rows, tuple(world.collectives()), peak, tuple(placed), walk.times, tuple(walk.unknown))


class _Walk:
    """A walk over a program and the programs in it, which adds up what everything costs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[Place, Cost] = {}
        self.times: dict[Path, float] = {}
        self.unknown: list[Path] = []

    def run(
        self,
        body: Body,
        specs: Sequence[Spec],
        wanted: Sequence[Spec | None],
        weights: Sequence[bool],
        around: Place,
        times: float,
        *,
        with_results: bool = False,
        turns: tuple[int, int] | None = None,
    ) -> tuple[list[Spec], int]:
        """Return how the results lie, and the most bytes between arguments and results.

        Args:
          body: the program.
          specs: how the arguments lie.
          wanted: how results must lie.
          weights: which arguments are parameters.
          around: the module and pass that the program runs in.
          times: how often it runs.
          with_results: whether memory for the results counts.
          turns: for the body of a loop, its first argument and its first result that are entries of stacked arrays.
        """
        state = self.world.body(body, specs, wanted, weights)
        peaks = [0] * len(body.steps)
        for index, step in enumerate(body.steps):
            place = _within(around, step.place)
            self.world.at = (place[0], times)
            nested = _NESTED.get(step.name)
            if nested is None:
                self.world.held = 0
                state.place(step, propagated(state, step))
                peaks[index] = int(self.world.held)
                self._add(state, step, place, times)
            else:
                peaks[index] = nested(self, state, step, place, times)
        results = [state.result(value) for value in body.outs]
        peak = peak_of(body, state.bytes_of, peaks, with_results=with_results, turns=turns)
        if turns is not None:  # what is summed at the end of a turn, before and after
            peak = max(peak, 2 * state.waiting(body.outs[turns[1] :])[0])
        elif with_results:
            waiting, held = state.waiting(body.outs)
            own = {value for value in body.outs if value is not None}.difference(body.ins)
            made = sum(map(state.bytes_of, own))
            peak = max(peak, made - held + 2 * waiting)
        return results, peak

    def _add(self, state: Any, step: Step, place: Place, times: float) -> None:
        done = flops(step.eqn)
        single = elementwise_operations(step.eqn)
        moved = device_moved = 0
        if not is_fused(step.name):
            operands = [value for value in step.ins if value is not None]
            avals = [state.body.avals[value] for value in (*operands, *step.outs)]
            if touches_part(step.name):
                results = max(step.outs, key=lambda value: nbytes(state.body.avals[value]))
                part = min(map(nbytes, avals[1:-1]), default=0) if "update" in step.name else nbytes(avals[-1])
                part = nbytes(avals[2]) if step.name.startswith("scatter") and len(avals) > 2 else part
                share = state.share(results)
                moved, device_moved = 2 * part, 2 * part * share
            else:
                moved = sum(map(nbytes, avals))
                device_moved = sum(state.bytes_of(value) for value in (*operands, *step.outs))
        share = state.work_share(step) if done else 1.0
        cost = Cost(done * times, single * times, moved * times, done * share * times, device_moved * times)
        self._count(place, cost, times)

    def _count(self, place: Place, cost: Cost, times: float) -> None:
        before = self.rows.get(place)
        self.rows[place] = cost if before is None else before + cost
        self.times[place[0]] = max(self.times.get(place[0], 0), times)

    def merge(self, other: _Walk, factor: int = 1) -> None:
        """Take over what a walk of its own has found, on each of ``factor`` devices."""
        for place, cost in other.rows.items():
            shared = dataclasses.replace(
                cost, flops=cost.flops * factor, operations=cost.operations * factor, bytes=cost.bytes * factor
            )
            self.rows[place] = self.rows.get(place, Cost()) + shared
        for path, times in other.times.items():
            self.times[path] = max(self.times.get(path, 0), times)
        self.unknown += other.unknown
        self.world.take(other.world)


def _within(around: Place, place: Place) -> Place:
    """Return the place of a step of a program that itself runs at ``around``."""
    path, which = place
    return (*around[0], *path), around[1] if which is Pass.FORWARD else which


# --- programs within a program


def _scan(walk: _Walk, state: Any, step: Step, place: Place, times: float) -> int:
    params = step.eqn.params
    body = flat(params["jaxpr"])
    (consts, carries), length = scan_extents(params) or (0, 0), params["length"]
    given = [state.spec(value, var.aval) for value, var in zip(step.ins, step.eqn.invars, strict=True)]
    weights = [state.is_weight(value) for value in step.ins]
    last = consts + carries
    inside = [*given[:last], *(spec[1:] for spec in given[last:])]
    asked = [state.wanted(value) for value in step.outs]
    wanted = [*asked[:carries], *(None if spec is None else spec[1:] for spec in asked[carries:])]
    for _ in range(3 if walk.world.mesh else 0):  # until what goes round lies as it came
        trial = _Walk(World(walk.world.mesh))
        results, _ = trial.run(body, inside, wanted, weights, place, 1)
        if results[:carries] == inside[consts:last]:
            break
        inside[consts:last] = results[:carries]
    turns = last, carries
    results, peak = walk.run(body, inside, wanted, weights, place, times * length, turns=turns)
    state.place(step, [*results[:carries], *(((), *spec) for spec in results[carries:])])
    return peak


def _while(walk: _Walk, state: Any, step: Step, place: Place, times: float) -> int:
    params = step.eqn.params
    of_condition, consts = params["cond_nconsts"], params["body_nconsts"]
    body = flat(params["body_jaxpr"])
    given = [state.spec(value, var.aval) for value, var in zip(step.ins, step.eqn.invars, strict=True)]
    values = given[of_condition:]
    weights = [state.is_weight(value) for value in step.ins][of_condition:]
    length = _trips(params, step.eqn.invars[of_condition + consts :])
    if length is None:
        walk.unknown.append(place[0])
    results, peak = walk.run(body, values, [None] * len(body.outs), weights, place, times * (length or 1))
    state.place(step, results)
    return peak


def _trips(params: Any, carried: Sequence[Any]) -> int | None:
    """Return how often a loop runs that counts from one number in the program to another; None for any other."""
    condition, body = inner(params["cond_jaxpr"]), inner(params["body_jaxpr"])
    if len(condition.eqns) != 1 or condition.eqns[0].primitive.name != "lt":
        return None
    counter, end = condition.eqns[0].invars
    own = condition.invars[params["cond_nconsts"] :]
    at = next((index for index, var in enumerate(own) if var is counter), None)
    start = None if at is None else getattr(carried[at], "val", None)
    if at is None or start is None or not hasattr(end, "val"):
        return None
    counted = body.invars[params["body_nconsts"] + at]
    by = [eqn for eqn in body.eqns if body.outvars[at] in eqn.outvars]
    adds = len(by) == 1 and by[0].primitive.name == "add" and by[0].invars[0] is counted
    stride = getattr(by[0].invars[1], "val", None) if adds else None
    return max(0, math.ceil((int(end.val) - int(start)) / int(stride))) if stride else None


def _cond(walk: _Walk, state: Any, step: Step, place: Place, times: float) -> int:
    given = [state.spec(value, var.aval) for value, var in zip(step.ins, step.eqn.invars, strict=True)][1:]
    weights = [state.is_weight(value) for value in step.ins][1:]
    tried: list[tuple[_Walk, list[Spec], int]] = []
    for branch in step.eqn.params["branches"]:
        trial = _Walk(World(walk.world.mesh))
        body = flat(branch)
        results, peak = trial.run(body, given, [state.wanted(value) for value in step.outs], weights, place, times)
        tried.append((trial, results, peak))
    dearest, results, _ = max(tried, key=lambda each: _weight(each[0].rows.values()))
    walk.merge(dearest)
    state.place(step, results)
    return max(peak for *_, peak in tried)


def _weight(found: Iterable[Cost]) -> tuple[float, float, float]:
    total = sum(found, Cost())
    return total.flops, total.bytes, total.operations


def _shard_map(walk: _Walk, state: Any, step: Step, place: Place, times: float) -> int:
    params = step.eqn.params
    manual = {str(axis): params["mesh"].shape[axis] for axis in params.get("newly_manual_axes", params["mesh"].shape)}
    left = {axis: size for axis, size in walk.world.mesh.items() if axis not in manual}
    trial = _Walk(World(left, manual))
    body = flat(params["jaxpr"])
    given = [state.spec(value, var.aval) for value, var in zip(step.ins, step.eqn.invars, strict=True)]
    inside = [tuple(tuple(axis for axis in axes if axis in left) for axes in spec) for spec in given]
    weights = [state.is_weight(value) for value in step.ins]
    _, peak = trial.run(body, inside, [None] * len(body.outs), weights, place, times)
    walk.merge(trial, math.prod(manual.values()))
    found = [
        walk.world.spec_of(spec, len(var.aval.shape))
        for spec, var in zip(params["out_specs"], step.eqn.outvars, strict=True)
    ]
    state.place(step, found)
    return peak


_NESTED = MappingProxyType({"scan": _scan, "while": _while, "cond": _cond, "shard_map": _shard_map})
