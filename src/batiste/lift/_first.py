"""First values on ``init``: finding the variables that the body of a transform makes before the transform is run.

``init`` notes which initialiser each variable wants, and makes the values afterwards (``batiste.core``). The body of a
transform runs within a trace, where nothing can be noted for the frame outside. So the body is *rehearsed*: run without
the transform, on what one call of it sees, for the sake of its variables alone. What it computes is thrown away.

* Variables that the calls share are noted as they are.
* Variables of which each call has its own are noted as stacked: an initialiser with a new axis.
* What cannot be noted (values computed from inputs, or with keys of their own) is left to the transform itself.

The keys that a rehearsal draws are not counted. Then the transform runs its body with the first values at hand
(``FirstValues.entry``): the body enters its variables as it always does, so names and keys are counted as if it had
made them itself. Where ``init`` runs a model once more with values that it knows, every transform uses those.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from batiste.core import Drawn, Recorder, copy_tree, current_trace, is_tracer
from batiste.lift._axes import first_entry, move_in, to_front
from batiste.module import Groups, KeyGroups, Place, Region
from batiste.typing import Key

__all__ = ["Body", "FirstValues", "Layout", "all_shared", "first_values", "known_values", "make_first"]


class Body(NamedTuple):
    """What one call of a body is given.

    Attributes:
      function: the body.
      args: its arguments.
      kwargs: its keyword arguments.
      groups: the variables as it sees them.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    groups: Groups


class Layout(NamedTuple):
    """How the variables that the calls of a body make come together outside.

    Attributes:
      axes: for each group the axis along which calls have their own variables, or None where they share them.
      kept: for each group whether its variables come out at all.
      size: the number of calls.
      metadata: told to boxes about the axis.
      passes: how often the body draws keys before it is run, the run included.
      axis_name: the name of the mapped axis, for collectives.
      is_loop: whether the calls come one after the other, which keys other than Threefry's can tell.
    """

    axes: Sequence[int | None]
    kept: Sequence[bool]
    size: int = 1
    metadata: Mapping[Any, Any] = types.MappingProxyType({})
    passes: int = 1
    axis_name: str | None = None
    is_loop: bool = False

    def is_shared(self, group: int | None) -> bool:
        """Return whether the variables of a group are kept and the same in every call."""
        return group is not None and self.kept[group] and self.axes[group] is None

    def is_stacked(self, group: int | None) -> bool:
        """Return whether the variables of a group are kept and each call's own."""
        return group is not None and self.kept[group] and self.axes[group] is not None


def all_shared(region: Region) -> Layout:
    """Return the layout of a transform with one call, or with calls that share everything."""
    return Layout([None] * len(region.filters), [True] * len(region.filters))


class FirstValues:
    """The first values of variables that the body of a transform makes on ``init``.

    Attributes:
      values: the values by place, as the frame outside holds them; None outside of ``init``.
    """

    def __init__(self, region: Region, layout: Layout, values: Mapping[Place, Any] | None) -> None:
        self.values = values
        self._region, self._layout = region, layout

    def entry(self, index: Any = None, groups: Collection[int] | None = None) -> Mapping[Place, Any] | None:
        """Return the values as one call of the body sees them.

        Args:
          index: the number of the call, where calls have their own values.
          groups: the groups of which values are handed out; by default all that are kept.
        """
        if self.values is None:
            return None
        kept = [i for i, is_kept in enumerate(self._layout.kept) if is_kept and (groups is None or i in groups)]
        return _Entry(self.values, self._region, self._layout, index, frozenset(kept))


