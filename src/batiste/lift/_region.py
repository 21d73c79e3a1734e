"""A region: the variables and random streams of some modules, on their way through a JAX transform.

A JAX transform takes a pure function of arrays. A lifted transform takes a function of modules. Between the two:

1. ``Region(...)`` finds the modules among the arguments, and takes the variables of their scopes out of the frame, in
   groups that the transform treats differently (mapped, carried, shared), and the base keys of the streams likewise.
2. The transform's body calls ``run`` with those groups as it got them. ``run`` makes a frame of its own, puts the
   modules over it (``_rebind.py``), calls the function, and returns its result together with the variables it wrote.
3. ``finish`` stores what was written in the frame outside, and goes on counting names and keys where the body ended.

A body may be traced more than once (the branches of a conditional, a loop); each run starts from the same variables.
On ``init`` a body also makes variables: ``_first.py`` finds their first values beforehand, and ``run`` hands them out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import jax

from batiste.core import (
    CollectionFilter,
    DenyList,
    Drawn,
    Frame,
    Recorder,
    Scope,
    Start,
    Variable,
    copy_tree,
    fold_numbers,
    in_filter,
    intersect_filters,
    union_filters,
)
from batiste.errors import LoopVariableError, MixedCallsError, TransformedMethodReturnValueError, TransformedModuleError
from batiste.lift._rebind import Rebinder, modules_in
from batiste.module import Blueprint
from batiste.typing import Key

__all__ = ["Group", "Groups", "Place", "Region", "Streams", "Written", "from_keys", "to_keys"]

Place: TypeAlias = tuple[str, ...]
"""The collection, the path and the name of a variable."""

Group: TypeAlias = tuple[dict[str, Any], ...]
"""One group of collections: for each scope of the region, its variables by collection."""

Groups: TypeAlias = tuple[Group, ...]
"""All groups, one for each filter."""

Streams: TypeAlias = tuple[tuple[dict[str, Key], ...], ...]
"""The base keys in groups, one for each filter: for each scope of the region, its keys by stream."""

Written: TypeAlias = tuple[dict[Place, Any], ...]
"""Variables by place, one dict for each group of collections."""


class Region:
    """The variables and streams of the modules among some arguments.

    Attributes:
      transform: the name of the transform, for messages.
      frame: the frame outside.
      scopes: the outermost scopes of the modules, none within another.
      filters: the filter of each group of collections; none accepts what another accepts.
      groups: the variables, for each filter.
      streams: the base keys, for each filter.
      starts: where the keys of each scope begin outside.
      splits: for each group of streams whether its keys are split between calls of the body.
      path: the path of the first module, for messages.
      first: first values of variables that the body may make, as they are stored outside.
      entered: the places of those that it has made.
    """

    def __init__(
        self,
        transform: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        variables: Sequence[CollectionFilter],
        rngs: Sequence[CollectionFilter],
        *,
        mutable: Sequence[bool] | None = None,
        splits: Sequence[bool] | None = None,
    ) -> None:
        first = args[0] if args else None
        if not isinstance(first, Blueprint) or first.scope is None:
            kind = "an unbound" if isinstance(first, Blueprint) else "an object of type"
            raise TransformedModuleError(
                transform=transform,
                function=getattr(function, "__name__", repr(function)),
                given=f"{kind} {type(first).__name__}" if args else "no arguments",
            )
        self.transform = transform
        modules = modules_in((args, kwargs))
        scopes: list[Any] = [module.scope for module in modules if module.scope is not None]
        self.frame: Frame = scopes[0].frame
        self.path = scopes[0].path_text
        self._transform, self._first_path = transform, first.scope.path
        if any(scope.frame is not self.frame for scope in scopes):
            raise MixedCallsError(transform=transform, paths=", ".join(scope.path_text for scope in scopes))
        scopes[0].check_open()
        self.scopes = _outermost(scopes)
        self.filters = _disjoint(variables)
        self.take()
        self.starts = [scope.start for scope in self.scopes]
        self.splits = tuple(splits or [False] * len(rngs))
        self.streams: Streams = tuple(
            tuple(
                {n: fold_numbers(*drawn) if is_split else drawn[0] for n, drawn in streams.items() if in_filter(f, n)}
                for streams, _ in self.starts
            )
            for f, is_split in zip(_disjoint(rngs), self.splits, strict=True)
        )
        allowed = [f for f, change in zip(self.filters, mutable or [True] * len(self.filters), strict=True) if change]
        change: CollectionFilter = False
        for each in allowed:
            change = union_filters(change, each)
        self._mutable = intersect_filters(self.frame.mutable, change)
        self.first: Mapping[Place, Any] = {}
        self.entered: dict[Place, None] = {}
        self._rebinder = Rebinder(modules)
        self._endings: list[Callable[[], None]] = []

    # --- the variables outside

    def take(self) -> None:
        """Take the variables as they are outside now."""
        self.groups: Groups = tuple(tuple(scope.export(f) for scope in self.scopes) for f in self.filters)

    def publish(self, written: Mapping[Place, Any], *, as_made: bool = False) -> None:
        """Store variables outside.

        Args:
          written: the variables by place.
          as_made: whether they are first values, which ``init`` may have noted.
        """
        if self.frame.is_rehearsal:
            for place, value in written.items():
                if not self._has(place):
                    self.frame.created[place] = value
        self.scopes[0].publish(written, as_made=as_made)

    def finish(self, written: Written) -> None:
        """Store what a body made and wrote, and go on counting where its last run ended."""
        self.publish({place: self.first[place] for place in self.entered}, as_made=True)
        for group in written:
            self.publish(group)
        for go_on in self._endings:
            go_on()

    def group_of(self, place: Place) -> int | None:
        """Return the number of the group that a variable of this region belongs to, or None."""
        if not any(place[1 : 1 + len(scope.path)] == scope.path for scope in self.scopes):
            return None
        return next((i for i, group in enumerate(self.filters) if in_filter(group, place[0])), None)

    def _has(self, place: Place) -> bool:
        node: Any = self.frame.variables
        for name in place:
            if not isinstance(node, Mapping) or name not in node:
                return False
            node = cast("Any", node)[name]
        return True

    def by_group(self, values: Mapping[Place, Any]) -> Written:
        """Return variables by place, in a dict for each group; what belongs to no group is left out."""
        groups: Written = tuple({} for _ in self.filters)
        for place, value in values.items():
            index = self.group_of(place)
            if index is not None:
                groups[index][place] = value
        return groups

    def whole(self, index: int, groups: Groups, written: Written) -> Group:
        """Return one group of collections with what a body wrote put in: what a loop carries on."""
        nested = copy_tree(self._nested((groups[index],)))
        for place, value in written[index].items():
            node = nested
            for name in place[:-1]:
                node = node.setdefault(name, {})
            node[place[-1]] = value
        return tuple(
            {c: found for c, tree in nested.items() if (found := _inside(tree, scope.path)) is not None}
            for scope in self.scopes
        )

    def held(self, group: Group, place: Place) -> Any:
        """Return the value of a variable in a group, or None."""
        return _inside(self._nested((group,)), place)

    def leaves(self, group: Group, places: Collection[Place] | None = None) -> dict[Place, Any]:
        """Return the leaves of a group by place.

        Args:
          group: the group.
          places: only leaves at or below these; by default all in collections that may change.
        """
        found: dict[Place, Any] = {}

        def visit(place: Place, value: Any) -> None:
            if isinstance(value, Mapping):
                inner = cast("Mapping[str, Any]", value)
                for name, item in inner.items():
                    visit((*place, name), item)
            elif self.frame.is_mutable(place[0]) if places is None else _is_within(place, places):
                found[place] = value

        for collection, tree in self._nested((group,)).items():
            visit((collection,), tree)
        return found

    def check_carried(self, transform: str, group: Group, written: Collection[Place]) -> None:
        """Raise ``LoopVariableError`` if a body wrote a variable that a carried group does not have."""
        new = [place for place in written if not self.leaves(group, [place])]
        if new:
            names = ", ".join(sorted("/".join(place) for place in new))
            raise LoopVariableError(transform=transform, path=self.path, names=names)

    # --- the body

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
        premade: Mapping[Place, Any] | None = None,
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
          premade: first values as this call sees them: they count as written only if the body changes them.
        """
        allowed = self._mutable if mutable is None else mutable
        frame, call = self.open(groups, streams, mutable=allowed, starts=starts, known=premade)
        output = call(function, args, kwargs)
        return output, self._written(frame, premade or {})

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
        frame, call = self.open(
            self.groups, self.streams, starts=starts, recorder=outer.recorder, is_rehearsal=outer.is_rehearsal
        )
        output = call(function, args, kwargs)
        for group in self._written(frame, {}):
            self.publish(group, as_made=True)
        outer.created.update(frame.created)
        self.finish(())
        return output

    def open(
        self,
        groups: Groups,
        streams: Streams,
        *,
        mutable: CollectionFilter | None = None,
        starts: Sequence[Start] | None = None,
        recorder: Recorder | None = None,
        known: Mapping[Place, Any] | None = None,
        is_rehearsal: bool = False,
    ) -> tuple[Frame, Callable[..., Any]]:
        """Return a frame over these variables, and a function that calls another with modules over it."""
        outer = self.frame
        frame = Frame(
            self._nested(groups),
            {},
            mutable=self._mutable if mutable is None else mutable,
            initializing=outer.initializing,
            key_scheme=outer.key_scheme,
            counters=outer.counters,
            known=known,
            recorder=recorder,
            is_rehearsal=is_rehearsal,
            outer=self.scopes[0],
            transform=self.transform,
        )
        frame.above = (outer, self._transform, self.filters)
        begins = self._begin(streams) if starts is None else starts
        paths = [scope.path for scope in self.scopes]
        rebound = self._rebinder.over(frame, dict(zip(paths, begins, strict=True)))

        def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            before, outer.splitting = outer.splitting, self._splitting(outer)
            try:
                output = function(*rebound.replace(args), **rebound.replace(dict(kwargs)))
            finally:
                outer.splitting = before
                frame.is_open = False
                self._endings = rebound.endings()
            leaves: list[Any] = jax.tree.leaves(output)
            for leaf in leaves:
                if isinstance(leaf, Blueprint | Variable):
                    kind = type(cast("Any", leaf)).__name__
                    raise TransformedMethodReturnValueError(path=self.path, given=kind)
            return output

        return frame, call

    def _splitting(self, outer: Frame) -> tuple[str, frozenset[str]] | None:
        """Return the streams that modules outside may not draw from while the body runs."""
        names = outer.splitting[1] if outer.splitting is not None else frozenset[str]()
        for group, is_split in zip(self.streams, self.splits, strict=True):
            if is_split:
                names = names.union(*group)
        return (self._transform, names) if names else None

    def split_keys(self, size: int) -> Any:
        """Return the keys in groups, split into one for each call of the body where that is asked for."""

        def split(key: Key) -> Key:
            return jax.random.split(key, size)

        return tuple(
            jax.tree.map(split, group) if is_split else group
            for group, is_split in zip(self.streams, self.splits, strict=True)
        )

    def counts(self) -> dict[tuple[str, ...], dict[str, int]]:
        """Return how many keys each path has drawn from each stream so far."""
        return {path: dict(counts) for path, counts in self.frame.counters.items()}

    def count_from(self, counts: Mapping[tuple[str, ...], dict[str, int]]) -> None:
        """Go on counting keys from an earlier state, so that the body draws them again."""
        self.frame.counters.clear()
        self.frame.counters.update(counts)

    @contextlib.contextmanager
    def counting_again(self) -> Generator[None, None, None]:
        """Forget the keys that are drawn in the context."""
        before = self.counts()
        try:
            yield
        finally:
            self.count_from(before)

    def fold_streams(self, rng_filter: CollectionFilter) -> list[Start]:
        """Draw a key from each stream at the first module's scope, for a transform inside of which keys begin there.

        At the scopes of modules from elsewhere keys begin with the stream's own key, and their path is left out: as in
        Flax Linen, whose keys are reproduced here.
        """
        starts: list[Start] = []
        for scope, (streams, _) in zip(self.scopes, self.starts, strict=True):
            is_first = self._first_path[: len(scope.path)] == scope.path
            names = [name for name in streams if in_filter(rng_filter, name)]
            starts.append(({name: scope.draw(name) if is_first else streams[name] for name in names}, ()))
        return starts

    def _begin(self, streams: Streams) -> list[Start]:
        """Return for each scope where its keys begin in the body: as outside, with the keys that the body got.

        What comes before a split is folded into the key already.
        """
        starts: list[Start] = []
        for index, (held, path) in enumerate(self.starts):
            begun: dict[str, Drawn] = {}
            for group, is_split in zip(streams, self.splits, strict=True):
                begun.update({name: (key, () if is_split else held[name][1]) for name, key in group[index].items()})
            starts.append((begun, path))
        return starts

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

    def _written(self, frame: Frame, premade: Mapping[Place, Any]) -> Written:
        written: dict[Place, Any] = {}
        for place in frame.written:
            value: Any = frame.variables
            for name in place:
                value = value[name]
            if place in premade and _has_same_leaves(value, premade[place]):
                self.entered[place] = None
            else:
                written[place] = value
        return self.by_group(written)


def _is_within(place: Place, places: Collection[Place]) -> bool:
    return any(place[: len(other)] == other for other in places)


def _has_same_leaves(tree: Any, other: Any) -> bool:
    leaves, others = jax.tree.leaves(tree), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(map(lambda a, b: a is b, leaves, others))


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
        tree = cast("Any", tree)[name]
    return tree


def to_keys(starts: Sequence[Start]) -> list[dict[str, Key]]:
    """Return the keys at which streams begin, with their numbers folded in."""
    return [{name: fold_numbers(*drawn) for name, drawn in streams.items()} for streams, _ in starts]


def from_keys(keys: Sequence[Mapping[str, Key]]) -> list[Start]:
    """Return streams that begin at these keys."""
    return [({name: (key, ()) for name, key in each.items()}, ()) for each in keys]
