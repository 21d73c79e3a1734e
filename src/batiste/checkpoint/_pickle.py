"""Pickles, read without running them: what a pickle says becomes a description, and nothing is built.

A pickle is a program for a stack machine (``pickletools`` in Python's library describes it). Here the machine runs on
words alone: a class is its name, a call is the name with its arguments, a dict is a list of pairs, and long texts and
bytes stay in the file as spans. No name is looked up, no function is called, no attribute is set, nothing is hashed; so
there is nothing that a pickle could run, and it takes no more memory than a small multiple of its own bytes. What a
description means is for ``_pickled.py`` to say, from a fixed list.
"""

from __future__ import annotations

import dataclasses
import mmap
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

__all__ = [
    "BrokenPickleError",
    "Call",
    "Name",
    "Pairs",
    "Persistent",
    "Span",
    "is_old_pickle",
    "is_pickle",
    "parses",
    "read_pickle",
]

_SHORT: Final = 1 << 12
_MARK: Final = object()
_CONSTANTS: Final[Mapping[int, Any]] = MappingProxyType({ord("N"): None, 0x88: True, 0x89: False, ord(")"): ()})
_NUMBERS: Final[Mapping[int, str]] = MappingProxyType({ord("J"): "<i", ord("K"): "<B", ord("M"): "<H", ord("G"): ">d"})
_SIZED: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        ord("T"): ("latin", "<i"),
        ord("U"): ("latin", "<B"),
        ord("X"): ("text", "<I"),
        0x8C: ("text", "<B"),
        0x8D: ("text", "<Q"),
        ord("B"): ("bytes", "<I"),
        ord("C"): ("bytes", "<B"),
        0x8E: ("bytes", "<Q"),
        0x96: ("bytes", "<Q"),
        0x8A: ("int", "<B"),
        0x8B: ("int", "<i"),
    }
)
_GET: Final[Mapping[int, str]] = MappingProxyType({ord("h"): "<B", ord("j"): "<I"})
_PUT: Final[Mapping[int, str]] = MappingProxyType({ord("q"): "<B", ord("r"): "<I"})
_RENAMED: Final[Mapping[str, str]] = MappingProxyType({"__builtin__": "builtins", "copy_reg": "copyreg"})
_OLD: Final = b"(]}c"


class BrokenPickleError(Exception):
    """The bytes are not a pickle."""


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Bytes of the file that were not copied; ``text`` where they are a text, in UTF-8."""

    begin: int
    end: int
    text: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """What a pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{_RENAMED.get(self.module, self.module)}.{self.name}"


@dataclasses.dataclass(frozen=True, slots=True)
class Persistent:
    """What a pickle leaves to its reader: the place of something that lies outside of it."""

    key: Any


@dataclasses.dataclass(slots=True)
class Pairs:
    """A dict, as its pairs in order."""

    items: list[tuple[Any, Any]] = dataclasses.field(default_factory=list[tuple[Any, Any]])


@dataclasses.dataclass(slots=True)
class Call:
    """What a pickle would call, and what it would do with the result.

    Attributes:
      function: a ``Name``, as a rule.
      args: the arguments.
      makes: whether it is an object of a class that is made by its ``__new__``.
      state: what would be set on the result; None for nothing.
      items: the pairs that would be put into it.
      appended: what would be appended to it.
    """

    function: Any
    args: Any
    makes: bool = False
    state: Any = None
    items: list[tuple[Any, Any]] = dataclasses.field(default_factory=list[tuple[Any, Any]])
    appended: list[Any] = dataclasses.field(default_factory=list[Any])


