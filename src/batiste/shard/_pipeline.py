"""Pipeline parallelism: consecutive layers on the devices of a mesh axis, and a batch that goes through in parts.

Each device of the axis is a *stage* and runs an equal share of the layers. A batch is cut into *microbatches*. In every
*tick* each stage runs its layers on one microbatch and hands the result to the next stage (GPipe,
https://arxiv.org/abs/1811.06965); with ``s`` stages and ``m`` microbatches there are ``m + s - 1`` ticks, in ``s - 1``
of which a stage has nothing of its own to do. Gradients go through the same ticks backwards.

Inputs and results lie in equal parts on the stages. A part that a stage needs comes to it from its neighbour one tick
at a time, as microbatches between layers do, so that neighbours sending to each other is all that a pipeline sends.

Layers that draw random numbers must draw others for each part of the batch, and the same ones whatever the number of
stages. So rows of a part are then neighbours in the batch, and a step is told the number of its part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from batiste._arguments import refused, text, whole_number
from batiste.errors import PipelineError
from batiste.shard._context import LogicalRules, get_logical_axis_rules, logical_axis_rules

__all__ = ["Pipeline"]

Step = Callable[..., tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A way to run layers: in stages along a mesh axis. It is called as ``jax.lax.scan`` is.

    ``nn.Repeat(block, 24, run=shard.Pipeline(microbatches=8))`` runs the layers of a model so. The mesh is the one in
    context, ``jax.set_mesh``; with none the layers are a scan, with equal results. Other axes of the mesh, such as
    ``tensor``, cut the layers as they would without a pipeline.

    Nothing is sent but from neighbour to neighbour, and the sums of gradients along ``batch`` once, where the carry
    comes in with its first axis cut along the stages and ``batch``, ``jax.P(("stage", "data"))``, and the layers are
    stacked with the leading axis cut along the stages, ``{"**/h/**": jax.P("stage")}``.

    Attributes:
      microbatches: into how many parts a batch is cut: a multiple of the number of stages. Rows that lie on one device
        stay there.
      axis: the mesh axis of the stages, an Auto one.
      batch: the mesh axes that cut the rows of a microbatch; those that the mesh does not have do not count.

    Raises:
      ArgumentError: if ``microbatches`` is no whole number, ``axis`` no text, or ``batch`` no tuple of texts.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import shard
      >>> pipeline = shard.Pipeline(microbatches=2)
      >>> layer = lambda x, w: (jnp.tanh(x @ w), None)
      >>> pipeline(layer, jnp.ones((4, 3)), jnp.ones((6, 3, 3)))[0].shape
      (4, 3)
    """

    microbatches: int
    axis: str = "stage"
    batch: tuple[str, ...] = ("data",)

    def __post_init__(self) -> None:
        """Check the arguments."""
        count = whole_number(self.microbatches, "microbatches", "Pipeline", low=1)
        object.__setattr__(self, "microbatches", count)  # a plain number, however it was spelt
        text(self.axis, "axis", "Pipeline", what="the name of a mesh axis")
        given: Any = self.batch
        names = cast("tuple[Any, ...]", given) if isinstance(given, tuple) else (None,)
        if not all(isinstance(each, str) and each != self.axis for each in names):
            what = "a tuple of names of mesh axes, without that of the stages"
            raise refused(given, "batch", "Pipeline", what, 'Write batch=("data",).')

    def __call__(self, step: Step, carry: Any, layers: Any, *whole: Any, numbered: bool = False) -> tuple[Any, None]:
        """Run a batch through all layers.

        Args:
          step: from the carry, one layer and ``whole`` to the next carry, of the same shapes, and None. It closes over
            no arrays that gradients are taken of.
          carry: arrays ``[batch, ...]``; ``step`` gets ``batch / microbatches`` rows.
          layers: a tree of arrays ``[layers, ...]``.
          *whole: arrays that every layer gets whole, with every microbatch.
          numbered: whether ``step`` gets ``part=`` as well, for random numbers: an ``int32`` array, or None where the
            batch is one part. A batch has ``microbatches`` consecutive parts, times what ``batch`` cuts each into.

        Returns:
          The carry after the last layer, and None.

        Raises:
          ArgumentError: if ``step`` is no function.
          PipelineError: if the mesh has no such axis, or layers, rows or microbatches cannot be shared out.
        """
        if not callable(step):
            raise refused(step, "step", "Pipeline", "a function of the carry and a layer")
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty and not (numbered and self.microbatches > 1):
            return cast("tuple[Any, None]", lax.scan(_with(step, whole, numbered), carry, layers))
        if mesh.empty:
            return self._one_by_one(step, carry, layers, whole), None
        stages = self._stages(mesh, carry, layers)
        batch = tuple(axis for axis in self.batch if axis in mesh.shape)
        manual: tuple[str, ...] = self.axis, *batch

        def run(rows: Any, layers: Any, whole: Any) -> Any:
            # What devices have alike differs from here on, so that its gradients are summed once, after all ticks.
            varying = cast("Any", lax.pcast)
            own = varying(layers, batch, to="varying") if batch else layers
            step_here = _with(step, varying(whole, manual, to="varying"), numbered)
            with logical_axis_rules(_without(manual)):
                return self._ticks(step_here, rows, own, stages, batch if numbered else None)

        rows, by_stage = jax.P(manual), jax.P(self.axis)
        mapped = jax.shard_map(run, in_specs=(rows, by_stage, jax.P()), out_specs=rows, axis_names=set(manual))
        return mapped(carry, layers, whole), None

    def _stages(self, mesh: Any, carry: Any, layers: Any) -> int:
        """Return the number of stages, once everything can be shared out among them."""
        if self.axis not in mesh.shape:
            axes = ", ".join(map(repr, mesh.shape))
            raise PipelineError(problem=f"the mesh has the axes {axes}, and none is {self.axis!r}")
        stages = mesh.shape[self.axis]
        if self.microbatches % stages:
            raise PipelineError(problem=f"{self.microbatches} microbatches are no multiple of {stages} stages")
        for leaf in jax.tree.leaves(layers):
            count = jnp.shape(leaf)[0] if jnp.ndim(leaf) else 1
            if count % stages:
                raise PipelineError(problem=f"{count} layers are not the same number for each of {stages} stages")
        self._check_rows(carry, self.microbatches * math.prod(mesh.shape.get(axis, 1) for axis in self.batch))
        return stages

    def _check_rows(self, carry: Any, parts: int) -> None:
        for leaf in jax.tree.leaves(carry):
            if jnp.ndim(leaf) == 0 or len(leaf) % parts:
                problem = f"an array {jnp.shape(leaf)} of the carry cannot be cut into {self.microbatches} microbatches"
                raise PipelineError(problem=f"{problem}, {parts} parts in all")

    def _one_by_one(self, step: Step, carry: Any, layers: Any, whole: tuple[Any, ...]) -> Any:
        """Run one part of the batch after the other through all layers, with the numbers that stages would draw."""
        self._check_rows(carry, self.microbatches)

        def run(given: tuple[Any, Any]) -> Any:
            rows, part = given
            return cast("Any", lax.scan(_with(step, whole, True, part), rows, layers))[0]

        parts = _map(lambda leaf: leaf.reshape(self.microbatches, -1, *leaf.shape[1:]), carry)
        made = cast("Any", lax.map)(run, (parts, jnp.arange(self.microbatches)))
        return _map_both(lambda leaf, row: leaf.reshape(row.shape), made, carry)

    def _ticks(self, step: Callable[..., Any], rows: Any, layers: Any, stages: int, batch: Any) -> Any:
        """Run what one stage does.

        Args:
          step: from the carry and one layer to the next carry.
          rows: the stage's part of the batch.
          layers: its own layers.
          stages: how many stages there are.
          batch: the mesh axes that cut microbatches, where parts have numbers; else None.
        """
        held, stage = self.microbatches // stages, lax.axis_index(self.axis)
        # Rows of one microbatch are not neighbours, so that a mesh axis that cuts the rows cuts each microbatch; those
        # of a part with a number are, so that what is drawn for a row does not depend on the number of stages.
        at = 1 if batch is None else 0
        cut = (-1, held) if batch is None else (held, -1)

        def tick(state: Any, number: Any) -> tuple[Any, None]:
            # ``slots`` hold this stage's part of the inputs, and then of the results: where the first stage takes an
            # input, the others move theirs one stage ahead, and the last stage puts a result.
            slots, came = state
            slot, of = number % held, cast("Any", lax.dynamic_index_in_dim)
            put = cast("Any", lax.dynamic_update_index_in_dim)
            due = _map(lambda leaf: of(leaf, slot, at, keepdims=False), slots)
            step_here = step if batch is None else self._numbered(step, number - stage, held, batch)
            result, outputs = lax.scan(step_here, _choose(stage == 0, due, came), layers)
            if jax.tree.leaves(outputs):
                raise PipelineError(problem="the layers return outputs beside the carry")
            next_due = _choose(stage == stages - 1, result, self._sent(due, stages, -1))
            slots = _map_both(lambda leaf, new: put(leaf, new, slot, at), slots, next_due)
            return (slots, self._sent(result, stages, 1)), None

        slots = _map(lambda leaf: leaf.reshape(*cut, *leaf.shape[1:]), rows)
        # A stage without a microbatch works on rows that are real, since zeros may have gradients that are no numbers.
        first = _map(lambda leaf: leaf[0] if at == 0 else leaf[:, 0], slots)
        (slots, _), _ = lax.scan(tick, (slots, first), jnp.arange(self.microbatches + stages - 1))
        return _map_both(lambda leaf, row: jnp.roll(leaf, 1 - stages, at).reshape(row.shape), slots, rows)

    def _numbered(self, step: Callable[..., Any], number: Any, held: int, batch: tuple[str, ...]) -> Step:
        """Return the step of microbatch ``number``, with the number of this device's part of it."""
        sizes = [lax.axis_size(axis) for axis in batch]
        if self.microbatches * math.prod(sizes) == 1:
            return step
        mine = lax.axis_index(batch) if batch else 0
        home, slot = number // held, number % held  # the stage that has its rows, and where
        part = (home * math.prod(sizes) + mine) * held + slot

        def bound(carry: Any, layer: Any) -> tuple[Any, Any]:
            return step(carry, layer, part)

        return bound

    def _sent(self, tree: Any, stages: int, by: int) -> Any:
        """Send to the stage before or after; the one at the end gets zeros, which it does not use."""
        pairs = [(stage, stage + by) for stage in range(stages) if 0 <= stage + by < stages]
        return _map(lambda leaf: lax.ppermute(leaf, self.axis, pairs), tree)


def _without(axes: Collection[str]) -> LogicalRules:
    """Return the rules in effect, for inside of a map over ``axes``: constraints leave these alone."""

    def kept(mesh_axes: Any) -> Any:
        listed: tuple[str, ...] = (mesh_axes,) if isinstance(mesh_axes, str) else tuple(mesh_axes or ())
        return tuple(axis for axis in listed if axis not in axes) or None

    return tuple((name, kept(mesh_axes)) for name, mesh_axes in get_logical_axis_rules())


def _with(step: Step, whole: tuple[Any, ...], numbered: bool, part: Any = None) -> Step:
    """Return a step of the carry, one layer, and the number of a part, ``part`` if it is not given."""

    def bound(carry: Any, layer: Any, part: Any = part) -> tuple[Any, Any]:
        more = {"part": part} if numbered else {}
        return step(carry, layer, *whole, **more)

    return bound


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    return cast("Any", jax.tree.map)(function, tree)


def _map_both(function: Callable[[Any, Any], Any], tree: Any, other: Any) -> Any:
    return cast("Any", jax.tree.map)(function, tree, other)


def _choose(condition: Any, one: Any, other: Any) -> Any:
    return _map_both(lambda a, b: lax.select(condition, a, b), one, other)
