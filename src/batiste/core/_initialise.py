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

import dataclasses
import functools
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batiste.core._filters import CollectionFilter
from batiste.core._frame import Frame
from batiste.core._keys import KeyScheme
from batiste.core._recorder import Place, Recorder, replace_places
from batiste.core._scope import Scope
from batiste.core._trace import CONCRETIZATION_ERRORS, depends_on, has_tracer
from batiste.errors import BatisteWarning, LazyInitError
from batiste.typing import Key

__all__ = ["initialise"]

Run = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class _Request:
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
        return Frame(
            {}, streams, mutable=self.mutable, initializing=True, key_scheme=self.key_scheme, **more
        )


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
    """
    leaves, treedef = jax.tree.flatten((args, kwargs))
    fixed = tuple(None if _is_array(leaf) else (leaf,) for leaf in leaves)
    arrays = tuple(leaf for leaf in leaves if _is_array(leaf))
    request = _Request(run, arrays, fixed, treedef, streams, mutable, key_scheme, where)
    recorder = Recorder()
    try:
        variables = _abstract_pass(request, recorder)
    except CONCRETIZATION_ERRORS as error:
        return _run_for_real(request, error)
    late = _late_places(variables, recorder)
    made = recorder.make(grouped=has_tracer(streams))
    if want_output:
        return _replay(request, made)
    if late:
        made |= _compute(request, made, late)
    return None, replace_places(variables, made)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _abstract_pass(request: _Request, recorder: Recorder) -> dict[str, Any]:
    """Trace the model; return its variables with stand-ins for arrays."""
    kept: list[Frame] = []

    def trace(arrays: tuple[Any, ...]) -> None:
        frame = request.frame(recorder=recorder)
        request.play(frame, arrays)
        kept.append(frame)

    jax.eval_shape(trace, request.arrays)
    return kept[0].mutable_variables()


def _late_places(variables: Mapping[str, Any], recorder: Recorder, prefix: Place = ()) -> list[Place]:
    """Return the places whose values are known in the pass only: they were not noted, or were written again."""
    late: list[Place] = []
    for name, value in variables.items():
        place = (*prefix, name)
        if recorder.has_noted(place):
            continue
        if isinstance(value, Mapping):
            inner: Any = value
            late += _late_places(inner, recorder, place)
        elif has_tracer(value):
            late.append(place)
    return late


def _compute(request: _Request, made: dict[Place, Any], late: list[Place]) -> dict[Place, Any]:
    """Compute the values at ``late`` in one compiled program whose other results are dropped."""

    def replay(known: dict[Place, Any], arrays: tuple[Any, ...], streams: dict[str, Key]) -> list[Any]:
        frame = request.frame(known=known, streams=streams)
        request.play(frame, arrays)
        return [functools.reduce(operator.getitem, place, frame.variables) for place in late]

    arrays = request.arrays
    if request.has_shapes:
        _check_independent(request, replay, made, late)
        shapes, arrays = arrays, ()

        def replay_without(known: dict[Place, Any], _: tuple[Any, ...], streams: dict[str, Key]) -> list[Any]:
            return replay(known, tuple(jnp.zeros(a.shape, a.dtype) for a in shapes), streams)

        values = jax.jit(replay_without)(made, arrays, request.streams)
    else:
        values = jax.jit(replay)(made, arrays, request.streams)
    return dict(zip(late, values, strict=True))


def _check_independent(
    request: _Request, replay: Callable[..., list[Any]], made: dict[Place, Any], late: list[Place]
) -> None:
    """Raise ``LazyInitError`` if a value at ``late`` depends on an input of which only the shape is known."""
    closed_jaxpr, shape = jax.make_jaxpr(replay, return_shape=True)(made, request.arrays, request.streams)
    before = len(jax.tree.leaves(made))
    count = len(closed_jaxpr.jaxpr.invars)
    is_shape = [isinstance(array, jax.ShapeDtypeStruct) for array in request.arrays]
    marks = [False] * before + is_shape + [False] * (count - before - len(is_shape))
    depends = iter(depends_on(closed_jaxpr.jaxpr, marks))
    for place, value in zip(late, shape, strict=True):
        if any([next(depends) for _ in jax.tree.leaves(value)]):
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
        stacklevel=4,
    )
    return output, frame.mutable_variables()
