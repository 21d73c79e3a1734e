"""Findings: what a check has found, each with the path of the module that it is about.

A check that finds nothing returns an empty ``Findings``, which is false. As text, findings are lines; a notebook and
rich show a table.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable
from typing import Any

__all__ = ["Finding", "Findings"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a check has found.

    Attributes:
      kind: which kind of thing: ``"write"``, ``"dead parameter"``.
      path: the module, or the variable, that it is about.
      text: what was found.
      advice: what to do about it.
      module: the module's class and options, where there is one.

    Example:
      >>> from batiste import diagnose
      >>> found = diagnose.Finding("write", "Model", "it grows", "sow it instead")
      >>> found.kind, found.path
      ('write', 'Model')
    """

    kind: str
    path: str
    text: str
    advice: str = ""
    module: str = ""

    def __str__(self) -> str:
        owner = f" [{self.module}]" if self.module else ""
        return f"{self.kind}: {self.path}{owner} {self.text}." + (f"\n  {self.advice}" if self.advice else "")


class Findings(list[Finding]):
    """What a check has found, in order; empty, and so false, where it has found nothing.

    Attributes:
      name: what was looked at.

    Example:
      >>> from batiste import diagnose
      >>> one = diagnose.Finding("write", "Model", "it grows", "sow it instead")
      >>> found = diagnose.Findings("Model", [one])
      >>> bool(found), found.paths("write"), found.paths("clock")
      (True, ['Model'], [])
    """

    def __init__(self, name: str, findings: Iterable[Finding] = ()) -> None:
        super().__init__(findings)
        self.name = name

    def paths(self, kind: str | None = None) -> list[str]:
        """Return the paths of the findings of a kind, or of all, in order and each once."""
        return list(dict.fromkeys(each.path for each in self if kind is None or each.kind == kind))

    def to_json(self) -> list[dict[str, str]]:
        """Return the findings as plain dicts."""
        return [dataclasses.asdict(each) for each in self]

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or f"{self.name}: nothing found."

    def __repr__(self) -> str:
        return f"Findings({self.name!r}, {list.__repr__(self)})"

    def _repr_html_(self) -> str:
        cells = [(each.kind, each.path, each.text, each.advice) for each in self]
        return html_table(self.name, ("kind", "path", "finding", "advice"), cells)


def html_table(caption: str, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table of HTML; every cell is escaped."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
