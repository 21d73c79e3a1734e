"""Where the first number that is not finite comes from: the module, the operation, the iteration, forward or backward.

The program of the model (and of its gradient) is traced with marks (``_program.py``) and run once with two flags for
every result of every equation: does it hold a NaN, does it hold an infinity. Then nothing is guessed: beginning at the
outputs that are not finite, the search goes back along the results that are not finite, and finds the earliest equation
that *made* one: from finite numbers, or a NaN from infinities. Infinities that do no harm (the mask of an attention, a
branch that ``where`` does not choose) reach no output and are not looked at; those that are written in as constants
are what their author meant.

An equation that holds a program of its own is entered: a loop iteration by iteration, until the one where it happens.
The equation's operands, the inputs of its module and the module's parameters are then fetched and measured.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import function as checked
from batiste.core import LayerName
from batiste.diagnose._evaluate import branch_of, called, is_branch, is_used, outputs_of, parts_of_while, read_all
from batiste.diagnose._gradient import with_gradient
from batiste.diagnose._program import (
    Call,
    Calls,
    Place,
    Program,
    is_closed,
    is_inexact,
    is_literal,
    mark_of,
    path_text,
    place_of,
    scan_extents,
    source_of,
    subject_of,
    trace,
)

__all__ = ["ArrayStatistics", "NonFinite", "find_nan", "statistics_of"]

_MOST_TURNS = 100_000


@dataclasses.dataclass(frozen=True)
class ArrayStatistics:
    """An array in a few numbers; those of its finite elements, and of a complex array those of the magnitudes.

    Attributes:
      name: what it is.
      shape: its shape.
      dtype: its dtype.
      mean: the mean; NaN where no element is finite.
      std: the standard deviation.
      min: the least.
      max: the greatest.
      nan: how many elements are not a number.
      inf: how many are infinite.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose
      >>> found = diagnose.find_nan(lambda x: jnp.log(x), jnp.array([1.0, -1.0]))
      >>> operand = found.operands[0]
      >>> operand.shape, operand.min, operand.nan
      ((2,), -1.0, 0)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    mean: float
    std: float
    min: float
    max: float
    nan: int
    inf: int

    def __str__(self) -> str:
        wrong = [f"{count} {what}" for count, what in ((self.nan, "NaN"), (self.inf, "inf")) if count]
        numbers = f"mean {self.mean:.3g}, std {self.std:.3g}, from {self.min:.3g} to {self.max:.3g}"
        return ", ".join([f"{self.name} {self.dtype}{list(self.shape)}: {numbers}", *wrong])


@dataclasses.dataclass(frozen=True)
class NonFinite:
    """The first result that is not finite; as text, a report.

    Attributes:
      path: the path of the module that computed it: ``encoder/Dense_0``. The outermost module is its class; outside of
        every module it is the name of the function, and where the number came from outside the name of the argument.
      kind: the module's class, or "".
      options: its fields that are not the defaults.
      method: the method.
      operation: the operation of JAX: ``log``, ``div``, ``exp``; "" where the number came from outside.
      what: ``"nan"`` or ``"inf"``.
      backward: whether it happened in the backward pass: all that the forward pass gives is finite.
      iterations: for each loop around it, from the outermost, which iteration it was, from 0.
      source: the line of the program, ``model.py:12``, where it is known.
      operands: what the operation was given.
      inputs: what the module was given.
      parameters: the module's own variables.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose
      >>> found = diagnose.find_nan(lambda x: jnp.log(x), jnp.array([1.0, -1.0]))
      >>> found.operation, found.what, found.backward
      ('log', 'nan', False)
    """

    path: str
    kind: str
    options: str
    method: str
    operation: str
    what: str
    backward: bool
    iterations: tuple[int, ...]
    source: str
    operands: tuple[ArrayStatistics, ...]
    inputs: tuple[ArrayStatistics, ...]
    parameters: tuple[ArrayStatistics, ...]

    def __str__(self) -> str:
        word = {"nan": "NaN", "inf": "infinity"}[self.what]
        if not self.operation:
            return "\n  ".join([f"{self.path} was given with a {word}.", *map(str, self.operands)])
        where = f"in the {'backward' if self.backward else 'forward'} pass"
        turns = "".join(f", iteration {turn}" for turn in self.iterations)
        lines = [f"The first {word} is made by `{self.operation}` at {self.path}, {where}{turns}."]
        if self.kind:
            method = "" if self.method == "__call__" else f".{self.method}"
            lines.append(f"module: {self.kind}({self.options}){method}")
        if self.source:
            lines.append(f"line: {self.source}")
        for title, group in (("operand", self.operands), ("input", self.inputs), ("variable", self.parameters)):
            lines += [f"{title} {each}" for each in group]
        return "\n  ".join(lines)


