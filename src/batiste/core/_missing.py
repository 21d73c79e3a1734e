"""The errors for a variable that is not there: they say how far the given variables lead, and the nearest name.

Variables are missing in two ways. Either the whole collection is missing or empty (``ScopeCollectionNotFound``): most
often the variables were passed without their wrapper, or a collection was left out. Or the collection is there and the
path leads nowhere: then the error names the last place on the path that exists, and what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from batiste.errors import (
    BatisteError,
    ScopeCollectionNotFound,
    ScopeParamNotFoundError,
    ScopeVariableNotFoundError,
    nearest,
)

__all__ = ["missing_variable"]


def missing_variable(
    variables: Mapping[str, Any], collection: str, suffix: tuple[str, ...], name: str, *, path: tuple[str, ...]
) -> BatisteError:
    """Return the error for a variable that is not there.

    Args:
      variables: the variables of the call, by collection.
      collection: the collection that should hold the variable.
      suffix: where in ``variables`` the scope stands.
      name: the variable's name in that scope.
      path: where the scope stands from the outermost module on.
    """
    where = _text(path)
    top = variables.get(collection)
    if not isinstance(top, Mapping) or not top:
        return ScopeCollectionNotFound(
            path=where,
            name=name,
            collection=collection,
            known="collections " + ", ".join(map(repr, variables)) if variables else "no collections at all",
            advice=_advice(variables, collection),
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


def _advice(variables: Mapping[str, Any], collection: str) -> str:
    if collection in variables:
        return f"The collection {collection!r} is empty: initialise the variables with this very blueprint."
    if collection == "params" and variables:
        near = nearest("params", variables)
        return f"Wrap the parameters: apply({{'params': params}}, ...); init returns them so wrapped.{near}"
    if collection == "params":
        return "Pass what init returned: variables = model.init(key, x), then model.apply(variables, x)."
    near = nearest(collection, variables)
    return (
        f"Pass what init returned whole ({{'params': ..., {collection!r}: ...}}), or let this call make it: "
        f"mutable=[{collection!r}].{near}"
    )
