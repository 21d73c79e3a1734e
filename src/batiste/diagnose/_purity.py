"""Whether a model is pure: nothing is written but the collections that it returns, and equal calls are equal.

The model is traced twice, with marks (``_program.py``), and run twice. Around each call of a method stands a watch over
what its code can reach: the globals that it names, the variables that it closes over, its defaults, the class, and the
values in the module's fields. What has changed when the method returns was written by it, or by a method that it
called; the innermost one is named. Python's and NumPy's random states are watched in the same way. While the first
trace runs, a profiling hook of Python's sees which functions the model calls that read the clock, the environment or
a random generator.

What is found is a list of ``Finding``; a pure model has none.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import random
import sys
import types
from collections.abc import Generator, Iterator, Mapping
from typing import Any, cast

import jax
import numpy as np

from batiste._arguments import whole_number
from batiste.diagnose._findings import Finding, Findings
from batiste.diagnose._program import (
    Place,
    Program,
    Subject,
    inner_jaxprs,
    is_closed,
    is_literal,
    options_of,
    path_text,
    place_of,
    subject_of,
    trace,
)
from batiste.diagnose._reach import GENERATOR, OWN, snapshot
from batiste.module import InterceptorContext, intercept_methods

__all__ = ["check_pure"]

_CAPTURED_BYTES = 1024


def check_pure(
    model: Any,
    variables: Any,
    *inputs: Any,
    captured_bytes: int = _CAPTURED_BYTES,
    rngs: Any = None,
    mutable: Any = None,
    method: Any = None,
    **kwargs: Any,
) -> Findings:
    """Return what a model does beside computing its outputs and its collections, by module path.

    A finding has one of these kinds:

    * ``write``: a list, dict, set, object, global or closed-over variable is another after a call than before.
    * ``captured``: an array that lives outside of the model's variables and is larger than ``captured_bytes`` is a
      constant of the program.
    * ``growth``: a collection has more, or larger, arrays after a call than before, so that it grows with every call.
    * ``randomness``: Python's or NumPy's random numbers are drawn. They are drawn once, when JAX traces.
    * ``clock``: the time is read; ``environment``: an environment variable or a command-line argument is.
    * ``difference``: two equal calls give different results, or are different programs.

    Args:
      model: a module, or a function of arrays.
      variables: the module's variables, or the function's first argument.
      *inputs: what it is called with.
      captured_bytes: the size from which on an array that is captured is a finding.
      rngs: the random streams; those that are asked for and not given get a key.
      mutable: as for ``apply``; by default every collection given but ``params``.
      method: as for ``apply``.
      **kwargs: keyword arguments of the call.

    Raises:
      ArgumentError: ``model`` is no module and no function, or ``captured_bytes`` is no size.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose
      >>> seen = []
      >>> def model(params, x):
      ...     seen.append(1)
      ...     return params * x
      >>> [found.kind for found in diagnose.check_pure(model, jnp.ones(2), jnp.ones(2))]
      ['write']
    """
    captured_bytes = whole_number(captured_bytes, "captured_bytes", "check_pure")
    subject = subject_of(
        model, variables, inputs, rngs=rngs, mutable=mutable, method=method, kwargs=kwargs, where="check_pure"
    )
    found = Findings(subject.name)
    watch = _Watch(subject.name, None if subject.is_model else model)
    with watch.around(), watch.reads():
        first = trace(subject.function, subject.arguments)
    with watch.around():
        second = trace(subject.function, subject.arguments)
    found.extend(watch.findings())
    found.extend(_captured(subject, first, second, captured_bytes))
    found.extend(_difference(subject, first, second))
    if subject.is_model:
        found.extend(_growth(subject))
    if not any(each.kind in {"difference", "randomness"} for each in found):
        found.extend(_outputs_differ(subject))
    return found


# --- what is written


class _Watch:
    """Compares what methods can reach before and after each call.

    Args:
      name: what the subject is called.
      function: the subject itself where it is no module.
    """

    def __init__(self, name: str, function: Any) -> None:
        self._name = name
        self._function = function
        self._found: dict[tuple[str, str, str], Finding] = {}
        self._seen: set[Any] = set()
        self._path: list[str] = []
        self._kinds: list[str] = []

    @contextlib.contextmanager
    def around(self) -> Generator[None]:
        """Watch each method, and the subject itself, while the context lasts."""
        before = snapshot([self._function] if self._function is not None else [])
        self._path.append(self._name)
        self._kinds.append("")
        try:
            with intercept_methods(self._around):
                yield
        finally:
            self._compare(before, snapshot([self._function] if self._function is not None else []))
            self._path.pop()
            self._kinds.pop()

    def _around(self, method: Any, args: Any, kwargs: Any, context: InterceptorContext) -> Any:
        module = context.module
        if module.scope is None:
            return method(*args, **kwargs)
        roots = [context.orig_method, module]
        before = snapshot(roots)
        self._path.append(path_text(tuple(module.scope.path)) or type(module).__name__)
        self._kinds.append(f"{type(module).__name__}({options_of(module)})")
        try:
            return method(*args, **kwargs)
        finally:
            self._compare(before, snapshot(roots))
            self._path.pop()
            self._kinds.pop()

    def _compare(self, before: dict[str, tuple[Any, str, Any]], after: dict[str, tuple[Any, str, Any]]) -> None:
        for name, (value, words, identity) in after.items():
            held = before.get(name)
            if held is None or held[0] == value or identity in self._seen:
                continue
            self._seen.add(identity)
            if name in _RANDOM or words == GENERATOR:
                if not any(kind == "randomness" and path == self._path[-1] for kind, path, _ in self._found):
                    self._add("randomness", name, f"draws from {name}, once for every trace", _RNG_ADVICE)
                continue
            text = f"writes {name}: {held[1]} -> {words}"
            self._add("write", name, text, "Return the value, or keep it in a variable of a collection.")

    def _add(self, kind: str, key: str, text: str, advice: str) -> None:
        path = self._path[-1]
        self._found.setdefault((kind, path, key), Finding(kind, path, text, advice, self._kinds[-1]))

    def findings(self) -> list[Finding]:
        """Return what was found; a global random state that a known function has drawn from is said once."""
        return list(self._found.values())

    # --- what is read

    @contextlib.contextmanager
    def reads(self) -> Generator[None]:
        """See which functions the model calls that read what is no argument; not under a debugger or a profiler."""
        if sys.getprofile() is not None:
            yield
            return
        collects = gc.isenabled()
        gc.disable()  # what is called when garbage is collected would be seen in the frame of the model
        sys.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)
            if collects:
                gc.enable()

    def _event(self, frame: types.FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            owner: Any = getattr(argument, "__self__", None)
            module = getattr(argument, "__module__", None) or getattr(owner, "__name__", "")
            kind = _c_read(str(module or type(owner).__name__), argument.__name__)
            if kind is None and isinstance(owner, random.Random):
                kind = "randomness"
            if kind is None and isinstance(owner, type) and (owner.__module__, argument.__name__) in _CLASS_READS:
                kind = "clock"
            if kind is not None and _is_users(frame):
                self._read(kind, argument.__name__, frame)
        elif event == "call":
            kind = _python_read(str(frame.f_globals.get("__name__", "")), frame.f_code.co_name)
            caller = frame.f_back
            if (
                kind == "environment"
                and frame.f_code.co_name != "getenv"
                and frame.f_locals.get("self") is not os.environ
            ):
                return
            if kind is not None and caller is not None and _is_users(caller):
                self._read(kind, frame.f_code.co_name, caller)

    def _read(self, kind: str, name: str, frame: types.FrameType) -> None:
        what = {"clock": "the time", "environment": "the environment", "randomness": "Python's random numbers"}[kind]
        line = f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        text = f"reads {what} with {name} ({line}), once for every trace"
        self._add(kind, name, text, _RNG_ADVICE if kind == "randomness" else _READ_ADVICE)


_RNG_ADVICE = "Draw from a random stream: jax.random.normal(self.make_rng('dropout'), shape)."
_READ_ADVICE = "Read it outside, and give it as an argument or a field."
_RANDOM = types.MappingProxyType({"Python's random state": "random", "NumPy's random state": "numpy"})
_CLOCKS = frozenset({
    "time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time", "localtime",
    "gmtime",
})  # fmt: skip
_C_RANDOM = frozenset({("posix", "urandom"), ("_uuid", "generate_time_safe")})
_CLASS_READS = frozenset({("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today")})
_ENVIRONMENT = frozenset({
    ("os", "getenv"), ("os", "__getitem__"), ("collections.abc", "get"), ("collections.abc", "__contains__"),
})  # fmt: skip
_PYTHON_RANDOM = frozenset({
    "randint", "choice", "uniform", "gauss", "shuffle", "sample", "randrange", "choices", "normalvariate", "uuid4",
    "randbelow", "token_bytes", "token_hex",
})  # fmt: skip
_RANDOM_MODULES = frozenset({"random", "uuid", "secrets"})


def _c_read(module: str, name: str) -> str | None:
    """Return what a function of C reads."""
    if module == "time" and name in _CLOCKS:
        return "clock"
    return "randomness" if (module, name) in _C_RANDOM else None


def _python_read(module: str, name: str) -> str | None:
    """Return what a function of Python's library reads."""
    if (module, name) in _ENVIRONMENT:
        return "environment"
    return "randomness" if module in _RANDOM_MODULES and name in _PYTHON_RANDOM else None


