"""What a model computes inside, by module path: values, gradients, statistics, histograms.

The model is traced with marks (``_program.py``), and each output that is asked for gets a name in the program. The
program is then run once, compiled, with what has a name as an output of its own: out of ``jit`` and ``remat`` it comes
as it is, out of a loop stacked along a leading axis, one entry an iteration; under ``vmap`` the mapped axis comes
first. Only what is asked for leaves the program: statistics and histograms are computed where the value is, so that
no activation is kept.

Gradients are those of a loss with respect to the values. The named value is then also an identity whose backward pass
names what it is given.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import ad_checkpoint

from batiste._arguments import choice, function, refused, whole_number
from batiste.core import LayerName, is_tracer
from batiste.diagnose._evaluate import called, is_branch, is_used, run_equation
from batiste.diagnose._findings import html_table
from batiste.diagnose._program import (
    Call,
    Calls,
    inner_jaxprs,
    is_closed,
    is_inexact,
    is_literal,
    nearest_paths,
    path_text,
    scan_extents,
    subject_of,
    trace,
)
from batiste.errors import NoSuchModuleError
from batiste.module import tag_watch
from batiste.tree import Patterns, compile_pattern, unflatten

__all__ = ["Capture", "Captured", "Statistics", "capture"]

What: TypeAlias = Literal["values", "gradients", "statistics", "histograms"]

_name = cast("Any", ad_checkpoint.checkpoint_name)  # pyright: ignore[reportUnknownMemberType]
_BINS = 64


class Statistics(NamedTuple):
    """An array in a few numbers; each of them has a leading axis for each loop that the array was computed in.

    Attributes:
      mean: the mean.
      rms: the root of the mean square.
      min: the least.
      max: the greatest.
      zeros: which share of the elements is zero.
      bad: how many elements are not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> model, x = nn.Sequential([nn.relu]), jnp.array([[-1.0, 3.0]])
      >>> found = diagnose.capture(model, what="statistics")({}, x).values["Sequential"]
      >>> float(found.mean), float(found.max), float(found.zeros)
      (1.5, 3.0, 0.5)
    """

    mean: Any
    rms: Any
    min: Any
    max: Any
    zeros: Any
    bad: Any


@dataclasses.dataclass(frozen=True)
class Captured:
    """What a run has captured.

    Attributes:
      output: what the model returned.
      values: by path; a module that is called several times has ``path``, ``path:1``, ``path:2``. An output of several
        arrays has ``path[0]``, ``path[1]``. What ``nn.tag`` has named is at ``path/name``.
      loops: for each path how often each of the loops around it runs: so many leading axes the value has.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> model, x = nn.Dense(4), jnp.ones((2, 3))
      >>> found = diagnose.capture(model)(model.init(jax.random.key(0), x), x)
      >>> found.output.shape, list(found.values)
      ((2, 4), ['Dense'])
    """

    output: Any
    values: dict[str, Any]
    loops: dict[str, tuple[int, ...]]

    def __getitem__(self, path: str) -> Any:
        return self.values[path]

    def __contains__(self, path: object) -> bool:
        return path in self.values

    def tree(self) -> dict[str, Any]:
        """Return the values as a nested dict; a module's own value lies at ``output`` in it."""
        paths = list(self.values)
        return unflatten(
            {
                f"{path}/output" if any(other.startswith(f"{path}/") for other in paths) else path: value
                for path, value in self.values.items()
            }
        )

    def __str__(self) -> str:
        return "\n".join(f"{path}: {_describe(value)}" for path, value in self.values.items())

    def _repr_html_(self) -> str:
        return html_table("captured", ("path", "value"), [(path, _describe(v)) for path, v in self.values.items()])


def _describe(value: Any) -> str:
    if isinstance(value, Statistics):
        return ", ".join(f"{name} {_number(entry)}" for name, entry in value._asdict().items())
    if isinstance(value, tuple):
        counts = cast("Any", value)[0]
        return f"histogram of {int(counts.sum()):,} elements"
    return f"{value.dtype}{list(value.shape)}"


def _number(value: Any) -> str:
    array = np.asarray(value)
    return f"{array.item():.4g}" if array.size == 1 else "[" + ", ".join(f"{x:.3g}" for x in array.ravel()[:8]) + "]"