def find_nan(
    model: Any,
    variables: Any,
    *inputs: Any,
    loss: Callable[..., Any] | None = None,
    backward: bool = True,
    rngs: Any = None,
    mutable: Any = None,
    method: Any = None,
    **kwargs: Any,
) -> NonFinite | None:
    """Return where the first number that is not finite comes from, or None if all that the model gives is finite.

    The model is run as one compiled program with flags beside every result, on the arrays that are given; it is not
    changed, and nothing is added to the programs that it is run with otherwise.

    Args:
      model: a module; or a function, of which nothing but the forward pass is looked at unless it computes gradients
        itself, such as a training step.
      variables: the module's variables; or the function's first argument.
      *inputs: what the module or the function is called with.
      loss: for the backward pass, from the module's output to a number; by default the sum of all that is inexact.
      backward: whether gradients with respect to ``params`` are computed and searched as well.
      rngs: the random streams; those that are asked for and not given get a key.
      mutable: as for ``apply``; by default every collection given but ``params``.
      method: as for ``apply``.
      **kwargs: keyword arguments of the call.

    Raises:
      ArgumentError: ``model`` is no module and no function.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> class Model(nn.Module):
      ...     def __call__(self, x):
      ...         return jnp.log(x)
      >>> found = diagnose.find_nan(Model(), {}, jnp.array([1.0, -1.0]))
      >>> found.path, found.operation, found.what
      ('Model', 'log', 'nan')
      >>> diagnose.find_nan(Model(), {}, jnp.array([1.0, 2.0])) is None
      True
    """
    if loss is not None:
        checked(loss, "loss", "find_nan", what="a function of the output")
    subject = subject_of(
        model, variables, inputs, rngs=rngs, mutable=mutable, method=method, kwargs=kwargs, where="find_nan"
    )
    function, params = with_gradient(subject, loss, backward=backward)
    program = trace(function, subject.arguments, Calls(tag_inputs=True))
    forward = program.out_tree.num_leaves
    if params is not None:
        forward -= len(jax.tree.leaves(params))
    return _Search(program, subject.name, forward).run()


# --- the search


class _Level(NamedTuple):
    """A program that is searched: the whole one, or one within.

    Attributes:
      jaxpr: the program.
      values: the values of its inputs and constants.
      place: where it stands.
      iterations: the iterations of the loops around it.
      extents: how many iterations each of those loops has.
      wanted: which outputs are searched, or None for all.
    """

    jaxpr: Any
    values: list[Any]
    place: Place
    iterations: tuple[int, ...]
    extents: tuple[int, ...]
    wanted: tuple[bool, ...] | None = None


class _Found(NamedTuple):
    level: _Level
    equation: Any
    place: Place
    what: str