def _is_users(frame: types.FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    top = name.partition(".")[0]
    return top not in OWN and top not in sys.stdlib_module_names


# --- what is captured


def _captured(subject: Subject, first: Program, second: Program, least: int) -> Iterator[Finding]:
    """Yield the constants of the program that live outside of it: the same objects in two traces."""
    own = {id(leaf) for leaf in jax.tree.leaves(subject.arguments)}
    again = {_identity(value) for value, _, _ in _constants(second.closed, Place())}
    for value, place, shape in _constants(first.closed, Place()):
        size = int(np.prod(shape)) * np.dtype(value.dtype).itemsize if _has_size(value) else 0
        if size <= least or id(value) in own or _identity(value) not in again or not _is_outside(value):
            continue
        call = None if place is None or place.call is None else first.calls[place.call]
        path = subject.name if call is None else call.text
        text = f"captures an array {value.dtype}{list(shape)} of {size:,} bytes as a constant of the program"
        advice = "Give it as an argument, or keep it in a variable: self.variable('constants', 'table', lambda: table)."
        yield Finding("captured", path, text, advice, "" if call is None else f"{call.kind}({call.options})")


def _has_size(value: Any) -> bool:
    try:
        np.dtype(value.dtype)
    except TypeError:  # random keys
        return False
    return True


def _identity(value: Any) -> Any:
    held = getattr(value, "base", None)
    return id(cast("Any", held)) if isinstance(held, np.ndarray) else id(value)


def _is_outside(value: Any) -> bool:
    """Return whether an array lives on after the trace: somebody else holds it."""
    return hasattr(value, "shape")


def _constants(closed: Any, place: Place) -> Iterator[tuple[Any, Place | None, tuple[int, ...]]]:
    """Yield each constant of a program, with the place where it is first used."""
    jaxpr = closed.jaxpr
    for var, value in zip(jaxpr.constvars, closed.consts, strict=True):
        user = next((eqn for eqn in jaxpr.eqns if any(atom is var for atom in eqn.invars)), None)
        at = None if user is None else _innermost(user, var, place_of(user, place))
        yield value, at, tuple(var.aval.shape)
    for equation in jaxpr.eqns:
        for _, inner in inner_jaxprs(equation):
            if is_closed(inner):
                yield from _constants(inner, place_of(equation, place))


def _innermost(equation: Any, var: Any, place: Place) -> Place:
    """Return where an input of an equation is used, within the program that the equation runs if it has one."""
    for _, inner in inner_jaxprs(equation):
        jaxpr = inner.jaxpr if is_closed(inner) else inner
        if len(jaxpr.invars) == len(equation.invars):
            index = next(n for n, atom in enumerate(equation.invars) if atom is var)
            given = jaxpr.invars[index]
            for user in jaxpr.eqns:
                if any(atom is given for atom in user.invars):
                    return _innermost(user, given, place_of(user, place))
    return place


# --- what differs


def _difference(subject: Subject, first: Program, second: Program) -> list[Finding]:
    """Return where two traces of the same call are different programs."""
    found = _first_difference(first.closed, second.closed, Place())
    if found is None:
        return []
    place, text = found
    call = None if place.call is None else first.calls[place.call]
    path = subject.name if call is None else call.text
    advice = "The program depends on something that is no argument: a counter, random numbers of Python, the time."
    return [
        Finding("difference", path, f"two traces of one call differ: {text}", advice, "" if call is None else call.kind)
    ]


def _first_difference(first: Any, second: Any, place: Place) -> tuple[Place, str] | None:
    one, two = first.jaxpr if is_closed(first) else first, second.jaxpr if is_closed(second) else second
    for left, right in zip(one.eqns, two.eqns, strict=False):
        at = place_of(left, place)
        if left.primitive.name != right.primitive.name:
            return at, f"{left.primitive.name} in one, {right.primitive.name} in the other"
        for atom, other in zip(left.invars, right.invars, strict=False):
            if is_literal(atom) and is_literal(other) and not _equal(atom.val, other.val):
                return at, f"{left.primitive.name} with {_number(atom.val)} in one, {_number(other.val)} in the other"
            if str(atom.aval) != str(other.aval):
                return at, f"{left.primitive.name} of {atom.aval} in one, of {other.aval} in the other"
        for (_, inner), (_, other) in zip(inner_jaxprs(left), inner_jaxprs(right), strict=False):
            if (found := _first_difference(inner, other, at)) is not None:
                return found
    if len(one.eqns) != len(two.eqns):
        return place, f"{len(one.eqns)} operations in one, {len(two.eqns)} in the other"
    if is_closed(first):
        for var, value, other in zip(one.constvars, first.consts, second.consts, strict=False):
            if not _equal(value, other):
                user = next((eqn for eqn in one.eqns if any(atom is var for atom in eqn.invars)), None)
                at = place if user is None else _innermost(user, var, place_of(user, place))
                return at, f"a constant {var.aval} has other values"
    return None


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        left, right = np.asarray(one), np.asarray(other)
    except TypeError:  # random keys
        return True
    return left.shape == right.shape and bool(np.array_equal(left, right, equal_nan=left.dtype.kind in "fc"))


def _number(value: Any) -> str:
    return f"{np.asarray(value).item():g}" if np.size(value) == 1 else f"an array of shape {np.shape(value)}"


def _outputs_differ(subject: Subject) -> list[Finding]:
    """Run the subject twice as it is, and compare what it gives."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(subject.arguments)):
        return []
    function = jax.jit(functools.partial(subject.function))
    results = [cast("Any", function(subject.arguments)) for _ in range(2)]
    one: list[tuple[Any, Any]] = jax.tree_util.tree_flatten_with_path(results[0])[0]  # pyright: ignore[reportUnknownVariableType]
    for (path, left), right in zip(one, jax.tree.leaves(results[1]), strict=True):
        if not _equal(left, right):
            name = jax.tree_util.keystr(path)
            text = f"two equal calls give different outputs{name}"
            return [Finding("difference", subject.name, text, "Look for callbacks and for what is no argument.", "")]
    return []


def _growth(subject: Subject) -> Iterator[Finding]:
    """Yield the collections that are larger after a call than before."""
    given: dict[str, Any] = subject.arguments["variables"]
    try:
        output: Any = jax.eval_shape(subject.function, subject.arguments)
    except Exception:  # noqa: BLE001 - a model that must see values was traced above with them
        return
    if not (isinstance(output, tuple) and len(cast("tuple[Any, ...]", output)) == 2):
        return
    changed = cast("tuple[Any, Any]", output)[1]
    if not isinstance(changed, Mapping):
        return
    for collection, tree in cast("Mapping[str, Any]", changed).items():
        before, after = _sizes(given.get(collection, {})), _sizes(tree)
        for path, size in after.items():
            was = before.get(path)
            if (was is None and collection in given) or (was is not None and was != size):
                owner = path.rpartition("/")[0] or subject.name
                now = "is new" if was is None else f"{list(was[1])} -> {list(size[1])}"
                text = f"the collection {collection!r} grows with every call: {path} {now}"
                advice = (
                    "Make the variable once with its final shape, or do not give the collection back to the next call."
                )
                yield Finding("growth", owner, text, advice, "")
                break


def _sizes(tree: Any) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Return for each variable how many arrays it holds, and the shape of the first."""
    found: dict[str, tuple[int, tuple[int, ...]]] = {}

    def walk(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, Mapping):
            for name, part in cast("Mapping[Any, Any]", node).items():
                walk(part, (*path, str(name)))
            return
        leaves: list[Any] = jax.tree.leaves(node)
        shape = (len(leaves),) if isinstance(node, tuple | list) else tuple(leaves[0].shape) if leaves else ()
        found["/".join(path)] = (len(leaves), shape)

    walk(tree, ())
    return found
