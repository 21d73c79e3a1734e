"""First values on ``init``: the variables that the body of a transform makes.

``init`` notes which initialiser each variable wants, and makes the values afterwards (``batiste.core``). The body of a
transform runs as often as in ``apply``: what it makes is noted where it is made, within the transform, and goes into
the frame outside when the transform is through.

* Variables that the calls share are noted as they are.
* Variables of which each call has its own are noted as stacked: an initialiser with a new axis.
* What cannot be noted (values computed from inputs, or with keys of their own) is left to the transform itself.

A few transforms need the variables before they begin (``make_first``): their body is *rehearsed*, run without the
transform for the sake of its variables alone.

Where ``init`` runs a model once more with values that it knows, every transform hands these to its body: it enters its
variables as it always does, so names and keys are counted as if it had made them itself.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax

from batiste.core import Drawn, Frame, Recorder, Source, Start, copy_tree, current_trace, is_tracer
from batiste.lift._axes import first_entry, move_in, to_front
from batiste.module import Groups, KeyGroups, Place, Region, Written, wrap_method_once
from batiste.typing import Key

__all__ = ["Body", "FirstValues", "Layout", "all_shared", "first_values", "make_first"]


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

    def call(self, streams: KeyGroups) -> tuple[Any, ...]:
        """Return the arguments of ``Region.run``."""
        return self.function, self.groups, streams, self.args, self.kwargs


class Layout(NamedTuple):
    """How the variables that the calls of a body make come together outside.

    Attributes:
      axes: for each group the axis along which calls have their own variables, or None where they share them.
      kept: for each group whether its variables come out at all.
      size: the number of calls.
      metadata: told to boxes about the axis.
      is_cut: whether the axis is one of arrays; if not, boxes alone are told of it.
      is_loop: whether the calls come one after the other, which keys other than Threefry's can tell.
    """

    axes: Sequence[int | None]
    kept: Sequence[bool]
    size: int = 1
    metadata: Mapping[Any, Any] = types.MappingProxyType({})
    is_cut: bool = True
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
      values: the values by place, as the frame outside holds them, where ``init`` knows them already; else None.
    """

    def __init__(self, region: Region, layout: Layout, values: Mapping[Place, Any] | None) -> None:
        self.values = values
        self._region, self._layout = region, layout
        self._recorder: Recorder | None = region.frame.recorder if region.frame.initializing else None
        self._noted: dict[Place, Source] = {}  # nothing of the trace of the body

    @property
    def is_noting(self) -> bool:
        """Whether the body notes what it makes."""
        return self._recorder is not None

    @property
    def noted(self) -> frozenset[Place]:
        """The places of the variables that are noted so far."""
        return frozenset(self._noted)

    def run(
        self,
        body: Body,
        streams: KeyGroups,
        *,
        given: KeyGroups | None = None,
        index: Any = None,
        groups: Collection[int] | None = None,
        starts: Sequence[Start] | None = None,
    ) -> tuple[Any, Written]:
        """Run the body once, within the transform; return its result, and what it wrote beside first values.

        Args:
          body: what this call of it is given.
          streams: its keys; groups that are not split have to be those of the region itself.
          given: its keys as the transform hands them in, where it is given others.
          index: the number of the call, where calls have their own values.
          groups: the groups of which first values are handed out, or kept; by default all that the layout keeps.
          starts: for each scope, where its keys begin; by default they go on as outside.
        """
        region, outside = self._region, self._recorder
        if outside is None:
            premade = self.entry(index, groups)
            return region.run(*body.call(streams), starts=starts, premade=premade)
        split = self._split(streams if given is None else given)
        origins = {id(key): drawn for key, drawn in split}
        notes = outside
        if split or any(map(self._layout.is_stacked, range(len(region.filters)))):
            notes = _Notes([*outside.keys, *(key for key, _ in split)], outside, self._shares)
        is_rehearsal = region.frame.is_rehearsal
        frame, call = region.open(body.groups, streams, starts=starts, recorder=notes, is_rehearsal=is_rehearsal)
        output = call(wrap_method_once(body.function), body.args, body.kwargs)
        written = region.written(frame)
        for number in self._kept(groups):
            for place, value in list(written[number].items()):
                is_stacked = self._layout.is_stacked(number)
                if not notes.has_noted(place) or (is_stacked and not all(map(is_tracer, jax.tree.leaves(value)))):
                    continue
                self._noted.setdefault(place, notes.whence(place, origins))
                if not frame.is_rehearsal or value is frame.created.get(place):
                    del written[number][place]
        return output, written

    def finish(self, groups: Collection[int] | None = None) -> None:
        """Put what the first run of the body has made into the frame outside; called where the transform has ended.

        Under ``jax.disable_jit()`` a loop runs its body once for each step, with other keys for what it makes.

        Args:
          groups: the groups of which first values are put there; by default all that the layout keeps.
        """
        if self._recorder is None:
            return
        region, layout, kept = self._region, self._layout, self._kept(groups)
        first = dict(region.first)
        for place, source in self._noted.items():
            number = region.group_of(place)
            if number not in kept:
                continue
            region.entered[place] = None
            if layout.is_shared(number):
                first[place] = self._recorder.enter_shared(place, source)
            else:
                first[place] = self._recorder.enter_stacked(
                    place,
                    source,
                    axis=layout.axes[number or 0] or 0,
                    size=layout.size if layout.is_cut else None,
                    metadata=layout.metadata,
                    is_loop=layout.is_loop,
                )
        region.first = first
        self._noted = {}

    def _shares(self, place: Place) -> bool:
        return self._layout.is_shared(self._region.group_of(place))

    def _kept(self, groups: Collection[int] | None) -> list[int]:
        return [i for i, is_kept in enumerate(self._layout.kept) if is_kept and (groups is None or i in groups)]

    def _split(self, streams: KeyGroups) -> list[tuple[Key, Drawn]]:
        """Return the keys of this call that come from a split, and where they come from."""
        return [
            (key, starts[name])
            for group, is_split in zip(streams, self._region.splits, strict=True)
            if is_split
            for keys, (starts, _) in zip(group, self._region.starts, strict=True)
            for name, key in keys.items()
        ]

    def entry(self, index: Any = None, groups: Collection[int] | None = None) -> Mapping[Place, Any] | None:
        """Return the values that are known as one call of the body sees them; the arguments are those of ``run``."""
        if self.values is None:
            return None
        return _Entry(self.values, self._region, self._layout, index, frozenset(self._kept(groups)))


