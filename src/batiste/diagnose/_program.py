"""The program of a model, in which every equation knows the module that it belongs to.

The tools of this package look at a model as JAX traces it. While they trace, an interceptor puts a *mark* around each
call of a method: a named scope with the number of the call. JAX keeps named scopes with every equation through
``jit``, ``scan``, ``vmap``, ``remat`` and differentiation, so that the innermost mark of an equation is the call that
made it, whichever way the model is transformed. Interceptors are a part of JAX's cache keys: a program that was traced
with marks is never run by anybody else, and one that was traced without has none.

A *subject* is what is looked at: a module with its variables, or a function of arrays. A *place* is where an equation
stands: its call, whether it belongs to the backward pass, and how many mapped axes it is under.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import ad_checkpoint

from batiste._arguments import function as checked_function
from batiste._arguments import shown
from batiste.core import LayerName, is_tracer, scan_extents, streams_from
from batiste.errors import ApplyScopeInvalidVariablesTypeError, InvalidRngError, ScopeCollectionNotFound
from batiste.module import Blueprint, InterceptorContext, blueprint_fields, intercept_methods
from batiste.tree import flatten, join_path

__all__ = [
    "Call",
    "Calls",
    "Place",
    "Program",
    "Subject",
    "inner_jaxprs",
    "is_closed",
    "is_inexact",
    "is_literal",
    "mark_of",
    "nearest_paths",
    "options_of",
    "path_text",
    "place_in",
    "place_of",
    "scan_extents",
    "source_of",
    "subject_of",
    "trace",
]

_name = cast("Any", ad_checkpoint.checkpoint_name)  # pyright: ignore[reportUnknownMemberType]
_MARK = re.compile(r"batiste:(\d+)")  # XLA cuts a name in its metadata at an @
_VMAP = re.compile(r"(?:^|[/(])vmap\(")
_OWN = ("parent", "name")
_LONGEST = 48
_STREAMS_AT_MOST = 8


class Call(NamedTuple):
    """One call of a method of a module, while a program was traced.

    Attributes:
      number: which call, from 0.
      path: the names from the outermost module.
      kind: the module's class.
      method: the method's name.
      options: the fields that are not the class's defaults, as its constructor takes them.
      inputs: the shapes of what it was called with.
      outputs: the shapes of what it returned; empty until it has.
      above: the number of the call that it was made in, or None.
    """

    number: int
    path: tuple[str, ...]
    kind: str
    method: str
    options: str
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...] = ()
    above: int | None = None

    @property
    def text(self) -> str:
        """The path for people: ``encoder/Dense_0``; the outermost module is its class."""
        return path_text(self.path) or self.kind


class Calls:
    """The calls of one trace, and the interceptor that notes them.

    Args:
      tag_inputs: whether the arrays that a call is given get a name in the program.
      with_options: whether the options of each module are noted, which takes time.
      on_input: is given each call, its module and its arguments, before it is made.
      on_output: is given each call and what it returned, and returns what it returns from then on.
    """

    def __init__(
        self,
        *,
        tag_inputs: bool = False,
        with_options: bool = True,
        on_input: Callable[[Call, Any, Any], None] | None = None,
        on_output: Callable[[Call, Any, Any], Any] | None = None,
    ) -> None:
        self.made: list[Call] = []
        self.modules: dict[int, Any] = {}
        self._above: list[int] = []
        self._tag_inputs, self._with_options = tag_inputs, with_options
        self._on_input, self._on_output = on_input, on_output

    @property
    def current(self) -> Call | None:
        """The innermost call that is being made, or None."""
        return self.made[self._above[-1]] if self._above else None

    @contextlib.contextmanager
    def noting(self) -> Generator[None]:
        """Note every call while the context lasts."""
        with intercept_methods(self._note):
            yield

    def _note(self, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: InterceptorContext) -> Any:
        module = context.module
        if module.scope is None or context.method_name == "setup":
            return method(*args, **kwargs)
        number = len(self.made)
        given = _shapes((args, kwargs))
        above = self._above[-1] if self._above else None
        call = Call(
            number, _path_of(module), type(module).__name__, context.method_name,
            options_of(module) if self._with_options else "", given, (), above,
        )  # fmt: skip
        self.made.append(call)
        self.modules[number] = module
        self._above.append(number)
        try:
            with jax.named_scope(mark_of(number)):
                if self._on_input is not None:
                    self._on_input(call, module, (args, kwargs))
                if self._tag_inputs:
                    args, kwargs = tagged((args, kwargs), f"{mark_of(number)}.input")
                output = method(*args, **kwargs)
                self.made[number] = call = call._replace(outputs=_shapes(output))
                return output if self._on_output is None else self._on_output(call, module, output)
        finally:
            self._above.pop()


def mark_of(number: int) -> str:
    """Return the name of the scope that marks a call."""
    return f"batiste:{number}"


def _path_of(module: Any) -> tuple[str, ...]:
    """Return the path of a bound module, in which a layer of a loop is the name that stands for all of them."""
    path = tuple(module.scope.path)
    keyed: tuple[str, ...] = tuple(module.scope.start[1])  # ends as the path does
    for place, name in enumerate(reversed(keyed), start=1):
        if isinstance(name, LayerName) and place <= len(path):
            path = (*path[: len(path) - place], name, *path[len(path) - place + 1 :])
    return path


def tagged(tree: Any, name: str) -> Any:
    """Return a tree whose traced arrays have a name in the program, ``name.0``, ``name.1`` and so on."""
    leaves, structure = cast(
        "tuple[list[Any], Any]", jax.tree.flatten(tree, is_leaf=lambda leaf: isinstance(leaf, Blueprint))
    )  # pyright: ignore[reportUnknownMemberType]
    named = [
        _name(leaf, f"{name}.{index}") if is_tracer(leaf) and is_inexact(leaf) else leaf
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, named)


def is_inexact(value: Any) -> bool:
    """Return whether an array, or what stands for one, holds floating-point or complex numbers."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))