class Capture:
    """A model, or a function of arrays, that returns what it computes inside; made by ``capture``.

    It is called as the model's ``apply`` is, or as the function, and returns ``Captured``. A program is traced and
    compiled for each call; keep the returned object and jit around it where it is called often.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> model, x = nn.Dense(4), jnp.ones((2, 3))
      >>> run = diagnose.capture(model, what="gradients")
      >>> found = run(model.init(jax.random.key(0), x), x)
      >>> isinstance(run, diagnose.Capture), found.values["Dense"].tolist()
      (True, [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    """

    def __init__(self, model: Any, patterns: Any, what: str, loss: Callable[..., Any] | None, bins: int) -> None:
        self._model, self._patterns, self._what, self._loss, self._bins = model, patterns, what, loss, bins

    def __call__(
        self, variables: Any, *inputs: Any, rngs: Any = None, mutable: Any = False, method: Any = None, **kwargs: Any
    ) -> Captured:
        """Run the model and return its output and what was captured.

        Raises:
          NoSuchModuleError: a pattern matches nothing that the model computes.
        """
        subject = subject_of(
            self._model, variables, inputs, rngs=rngs, mutable=mutable, method=method, kwargs=kwargs, where="capture"
        )
        names = _Names(self._patterns, subject.name, is_backward=self._what == "gradients")
        has_gradient = self._what == "gradients"
        loss = self._loss

        def run(given: Any) -> Any:
            return subject.function(given)

        def of_loss(given: Any) -> Any:
            output = subject.function(given)
            number = _sum(output) if loss is None else loss(output[0] if mutable else output)
            return number, output

        def with_gradient(given: Any) -> Any:
            split, rest = _inexact_parts(given)

            def of_parts(parts: list[Any]) -> Any:
                return of_loss(rest(parts))

            grad: Any = cast("Any", jax.grad)(of_parts, has_aux=True)
            gradients, output = grad(split)
            return output, gradients

        probe = _probed if has_gradient else _named
        calls = Calls(on_output=functools.partial(names.note, probe))
        with tag_watch(functools.partial(names.tag, probe, calls)):
            program = trace(with_gradient if has_gradient else run, subject.arguments, calls)
        names.check()
        reduce = _reducer(self._what, self._bins)
        captured = _run(program, names, reduce)
        outputs, values = captured
        output = jax.tree.unflatten(program.out_tree, outputs)
        found = names.by_path(values)
        return Captured(
            output[0] if has_gradient else output,
            {path: value for path, (value, _) in found.items()},
            {path: loops for path, (_, loops) in found.items()},
        )


def capture(
    model: Any,
    patterns: Patterns | Sequence[Any] = "**",
    *,
    what: What = "values",
    loss: Callable[..., Any] | None = None,
    bins: int = _BINS,
) -> Capture:
    """Return a function that runs a model and returns what the modules at some paths return.

    The model is not changed. It is run through ``jit``, ``scan``, ``vmap`` and ``remat`` as it is.

    Args:
      model: a module; or a function of arrays that applies modules.
      patterns: globs over module paths, ``"**/attn"``, and over paths with what ``nn.tag`` named behind them,
        ``"**/attn/weights"``. The outermost module is at the path of its class.
      what: ``"values"``; ``"gradients"`` of the loss with respect to them; ``"statistics"`` (``Statistics``); or
        ``"histograms"``, pairs of counts and edges, whose bins are equally wide between the least and the greatest.
      loss: from the output to a number, for gradients; by default the sum of the output.
      bins: how many bins a histogram has.

    Raises:
      ArgumentError: ``what`` is none of these, or ``bins`` is no number of bins.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> model, x = nn.Sequential([nn.Dense(4), nn.Dense(4)]), jnp.ones((2, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> found = diagnose.capture(model, "layers_*")(variables, x)
      >>> {path: value.shape for path, value in found.values.items()}
      {'layers_0': (2, 4), 'layers_1': (2, 4)}
    """
    choice(what, "what", "capture", ("values", "gradients", "statistics", "histograms"))
    bins = whole_number(bins, "bins", "capture", low=1)
    if loss is not None:
        function(loss, "loss", "capture", what="a function of the output")
    if not isinstance(patterns, str | list | tuple):
        raise refused(patterns, "patterns", "capture", "a pattern over module paths, or several")
    given: Any = [patterns] if isinstance(patterns, str) else list(cast("Any", patterns))
    return Capture(model, [compile_pattern(each) for each in given], what, loss, bins)


