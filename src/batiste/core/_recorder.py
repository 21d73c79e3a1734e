"""The recorder: notes initial values during an abstract pass, and makes them afterwards.

While ``init`` traces a model abstractly, every variable that is entered comes here. The recorder traces its initialiser
once per distinct (initialiser, arguments), notes which variable wants it with which key, and hands the model a stand-in
of the right shape. ``make`` then runs one compiled program per distinct initialiser, once per variable.

Some values cannot be noted, since they depend on what happens in the pass: an initialiser that closes over an array of
the model, draws keys itself, or writes variables; a variable that is written again. These are left in the pass; the
caller finds them in the variables as tracers, and computes just them in a second pass.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from batiste.core._fingerprint import Fingerprint, fingerprint
from batiste.core._keys import fold_numbers
from batiste.core._trace import call_jaxpr, current_trace, is_extended, is_tracer

if TYPE_CHECKING:
    from batiste.core._frame import Frame
    from batiste.typing import Key

__all__ = ["Place", "Recorder", "replace_places"]

Drawn: TypeAlias = "tuple[Key, tuple[int, ...]]"
"""A base key, and the numbers to fold into it."""

Place: TypeAlias = tuple[str, ...]
"""The collection, the path and the name of a variable."""


@dataclasses.dataclass(frozen=True)
class _Noted:
    """An initialiser as it was traced: what it makes, and whether it can be run later.

    Attributes:
      call: the initialiser with its arguments, hashable by value.
      closed_jaxpr: its trace.
      treedef: the structure of what it returns.
      leaves: the leaves that are no arrays of the trace (numbers, NumPy arrays); None where there is one.
      is_pure: whether it depends on its arguments and its key alone.
    """

    call: _Call
    closed_jaxpr: Any
    treedef: Any
    leaves: tuple[Any, ...]
    is_pure: bool

    def fill(self, arrays: list[Any]) -> Any:
        """Return the initialiser's value with ``arrays`` where the trace had arrays."""
        rest = iter(arrays)
        return jax.tree.unflatten(self.treedef, [next(rest) if leaf is None else leaf[0] for leaf in self.leaves])

    def is_like(self, other: _Noted) -> bool:
        """Return whether the other trace, of an equal initialiser, is the same program."""
        return (
            self.is_pure
            and str(self.closed_jaxpr.jaxpr) == str(other.closed_jaxpr.jaxpr)
            and fingerprint((self.closed_jaxpr.consts, self.leaves))
            == fingerprint((other.closed_jaxpr.consts, other.leaves))
        )

    @property
    def is_constant(self) -> bool:
        return all(leaf is not None for leaf in self.leaves)


