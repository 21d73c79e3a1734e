"""How much memory the values of a program need at one time.

A value lives from the equation that makes it to the last one that reads it. What a compiler computes where it is read
(``_operations.is_fused``) takes no memory, and keeps alive what it is computed from; it is in memory if something reads
it that no fusion holds, such as a product, or if it costs much (``is_dear``) and is read more than once. A reshaped or
transposed value is the same memory as the one that it was. What is made of numbers in the program alone, such as a
causal mask, takes none.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

from batiste.plan._flat import Body
from batiste.plan._operations import is_dear, is_fused

__all__ = ["peak_of"]

_SAME_MEMORY = frozenset({
    "copy", "expand_dims", "optimization_barrier", "pvary", "reshape", "reshard", "sharding_constraint", "squeeze",
    "stop_gradient", "transpose",
})  # fmt: skip


def peak_of(
    body: Body,
    bytes_of: Callable[[int], int],
    peaks: Sequence[int],
    *,
    with_results: bool = False,
    turns: tuple[int, int] | None = None,
) -> int:
    """Return the most bytes that the values between arguments and results take at one time.

    Args:
      body: the program.
      bytes_of: the bytes of a value by its number.
      peaks: for each step the bytes that it needs while it runs, besides operands and results.
      with_results: whether results take memory; else they belong to the caller.
      turns: for the body of a loop over stacked arrays, the first argument that is an entry of one, and the first
        result that becomes one. What is no part of a fusion, such as a product, reads and writes a copy of an entry.
    """
    steps, last = body.steps, len(body.steps)
    first, then = turns if turns is not None else (len(body.ins), len(body.outs))
    entries = set(body.ins[first:])
    entering = {value for value in body.outs[then:] if value is not None} - {*body.outs[:then], *body.ins}
    lives = _Lives(body, entering)
    arguments = set(body.ins)
    dying: list[list[int]] = [[] for _ in range(last + 1)]
    taken: dict[int, int] = {}
    same: dict[int, int] = {}  # an entry in another shape
    live = peak = 0
    for index, step in enumerate(steps):
        fused = is_fused(step.name)
        if fused:  # in the memory of an operand that is not read again
            live -= _freed(dying[index], taken)
        if step.name in _SAME_MEMORY and step.ins[0] is not None:
            same[step.outs[0]] = same.get(step.ins[0], step.ins[0])
        for value in step.outs:
            owned = value not in lives.constant and (with_results or value not in lives.results)
            owned = owned or (value in entering and not fused)
            if value in lives.in_memory and owned and value not in arguments and step.name not in _SAME_MEMORY:
                taken[value] = bytes_of(value)
                live += taken[value]
                dying[min((lives.reads if value in entering else lives.ends).get(value, index), last)].append(value)
        for value in () if fused else step.ins:
            entry = None if value is None else same.get(value, value)
            if entry is not None and entry in entries and entry in lives.in_memory and entry not in taken:
                taken[entry] = bytes_of(entry)
                live += taken[entry]
                dying[max(index, lives.ends[entry])].append(entry)
        peak = max(peak, live + peaks[index])
        live -= _freed(dying[index], taken)
    return max(peak, live)


class _Lives:
    """How long the values of a program live.

    Attributes:
      constant: values made of numbers in the program alone.
      results: results, and values whose memory they are.
      in_memory: values that are not computed where they are read.
      ends: the last step that a value lives in; for a result the end of the program.
      reads: the last step that reads a value.
    """

    def __init__(self, body: Body, entering: set[int]) -> None:
        last = len(body.steps)
        self.results = {value for value in body.outs if value is not None}
        self.constant: set[int | None] = {None}  # masks, zeros
        for step in body.steps:
            if is_fused(step.name) and self.constant.issuperset(step.ins):
                self.constant.update(step.outs)
        self.ends: dict[int, int] = dict.fromkeys(self.results, last)
        self.reads: dict[int, int] = {}
        self.in_memory = set(self.results)
        makers = {value: step.name for step in body.steps for value in step.outs}
        readers: collections.Counter[int] = collections.Counter()
        for index in range(last - 1, -1, -1):
            step = body.steps[index]
            free = is_fused(step.name) and not any(value in self.in_memory for value in step.outs)
            passes = free or step.name in _SAME_MEMORY
            end = max([index, *(self.ends.get(value, index) for value in step.outs)]) if passes else index
            read = max([index, *(self.reads.get(value, index) for value in step.outs)]) if passes else index
            for value in step.ins:
                if value is None:
                    continue
                self.ends[value] = max(self.ends.get(value, -1), end)
                self.reads[value] = max(self.reads.get(value, -1), read)
                readers[value] += 1
                if _in_memory(makers.get(value), step.name, readers[value]):
                    self.in_memory.add(value)
                if step.name in _SAME_MEMORY and step.outs[0] in self.results:
                    self.results.add(value)
                    if step.outs[0] in entering:
                        entering.add(value)


def _in_memory(maker: str | None, reader: str, readers: int) -> bool:
    """Whether a value is in memory, as far as one of its readers tells.

    Args:
      maker: the primitive that makes it; None for an argument.
      reader: the primitive that reads it.
      readers: how many there are, up to this one.
    """
    if not is_fused(reader) and not reader.startswith(("reduce_", "arg", "cum")):
        return True
    return maker is not None and (not is_fused(maker) or (is_dear(maker) and readers > 1))


def _freed(values: list[int], taken: dict[int, int]) -> int:
    freed = sum(taken[value] for value in values)
    values.clear()
    return freed