class _Search:
    def __init__(self, program: Program, name: str, forward: int) -> None:
        self.program, self.name, self.forward = program, name, forward

    def run(self) -> NonFinite | None:
        jaxpr, consts = self.program.jaxpr, self.program.closed.consts
        level = _Level(jaxpr, [*consts, *self.program.flat], Place(), (), ())
        flags, outputs = _flags(level)
        is_bad = [any(flag) for flag in outputs]
        is_forward = any(is_bad[: self.forward])
        last = self.forward if is_forward else len(is_bad)  # what is wrong forward is wrong backward, too
        wanted = tuple(bad and n < last for n, bad in enumerate(is_bad))
        if not any(wanted):
            return None
        found = self._origin(level._replace(wanted=wanted), flags)
        if found is None:
            return self._given()
        return self._report(found, backward=not is_forward or found.place.is_backward)

    def _origin(self, level: _Level, flags: dict[Any, tuple[bool, bool]] | None = None) -> _Found | None:
        """Return the equation that made the first number that is not finite."""
        if flags is None:
            flags, _ = _flags(level)
        for equation, what in _candidates(level.jaxpr, flags, level.wanted):
            place = place_of(equation, level.place)
            found = self._within(level, equation, place, flags)
            if found is not None:
                return found
            if not _holds_program(equation):
                return _Found(level, equation, place, what)
        return None

    def _within(self, level: _Level, equation: Any, place: Place, flags: dict[Any, tuple[bool, bool]]) -> _Found | None:
        """Search the program within an equation, if it has one."""
        name = equation.primitive.name
        bad = tuple(any(flags.get(var, (False, False))) for var in equation.outvars)
        if name == "scan":
            return self._scan(level, equation, place)
        if name == "while":
            return self._while(level, equation, place)
        inner = called(equation)
        if inner is None:
            return None
        operands = read_all(level.jaxpr, level.values, equation.invars)
        if is_branch(equation):
            inner, operands = branch_of(equation, operands), operands[1:]
        consts = list(inner.consts) if is_closed(inner) else []
        jaxpr = inner.jaxpr if is_closed(inner) else inner
        if len(jaxpr.invars) != len(operands):
            return None
        turn, extent = _layer(level.jaxpr, equation, backward=place.is_backward)
        wanted = bad if len(jaxpr.outvars) == len(bad) else None
        extents = (*level.extents, extent) if extent else level.extents
        iterations = (*level.iterations, turn) if extent else level.iterations
        found = self._origin(_Level(jaxpr, [*consts, *operands], place, iterations, extents, wanted))
        if found is None or not extent or self._has_layers(found):
            return found
        return found._replace(level=found.level._replace(iterations=level.iterations, extents=level.extents))

    def _has_layers(self, found: _Found) -> bool:
        call = self._call(found.place)
        return call is not None and any(isinstance(name, LayerName) for name in call.path)

    def _scan(self, level: _Level, equation: Any, place: Place) -> _Found | None:
        extents = scan_extents(equation.params)
        body = equation.params["jaxpr"]
        if extents is None:
            return None
        first, carried = extents
        values = read_all(level.jaxpr, level.values, equation.invars)
        consts, carry, rows = values[:first], values[first : first + carried], values[first + carried :]
        length = equation.params["length"]
        turns = range(length - 1, -1, -1) if equation.params.get("reverse") else range(length)
        for turn in turns:
            inputs = [*body.consts, *consts, *carry, *(row[turn] for row in rows)]
            inner = _Level(body.jaxpr, inputs, place, (*level.iterations, turn), (*level.extents, length), None)
            flags, outputs, results = _run_with_flags(inner)
            if any(any(flag) for flag in outputs):
                wanted = tuple(any(flag) for flag in outputs)
                found = self._origin(inner._replace(wanted=wanted), flags)
                if found is not None:
                    return found
            carry = results[:carried]
        return None

    def _while(self, level: _Level, equation: Any, place: Place) -> _Found | None:
        values = read_all(level.jaxpr, level.values, equation.invars)
        condition, body, given, consts, carry = parts_of_while(equation, values)
        for turn in range(_MOST_TURNS):
            asked = _Level(condition.jaxpr, [*condition.consts, *given, *carry], place, (), ())
            if not bool(_run_with_flags(asked)[2][0]):
                return None
            inputs = [*body.consts, *consts, *carry]
            inner = _Level(body.jaxpr, inputs, place, (*level.iterations, turn), (*level.extents, 0))
            flags, outputs, results = _run_with_flags(inner)
            if any(any(flag) for flag in outputs):
                found = self._origin(inner._replace(wanted=tuple(any(flag) for flag in outputs)), flags)
                if found is not None:
                    return found
            carry = results
        return None

    # --- what is said of it

    def _call(self, place: Place) -> Call | None:
        return None if place.call is None else self.program.calls[place.call]

    def _given(self) -> NonFinite | None:
        """Return the first argument that holds a NaN; infinities that come from outside are meant."""
        for name, value in zip(self.program.names, self.program.flat, strict=True):
            if is_inexact(value) and bool(jnp.isnan(value).any()):
                found = statistics_of(name, value)
                return NonFinite(name, "", "", "", "", "nan", False, (), "", (found,), (), ())
        return None

    def _report(self, found: _Found, *, backward: bool) -> NonFinite:
        call, level = self._call(found.place), found.level
        layers = dict(zip(level.extents, level.iterations, strict=False))
        atoms = [atom for atom in found.equation.invars if is_inexact(atom.aval)]
        names = [f"{n}" for n in range(len(atoms))]
        inputs: dict[str, Any] = {}
        if call is not None:
            prefix = f"{mark_of(call.number)}.input."
            for equation in level.jaxpr.eqns:
                if equation.primitive.name == "name" and str(equation.params["name"]).startswith(prefix):
                    inputs.setdefault(str(equation.params["name"])[len(prefix) :], equation.invars[0])
        values = read_all(level.jaxpr, level.values, [*atoms, *inputs.values()])
        operands = [statistics_of(name, value) for name, value in zip(names, values, strict=False)]
        given = [statistics_of(name, value) for name, value in zip(inputs, values[len(atoms) :], strict=True)]
        path = self.name if call is None else path_text(call.path, layers) or call.kind
        return NonFinite(
            path=path,
            kind="" if call is None else call.kind,
            options="" if call is None else call.options,
            method="" if call is None else call.method,
            operation=found.equation.primitive.name,
            what=found.what,
            backward=backward,
            iterations=level.iterations,
            source=source_of(found.equation),
            operands=tuple(operands),
            inputs=tuple(given),
            parameters=tuple(self._parameters("" if call is None or not call.path else path)),
        )

    def _parameters(self, path: str) -> Iterator[ArrayStatistics]:
        """Yield the statistics of a module's own variables."""
        for name, value in zip(self.program.names, self.program.flat, strict=True):
            root, _, rest = name.partition("/")
            collection, _, place = rest.partition("/")
            owner = place.rpartition("/")[0]
            if root == "variables" and owner == path and is_inexact(value):
                yield statistics_of(f"{collection}/{place}", value)


