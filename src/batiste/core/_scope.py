"""Scope: the invisible cursor over a nested dict of variables.

A scope stands at a path. A module asks its scope for a parameter by name; on ``init`` the scope enters a value there,
on ``apply`` it hands out the value that it finds. ``push`` gives the scope of a child, one step further down. A scope
also draws random keys, each belonging to its path. It alone owns the names of its place: it remembers who holds each,
so that no two things share one, and counts the numbers of automatic names.

All scopes of a call share a ``Frame``, which owns the variables; a scope itself only knows its path and remembers the
dicts it has found there. The last section is for transforms, which take a scope's variables out of one frame
(``export``), stand over them in another (``rebuild``), and bring changed variables back (``publish``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from batiste._arguments import refused
from batiste.core._boxes import AxisMetadata, unbox
from batiste.core._filters import CollectionFilter, in_filter
from batiste.core._frame import Frame, HasEffects, copy_tree, merge_into
from batiste.core._keys import fold_numbers, hash_parts
from batiste.core._missing import hidden_collection, hidden_stream, missing_stream, missing_variable
from batiste.core._shapes import check_shape
from batiste.core._trace import current_trace, ends_before
from batiste.core._variable import Variable
from batiste.dtypes import is_array_class
from batiste.errors import (
    InvalidScopeError,
    JaxTransformError,
    ModifyScopeVariableError,
    NameInUseError,
    SownInVainError,
    SplitStreamError,
)

if TYPE_CHECKING:
    from batiste.typing import Key

__all__ = ["Scope", "Start", "Streams"]

Streams: TypeAlias = dict[str, tuple["Key", tuple[int, ...]]]
"""For each random stream its base key, and the numbers that are folded into it before those of a draw."""

Start: TypeAlias = tuple[Streams, tuple[str, ...]]
"""Where keys of a scope begin: its streams, and the path that is folded into them."""

_MISSING: Any = object()


class Scope:
    """A cursor at one path of the variables of a call.

    Attributes:
      frame: what all scopes of the call share.
      name: the last name of the path, or None at the top.
      parent: the scope one step up, or None at the top of a frame.
      path: the names from the outermost module down to here.
      names: who holds each name that is taken here: a tuple of collections that have a variable of that name, or else
        what a child is to messages, such as the module.
      numbers: the next number of an automatic name, by what stands before it.
      retakes: whether code runs once more that has taken its names already.

    Example:
      >>> from batiste import core
      >>> scope = core.open_scope({"params": {"dense": {"w": 2.0}}}).push("dense")
      >>> scope.path_text, scope.get_variable("params", "w")
      ('/dense', 2.0)
    """

    __slots__ = (
        "__weakref__", "_key_path", "_nodes", "_streams", "frame", "name", "names", "numbers", "parent", "path",
        "retakes",
    )  # fmt: skip

    def __init__(self, frame: Frame, *, name: str | None = None, parent: Scope | None = None) -> None:
        self.frame = frame
        self.name = name
        self.parent = parent
        if parent is None or name is None:
            self.path: tuple[str, ...] = ()
            self._key_path: tuple[str, ...] = ()
            self._streams: Streams = {stream: (key, ()) for stream, key in frame.streams.items()}
        else:
            self.path = (*parent.path, name)
            self._key_path = (*parent._key_path, name)
            self._streams = parent._streams
        self._nodes: dict[str, Any] = {}
        self.names: dict[str, Any] = {}
        self.numbers: dict[str, int] = {}
        self.retakes = False

    # --- where it stands

    @property
    def root(self) -> Scope:
        """The scope at the top of this frame."""
        return self if self.parent is None else self.parent.root

    @property
    def path_text(self) -> str:
        """The path for people: ``/encoder/Dense_0``."""
        return "/" + "/".join(self.path)

    @property
    def is_initializing(self) -> bool:
        """Whether this call is an ``init``."""
        return self.frame.initializing

    def push(self, name: str | None = None, prefix: str = "", *, reuse: bool = False, holder: object = None) -> Scope:
        """Return the scope of a child.

        Args:
          name: the child's name; without one it is ``prefix`` and the first free number.
          prefix: the beginning of a name that is made up.
          reuse: whether the name may be taken already, for a second look at the same child.
          holder: what the child is, for messages.

        Raises:
          NameInUseError: if the name is taken.
          InvalidScopeError: if the call has ended.
        """
        self.check_open()
        name = name or self.default_name(prefix)
        if name not in self.names or not (reuse or self.retakes):
            self.reserve(name, holder=holder)
        elif holder is not None:
            self.names[name] = holder
        return Scope(self.frame, name=name, parent=self)

    def child(
        self, function: Callable[..., Any], name: str | None = None, prefix: str | None = None
    ) -> Callable[..., Any]:
        """Return ``function`` bound to a child scope: it is called with the arguments that follow the scope.

        Args:
          function: a function whose first argument is a scope.
          name: the child's name; without one it is the function's name and a number.
          prefix: the beginning of a name that is made up.
        """
        if name is None and prefix is None:
            prefix = f"{getattr(function, '__name__', type(function).__name__)}_"
        scope = self.push(name, prefix or "")

        def bound(*args: Any, **kwargs: Any) -> Any:
            return function(scope.rewound(), *args, **kwargs)

        return bound

    def rewound(self, *, rewind_rngs: bool = False) -> Scope:
        """Return a scope at the same place with no names taken, for running the same code again.

        Args:
          rewind_rngs: whether keys are drawn from the beginning, too.
        """
        self.check_open()
        scope = Scope(self.frame, name=self.name, parent=self.parent)
        scope._key_path, scope._streams, scope._nodes = self._key_path, self._streams, self._nodes
        if rewind_rngs:
            for suffix in [s for s in self.frame.counters if s[: len(self.path)] == self.path]:
                del self.frame.counters[suffix]
        return scope

    def close(self) -> None:
        """End the call: from now on its scopes refuse to work."""
        self.frame.is_open = False

    def check_open(self) -> None:
        """Raise ``InvalidScopeError`` if the call that made this scope has ended."""
        if not self.frame.is_open:
            raise InvalidScopeError(path=self.path_text)
        if self.frame.is_noting:
            raise HasEffects

    def check_lasting(self, value: Any, action: str) -> None:
        """Raise ``JaxTransformError`` if a value that is stored here ends with a transform that began after the call.

        While the body of a lifted transform runs, whatever is stored outside of it would be lost.
        """
        frame = self.frame
        if current_trace() != frame.trace and (frame.is_lifting or ends_before(value, frame.trace)):
            raise JaxTransformError(path=self.path_text, action=action)

    # --- names

    def default_name(self, prefix: str) -> str:
        """Return ``prefix`` with the first number that makes it a free name."""
        number = 0
        while f"{prefix}{number}" in self.names:
            number += 1
        return f"{prefix}{number}"

    def child_names(self) -> list[str]:
        """Return the names that children have taken here, in order."""
        return [name for name, held in self.names.items() if _is_child(held)]

    def name_reserved(self, name: str, collection: str | None = None) -> bool:
        """Return whether a variable of ``collection`` (None: a child) may no longer be called ``name``."""
        held = self.names.get(name, _MISSING)
        return held is not _MISSING and (collection is None or _is_child(held) or collection in held)

    def reserve(self, name: str, collection: str | None = None, *, holder: object = None) -> None:
        """Take ``name`` for a child (``collection`` None) or for a variable of a collection.

        One name may be used by variables of different collections.

        Args:
          name: the name.
          collection: the collection of the variable.
          holder: what the child is, for messages.

        Raises:
          NameInUseError: if it is taken.
        """
        held: Any = self.names.get(name, _MISSING)
        if held is _MISSING:
            self.names[name] = holder if collection is None else (collection,)
        elif collection is None or _is_child(held) or collection in held:
            taken_by = "a child" if _is_child(held) else f"a variable of {', '.join(sorted(held))}"
            kind = "a child" if collection is None else f"a variable of {collection}"
            raise NameInUseError(kind=kind, name=name, path=self.path_text, holder=taken_by)
        else:
            self.names[name] = (*held, collection)

    def next_name(self, prefix: str) -> str:
        """Return the next automatic name of a child: the prefix and a number that counts up."""
        number = self.numbers.get(prefix, 0)
        self.numbers[prefix] = number + 1
        return f"{prefix}_{number}"

    def release(self, name: str) -> None:
        """Give back a name, for code that runs once more."""
        self.names.pop(name, None)

    def give_back(self, name: str, holder: object) -> None:
        """Take a name back from a child that is to be none, as if it had never been given; its number, too."""
        if self.names.get(name) is holder:
            del self.names[name]
            prefix, _, number = name.rpartition("_")
            if prefix == type(holder).__name__ and self.numbers.get(prefix) == int(number) + 1:
                self.numbers[prefix] -= 1

    def go_on(self, names: Mapping[str, Any], numbers: Mapping[str, int]) -> None:
        """Go on where another scope at this place ended: its names are taken here, too, and it has counted."""
        for name, held in names.items():
            own: Any = self.names.get(name, _MISSING)
            if own is _MISSING:
                self.names[name] = held
            elif not _is_child(own) and not _is_child(held):
                self.names[name] = tuple(dict.fromkeys((*own, *held)))
        self.numbers = dict(numbers)

    # --- random keys

    @property
    def rngs(self) -> dict[str, Key]:
        """The key that each random stream begins with, by the stream's name."""
        return {name: key for name, (key, _) in self._streams.items()}

    def has_rng(self, name: str) -> bool:
        """Return whether there is a random stream ``name``."""
        return name in self._streams

    def make_rng(self, name: str = "params") -> Key:
        """Return the next key of a stream at this path; streams that were not given fall back to ``params``.

        Raises:
          InvalidRngError: if neither ``name`` nor ``params`` was given.
          SplitStreamError: if this scope is outside of a lifted transform that runs and splits the stream.
        """
        self.check_open()
        splitting = self.frame.splitting
        if splitting is not None and not self.frame.initializing:
            stream = name if name in self._streams else "params"
            if stream in splitting[1]:
                raise SplitStreamError(path=self.path_text, stream=stream, transform=splitting[0])
        return fold_numbers(*self.draw(name))

    def draw(self, name: str) -> tuple[Key, tuple[int, ...]]:
        """Count a draw from a stream; return the stream's base key and the numbers to fold into it."""
        held = self._streams.get(name)
        if held is None:
            held = self._streams.get("params")
            if held is None:
                raise self._no_stream(name)
            name = "params"
        counters = self.frame.counters.get(self.path)
        if counters is None:
            counters = self.frame.counters[self.path] = {}
        count = counters[name] = counters.get(name, 0) + 1
        base, numbers = held
        return base, (*numbers, hash_parts((*self._key_path, count), self.frame.key_scheme))

    # --- variables

    def param(
        self, name: str, init_fn: Callable[..., Any], *init_args: Any, unbox: bool = True, **init_kwargs: Any
    ) -> Any:
        """Return the parameter ``name``: entered on ``init``, handed out on ``apply``.

        Args:
          name: the parameter's name, within this scope.
          init_fn: called as ``init_fn(key, *init_args, **init_kwargs)`` when the parameter is entered.
          *init_args: most often the shape and the dtype.
          unbox: whether a box (``AxisMetadata``) is taken off.
          **init_kwargs: keyword arguments for ``init_fn``.

        Returns:
          The array, or the tree of arrays, that ``init_fn`` makes.

        Raises:
          ArgumentError: if ``init_fn`` is no function.
          ScopeParamNotFoundError: if the variables have no such parameter.
          ScopeParamShapeError: if they have one of another shape than ``init_fn`` makes.
          NameInUseError: if the name is taken.
        """
        frame = self.frame
        if frame.is_noting or not frame.is_open:
            self.check_open()
        if not callable(init_fn):
            advice = f"For a value of its own write param({name!r}, lambda key: value)."
            raise refused(init_fn, "init_fn", self, f"a function that makes the parameter {name!r}", advice)
        self.reserve(name, "params")
        node = self._node("params")
        value = _MISSING if node is None else node.get(name, _MISSING)
        if value is _MISSING:
            if not frame.is_mutable("params"):
                raise self._missing("params", name)  # noqa: EM101 - it makes the error
            value = self._enter("params", name, init_fn, init_args, init_kwargs, drawn=self.draw("params"))
        else:
            check_shape(frame, value, init_fn, init_args, init_kwargs, name=name, path=self.path)
        return _unboxed(value) if unbox else value

    def variable(
        self,
        collection: str,
        name: str,
        init_fn: Callable[..., Any] | None = None,
        *init_args: Any,
        unbox: bool = True,
        **init_kwargs: Any,
    ) -> Variable[Any]:
        """Return a reference to a variable, which is entered if it is not there and the collection may change.

        Args:
          collection: the collection's name.
          name: the variable's name, within this scope.
          init_fn: called as ``init_fn(*init_args, **init_kwargs)``, without a key, when the variable is entered.
          *init_args: arguments of ``init_fn``.
          unbox: whether a box (``AxisMetadata``) is taken off when the value is read.
          **init_kwargs: keyword arguments of ``init_fn``.

        Raises:
          ArgumentError: if ``init_fn`` is no function.
          ScopeCollectionNotFound: if the collection has nothing for this scope and may not change.
          ScopeVariableNotFoundError: if the variable is not there and may not be made.
          NameInUseError: if the name is taken.
        """
        self.check_open()
        if init_fn is not None and not callable(init_fn):
            advice = f"For a value of its own write variable({collection!r}, {name!r}, lambda: value)."
            raise refused(init_fn, "init_fn", self, f"a function that makes the variable {name!r}", advice)
        self.reserve(name, collection)
        if not self.has_variable(collection, name):
            if init_fn is None or not self.frame.is_mutable(collection):
                raise self._missing(collection, name)
            self._enter(collection, name, init_fn, init_args, init_kwargs, drawn=None)
        return Variable(self, collection, name, unbox=unbox)

    def has_variable(self, collection: str, name: str) -> bool:
        """Return whether the variable is there."""
        node = self._node(collection)
        return node is not None and name in node

    def get_variable(self, collection: str, name: str, default: Any = None) -> Any:
        """Return a variable's value, boxes included, or ``default`` where there is none."""
        node = self._node(collection)
        value = default if node is None else node.get(name, default)
        return copy_tree(value) if type(value) is dict else value  # the caller may change its copy

    def put_variable(self, collection: str, name: str, value: Any) -> None:
        """Store a value in a collection that may change; nested dicts are merged into what is there.

        Raises:
          ModifyScopeVariableError: if the collection is not mutable in this call.
          JaxTransformError: if the value depends on a JAX transform that began after the call.
        """
        self.check_open()
        frame = self.frame
        if not frame.is_mutable(collection):
            raise self._not_mutable(collection, name)
        self.check_lasting(value, f"writes {name!r} in {collection!r}")
        place = (collection, *self.path, name)
        frame.written[place] = None
        if frame.recorder is not None and not frame.is_rehearsal:
            frame.recorder.forget(place)
        merge_into(self.own_node(collection), name, copy_tree(value))

    def check_sown(self, collection: str, name: str) -> None:
        """Raise ``SownInVainError`` if a lifted transform loses what is sown into a collection that is mutable outside.

        Not during ``init``, whose result is the variables that a model needs.
        """
        if self.frame.outer is not None and not self.frame.initializing:
            transform = self.frame.loses(collection)
            if transform is not None:
                raise SownInVainError(path=self.path_text, name=name, collection=collection, transform=transform)

    def is_mutable_collection(self, collection: str) -> bool:
        """Return whether variables of ``collection`` may change in this call."""
        return self.frame.is_mutable(collection)

    def is_collection_empty(self, collection: str) -> bool:
        """Return whether ``collection`` has nothing at or below this scope."""
        return not self._node(collection)

    def mutable_variables(self) -> dict[str, Any]:
        """Return what is at and below this scope in the collections that may change."""
        return self.variables_in(self.frame.mutable)

    def variables_in(self, collection_filter: CollectionFilter = True) -> dict[str, Any]:
        """Return what is at and below this scope in the collections that ``collection_filter`` accepts."""
        found: dict[str, Any] = {}
        for collection in self.frame.variables:
            if in_filter(collection_filter, collection):
                node = self._node(collection)
                if node is not None:
                    found[collection] = node
        return found

    def variables(self) -> dict[str, Any]:
        """Return a copy of every collection at and below this scope, with the same leaves."""
        return copy_tree(self.variables_in())

    def own_node(self, collection: str) -> dict[str, Any]:
        """Return this scope's dict in a collection that may change, made if it is not there."""
        node = self._nodes.get(collection)
        if node is None:
            if self.parent is None or self.name is None:
                node = self.frame.variables.setdefault(collection, {})
            else:
                node = self.parent.own_node(collection).setdefault(self.name, {})
            self._nodes[collection] = node
        return node

    def _collection(self, collection: str) -> Any:
        """Return this scope's variables of a collection: for libraries that use this method of Flax's scopes."""
        return self._node(collection) or {}

    def _mutable_collection(self, collection: str) -> dict[str, Any]:
        """Return this scope's variables of a collection, to be changed in place: for the same libraries."""
        if not self.frame.is_mutable(collection):
            raise self._not_mutable(collection, "")
        return self.own_node(collection)

    def _node(self, collection: str) -> Any:
        """Return this scope's dict in a collection, or None."""
        node: Any = self._nodes.get(collection)
        if node is None:
            if self.parent is None:
                node = self.frame.variables.get(collection)
            elif (above := self.parent._node(collection)) is not None:
                node = above.get(self.name)
            held: Any = node  # `node` itself is not to be narrowed to a mapping of unknown things
            if node is None or not (type(held) is dict or isinstance(held, Mapping)):
                return None
            self._nodes[collection] = node
        return node

    def _enter(
        self,
        collection: str,
        name: str,
        init_fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        drawn: tuple[Key, tuple[int, ...]] | None,
    ) -> Any:
        """Make the first value of a variable, and store it. ``drawn`` is the key for it, if it is drawn at all."""
        frame = self.frame
        place = (collection, *self.path, name)
        if frame.known is not None and place in frame.known:
            value = frame.known[place]
        elif frame.recorder is not None:
            value = frame.recorder.enter(frame, place, init_fn, args, kwargs, drawn=drawn)
        else:
            value = init_fn(*args, **kwargs) if drawn is None else init_fn(fold_numbers(*drawn), *args, **kwargs)
            self.check_lasting(value, f"makes the variable {name!r} of {collection!r}")
        frame.written[place] = None
        if frame.is_rehearsal:
            frame.created[place] = value
        self.own_node(collection)[name] = value
        return value

    def _missing(self, collection: str, name: str) -> Exception:
        frame = self.frame
        while not frame.variables.get(collection) and frame.outer is not None:
            inner, frame = frame, frame.outer.frame
            if not inner.hands_on(collection) and (frame.variables.get(collection) or frame.is_mutable(collection)):
                return hidden_collection(frame.variables, collection, name, path=self.path, frame=inner)
        return missing_variable(
            frame.variables, collection, self.path, name, path=self.path, given=frame.variables, frame=frame
        )

    def _not_mutable(self, collection: str, name: str) -> Exception:
        frame = self.frame
        while frame.outer is not None:
            transform, frame = frame.transform, frame.outer.frame
            if frame.is_mutable(collection):
                return ModifyScopeVariableError(
                    path=self.path_text,
                    name=name,
                    collection=collection,
                    mutable=f"nn.{transform} hands nothing of it out",
                    advice=f"Tell nn.{transform} that the collection {collection!r} comes out of its body.",
                )
        return ModifyScopeVariableError(
            path=self.path_text,
            name=name,
            collection=collection,
            mutable=f"mutable={frame.mutable!r}",
            advice=(
                "Let the call change it and take the new state: "
                f"y, new_state = model.apply(variables, ..., mutable=[{collection!r}])."
            ),
        )

    def _no_stream(self, name: str) -> Exception:
        scope: Scope = self
        while scope.frame.outer is not None:
            transform, scope = scope.frame.transform, scope.frame.outer
            if name in scope._streams or "params" in scope._streams:
                return hidden_stream(scope._streams, name, path=self.path, transform=transform)
        return missing_stream(scope._streams, name, path=self.path)

    # --- for transforms

    def export(self, collection_filter: CollectionFilter = True) -> dict[str, Any]:
        """Return copies (of the dicts, not the leaves) of the collections that the filter accepts, from here down."""
        return copy_tree(self.variables_in(collection_filter))

    @property
    def start(self) -> Start:
        """The streams at this scope, and the part of its path that keys depend on beside them."""
        return self._streams, self._key_path

    def rebuild(self, frame: Frame, starts: Mapping[tuple[str, ...], Start]) -> Scope:
        """Return the scope at this path in another frame.

        Args:
          frame: the frame.
          starts: for some paths, the streams there.
        """
        scope = Scope(frame)
        for name in (None, *self.path):
            if name is not None:
                scope = Scope(frame, name=name, parent=scope)
            if scope.path in starts:
                scope._streams, scope._key_path = starts[scope.path]
        return scope

    def publish(self, written: Mapping[tuple[str, ...], Any], *, as_made: bool = False) -> None:
        """Store what the body of a transform wrote: values by collection, path from the top and name.

        Args:
          written: the values.
          as_made: whether the values are first ones, as the recorder of ``init`` has noted them.
        """
        root = self.root
        for place, value in written.items():
            collection, *path, name = place
            scope = root
            for step in path:
                scope = Scope(self.frame, name=step, parent=scope)
            if as_made:
                scope.own_node(collection)[name] = value
                self.frame.written[place] = None
            else:
                scope.put_variable(collection, name, value)

    def __repr__(self) -> str:
        return f"Scope({self.path_text!r})"


def _is_child(holder: Any) -> bool:
    """Return whether who holds a name is a child, and not a tuple of collections with variables."""
    return type(holder) is not tuple


def _unboxed(value: Any) -> Any:
    """Return ``value`` without its box; arrays pass at once."""
    if is_array_class(value.__class__):
        return value
    if isinstance(value, AxisMetadata) or not hasattr(value, "dtype"):
        return unbox(value)
    return value
