"""The table of a model's modules: what each returns, what it costs, and what its results take in memory.

The model is traced once with shapes, so that nothing is allocated and nothing is compiled. A module's row holds what
it and the modules below it cost; what a loop runs counts as often as it runs. A module that is called several times has
one row, with the number of its calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from batiste.core import LayerName, nbytes, unbox
from batiste.diagnose._flops import costed
from batiste.diagnose._program import Call, Calls, Program, subject_of, trace
from batiste.errors import InvalidRngError
from batiste.module import union_of
from batiste.tree import flatten

__all__ = ["ModuleRow", "module_rows"]


@dataclasses.dataclass(frozen=True)
class ModuleRow:
    """One module.

    Attributes:
      path: its path; the outermost module is its class. Layers of one loop share a row, ``h_*``.
      kind: its class.
      depth: how many names its path has.
      calls: how often it is called, loops counted.
      output: the shape and dtype of what it returns, of the first array.
      parameters: the numbers in ``params`` of it and all below; shared ones count once.
      bytes: the size of its variables and of all below.
      flops: the operations of matrix products and convolutions of it and all below, in all its calls.
      share: which share of the model's ``flops`` that is.
      activation_bytes: the size of what it and all below return, each module's output once for each call.
      time_share: which share of the time of a run it and all below take, where ``Summary.timed`` was told; else None.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> rows = diagnose.summary(nn.Dense(4), jnp.ones((2, 3))).modules
      >>> rows[0].path, rows[0].flops, rows[0].output
      ('Dense', 48, 'float32[2, 4]')
    """

    path: str
    kind: str
    depth: int
    calls: int
    output: str
    parameters: int
    bytes: int
    flops: int
    share: float
    activation_bytes: int
    time_share: float | None = None


def module_rows(
    model: Any, variables: Any, inputs: tuple[Any, ...], rngs: Any, kwargs: Mapping[str, Any]
) -> tuple[ModuleRow, ...]:
    """Return a row for each module that a model calls, in the order of the calls."""
    named = dict(kwargs)
    method, mutable, calls = (named.pop(name, None) for name in ("method", "mutable", "calls"))
    if calls is not None:
        method = union = union_of(model, calls, inputs, method)
        inputs = union.inputs

    def traced(rngs: Any) -> Program:
        subject = subject_of(
            model, unbox(variables), inputs, rngs=rngs, mutable=mutable, method=method, kwargs=named, where="summary"
        )
        return trace(subject.function, subject.arguments, Calls(with_options=False))

    try:  # the usual streams, for which the model need not be asked
        program = traced({name: jax.random.key(0) for name in ("params", "dropout")} if rngs is None else rngs)
    except InvalidRngError:
        program = traced(None)
    own, total, times = _own_costs(program)
    sizes = _sizes(variables)
    order: dict[tuple[str, ...], list[Call]] = {}
    for call in program.calls:
        if call.outputs or call.method == "__call__":
            order.setdefault(tuple(map(str, call.path)), []).append(call)
    live = _live(program, times)
    order = {key: [c for c in calls if c.number in live] or calls[:1] for key, calls in order.items()}
    paths = {key: calls[0] for key, calls in order.items()}
    flops = _below(own, program)
    returned = {
        key: sum((times.get(call.number, 1) or 1) * sum(map(nbytes, call.outputs)) for call in calls)
        for key, calls in order.items()
    }
    below: dict[tuple[str, ...], int] = {}
    for key, size in returned.items():
        for length in range(len(key) + 1):
            below[key[:length]] = below.get(key[:length], 0) + size
    held = _variables_below(sizes, paths)
    rows: list[ModuleRow] = []
    for key, call in paths.items():
        parameters, size = held.get(key, (0, 0))
        count = sum((times.get(one.number, 1) or 1) for one in order[key] if one.method == call.method)
        output = call.outputs[0] if call.outputs else None
        rows.append(
            ModuleRow(
                path=call.text,
                kind=call.kind,
                depth=len(key),
                calls=count,
                output="" if output is None else f"{output.dtype}{list(output.shape)}",
                parameters=parameters,
                bytes=size,
                flops=flops.get(key, 0),
                share=flops.get(key, 0) / total if total else 0.0,
                activation_bytes=below[key],
            )
        )
    return tuple(rows)


def _own_costs(program: Program) -> tuple[dict[int, int], int, dict[int, int]]:
    """Return the operations of each call alone, those of the whole program, and how often each call runs."""
    own: dict[int, int] = {}
    times: dict[int, int] = {}
    total = 0
    for _, place, count, flops in costed(program.jaxpr):
        total += flops
        if place.call is not None:
            own[place.call] = own.get(place.call, 0) + flops
            times[place.call] = max(times.get(place.call, 1), count)
    for call in program.calls:
        layers = [name for name in call.path if isinstance(name, LayerName)]
        if layers and (call.number in times or call.above is not None):
            times[call.number] = max(times.get(call.number, 0), len(layers[-1].names)) if call.number in times else 0
    return own, total, times


def _live(program: Program, times: dict[int, int]) -> set[int]:
    """Return the calls that have equations, or whose calls have; the others are rehearsals, or compute nothing."""
    live = {number for number, count in times.items() if count}
    for call in reversed(program.calls):
        if call.number in live and call.above is not None:
            live.add(call.above)
            layers = [name for name in program.calls[call.above].path if isinstance(name, LayerName)]
            if layers:
                times[call.above] = max(times.get(call.above, 0), len(layers[-1].names))
    return live


def _below(own: Mapping[int, int], program: Program) -> dict[tuple[str, ...], int]:
    """Return for each module the operations of its calls, and of the calls that these make."""
    found: dict[tuple[str, ...], int] = {}
    for call in program.calls:
        flops = own.get(call.number, 0)
        if not flops:
            continue
        keys: set[tuple[str, ...]] = set()
        at: Call | None = call
        while at is not None:
            keys.add(tuple(map(str, at.path)))
            at = None if at.above is None else program.calls[at.above]
        for key in keys:
            found[key] = found.get(key, 0) + flops
    return found


def _sizes(variables: Any) -> list[tuple[tuple[str, ...], int, int]]:
    found: list[tuple[tuple[str, ...], int, int]] = []
    for path, leaf in flatten(unbox(variables)).items():
        collection, _, rest = path.partition("/")
        size = nbytes(leaf)
        count = size // max(1, leaf.dtype.itemsize)
        found.append((tuple(rest.split("/")), count if collection == "params" else 0, size))
    return found


def _variables_below(
    sizes: Sequence[tuple[tuple[str, ...], int, int]], paths: Mapping[tuple[str, ...], Call]
) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return the numbers and the bytes of the variables of each module and of those below it."""
    several: dict[str, str] = {}  # the names of layers, and the one that stands for them
    for call in paths.values():
        for name in call.path:
            if isinstance(name, LayerName):
                several.update(dict.fromkeys(name.names, str(name)))
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for path, count, size in sizes:
        names = tuple(several.get(name, name) for name in path)
        for length in range(len(names)):
            parameters, held = found.get(names[:length], (0, 0))
            found[names[:length]] = parameters + count, held + size
    return found