def is_pickle(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a pickle of protocol 2 or later."""
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def is_old_pickle(head: bytes, tail: bytes) -> bool:
    """Return whether a file that begins and ends so may be a pickle of a protocol that says nothing of itself."""
    return head[:1] in [_OLD[at : at + 1] for at in range(len(_OLD))] and tail[-1:] == b"."


def parses(path: Path) -> bool:
    """Return whether a file is a pickle from its beginning to its end."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        try:
            return read_pickle(buffer, 0, len(buffer))[1] == len(buffer)
        except BrokenPickleError:
            return False


def read_pickle(buffer: Any, begin: int, end: int, left: list[Persistent] | None = None) -> tuple[Any, int]:
    """Return what the pickle at a place describes, and where it ends.

    Args:
      buffer: the whole file.
      begin: where the pickle begins.
      end: where it ends at the latest.
      left: gets all that the pickle leaves to its reader.

    Raises:
      BrokenPickleError: if there is no pickle.
    """
    machine = _Machine(buffer, begin, end, [] if left is None else left)
    try:
        return machine.run(), machine.at
    except (IndexError, ValueError, KeyError, TypeError, AttributeError, struct.error, OverflowError) as error:
        message = f"it is no pickle at byte {machine.at} ({type(error).__name__}: {error})"
        raise BrokenPickleError(message) from None


class _Machine:
    """The stack, the memo and the place of one pickle."""

    def __init__(self, buffer: Any, begin: int, end: int, left: list[Persistent]) -> None:
        self._left = left
        self._buffer = buffer
        self._end = end
        self.at = begin
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Follow the program to its end."""
        codes = _codes()
        while True:
            code = self._take(1)[0]
            if code == 0x2E:  # STOP
                return self._stack.pop()
            if code in codes:
                codes[code](self)
            elif code in _CONSTANTS:
                self._stack.append(_CONSTANTS[code])
            elif code in _NUMBERS:
                self._stack.append(self._number(_NUMBERS[code]))
            elif code in _SIZED:
                kind, form = _SIZED[code]
                self._stack.append(self._sized(kind, self._number(form)))
            elif code in _GET:
                self._stack.append(self._memo[self._number(_GET[code])])
            elif code in _PUT:
                self._memo[self._number(_PUT[code])] = self._stack[-1]
            else:
                message = f"byte {code:#x}"
                raise ValueError(message)

    def _take(self, count: int) -> bytes:
        if not 0 <= count <= self._end - self.at:
            message = f"{count} bytes at {self.at} of {self._end}"
            raise ValueError(message)
        self.at += count
        return bytes(self._buffer[self.at - count : self.at])

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        end = self._buffer.find(b"\n", self.at, self._end)
        line = self._take(end - self.at)
        self.at += 1
        return line.decode("latin-1")

    def _sized(self, kind: str, length: int) -> Any:
        if kind == "int":
            return int.from_bytes(self._take(length), "little", signed=True)
        if kind == "text" and length <= _SHORT:
            return self._take(length).decode("utf-8", "surrogatepass")
        if not 0 <= length <= self._end - self.at:
            message = f"{length} bytes at {self.at} of {self._end}"
            raise ValueError(message)
        self.at += length
        span = Span(self.at - length, self.at, kind == "text")
        if kind == "latin" and length <= _SHORT:  # a text of Python 2, which may be bytes
            raw = bytes(self._buffer[span.begin : span.end])
            return raw.decode() if raw.isascii() else span
        return span

    def _marked(self) -> list[Any]:
        """Take what lies above the last mark, and the mark."""
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                message = "no mark"
                raise ValueError(message)
        found = self._stack[at + 1 :]
        del self._stack[at:]
        return found

    def _put_items(self, values: list[Any]) -> None:
        into = self._stack[-1]
        if not isinstance(into, Pairs | Call) or len(values) % 2:
            message = "pairs for what is no dict"
            raise TypeError(message)
        into.items.extend(zip(values[::2], values[1::2], strict=True))

    def _append(self, values: list[Any]) -> None:
        into = self._stack[-1]
        if isinstance(into, Call):
            into.appended.extend(values)
        elif isinstance(into, list):
            cast("list[Any]", into).extend(values)
        else:
            message = "items for what is no list"
            raise TypeError(message)

    def _leave(self, key: Any) -> None:
        found = Persistent(key)
        self._left.append(found)
        self._stack.append(found)

    def mark(self) -> None:
        self._stack.append(_MARK)

    def pop(self) -> None:
        self._stack.pop()

    def pop_mark(self) -> None:
        self._marked()

    def duplicate(self) -> None:
        self._stack.append(self._stack[-1])

    def protocol(self) -> None:
        if self._take(1)[0] > 5:
            message = "a later protocol than any"
            raise ValueError(message)

    def frame(self) -> None:
        self._take(8)

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get_line(self) -> None:
        self._stack.append(self._memo[int(self._line())])

    def put_line(self) -> None:
        self._memo[int(self._line())] = self._stack[-1]

    def int_line(self) -> None:
        line = self._line()
        self._stack.append({"00": False, "01": True}[line] if line in ("00", "01") else int(line.removesuffix("L")))

    def float_line(self) -> None:
        self._stack.append(float(self._line()))

    def string_line(self) -> None:
        line = self._line()
        if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"":
            message = "a text without quotes"
            raise ValueError(message)
        self._stack.append(line[1:-1].encode("latin-1").decode("unicode_escape"))

    def unicode_line(self) -> None:
        self._stack.append(self._line().encode("latin-1").decode("raw_unicode_escape"))

    def name_lines(self) -> None:
        module = self._line()
        self._stack.append(Name(module, self._line()))

    def name(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            message = "a name that is no text"
            raise TypeError(message)
        self._stack.append(Name(module, name))

    def persistent_line(self) -> None:
        self._leave(self._line())

    def persistent(self) -> None:
        self._leave(self._stack.pop())

    def empty_list(self) -> None:
        self._stack.append([])

    def empty_dict(self) -> None:
        self._stack.append(Pairs())

    def empty_set(self) -> None:
        self._stack.append(Call(Name("builtins", "set"), ()))

    def frozen_set(self) -> None:
        self._stack.append(Call(Name("builtins", "frozenset"), (self._marked(),)))

    def list_of(self) -> None:
        self._stack.append(self._marked())

    def dict_of(self) -> None:
        values = self._marked()
        self._stack.append(Pairs())
        self._put_items(values)

    def tuple_of(self) -> None:
        self._stack.append(tuple(self._marked()))

    def tuple_of_one(self) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def tuple_of_two(self) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def tuple_of_three(self) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def append(self) -> None:
        self._append([self._stack.pop()])

    def appends(self) -> None:
        self._append(self._marked())

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._put_items([key, value])

    def set_items(self) -> None:
        self._put_items(self._marked())

    def reduce(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._stack.append(Call(function, args))

    def new(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._stack.append(Call(function, args, makes=True))

    def new_with_names(self) -> None:
        names, args, function = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._stack.append(Call(function, (args, names), makes=True, state=names))

    def instance_lines(self) -> None:
        args = tuple(self._marked())
        module = self._line()
        self._stack.append(Call(Name(module, self._line()), args))

    def instance(self) -> None:
        function, *args = self._marked()
        self._stack.append(Call(function, tuple(args)))

    def build(self) -> None:
        state, into = self._stack.pop(), self._stack[-1]
        if isinstance(into, Call):
            into.state = state
        elif not isinstance(into, Pairs):
            message = "a state for what is no object"
            raise TypeError(message)


_Step = Callable[[_Machine], None]


def _codes() -> Mapping[int, _Step]:
    return _CODES


_CODES: Final[Mapping[int, _Step]] = MappingProxyType(
    {
        ord("("): _Machine.mark,
        ord("0"): _Machine.pop,
        ord("1"): _Machine.pop_mark,
        ord("2"): _Machine.duplicate,
        0x80: _Machine.protocol,
        0x95: _Machine.frame,
        0x94: _Machine.memoize,
        ord("g"): _Machine.get_line,
        ord("p"): _Machine.put_line,
        ord("I"): _Machine.int_line,
        ord("L"): _Machine.int_line,
        ord("F"): _Machine.float_line,
        ord("S"): _Machine.string_line,
        ord("V"): _Machine.unicode_line,
        ord("c"): _Machine.name_lines,
        0x93: _Machine.name,
        ord("P"): _Machine.persistent_line,
        ord("Q"): _Machine.persistent,
        ord("]"): _Machine.empty_list,
        ord("}"): _Machine.empty_dict,
        0x8F: _Machine.empty_set,
        0x91: _Machine.frozen_set,
        ord("l"): _Machine.list_of,
        ord("d"): _Machine.dict_of,
        ord("t"): _Machine.tuple_of,
        0x85: _Machine.tuple_of_one,
        0x86: _Machine.tuple_of_two,
        0x87: _Machine.tuple_of_three,
        ord("a"): _Machine.append,
        ord("e"): _Machine.appends,
        0x90: _Machine.appends,
        ord("s"): _Machine.set_item,
        ord("u"): _Machine.set_items,
        ord("R"): _Machine.reduce,
        0x81: _Machine.new,
        0x92: _Machine.new_with_names,
        ord("i"): _Machine.instance_lines,
        ord("o"): _Machine.instance,
        ord("b"): _Machine.build,
    }
)
