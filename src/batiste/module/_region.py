"""A region: modules as a pure function of their variables and random streams, for a JAX transform around them.

A JAX transform takes a pure function of arrays. What is to be transformed is a function of modules. Between the two:

1. ``Region.take`` finds the modules among some arguments, and takes the variables of their scopes out of the frame, in
   groups that the transform treats differently (mapped, carried, shared), and the base keys of the streams likewise.
2. Inside of the transform ``run`` gets those groups as the transform hands them in. It makes a frame of its own, puts
   the modules over it (``_rebind.py``), calls the function, and returns its result and the variables that it wrote.
3. ``publish`` stores what was written in the frame outside, and goes on counting names and keys where the body ended.

A body may be run more than once (the branches of a conditional, a loop); each run starts from the same variables. Which
axes variables have, which keys a call gets and where its results go is the transform's own: its layout. Every lifted
transform and ``Repeat`` is such a layout. On ``init`` a body also makes variables: ``run_in_place`` runs it without the
transform, and a layout that wants other first values gives ``open`` a recorder that notes them, or knows them already
and hands them to ``run`` as ``premade``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self, TypeAlias, cast

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
    fold_numbers,
    in_filter,
    intersect_filters,
    union_filters,
)
from batiste.errors import MixedCallsError, TransformedMethodReturnValueError, TransformedModuleError
from batiste.module._blueprint import Blueprint
from batiste.module._rebind import Rebinder, modules_in, outer_modules, variable_scopes
from batiste.module._wrap import wrap_method_once
from batiste.typing import Key

__all__ = ["Group", "Groups", "KeyGroups", "Place", "Region", "Written"]

Place: TypeAlias = tuple[str, ...]
"""The collection, the path and the name of a variable."""

Group: TypeAlias = tuple[dict[str, Any], ...]
"""One group of collections: for each scope of the region, its variables by collection."""

Groups: TypeAlias = tuple[Group, ...]
"""All groups, one for each filter."""

KeyGroups: TypeAlias = tuple[tuple[dict[str, Key], ...], ...]
"""The base keys in groups, one for each filter: for each scope of the region, its keys by stream."""

Written: TypeAlias = tuple[dict[Place, Any], ...]
"""Variables by place, one dict for each group of collections."""


class Region:
    """The variables and random streams of some modules, on their way through a JAX transform.

    Attributes:
      streams: the base keys in groups, one for each filter: for each of ``scopes`` a dict by stream.
      filters: the filter of each group of collections; none accepts what another accepts.
      splits: for each group of streams whether its keys are split between calls of the body.
      scopes: the outermost scopes of the modules, none within another.
      starts: where the keys of each scope begin outside.
      frame: the frame outside.
      path: the path of the first module, for messages.
      transform: the name of the transform, for messages.
      first: first values of variables that the body may make, as they are stored outside.
      entered: the places of those that it has made.

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> def again_for_gradients(module, x):
      ...     region = nn.Region.take(module)
      ...     if region.is_initializing:
      ...         return region.run_in_place(nn.Dense.__call__, (module, x))
      ...
      ...     @jax.checkpoint
      ...     def body(variables, streams, x):
      ...         return region.run(nn.Dense.__call__, variables, streams, (module, x))
      ...
      ...     y, written = body(region.variables, region.streams, x)
      ...     region.publish(written)
      ...     return y
    """

    def __init__(
        self,
        arguments: Any,
        modules: list[Blueprint],
        first: Scope,
        filters: tuple[CollectionFilter, ...],
        rngs: tuple[CollectionFilter, ...],
        *,
        transform: str,
        mutable: Sequence[bool] | None,
        splits: Sequence[bool] | None,
    ) -> None:
        scopes = [module.scope for module in modules if module.scope is not None]
        self.transform, self.filters = transform, filters
        self.frame: Frame = scopes[0].frame
        scopes += variable_scopes(arguments, self.frame)
        self.path = scopes[0].path_text
        self.scopes = _outermost(scopes)
        self.starts = [scope.start for scope in self.scopes]
        self.splits = tuple(splits or [False] * len(rngs))
        self.streams: KeyGroups = tuple(
            tuple(
                {n: fold_numbers(*drawn) if is_split else drawn[0] for n, drawn in streams.items() if in_filter(f, n)}
                for streams, _ in self.starts
            )
            for f, is_split in zip(rngs, self.splits, strict=True)
        )
        change: CollectionFilter = False
        for each, may_change in zip(filters, mutable or [True] * len(filters), strict=True):
            change = union_filters(change, each) if may_change else change
        self._mutable = intersect_filters(self.frame.mutable, change)
        self._first, self._arguments = first.path, arguments
        self.first: Mapping[Place, Any] = {}
        self.entered: dict[Place, None] = {}
        self._rebinder = Rebinder(modules, self.frame)
        self._endings: list[Callable[[], None]] = []
        self._variables: Groups | None = None

    @classmethod
    def take(
        cls,
        arguments: Any,
        variables: Sequence[CollectionFilter] = (True,),
        rngs: Sequence[CollectionFilter] = (True,),
        *,
        transform: str = "Region.take",
        mutable: Sequence[bool] | None = None,
        splits: Sequence[bool] | None = None,
    ) -> Self:
        """Take the variables and streams of the modules among some arguments.

        Args:
          arguments: a bound module, or nested containers with bound modules, variables and other things among them.
          variables: the filter of each group of collections; a collection belongs to the first that accepts it, and
            one that none accepts is not seen inside.
          rngs: the filter of each group of random streams, likewise.
          transform: the name of the transform, for messages.
          mutable: for each group of collections whether the body may change it; by default all that may change outside.
          splits: for each group of streams whether the transform splits its keys between calls of the body; what comes
            before is folded into such a key already.

        Raises:
          InvalidScopeError: if the call that the modules belong to has ended.
          MixedCallsError: if they belong to different calls.
          TransformedModuleError: if there is no bound module.
        """
        modules, given = modules_in(arguments), outer_modules(arguments)
        scopes = [module.scope for module in modules if module.scope is not None]
        if not scopes:
            kind = f"an unbound {type(given[0]).__name__}" if given else "no module"
            raise TransformedModuleError(transform=transform, function="arguments", given=kind)
        if any(scope.frame is not scopes[0].frame for scope in scopes):
            raise MixedCallsError(transform=transform, paths=", ".join(scope.path_text for scope in scopes))
        scopes[0].check_open()
        first = next((module.scope for module in given if module.scope is not None), scopes[0])
        groups = _disjoint(variables), _disjoint(rngs)
        return cls(arguments, modules, first, *groups, transform=transform, mutable=mutable, splits=splits)

    @property
    def is_initializing(self) -> bool:
        """Whether this call is an ``init``, in which a body makes variables."""
        return self.frame.initializing

    @property
    def variables(self) -> Groups:
        """The variables in groups, one for each filter: for each of ``scopes`` a dict by collection."""
        if self._variables is None:
            self._variables = tuple(tuple(scope.export(f) for scope in self.scopes) for f in self.filters)
        return self._variables

    def renew(self) -> None:
        """Take the variables as they are outside by now, when they are asked for."""
        self._variables = None

    # --- the body

    def run(
        self,
        body: Callable[..., Any],
        variables: Groups,
        streams: KeyGroups,
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        mutable: CollectionFilter | None = None,
        starts: Sequence[Start] | None = None,
        premade: Mapping[Place, Any] | None = None,
    ) -> tuple[Any, Written]:
        """Call ``body`` with its modules over these variables and streams; return its result and what it wrote.

        It is a pure function of arrays: it changes nothing outside.

        Args:
          body: called with ``args`` and ``kwargs``, in which every bound module and every ``Variable`` is replaced by
            one over ``variables``. Its first argument is a module, in which it runs like a method, unless it is marked
            ``nowrap``.
          variables: the variables, grouped as ``self.variables``.
          streams: the base keys, grouped as ``self.streams``.
          args: arguments, modules of this region among them; by default what ``take`` was given, alone.
          kwargs: keyword arguments.
          mutable: which collections the body may change; by default what the region allows.
          starts: for each scope, where its keys begin; by default they go on as outside.
          premade: first values as this call sees them: they count as written only if the body changes them.

        Returns:
          What ``body`` returns, and for each group of collections the values that it wrote, by place.

        Raises:
          TransformedMethodReturnValueError: if the body returns a module or a variable.
        """
        frame, call = self.open(variables, streams, mutable=mutable, starts=starts, known=premade)
        output = call(wrap_method_once(body), (self._arguments,) if args is None else args, kwargs or {})
        return output, self.written(frame, premade or {})

    def run_in_place(
        self,
        body: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        *,
        starts: Sequence[Start] | None = None,
    ) -> Any:
        """Run the body without a transform, and store what it made and wrote: what most transforms do on ``init``.

        Args:
          body: called with ``args`` and ``kwargs``, as ``run`` does.
          args: arguments, the modules of this region among them.
          kwargs: keyword arguments.
          starts: for each scope, where its keys begin; by default they go on as outside.
        """
        outer = self.frame
        frame, call = self.open(
            self.variables,
            self.streams,
            starts=starts,
            recorder=outer.recorder,
            known=outer.known,
            is_rehearsal=outer.is_rehearsal,
        )
        output = call(wrap_method_once(body), args, kwargs or {})
        for group in self.written(frame):
            self.store(group, as_made=self.is_initializing)
        outer.created.update(frame.created)
        self.publish(())
        return output

    def open(
        self,
        variables: Groups,
        streams: KeyGroups,
        *,
        mutable: CollectionFilter | None = None,
        starts: Sequence[Start] | None = None,
        recorder: Recorder | None = None,
        known: Mapping[Place, Any] | None = None,
        is_rehearsal: bool = False,
    ) -> tuple[Frame, Callable[..., Any]]:
        """Return a frame over these variables, and a function that calls another with modules over it.

        For layouts that need more than ``run``: ``recorder``, ``known`` and ``is_rehearsal`` are the frame's.
        """
        outer = self.frame
        frame = Frame(
            self.nested(variables),
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
            lifted=self.filters,
        )
        begins = self._begin(streams) if starts is None else starts
        rebound = self._rebinder.over(frame, {s.path: start for s, start in zip(self.scopes, begins, strict=True)})

        def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            before = outer.is_lifting, outer.splitting
            outer.is_lifting, outer.splitting = True, self._splitting()
            try:
                output = function(*rebound.replace(args), **rebound.replace(dict(kwargs)))
            finally:
                outer.is_lifting, outer.splitting = before
                frame.is_open = False
                self._endings = rebound.endings()
            leaves: list[Any] = jax.tree.leaves(output)
            for leaf in leaves:
                if isinstance(leaf, Blueprint | Variable):
                    kind = type(cast("Any", leaf)).__name__
                    raise TransformedMethodReturnValueError(path=self.path, given=kind)
            return output

        return frame, call

    # --- what it wrote

    def written(self, frame: Frame, premade: Mapping[Place, Any] = MappingProxyType({})) -> Written:
        """Return what was written in a frame over this region: for each group of collections values by place.

        Args:
          frame: the frame.
          premade: first values that it was given; where they are still there, they count as entered, not as written.
        """
        groups: Written = tuple({} for _ in self.filters)
        for place in frame.written:
            value: Any = frame.variables
            for name in place:
                value = value[name]
            index = self.group_of(place)
            if place in premade and _has_same_leaves(value, premade[place]):
                self.entered[place] = None
            elif index is not None:
                groups[index][place] = value
        return groups

    def publish(self, written: Written) -> None:
        """Store what a body wrote, and what it made of ``first``; go on counting where its last run ended.

        Args:
          written: for each group of collections values by place, as ``run`` returns them. A layout may give other
            values, or other places: what it gives is what is stored.

        Raises:
          ModifyScopeVariableError: if a collection may not change.
        """
        self.store({place: self.first[place] for place in self.entered}, as_made=True)
        for group in written:
            self.store(group)
        for go_on in self._endings:
            go_on()

    def store(self, values: Mapping[Place, Any], *, as_made: bool = False) -> None:
        """Store variables outside.

        Args:
          values: the variables by place.
          as_made: whether they are first values, which ``init`` may have noted.
        """
        if self.frame.is_rehearsal:
            for place, value in values.items():
                if not self._has(place):
                    self.frame.created[place] = value
        self.scopes[0].publish(values, as_made=as_made)

    def group_of(self, place: Place) -> int | None:
        """Return the number of the group that a variable of this region belongs to, or None."""
        if not any(place[1 : 1 + len(scope.path)] == scope.path for scope in self.scopes):
            return None
        return next((i for i, group in enumerate(self.filters) if in_filter(group, place[0])), None)

    def nested(self, groups: Groups) -> dict[str, Any]:
        """Return groups of variables as one nested dict: collection, path from the outermost module, name."""
        nested: dict[str, Any] = {}
        for group in groups:
            for scope, variables in zip(self.scopes, group, strict=True):
                for collection, tree in variables.items():
                    node = nested
                    for name in (collection, *scope.path)[:-1]:
                        node = node.setdefault(name, {})
                    node[(collection, *scope.path)[-1]] = tree
        return nested

    # --- keys

    def is_first(self, scope: Scope) -> bool:
        """Return whether the first module among the arguments lies at or below one of ``scopes``."""
        return self._first[: len(scope.path)] == scope.path

    def counts(self) -> dict[tuple[str, ...], dict[str, int]]:
        """Return how many keys each path has drawn from each stream so far."""
        return {path: dict(counts) for path, counts in self.frame.counters.items()}

    def count_from(self, counts: Mapping[tuple[str, ...], Mapping[str, int]]) -> None:
        """Go on counting keys from an earlier state, so that the body draws them again."""
        self.frame.counters.clear()
        self.frame.counters.update({path: dict(each) for path, each in counts.items()})

    @contextlib.contextmanager
    def counting_again(self) -> Generator[None, None, None]:
        """Forget the keys that are drawn in the context."""
        before = self.counts()
        try:
            yield
        finally:
            self.count_from(before)

    def _splitting(self) -> tuple[str, frozenset[str]] | None:
        """Return the streams that modules outside may not draw from while the body runs."""
        splitting = self.frame.splitting
        names = splitting[1] if splitting is not None else frozenset[str]()
        for group, is_split in zip(self.streams, self.splits, strict=True):
            if is_split:
                names = names.union(*group)
        return (self.transform, names) if names else None

    def _begin(self, streams: KeyGroups) -> list[Start]:
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

    # --- places

    def _has(self, place: Place) -> bool:
        node: Any = self.frame.variables
        for name in place:
            if not isinstance(node, Mapping) or name not in node:
                return False
            node = cast("Any", node)[name]
        return True


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
    if len(filters) == 1:
        return tuple(filters)
    from_before: CollectionFilter = False
    found: list[CollectionFilter] = []
    for each in filters:
        from_all = DenyList(from_before) if from_before is not False else True
        found.append(intersect_filters(each, from_all))
        from_before = union_filters(from_before, each)
    return tuple(found)