# --- names in the program


class _Note(NamedTuple):
    path: tuple[str, ...]
    suffix: str
    shape: tuple[int, ...]
    kind: str


class _Names:
    """What was given a name in the program, and where it belongs."""

    def __init__(self, patterns: Sequence[Any], model: str, *, is_backward: bool) -> None:
        self._patterns, self._model, self._is_backward = patterns, model, is_backward
        self._matched: set[int] = set()
        self._paths: list[str] = []
        self.notes: list[_Note] = []

    def _is_wanted(self, path: str) -> bool:
        self._paths.append(path)
        hits = {n for n, pattern in enumerate(self._patterns) if pattern.matches(path)}
        self._matched |= hits
        return bool(hits)

    def note(self, probe: Callable[..., Any], call: Call, _: Any, output: Any) -> Any:
        """Give each array of an output a name, if its module is wanted."""
        if call.method != "__call__" and call.path == () and call.above is not None:
            return output
        candidates = {path_text((*call.path[:-1], name)) for name in _layer_names(call)} if call.path else {call.kind}
        wanted = [self._is_wanted(path) for path in sorted(candidates)]  # each is to be seen
        if not any(wanted):
            return output
        method = "" if call.method == "__call__" else f".{call.method}"
        leaves, structure = cast("tuple[list[Any], Any]", jax.tree.flatten(output))  # pyright: ignore[reportUnknownMemberType]
        count = sum(is_tracer(leaf) for leaf in leaves)
        named = [
            self._named(probe, leaf, call, f"{method}[{n}]" if count > 1 else method) if is_tracer(leaf) else leaf
            for n, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, named)

    def tag(self, probe: Callable[..., Any], calls: Calls, name: str, value: Any) -> Any:
        """Give what ``nn.tag`` was given a name in the program, if it is wanted."""
        call = calls.current
        path = name if call is None else "/".join([*([path_text(call.path)] if call.path else []), name])
        if not self._is_wanted(path) or not is_tracer(value):
            return value
        number = len(self.notes)
        above = () if call is None else call.path
        self.notes.append(_Note((*above, name), "", tuple(value.shape), ""))
        return probe(value, f"batiste={number}")

    def _named(self, probe: Callable[..., Any], leaf: Any, call: Call, suffix: str) -> Any:
        number = len(self.notes)
        self.notes.append(_Note(call.path, suffix, tuple(leaf.shape), call.kind))
        return probe(leaf, f"batiste={number}")

    def _turn(self, turn: int, turns: int) -> int:
        """Return which call a value belongs to: the backward pass comes to the last one first."""
        return turns - 1 - turn if self._is_backward else turn

    def check(self) -> None:
        """Raise ``NoSuchModuleError`` if a pattern matches nothing."""
        for n, pattern in enumerate(self._patterns):
            if n not in self._matched:
                raise NoSuchModuleError(
                    where="capture",
                    pattern=str(pattern),
                    model=self._model,
                    nearest=nearest_paths(str(pattern), self._paths),
                )

    def by_path(self, values: dict[int, list[tuple[tuple[int, ...], Any]]]) -> dict[str, Any]:
        """Return values by path, with the extents of their loops; those of layers under the names of the layers."""
        found: dict[str, Any] = {}
        for number, note in enumerate(self.notes):
            for turn, (loops, value) in enumerate(values.get(number, [])):
                for path, part, left in _layers(
                    note, loops, value, self._turn(turn, len(values[number])), len(values[number])
                ):
                    name, again = f"{path}{note.suffix}", 1
                    while name in found:
                        name, again = f"{path}{note.suffix}:{again}", again + 1
                    found[name] = part, left
        return found


def _layer_names(call: Call) -> Sequence[str]:
    last = call.path[-1]
    return last.names if isinstance(last, LayerName) else (last,)


