"""The random keys of a model: who draws from which stream, and where two draws give the same numbers.

The program is traced with marks (``_program.py``), and each key in it is followed as what it was made of: the stream,
the numbers folded in, the entry of a split. Two keys made of the same are the same key. What consumes keys are the
operations that make random bits. A loop runs its body once for each iteration, so that a key made of nothing that
changes from iteration to iteration makes the same numbers in each; the same holds for a key that ``vmap`` does not map.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from batiste.diagnose._evaluate import called, is_branch, is_used
from batiste.diagnose._findings import Finding, Findings, html_table
from batiste.diagnose._program import (
    Place,
    Program,
    is_closed,
    is_literal,
    place_of,
    scan_extents,
    source_of,
    subject_of,
    trace,
)

__all__ = ["Draw", "Keys", "keys"]

_CONSUMERS = frozenset({"random_bits", "random_gamma"})
_SMALL = 64


@dataclasses.dataclass(frozen=True)
class Draw:
    """One place where random numbers are made.

    Attributes:
      path: the module.
      kind: its class.
      stream: the stream that the key comes from; "" for a key that is made inside of the model.
      count: which draw of this module from this stream it is, from 1.
      operation: what makes the numbers, ``random_bits``.
      shape: their shape, mapped axes among them.
      loops: in how many loops it stands.
      maps: under how many ``vmap``.
      source: the line of the program, where it is known.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> model, x = nn.Dropout(0.5, deterministic=False), jnp.ones((2, 3))
      >>> (draw,) = diagnose.keys(model, {}, x)
      >>> draw.stream, draw.count, draw.shape
      ('dropout', 1, (2, 3))
    """

    path: str
    kind: str
    stream: str
    count: int
    operation: str
    shape: tuple[int, ...]
    loops: int
    maps: int
    source: str


class Keys(tuple[Draw, ...]):  # noqa: SLOT001 - it has names of its own
    """Every draw, in the order of the program; as text, a table and the findings.

    Attributes:
      name: what was looked at.
      findings: ``key used twice``, ``equal numbers in a loop``, ``equal numbers under vmap``.
      unused: the streams that were given and that nothing draws from.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> model, x = nn.Dropout(0.5, deterministic=False), jnp.ones((2, 3))
      >>> rngs = {name: jax.random.key(0) for name in ("dropout", "noise")}
      >>> found = diagnose.keys(model, {}, x, rngs=rngs)
      >>> found.unused, bool(found.findings)
      (('noise',), False)
    """

    name: str
    findings: Findings
    unused: tuple[str, ...]

    def __str__(self) -> str:
        rows = [(d.stream or "(none)", d.path, d.kind, str(d.count), str(list(d.shape))) for d in self]
        header = ("stream", "path", "module", "draw", "shape")
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
        found = [str(each) for each in self.findings]
        return "\n".join([*lines, *found])

    def _repr_html_(self) -> str:
        rows = [(d.stream or "(none)", d.path, d.kind, d.count, list(d.shape), d.source) for d in self]
        return html_table(self.name, ("stream", "path", "module", "draw", "shape", "line"), rows)


def keys(
    model: Any, variables: Any, *inputs: Any, rngs: Any = None, mutable: Any = None, method: Any = None, **kwargs: Any
) -> Keys:
    """Return every draw of random numbers in one call of a model, and which of them give the same numbers.

    Nothing is run: the model is traced.

    Args:
      model: a module, or a function of arrays.
      variables: the module's variables, or the function's first argument.
      *inputs: what it is called with.
      rngs: the random streams; those that are asked for and not given get a key.
      mutable: as for ``apply``; by default every collection given but ``params``.
      method: as for ``apply``.
      **kwargs: keyword arguments of the call.

    Raises:
      ArgumentError: ``model`` is no module and no function.

    Example:
      >>> import jax
      >>> from batiste import diagnose
      >>> def twice(key):
      ...     return jax.random.normal(key, (2,)) + jax.random.normal(key, (2,))
      >>> [found.kind for found in diagnose.keys(twice, jax.random.key(0)).findings]
      ['key used twice']
    """
    subject = subject_of(
        model, variables, inputs, rngs=rngs, mutable=mutable, method=method, kwargs=kwargs, where="keys"
    )
    program = trace(subject.function, subject.arguments)
    walk = _Walk(program, subject.name)
    walk.run()
    made = Keys(walk.draws())
    made.name, made.findings = subject.name, Findings(subject.name, walk.findings())
    used = {draw.stream for draw in made}
    made.unused = tuple(name for name in subject.arguments.get("rngs", {}) if name not in used)
    return made


class _Value(NamedTuple):
    """What a value was made of.

    Attributes:
      number: equal for values that are made of the same.
      root: the stream it comes from, or "".
      depends: the loops in whose iterations it differs.
    """

    number: int
    root: str
    depends: frozenset[int]


class _Use(NamedTuple):
    value: _Value
    place: Place
    equation: Any
    loops: tuple[int, ...]
    branches: tuple[tuple[int, int], ...]


class _Walk:
    """Follows the keys of a program."""

    def __init__(self, program: Program, name: str) -> None:
        self._program, self._name = program, name
        self._numbers: dict[Any, int] = {}
        self._fresh = itertools.count()
        self._uses: list[_Use] = []

    def run(self) -> None:
        """Walk over the whole program."""
        given = [self._new(_stream(name)) for name in self._program.names]
        consts = [self._constant(value) for value in self._program.closed.consts]
        self._jaxpr(self._program.jaxpr, [*consts, *given], Place(), (), ())

    def _new(self, root: str = "", depends: frozenset[int] = frozenset()) -> _Value:
        return _Value(self._number(("new", next(self._fresh))), root, depends)

    def _number(self, what: Any) -> int:
        return self._numbers.setdefault(what, len(self._numbers))

    def _constant(self, value: Any) -> _Value:
        try:
            array = np.asarray(value)
        except TypeError:  # a random key
            return self._new()
        if array.size > _SMALL:
            return _Value(self._number(("constant", id(value))), "", frozenset())
        return _Value(self._number((array.dtype.str, array.shape, array.tobytes())), "", frozenset())

    def _jaxpr(
        self,
        jaxpr: Any,
        values: Sequence[_Value],
        place: Place,
        loops: tuple[int, ...],
        branches: tuple[tuple[int, int], ...],
    ) -> list[_Value]:
        known: dict[Any, _Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))

        def read(atom: Any) -> _Value:
            return self._constant(atom.val) if is_literal(atom) else known[atom]

        for equation in jaxpr.eqns:
            given = [read(atom) for atom in equation.invars]
            at = place_of(equation, place)
            if equation.primitive.name in _CONSUMERS:
                self._uses.append(_Use(given[0], at, equation, loops, branches))
            results = self._equation(equation, given, at, loops, branches)
            known.update((v, r) for v, r in zip(equation.outvars, results, strict=True) if is_used(v))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(
        self,
        equation: Any,
        given: list[_Value],
        place: Place,
        loops: tuple[int, ...],
        branches: tuple[tuple[int, int], ...],
    ) -> list[_Value]:
        name = equation.primitive.name
        if name == "scan" and scan_extents(equation.params) is not None:
            return self._scan(equation, given, place, loops, branches)
        if name == "while":
            return self._while(equation, given, place, loops, branches)
        if is_branch(equation):
            number = next(self._fresh)
            for turn, branch in enumerate(equation.params["branches"]):
                self._jaxpr(branch.jaxpr, [*map(self._constant, branch.consts), *given[1:]], place, loops,
                            (*branches, (number, turn)))  # fmt: skip
            return [self._new(_root(given), _depends(given)) for _ in equation.outvars]
        inner = called(equation)
        if inner is not None:
            consts: list[Any] = list(inner.consts) if is_closed(inner) else []
            jaxpr = inner.jaxpr if is_closed(inner) else inner
            if len(jaxpr.invars) == len(given) and len(jaxpr.outvars) == len(equation.outvars):
                return self._jaxpr(jaxpr, [*map(self._constant, consts), *given], place, loops, branches)
        params = tuple(sorted((key, str(value)) for key, value in equation.params.items()))
        made = (name, params, tuple(value.number for value in given))
        return [
            _Value(self._number((made, index)), _root(given), _depends(given))
            for index, _ in enumerate(equation.outvars)
        ]

    def _scan(self, equation: Any, given: list[_Value], place: Place, loops: Any, branches: Any) -> list[_Value]:
        first, carried = scan_extents(equation.params) or (0, 0)
        body, loop = equation.params["jaxpr"], next(self._fresh)
        around = frozenset({loop})
        changing = [self._new(value.root, value.depends | around) for value in given[first:]]
        for index, atom in enumerate(body.jaxpr.outvars[:carried]):
            if atom is body.jaxpr.invars[first + index]:  # carried as it is
                changing[index] = given[first + index]
        values = [*map(self._constant, body.consts), *given[:first], *changing]
        self._jaxpr(body.jaxpr, values, place, (*loops, loop), branches)
        return [self._new(_root(given), _depends(given)) for _ in equation.outvars]

    def _while(self, equation: Any, given: list[_Value], place: Place, loops: Any, branches: Any) -> list[_Value]:
        params, loop = equation.params, next(self._fresh)
        first, both = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        body = params["body_jaxpr"]
        around = frozenset({loop})
        carry = [self._new(value.root, value.depends | around) for value in given[both:]]
        own = body.jaxpr.invars[params["body_nconsts"] :]
        carry = [
            value if atom is var else changed
            for changed, value, atom, var in zip(carry, given[both:], body.jaxpr.outvars, own, strict=True)
        ]
        values = [*map(self._constant, body.consts), *given[first:both], *carry]
        self._jaxpr(body.jaxpr, values, place, (*loops, loop), branches)
        return [self._new(_root(given), _depends(given)) for _ in equation.outvars]

    # --- what is said of it

    def _text(self, place: Place) -> tuple[str, str]:
        if place.call is None:
            return self._name, ""
        call = self._program.calls[place.call]
        return call.text, call.kind

    def draws(self) -> Iterator[Draw]:
        """Yield what makes random numbers, in the order of the program; not what ``remat`` does again."""
        counts: dict[tuple[str, str], int] = {}
        for use in self._first():
            path, kind = self._text(use.place)
            stream = use.value.root
            counts[path, stream] = count = counts.get((path, stream), 0) + 1
            shape = tuple(use.equation.outvars[0].aval.shape)
            yield Draw(
                path, kind, stream, count, use.equation.primitive.name, shape, len(use.loops), use.place.maps,
                source_of(use.equation),
            )  # fmt: skip

    def _first(self) -> list[_Use]:
        return [use for use in self._uses if not (use.place.is_recomputed or use.place.is_backward)]

    def findings(self) -> Iterator[Finding]:
        """Yield where two draws give the same numbers."""
        by_key: dict[int, list[_Use]] = {}
        for use in self._first():
            by_key.setdefault(use.value.number, []).append(use)
        for uses in by_key.values():
            earlier = uses[0]
            for use in uses[1:]:
                if not _exclude(earlier.branches, use.branches):
                    yield self._twice(earlier, use)
        for use in self._first():
            path, kind = self._text(use.place)
            line = f" ({source_of(use.equation)})" if source_of(use.equation) else ""
            if any(loop not in use.value.depends for loop in use.loops):
                text = f"makes the same random numbers in every iteration of a loop{line}"
                advice = (
                    "Split the stream: nn.scan(..., split_rngs={'dropout': True}), or fold the iteration into the key."
                )
                yield Finding("equal numbers in a loop", path, text, advice, kind)
            key = use.equation.invars[0].aval
            if use.place.maps > len(key.shape):
                text = f"makes the same random numbers for every entry of a mapped axis{line}"
                advice = "Split the stream: nn.vmap(..., split_rngs={'dropout': True}), or map over keys too."
                yield Finding("equal numbers under vmap", path, text, advice, kind)

    def _twice(self, earlier: _Use, use: _Use) -> Finding:
        (before, _), (path, kind) = self._text(earlier.place), self._text(use.place)
        lines = [line for line in (source_of(earlier.equation), source_of(use.equation)) if line]
        where = f" ({', '.join(lines)})" if lines else ""
        text = f"makes random numbers with a key that {'it' if before == path else before} has used before{where}"
        advice = "Draw a key for each use, self.make_rng(name), or split it: jax.random.split(key)."
        if before != path:
            advice += " Where the paths only look alike ('ab/c' and 'a/bc'), rename one, or use key_scheme='separated'."
        return Finding("key used twice", path, text, advice, kind)


def _exclude(one: tuple[tuple[int, int], ...], other: tuple[tuple[int, int], ...]) -> bool:
    """Return whether two places lie in different branches of one conditional."""
    held: Mapping[int, int] = dict(one)
    return any(number in held and held[number] != turn for number, turn in other)


def _stream(name: str) -> str:
    return name.removeprefix("rngs/") if name.startswith("rngs/") else ""


def _root(values: Sequence[_Value]) -> str:
    return next((value.root for value in values if value.root), "")


def _depends(values: Sequence[_Value]) -> frozenset[int]:
    return frozenset[int]().union(*(value.depends for value in values))