class _Call:
    """An initialiser with its arguments, equal by value: a static argument of the program that draws."""

    __slots__ = ("args", "init_fn", "kwargs", "value")

    def __init__(self, init_fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.init_fn, self.args, self.kwargs = init_fn, args, kwargs
        self.value: Fingerprint = fingerprint((init_fn, args, kwargs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __call__(self, key: Key | None, numbers: Any) -> Any:
        if key is None:
            return self.init_fn(*self.args, **self.kwargs)
        return self.init_fn(fold_numbers(key, numbers), *self.args, **self.kwargs)

    def arrays(self, key: Key | None, numbers: Any) -> list[Any]:
        return [leaf for leaf in jax.tree.leaves(self(key, numbers)) if is_tracer(leaf)]


class Recorder:
    """Notes the initial values of one abstract pass."""

    def __init__(self) -> None:
        self._noted: dict[tuple[Fingerprint, int], list[_Noted]] = {}
        self._entries: dict[Place, tuple[_Noted, Drawn | None]] = {}
        self._stand_ins: dict[Any, tuple[Any, Any]] = {}

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
        call = _Call(init_fn, args, kwargs)
        alike = self._noted.setdefault((call.value, 0 if drawn is None else len(drawn[1])), [])
        if alike and call.value.is_by_value:
            noted = alike[0]
        else:  # what is not known by value may have a state (np.random), so it is traced again
            traced = _trace(call, frame, drawn)
            noted = next((held for held in alike if traced.is_like(held)), traced)
            if noted is traced and traced.is_pure:
                alike.append(traced)
        if noted.is_constant:
            return noted.fill([])
        if not noted.is_pure:
            return noted.fill(call_jaxpr(noted.closed_jaxpr, *_operands(drawn)))
        self._entries[place] = (noted, drawn)
        return noted.fill(self._stand_in(noted, drawn))

    def forget(self, place: Place) -> None:
        """Note that the variable is written again in this pass, so that its first value is not its last."""
        for held in [p for p in self._entries if p[: len(place)] == place] if place not in self._entries else [place]:
            del self._entries[held]

    def has_noted(self, place: Place) -> bool:
        """Return whether the value at ``place`` is noted, so that ``make`` will return it."""
        return place in self._entries

    def make(self, *, grouped: bool) -> dict[Place, Any]:
        """Return every noted value by place, in the order in which they were entered.

        Args:
          grouped: whether values of one initialiser are made together by ``vmap``. Within an outer trace this keeps
            the program small; outside of one it would double the memory.
        """
        made: dict[Place, Any] = dict.fromkeys(self._entries)
        groups: dict[tuple[int, int | None], list[Place]] = {}
        for place, (noted, drawn) in self._entries.items():
            groups.setdefault((id(noted), None if drawn is None else id(drawn[0])), []).append(place)
        for places in groups.values():
            noted, first = self._entries[places[0]]
            draw = _drawer(noted)
            operands = [_operands(self._entries[place][1]) for place in places]
            if grouped and first is not None and len(places) > 1:
                numbers = np.stack([numbers for _, numbers in operands])
                stacked = jax.vmap(draw, in_axes=(None, 0))(first[0], numbers)
                for index, place in enumerate(places):
                    made[place] = noted.fill([array[index] for array in stacked])
            else:
                for place, each in zip(places, operands, strict=True):
                    made[place] = noted.fill(draw(*(each or (None, None))))
        return made

    def _stand_in(self, noted: _Noted, drawn: Drawn | None) -> list[Any]:
        """Return arrays of the shapes that the initialiser makes, in the trace that is current now."""
        avals = noted.closed_jaxpr.out_avals
        if any(aval.weak_type if hasattr(aval, "weak_type") else False for aval in avals) or any(
            is_extended(aval.dtype) for aval in avals
        ):
            return call_jaxpr(noted.closed_jaxpr, *_operands(drawn))
        arrays: list[Any] = []
        trace = current_trace()
        for aval in avals:
            held = self._stand_ins.get((aval.shape, aval.dtype))
            if held is None or held[0] != trace:
                held = self._stand_ins[aval.shape, aval.dtype] = (trace, jnp.zeros(aval.shape, aval.dtype))
            arrays.append(held[1])
        return arrays


def _operands(drawn: Drawn | None) -> tuple[Any, ...]:
    return () if drawn is None else (drawn[0], np.array(drawn[1], np.uint32))


def _trace(call: _Call, frame: Frame, drawn: Drawn | None) -> _Noted:
    """Trace an initialiser once and see what it depends on."""
    shape: list[Any] = []
    before = frame.events

    def run(*operands: Any) -> list[Any]:
        leaves, treedef = jax.tree.flatten(call(*(operands or (None, None))))
        shape.extend((treedef, tuple(None if is_tracer(leaf) else (leaf,) for leaf in leaves)))
        return [leaf for leaf in leaves if is_tracer(leaf)]

    closed_jaxpr = jax.make_jaxpr(run)(*_operands(drawn))
    is_pure = frame.events == before and not any(map(is_tracer, closed_jaxpr.consts))
    return _Noted(call, closed_jaxpr, shape[0], shape[1], is_pure)


def _drawer(noted: _Noted) -> Callable[[Key | None, Any], list[Any]]:
    """Return the program that draws: kept for good if the initialiser is known by value, else for this call."""
    if noted.call.value.is_by_value:
        return functools.partial(_draw, noted.call)
    return jax.jit(lambda key, numbers: call_jaxpr(noted.closed_jaxpr, *(() if key is None else (key, numbers))))


@functools.partial(jax.jit, static_argnums=0)
def _draw(call: _Call, key: Key | None, numbers: Any) -> list[Any]:
    return call.arrays(key, numbers)


def replace_places(variables: Mapping[str, Any], made: Mapping[Place, Any], prefix: Place = ()) -> dict[str, Any]:
    """Return nested variables with the made values at their places."""
    filled: dict[str, Any] = {}
    for name, value in variables.items():
        place = (*prefix, name)
        if place in made:
            filled[name] = made[place]
        elif isinstance(value, Mapping):
            inner: Any = value
            filled[name] = replace_places(inner, made, place)
        else:
            filled[name] = value
    return filled