def _layers(
    note: _Note, loops: tuple[int, ...], value: Any, turn: int, turns: int
) -> list[tuple[str, Any, tuple[int, ...]]]:
    """Return a value, or its entries along the axis of the layers where the layers have names of their own."""
    several = [name for name in note.path if isinstance(name, LayerName)]
    if not several:
        return [(path_text(note.path) or note.kind, value, loops)]
    count = len(several[-1].names)
    if count in loops:
        axis = loops.index(count)
        return [
            (
                path_text(note.path, {count: n}),
                jax.tree.map(functools.partial(_entry, n, axis), value),
                (*loops[:axis], *loops[axis + 1 :]),
            )
            for n in range(count)
        ]
    at = {count: turn} if turns == count else None
    return [(path_text(note.path, at) or note.kind, value, loops)]


def _entry(index: int, axis: int, value: Any) -> Any:
    return jnp.take(value, index, axis)


def _named(value: Any, name: str) -> Any:
    return _name(value, name)


def _probed(value: Any, name: str) -> Any:
    """Return an identity whose gradient has a name."""
    if not is_inexact(value):
        return value

    @jax.custom_vjp
    def identity(x: Any) -> Any:
        return x

    def forward(x: Any) -> tuple[Any, None]:
        return x, None

    def backward(_: None, gradient: Any) -> tuple[Any]:
        return (_name(gradient, name),)

    identity.defvjp(forward, backward)
    return cast("Any", identity)(value)


def _sum(tree: Any) -> Any:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    return sum((jnp.sum(jnp.real(leaf).astype(jnp.float32)) for leaf in leaves), start=jnp.zeros(()))


