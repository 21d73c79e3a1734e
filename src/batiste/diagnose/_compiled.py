"""The compiled program as its compiler prints it: for every operation where it stands, and what lives in memory when.

XLA names each operation and keeps the scopes of the equation that it was made from (``metadata={op_name="..."}``), in
which there are the marks of ``_program.py``. An operation that several equations were fused into has the scopes of the
last of them; where it has no mark, most of what it was fused from decides, and then the operation that calls the
program it stands in (the loop around a copy). What the compiler has added without a word (a copy, zeros to be filled)
is of the operation that reads it.

Memory is followed through the program in the order that the compiler has decided on (``is_scheduled=true``): a result
is there from the operation that makes it to the last that reads it. The compiler can do a little better by sharing, and
needs a little more where it aligns, so that the sum is near to its own count and not equal to it.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from batiste.diagnose._program import Place, place_in

__all__ = ["Compiled", "Operation", "read_compiled"]

_HEAD: Final = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_LINE: Final = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE: Final = re.compile(r"([a-z][\w\-]*)\(")
_ARRAY: Final = re.compile(r"\b(pred|[suf]\d+|bf16|c64|c128|f8\w*|s4|u4)\[([\d,]*)\]")
_OPERAND: Final = re.compile(r"%([\w.\-]+)")
_SCOPES: Final = re.compile(r'op_name="([^"]*)"')
_CALLED: Final = re.compile(r"(?:calls|body|condition|to_apply|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES: Final = re.compile(r"branch_computations=\{([^}]*)\}")
_CONTAINERS: Final = frozenset({"while", "call", "conditional", "async-start"})
_SAME: Final = frozenset({"bitcast", "get-tuple-element", "tuple", "while", "optimization-barrier", "add-dependency"})
_NOTHING: Final = frozenset({"parameter", "constant", "after-all", "partition-id", "replica-id"})
_BITS: Final = MappingProxyType({"pred": 8, "bf16": 16, "c64": 64, "c128": 128})


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a compiled program.

    Attributes:
      name: its name, which the trace of a run has too.
      opcode: what it is: ``fusion``, ``dot``, ``while``.
      scopes: the names of the scopes around it; "" where the compiler keeps none.
      bytes: the size of its result.
      operands: the names of what it reads.
      called: the programs within it.
      is_result: whether its program returns it.
    """

    name: str
    opcode: str
    scopes: str
    bytes: int
    operands: tuple[str, ...]
    called: tuple[str, ...]
    is_result: bool

    @property
    def is_container(self) -> bool:
        """Whether it runs other operations that the trace has as well."""
        return self.opcode in _CONTAINERS


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Attributes:
      programs: the operations of each program, in the order in which they run.
      entry: the name of the program that is run.
    """

    programs: Mapping[str, tuple[Operation, ...]]
    entry: str

    @functools.cached_property
    def operations(self) -> dict[str, Operation]:
        """Every operation by its name."""
        return {one.name: one for program in self.programs.values() for one in program}

    @functools.cached_property
    def places(self) -> dict[str, Place | None]:
        """Where each operation stands; None for one of which the compiler says nothing."""
        found: dict[str, Place | None] = {}
        self._place(self.entry, None, found)
        return found

    def _place(self, program: str, outer: Place | None, found: dict[str, Place | None]) -> None:
        body = self.programs.get(program, ())
        for one in body:
            at = self._own(one)
            found[one.name] = outer if outer is not None and (at is None or at.call is None) else at
        for one in reversed(body):  # what is read is of its reader, unless the compiler says otherwise
            for operand in one.operands:
                if operand in found and found[operand] is None:
                    found[operand] = found[one.name]
        for one in body:
            if found[one.name] is None:
                found[one.name] = next((found[name] for name in one.operands if found.get(name)), None)
            for inner in one.called:
                self._place(inner, found[one.name], found)

    def _own(self, one: Operation) -> Place | None:
        at = place_in(one.scopes) if one.scopes else None
        if one.opcode == "fusion" and (at is None or at.call is None):
            scopes = [part.scopes for name in one.called for part in self.programs.get(name, ()) if part.scopes]
            places = collections.Counter(place_in(each) for each in scopes)
            marked = [(count, place) for place, count in places.items() if place.call is not None]
            if marked:
                return max(marked, key=lambda each: each[0])[1]
        return at

    def peak(self) -> dict[str, int]:
        """Return the bytes of each result that is alive when most memory is in use, arguments not counted."""
        return self._peak(self.entry)

    def _peak(self, program: str) -> dict[str, int]:
        body = self.programs.get(program, ())
        holds: dict[str, tuple[str, ...]] = {}  # the results that stand behind a name
        last: dict[str, int] = {}
        for index, one in enumerate(body):
            holds[one.name] = self._behind(one, holds)
            for name in (one.name, *(name for operand in one.operands for name in holds.get(operand, ()))):
                last[name] = index
            if one.is_result:
                last.update(dict.fromkeys(holds[one.name], len(body)))
        ends: dict[int, list[str]] = {}
        for name, index in last.items():
            ends.setdefault(index, []).append(name)
        alive: dict[str, int] = {}
        best: dict[str, int] = {}
        now = most = 0
        for index, one in enumerate(body):
            if holds[one.name] == (one.name,):
                alive[one.name] = one.bytes
                now += one.bytes
            inner = [self._peak(name) for name in one.called] if one.is_container else []
            within = max([*inner, dict[str, int]()], key=lambda each: sum(each.values()))
            if now + sum(within.values()) > most:
                most, best = now + sum(within.values()), {**alive, **within}
            now -= sum(alive.pop(name, 0) for name in ends.get(index, ()))
        return best

    def _behind(self, one: Operation, holds: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        if one.opcode in _NOTHING:
            return ()
        operands = one.operands
        if one.opcode == "dynamic-update-slice" or self._writes_in_place(one):
            known = self.operations
            operands = tuple(name for name in operands if name in known and known[name].bytes == one.bytes)
        elif one.opcode not in _SAME:
            return (one.name,)
        return tuple(dict.fromkeys(name for operand in operands for name in holds.get(operand, ())))

    def _writes_in_place(self, one: Operation) -> bool:
        """Return whether a fusion only writes a part of an operand, which then is its result."""
        if one.opcode != "fusion":
            return False
        roots = [part for name in one.called for part in self.programs.get(name, ()) if part.is_result]
        seen = {part.name: part for name in one.called for part in self.programs.get(name, ())}
        while roots and roots[0].opcode == "bitcast" and roots[0].operands:
            roots = [seen[name] for name in roots[0].operands if name in seen]
        return bool(roots) and roots[0].opcode == "dynamic-update-slice"


def read_compiled(text: str) -> Compiled:
    """Read the text of a compiled program, as ``jax.stages.Compiled.as_text`` gives it."""
    programs: dict[str, tuple[Operation, ...]] = {}
    entry, current = "", ""
    lines: list[Operation] = []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head is not None:
            current, lines = head[1], []
            entry = current if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            programs[current] = tuple(lines)
        elif current and (found := _LINE.match(line)) is not None:
            lines.append(_operation(found[2], found[3], is_result=found[1] is not None))
    return Compiled(programs, entry)


def _operation(name: str, text: str, *, is_result: bool) -> Operation:
    shape, rest = _split(text)
    opcode = _OPCODE.match(rest)
    start = opcode.end() if opcode is not None else 0
    stop = _closing(rest, start)
    scopes = _SCOPES.search(rest, stop)
    called = [found[1] for found in _CALLED.finditer(rest, stop)]
    for found in _BRANCHES.finditer(rest, stop):
        called += [part.strip().lstrip("%") for part in found[1].split(",")]
    return Operation(
        name,
        opcode[1] if opcode is not None else "",
        scopes[1] if scopes is not None else "",
        sum(map(_bytes, _ARRAY.findall(shape))),
        tuple(_OPERAND.findall(rest[start:stop])),
        tuple(called),
        is_result,
    )


def _split(text: str) -> tuple[str, str]:
    """Return the shape of a result, which may be a tuple of shapes, and what stands after it."""
    end = _closing(text, 1) + 1 if text.startswith("(") else text.find(" ")
    return text[:end], text[end:].lstrip()


def _closing(text: str, start: int) -> int:
    """Return where the parenthesis closes that was opened before ``start``."""
    depth = 1
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def _bytes(array: tuple[str, str]) -> int:
    kind, extents = array
    bits = _BITS.get(kind) or int((re.search(r"\d+", kind) or ["8"])[0])
    return math.prod(int(extent) for extent in extents.split(",") if extent) * bits // 8
