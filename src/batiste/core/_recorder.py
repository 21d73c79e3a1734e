"""The recorder: notes initial values during an abstract pass, and makes them afterwards.

While ``init`` traces a model abstractly, every variable that is entered comes here. The recorder traces its initialiser
once per distinct (initialiser, arguments), notes which variable wants it with which key, and hands the model a stand-in
of the right shape. ``make`` then runs one compiled program per distinct initialiser, once per variable; ``_draws`` says
what is shared among them, and what needs none.

Some values cannot be noted, since they depend on what happens in the pass: an initialiser that closes over an array of
the model, draws keys itself, or writes variables; a variable that is written again. These are left in the pass; the
caller finds them in the variables as tracers, and computes just them in a second pass.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste.core._boxes import add_axis
from batiste.core._draws import Arithmetic, draw_bits, fold_keys, is_fill, small_constants, split_off_bits
from batiste.core._fingerprint import Fingerprint, Valued, fingerprint, kept
from batiste.core._frame import Frame, HasEffects
from batiste.core._init_call import InitCall
from batiste.core._keys import fold_numbers, is_threefry
from batiste.core._programs import program_value
from batiste.core._stacking import unstack
from batiste.core._trace import call_jaxpr, current_trace, has_tracer, is_extended, is_tracer

if TYPE_CHECKING:
    from batiste.typing import Key

__all__ = ["Drawn", "Place", "Recorder", "Source", "replace_places"]

Drawn: TypeAlias = "tuple[Key, tuple[int, ...]]"
"""A base key, and the numbers to fold into it."""

Place: TypeAlias = tuple[str, ...]
"""The collection, the path and the name of a variable."""


class _Noted(Valued):
    """An initialiser as it was traced: what it makes, and whether it can be run later.

    Attributes:
      value: of the program, whatever the initialiser read when it was traced.
      is_known: whether the initialiser itself is known by value, so that it need not be traced again in this pass.
      closed_jaxpr: its trace, of a key and numbers to fold into it, or of nothing.
      treedef: the structure of what it returns.
      leaves: the leaves that are no arrays of the trace (numbers, NumPy arrays); None where there is one.
      is_pure: whether it depends on its arguments and its key alone.
    """

    __slots__ = ("closed_jaxpr", "is_known", "is_pure", "leaves", "treedef")

    def __init__(self, closed_jaxpr: Any, treedef: Any, leaves: tuple[Any, ...], *, is_known: bool) -> None:
        super().__init__(program_value(closed_jaxpr))
        self.closed_jaxpr, self.treedef, self.leaves, self.is_known = closed_jaxpr, treedef, leaves, is_known
        self.is_pure = not any(map(is_tracer, closed_jaxpr.consts))

    @property
    def size(self) -> int:
        """How many bytes it makes."""
        return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in self.closed_jaxpr.out_avals)

    def fill(self, arrays: list[Any]) -> Any:
        """Return the initialiser's value with ``arrays`` where the trace had arrays."""
        rest = iter(arrays)
        return jax.tree.unflatten(self.treedef, [next(rest) if leaf is None else leaf[0] for leaf in self.leaves])

    def is_like(self, other: _Noted) -> bool:
        """Return whether the other trace is the same program, around the same leaves."""
        return (
            self.is_pure
            and self.value == other.value
            and self.treedef == other.treedef
            and fingerprint(self.leaves) == fingerprint(other.leaves)
        )

    @property
    def is_constant(self) -> bool:
        return all(leaf is not None for leaf in self.leaves)

    def values(self, key: Key | None, numbers: Sequence[np.ndarray]) -> Iterator[list[Any]]:
        """Make the initialiser's arrays outside of a trace, once for each of ``numbers``, to be folded into the key.

        Yields:
          The arrays that the trace has; what is asked for next is made after the last is in the caller's hands.
        """
        fixed = small_constants(self.closed_jaxpr)
        if fixed is not None:
            yield from ([jax.device_put(value.copy()) for value in fixed] for _ in numbers)
            return
        arithmetic = None if key is None or not self.value.is_by_value else self._arithmetic(len(numbers[0]))
        bits = None if arithmetic is None else arithmetic.bits_for(len(numbers))
        keys = None if bits is None else fold_keys(key, np.stack(numbers))
        if arithmetic is None or bits is None or keys is None:
            draw = _drawer(self)
            yield from (draw(key, each) for each in numbers)
        else:
            yield from (arithmetic(draw_bits(each, bits)) for each in keys)

    def _arithmetic(self, folds: int) -> Arithmetic | None:
        split = split_off_bits(self.closed_jaxpr, folds)
        return None if split is None else Arithmetic(self.value, *split)