def _inexact_parts(given: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    leaves, structure = cast("tuple[list[Any], Any]", jax.tree.flatten(given))  # pyright: ignore[reportUnknownMemberType]
    marks = [is_inexact(leaf) for leaf in leaves]

    def rest(parts: list[Any]) -> Any:
        left = iter(parts)
        return jax.tree.unflatten(
            structure, [next(left) if mark else leaf for mark, leaf in zip(marks, leaves, strict=True)]
        )

    return [leaf for leaf, mark in zip(leaves, marks, strict=True) if mark], rest


# --- what leaves the program


def _reducer(what: str, bins: int) -> Callable[[Any], Any]:
    if what == "statistics":
        return _statistics
    if what == "histograms":
        return functools.partial(_histogram, bins=bins)
    return lambda value: value


def _statistics(value: Any) -> Statistics:
    numbers = jnp.abs(value) if jnp.iscomplexobj(value) else jnp.asarray(value, jnp.float32)
    good = jnp.isfinite(numbers)
    return Statistics(
        jnp.mean(numbers, where=good),
        jnp.sqrt(jnp.mean(numbers**2, where=good)),
        jnp.min(numbers, initial=jnp.inf, where=good),
        jnp.max(numbers, initial=-jnp.inf, where=good),
        jnp.mean(numbers == 0),
        jnp.sum(~good),
    )


def _histogram(value: Any, bins: int) -> tuple[Any, Any]:
    numbers = jnp.asarray(jnp.abs(value) if jnp.iscomplexobj(value) else value, jnp.float32)
    return cast("tuple[Any, Any]", jnp.histogram(numbers.ravel(), bins))


def _run(program: Any, names: _Names, reduce: Callable[[Any], Any]) -> tuple[list[Any], dict[int, list[Any]]]:
    """Run a program; return its outputs, and for each name its values with the extents of the loops around each."""
    marks = len(names.notes)
    extents: dict[int, list[tuple[int, ...]]] = {}

    def evaluate(arrays: list[Any]) -> tuple[list[Any], dict[int, list[Any]]]:
        extents.clear()
        run = _Run(names.notes, reduce)
        outputs = run.jaxpr(program.jaxpr, [*program.closed.consts, *arrays])
        extents.update({number: [loops for loops, _ in found] for number, found in run.found.items()})
        return outputs, {number: [value for _, value in found] for number, found in run.found.items()}

    outputs, values = cast("Any", jax.jit(evaluate))(program.flat)
    return outputs, {
        number: list(zip(extents[number], values[number], strict=True)) for number in range(marks) if number in values
    }


class _Run:
    """Runs a program in the current trace, and keeps what has a name.

    Attributes:
      found: for each number of a name its values, each with the extents of the loops around it.
    """

    def __init__(self, notes: Sequence[_Note], reduce: Callable[[Any], Any]) -> None:
        self._notes, self._reduce = notes, reduce
        self.found: dict[int, list[tuple[tuple[int, ...], Any]]] = {}

    def jaxpr(self, jaxpr: Any, values: Sequence[Any]) -> list[Any]:
        """Run a program on the values of its constants and inputs."""
        known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        for equation in jaxpr.eqns:
            given = [atom.val if is_literal(atom) else known[atom] for atom in equation.invars]
            results = self._equation(jaxpr, equation, given)
            known.update((v, r) for v, r in zip(equation.outvars, results, strict=True) if is_used(v))
        return [atom.val if is_literal(atom) else known[atom] for atom in jaxpr.outvars]

    def _equation(self, jaxpr: Any, equation: Any, given: list[Any]) -> list[Any]:
        name = equation.primitive.name
        if name == "name":
            return self._keep(equation, given)
        if not _has_names(equation):
            return run_equation(jaxpr, equation, given)
        if name == "scan" and scan_extents(equation.params) is not None:
            return self._scan(equation, given)
        inner = called(equation)
        if name == "while" or is_branch(equation) or inner is None:
            return run_equation(jaxpr, equation, given)  # how often a value comes is not known
        consts: list[Any] = list(inner.consts) if is_closed(inner) else []
        body = inner.jaxpr if is_closed(inner) else inner
        if len(body.invars) != len(given):
            return run_equation(jaxpr, equation, given)
        return self.jaxpr(body, [*consts, *given])

    def _keep(self, equation: Any, given: list[Any]) -> list[Any]:
        text = str(equation.params["name"])
        if text.startswith("batiste="):
            number = int(text.removeprefix("batiste="))
            value = _mapped_first(given[0], self._notes[number].shape)
            self.found.setdefault(number, []).append(((), self._reduce(value)))
        return given

    def _scan(self, equation: Any, given: list[Any]) -> list[Any]:
        params = equation.params
        first, carried = cast("tuple[int, int]", scan_extents(params))
        body, length = params["jaxpr"], params["length"]
        consts, carry, rows = given[:first], given[first : first + carried], given[first + carried :]
        loops: dict[int, list[tuple[int, ...]]] = {}

        def step(carry: list[Any], rows: list[Any]) -> tuple[list[Any], Any]:
            inner = _Run(self._notes, self._reduce)
            results = inner.jaxpr(body.jaxpr, [*body.consts, *consts, *carry, *rows])
            loops.update({number: [at for at, _ in found] for number, found in inner.found.items()})
            kept = {number: [value for _, value in found] for number, found in inner.found.items()}
            return results[:carried], (results[carried:], kept)

        end, (outputs, kept) = jax.lax.scan(
            step, carry, rows, length=length, reverse=params.get("reverse", False), unroll=params.get("unroll", 1)
        )
        for number, values in cast("dict[int, list[Any]]", kept).items():
            around = [(length, *at) for at in loops[number]]
            self.found.setdefault(number, []).extend(zip(around, values, strict=True))
        return [*end, *outputs]


def _mapped_first(value: Any, shape: tuple[int, ...]) -> Any:
    """Return a value with the axis that ``vmap`` has put in moved to the front, where the shape tells which it is."""
    if value.ndim != len(shape) + 1 or value.shape[1:] == shape:
        return value
    axes = [n for n in range(value.ndim) if value.shape[:n] + value.shape[n + 1 :] == shape]
    return jnp.moveaxis(value, axes[0], 0) if axes else value


def _has_names(equation: Any) -> bool:
    """Return whether a program within an equation gives something a name that is looked for."""
    return any(_holds_names(getattr(inner, "jaxpr", inner)) for _, inner in inner_jaxprs(equation))


def _holds_names(jaxpr: Any) -> bool:
    return any(
        (equation.primitive.name == "name" and str(equation.params["name"]).startswith("batiste="))
        or _has_names(equation)
        for equation in jaxpr.eqns
    )
