"""The picture of the house on the page of the architecture: the floors and rooms of ``LAYERS``.

``python -m docs.house`` draws it. It is kept in the repository, and a test compares it with what would be drawn now.
"""

from __future__ import annotations

import html
from pathlib import Path

from tests.architecture.rules import LAYERS
from tests.architecture.source import library_files

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "concepts" / "house.svg"
WIDTH, FLOOR, ROOM, GAP, LEFT, WALL = 760, 46, 34, 10, 40, 8
ROOF = 44
STYLE = 'fill="none" stroke="#6b7280" font-family="sans-serif" font-size="14"'


def floors() -> list[list[str]]:
    """Return the packages of each floor that users import from, the lowest floor first."""
    there = {file.owner for file in library_files(ROOT / "src")}
    rooms = [[name for name in layer if name in there and not name.startswith("_")] for layer in LAYERS]
    return [layer for layer in rooms if layer]


def drawn() -> str:
    """Return the picture as SVG; it takes the colours of the page that it is in."""
    layers = floors()
    height = ROOF + FLOOR * len(layers) + 2 * WALL
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" {STYLE}>',
        "<title>The floors of batiste: a room imports only from floors below it, and from rooms to its left</title>",
        f'<path d="M{LEFT - 24} {ROOF} L{WIDTH / 2:.0f} 6 L{WIDTH - LEFT + 24} {ROOF} Z"/>',
        f'<rect x="{LEFT}" y="{ROOF}" width="{WIDTH - 2 * LEFT}" height="{FLOOR * len(layers) + WALL}"/>',
    ]
    for number, names in enumerate(layers):
        top = ROOF + WALL + FLOOR * (len(layers) - 1 - number)
        parts.append(
            f'<text x="{LEFT - 8}" y="{top + 22}" fill="#6b7280" stroke="none" text-anchor="end">{number}</text>'
        )
        width = (WIDTH - 2 * LEFT - GAP) / len(names)
        for place, name in enumerate(names):
            left = LEFT + GAP + place * width
            parts.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width - GAP:.0f}" height="{ROOM}" rx="4" fill="#0072b2" '
                'fill-opacity="0.12" stroke="#0072b2"/>'
            )
            parts.append(
                f'<text x="{left + (width - GAP) / 2:.0f}" y="{top + 22}" fill="#0072b2" stroke="none" '
                f'text-anchor="middle">{html.escape(name)}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
