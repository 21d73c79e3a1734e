"""``Repeat``: one blueprint as many layers, stored in two ways and run in two ways, with one result.

*Stored*: each layer by itself (``h_0``, ``h_1``, ..., as a loop over blocks has them in Flax, with the same initial
values), or all layers stacked (``h``, with a leading layer axis). The variables that are given decide;
``batiste.tree.stack_layers`` and ``unstack_layers`` turn one into the other. ``init`` makes layers.

*Run*: as one ``jax.lax.scan``, whose compile time does not grow with depth, or as a loop in Python. Within a trace the
loop traces its block once and puts it into the program for each layer. Outside of a trace both run layer by layer,
since there is nothing to compile.

A block that is traced once for all layers is a pure function of what differs from layer to layer: variables, inputs,
fields, and the numbers that the names of the layers contribute to random keys. The names are why dropout in layer 7 is
that of ``h_7`` in every way of running; a first, abstract run finds which numbers the block asks for (``LayerName``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp

from batiste._arguments import mapping, whole_number
from batiste.core import Frame, LayerName, Scope, add_axis, remove_axis, stack, unstack
from batiste.errors import (
    NameInUseError,
    RepeatBlockError,
    RepeatCarryError,
    RepeatInputError,
    RepeatLayersError,
)
from batiste.lift import broadcast
from batiste.module import Blueprint, Module, bound_copy, nowrap
from batiste.shard import PARTITION_NAME

__all__ = ["Repeat"]

_Place: TypeAlias = tuple[str, ...]
"""The collection, the path within the layer and the name of a variable."""

Block: TypeAlias = Module | Callable[[], Module]
Run: TypeAlias = Literal["scan", "loop"]


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
      run: ``"scan"`` or ``"loop"``.
      in_axes: for all inputs, or for each, ``broadcast`` (the default: each layer gets it whole) or 0 (each layer gets
        its entry of the leading axis).
      has_outputs: whether the block returns a pair of carry and output. ``Repeat`` then returns the carry and the
        outputs, stacked: ``[layers, ...]``.
      fields: values for fields of the block that differ from layer to layer: for each name an array or a sequence with
        an entry for each layer. The block sees an entry as an array.
      remat: whether what the block computes is computed again for gradients in place of being kept; a function is
        a policy of ``jax.checkpoint_policies``.
      unroll: how many repetitions one turn of the compiled scan takes.

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
        if self.run not in ("scan", "loop"):
            raise RepeatBlockError(path="Repeat", problem=f"run={self.run!r} is neither 'scan' nor 'loop'")
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
        parent = self.parent
        if isinstance(parent, Blueprint):
            if parent._state.in_setup and self.name is None:
                return
            scope = cast("Scope", self._child_scope(parent).parent)
            again = parent._state.takes_names_again
        elif isinstance(parent, Scope):
            scope, again = parent, False
        else:
            return
        self.__dict__["scope"] = scope
        for number in range(self.length):
            name = self.layer_name(number)
            if not again and scope.name_reserved(name):
                raise NameInUseError(
                    kind="a layer of Repeat", name=name, path=scope.path_text, holder="another variable or submodule"
                )
            scope.push(name, reuse=True)
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


class _Slice(NamedTuple):
    """What differs from layer to layer, for one layer or with a leading axis for those at one place of the pattern.

    Attributes:
      variables: by collection, the variables at and below the layer.
      inputs: the inputs of which each layer has its own entry.
      fields: values of fields.
      row: the numbers that its name contributes to random keys.
    """

    variables: dict[str, Any]
    inputs: list[Any]
    fields: dict[str, Any]
    row: Any = None


class _Call:
    """One call of a ``Repeat``."""

    def __init__(
        self, repeat: Repeat, scope: Scope, carry: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        scope.check_open()
        self.repeat, self.scope, self.frame = repeat, scope, scope.frame
        self.blocks, self.n, self.length = repeat.blocks, cast("int", repeat.n), repeat.length
        self.period = len(self.blocks)
        self.names = [repeat.layer_name(number) for number in range(self.length)]
        self.carry, self.kwargs = carry, kwargs
        self.shared, self.own_inputs = self._split(inputs)
        self.fields = {
            name: self._entries(value, f"the field {name!r}") for name, value in (repeat.fields or {}).items()
        }
        self.is_stacked: dict[str, bool] = {}

    def result(self) -> Any:
        """Run the layers."""
        if self.frame.initializing:
            carry, outputs = self._in_place()
        else:
            places = self._variables()
            is_traced = self.frame.is_tracing
            run = self._layer_by_layer if not is_traced else self._scan if self.repeat.run == "scan" else self._loop
            carry, outputs = run(places)
        return (carry, outputs) if self.repeat.has_outputs else carry

    # --- what differs from layer to layer

    def _split(self, inputs: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        """Return inputs that are given whole, and those with an entry for each layer; None in place of the others."""
        axes: Any = self.repeat.in_axes
        each = tuple(cast("Sequence[Any]", axes)) if isinstance(axes, tuple | list) else (axes,) * len(inputs)
        if len(each) != len(inputs) or any(not (axis is broadcast or axis == 0) for axis in each):
            problem = (
                f"in_axes={axes!r} does not say broadcast or 0 for each of the {len(inputs)} inputs after the carry"
            )
            raise RepeatInputError(path=self.scope.path_text, problem=problem)
        shared = [value if axis is broadcast else None for axis, value in zip(each, inputs, strict=True)]
        own = [
            None if axis is broadcast else jax.tree.map(self._entries, value)
            for axis, value in zip(each, inputs, strict=True)
        ]
        self.is_own = [axis is not broadcast for axis in each]
        return shared, own

    def _entries(self, value: Any, what: str = "an input") -> Any:
        array = jnp.asarray(value)
        if array.ndim == 0 or array.shape[0] != self.length:
            problem = f"{what} has shape {array.shape} in place of {self.length} entries, one for each layer, in front"
            raise RepeatInputError(path=self.scope.path_text, problem=problem)
        return array

    def _variables(self) -> list[Any]:
        """Return the variables for each place of the pattern by collection: a list of layers, or stacked."""
        name = self.repeat.stack_name
        held = self.scope.variables_in(True)
        places: list[dict[str, Any]] = [{} for _ in self.blocks]
        for collection, node in held.items():
            self.is_stacked[collection] = name in node
            if name in node:
                stacked = remove_axis(node[name], 0, {PARTITION_NAME: None})
                self._check_stacked(collection, stacked)
                for place in range(self.period):
                    places[place][collection] = _every(stacked, place, self.period)
                continue
            for place in range(self.period):
                layers = [node.get(self.names[number]) for number in self._numbers(place)]
                if any(layer is not None for layer in layers):
                    self._check_equal(collection, place, layers)
                    places[place][collection] = layers
        return places

    def _numbers(self, place: int) -> range:
        """Return the numbers of the layers at one place of the pattern."""
        return range(place, self.length, self.period)

    def _check_stacked(self, collection: str, tree: Any) -> None:
        for path, leaf in _by_path(tree).items():
            if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != self.length:
                place = _text(collection, self.scope.path, self.repeat.stack_name, path)
                raise RepeatLayersError(
                    path=self.scope.path_text,
                    problem=f"{place} has shape {jnp.shape(leaf)} in place of a leading axis of {self.length} layers",
                )

    def _check_equal(self, collection: str, place: int, layers: list[Any]) -> None:
        """Raise ``RepeatLayersError`` unless layers have the same paths and shapes."""
        numbers = list(self._numbers(place))
        first = _by_path(layers[0])
        for number, layer in zip(numbers, layers, strict=True):
            found = _by_path(layer)
            for path in [*first, *found]:
                if path in first and path in found and jnp.shape(first[path]) == jnp.shape(found[path]):
                    continue
                sides = [
                    f"has shape {jnp.shape(side[path])} in {self.names[index]}" if path in side
                    else f"is missing in {self.names[index]}"
                    for side, index in ((first, numbers[0]), (found, number))
                ]  # fmt: skip
                raise RepeatLayersError(
                    path=self.scope.path_text,
                    problem=f"{_text(collection, self.scope.path, '*', path)} {sides[0]}, but {sides[1]}",
                )

    def _layer(self, places: list[Any], number: int) -> _Slice:
        """Return what one layer differs in."""
        place, turn = number % self.period, number // self.period
        variables: dict[str, Any] = {
            collection: layers[turn] if isinstance(layers, list) else _entry(layers, turn)
            for collection, layers in places[place].items()
        }
        inputs = _entry(self.own_inputs, number)
        return _Slice(variables, inputs, {name: value[number] for name, value in self.fields.items()})

    def _stacked(self, places: list[Any], place: int) -> _Slice:
        """Return what the layers at one place of the pattern differ in, with a leading axis."""
        variables: dict[str, Any] = {
            collection: stack(cast("list[Any]", layers)) if isinstance(layers, list) else layers
            for collection, layers in places[place].items()
        }
        inputs = _every(self.own_inputs, place, self.period)
        fields = {name: _every(value, place, self.period) for name, value in self.fields.items()}
        return _Slice(variables, inputs, fields)

    # --- one layer

    def _arguments(self, own: list[Any]) -> list[Any]:
        return [mine if is_own else whole for mine, whole, is_own in zip(own, self.shared, self.is_own, strict=True)]

    def _block(self, number: int, fields: dict[str, Any]) -> Module:
        block = self.blocks[number % self.period]
        return block.clone(name=self.names[number], **fields)

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
        if jax.tree.structure(result) != jax.tree.structure(carry) or _avals(result) != _avals(carry):
            raise RepeatCarryError(path=path, given=_shapes(result), expected=f"{_shapes(carry)}, which it was given")
        return result, outputs

    def _in_place(self) -> tuple[Any, Any]:
        """Run layer by layer over the variables as they are: ``init`` notes each variable where it is made."""
        carry, outputs = self.carry, list[Any]()
        for number, name in enumerate(self.names):
            layer = self._layer([{} for _ in self.blocks], number)
            block = bound_copy(self._block(number, layer.fields), self.scope.push(name, reuse=True))
            carry, output = self._checked(number, carry, block(carry, *self._arguments(layer.inputs), **self.kwargs))
            outputs.append(output)
        return carry, stack(outputs)

    def _pure(
        self, number: int, name: str, layer: _Slice, carry: Any, counters: Any
    ) -> tuple[Any, Any, dict[_Place, Any]]:
        """Run one layer as a function of arrays; return its carry, its output and the variables that it wrote."""
        path = (*self.scope.path, self.names[number])
        variables = {collection: self._around(collection, path) for collection in self.frame.variables}
        for collection, tree in layer.variables.items():
            node = variables[collection]
            for step in path[:-1]:
                node = node[step]
            node[path[-1]] = tree
        frame = Frame(variables, {}, mutable=self.frame.mutable, key_scheme=self.frame.key_scheme, counters=counters)
        if isinstance(name, LayerName):
            name.row = layer.row
        streams, above = self.scope.start
        scope = self.scope.push(self.names[number], reuse=True).rebuild(frame, {path: (streams, (*above, name))})
        block = bound_copy(self._block(number, layer.fields), scope)
        try:
            result = block(carry, *self._arguments(layer.inputs), **self.kwargs)
        finally:
            frame.is_open = False
            if isinstance(name, LayerName):
                name.row = None  # no tracer outlives its trace
        written: dict[_Place, Any] = {}
        for collection, *rest in frame.written:
            node = frame.variables[collection]
            for step in rest:
                node = node[step]
            written[collection, *rest[len(path) :]] = node
        carry, output = self._checked(number, carry, result)
        return carry, output, written

    def _around(self, collection: str, path: tuple[str, ...]) -> dict[str, Any]:
        """Return the variables of a collection without those of the layer, for messages that say what is there."""
        found = dict(self.frame.variables[collection])
        node = found
        for step in path[:-1]:
            node[step] = node = dict(node.get(step, {}))
        node.pop(path[-1], None)
        return found

    # --- all layers

    def _layer_by_layer(self, places: list[Any]) -> tuple[Any, Any]:
        """Run layer by layer, each under its own name: outside of a trace."""
        carry, outputs, written = self.carry, list[Any](), list[Any]()
        for number, name in enumerate(self.names):
            carry, output, wrote = self._pure(number, name, self._layer(places, number), carry, self.frame.counters)
            outputs.append(output)
            written.append(wrote)
        self._publish(written)
        return carry, stack(outputs)

    def _traced_bodies(self, places: list[Any]) -> tuple[list[Callable[..., Any]], list[Any]]:
        """Return for each place of the pattern its layer as a pure function, and the numbers for the random keys."""
        before = _copied(self.frame.counters)
        names = [LayerName([self.names[number] for number in self._numbers(place)]) for place in range(self.period)]
        ended: list[Any] = [None] * self.period
        policy = self.repeat.remat

        def body(place: int) -> Callable[..., Any]:
            def run(layer: _Slice, carry: Any) -> Any:
                counters = _copied(before)
                result = self._pure(place, names[place], layer, carry, counters)
                ended[place] = counters
                return result

            if policy is False:
                return run
            is_scan = self.repeat.run == "scan"
            remat = cast("Any", jax.checkpoint)
            return remat(run, policy=None if policy is True else policy, prevent_cse=not is_scan)

        bodies = [body(place) for place in range(self.period)]
        tables: list[Any] = [None] * self.period
        if self.scope.start[0]:
            for place in range(self.period):
                jax.eval_shape(bodies[place], self._layer(places, place), self.carry)
                tables[place] = names[place].table()
                self._count(place, ended[place])
        return bodies, tables

    def _count(self, place: int, counters: dict[tuple[str, ...], dict[str, int]]) -> None:
        """Count for all layers at one place of the pattern the keys that the body has drawn for one of them."""
        path = (*self.scope.path, self.names[place])
        for drawn, counts in counters.items():
            if drawn[: len(path)] == path:
                for number in self._numbers(place):
                    self.frame.counters[*path[:-1], self.names[number], *drawn[len(path) :]] = dict(counts)

    def _loop(self, places: list[Any]) -> tuple[Any, Any]:
        """Put the block, traced once, into the program for each layer."""
        bodies, tables = self._traced_bodies(places)
        places = [
            {name: layers if isinstance(layers, list) else unstack(layers, self.n) for name, layers in place.items()}
            for place in places
        ]
        jitted: list[Any] = [jax.jit(body) for body in bodies]
        carry, outputs, written = self.carry, list[Any](), list[Any]()
        for number in range(self.length):
            place, turn = number % self.period, number // self.period
            table = tables[place]
            layer = self._layer(places, number)._replace(row=None if table is None else table[turn])
            carry, output, wrote = jitted[place](layer, carry)
            outputs.append(output)
            written.append(wrote)
        self._publish(written)
        return carry, stack(outputs)

    def _scan(self, places: list[Any]) -> tuple[Any, Any]:
        bodies, tables = self._traced_bodies(places)
        steps = [self._stacked(places, place)._replace(row=tables[place]) for place in range(self.period)]

        def step(carry: Any, layers: list[_Slice]) -> tuple[Any, Any]:
            outputs, written = list[Any](), list[Any]()
            for body, layer in zip(bodies, layers, strict=True):
                carry, output, wrote = body(layer, carry)
                outputs.append(output)
                written.append(wrote)
            return carry, (outputs, written)

        carry, (outputs, written) = jax.lax.scan(step, self.carry, steps, length=self.n, unroll=self.repeat.unroll)
        self._publish_stacked(written)
        return carry, jax.tree.map(_interleaved, *outputs)

    # --- what the layers wrote

    def _publish(self, written: list[dict[_Place, Any]]) -> None:
        """Store what the layers wrote, given layer by layer."""
        stacked: dict[_Place, list[Any]] = {}
        for number, values in enumerate(written):
            for (collection, *rest), value in values.items():
                if self._stores_stacked(collection):
                    stacked.setdefault((collection, *rest), []).append(value)
                else:
                    self._put(collection, self.names[number], rest, value)
        for (collection, *rest), values in stacked.items():
            self._check_complete(collection, rest, len(values))
            self._put_stacked(collection, rest, stack(values))

    def _publish_stacked(self, written: list[dict[_Place, Any]]) -> None:
        """Store what the layers wrote, given for each place of the pattern with a leading axis."""
        stacked: dict[_Place, list[Any]] = {}
        for place, values in enumerate(written):
            for (collection, *rest), value in values.items():
                if self._stores_stacked(collection):
                    stacked.setdefault((collection, *rest), []).append(value)
                    continue
                numbers = self._numbers(place)
                for number, entry in zip(numbers, unstack(value, len(numbers)), strict=True):
                    self._put(collection, self.names[number], rest, entry)
        for (collection, *rest), values in stacked.items():
            self._check_complete(collection, rest, len(values) * self.n)
            self._put_stacked(collection, rest, jax.tree.map(_interleaved, *values))

    def _stores_stacked(self, collection: str) -> bool:
        """Return whether a collection is kept stacked: as it was, and a new one as the parameters are."""
        return self.is_stacked.get(collection, self.is_stacked.get("params", False))

    def _check_complete(self, collection: str, rest: Sequence[str], count: int) -> None:
        if count != self.length:
            place = "/".join((collection, *self.scope.path, self.repeat.stack_name, *rest))
            raise RepeatLayersError(
                path=self.scope.path_text, problem=f"{place} is written by {count} layers of {self.length}"
            )

    def _put_stacked(self, collection: str, rest: Sequence[str], value: Any) -> None:
        self._put(collection, self.repeat.stack_name, rest, add_axis(value, 0, {PARTITION_NAME: None}))

    def _put(self, collection: str, name: str, rest: Sequence[str], value: Any) -> None:
        self.scope.publish({(collection, *self.scope.path, name, *rest): value})


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
        state = parent._state
        if state.children.get(name) is made:
            state.children.pop(name)
            parent.scope.release(name)
            prefix, _, number = name.rpartition("_")
            if prefix == type(made).__name__ and state.cursors.get(prefix) == int(number) + 1:
                state.cursors[prefix] -= 1
    return made.clone(name=None) if parent is not None or name is not None else made


def _period(blocks: tuple[Module, ...]) -> int:
    """Return the length of the shortest pattern that ``blocks`` repeats."""
    for period in range(1, len(blocks) + 1):
        if len(blocks) % period == 0 and blocks == blocks[:period] * (len(blocks) // period):
            return period
    return len(blocks)


def _every(tree: Any, place: int, period: int) -> Any:
    """Return the entries of the leading axis of every leaf that stand at one place of a pattern."""

    def take(leaf: Any) -> Any:
        return jnp.reshape(leaf, (leaf.shape[0] // period, period, *leaf.shape[1:]))[:, place]

    return tree if period == 1 else jax.tree.map(take, tree)


def _interleaved(*arrays: Any) -> Any:
    """Return ``[layers, ...]`` of arrays ``[repetitions, ...]``, one for each place of the pattern."""
    if len(arrays) == 1:
        return arrays[0]
    return jnp.reshape(jnp.stack(arrays, 1), (-1, *arrays[0].shape[1:]))


def _by_path(tree: Any) -> dict[Any, Any]:
    pairs = cast("Any", jax.tree_util.tree_leaves_with_path(tree))
    return dict(pairs)


def _entry(tree: Any, index: int) -> Any:
    """Return one entry of the leading axis of every leaf."""

    def take(leaf: Any) -> Any:
        return leaf[index]

    return jax.tree.map(take, tree)


def _copied(counters: Mapping[tuple[str, ...], Mapping[str, int]]) -> dict[tuple[str, ...], dict[str, int]]:
    return {path: dict(counts) for path, counts in counters.items()}


def _avals(tree: Any) -> list[Any]:
    return [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]


def _shapes(tree: Any) -> str:
    leaves = [f"{jnp.result_type(leaf).name}{list(jnp.shape(leaf))}" for leaf in jax.tree.leaves(tree)]
    return ", ".join(leaves) or "nothing"


def _text(collection: str, path: tuple[str, ...], name: str, rest: Any) -> str:
    return "/".join((collection, *path, name, *(str(getattr(key, "key", key)) for key in rest)))
