"""A page: its data, and the one file of HTML that shows it.

The data are plain dicts, lists, texts and numbers, and stand in the page as JSON. Style and scripts are the files
beside this one, put into the page whole. A page asks nothing of anybody: it has a policy that forbids it.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any, Final

from batiste._arguments import path as checked_path

__all__ = ["Page"]

_STYLES: Final = ("page.css",)
_SCRIPTS: Final = ("model.js", "tree.js", "pictures.js", "main.js")
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclasses.dataclass(frozen=True)
class Page:
    """A page to look at; a notebook shows it.

    Attributes:
      title: what it is called.
      data: all that it shows, as JSON has it.

    Example:
      >>> import numpy as np
      >>> from batiste import view
      >>> page = view.tree({"kernel": np.ones((2, 3), np.float32)})
      >>> page.title, page.data["facts"], page.write("page.html").name
      ('dict', ['1 leaves', '24 B'], 'page.html')
    """

    title: str
    data: dict[str, Any]

    @property
    def html(self) -> str:
        """The page as one file of HTML."""
        data = json.dumps(self.data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        safe = data.replace("&", "\\u0026").replace("<", "\\u003c").replace("\u2028", "\\u2028")
        return _frame().format(
            title=html.escape(self.title), policy=_POLICY, style=_joined(_STYLES), data=safe, script=_joined(_SCRIPTS)
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page, and return where it is; a page that was there is replaced when the new one is complete.

        Raises:
          ArgumentError: ``path`` is no path.
          OSError: it cannot be written.
        """
        place = Path(checked_path(path, "path", "Page.write"))
        partly = place.with_name(f"{place.name}.new")
        partly.write_text(self.html, encoding="utf-8", errors="surrogateescape")
        partly.replace(place)
        return place

    def _repr_html_(self) -> str:
        framed = html.escape(self.html, quote=True)
        return f'<iframe srcdoc="{framed}" style="width:100%;height:720px;border:0" title="{html.escape(self.title)}">'


@functools.cache
def _joined(names: tuple[str, ...]) -> str:
    """Return the files beside this one as one text."""
    here = resources.files("batiste.view")
    return "\n".join((here / name).read_text(encoding="utf-8") for name in names)


@functools.cache
def _frame() -> str:
    return (resources.files("batiste.view") / "page.html").read_text(encoding="utf-8")
