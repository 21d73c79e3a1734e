"""The errors for a variable or a stream that is not there: how far what was given leads, and the nearest name.

Variables are missing in two ways. Either the whole collection is missing or empty (``ScopeCollectionNotFound``): most
often the variables were passed without their wrapper, or a collection was left out. Or the collection is there and the
path leads nowhere: then the error names the last place on the path that exists, and what it holds.

Collections and streams may also be given and not handed on: a lifted transform hands in those that it is told of. Then
the error names the transform and its option.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from batiste.errors import (
    BatisteError,
    InvalidRngError,
    ScopeCollectionNotFound,
    ScopeParamNotFoundError,
    ScopeVariableNotFoundError,
    nearest,
)

if TYPE_CHECKING:
    from batiste.core._frame import Frame

__all__ = ["hidden_collection", "hidden_stream", "missing_stream", "missing_variable"]


def missing_variable(
    variables: Mapping[str, Any],
    collection: str,
    suffix: tuple[str, ...],
    name: str,
    *,
    path: tuple[str, ...],
    given: Mapping[str, Any] | None = None,
    frame: Frame | None = None,
) -> BatisteError:
    """Return the error for a variable that is not there.

    Args:
      variables: the variables of the call, by collection.
      collection: the collection that should hold the variable.
      suffix: where in ``variables`` the scope stands.
      name: the variable's name in that scope.
      path: where the scope stands from the outermost module on.
      given: the variables that the user gave, where a transform has made others of them.
      frame: the frame of the scope.
    """
    where = _text(path)
    given = variables if given is None else given
    top = variables.get(collection)
    if not isinstance(top, Mapping) or not top:
        return ScopeCollectionNotFound(
            path=where,
            name=name,
            collection=collection,
            known=_collections(given),
            advice=_advice(given, collection, path, name, is_init=frame is not None and frame.initializing),
        )
    node = cast("Mapping[str, Any]", top)
    depth = 0
    while depth < len(suffix) and isinstance(node.get(suffix[depth]), Mapping):
        node = cast("Mapping[str, Any]", node[suffix[depth]])
        depth += 1
    names = [str(key) for key in node]
    place = _text(path[: len(path) - len(suffix) + depth])
    held = f"{place} holds {', '.join(sorted(names)) or 'nothing'}"
    near = nearest((*suffix, name)[depth], names)
    if collection == "params":
        full = "/".join(("params", *path, name))
        return ScopeParamNotFoundError(path=where, name=name, held=held, nearest=near, full=full)
    return ScopeVariableNotFoundError(path=where, name=name, collection=collection, held=held, nearest=near)


def _text(path: tuple[str, ...]) -> str:
    return "/" + "/".join(path)


def _collections(given: Mapping[str, Any]) -> str:
    return "collections " + ", ".join(map(repr, given)) if given else "no collections at all"


def _advice(variables: Mapping[str, Any], collection: str, path: tuple[str, ...], name: str, *, is_init: bool) -> str:
    if is_init:
        return f"Let init make it: mutable=True, or a filter with {collection!r}."
    if collection in variables:
        return f"The collection {collection!r} is empty: initialise the variables with this very blueprint."
    misspelt = difflib.get_close_matches(collection, map(str, variables), n=1)
    if misspelt:
        return f"The collection {misspelt[0]!r} is misspelt: write {collection!r}."
    if collection == "params" and not variables:
        return "Pass what init returned: variables = model.init(key, x), then model.apply(variables, x)."
    if collection == "params" and (*path, name)[0] in variables:
        return "Wrap the parameters: apply({'params': params}, ...); init returns them so wrapped."
    if collection == "params":
        return (
            "Put the parameters beside them: apply({'params': params, **collections}, ...). What apply returns with "
            "mutable=[...] are the collections that changed, and no others: variables = {**variables, **changed}."
        )
    return (
        f"Pass what init returned whole ({{'params': ..., {collection!r}: ...}}), or let this call make it: "
        f"mutable=[{collection!r}]."
    )


def hidden_collection(
    given: Mapping[str, Any], collection: str, name: str, *, path: tuple[str, ...], frame: Frame
) -> BatisteError:
    """Return the error for a variable of a collection that a lifted transform does not hand in.

    Args:
      given: the variables outside of the transform.
      collection: the collection.
      name: the variable's name.
      path: where the scope stands that looks for it.
      frame: the frame of the transform's body.
    """
    given_text = "none yet, since this is init" if frame.initializing and not given else _collections(given)
    options = {
        "vmap": f"variable_axes={{{collection!r}: 0}} (each entry has its own), or {{{collection!r}: None}} (shared)",
        "scan": (
            f"variable_axes={{{collection!r}: 0}} (each step has its own), variable_broadcast={collection!r} (shared), "
            f"or variable_carry={collection!r} (handed from step to step)"
        ),
        "while_loop": f"broadcast_variables={collection!r} (only read), or carry_variables={collection!r}",
    }
    option = options.get(frame.transform, f"variables=True, or a filter with {collection!r}")
    streams = {"vmap": "split_rngs", "scan": "split_rngs"}.get(frame.transform)
    rngs = f"; and {streams}={{'params': True}}, so that init has keys inside" if streams and frame.initializing else ""
    return ScopeCollectionNotFound(
        path=_text(path),
        name=name,
        collection=collection,
        known=f"{given_text}; nn.{frame.transform} hands in those that it is told of",
        advice=f"Tell nn.{frame.transform}: {option}{rngs}.",
    )


def hidden_stream(streams: Iterable[str], name: str, *, path: tuple[str, ...], transform: str) -> BatisteError:
    """Return the error for a random stream that a lifted transform does not hand in.

    Args:
      streams: the names of the streams outside of the transform.
      name: the stream.
      path: where the scope stands that draws from it.
      transform: the transform's name.
    """
    given = list(streams)
    told = name if name in given else "params"
    split = f"split_rngs={{{told!r}: True}} (each call draws its own numbers), or {{{told!r}: False}} (all the same)"
    option = split if transform in {"vmap", "scan", "while_loop"} else f"rngs=True, or a filter with {told!r}"
    return InvalidRngError(
        path=_text(path),
        problem=f"it needs the stream {name!r}, and nn.{transform} hands in those of the streams given, "
        f"{', '.join(map(repr, given))}, that it is told of",
        nearest="",
        advice=f"Tell nn.{transform}: {option}.",
    )


def missing_stream(streams: Iterable[str], name: str, *, path: tuple[str, ...]) -> BatisteError:
    """Return the error for a random stream that was not given.

    Args:
      streams: the names of those that were given.
      name: the stream.
      path: where the scope stands that draws from it.
    """
    given = list(streams)
    return InvalidRngError(
        path=_text(path),
        problem=f"it needs the stream {name!r}, and the streams given are: {', '.join(map(repr, given)) or 'none'}",
        nearest=nearest(name, given),
        advice=f"Give a key for it: rngs={{{name!r}: jax.random.key(0)}}, with those of the other streams beside it.",
    )
