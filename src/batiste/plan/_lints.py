"""What a plan could do better, each with the leaf or module and what to write instead."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from batiste.plan._costs import Costs
from batiste.plan._placement import Collective
from batiste.shard import Explanation, Rules

__all__ = ["Lint", "lints"]

_LARGE = 1 << 20
_SMALL = 1 << 12


@dataclasses.dataclass(frozen=True, slots=True)
class Lint:
    """One thing that could be better.

    Attributes:
      kind: ``whole-leaf``, ``unused-rule``, ``float64``, ``wide-state``, ``padding``, ``gather-in-loop`` (small ones),
        ``gather-again`` (of what is the same in each turn) or ``gather-of-part`` (of what is read in part).
      path: the leaf, the module or the pattern.
      problem: what it is, in words.
      fix: what to write instead.

    Example:
      >>> import jax
      >>> from batiste import nn
      >>> from batiste.plan import plan
      >>> rules = {"**/kernel": jax.P("data"), "**/none": jax.P(), "**": jax.P()}
      >>> layer, x = nn.Dense(8), "float32[8,8]"
      >>> found = plan(layer, x, mesh="data=4", rules=rules, remat=False)
      >>> [(lint.kind, lint.path) for lint in found.lints]
      [('unused-rule', '**/none')]
    """

    kind: str
    path: str
    problem: str
    fix: str


def lints(leaves: Explanation, rules: Any, costs: Costs) -> Iterator[Lint]:
    """Yield what could be better in a state that lies by ``rules``, and a step with these costs."""
    devices = math.prod(leaves.mesh.values())
    dtypes = {leaf.path: leaf.dtype for leaf in leaves.leaves}
    most = max(_LARGE, leaves.device_bytes // 50)  # of which a few would matter
    for leaf in leaves.leaves:
        if leaf.parts == 1 and devices > 1 and leaf.device_bytes >= most:
            fix = f'cut it: {{"{leaf.path}": shard.Cut(largest="{next(iter(leaves.mesh))}")}}'
            yield Lint("whole-leaf", leaf.path, f"{leaf.device_bytes:,} bytes lie whole on each device", fix)
        if leaf.dtype in ("float64", "complex128"):
            yield Lint("float64", leaf.path, "it is in double precision", "give param_dtype=jnp.float32")
        parameter = leaf.why.removeprefix("as ") if leaf.why.startswith("as ") else None
        if parameter in dtypes and _wider(leaf.dtype, dtypes[parameter]):
            problem = f"it is {leaf.dtype}, and its parameter {dtypes[parameter]}"
            yield Lint("wide-state", leaf.path, problem, "give the optimiser mu_dtype, or keep parameters wider")
        lanes = leaf.shape[-1] if len(leaf.shape) > 1 else 0
        if lanes and leaf.bytes >= most and leaf.path.startswith("params") and lanes % 128:
            waste = 1 - lanes / (128 * math.ceil(lanes / 128))
            if waste > 0.1:
                problem = (
                    f"its last axis has {lanes} numbers, of which chips take 128 at a time: {waste:.0%} are padding"
                )
                yield Lint(
                    "padding", leaf.path, problem, f"use {128 * math.ceil(lanes / 128)}, or {lanes // 128 * 128}"
                )
    if not isinstance(rules, Rules):
        used = {leaf.why for leaf in leaves.leaves}
        for pattern in rules:
            if str(pattern) not in used:
                yield Lint("unused-rule", str(pattern), "no leaf lies by this rule", "drop it, or correct the pattern")
    named = {name for each in costs.collectives for name in each.path}
    for each in costs.collectives:
        if each.kind == "all-gather":
            yield from _gathers(each, leaves, named)


def _gathers(each: Collective, leaves: Explanation, named: set[str]) -> Iterator[Lint]:
    """Yield what could be better in what a module gathers.

    Args:
      each: what it gathers.
      leaves: where parameters lie.
      named: the modules of which anything is known; of layers in a loop that is the first, for all.
    """
    place, along, size = "/".join(each.path), "+".join(each.axes), each.bytes / each.count
    if each.count > 2 and size < _SMALL:
        problem = f"{each.count:.0f} gathers of {size:.0f} bytes along {along}"
        yield Lint("gather-in-loop", place, problem, "leave so small an array whole: Cut(at_least=...)")
    if each.unused >= _LARGE and each.unused > each.bytes / 2:
        problem = (
            f"{each.bytes:,.0f} bytes are gathered along {along}, and {1 - each.unused / each.bytes:.0%} of them read"
        )
        fix = "cut it along a mesh axis that does not cut the batch, such as tensor, or leave it whole"
        yield Lint("gather-of-part", place, problem, fix)
    parts = math.prod(leaves.mesh[axis] for axis in each.axes if axis in leaves.mesh)
    same: list[str] = []
    for leaf in leaves.leaves:
        names = leaf.path.split("/")[1:-1]
        if leaf.path.startswith("params/") and leaf.parts > 1 and names[-1:] == list(each.path[-1:]):
            ours = _is_within(names, each.path) or not named.issuperset(names)
            if ours and math.isclose(leaf.bytes * (parts - 1) / parts, size, rel_tol=0.01):
                same.append(leaf.path)
    # forwards, backwards and computed again are three; layers of equal shape have a leaf each
    if same and size >= _SMALL and each.count > 4 * len(same):
        times = f"{each.count / len(same):.0f} times along {along}"
        problem = f"it is gathered {times}, {size:,.0f} bytes, and is the same each time"
        fix = f'gather it once, before the loop: {{"{same[0]}": P()}} leaves it whole'
        yield Lint("gather-again", same[0] if len(same) == 1 else place, problem, fix)


def _is_within(names: list[str], path: tuple[str, ...]) -> bool:
    """Whether a module's names stand in a path of scopes, in their order."""
    rest = iter(path)
    return all(name in rest for name in names)


def _wider(one: str, other: str) -> bool:
    sizes = {"bfloat16": 2}
    try:
        first, second = (sizes.get(name) or np.dtype(name).itemsize for name in (one, other))
    except TypeError:
        return False
    return first > second
