"""``init`` without a forward pass: trace abstractly, note initial values, then make them.

1. The model is traced with shapes for arrays; a ``Recorder`` notes which initialiser each variable wants, with which
   key. Nothing is computed.
2. The noted values are made by one compiled program per distinct initialiser.
3. Values that depend on data (a mean of the inputs, a counter that was written again) are computed in a second pass,
   compiled as one program whose other results are dropped, so that the compiler drops what only they needed.

A model that looks at values in Python (an ``if`` on an input, NumPy on it) cannot be traced abstractly; it is run, and
a warning says so. The same holds within an outer ``jit``, ``vmap`` or ``eval_shape``: the passes become a part of it.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste.core._filters import CollectionFilter, check_filter
from batiste.core._frame import Frame
from batiste.core._keys import KeyScheme
from batiste.core._recorder import Place, Recorder, replace_places
from batiste.core._scope import Scope
from batiste.core._trace import (
    CONCRETIZATION_ERRORS,
    call_jaxpr,
    current_trace,
    depends_on,
    has_tracer,
    is_eager,
    is_extended,
    without_unused,
)
from batiste.errors import BatisteWarning, LazyInitError
from batiste.typing import Key

__all__ = ["depth_in_library", "initialise"]

Run = Callable[..., Any]


class _Request(NamedTuple):
    """What is to be initialised: a function of a scope, its inputs, and the random streams.

    Attributes:
      run: called as ``run(scope, *args, **kwargs)``.
      arrays: the inputs that are arrays, or shapes.
      fixed: the leaves of the inputs, with None where there is an array.
      treedef: the structure of ``(args, kwargs)``.
      streams: the base keys.
      mutable: which collections may be made.
      key_scheme: how keys are folded.
      where: the name for messages.
    """

    run: Run
    arrays: tuple[Any, ...]
    fixed: tuple[Any, ...]
    treedef: Any
    streams: dict[str, Key]
    mutable: CollectionFilter
    key_scheme: KeyScheme
    where: str

    @property
    def has_shapes(self) -> bool:
        return any(isinstance(array, jax.ShapeDtypeStruct) for array in self.arrays)

    def play(self, frame: Frame, arrays: tuple[Any, ...]) -> Any:
        """Run the function at the top of ``frame``."""
        rest = iter(arrays)
        leaves = [next(rest) if leaf is None else leaf[0] for leaf in self.fixed]
        args, kwargs = jax.tree.unflatten(self.treedef, leaves)
        scope = Scope(frame)
        try:
            return self.run(scope, *args, **kwargs)
        finally:
            scope.close()

    def frame(self, **more: Any) -> Frame:
        streams = more.pop("streams", self.streams)
        return Frame({}, streams, mutable=self.mutable, initializing=True, key_scheme=self.key_scheme, **more)


def initialise(
    run: Run,
    streams: dict[str, Key],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    mutable: CollectionFilter,
    key_scheme: KeyScheme,
    where: str,
    want_output: bool,
) -> tuple[Any, dict[str, Any]]:
    """Return what ``run`` returns (None unless it is wanted) and the variables that it makes.

    Args:
      run: called as ``run(scope, *args, **kwargs)``.
      streams: random keys by stream.
      args: positional inputs; arrays among them may be ``jax.ShapeDtypeStruct``.
      kwargs: keyword inputs, likewise.
      mutable: which collections may be made.
      key_scheme: how keys are folded.
      where: the name of the model in messages.
      want_output: whether ``run`` is also run for its result.

    Raises:
      LazyInitError: if shapes were given where values are needed.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> run = lambda scope, x: scope.param("w", jax.nn.initializers.ones, x.shape)
      >>> x, key = jax.ShapeDtypeStruct((2,), "float32"), jax.random.key(0)
      >>> options = {"key_scheme": "linen", "where": "run", "want_output": False}
      >>> given = run, {"params": key}, (x,), {}
      >>> _, variables = core.initialise(*given, mutable=True, **options)
      >>> variables["params"]["w"].tolist()
      [1.0, 1.0]
    """
    leaves: list[Any] = jax.tree.leaves((args, kwargs))
    treedef = cast("Any", jax.tree.structure((args, kwargs)))
    fixed = tuple(None if _is_array(leaf) else (leaf,) for leaf in leaves)
    arrays = tuple(leaf for leaf in leaves if _is_array(leaf))
    check_filter(mutable)
    request = _Request(run, arrays, fixed, treedef, streams, mutable, key_scheme, where)
    recorder = Recorder(streams.values())
    try:
        variables, late = _abstract_pass(request, recorder)
    except CONCRETIZATION_ERRORS as error:
        return _run_for_real(request, error)
    is_traced = has_tracer(streams) or not is_eager(current_trace())
    made = recorder.make(grouped=is_traced)
    if want_output:
        return _replay(request, made)
    if late:
        made |= _compute(request, made, late)
    return None, replace_places(variables, made)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _abstract_pass(request: _Request, recorder: Recorder) -> tuple[dict[str, Any], list[Place]]:
    """Trace the model; return its variables, with None for arrays, and the places whose values were not noted."""
    kept: list[tuple[dict[str, Any], list[Place]]] = []

    def trace(arrays: tuple[Any, ...]) -> None:
        recorder.begin_pass()
        frame = request.frame(recorder=recorder)
        request.play(frame, arrays)
        late: list[Place] = []
        kept.append((_outline(frame.mutable_variables(), recorder, late), late))
        recorder.end_pass()  # no tracer outlives its trace

    jax.eval_shape(trace, request.arrays)
    return kept[0]


def _outline(variables: Mapping[str, Any], recorder: Recorder, late: list[Place], prefix: Place = ()) -> dict[str, Any]:
    """Return ``variables`` with None where ``make`` or a second pass has the value; add the latter to ``late``."""
    outline: dict[str, Any] = {}
    for name, value in variables.items():
        place = (*prefix, name)
        if recorder.has_noted(place):
            outline[name] = None
        elif isinstance(value, Mapping):
            outline[name] = _outline(cast("Mapping[str, Any]", value), recorder, late, place)
        elif has_tracer(value):
            late.append(place)
            outline[name] = None
        else:
            outline[name] = value
    return outline


def _compute(request: _Request, made: dict[Place, Any], late: list[Place]) -> dict[Place, Any]:
    """Compute the values at ``late`` in one compiled program, from which all that only the result needs is dropped."""
    leaves: list[Any] = jax.tree.leaves(made)
    treedef = cast("Any", jax.tree.structure(made))
    known = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]  # beside them, numbers and text stay as they are

    def replay(known: list[Any], arrays: tuple[Any, ...], streams: dict[str, Key]) -> list[Any]:
        rest = iter(known)
        filled = [next(rest) if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
        frame = request.frame(known=jax.tree.unflatten(treedef, filled), streams=streams)
        request.play(frame, arrays)
        return [functools.reduce(operator.getitem, place, frame.variables) for place in late]

    closed_jaxpr, shapes = jax.make_jaxpr(replay, return_shape=True)(known, request.arrays, request.streams)
    closed_jaxpr = without_unused(closed_jaxpr)
    arrays = request.arrays
    if request.has_shapes:
        _check_independent(request, closed_jaxpr.jaxpr, len(known), late, shapes)
        arrays = tuple(_zeros(array) for array in arrays)
    program = jax.jit(functools.partial(call_jaxpr, closed_jaxpr))
    values = cast("list[Any]", program(*jax.tree.leaves((known, arrays, request.streams))))
    wanted = cast("Any", jax.tree.structure(shapes))
    return dict(zip(late, jax.tree.unflatten(wanted, values), strict=True))


def _zeros(array: Any) -> Any:
    """Return what stands for an input that only its shape is known of."""
    if not isinstance(array, jax.ShapeDtypeStruct):
        return array
    if is_extended(array.dtype):
        return jax.random.split(jax.random.key(0), array.shape)
    return jnp.zeros(array.shape, array.dtype)


def _check_independent(request: _Request, jaxpr: Any, before: int, late: list[Place], shapes: list[Any]) -> None:
    """Raise ``LazyInitError`` if a value at ``late`` depends on an input of which only the shape is known."""
    is_shape = [isinstance(array, jax.ShapeDtypeStruct) for array in request.arrays]
    marks = [False] * before + is_shape + [False] * (len(jaxpr.invars) - before - len(is_shape))
    depends = iter(depends_on(jaxpr, marks))
    for place, value in zip(late, shapes, strict=True):
        if any(list(itertools.islice(depends, len(jax.tree.leaves(value))))):
            name = "/".join(place)
            raise LazyInitError(path=request.where, reason=f"the value of {name!r} is computed from the inputs")


def _replay(request: _Request, known: dict[Place, Any]) -> tuple[Any, dict[str, Any]]:
    """Run the model with known initial values, for its result."""
    if request.has_shapes:
        raise LazyInitError(path=request.where, reason="its output was asked for")
    frame = request.frame(known=known)
    output = request.play(frame, request.arrays)
    return output, frame.mutable_variables()


def _run_for_real(request: _Request, error: Exception) -> tuple[Any, dict[str, Any]]:
    """Run a model that cannot be traced abstractly."""
    reason = str(error).strip().partition("\n")[0]
    if request.has_shapes:
        raise LazyInitError(path=request.where, reason=f"it looks at values while it is traced ({reason})") from error
    frame = request.frame()
    output = request.play(frame, request.arrays)
    warnings.warn(
        f"{request.where}.init ran the whole model, since it looks at values in Python while it is traced ({reason}). "
        "Mark such inputs as Python values, or use jnp.where and jax.lax.cond, and init will only make variables.",
        BatisteWarning,
        stacklevel=depth_in_library(),
    )
    return output, frame.mutable_variables()


def depth_in_library() -> int:
    """Return how many calls of this library, or of JAX, lie between here and the user's own line.

    Example:
      >>> from batiste import core
      >>> core.depth_in_library()  # itself alone, since it is called from here
      1
    """
    depth = 1
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in {"batiste", "jax"}:
        frame = frame.f_back
        depth += 1
    return depth - 1
