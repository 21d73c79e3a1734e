"""What the layouts of a region share: groups of variables as a loop carries them on, and keys for each call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import jax

from batiste.core import CollectionFilter, Start, copy_tree, fold_numbers, in_filter
from batiste.errors import LoopVariableError, TransformedModuleError
from batiste.module import Blueprint, Group, Groups, Place, Region, Written
from batiste.typing import Key

__all__ = [
    "check_carried",
    "fold_streams",
    "from_keys",
    "held",
    "leaves",
    "region_of",
    "split_keys",
    "to_keys",
    "whole",
]


def region_of(
    transform: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    variables: Sequence[CollectionFilter],
    rngs: Sequence[CollectionFilter],
    *,
    mutable: Sequence[bool] | None = None,
    splits: Sequence[bool] | None = None,
) -> Region:
    """Return the region of a call of a lifted function, whose first argument is a bound module.

    Raises:
      TransformedModuleError: if it is none.
    """
    first = args[0] if args else None
    if not isinstance(first, Blueprint) or first.scope is None:
        kind = "an unbound" if isinstance(first, Blueprint) else "an object of type"
        raise TransformedModuleError(
            transform=transform,
            function=getattr(function, "__name__", repr(function)),
            given=f"{kind} {type(first).__name__}" if args else "no arguments",
        )
    return Region.take((args, kwargs), variables, rngs, transform=transform, mutable=mutable, splits=splits)


# --- variables


def whole(region: Region, index: int, groups: Groups, written: Written) -> Group:
    """Return one group of collections with what a body wrote put in: what a loop carries on."""
    nested = copy_tree(region.nested((groups[index],)))
    for place, value in written[index].items():
        node = nested
        for name in place[:-1]:
            node = node.setdefault(name, {})
        node[place[-1]] = value
    return tuple(
        {c: found for c, tree in nested.items() if (found := _inside(tree, scope.path)) is not None}
        for scope in region.scopes
    )


def held(region: Region, group: Group, place: Place) -> Any:
    """Return the value of a variable in a group, or None."""
    return _inside(region.nested((group,)), place)


def leaves(region: Region, group: Group, places: Collection[Place] | None = None) -> dict[Place, Any]:
    """Return the leaves of a group by place.

    Args:
      region: the region of the transform.
      group: the group.
      places: only leaves at or below these; by default all in collections that may change.
    """
    found: dict[Place, Any] = {}

    def visit(place: Place, value: Any) -> None:
        if isinstance(value, Mapping):
            inner = cast("Mapping[str, Any]", value)
            for name, item in inner.items():
                visit((*place, name), item)
        elif region.frame.is_mutable(place[0]) if places is None else _is_within(place, places):
            found[place] = value

    for collection, tree in region.nested((group,)).items():
        visit((collection,), tree)
    return found


def check_carried(region: Region, group: Group, written: Collection[Place]) -> None:
    """Raise ``LoopVariableError`` if a body wrote a variable that a carried group does not have."""
    new = [place for place in written if not leaves(region, group, [place])]
    if new:
        names = ", ".join(sorted("/".join(place) for place in new))
        raise LoopVariableError(transform=region.transform, path=region.path, names=names)


def _is_within(place: Place, places: Collection[Place]) -> bool:
    return any(place[: len(other)] == other for other in places)


def _inside(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = cast("Any", tree)[name]
    return tree


# --- keys


def split_keys(region: Region, size: int) -> Any:
    """Return the keys in groups, split into one for each call of the body where that is asked for."""

    def split(key: Key) -> Key:
        return jax.random.split(key, size)

    return tuple(
        jax.tree.map(split, group) if is_split else group
        for group, is_split in zip(region.streams, region.splits, strict=True)
    )


def fold_streams(region: Region, rng_filter: CollectionFilter) -> list[Start]:
    """Draw a key from each stream at the first module's scope, for a transform inside of which keys begin there.

    At the scopes of modules from elsewhere keys begin with the stream's own key, and their path is left out: as in
    Flax Linen, whose keys are reproduced here.
    """
    starts: list[Start] = []
    for scope, (streams, _) in zip(region.scopes, region.starts, strict=True):
        is_first = region.is_first(scope)
        names = [name for name in streams if in_filter(rng_filter, name)]
        starts.append(({name: scope.draw(name) if is_first else streams[name] for name in names}, ()))
    return starts


def to_keys(starts: Sequence[Start]) -> list[dict[str, Key]]:
    """Return the keys at which streams begin, with their numbers folded in."""
    return [{name: fold_numbers(*drawn) for name, drawn in streams.items()} for streams, _ in starts]


def from_keys(keys: Sequence[Mapping[str, Key]]) -> list[Start]:
    """Return streams that begin at these keys."""
    return [({name: (key, ()) for name, key in each.items()}, ()) for each in keys]
