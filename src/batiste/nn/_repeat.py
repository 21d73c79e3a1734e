"""``Repeat``: one blueprint as many layers, stored in two ways and run in two ways, with one result.

It is a layout of a ``Region``, like the lifted transforms: ``_layers.py`` says how the layers are stored, one by one or
stacked, and this file how they are run: as one ``jax.lax.scan``, whose compile time does not grow with depth where the
layers are kept stacked, or as a loop in Python. Within a trace the loop traces its block once and puts it into the
program for each layer. Outside of a trace both run layer by layer, since there is nothing to compile.

A block that is traced once for all layers is a pure function of what differs from layer to layer: variables, inputs,
fields, and the numbers that the names of the layers contribute to random keys. The names are why dropout in layer 7 is
that of ``h_7`` in every way of running; a first, abstract run finds which numbers the block asks for (``LayerName``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import mapping, whole_number
from batiste.core import LayerName, Scope, lies_as, stack
from batiste.errors import (
    NameInUseError,
    PipelineError,
    RepeatBlockError,
    RepeatCarryError,
    RepeatInputError,
)
from batiste.lift import broadcast
from batiste.module import Blueprint, Module, Place, Region, bound_copy, nowrap
from batiste.nn._layers import Layers, entry, every, interleaved
from batiste.shard import Pipeline

__all__ = ["Repeat"]

Block: TypeAlias = Module | Callable[[], Module]
Run: TypeAlias = Literal["scan", "loop"] | Pipeline


class Repeat(Module):
    """The same block again and again, each layer with variables of its own.

    It stands for ``for i in range(n): x = Block(name=f"{name}_{i}")(x)``, and has that loop's variables, random keys
    and initial values. It is no level of its own: the layers lie beside the other children of the module that makes
    it. Without a name they are called ``layers_0``, ... if it is the outermost module, else ``Repeat_0_0``, ...

    Attributes:
      block: the block, a Module (or a function that makes one), called as ``block(carry, *inputs, **kwargs)``. What it
        returns has the shapes and dtypes of ``carry``. A sequence of blocks is a pattern: ``[local, local, globe]``.
      n: how often the block, or the pattern, is repeated; by default as often as the sequence repeats itself:
        ``[local, local, globe] * 8`` is a pattern of three, eight times.
      run: ``"scan"``, ``"loop"``, or a ``shard.Pipeline``: in stages along a mesh axis, with the rows of the carry in
        microbatches. Inputs are then given whole to each, and layers write no variables. Where they draw random
        numbers, each part of the batch is as if it were applied on its own with the streams folded by its number.
      in_axes: for all inputs, or for each, ``broadcast`` (the default: each layer gets it whole) or 0 (each layer gets
        its entry of the leading axis).
      has_outputs: whether the block returns a pair of carry and output. ``Repeat`` then returns the carry and the
        outputs, stacked: ``[layers, ...]``.
      fields: values for fields of the block that differ from layer to layer: for each name an array or a sequence with
        an entry for each layer. The block sees an entry as an array.
      remat: whether what the block computes is computed again for gradients in place of being kept; a function is
        a policy of ``jax.checkpoint_policies``.
      unroll: how many repetitions one turn of the compiled scan takes; of no effect under the other ways of running.

    Example:
      >>> from batiste import nn
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.Repeat(nn.Dense(8), 12, name="h")(x)  # parameters h_0/kernel, ..., h_11/bias
    """

    block: Block | Sequence[Block]
    n: int | None = None
    run: Run = "scan"
    in_axes: Any = broadcast
    has_outputs: bool = False
    fields: Mapping[str, Any] | None = None
    remat: bool | Callable[..., bool] = False
    unroll: int = 1

    def __post_init__(self) -> None:
        """Take the blocks over from the module that is being run, and find the pattern.

        Raises:
          ArgumentError: if ``n``, ``fields`` or ``unroll`` is none of the above.
          RepeatBlockError: if there is no block, a block is no Module, or ``n`` or ``run`` is none of the above.
        """
        values = self.__dict__
        given: Any = self.block
        is_pattern = isinstance(given, Sequence)
        blocks = tuple(map(_template, cast("Sequence[Block]", given) if is_pattern else (given,)))
        if self.n is None:
            period = _period(blocks)
            values["n"], blocks = len(blocks) // period if period else 0, blocks[:period]
        values["n"] = whole_number(self.n, "n", "Repeat", low=None)
        if not blocks or values["n"] < 1:
            raise RepeatBlockError(path="Repeat", problem=f"it is given {len(blocks)} blocks and n={self.n!r}")
        if not isinstance(self.run, Pipeline) and self.run not in ("scan", "loop"):
            problem = f"run={self.run!r} is neither 'scan' nor 'loop' nor a shard.Pipeline"
            raise RepeatBlockError(path="Repeat", problem=problem)
        values["unroll"] = whole_number(self.unroll, "unroll", "Repeat", low=1)
        if self.fields is not None:
            mapping(self.fields, "fields", "Repeat", what="a mapping from fields of the block to entries")
        values["block"] = blocks if len(blocks) > 1 else next(iter(blocks))
        super().__post_init__()

    @property
    def blocks(self) -> tuple[Module, ...]:
        """The blocks of one repetition."""
        block: Any = self.block
        return cast("tuple[Module, ...]", block) if isinstance(block, tuple) else (block,)

    @property
    def length(self) -> int:
        """The number of layers."""
        return cast("int", self.n) * len(self.blocks)

    def layer_name(self, number: int) -> str:
        """Return the name of a layer: ``h_3``."""
        return f"{self.stack_name}_{number}"

    @property
    def stack_name(self) -> str:
        """The name under which the layers are stacked: ``h``."""
        return self.name or "layers"

    def _attach(self) -> None:
        scope = self._place()
        if scope is None:
            return
        if not isinstance(self.parent, Scope):
            scope = cast("Scope", scope.parent)
        self.__dict__["scope"] = scope
        for number in range(self.length):
            name = self.layer_name(number)
            if scope.name_reserved(name) and not scope.retakes:
                raise NameInUseError(
                    kind="a layer of Repeat", name=name, path=scope.path_text, holder="another variable or submodule"
                )
            scope.push(name, reuse=True, holder=_Layer)
        self._state.is_attached = self._state.is_set_up = True

    @nowrap
    def __call__(self, carry: Any, *inputs: Any, **kwargs: Any) -> Any:
        """Return the carry after the last layer; with ``has_outputs`` also the stacked outputs.

        Args:
          carry: arrays that go through the layers.
          *inputs: further inputs of every layer, see ``in_axes``.
          **kwargs: keyword arguments of every layer, given whole.

        Raises:
          RepeatCarryError: if a layer returns other shapes or dtypes than it got.
          RepeatInputError: if an input, or a field, has not one entry for each layer.
          RepeatLayersError: if the layers' variables differ in structure or shape, or some layers are missing.
        """
        return _Call(self, self._bound("__call__"), carry, inputs, kwargs).result()


class _Layer(Module):
    """Stands where a layer stands: what a ``Region`` is taken of."""


class _Slice(NamedTuple):
    """What differs from layer to layer, for one layer or with a leading axis for those at one place of the pattern.

    Attributes:
      variables: by collection, the variables at and below the layer.
      own: the inputs of which each layer has its own entry, None in place of the others, and the values of fields.
      row: the numbers that its name contributes to random keys.
    """

    variables: dict[str, Any]
    own: tuple[list[Any], dict[str, Any]]
    row: Any


Result: TypeAlias = tuple[Any, Any, dict[Place, Any]]
"""The carry and the output of a layer, and the variables that it wrote, by place within it."""


class _Call:
    """One call of a ``Repeat``."""

    def __init__(
        self, repeat: Repeat, scope: Scope, carry: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        scope.check_open()
        self.repeat, self.scope, self.carry, self.inputs, self.kwargs = repeat, scope, carry, inputs, kwargs
        self.blocks, self.period = repeat.blocks, len(repeat.blocks)
        self.names = [repeat.layer_name(number) for number in range(repeat.length)]
        self.layers = Layers(scope, repeat.stack_name, self.names, self.period)
        self.own = self._differing(inputs)
        self.tables: list[Any] = [None] * self.period  # for each place of the pattern, the rows of its layers
        self.part: Any = None  # the number of the part of the batch that is being run, folded into its random streams

    def result(self) -> Any:
        """Run the layers."""
        frame, is_loop = self.scope.frame, self.repeat.run == "loop"
        if frame.initializing:
            carry, outputs = self._one_by_one(self._in_place)
        else:
            self.layers.read()
            draws_by_part = isinstance(self.repeat.run, Pipeline) and self.scope.start[0]
            if not frame.is_tracing and not draws_by_part:
                carry, outputs = self._one_by_one(self._by_name)
            else:
                bodies = [self._body(place) for place in range(self.period)]
                carry, outputs = self._loop(bodies) if is_loop else self._scan(bodies)
        return (carry, outputs) if self.repeat.has_outputs else carry

    # --- what differs from layer to layer

    def _differing(self, inputs: tuple[Any, ...]) -> tuple[list[Any], dict[str, Any]]:
        """Return the inputs of which each layer has its own entry, None in place of the others, and the fields."""
        axes: Any = self.repeat.in_axes
        each = tuple(cast("Sequence[Any]", axes)) if isinstance(axes, tuple | list) else (axes,) * len(inputs)
        if len(each) != len(inputs) or any(not (axis is broadcast or axis == 0) for axis in each):
            problem = f"in_axes={axes!r} does not say broadcast or 0 for each of the {len(inputs)} inputs after the"
            raise RepeatInputError(path=self.scope.path_text, problem=f"{problem} carry")
        pairs = zip(inputs, each, strict=True)
        own = [None if axis is broadcast else jax.tree.map(self._entries, value) for value, axis in pairs]
        fields = self.repeat.fields or {}
        return own, {name: self._entries(value, f"the field {name!r}") for name, value in fields.items()}

    def _entries(self, value: Any, what: str = "an input") -> Any:
        array = jnp.asarray(value)
        if array.ndim == 0 or array.shape[0] != len(self.names):
            problem = f"{what} has shape {array.shape} in place of {len(self.names)} entries, one for each layer,"
            raise RepeatInputError(path=self.scope.path_text, problem=f"{problem} in front")
        return array

    def _slice(self, number: int) -> _Slice:
        table = self.tables[number % self.period]
        row = None if table is None else table[number // self.period]
        return _Slice(self.layers.one(number), entry(self.own, number), row)

    # --- one layer

    def _call_block(self, number: int, layer: _Slice, scope: Scope, carry: Any) -> Any:
        own, fields = layer.own
        block = self.blocks[number % self.period].clone(name=self.names[number], **fields)
        inputs = [whole if each is None else each for whole, each in zip(self.inputs, own, strict=True)]
        return bound_copy(block, scope)(carry, *inputs, **self.kwargs)

    def _checked(self, number: int, carry: Any, result: Any) -> tuple[Any, Any]:
        """Return carry and output of a layer.

        Raises:
          RepeatCarryError: if the carry is not like the one before.
        """
        path = f"{self.scope.path_text.rstrip('/')}/{self.names[number]}"
        outputs = None
        if self.repeat.has_outputs:
            if not isinstance(result, tuple) or len(cast("tuple[Any, ...]", result)) != 2:
                raise RepeatCarryError(path=path, given=_shapes(result), expected="a pair of carry and output")
            result, outputs = cast("tuple[Any, Any]", result)
        if jax.tree.structure(result) != jax.tree.structure(carry) or _shapes(result) != _shapes(carry):
            raise RepeatCarryError(path=path, given=_shapes(result), expected=f"{_shapes(carry)}, which it was given")
        return lies_as(result, carry), outputs

    def _in_place(self, number: int, carry: Any) -> Result:
        """Run one layer over the variables as they are: ``init`` notes each variable where it is made."""
        scope = self.scope.push(self.names[number], reuse=True)
        return *self._checked(number, carry, self._call_block(number, self._slice(number), scope, carry)), {}

    def _by_name(self, number: int, carry: Any) -> Result:
        """Run one layer under its own name: outside of a trace."""
        return self._run(self._region(number), number, self._slice(number), carry, self.names[number])

    def _region(self, number: int) -> Region:
        return Region.take(_Layer(parent=self.scope.push(self.names[number], reuse=True)), transform="Repeat")

    def _run(self, region: Region, number: int, layer: _Slice, carry: Any, name: str) -> Result:
        """Run one layer as a pure function; the numbers of its keys are those of ``name``."""
        streams, above = self.scope.start

        @nowrap
        def body(place: Module) -> Any:
            return self._call_block(number, layer, cast("Scope", place.scope), carry)

        if self.part is not None:
            streams = {
                stream: (jax.random.fold_in(key, self.part), numbers) for stream, (key, numbers) in streams.items()
            }
        starts = [(streams, (*above, name))]
        result, (written,) = region.run(body, ((layer.variables,),), region.streams, starts=starts)
        depth = 1 + len(region.scopes[0].path)
        return *self._checked(number, carry, result), {(p[0], *p[depth:]): value for p, value in written.items()}

    def _body(self, place: int) -> Callable[[_Slice, Any], Result]:
        """Return the layer at a place of the pattern as a pure function; note the rows of its layers' random keys."""
        region, numbers = self._region(place), self.layers.numbers(place)
        name = LayerName([self.names[number] for number in numbers])
        before = region.counts()
        ended = before

        def run(layer: _Slice, carry: Any) -> Result:
            nonlocal ended
            with region.counting_again():
                region.count_from(before)
                name.row = layer.row
                try:
                    return self._run(region, place, layer, carry, name)
                finally:
                    name.row = None  # no tracer outlives its trace
                    ended = region.counts()

        body, policy = run, self.repeat.remat
        if policy is not False:
            remat = cast("Any", jax.checkpoint)
            body = remat(run, policy=None if policy is True else policy, prevent_cse=self.repeat.run == "loop")
        if self.scope.start[0]:
            jax.eval_shape(body, self._slice(place), self.carry)
            self.tables[place] = name.table()
            path = (*self.scope.path, self.names[place])
            for drawn, count in ended.items():  # what one layer has drawn, all of them have
                if drawn[: len(path)] == path:
                    for number in numbers:
                        own = (*path[:-1], self.names[number], *drawn[len(path) :])
                        self.scope.frame.counters[own] = dict(count)
        return body

    # --- all layers

    def _one_by_one(self, run: Callable[[int, Any], Result]) -> tuple[Any, Any]:
        carry, outputs, written = self.carry, list[Any](), list[Any]()
        for number in range(len(self.names)):
            carry, output, wrote = run(number, carry)
            outputs.append(output)
            written.append(wrote)
        self.layers.publish(written, is_stacked=False)
        return carry, stack(outputs)

    def _loop(self, bodies: Sequence[Callable[[_Slice, Any], Result]]) -> tuple[Any, Any]:
        """Put the block, traced once, into the program for each layer."""
        self.layers.separate()
        jitted: list[Any] = [jax.jit(body) for body in bodies]
        return self._one_by_one(lambda number, carry: jitted[number % self.period](self._slice(number), carry))

    def _scan(self, bodies: Sequence[Callable[[_Slice, Any], Result]]) -> tuple[Any, Any]:
        steps = [
            _Slice(self.layers.stacked(place), every(self.own, place, self.period), table)
            for place, table in enumerate(self.tables)
        ]

        def step(carry: Any, layers: list[_Slice]) -> tuple[Any, Any]:
            outputs, written = list[Any](), list[Any]()
            for body, layer in zip(bodies, layers, strict=True):
                carry, output, wrote = body(layer, carry)
                outputs.append(output)
                written.append(wrote)
            return carry, (outputs, written)

        if isinstance(self.repeat.run, Pipeline):
            return self._pipeline(self.repeat.run, step, steps)
        length, unroll = self.repeat.n, self.repeat.unroll
        carry, (outputs, written) = jax.lax.scan(step, self.carry, steps, length=length, unroll=unroll)
        self.layers.publish(written, is_stacked=True)
        return carry, jax.tree.map(interleaved, *outputs)

    def _pipeline(self, run: Pipeline, step: Callable[..., Any], layers: list[_Slice]) -> tuple[Any, Any]:
        draws = any(table is not None and table.size for table in self.tables)
        alike = [None if mine is not None else given for given, mine in zip(self.inputs, self.own[0], strict=True)]
        leaves, structure = cast("tuple[list[Any], Any]", jax.tree.flatten((alike, self.kwargs)))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]

        def pure(carry: Any, layers: list[_Slice], *whole: Any, part: Any = None) -> tuple[Any, None]:
            given = dict(zip(places, whole, strict=True))
            inputs = [given.get(place, leaf) for place, leaf in enumerate(leaves)]
            self.inputs, self.kwargs = jax.tree.unflatten(structure, inputs)
            self.part = part
            try:
                carry, (outputs, written) = step(carry, layers)
            finally:
                self.part = None  # no tracer outlives its trace
            if any(written):
                found: set[Place] = {*itertools.chain(*written)}
                variables = ", ".join("/".join(place) for place in sorted(found))
                raise PipelineError(problem=f"{self.names[0]} writes {variables}")
            if jax.tree.leaves(outputs):
                raise PipelineError(problem=f"{self.names[0]} returns an output beside the carry")
            return carry, None

        return run(pure, self.carry, layers, *(leaves[place] for place in places), numbered=draws)


def _template(block: Any) -> Module:
    """Return a block that belongs to no module: taken back from the one in whose method it was written down.

    Raises:
      RepeatBlockError: if it is no Module.
    """
    made = block if isinstance(block, Blueprint) else block(parent=None) if isinstance(block, type) else block
    if not isinstance(made, Blueprint) and callable(made):
        made = made()
    if not isinstance(made, Module):
        raise RepeatBlockError(path="Repeat", problem=f"a block is an object of type {type(made).__name__}")
    parent, name = made.parent, made.name
    if isinstance(parent, Blueprint) and made.scope is not None and parent.scope is not None and name is not None:
        parent.scope.give_back(name, made)
    return made.clone(name=None) if parent is not None or name is not None else made


def _period(blocks: tuple[Module, ...]) -> int:
    """Return the length of the shortest pattern that ``blocks`` repeats; 0 if there are none."""
    count = len(blocks)
    return next((p for p in range(1, count + 1) if count % p == 0 and blocks == blocks[:p] * (count // p)), 0)


def _shapes(tree: Any) -> str:
    leaves = [f"{jnp.result_type(leaf).name}{list(jnp.shape(leaf))}" for leaf in jax.tree.leaves(tree)]
    return ", ".join(leaves) or "nothing"
