"""What devices send each other in a compiled program, read from XLA's text of it.

XLA writes a program as *computations*; a loop calls its body, and says how often where it knows. A collective names the
devices that take part, in one of three notations: lists (``{{0,1},{2,3}}``), an array of consecutive numbers that is
reshaped and transposed (``[2,4]<=[4,2]T(1,0)``), or a mesh with the axes along which they lie. All three become a table
of numbers here, and the coordinates that differ within a row are the axes of our own mesh.

The CPU's compiler has no reduce-scatter: it writes an all-reduce of which each device then takes its part, which those
of GPUs and TPUs turn into one (XLA's pass ``reduce-scatter-creator``). It is read as that here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from batiste.plan._names import Path

__all__ = ["Sent", "collectives_of"]

_KINDS = MappingProxyType({
    "all-reduce": "all-reduce", "all-gather": "all-gather", "reduce-scatter": "reduce-scatter",
    "all-to-all": "all-to-all", "ragged-all-to-all": "all-to-all", "collective-permute": "permute",
    "collective-broadcast": "broadcast",
})  # fmt: skip
_BITS = MappingProxyType({"pred": 8, "token": 0, "bf16": 16})
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b(pred|token|bf16|[suf]\d+|f8\w+|c\d+)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NAME = re.compile(r'\bop_name="([^"]*)"')
_LISTS = re.compile(r"\b(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?"
_RESHAPED = re.compile(rf"\breplica_groups={_IOTA}")
_MESH = re.compile(r"\breplica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Sent:
    """One collective of a compiled program.

    Attributes:
      path: the module.
      kind: ``all-reduce``, ``all-gather``, ``reduce-scatter``, ``all-to-all``, ``permute`` or ``broadcast``.
      axes: the mesh axes along which it goes.
      bytes: what one device sends in a whole step.
      count: how often in a step.
    """

    path: Path
    kind: str
    axes: tuple[str, ...]
    bytes: float
    count: float


class _Line(NamedTuple):
    name: str
    shape: str
    operation: str
    text: str


def collectives_of(text: str, mesh: Mapping[str, int], paths: Collection[Path]) -> list[Sent]:
    """Return what the devices of ``mesh`` send each other in a compiled program.

    Args:
      text: the program, as ``compiled.as_text()`` writes it.
      mesh: the size of each axis; devices are numbered along the last one first.
      paths: the paths of modules that there are.
    """
    entry, computations = _computations(text)
    times = _times(entry, computations)
    known = {path[:length] for path in paths for length in range(len(path) + 1)}
    found: dict[tuple[Path, str, tuple[str, ...]], tuple[float, float]] = {}
    for name, lines in computations.items():
        for line in lines if times.get(name) else ():
            base = line.operation.removesuffix("-start")
            kind = _KINDS.get(base)
            if kind is None:
                continue
            groups = _groups(line.text, math.prod(mesh.values()))
            size = len(groups[0]) if len(groups) else 1
            if size < 2:
                continue
            path, axes = _path(line.text, known), _axes(groups, mesh)
            for each, step in _sent(line, kind, size, lines, computations):
                key = (path, each, axes)
                sent, count = found.get(key, (0.0, 0.0))
                found[key] = (sent + step * times[name], count + times[name])
    made = [Sent(*key, *value) for key, value in found.items()]
    return sorted(made, key=lambda each: (-each.bytes, each))


def _computations(text: str) -> tuple[str, dict[str, list[_Line]]]:
    entry, current = "", ""
    found: dict[str, list[_Line]] = {}
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head is not None:
            current = head[2]
            found[current] = []
            entry = current if head[1] else entry
            continue
        read = _INSTRUCTION.match(line)
        if read is not None and current:
            found[current].append(_Line(read[1], read[2], read[3], line[read.end() - 1 :]))
    return entry, found


def _times(entry: str, computations: Mapping[str, Sequence[_Line]]) -> dict[str, float]:
    """Return how often each computation runs in a step; a loop of unknown length counts once."""
    calls: dict[str, list[tuple[str, int]]] = {
        name: [(called, trips) for line in lines for called, trips in _calls(line)]
        for name, lines in computations.items()
    }
    found: dict[str, float] = {}

    def visit(name: str, times: float) -> None:
        found[name] = found.get(name, 0) + times
        for called, trips in calls.get(name, ()):
            visit(called, times * trips)

    visit(entry, 1)
    return found


def _calls(line: _Line) -> Iterator[tuple[str, int]]:
    trips = _TRIPS.search(line.text) if line.operation == "while" else None
    for each in _CALLED.findall(line.text):
        yield each, int(trips[1]) if trips else 1
    for listed in _BRANCHES.findall(line.text):
        for each in listed.split(","):
            yield each.strip().lstrip("%"), 1


def _path(text: str, known: Collection[Path]) -> Path:
    """Return the module that an instruction was written in, by the names around it."""
    named = _NAME.search(text)
    path: Path = ()
    for part in named[1].split("/") if named else ():
        if part.startswith(("jit(", "pjit(")):
            continue
        longer = (*path, part.rpartition("(")[2].rstrip(")"))
        if longer in known:
            path = longer
    return path


def _sent(
    line: _Line, kind: str, size: int, lines: Sequence[_Line], computations: Mapping[str, Sequence[_Line]]
) -> Iterator[tuple[str, float]]:
    """Yield the kinds of collective that a line stands for, and what one device sends around a ring for each."""
    if kind != "all-reduce":
        yield kind, _around(line, kind, size)
        return
    sizes = [_bytes(array) for array in _ARRAY.findall(line.shape)]
    parts = [_is_scattered(line, at if len(sizes) > 1 else None, size, lines, computations) for at in range(len(sizes))]
    for each, rounds, scatters in (("all-reduce", 2, False), ("reduce-scatter", 1, True)):
        made = sum(one for one, scattered in zip(sizes, parts, strict=True) if scattered is scatters)
        if made:
            yield each, rounds * made * (size - 1) / size


def _is_scattered(
    line: _Line, at: int | None, size: int, lines: Sequence[_Line], computations: Mapping[str, Sequence[_Line]]
) -> bool:
    """Say whether each device takes only its part of a sum; ``at`` is the place of the sum, if there are several."""
    names, whole = {line.name}, 0.0
    if at is not None:
        index = f"index={at}"
        names = {each.name for each in lines if each.operation == "get-tuple-element" and line.name in _operands(each)
                 and re.search(rf"\b{index}\b", each.text)}  # fmt: skip
    whole = _bytes(_ARRAY.findall(line.shape)[at or 0])
    users = [(each, where) for each in lines for where, name in enumerate(_operands(each)) if name in names]
    users = [each for each in users if each[0].operation != "get-tuple-element"]
    return bool(users) and all(_takes_part(user, where, whole / size, computations) for user, where in users)


def _takes_part(
    user: _Line, where: int, part: float, computations: Mapping[str, Sequence[_Line]], depth: int = 0
) -> bool:
    """Say whether an instruction reads but one part of its operand."""
    if user.operation == "dynamic-slice":
        return where == 0 and sum(map(_bytes, _ARRAY.findall(user.shape))) <= part * 1.001
    called = _CALLED.search(user.text)
    if user.operation != "fusion" or called is None or depth:
        return False
    body = computations.get(called[1], ())
    given = next((each for each in body if each.operation == "parameter" and each.text.startswith(f"({where})")), None)
    if given is None:
        return False
    names = {given.name}
    readers: list[tuple[_Line, int]] = []
    for each in body:  # in order, so that a copy in another shape is met before what reads it
        found = [at for at, name in enumerate(_operands(each)) if name in names]
        if found and each.operation in ("bitcast", "copy", "reshape", "transpose", "convert"):
            names.add(each.name)
        else:
            readers += [(each, at) for at in found]
    return bool(readers) and all(_takes_part(reader, at, part, computations, 1) for reader, at in readers)


def _operands(line: _Line) -> list[str]:
    return re.findall(r"%([\w.\-]+)", line.text.partition("), ")[0])


def _around(line: _Line, kind: str, size: int) -> float:
    """Return what one device sends around a ring, from the bytes that come out (``_placement.py``)."""
    made = sum(map(_bytes, _ARRAY.findall(line.shape)))
    if line.operation.endswith("-start") and kind == "all-gather":  # operands and results
        made = made * size / (size + 1)
    if line.operation.endswith("-start") and kind == "permute":
        made /= 2
    share = (size - 1) / size
    if kind == "reduce-scatter":
        return share * made * size
    return share * made if kind != "permute" else made


def _bytes(array: tuple[str, str]) -> float:
    kind, shape = array
    digits = re.search(r"\d+", kind)
    bits = _BITS.get(kind, int(digits[0]) if digits else 8)
    return bits / 8 * math.prod(int(part) for part in shape.split(",") if part)


def _groups(text: str, devices: int) -> Any:
    """Return the devices that take part, a row for each group; for a permutation its pairs."""
    meshed, lists, reshaped = _MESH.search(text), _LISTS.search(text), _RESHAPED.search(text)
    if meshed is not None:
        return _of_mesh(meshed[1], meshed[2] or "", meshed[3])
    if lists is not None and lists[1]:
        rows = re.findall(r"\{([\d,]*)\}", lists[1])
        return [[int(part) for part in row.split(",") if part] for row in rows]
    if reshaped is not None:
        return _iota(reshaped)
    return np.arange(devices).reshape(1, -1)


def _iota(found: re.Match[str]) -> Any:
    shape = _numbers(found[1])
    ids = np.arange(math.prod(shape)).reshape(_numbers(found[2]) if found[2] else shape)
    return (ids.transpose(_numbers(found[3])) if found[3] else ids).reshape(shape)


def _of_mesh(sizes: str, ids: str, axes: str) -> Any:
    names = re.findall(r"'([^']+)'=(\d+)", sizes)
    shape = [int(size) for _, size in names]
    given = re.fullmatch(_IOTA, ids)
    if given is not None:
        table = _iota(given).reshape(shape)
    else:
        listed = _numbers(ids.strip("[]"))
        table = np.array(listed or range(math.prod(shape))).reshape(shape)
    split: list[int] = []  # each axis of their mesh, in up to three parts
    parts: list[tuple[str, int, int]] = []  # the axis, what is to the left of a part of it, and the part's size
    wanted = {(name, int(left or 1)): int(size or 0) for name, left, size in _AXIS.findall(axes)}
    for (name, _), size in zip(names, shape, strict=True):
        left = 1
        for (_, start), length in sorted(each for each in wanted.items() if each[0][0] == name):
            if start > left:
                parts.append((name, left, start // left))
                left = start
            parts.append((name, start, length or size))
            left *= length or size
        if left < size or not size:
            parts.append((name, left, size // left))
    split = [length for *_, length in parts]
    within = [at for at, (name, left, _) in enumerate(parts) if (name, left) in wanted]
    around = [at for at in range(len(parts)) if at not in within]
    whole = math.prod(split[at] for at in within)
    return table.reshape(split).transpose(around + within).reshape(-1, whole)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.strip()]


def _axes(groups: Any, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Return the axes of ``mesh`` along which the devices of a group differ."""
    differ: set[str] = set()
    for group in groups:
        places = np.array(np.unravel_index([int(device) for device in group], tuple(mesh.values())))
        differ.update(name for name, row in zip(mesh, places, strict=True) if len(set(row.tolist())) > 1)
    return tuple(name for name in mesh if name in differ)
