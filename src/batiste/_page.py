"""A page of HTML that stands alone: what every such page has around its contents, and a style for light and dark.

Nothing is asked of a network: style is in the page, and the picture of the tab is empty. What has a style of its own
builds on these colours: ``--text``, ``--quiet``, ``--line``, ``--ground``.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["document"]

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1d2127; --quiet: #5b626c; --line: #dfe2e7; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #15171b; --text: #e4e7ec; --quiet: #98a1ad; --line: #30353d; }
}
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em;
  background: var(--ground); color: var(--text); }
"""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """Return a page.

    Args:
      title: its title, as text.
      parts: its contents, as HTML.
      style: further rules.
    """
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}{style}</style></head><body>\n{body}\n</body></html>\n"
    )
