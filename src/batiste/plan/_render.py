"""A plan for readers: a table in text, and a value that is written as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from batiste.plan._compile import Compiled
from batiste.plan._plan import Plan, entries_of

__all__ = ["as_json", "as_text", "human", "ranking"]

_UNITS = ("", "k", "M", "G", "T", "P", "E")


def human(value: float, unit: str = "") -> str:
    """Return a number with three digits and a power of a thousand: ``1.10 GB``."""
    power = 0
    while abs(value) >= 999.5 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if power == 0 and value == int(value) else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {_UNITS[power]}{unit}".rstrip()


def as_text(plan: Plan, depth: int = 3) -> str:
    """Return a plan as text.

    Args:
      plan: the plan.
      depth: how many levels of modules are shown.

    Example:
      >>> from batiste import nn
      >>> from batiste.plan import as_text, plan
      >>> as_text(plan(nn.Dense(4), "float32[2,3]", remat=False)).splitlines()[0]
      'Dense on data=1 (1 x h100), rules data'
    """
    memory = plan.memory
    verdict = "fits" if plan.fits else "does not fit"
    lines = [
        f"{plan.name} on {_mesh(plan)} ({plan.devices:,} x {plan.chip.name}), rules {plan.rules}",
        "",
        "bytes per device",
        *(f"  {name:32} {human(size, 'B'):>10}" for name, size in _memory(plan)),
        f"  {'total':32} {human(memory.total, 'B'):>10}   {verdict} in {human(plan.chip.memory, 'B')}",
        f"  {'activations, if all is kept':32} {human(memory.activations_saved, 'B'):>10}",
        f"  {'activations, with remat':32} {human(memory.activations_remat, 'B'):>10}",
        "",
        "largest leaves, equal layers together",
        *(f"  {path:48} {human(size, 'B'):>10}" for path, size in plan.dominating(6)),
        "",
        f"{'module':40} {'FLOPs':>10} {'bytes':>10} {'FLOPs/byte':>10} {'times':>6}",
        *_modules(plan, depth),
        "",
        "sent by one device in a step",
        *(f"  along {axes:26} {human(size, 'B'):>10}" for axes, size in plan.collective_bytes().items()),
        "",
        f"a step takes at least {plan.step_seconds:.3g} s, limited by {plan.limit}: "
        + ", ".join(f"{name} {value:.3g} s" for name, value in plan.seconds().items()),
        f"MFU at most {plan.mfu:.1%}",
    ]
    lines += _compiled(plan)
    if plan.lints:
        lines += ["", "could be better", *(f"  {each.path}: {each.problem}; {each.fix}" for each in plan.lints)]
    return "\n".join(lines)


def _compiled(plan: Plan) -> list[str]:
    """Return what XLA makes of it, beside what is planned."""
    made = plan.compiled
    if made is None:
        return []
    planned: dict[tuple[str, str], float] = {}
    for part in (plan.costs, plan.update):
        for each in part.collectives if part is not None else ():
            key = each.kind, "+".join(each.axes)
            planned[key] = planned.get(key, 0) + each.bytes
    sent: dict[tuple[str, str], float] = {}
    for each in made.collectives:
        key = each.kind, "+".join(each.axes)
        sent[key] = sent.get(key, 0) + each.bytes
    counts = {(kind, "+".join(axes)): count for (kind, axes), count in made.counts().items()}
    lines = [
        "",
        f"compiled for {made.target} in {made.seconds:.3g} s",
        f"  {'arguments':32} {human(made.argument_bytes, 'B'):>10}",
        f"  {'in between':32} {human(made.temp_bytes, 'B'):>10}",
        f"  {'total':32} {human(made.total_bytes, 'B'):>10}   planned {human(plan.memory.total, 'B')}",
        *(["  a CPU computes narrow floats in float32; an accelerator takes less"] if made.widens else []),
        "",
        f"{'sent by one device in a step':40} {'times':>6} {'bytes':>10} {'planned':>10}",
    ]
    for key in sorted({*planned, *sent}):
        kind, axes = key
        row = f"  {kind + ' along ' + axes:38} {counts.get(key, 0):>6.0f}"
        lines.append(f"{row} {human(sent.get(key, 0), 'B'):>10} {human(planned.get(key, 0), 'B'):>10}")
    lines += ["", "the most of it"]
    for each in made.collectives[:8]:
        place = "/".join(each.path) or "outside of modules"
        words = f"{each.kind} along {'+'.join(each.axes)}"
        lines.append(f"  {place:40} {words:32} {each.count:>5.0f} {human(each.bytes, 'B'):>10}")
    return lines


def _memory(plan: Plan) -> list[tuple[str, int]]:
    memory = plan.memory
    return [
        ("parameters", memory.params),
        ("gradients", memory.gradients),
        ("optimiser", memory.opt_state),
        ("other collections", memory.collections),
        ("batch", memory.batch),
        ("activations", memory.activations),
        ("fragmentation", memory.fragmentation),
    ]


def _mesh(plan: Plan) -> str:
    return ",".join(f"{axis}={size}" for axis, size in plan.mesh.items())


def _modules(plan: Plan, depth: int) -> list[str]:
    lines: list[str] = []
    for path, cost in sorted(plan.costs.by_path(depth).items()):
        name = "/".join(path) or "all"
        times = plan.costs.times.get(path, 1)
        shown = f"{times:.0f}" if times > 1 else ""
        if cost.flops:
            lines.append(
                f"{name:40} {human(cost.flops):>10} {human(cost.bytes, 'B'):>10} {cost.intensity:>10.3g} {shown:>6}"
            )
    return lines


def ranking(plans: Sequence[Plan]) -> str:
    """Return a table of plans, in the order given.

    Example:
      >>> from batiste import nn
      >>> from batiste.plan import ranking, search
      >>> plans = search(nn.Dense(64), "float32[32,64]", devices=2)
      >>> len(ranking(plans).splitlines()) > len(plans)
      True
    """
    head = f"{'mesh':28} {'rules':14} {'per device':>10} {'fits':>4} {'step':>9} {'limit':>8} {'MFU':>6}"
    rows = [
        f"{_mesh(each):28} {each.rules:14} {human(each.memory.total, 'B'):>10} {'yes' if each.fits else 'no':>4} "
        f"{each.step_seconds:>7.3g} s {each.limit:>8} {each.mfu:>6.1%}"
        for each in plans
    ]
    return "\n".join([head, *rows])


def _compiled_json(made: Compiled | None) -> dict[str, Any] | None:
    if made is None:
        return None
    rows = [
        {**dataclasses.asdict(each), "path": "/".join(each.path), "axes": list(each.axes)} for each in made.collectives
    ]
    return {**dataclasses.asdict(made), "total_bytes": made.total_bytes, "collectives": rows}


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as dicts, lists, texts and numbers.

    Example:
      >>> from batiste import nn
      >>> from batiste.plan import as_json, plan
      >>> held = as_json(plan(nn.Dense(4), "float32[2,3]", remat=False))
      >>> held["model"], held["devices"], held["bytes"]["params"]
      ('Dense', 1, 64)
    """
    memory = plan.memory
    modules: list[dict[str, Any]] = []
    for path, cost in sorted(plan.costs.by_path().items()):
        row: dict[str, Any] = {"path": "/".join(path), "times": plan.costs.times.get(path, 1)}
        modules.append({**row, **dataclasses.asdict(cost), "intensity": cost.intensity})
    parts = [part for part in (plan.costs, plan.update) if part is not None]
    return {
        "model": plan.name,
        "mesh": dict(plan.mesh),
        "devices": plan.devices,
        "rules": plan.rules,
        "chip": dataclasses.asdict(plan.chip),
        "fits": plan.fits,
        "bytes": {
            **dataclasses.asdict(memory),
            **{name: getattr(memory, name) for name in ("fragmentation", "state", "total")},
        },
        "leaves": [
            {
                "path": leaf.path,
                "shape": list(leaf.shape),
                "dtype": leaf.dtype,
                "spec": [list(axes) for axes in entries_of(leaf.spec, len(leaf.shape))],
                "rule": leaf.why,
                "bytes": leaf.bytes,
                "device_bytes": leaf.device_bytes,
            }
            for leaf in plan.leaves.leaves
        ],
        "dominating": [{"path": path, "device_bytes": size} for path, size in plan.dominating()],
        "flops": plan.flops,
        "model_flops": plan.model_flops,
        "flops_by_pass": {str(which): cost.flops for which, cost in plan.costs.by_pass().items()},
        "modules": modules,
        "collectives": [
            {**dataclasses.asdict(each), "path": "/".join(each.path), "axes": list(each.axes)}
            for part in parts
            for each in part.collectives
        ],
        "collective_bytes": plan.collective_bytes(),
        "seconds": {**plan.seconds(), "step": plan.step_seconds},
        "limit": plan.limit,
        "mfu": plan.mfu,
        "unknown_loops": ["/".join(path) for path in plan.costs.unknown_loops],
        "compiled": _compiled_json(plan.compiled),
        "lints": [dataclasses.asdict(each) for each in plan.lints],
    }
