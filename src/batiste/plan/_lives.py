"""How much memory the values of a program need at one time.

A value lives from the equation that makes it to the last one that reads it. What a compiler computes where it is read
(``_operations.is_fused``) takes no memory, and keeps alive what it is computed from. A reshaped or transposed value is
the same memory as the one that it was. What is made of numbers in the program alone, such as a causal mask, takes none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batiste.plan._flat import Body
from batiste.plan._operations import is_fused

__all__ = ["peak_of"]

_SAME_MEMORY = frozenset({
    "copy", "expand_dims", "optimization_barrier", "pvary", "reshape", "reshard", "sharding_constraint", "squeeze",
    "stop_gradient", "transpose",
})  # fmt: skip


def peak_of(body: Body, bytes_of: Callable[[int], int], peaks: Sequence[int], *, with_results: bool = False) -> int:
    """Return the most bytes that the values between arguments and results take at one time.

    Args:
      body: the program.
      bytes_of: the bytes of a value by its number.
      peaks: for each step the bytes that it needs while it runs, besides operands and results.
      with_results: whether results take memory; else they belong to the caller.
    """
    steps, last = body.steps, len(body.steps)
    results = {value for value in body.outs if value is not None}
    constant: set[int | None] = {None}  # made of numbers in the program alone: masks, zeros
    for step in steps:
        if is_fused(step.name) and constant.issuperset(step.ins):
            constant.update(step.outs)
    ends: dict[int, int] = dict.fromkeys(results, last)
    in_memory = set(results)
    for index in range(last - 1, -1, -1):
        step = steps[index]
        free = is_fused(step.name) and not any(value in in_memory for value in step.outs)
        passes = free or step.name in _SAME_MEMORY
        end = max([index, *(ends.get(value, index) for value in step.outs)]) if passes else index
        for value in step.ins:
            if value is not None:
                ends[value] = max(ends.get(value, -1), end)
                if not free and (not step.name.startswith(("reduce_", "arg", "cum"))):
                    in_memory.add(value)
                if step.name in _SAME_MEMORY and step.outs[0] in results:
                    results.add(value)
    arguments = set(body.ins)
    dying: list[list[int]] = [[] for _ in range(last + 1)]
    taken: dict[int, int] = {}
    live = peak = 0
    for index, step in enumerate(steps):
        if is_fused(step.name):  # in the memory of an operand that is not read again
            live -= _freed(dying[index], taken)
        for value in step.outs:
            owned = value not in constant and (with_results or value not in results)
            if value in in_memory and owned and value not in arguments and step.name not in _SAME_MEMORY:
                taken[value] = bytes_of(value)
                live += taken[value]
                dying[min(ends.get(value, index), last)].append(value)
        peak = max(peak, live + peaks[index])
        live -= _freed(dying[index], taken)
    return max(peak, live)


def _freed(values: list[int], taken: dict[int, int]) -> int:
    freed = sum(taken[value] for value in values)
    values.clear()
    return freed