class Source(NamedTuple):
    """Where the value of a noted variable comes from.

    Attributes:
      noted: its initialiser.
      drawn: the base key and the numbers to fold into it; None if it takes no key.
      before: how many of the numbers are folded in before the key is split; None if it is not.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> frame, recorder, place = core.Frame({}, {}), core.Recorder([]), ("cache", "n")
      >>> enter = lambda: recorder.enter(frame, place, jnp.zeros, (3,), {}, drawn=None)
      >>> shape = jax.eval_shape(enter).shape
      >>> source = recorder.whence(place, {})
      >>> shape, source.drawn, source.before
      ((3,), None, None)
    """

    noted: _Noted
    drawn: Drawn | None
    before: int | None


class Recorder:
    """Notes the initial values of one abstract pass.

    Attributes:
      keys: the keys that will be there when values are made; what is drawn from another key cannot be noted.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> frame, recorder, place = core.Frame({}, {}), core.Recorder([]), ("cache", "n")
      >>> enter = lambda: recorder.enter(frame, place, jnp.zeros, (3,), {}, drawn=None)
      >>> jax.eval_shape(enter).shape, recorder.has_noted(place)
      ((3,), True)
      >>> recorder.make(grouped=False)[place].tolist()
      [0.0, 0.0, 0.0]
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(keys)
        self._key_ids = frozenset(map(id, self.keys))
        self._noted: dict[tuple[Fingerprint, int], list[_Noted]] = {}
        self._entries: dict[Place, tuple[_Noted, Drawn | None]] = {}
        self._pass: Any = None  # the trace of the pass itself
        self._stand_ins: dict[Any, Any] = {}
        self._stacked: dict[Any, _Noted] = {}

    def enter(
        self,
        frame: Frame,
        place: Place,
        init_fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        drawn: Drawn | None,
    ) -> Any:
        """Note an initial value, and return what stands for it in this pass.

        Args:
          frame: the frame of the pass.
          place: the collection and the path of the variable.
          init_fn: the initialiser.
          args: its arguments after the key.
          kwargs: its keyword arguments.
          drawn: the base key of its stream and the numbers to fold into it; None if the initialiser takes no key.
        """
        call = InitCall(init_fn, args, kwargs)
        alike = self._noted.setdefault((call.value, 0 if drawn is None else len(drawn[1])), [])
        if alike and call.value.is_by_value:
            noted = alike[0]
        else:  # what is not known by value may have a state (np.random), so it is traced again
            traced = _trace(call, frame, drawn)
            if traced is None:
                return call(*(_operands(drawn) or (None, None)))
            noted = next((held for held in alike if traced.is_like(held)), traced)
            if noted is traced and traced.is_pure:
                alike.append(traced)
        if noted.is_constant:
            return noted.fill([])
        if not noted.is_pure or not (drawn is None or id(drawn[0]) in self._key_ids):
            return noted.fill(call_jaxpr(noted.closed_jaxpr, *_operands(drawn)))
        self._entries[place] = (noted, drawn)
        return noted.fill(self._stand_in(noted, drawn))

    def whence(self, place: Place, origins: Mapping[int, Drawn]) -> Source:
        """Return the initialiser of a noted variable, with the key that it draws from as it is outside of a transform.

        Args:
          place: the collection and the path of the variable.
          origins: for keys that the body got by a split, by identity: the key that was split, and what was folded into
            it first.
        """
        noted, drawn = self.noted(place)
        if drawn is None or id(drawn[0]) not in origins:
            return Source(noted, drawn, None)
        key, first = origins[id(drawn[0])]
        return Source(noted, (key, (*first, *drawn[1])), len(first))

    def enter_stacked(
        self,
        place: Place,
        source: Source,
        *,
        axis: int,
        size: int | None,
        metadata: Mapping[Any, Any],
        is_loop: bool = False,
    ) -> Any:
        """Note for a variable of a mapped or looped body that every entry of a new axis has its own initial value.

        Args:
          place: the collection and the path of the variable.
          source: what one pass of the body has noted of it.
          axis: where the new axis is.
          size: its extent; None if boxes alone are told of it.
          metadata: told to boxes about the axis.
          is_loop: whether the entries are those of a loop rather than of ``vmap``.
        """
        noted, drawn, before = source
        folds = 0 if drawn is None else len(drawn[1])
        leaves = fingerprint(noted.leaves)
        index = (noted, noted.treedef, leaves, axis, size, before, is_loop, tuple(metadata.items()), folds)
        stacked = self._stacked.get(index)
        if stacked is None:
            stacked = _stack(noted, drawn, axis, size, before, metadata, is_loop=is_loop)
            self._stacked[index] = stacked
        self._entries[place] = (stacked, drawn)
        return stacked.fill(self._stand_in(stacked, drawn))

    def enter_shared(self, place: Place, source: Source) -> Any:
        """Note a variable that the calls of a body share; return what stands for it in the trace that is current."""
        noted, drawn, _ = source
        self._entries[place] = (noted, drawn)
        return noted.fill(self._stand_in(noted, drawn))

    def noted(self, place: Place) -> tuple[_Noted, Drawn | None]:
        """Return what is noted of a variable."""
        return self._entries[place]

    def forget(self, place: Place) -> None:
        """Note that the variable is written again in this pass, so that its first value is not its last."""
        for held in [p for p in self._entries if p[: len(place)] == place] if place not in self._entries else [place]:
            del self._entries[held]

    def has_noted(self, place: Place) -> bool:
        """Return whether the value at ``place`` is noted, so that ``make`` will return it."""
        return place in self._entries

    def begin_pass(self) -> None:
        """Take the current trace for that of the pass."""
        self._pass = current_trace()

    def end_pass(self) -> None:
        """Forget what was of use in the pass alone."""
        self._pass = None
        self._stand_ins.clear()
        self._noted.clear()

    def make(self, *, grouped: bool) -> dict[Place, Any]:
        """Return every noted value by place, in the order in which they were entered.

        Args:
          grouped: whether values of one initialiser are made together, in one loop. Within an outer trace this keeps
            the program small; outside of one it would double the memory.
        """
        made: dict[Place, Any] = dict.fromkeys(self._entries)
        groups: dict[tuple[int, int | None], list[Place]] = {}
        for place, (noted, drawn) in self._entries.items():
            groups.setdefault((id(noted), None if drawn is None else id(drawn[0])), []).append(place)
        # The largest first: what a program needs beside its result is then on top of the least.
        for places in sorted(groups.values(), key=lambda places: -self._entries[places[0]][0].size):
            noted, first = self._entries[places[0]]
            key = None if first is None else first[0]
            numbers = [_numbers(self._entries[place][1]) for place in places]
            draw = functools.partial(_drawer(noted), key)
            if not grouped:
                values = noted.values(key, numbers)
            elif is_fill(noted.closed_jaxpr) and has_tracer(first_value := draw(numbers[0])):
                values = [first_value] * len(places)  # the results of a program have memory of their own
            elif key is not None and len(places) > 1:
                values = unstack(jax.lax.map(draw, np.stack(numbers)), len(places))
            else:
                values = map(draw, numbers)
            for place, arrays in zip(places, values, strict=True):
                made[place] = noted.fill(arrays)
        return made

    def _stand_in(self, noted: _Noted, drawn: Drawn | None) -> list[Any]:
        """Return arrays of the shapes that the initialiser makes, in the trace that is current now."""
        avals = noted.closed_jaxpr.out_avals
        if any(aval.weak_type if hasattr(aval, "weak_type") else False for aval in avals) or any(
            is_extended(aval.dtype) for aval in avals
        ):
            return call_jaxpr(noted.closed_jaxpr, *_operands(drawn))
        arrays: list[Any] = []
        # Of one shape there is one, in the trace of the pass: one of a trace within it would outlive its trace.
        held = self._stand_ins if current_trace() == self._pass else dict[Any, Any]()
        for aval in avals:
            kind = aval.shape, aval.dtype
            if kind not in held:
                held[kind] = jnp.zeros(*kind)
            arrays.append(held[kind])
        return arrays


def _operands(drawn: Drawn | None) -> tuple[Any, ...]:
    return () if drawn is None else (drawn[0], _numbers(drawn))


def _numbers(drawn: Drawn | None) -> np.ndarray:
    return np.array(() if drawn is None else drawn[1], np.uint32)


def _trace(call: InitCall, frame: Frame, drawn: Drawn | None) -> _Noted | None:
    """Trace an initialiser and see what it depends on; return None if it can only run in the pass itself."""
    shape: list[Any] = []

    def run(*operands: Any) -> list[Any]:
        value = call(*(operands or (None, None)))
        leaves: list[Any] = jax.tree.leaves(value)
        shape.append(cast("Any", jax.tree.structure(value)))
        shape.append(tuple(None if is_tracer(leaf) else (leaf,) for leaf in leaves))
        return [leaf for leaf in leaves if is_tracer(leaf)]

    frame.is_noting = True
    try:
        closed_jaxpr = jax.make_jaxpr(run)(*_operands(drawn))
    except HasEffects:
        return None
    finally:
        frame.is_noting = False
    return _Noted(closed_jaxpr, shape[0], shape[1], is_known=call.value.is_by_value)


def _stack(
    noted: _Noted,
    drawn: Drawn | None,
    axis: int,
    size: int | None,
    before: int | None,
    metadata: Mapping[Any, Any],
    *,
    is_loop: bool,
) -> _Noted:
    """Return the initialiser of ``noted`` with a new axis, along which it is run again.

    Args:
      noted: the initialiser.
      drawn: the key and the numbers that it is given.
      axis: where the new axis is.
      size: its extent; None if boxes alone are told of it.
      before: how many of the numbers are folded into the key before it is split; None if all entries share a key.
      metadata: told to boxes about the axis.
      is_loop: whether the entries are those of a loop, each drawn by itself. Threefry draws the same for all entries at
        once; other keys (``rbg``) do not.
    """

    def run(*operands: Any) -> list[Any]:
        if size is None:
            return call_jaxpr(noted.closed_jaxpr, *operands)
        if not operands or before is None:
            once = [jnp.expand_dims(array, axis) for array in call_jaxpr(noted.closed_jaxpr, *operands)]
            return [jnp.repeat(array, size, axis) for array in once]
        key, numbers = operands
        keys = jax.random.split(fold_numbers(key, numbers[:before]), size)

        def entry(each: Key) -> list[Any]:
            return call_jaxpr(noted.closed_jaxpr, each, numbers[before:])

        if is_loop and not is_threefry(key):
            run_in_turn = cast("Any", jax.lax).map
            in_turn: list[Any] = run_in_turn(entry, keys)
            return [jnp.moveaxis(array, 0, axis) for array in in_turn]
        return jax.vmap(entry, out_axes=axis)(keys)

    closed_jaxpr = jax.make_jaxpr(run)(*_operands(drawn))
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in cast("Any", closed_jaxpr).out_avals]
    value = add_axis(noted.fill(shapes), axis, dict(metadata))
    leaves: list[Any] = jax.tree.leaves(value)
    treedef = cast("Any", jax.tree.structure(value))
    fixed = tuple(None if isinstance(leaf, jax.ShapeDtypeStruct) else (leaf,) for leaf in leaves)
    return _Noted(closed_jaxpr, treedef, fixed, is_known=noted.is_known)


@kept(maxsize=128)  # a compiled program takes some 1.5 MB, and this bounds what a process keeps
def _drawer(noted: _Noted) -> Callable[[Key | None, Any], list[Any]]:
    """Return the compiled program that draws."""
    closed_jaxpr = noted.closed_jaxpr

    def draw(key: Key | None, numbers: Any) -> list[Any]:
        return call_jaxpr(closed_jaxpr, *(() if key is None else (key, numbers)))

    return jax.jit(draw)


def replace_places(variables: Mapping[str, Any], made: Mapping[Place, Any], prefix: Place = ()) -> dict[str, Any]:
    """Return nested variables with the made values at their places."""
    filled: dict[str, Any] = {}
    for name, value in variables.items():
        place = (*prefix, name)
        if place in made:
            filled[name] = made[place]
        elif isinstance(value, Mapping):
            filled[name] = replace_places(cast("Mapping[str, Any]", value), made, place)
        else:
            filled[name] = value
    return filled