def _shapes(tree: Any) -> tuple[Any, ...]:
    leaves: list[Any] = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Blueprint))
    return tuple(
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for leaf in leaves
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, Blueprint)
    )


def options_of(module: Any) -> str:
    """Return the fields of a module that are not the class's defaults, as its constructor takes them."""
    shown: list[str] = []
    defaults = {field.name: field.default for field in dataclasses.fields(module)}
    for name in blueprint_fields(module):
        value = module.__dict__.get(name)
        default = defaults.get(name)
        if name in _OWN or value is default or value is None:
            continue
        is_plain = isinstance(value, bool | int | float | str | tuple)
        if is_plain and type(cast("Any", value)) is type(default) and value == default:
            continue
        shown.append(f"{name}={_short(value)}")
    return ", ".join(shown)


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Blueprint):
        return f"{type(value).__name__}(...)"
    if isinstance(value, type) or callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def path_text(path: tuple[str, ...], layers: Mapping[int, int] | None = None) -> str:
    """Return a path as text; a name that stands for several layers is that of the layer that is run.

    Args:
      path: the names; one of them may stand for the layers of a loop.
      layers: for each loop over layers, by the number of its layers, which of them.
    """
    names: list[str] = []
    for name in path:
        if isinstance(name, LayerName) and len(name.names) > 1:
            at = (layers or {}).get(len(name.names))
            names.append(name.names[at] if at is not None else _several(name.names))
        else:
            names.append(name)
    return "/".join(names)


def nearest_paths(pattern: str, paths: Iterable[str]) -> str:
    """Return "Did you mean ...? " for the paths that are nearest to a pattern, or ""."""
    near = difflib.get_close_matches(pattern, list(dict.fromkeys(paths)), n=3, cutoff=0.4)
    return f"Did you mean {' or '.join(map(repr, near))}? " if near else ""


def _several(names: tuple[str, ...]) -> str:
    first, last = min(names), max(names)
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return f"{first[:length]}*"


