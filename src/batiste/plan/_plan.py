"""What a training step of a model needs and takes on a mesh, worked out from shapes.

``plan`` puts together the bytes of the state by its rules (``batiste.shard.explain``), the life of activations and the
work of the step (``_costs.py``), and what a chip can do (``_chips.py``). Compute, memory and network are taken to
overlap, so that the step takes as long as the slowest of them: a bound from below, by which choices compare.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from batiste._arguments import function
from batiste.core import unbox
from batiste.errors import InvalidInstanceModuleError
from batiste.plan._chips import Chip, chip
from batiste.plan._compile import Compiled, compiled, platform_of
from batiste.plan._costs import Cost, Costs, costs
from batiste.plan._lints import Lint, lints
from batiste.plan._names import Pass
from batiste.plan._placement import Spec
from batiste.plan._program import exported
from batiste.plan._sizes import as_bytes, as_inputs, as_optimizer
from batiste.plan._trace import State, Traced, other_remat, trace
from batiste.shard import Explanation, MeshSizes, PathRules, Rules, explain, logical_axis_rules, mesh_sizes, preset

__all__ = ["Memory", "Plan", "entries_of", "plan"]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
      params: the parameters.
      gradients: their gradients.
      opt_state: the state of the optimiser.
      collections: every other collection.
      batch: the inputs.
      activations: the most that lives beside these at one time, as the model is.
      activations_saved: the same where all that is computed is kept for the gradients.
      activations_remat: the same where each turn of a loop is computed again.

    Example:
      >>> from batiste import nn
      >>> from batiste.plan import plan
      >>> found = plan(nn.Dense(4), "float32[2,3]", optimizer="sgd", remat=False)
      >>> found.memory.params, found.memory.gradients, found.memory.batch
      (64, 64, 24)
    """

    params: int
    gradients: int
    opt_state: int
    collections: int
    batch: int
    activations: int
    activations_saved: int
    activations_remat: int

    @property
    def state(self) -> int:
        """The bytes of parameters, optimiser and other collections."""
        return self.params + self.opt_state + self.collections

    @property
    def fragmentation(self) -> int:
        """What XLA loses between buffers of different sizes, which it places in one block.

        It is taken to be 3% of gradients and activations; 0.8 to 6.5% in steps of ``python -m benchmarks.compiled``.
        """
        return (self.gradients + self.activations) * 3 // 100

    @property
    def total(self) -> int:
        """The bytes of everything."""
        return self.state + self.gradients + self.batch + self.activations + self.fragmentation


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training step needs and takes.

    Attributes:
      name: the class of the model.
      mesh: the size of each mesh axis.
      rules: the name of the rules.
      chip: the chip.
      memory: bytes on each device.
      leaves: each leaf of the state: where it lies, why, and its bytes.
      costs: the gradients: FLOPs, bytes, collectives by module.
      update: the optimiser's part.
      lints: what could be better.
      compiled: what XLA makes of the step, where it was asked for.

    Example:
      >>> from batiste import nn
      >>> from batiste.plan import plan
      >>> found = plan(nn.Dense(4), "float32[2,3]", hbm="1GB", remat=False)
      >>> found.name, found.devices, found.fits
      ('Dense', 1, True)
    """

    name: str
    mesh: Mapping[str, int]
    rules: str
    chip: Chip
    memory: Memory
    leaves: Explanation
    costs: Costs
    update: Costs | None
    lints: tuple[Lint, ...]
    compiled: Compiled | None = None

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return math.prod(self.mesh.values())

    @property
    def fits(self) -> bool:
        """Whether it fits in the memory of a device."""
        return self.memory.total <= self.chip.memory

    @property
    def flops(self) -> float:
        """The FLOPs of a step on all devices together, with what is computed twice."""
        return self.costs.total.flops

    @property
    def model_flops(self) -> float:
        """The FLOPs of a step without what is computed twice."""
        by_pass = self.costs.by_pass()
        return sum(by_pass.get(each, Cost()).flops for each in (Pass.FORWARD, Pass.BACKWARD))

    def collective_bytes(self) -> dict[str, float]:
        """Return what one device sends in a step, by mesh axes: ``{"fsdp": ..., "data+fsdp": ...}``."""
        found: dict[str, float] = {}
        for part in (self.costs, self.update):
            for each in part.collectives if part is not None else ():
                name = "+".join(each.axes)
                found[name] = found.get(name, 0) + each.bytes
        return found

    def seconds(self) -> dict[str, float]:
        """Return how long a step takes at best for arithmetic, memory and network."""
        moved = self.costs.total.device_bytes + 2 * self.memory.state + self.memory.gradients
        return {
            "compute": self.costs.total.device_flops / self.chip.flops,
            "memory": moved / self.chip.bandwidth,
            "network": sum(self.collective_bytes().values()) / self.chip.links,
        }

    @property
    def step_seconds(self) -> float:
        """How long a step takes at best."""
        return max(self.seconds().values())

    @property
    def limit(self) -> str:
        """What takes longest: ``compute``, ``memory`` or ``network``."""
        times = self.seconds()
        return max(times, key=lambda each: times[each])

    @property
    def mfu(self) -> float:
        """The share of the chips' arithmetic that the model's own FLOPs are, at best."""
        whole = self.devices * self.chip.flops * self.step_seconds
        return self.model_flops / whole if whole else 0.0

    def dominating(self, count: int = 8) -> list[tuple[str, int]]:
        """Return the leaves of the state with the most bytes on a device; equal layers together."""
        found: dict[str, int] = {}
        for leaf in self.leaves.leaves:
            name = "/".join(_without_number(part) for part in leaf.path.split("/"))
            found[name] = found.get(name, 0) + leaf.device_bytes
        return sorted(found.items(), key=lambda each: -each[1])[:count]


def plan(
    model: Any,
    *inputs: Any,
    optimizer: Any = "adamw",
    mesh: MeshSizes | Mesh | AbstractMesh | None = None,
    rules: PathRules | str | None = None,
    hbm: str | float | None = None,
    chip: str = "h100",
    loss: Callable[..., Any] | None = None,
    remat: bool = True,
    compile: bool = False,  # noqa: A002 - what it is called on the command line
    target: str | None = None,
    **options: Any,
) -> Plan:
    """Return what a training step of a model needs and takes; no array is made.

    Args:
      model: a Module.
      *inputs: what it is called with: arrays, shapes, or words such as ``"tokens:int32[8,4096]"``.
      optimizer: an Optax transformation, the name of one (``"adamw"``), or None.
      mesh: the size of each axis, as ``"data=32,tensor=8"``, or a mesh; None for one device.
      rules: how parameters lie: the name of a preset, a ``shard.Rules``, or a dict of rules; None for whole ones.
      hbm: the memory of a device, in bytes or as ``"80GB"``; None for that of the chip.
      chip: a name of ``plan.CHIPS``.
      loss: from outputs and inputs to a number; None for one that fits the outputs.
      remat: whether to work activations out under other decisions about remat as well, which takes twice as long more.
      compile: whether to compile the step as well, for as many simulated devices: ``Plan.compiled``.
      target: a slice of TPUs to compile for, such as ``"tpu-v5e:4x4"``; None for the CPU.
      **options: keyword arguments of the model's call: ``train=True``.

    Raises:
      ArgumentError: an argument is none of these.
      MissingPackageError: ``libtpu``, which compiles for a ``target``, is not installed.
      PlanCompileError: XLA does not compile the step.
      ShardError: the rules do not fit the model or the mesh.

    Example:
      >>> from batiste import nn
      >>> from batiste.plan import plan
      >>> layer, x = nn.Dense(64), "float32[32,64]"
      >>> found = plan(layer, x, mesh="fsdp=4", rules="fsdp", hbm="80GB")
      >>> found.fits, found.memory.params, found.flops
      (True, 4352, 524288)
    """
    if isinstance(model, type) or not hasattr(model, "init"):
        raise InvalidInstanceModuleError(call="init", given=repr(model))
    if loss is not None:
        function(loss, "loss", "plan")
    named = _mesh(mesh)
    table = _rules(rules)
    chosen = _chip(chip, hbm)
    platform_of(target)  # before what takes long
    shapes = as_inputs(inputs)
    made = _entered(named, table, lambda: trace(model, shapes, as_optimizer(optimizer), loss=loss, options=options))
    found = planned(type(model).__name__, made, named, table, chosen, remat=remat)
    if not compile:
        return found
    return dataclasses.replace(found, compiled=_compiled(found, made, named, table, target))


def planned(name: str, traced: Traced, mesh: AbstractMesh, rules: Any, chosen: Chip, *, remat: bool = True) -> Plan:
    """Return the plan of a step that has been traced."""
    sizes = {str(axis): int(size) for axis, size in mesh.shape.items()}
    state = State(params=traced.params, opt_state=traced.opt_state, collections=traced.collections)
    leaves = explain(state, rules, mesh, default=PartitionSpec(), unmatched="ignore")
    specs = {leaf.path: entries_of(leaf.spec, len(leaf.shape)) for leaf in leaves.leaves}
    of_params, of_optimizer, of_rest, of_batch = _placed(leaves, traced, rules)
    given = [*of_params, *of_rest, *of_batch]
    scattered = _gradient_specs(specs, of_params)

    def cost(program: Any) -> Costs:
        arguments = len(program.jaxpr.invars)
        own = [*given, *(((),) * len(aval.shape) for aval in program.in_avals[len(given) :])][:arguments]
        marks = [at < len(of_params) for at in range(arguments)]
        wanted: list[Spec | None] = [None] * len(program.jaxpr.outvars)
        wanted[1 : 1 + len(of_params)] = scattered
        return costs(program, sizes, own, wanted, marks)

    gradients = sum(
        _bytes(leaf, spec, sizes) for leaf, spec in zip(jax.tree.leaves(traced.params), scattered, strict=True)
    )
    found = cost(traced.gradients)
    peaks = [found.peak_bytes] * 3
    if remat:
        peaks[1:] = [cost(other_remat(traced, saves=saves)).peak_bytes for saves in (True, False)]
    update = None
    if traced.update is not None:
        after: list[Spec | None] = [*of_params, *of_optimizer]
        update = costs(traced.update, sizes, [*scattered, *of_optimizer, *of_params], after)
    parts = {"params": 0, "opt_state": 0, "collections": 0}
    for leaf in leaves.leaves:
        parts[leaf.path.partition("/")[0]] += leaf.device_bytes
    batch = sum(_bytes(each, spec, sizes) for each, spec in zip(traced.batch, of_batch, strict=True))
    alive = [max(0, peak - gradients) for peak in peaks]
    memory = Memory(parts["params"], gradients, parts["opt_state"], parts["collections"], batch, *alive)
    words = rules.name if isinstance(rules, Rules) else "rules"
    return Plan(name, sizes, words, chosen, memory, leaves, found, update, tuple(lints(leaves, rules, found)))


class _Placed(NamedTuple):
    """How what goes into a step lies, leaf by leaf."""

    params: list[Spec]
    opt_state: list[Spec]
    collections: list[Spec]
    batch: list[Spec]


def _placed(leaves: Explanation, traced: Traced, rules: Any) -> _Placed:
    found: dict[str, list[Spec]] = {"params": [], "opt_state": [], "collections": []}
    for leaf in leaves.leaves:
        found[leaf.path.partition("/")[0]].append(entries_of(leaf.spec, len(leaf.shape)))
    return _Placed(**found, batch=[_batch_spec(each, rules, leaves.mesh) for each in traced.batch])


def _compiled(plan: Plan, traced: Traced, mesh: AbstractMesh, rules: Any, target: str | None) -> Compiled:
    placed = _placed(plan.leaves, traced, rules)
    program, donated = exported(traced, mesh, *placed, platform=platform_of(target))
    return compiled(program, plan.mesh, donated, plan.costs.by_path(), target)


def _mesh(given: Any) -> AbstractMesh:
    if isinstance(given, AbstractMesh):
        return given
    sizes = dict(given.shape) if isinstance(given, Mesh) else mesh_sizes(given) if given is not None else {"data": 1}
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def _rules(given: Any) -> Any:
    return preset("data" if given is None else given) if given is None or isinstance(given, str) else given


def _chip(name: str, hbm: Any) -> Chip:
    return chip(name, memory=None if hbm is None else as_bytes(hbm, "hbm"))


def _entered(mesh: AbstractMesh, rules: Any, run: Callable[[], Traced]) -> Traced:
    """Trace under the mesh, so that constraints on activations are in the program."""
    names = rules.activations if isinstance(rules, Rules) else ()
    kept = tuple((name, _known(axes, mesh)) for name, axes in names)
    with jax.sharding.use_abstract_mesh(mesh), logical_axis_rules(kept):
        return run()


def _known(axes: Any, mesh: AbstractMesh) -> Any:
    """Return the mesh axes that there are."""
    listed: tuple[Any, ...] = () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
    return tuple(axis for axis in listed if axis in mesh.axis_names) or None


def entries_of(spec: PartitionSpec, ndim: int) -> Spec:
    """Return for each of ``ndim`` axes the mesh axes that a spec cuts it along."""
    entries: list[Any] = [*spec, *(None,) * (ndim - len(spec))]
    return tuple(() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in entries)


def _batch_spec(leaf: Any, rules: Any, sizes: Mapping[str, int]) -> Spec:
    """Cut the first axis as the rules say for a batch; without a word along every axis whose name is usual for it."""
    given = rules.batch if isinstance(rules, Rules) else PartitionSpec(("data", "fsdp"))
    spec = entries_of(PartitionSpec(*tuple(given)[: len(leaf.shape)]), len(leaf.shape))
    found: list[tuple[str, ...]] = []
    for length, axes in zip(leaf.shape, spec, strict=True):
        kept = tuple(axis for axis in axes if axis in sizes)
        found.append(kept if length % math.prod(sizes[axis] for axis in kept) == 0 else ())
    return tuple(found)


def _gradient_specs(specs: Mapping[str, Spec], of_params: list[Spec]) -> list[Spec]:
    """Return how gradients lie when they are used: as the moments of their parameters, if there are any."""
    moments = {path: spec for path, spec in specs.items() if path.startswith("opt_state/")}
    found: list[Spec] = []
    for (path, _), own in zip(((p, s) for p, s in specs.items() if p.startswith("params")), of_params, strict=True):
        ending = f"/{path.partition('/')[2]}"
        moment = next((spec for at, spec in moments.items() if at.endswith(ending) and len(spec) == len(own)), own)
        found.append(moment)
    return found


def _bytes(leaf: Any, spec: Spec, sizes: Mapping[str, int]) -> int:
    held = unbox(leaf)
    parts = math.prod(sizes.get(axis, 1) for axes in spec for axis in axes)
    return cast("int", math.prod(held.shape) * held.dtype.itemsize // parts)


def _without_number(part: str) -> str:
    name, _, number = part.rpartition("_")
    return f"{name}_*" if name and number.isdecimal() else part