def statistics_of(name: str, value: Any) -> ArrayStatistics:
    """Return an array in a few numbers."""
    numbers = cast("tuple[Any, ...]", _measure(jnp.asarray(value)))
    mean, std, low, high, nan, inf = map(float, numbers)
    return ArrayStatistics(name, tuple(value.shape), str(value.dtype), mean, std, low, high, int(nan), int(inf))


@jax.jit
def _measure(value: Any) -> tuple[Any, ...]:
    is_nan, is_inf = jnp.isnan(value), jnp.isinf(value)
    magnitude = jnp.abs(value) if jnp.iscomplexobj(value) else value
    magnitude = magnitude.astype(jnp.promote_types(magnitude.dtype, jnp.float32))
    good = ~(is_nan | is_inf)
    mean = jnp.mean(magnitude, where=good)
    std = jnp.std(magnitude, where=good)
    low = jnp.min(magnitude, initial=jnp.inf, where=good)
    high = jnp.max(magnitude, initial=-jnp.inf, where=good)
    return mean, std, low, high, is_nan.sum(), is_inf.sum()


# --- flags


def _candidates(
    jaxpr: Any, flags: dict[Any, tuple[bool, bool]], wanted: Sequence[bool] | None
) -> list[tuple[Any, str]]:
    """Return the equations that made a number that is not finite and that an output comes from, earliest first."""
    outputs = [atom for n, atom in enumerate(jaxpr.outvars) if wanted is None or wanted[n]]
    needed = {atom for atom in outputs if not is_literal(atom) and any(flags.get(atom, ()))}
    found: list[tuple[Any, str]] = []
    for equation in reversed(jaxpr.eqns):
        made = [flags[var] for var in equation.outvars if var in needed]
        if not made:
            continue
        given = [
            _literal_flags(atom) if is_literal(atom) else flags.get(atom, (False, False)) for atom in equation.invars
        ]
        nan, inf = any(flag[0] for flag in made), any(flag[1] for flag in made)
        from_nan, from_inf = any(flag[0] for flag in given), any(flag[1] for flag in given)
        if not from_nan and (nan or (inf and not from_inf)):
            found.append((equation, "nan" if nan else "inf"))
        needed.update(
            atom for atom, flag in zip(equation.invars, given, strict=True) if any(flag) and not is_literal(atom)
        )
    return found[::-1]


