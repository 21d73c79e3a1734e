"""A frame: what all scopes of one call share.

``init``, ``apply`` and the body of every lifted transform each have a frame of their own: the variables by collection,
which of them may change, the random streams, and how often each path has drawn from each stream. A frame ends with its
call; scopes of an ended frame refuse to work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from batiste.core._filters import CollectionFilter, in_filter
from batiste.core._trace import current_trace, is_eager

if TYPE_CHECKING:
    from batiste.core._keys import KeyScheme
    from batiste.typing import Key

__all__ = ["Frame", "HasEffects", "copy_tree", "merge_into"]


class HasEffects(BaseException):
    """An initialiser that is only looked at draws a key, or makes or writes a variable. Never leaves the core."""


class Frame:
    """What all scopes of one call share.

    Attributes:
      variables: the collections; those that may change are this frame's own dicts, the others the caller's.
      mutable: the filter of collections that may change.
      streams: the base key of each random stream.
      key_scheme: how paths are folded into keys.
      initializing: whether this is an ``init``.
      recorder: notes initial values instead of computing them, during the abstract pass of ``init``.
      known: values that this pass hands out instead of running their initialisers, by path.
      counters: how often a path has drawn from a stream.
      written: the places that were written in this frame, in order.
      is_rehearsal: whether this frame only finds out which variables are made, and with which first values.
      created: the first values that a rehearsal made, by place.
      adopted: the modules that were taken in from outside, by the identity of the original.
      is_noting: whether an initialiser is only looked at, so that it may not draw, write or make anything.
      is_open: whether the call is still running.
      outer: for the body of a lifted transform, a scope outside of it; else None. Messages ask it what was given.
      transform: the name of that transform.
      lifted: the filters of the collections that it hands in and out.
      trace: the trace that JAX was in when the call began.
      is_tracing: whether operations of the call are traced rather than run.
      is_lifting: whether the body of a lifted transform runs, in a frame of its own.
      splitting: while it runs: the transform, and the streams that it splits.

    Example:
      >>> from batiste import core
      >>> variables = {"params": {"w": 1.0}, "cache": {"n": 0}}
      >>> frame = core.Frame(variables, {}, mutable="cache")
      >>> frame.is_mutable("params"), frame.mutable_variables()
      (False, {'cache': {'n': 0}})
    """

    __slots__ = (
        "_decided",
        "adopted",
        "counters",
        "created",
        "initializing",
        "is_lifting",
        "is_noting",
        "is_open",
        "is_rehearsal",
        "is_tracing",
        "key_scheme",
        "known",
        "lifted",
        "mutable",
        "outer",
        "recorder",
        "splitting",
        "streams",
        "trace",
        "transform",
        "variables",
        "written",
    )

    def __init__(
        self,
        variables: Mapping[str, Any],
        streams: dict[str, Key],
        *,
        mutable: CollectionFilter = False,
        initializing: bool = False,
        key_scheme: KeyScheme = "linen",
        recorder: Any = None,
        known: Mapping[tuple[str, ...], Any] | None = None,
        counters: dict[tuple[str, ...], dict[str, int]] | None = None,
        is_rehearsal: bool = False,
        outer: Any = None,
        transform: str = "",
        lifted: tuple[CollectionFilter, ...] = (),
    ) -> None:
        self._decided: dict[str, bool] = {}
        self.mutable = mutable
        if mutable is False:
            self.variables = dict(variables)
        else:
            self.variables = {c: copy_tree(v) if in_filter(mutable, c) else v for c, v in variables.items()}
        self.streams = streams
        self.key_scheme: KeyScheme = key_scheme
        self.initializing = initializing
        self.recorder = recorder
        self.known = known
        self.counters: dict[tuple[str, ...], dict[str, int]] = {} if counters is None else counters
        self.written: dict[tuple[str, ...], None] = {}
        self.created: dict[tuple[str, ...], Any] = {}
        self.is_rehearsal = is_rehearsal
        self.adopted: dict[int, Any] = {}
        self.outer, self.transform, self.lifted = outer, transform, lifted
        self.is_noting = False
        self.is_open = True
        self.trace = current_trace()
        self.is_tracing = not is_eager(self.trace)
        self.is_lifting = False
        self.splitting: tuple[str, frozenset[str]] | None = None

    def is_mutable(self, collection: str) -> bool:
        """Return whether variables of ``collection`` may change in this call."""
        decided = self._decided.get(collection)
        if decided is None:
            decided = self._decided[collection] = in_filter(self.mutable, collection)
        return decided

    def hands_on(self, collection: str) -> bool:
        """Return whether the lifted transform of this frame hands a collection in and out."""
        return any(in_filter(each, collection) for each in self.lifted)

    def loses(self, collection: str) -> str | None:
        """Return the lifted transform that keeps a mutable collection from this frame, or None."""
        frame = self
        while frame.outer is not None:
            inner, frame = frame, frame.outer.frame
            if frame.is_mutable(collection):
                return None if inner.hands_on(collection) else inner.transform
        return None

    def mutable_variables(self) -> dict[str, Any]:
        """Return the collections that may change, as they are now."""
        return {c: v for c, v in self.variables.items() if self.is_mutable(c)}


def copy_tree(tree: Any) -> Any:
    """Return nested mappings as nested dicts of their own, with the same leaves.

    Example:
      >>> from batiste import core
      >>> tree = {"a": {"b": 1}}
      >>> copied = core.copy_tree(tree)
      >>> copied["a"]["b"] = 2
      >>> tree
      {'a': {'b': 1}}
    """
    if type(tree) is dict or isinstance(tree, Mapping):  # the usual kind first: the other question costs more
        return {name: copy_tree(value) for name, value in cast("Mapping[str, Any]", tree).items()}
    return tree


def merge_into(node: dict[str, Any], name: str, value: Any) -> None:
    """Store ``value`` under ``name``; dicts of both are merged, at every depth, and what was there is replaced."""
    held = node.get(name)
    if isinstance(held, dict) and isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            merge_into(cast("dict[str, Any]", held), key, item)
    else:
        node[name] = value
