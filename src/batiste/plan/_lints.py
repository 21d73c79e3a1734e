"""What a plan could do better, each with the leaf or module and what to write instead."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from batiste.plan._costs import Costs
from batiste.shard import Explanation, Rules

__all__ = ["Lint", "lints"]

_LARGE = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Lint:
    """One thing that could be better.

    Attributes:
      kind: ``whole-leaf``, ``unused-rule``, ``float64``, ``wide-state``, ``padding`` or ``gather-in-loop``.
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
    for each in costs.collectives:
        if each.count > 2 and each.kind == "all-gather" and each.bytes / each.count < 4096:
            problem = f"{each.count:.0f} gathers of {each.bytes / each.count:.0f} bytes along {'+'.join(each.axes)}"
            yield Lint(
                "gather-in-loop", "/".join(each.path), problem, "leave so small an array whole: Cut(at_least=...)"
            )


def _wider(one: str, other: str) -> bool:
    sizes = {"bfloat16": 2}
    try:
        first, second = (sizes.get(name) or np.dtype(name).itemsize for name in (one, other))
    except TypeError:
        return False
    return first > second
