"""A plan as one page: a map of the bytes on a device, in which each leaf is a rectangle, and the tables below it.

The page holds all that it needs: no script and no style comes from elsewhere, and the rectangles are laid out here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from batiste._page import document
from batiste.plan._plan import Plan
from batiste.plan._render import as_text, human

__all__ = ["as_html"]

_WIDTH, _HEIGHT = 1000.0, 460.0
_HUES = (212, 28, 130, 280, 60, 340)
_STYLE = """
svg { width: 100%; height: auto; border-radius: 4px; } pre { overflow-x: auto; font-size: 12px; }
text { font: 11px system-ui, sans-serif; fill: #1b1f24; pointer-events: none; }
rect { stroke: var(--ground); stroke-width: 1; } rect:hover { stroke: #1b1f24; }
"""

_Box = tuple[float, float, float, float]
_Item = tuple[str, float]


def as_html(plan: Plan) -> str:
    """Return a plan as one page of HTML.

    Example:
      >>> from batiste import nn
      >>> from batiste.plan import as_html, plan
      >>> page = as_html(plan(nn.Dense(4), "float32[2,3]", remat=False))
      >>> "<html" in page
      True
    """
    title = f"{plan.name} on {plan.devices:,} {plan.chip.name}"
    groups: dict[str, list[_Item]] = {}
    for path, size in plan.dominating(400):
        group, _, rest = path.partition("/")
        groups.setdefault(group, []).append((rest or group, size))
    memory = plan.memory
    for name in ("gradients", "batch", "activations", "fragmentation"):
        groups[name] = [(name, getattr(memory, name))]
    shapes: list[str] = []
    sizes = [(name, sum(size for _, size in items)) for name, items in groups.items()]
    boxes = _laid_out(sizes, (0, 0, _WIDTH, _HEIGHT))
    for (name, box), hue in zip(boxes, _HUES * (1 + len(boxes) // len(_HUES)), strict=False):
        shapes += [_rectangle(f"{name}/{each}", part, hue, groups[name]) for each, part in _laid_out(groups[name], box)]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{human(memory.total, 'B')} of {human(plan.chip.memory, 'B')} on each device;",
        f"rules {html.escape(plan.rules)}; equal layers together.</p>",
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="bytes on a device">',
        *shapes,
        "</svg>",
        f"<pre>{html.escape(as_text(plan))}</pre>",
    ]
    return document(title, parts, _STYLE)


def _rectangle(path: str, box: _Box, hue: int, items: Sequence[_Item]) -> str:
    x, y, width, height = box
    size = dict(items).get(path.partition("/")[2], 0)
    words = html.escape(f"{path}: {human(size, 'B')}")
    room = int(width // 6.5)
    label = ""
    if height > 18 and room > 5:
        label = f'<text x="{x + 4:.1f}" y="{y + 14:.1f}">{html.escape(path[-room:])}</text>'
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<g><rect {place} fill="hsl({hue} 60% 78%)"><title>{words}</title></rect>{label}</g>'


def _laid_out(items: Sequence[_Item], box: _Box) -> list[tuple[str, _Box]]:
    """Return a rectangle for each item, its area in proportion: halves of about equal weight, along the longer side."""
    kept = sorted((item for item in items if item[1] > 0), key=lambda item: -item[1])
    if not kept:
        return []
    if len(kept) == 1:
        return [(kept[0][0], box)]
    total, first, count = sum(size for _, size in kept), 0.0, 0
    while count < len(kept) - 1 and first < total / 2:
        first += kept[count][1]
        count += 1
    x, y, width, height = box
    share = first / total
    if width >= height:
        left, right = (x, y, width * share, height), (x + width * share, y, width * (1 - share), height)
    else:
        left, right = (x, y, width, height * share), (x, y + height * share, width, height * (1 - share))
    return _laid_out(kept[:count], left) + _laid_out(kept[count:], right)
