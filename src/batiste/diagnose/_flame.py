"""Times as a picture: bars under each other, each as wide as the time of a module with all that is below it.

The picture is SVG without a script: a bar says on hovering what it is, and a screen reader reads the same. The colours
within a bar say how much of it belongs to which pass, on a light and on a dark ground.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["Bar", "flame"]

_WIDTH, _ROW, _TOP = 1000.0, 22.0, 46.0
_COLOURS = MappingProxyType({"forward": "#4c8eda", "backward": "#d9822b", "recomputed": "#9b6bcc", "": "#9aa0a6"})
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#fff;pointer-events:none}"
    ".t{fill:#222}path{stroke:#fff;stroke-width:2}"
    "@media(prefers-color-scheme:dark){.t{fill:#ddd}path{stroke:#16181b}}"
)


class Bar(NamedTuple):
    """One part of the time.

    Attributes:
      names: the bars that it is under, from the top, and its own.
      which: the pass.
      seconds: how long.
    """

    names: tuple[str, ...]
    which: str
    seconds: float


def flame(bars: Iterable[Bar], seconds: float, title: str) -> str:
    """Return the picture of some parts of ``seconds``."""
    parts = list(bars)
    times: dict[tuple[str, ...], dict[str, float]] = {}
    for bar in parts:
        for length in range(1, len(bar.names) + 1):
            passes = times.setdefault(bar.names[:length], {})
            passes[bar.which] = passes.get(bar.which, 0.0) + bar.seconds
    children: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for names in times:
        children.setdefault(names[:-1], []).append(names)
    drawn: list[str] = []
    deepest = 0

    def draw(group: tuple[str, ...], left: float) -> None:
        nonlocal deepest
        for names in sorted(children.get(group, ()), key=lambda each: -sum(times[each].values())):
            spent = sum(times[names].values())
            width = spent / seconds * _WIDTH if seconds else 0.0
            if width >= 0.5:
                deepest = max(deepest, len(names))
                drawn.append(_bar(names, times[names], left, width, spent / seconds))
                draw(names, left)
            left += width

    draw((), 0.0)
    height = _TOP + deepest * _ROW + 4
    legend = "".join(
        f'<rect x="{place * 130}" y="24" width="12" height="12" rx="2" fill="{colour}"/>'
        f'<text class="t" x="{place * 130 + 18}" y="34">{which or "no pass"}</text>'
        for place, (which, colour) in enumerate(_COLOURS.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" '
        f'style="max-width:100%;height:auto"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
        f'<text class="t" x="0" y="14">{html.escape(title)}</text>{legend}{"".join(drawn)}</svg>'
    )


def _bar(names: tuple[str, ...], passes: dict[str, float], left: float, width: float, share: float) -> str:
    """Return the bar of one path: a part in the colour of each pass, and the name over all of them."""
    told = ", ".join(f"{which or 'no pass'} {passes[which] * 1e3:.3g} ms" for which in _COLOURS if which in passes)
    words = html.escape(f"{'/'.join(names)}: {share:.1%} ({told})")
    top, whole, at = _TOP + (len(names) - 1) * _ROW, sum(passes.values()), left
    parts: list[str] = []
    for which, colour in _COLOURS.items():
        part = width * passes.get(which, 0.0) / whole
        if part > 0:
            place = f'x="{at:.2f}" y="{top:.1f}" width="{part:.2f}" height="{_ROW - 2:.0f}"'
            parts.append(f'<rect {place} fill="{colour}"/>')
            at += part
    room = int((width - 8) // 7)
    label = names[-1] if len(names[-1]) <= room else f"{names[-1][: room - 1]}…" if room > 3 else ""
    text = f'<text x="{left + 5:.1f}" y="{top + 14:.1f}">{html.escape(label)}</text>' if label else ""
    edge = f'<path d="M{left + width:.2f} {top:.1f}v{_ROW - 2:.0f}"/>'
    return f"<g><title>{words}</title>{''.join(parts)}{edge}{text}</g>"
