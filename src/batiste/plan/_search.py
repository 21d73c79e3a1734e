"""Meshes and rules for a number of chips, by the time that a step takes at best.

Every way to share a number of devices out among the axes ``data``, ``fsdp`` and ``tensor``, in powers of two, is
planned under the preset that uses exactly these axes. The step is traced
once for each, since constraints on activations are in the program.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batiste._arguments import refused, whole_number
from batiste.errors import IndivisibleAxisError
from batiste.plan._plan import Plan, plan

__all__ = ["meshes", "search", "smallest_mesh"]


def meshes(devices: int, *, most_tensor: int = 8) -> Iterator[tuple[dict[str, int], str]]:
    """Yield each mesh of so many devices with the name of the preset for it.

    Args:
      devices: how many.
      most_tensor: the most devices along ``tensor``, whose traffic is the heaviest: those with fast links.
    """
    for tensor in _powers(devices):
        if tensor > most_tensor:
            continue
        for fsdp in _powers(devices // tensor):
            data = devices // tensor // fsdp
            sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
            used = {axis: size for axis, size in sizes.items() if size > 1} or {"data": 1}
            names = [axis for axis in ("fsdp", "tensor") if axis in used] or ["data"]
            yield used, "+".join(names)
            if names == ["data"] and devices > 1:
                yield used, "zero1"


def _powers(count: int) -> list[int]:
    return [1 << power for power in range(count.bit_length()) if count % (1 << power) == 0]


def search(model: Any, *inputs: Any, devices: int, keep: int = 10, remat: bool = False, **options: Any) -> list[Plan]:
    """Return plans for a number of devices: those that fit before those that do not, the fastest first.

    Args:
      model: a Module.
      *inputs: what it is called with, as ``plan`` takes it; the batch must be divisible by the devices that share it.
      devices: how many devices there are.
      keep: how many plans to return at most.
      remat: as for ``plan``, once more for each mesh; the order does not depend on it.
      **options: the other arguments of ``plan``; ``mesh`` and ``rules`` are what is searched for.

    Raises:
      ArgumentError: ``devices`` is no whole number, ``mesh`` or ``rules`` is given, or ``plan`` refuses an argument.

    Example:
      >>> from batiste import nn
      >>> from batiste.plan import search
      >>> plans = search(nn.Dense(64), "float32[32,64]", devices=2, keep=3)
      >>> len(plans), {found.devices for found in plans}
      (3, {2})
    """
    _check_open("search", options)
    count = whole_number(devices, "devices", "search", low=1)
    found: list[Plan] = []
    for sizes, name in meshes(count):
        try:
            found.append(plan(model, *inputs, mesh=sizes, rules=name, remat=remat, **options))
        except IndivisibleAxisError:  # a batch, or heads, that this mesh does not divide
            continue
    found.sort(key=lambda each: (not each.fits, each.step_seconds, each.memory.total))
    return found[: whole_number(keep, "keep", "search", low=1)]


def smallest_mesh(model: Any, *inputs: Any, most: int = 4096, remat: bool = False, **options: Any) -> Plan | None:
    """Return the fastest plan that fits on the fewest devices; None if none fits on ``most``.

    Args:
      model: a Module.
      *inputs: what it is called with.
      most: where to stop.
      remat: as for ``plan``; what fits does not depend on it.
      **options: the other arguments of ``plan``; ``mesh`` and ``rules`` are what is searched for.

    Raises:
      ArgumentError: ``most`` is no whole number, ``mesh`` or ``rules`` is given, or an argument of ``plan`` is wrong.

    Example:
      >>> from batiste import nn
      >>> from batiste.plan import smallest_mesh
      >>> smallest_mesh(nn.Dense(64), "float32[32,64]").devices
      1
    """
    _check_open("smallest_mesh", options)
    most = whole_number(most, "most", "smallest_mesh", low=1)
    alone = plan(model, *inputs, mesh=None, rules=None, remat=False, **options)
    least = max(1, _state_devices(alone))
    count = 1 << math.ceil(math.log2(least))
    while count <= most:
        best = _first(search(model, *inputs, devices=count, remat=remat, **options))
        if best is not None:
            return best
        count *= 2
    return None


def _check_open(where: str, options: Mapping[str, Any]) -> None:
    """Raise for what is searched for.

    Raises:
      ArgumentError: if ``mesh`` or ``rules`` is given.
    """
    for name in ("mesh", "rules"):
        if name in options:
            advice = f"Leave it out, or plan for it alone: plan.plan(..., {name}=...)."
            raise refused(options[name], name, where, "nothing: it is what is searched for", advice)


def _state_devices(alone: Plan) -> int:
    """Return how many devices the state needs at least, were it in equal parts."""
    return math.ceil((alone.memory.state + alone.memory.gradients) / alone.chip.memory)


def _first(plans: Sequence[Plan]) -> Plan | None:
    return plans[0] if plans and plans[0].fits else None