class _Notes(Recorder):
    """Notes what calls of a body have of their own; what they share is noted by the frame outside."""

    def __init__(self, keys: Iterable[Key], outside: Recorder, shares: Callable[[Place], bool]) -> None:
        super().__init__(keys)
        self._outside, self._shares = outside, shares

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
        enter = self._outside.enter if self._shares(place) else super().enter
        return enter(frame, place, init_fn, args, kwargs, drawn=drawn)

    def enter_stacked(self, place: Place, source: Source, **options: Any) -> Any:
        enter = self._outside.enter_stacked if self._shares(place) else super().enter_stacked
        return enter(place, source, **options)

    def enter_shared(self, place: Place, source: Source) -> Any:
        enter = self._outside.enter_shared if self._shares(place) else super().enter_shared
        return enter(place, source)

    def noted(self, place: Place) -> Any:
        return self._outside.noted(place) if self._shares(place) else super().noted(place)

    def has_noted(self, place: Place) -> bool:
        return self._outside.has_noted(place) if self._shares(place) else super().has_noted(place)

    def forget(self, place: Place) -> None:
        super().forget(place)
        self._outside.forget(place)


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

        if self._layout.is_cut:
            value = jax.tree.map(cut, to_front(value, axis)) if self._layout.size else first_entry(value, axis)
        return move_in(value, axis, self._layout.metadata)


def first_values(region: Region, layout: Layout) -> FirstValues:
    """Return what notes, on ``init``, the first values of the variables that a body makes, or knows them.

    Args:
      region: the region of the transform; its ``publish`` stores the values that the body has entered.
      layout: how the variables of the calls come together.
    """
    frame = region.frame
    values = frame.known if frame.initializing and frame.recorder is None else None
    region.first = {} if values is None else values
    return FirstValues(region, layout, values)


def make_first(
    region: Region, body: Body, groups: Collection[int], *, counted: bool, layout: Layout | None = None
) -> None:
    """Make the variables of some groups that a body makes, before the transform: on ``init``, and where asked for.

    Args:
      region: the region of the transform, whose groups are taken anew.
      body: what one call of the body is given.
      groups: the numbers of the groups.
      counted: whether the keys that the body draws count.
      layout: how the variables of the calls come together; by default all are shared.
    """
    recorder = region.frame.recorder
    layout = layout or all_shared(region)
    known = FirstValues(region, layout, region.frame.known).entry(0)
    with contextlib.nullcontext() if counted else region.counting_again():
        streams = _first_keys(region, layout.size)
        frame, call = region.open(body.groups, streams, recorder=recorder, known=known, is_rehearsal=True)
        call(body.function, body.args, body.kwargs)
    made = {place: value for place, value in frame.created.items() if region.group_of(place) in groups}
    if recorder is not None:
        for place in frame.created.keys() - made.keys():
            recorder.forget(place)
    region.store(made, as_made=True)
    region.renew()


def _first_keys(region: Region, size: int) -> KeyGroups:
    """Return the keys of the first call of the body."""

    def first(key: Key) -> Key:
        return jax.random.split(key, max(size, 1))[0]

    return tuple(
        jax.tree.map(first, group) if is_split else group
        for group, is_split in zip(region.streams, region.splits, strict=True)
    )