# --- what is looked at


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a tool looks at, as a function of arrays.

    Attributes:
      name: what it is called in a report.
      function: takes ``arguments`` and returns the outputs.
      arguments: the arrays, by name: ``variables``, ``inputs`` and ``rngs``, or ``args``.
      is_model: whether it is a module with variables.
    """

    name: str
    function: Callable[[dict[str, Any]], Any]
    arguments: dict[str, Any]
    is_model: bool


def subject_of(
    model: Any,
    variables: Any,
    inputs: tuple[Any, ...],
    *,
    rngs: Any = None,
    mutable: Any = None,
    method: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    where: str,
) -> Subject:
    """Return a model, or a function, as a function of arrays.

    A module is applied with every collection that it was given, besides ``params``, as mutable. Streams of random keys
    that it asks for and was not given get a key each.
    """
    kwargs = dict(kwargs or {})
    if not isinstance(model, Blueprint):
        called = checked_function(model, "model", where, what="a module or a function")
        args = dict(zip(_parameters(called, 1 + len(inputs)), (variables, *inputs), strict=True))
        _, rebuild = _split((args, kwargs))

        def run(given: dict[str, Any]) -> Any:
            found, named = rebuild(jax.tree.leaves(given))
            return called(*(found[name] for name in args), **named)

        name = getattr(called, "__name__", type(called).__name__)
        tree: Any = jax.tree.map(_array_or_none, (args, kwargs))  # None is an empty tree: each array keeps its path
        return Subject(name, run, {"args": tree[0], "kwargs": tree[1]}, is_model=False)
    if not isinstance(variables, Mapping):
        raise ApplyScopeInvalidVariablesTypeError(given=shown(variables))
    named_variables = cast("Mapping[Any, Any]", variables)
    if rngs is not None:
        streams_from(rngs, type(model).__name__)
    if mutable is None:
        mutable = [str(name) for name in named_variables if name != "params"] or False
    arrays, rebuild = _split((inputs, kwargs))
    module: Any = model

    def apply(given: dict[str, Any]) -> Any:
        args, named = rebuild(given["inputs"])
        rngs = given["rngs"] or None
        return module.apply(given["variables"], *args, rngs=rngs, mutable=mutable, method=method, **named)

    named = cast("Mapping[str, Any]", rngs) if isinstance(rngs, Mapping) else {"params": rngs}
    streams: dict[str, Any] = {} if rngs is None else dict(named)
    arguments: dict[str, Any] = {"variables": dict(named_variables), "inputs": arrays, "rngs": streams}
    arguments["rngs"] = _streams_needed(apply, arguments) if rngs is None else streams
    return Subject(type(model).__name__, apply, arguments, is_model=True)


def _streams_needed(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a key for each stream that a model draws from and was not given."""
    streams: dict[str, Any] = {}
    for number in range(_STREAMS_AT_MOST):
        try:
            jax.eval_shape(function, {**arguments, "rngs": streams})
        except InvalidRngError as error:
            stream = _missing_stream(error)
            if stream is None or stream in streams:
                raise
            streams[stream] = jax.random.key(number)
        except ScopeCollectionNotFound:
            raise
        else:
            break
    return streams


def _missing_stream(error: InvalidRngError) -> str | None:
    found = re.search(r"'([^']+)'", str(error.context.get("problem", "")))
    return found.group(1) if found else None