def _literal_flags(atom: Any) -> tuple[bool, bool]:
    value = np.asarray(atom.val)
    if value.dtype.kind not in "fc":
        return (False, False)
    return bool(np.isnan(value).any()), bool(np.isinf(value).any())


def _flags(level: _Level) -> tuple[dict[Any, tuple[bool, bool]], list[tuple[bool, bool]]]:
    flags, outputs, _ = _run_with_flags(level)
    return flags, outputs


def _run_with_flags(
    level: _Level,
) -> tuple[dict[Any, tuple[bool, bool]], list[tuple[bool, bool]], list[Any]]:
    """Run a program; return for each of its variables, and for each output, whether it has a NaN or an infinity."""
    run, variables = _flagging(_Keep(level.jaxpr))
    marks, results = run(level.values)
    marks = np.asarray(marks)
    flags = {var: (bool(nan), bool(inf)) for var, (nan, inf) in zip(variables, marks, strict=True)}
    outputs = [
        _literal_flags(atom) if is_literal(atom) else flags.get(atom, (False, False)) for atom in level.jaxpr.outvars
    ]
    return flags, outputs, results


class _Keep(NamedTuple):
    jaxpr: Any

    def __hash__(self) -> int:
        return id(self.jaxpr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keep) and other.jaxpr is self.jaxpr

    def __ne__(self, other: object) -> bool:
        return not self == other


@functools.lru_cache(maxsize=16)
def _flagging(held: _Keep) -> tuple[Any, list[Any]]:
    jaxpr = held.jaxpr
    made = (var for equation in jaxpr.eqns for var in equation.outvars if is_used(var))
    variables = [var for var in (*jaxpr.constvars, *jaxpr.invars, *made) if is_inexact(var.aval)]

    def run(values: list[Any]) -> tuple[Any, list[Any]]:
        results = outputs_of(jaxpr, values, [*variables, *jaxpr.outvars])
        rows = [_marks(value) for value in results[: len(variables)]]
        return jnp.stack(rows) if rows else jnp.zeros((0, 2), bool), results[len(variables) :]

    return jax.jit(run), variables


def _marks(value: Any) -> Any:
    return jnp.stack([jnp.isnan(value).any(), jnp.isinf(value).any()])


def _holds_program(equation: Any) -> bool:
    return equation.primitive.name in {"scan", "while"} or called(equation) is not None


def _layer(jaxpr: Any, equation: Any, *, backward: bool) -> tuple[int, int]:
    """Return which of the equal programs of a loop that is written out an equation is, and how many there are."""
    inner = equation.params.get("jaxpr")
    if equation.primitive.name not in {"jit", "pjit"} or inner is None:
        return 0, 0
    alike = [one for one in jaxpr.eqns if one.params.get("jaxpr") is inner]
    if len(alike) < 2:
        return 0, 0
    turn = next(number for number, one in enumerate(alike) if one is equation)
    return (len(alike) - 1 - turn if backward else turn), len(alike)