class _Entry(Mapping[Place, Any]):
    """First values as one call sees them: those of its own are cut out when they are asked for.

    What is cut out is kept for the trace in which this object was made, so that a value that is handed out can be told
    from one that was put in its place.
    """

    def __init__(
        self, values: Mapping[Place, Any], region: Region, layout: Layout, index: Any, groups: frozenset[int]
    ) -> None:
        self._values, self._region, self._layout = values, region, layout
        self._index, self._groups = index, groups
        self._trace = current_trace()
        self._held: dict[Place, Any] = {}

    def __contains__(self, place: object) -> bool:
        return place in self._values and self._region.group_of(cast("Place", place)) in self._groups

    def __getitem__(self, place: Place) -> Any:
        if current_trace() != self._trace:
            return self._cut(place)
        if place not in self._held:
            self._held[place] = self._cut(place)
        return copy_tree(self._held[place])  # who gets a dict may change it

    def __iter__(self) -> Iterator[Place]:
        return (place for place in self._values if place in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _cut(self, place: Place) -> Any:
        group = self._region.group_of(place)
        axis = None if group is None else self._layout.axes[group]
        value = self._values[place]
        if axis is None:
            return value

        def cut(array: Any) -> Any:
            take: Any = jax.lax.dynamic_index_in_dim
            return take(array, self._index, 0, keepdims=False)

        value = jax.tree.map(cut, to_front(value, axis)) if self._layout.size else first_entry(value, axis)
        return move_in(value, axis, self._layout.metadata)


def first_values(region: Region, body: Body, layout: Layout) -> FirstValues:
    """On ``init``, return the first values of the variables that a body makes.

    Args:
      region: the region of the transform; its ``finish`` stores the values that the body has entered.
      body: what one call of the body is given.
      layout: how the variables of the calls come together.
    """
    frame = region.frame
    values: Mapping[Place, Any] | None = None
    if frame.initializing and frame.recorder is not None:
        values = _shared(region, body, layout, frame.recorder) | _stacked(region, body, layout, frame.recorder)
    elif frame.initializing:
        values = frame.known
    region.first = {} if values is None else values
    return FirstValues(region, layout, values)


def known_values(region: Region) -> FirstValues:
    """Return the first values that ``init`` knows already, for a body that is called once."""
    region.first = region.frame.known or {}
    return FirstValues(region, all_shared(region), region.frame.known)


def make_first(
    region: Region, body: Body, groups: Collection[int], *, counted: bool, layout: Layout | None = None
) -> None:
    """On ``init``, make the variables of some groups that a body makes, before the transform.

    Args:
      region: the region of the transform, whose groups are taken anew.
      body: what one call of the body is given.
      groups: the numbers of the groups.
      counted: whether the keys that the body draws count.
      layout: how the variables of the calls come together; by default all are shared.
    """
    recorder = region.frame.recorder
    if not region.frame.initializing:
        return
    layout = layout or all_shared(region)
    known = FirstValues(region, layout, region.frame.known).entry(0)
    streams, _ = _first_keys(region, layout.size)
    with contextlib.nullcontext() if counted else region.counting_again():
        created = _rehearse(region, body, layout, recorder, streams, known)
    made = {place: value for place, value in created.items() if region.group_of(place) in groups}
    if recorder is not None:
        for place in created.keys() - made.keys():
            recorder.forget(place)
    region.store(made, as_made=True)
    region.renew()


def _rehearse(
    region: Region,
    body: Body,
    layout: Layout,
    recorder: Recorder | None,
    streams: KeyGroups,
    known: Mapping[Place, Any] | None = None,
) -> dict[Place, Any]:
    """Run a body without its transform; return the first values of the variables that it makes.

    Keys that it draws are counted.

    Args:
      region: the region of the transform.
      body: what one call of the body is given.
      layout: how the variables of the calls come together.
      recorder: notes the values, if there is one.
      streams: the keys as one call of the body sees them.
      known: values of variables that are known already, likewise.
    """
    created: dict[Place, Any] = {}

    def run(_: Any) -> None:
        frame, call = region.open(body.groups, streams, recorder=recorder, known=known, is_rehearsal=True)
        call(body.function, body.args, body.kwargs)
        created.update(frame.created)

    if layout.axis_name is None:
        run(None)
    else:  # collectives need the name to be there
        jax.vmap(run, axis_name=layout.axis_name)(jnp.arange(max(layout.size, 1)))
    return created


def _shared(region: Region, body: Body, layout: Layout, recorder: Recorder) -> dict[Place, Any]:
    """Note the variables that the calls share."""
    if not any(layout.is_shared(index) and f is not False for index, f in enumerate(region.filters)):
        return {}
    streams, _ = _first_keys(region, layout.size)
    with region.counting_again():
        created = _rehearse(region, body, layout, recorder, streams)
    kept = {p: v for p, v in created.items() if recorder.has_noted(p) and layout.is_shared(region.group_of(p))}
    for place in created.keys() - kept.keys():
        recorder.forget(place)
    return kept


def _stacked(region: Region, body: Body, layout: Layout, recorder: Recorder) -> dict[Place, Any]:
    """Note the variables of which every call has its own, stacked along an axis."""
    if not any(layout.is_stacked(index) for index in range(len(region.filters))):
        return {}
    streams, origins = _first_keys(region, layout.size)
    keys = [*recorder.keys, *(key for group in streams for held in group for key in held.values())]
    inner, created = Recorder(keys), dict[Place, Any]()
    with region.counting_again():
        for _ in range(layout.passes):
            inner = Recorder(keys)
            created = _rehearse(region, body, layout, inner, streams)
    made: dict[Place, Any] = {}
    for place in created:
        group = region.group_of(place)
        if (
            group is not None
            and layout.is_stacked(group)
            and inner.has_noted(place)
            and all(map(is_tracer, jax.tree.leaves(created[place])))
        ):
            axis = layout.axes[group] or 0
            made[place] = recorder.enter_stacked(
                place,
                inner,
                origins,
                axis=axis,
                size=layout.size,
                metadata=layout.metadata,
                is_loop=layout.is_loop,
            )
    return made


def _first_keys(region: Region, size: int) -> tuple[KeyGroups, dict[int, Drawn]]:
    """Return the keys of the first call of the body, and where those that come from a split come from."""
    origins: dict[int, Drawn] = {}
    streams: list[Any] = []
    for group, is_split in zip(region.streams, region.splits, strict=True):
        per_scope: list[dict[str, Key]] = []
        for keys, (starts, _) in zip(group, region.starts, strict=True):
            held: dict[str, Key] = {}
            for name, key in keys.items():
                held[name] = jax.random.split(key, max(size, 1))[0] if is_split else key
                if is_split:
                    origins[id(held[name])] = starts[name]
            per_scope.append(held)
        streams.append(tuple(per_scope))
    return tuple(streams), origins
