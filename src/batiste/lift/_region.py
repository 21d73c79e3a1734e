"""A region: the variables and random streams of some modules, on their way through a JAX transform.

A JAX transform takes a pure function of arrays. A lifted transform takes a function of modules. Between the two:

1. ``Region(...)`` finds the modules among the arguments, and takes the variables of their scopes out of the frame, in
   groups that the transform treats differently (mapped, carried, shared), and the base keys of the streams likewise.
2. The transform's body calls ``run`` with those groups as it got them. ``run`` makes a frame of its own, puts the
   modules over it (``_rebind.py``), calls the function, and returns its result together with the variables it wrote.
3. ``finish`` stores what was written in the frame outside, and goes on counting names and keys where the body ended.

A body may be traced more than once (the branches of a conditional, a loop); each run starts from the same state.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax

from batiste.core import (
    CollectionFilter,
    DenyList,
    Drawn,
    Frame,
    Recorder,
    Scope,
    Start,
    copy_tree,
    fold_numbers,
    in_filter,
    intersect_filters,
    union_filters,
)
from batiste.errors import MixedCallsError, TransformedModuleError
from batiste.lift._rebind import Rebinder, modules_in
from batiste.typing import Key

__all__ = ["Groups", "Place", "Region", "Stacking", "Streams", "Written", "from_keys", "to_keys"]

Place: TypeAlias = tuple[str, ...]
"""The collection, the path and the name of a variable."""

Group: TypeAlias = tuple[dict[str, Any], ...]
"""One group of collections: for each scope of the region, its variables by collection."""

Groups: TypeAlias = tuple[Group, ...]
"""All groups, one for each filter."""

Streams: TypeAlias = tuple[tuple[dict[str, Key], ...], ...]
"""The base keys in groups, one for each filter: for each scope of the region, its keys by stream."""

Written: TypeAlias = tuple[dict[Place, Any], ...]
"""What a body wrote, one dict for each group of collections."""


@dataclasses.dataclass(frozen=True)
class Stacking:
    """How the variables of the calls of a body are stacked.

    Attributes:
      axes: for each group the axis along which calls have their own variables, or None.
      size: the number of calls.
      metadata: told to boxes about the axis.
      passes: how often the body draws keys before it is run, the run included.
    """

    axes: Sequence[int | None]
    size: int
    metadata: Mapping[Any, Any]
    passes: int = 1


class Region:
    """The variables and streams of the modules among some arguments.

    Attributes:
      frame: the frame outside.
      scopes: the outermost scopes of the modules, none within another.
      groups: their variables, for each filter.
      streams: the base keys, for each filter.
      path: the path of the first module, for messages.
    """

    def __init__(
        self,
        transform: str,
        function: Callable[..., Any],
        arguments: Any,
        variables: Sequence[CollectionFilter],
        rngs: Sequence[CollectionFilter],
        *,
        mutable: Sequence[bool] | None = None,
        splits: Sequence[bool] | None = None,
    ) -> None:
        modules = [module for module in modules_in(arguments) if module.scope is not None]
        if not modules:
            given = type(arguments[0]).__name__ if arguments else "no arguments"
            name = getattr(function, "__name__", repr(function))
            raise TransformedModuleError(transform=transform, function=name, given=f"an unbound {given}")
        scopes: list[Any] = [module.scope for module in modules]
        self.frame: Frame = scopes[0].frame
        self.path = scopes[0].path_text
        if any(scope.frame is not self.frame for scope in scopes):
            raise MixedCallsError(transform=transform, paths=", ".join(scope.path_text for scope in scopes))
        scopes[0].check_open()
        self.scopes = _outermost(scopes)
        self.filters = _disjoint(variables)
        self._take()
        self._starts = [scope.start for scope in self.scopes]
        self._splits = tuple(splits or [False] * len(rngs))
        self.streams: Streams = tuple(
            tuple(
                {n: fold_numbers(*drawn) if is_split else drawn[0] for n, drawn in streams.items() if in_filter(f, n)}
                for streams, _ in self._starts
            )
            for f, is_split in zip(_disjoint(rngs), self._splits, strict=True)
        )
        allowed = [f for f, change in zip(self.filters, mutable or [True] * len(self.filters), strict=True) if change]
        change: CollectionFilter = False
        for each in allowed:
            change = union_filters(change, each)
        self._mutable = intersect_filters(self.frame.mutable, change)
        self._ending: Rebinder | None = None

    def run(
        self,
        function: Callable[..., Any],
        groups: Groups,
        streams: Streams,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        mutable: CollectionFilter | None = None,
        starts: Sequence[Start] | None = None,
    ) -> tuple[Any, Written]:
        """Call ``function`` with its modules over these variables and streams; return its result and what it wrote.

        Args:
          function: called with ``args`` and ``kwargs``, in which every module is replaced.
          groups: the variables, grouped as ``self.groups``.
          streams: the base keys, grouped as ``self.streams``.
          args: arguments, the modules of this region among them.
          kwargs: keyword arguments.
          mutable: which collections the body may change; by default what the region allows.
          starts: for each scope, where its keys begin; by default they go on as outside.
        """
        frame, call = self._frame(groups, streams, self._mutable if mutable is None else mutable, starts=starts)
        output = call(function, args, kwargs)
        return output, self._written(frame)

    def whole(self, index: int, groups: Groups, written: Written) -> Group:
        """Return one group of collections with what a body wrote put in: what a loop carries on."""
        nested = copy_tree(self._nested((groups[index],)))
        for place, value in written[index].items():
            node = nested
            for name in place[:-1]:
                node = node.setdefault(name, {})
            node[place[-1]] = value
        return self.restrict(nested)

    def changes(self, group: Group) -> dict[Place, Any]:
        """Return every variable of a carried group by place, where its collection may change."""
        found: dict[Place, Any] = {}

        def visit(place: Place, value: Any) -> None:
            if isinstance(value, Mapping):
                inner: Any = value
                for name, item in inner.items():
                    visit((*place, name), item)
            else:
                found[place] = value

        for collection, tree in self._nested((group,)).items():
            if self.frame.is_mutable(collection):
                visit((collection,), tree)
        return found

    def restrict(self, nested: dict[str, Any]) -> Group:
        """Return nested variables as one group: for each scope, its collections."""
        return tuple(
            {c: found for c, tree in nested.items() if (found := _inside(tree, scope.path)) is not None}
            for scope in self.scopes
        )

    def rehearse(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        keep: Sequence[bool],
        groups: Groups | None = None,
    ) -> Region:
        """On ``init``, run the body once without the transform, and make the variables that its calls share.

        Only first values are kept, and only of groups marked in ``keep``. Their initialisers are noted as anywhere in
        ``init``, so that nothing of the body need be computed for them.

        Args:
          function: the body.
          args: its arguments, as one call of it sees them.
          kwargs: its keyword arguments, likewise.
          keep: for each group, whether its new variables are kept.
          groups: the variables as one call sees them.

        Returns:
          The region over the variables as they are then.
        """
        if self.frame.initializing:
            with self._counting_again():
                frame, call = self._frame(
                    groups or self.groups, self.streams, self._mutable, recorder=self.frame.recorder, is_rehearsal=True
                )
                call(function, args, kwargs)
            created = frame.created
            kept = {place: value for place, value in created.items() if keep[self._group_of(place)]}
            if frame.recorder is not None:
                for place in created.keys() - kept.keys():
                    frame.recorder.forget(place)
            self.scopes[0].publish(kept, as_made=True)
            self._take()
        return self

    def stack(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        groups: Groups,
        stacking: Stacking,
    ) -> None:
        """On ``init``, note the variables of which every call of the body has its own, stacked along an axis.

        Args:
          function: the body.
          args: its arguments, as one call of it sees them.
          kwargs: its keyword arguments, likewise.
          groups: the variables as one call sees them.
          stacking: how variables are stacked and keys split.
        """
        outer = self.frame
        if outer.known is not None:
            known = {place: value for place, value in outer.known.items() if self._is_stacked_here(place, stacking)}
            self.scopes[0].publish(known, as_made=True)
        elif outer.recorder is not None:
            streams, origins = self._first_keys(stacking)
            keys = [*outer.recorder.keys, *(key for group in streams for held in group for key in held.values())]
            inner = Recorder(keys)
            with self._counting_again():
                for _ in range(stacking.passes):
                    inner = Recorder(keys)
                    frame, call = self._frame(groups, streams, self._mutable, recorder=inner, is_rehearsal=True)
                    call(function, args, kwargs)
            noted = [
                place for place in frame.created if inner.has_noted(place) and self._is_stacked_here(place, stacking)
            ]
            made = {
                place: outer.recorder.enter_stacked(
                    place,
                    inner,
                    origins,
                    axis=stacking.axes[self._group_of(place)] or 0,
                    size=stacking.size,
                    metadata=stacking.metadata,
                )
                for place in noted
            }
            self.scopes[0].publish(made, as_made=True)
        self._take()

    @contextlib.contextmanager
    def _counting_again(self) -> Iterator[None]:
        """Forget the keys that are drawn in the context, so that the body draws them again."""
        before = {place: dict(counts) for place, counts in self.frame.counters.items()}
        yield
        self.frame.counters.clear()
        self.frame.counters.update(before)

    def _group_of(self, place: Place) -> int:
        return next(i for i, group in enumerate(self.filters) if in_filter(group, place[0]))

    def _is_stacked_here(self, place: Place, stacking: Stacking) -> bool:
        inside = any(place[1 : 1 + len(scope.path)] == scope.path for scope in self.scopes)
        groups = [axis for axis, f in zip(stacking.axes, self.filters, strict=True) if in_filter(f, place[0])]
        return inside and bool(groups) and groups[0] is not None

    def _first_keys(self, stacking: Stacking) -> tuple[Streams, dict[int, Drawn]]:
        """Return the keys of the first call of the body, and where those that come from a split come from."""
        origins: dict[int, Drawn] = {}
        streams: list[Any] = []
        for group, is_split in zip(self.streams, self._splits, strict=True):
            per_scope: list[dict[str, Key]] = []
            for index, keys in enumerate(group):
                held: dict[str, Key] = {}
                for name, key in keys.items():
                    held[name] = jax.random.split(key, stacking.size)[0] if is_split else key
                    if is_split:
                        origins[id(held[name])] = self._starts[index][0][name]
                per_scope.append(held)
            streams.append(tuple(per_scope))
        return tuple(streams), origins

    def fold_streams(self, rng_filter: CollectionFilter) -> list[Start]:
        """Draw a key from each stream at each scope, for a transform inside of which keys begin there."""
        return [
            ({name: scope.draw(name) for name in streams if in_filter(rng_filter, name)}, ())
            for scope, (streams, _) in zip(self.scopes, self._starts, strict=True)
        ]

    def _begin(self, streams: Streams) -> list[Start]:
        """Return for each scope where its keys begin in the body: as outside, with the keys that the body got.

        What comes before a split is folded into the key already.
        """
        starts: list[Start] = []
        for index, (held, path) in enumerate(self._starts):
            begun: dict[str, Drawn] = {}
            for group, is_split in zip(streams, self._splits, strict=True):
                begun.update({name: (key, () if is_split else held[name][1]) for name, key in group[index].items()})
            starts.append((begun, path))
        return starts

    def store(self, group: Group) -> None:
        """Store variables in the frame outside before the body runs, and take them into the region."""
        self.scopes[0].publish(self.changes(group))
        self._take()

    def _take(self) -> None:
        self.groups: Groups = tuple(tuple(scope.export(f) for scope in self.scopes) for f in self.filters)

    def finish(self, written: Written) -> None:
        """Store what a body wrote, and go on counting where its last run ended."""
        for group in written:
            self.scopes[0].publish(group)
        if self._ending is not None:
            self._ending.hand_back()

    def run_in_place(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        starts: Sequence[Start] | None = None,
    ) -> Any:
        """Run the body without the transform during the abstract pass of ``init``, and store what it made and wrote."""
        outer = self.frame
        frame, call = self._frame(
            self.groups,
            self.streams,
            self._mutable,
            starts=starts,
            recorder=outer.recorder,
            is_rehearsal=outer.is_rehearsal,
        )
        output = call(function, args, kwargs)
        for group in self._written(frame):
            self.scopes[0].publish(group, as_made=True)
        outer.created.update(frame.created)
        self.finish(())
        return output

    def _frame(
        self,
        groups: Groups,
        streams: Streams,
        mutable: CollectionFilter,
        *,
        starts: Sequence[Start] | None = None,
        recorder: Any = None,
        is_rehearsal: bool = False,
    ) -> tuple[Frame, Callable[..., Any]]:
        """Return a frame over these variables, and a function that calls another with modules over it."""
        outer = self.frame
        frame = Frame(
            self._nested(groups),
            {},
            mutable=mutable,
            initializing=outer.initializing,
            key_scheme=outer.key_scheme,
            counters=outer.counters,
            known=outer.known,
            recorder=recorder,
            is_rehearsal=is_rehearsal,
        )
        begins = self._begin(streams) if starts is None else starts
        rebinder = Rebinder(frame, {scope.path: start for scope, start in zip(self.scopes, begins, strict=True)})

        def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            try:
                return function(*rebinder.replace(args), **rebinder.replace(dict(kwargs)))
            finally:
                frame.is_open = False
                self._ending = rebinder

        return frame, call

    def _nested(self, groups: Groups) -> dict[str, Any]:
        nested: dict[str, Any] = {}
        for group in groups:
            for scope, variables in zip(self.scopes, group, strict=True):
                for collection, tree in variables.items():
                    node = nested
                    for name in (collection, *scope.path)[:-1]:
                        node = node.setdefault(name, {})
                    node[(collection, *scope.path)[-1]] = tree
        return nested

    def _written(self, frame: Frame) -> Written:
        groups: Written = tuple({} for _ in self.filters)
        for place in frame.written:
            node: Any = frame.variables
            for name in place:
                node = node[name]
            for group, collection_filter in zip(groups, self.filters, strict=True):
                if in_filter(collection_filter, place[0]):
                    group[place] = node
                    break
        return groups


def _outermost(scopes: list[Scope]) -> list[Scope]:
    """Return the scopes without those within another, each once."""
    kept: list[Scope] = []
    for scope in sorted(scopes, key=lambda each: len(each.path)):
        if not any(scope.path[: len(other.path)] == other.path for other in kept):
            kept.append(scope)
    return kept


def _disjoint(filters: Sequence[CollectionFilter]) -> tuple[CollectionFilter, ...]:
    """Return filters of which each accepts what no filter before it does."""
    from_before: CollectionFilter = False
    found: list[CollectionFilter] = []
    for each in filters:
        found.append(_without(each, from_before))
        from_before = union_filters(from_before, each)
    return tuple(found)


def _without(each: CollectionFilter, before: CollectionFilter) -> CollectionFilter:
    from_all = DenyList(before) if before is not False else True
    return intersect_filters(each, from_all)


def _inside(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def to_keys(starts: Sequence[Start]) -> list[dict[str, Key]]:
    """Return the keys at which streams begin, with their numbers folded in."""
    return [{name: fold_numbers(*drawn) for name, drawn in streams.items()} for streams, _ in starts]


def from_keys(keys: Sequence[Mapping[str, Key]]) -> list[Start]:
    """Return streams that begin at these keys."""
    return [({name: (key, ()) for name, key in each.items()}, ()) for each in keys]