def _split(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Return the arrays of a tree, and a function that puts other arrays in their places."""
    leaves, structure = cast("tuple[list[Any], Any]", jax.tree.flatten(tree))  # pyright: ignore[reportUnknownMemberType]
    marks = list(map(_is_array, leaves))

    def rebuild(arrays: list[Any]) -> Any:
        rest = iter(arrays)
        return jax.tree.unflatten(
            structure, [next(rest) if mark else leaf for mark, leaf in zip(marks, leaves, strict=True)]
        )

    return [leaf for leaf, mark in zip(leaves, marks, strict=True) if mark], rebuild


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def _array_or_none(leaf: Any) -> Any:
    return leaf if _is_array(leaf) else None


def _parameters(function: Callable[..., Any], count: int) -> list[str]:
    """Return what the first arguments of a function are called; their numbers where they have no names."""
    try:
        given = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # one in C that does not tell
        given = []
    names = [each.name for each in given if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return [names[place] if place < len(names) else str(place) for place in range(count)]


# --- its program


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced program with the calls that made it.

    Attributes:
      closed: the program and its constants.
      calls: the calls of methods in the order in which they began.
      modules: the bound module of each call, for what the calls do not hold.
      names: what each input is: ``variables/params/Dense_0/kernel``, ``inputs/0``, ``rngs/dropout``.
      flat: the arrays that were given, in the order of the inputs.
      out_tree: how the outputs are put together.
    """

    closed: Any
    calls: list[Call]
    modules: dict[int, Any]
    names: list[str]
    flat: list[Any]
    out_tree: Any

    @property
    def jaxpr(self) -> Any:
        """The program without its constants."""
        return self.closed.jaxpr


def trace(function: Callable[..., Any], arguments: Any, calls: Calls | None = None) -> Program:
    """Trace ``function(arguments)`` with marks; nothing is run or compiled."""
    calls = calls or Calls()
    with calls.noting():
        make: Any = jax.make_jaxpr(functools.partial(function), return_shape=True)  # a new one: JAX keeps traces
        closed, shapes = make(arguments)
    named: list[tuple[Any, Any]] = jax.tree_util.tree_flatten_with_path(arguments)[0]  # pyright: ignore[reportUnknownVariableType]
    names = [join_path(tuple(_key_text(key) for key in path)) for path, _ in named]
    return Program(
        closed, calls.made, calls.modules, names, [leaf for _, leaf in named], cast("Any", jax.tree.structure(shapes))
    )


def _key_text(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


# --- where an equation stands


class Place(NamedTuple):
    """Where an equation stands.

    Attributes:
      call: the number of the innermost call, or None outside of every module.
      is_backward: whether it belongs to the backward pass.
      is_recomputed: whether it computes again what ``remat`` has not kept.
      maps: under how many ``vmap`` it stands.
    """

    call: int | None = None
    is_backward: bool = False
    is_recomputed: bool = False
    maps: int = 0


def place_of(equation: Any, outer: Place = Place()) -> Place:  # noqa: B008 - an immutable value
    """Return where an equation stands; an inner program's names begin where its own trace began."""
    return place_in(str(equation.source_info.name_stack), outer)


@functools.lru_cache(maxsize=4096)
def place_in(stack: str, outer: Place = Place()) -> Place:  # noqa: B008 - an immutable value
    """Return the place that the names of the scopes around an operation say."""
    marks = _MARK.findall(stack)
    return Place(
        int(marks[-1]) if marks else outer.call,
        outer.is_backward or "transpose(" in stack,
        outer.is_recomputed or "rematted_computation" in stack,
        outer.maps + len(_VMAP.findall(stack)),
    )


def source_of(equation: Any) -> str:
    """Return the line of the user's program that made an equation, ``model.py:12``; "" where it is not known."""
    traceback = getattr(equation.source_info, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        name = str(frame.file_name)
        parts = name.replace("\\", "/")
        if not any(part in parts for part in _LIBRARIES):
            return f"{Path(name).name}:{frame.line_num}"
    return ""


_LIBRARIES = ("/jax/", "/jaxlib/", "/batiste/", "/optax/", "/contextlib.py", "/functools.py", "/flax/", "<frozen")


# --- programs within programs


def inner_jaxprs(equation: Any) -> Iterator[tuple[str, Any]]:
    """Yield the programs within an equation, closed or not, with the name of the parameter that holds each."""
    for name, value in equation.params.items():
        for part in cast("tuple[Any, ...]", value) if isinstance(value, tuple | list) else (value,):
            if is_closed(part) or hasattr(part, "eqns"):
                yield name, part


def is_closed(value: Any) -> bool:
    """Return whether ``value`` is a program with its constants."""
    return hasattr(value, "jaxpr") and hasattr(value, "consts")


def is_literal(atom: Any) -> bool:
    """Return whether an input of an equation is a number that is written in."""
    return hasattr(atom, "val")


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their paths."""
    return flatten(tree)
