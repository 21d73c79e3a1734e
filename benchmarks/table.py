"""The tables, on a terminal and in Markdown: one line a figure, ratios by contender, a mark for each bar."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from benchmarks.models import CONTENDERS
from benchmarks.ratios import Mark, Results, figures, held, ratios, spread
from benchmarks.rows import LIBRARIES, ROWS, Bar, Row

COLOURS = {Mark.MET: "green", Mark.NOT_MET: "red", Mark.NO_BAR: "dim", Mark.NOT_MEASURED: "yellow"}
SIGNS = {Mark.MET: "✓ met", Mark.NOT_MET: "✗ not met", Mark.NO_BAR: "- no bar", Mark.NOT_MEASURED: "? not measured"}
COUNTS = frozenset({"programs", "instructions", "equations", "leaves"})


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a table: what, the base's own figure, everyone's ratio to it, and the bars with their marks."""

    what: str
    base: str
    cells: tuple[str, ...]
    bars: tuple[tuple[str, Mark], ...]


def amount(figure: str, value: float) -> str:
    """Return a figure with its unit, for people."""
    if figure in COUNTS:
        return f"{value:,.0f}"
    if figure == "peak":
        return f"{value / 2**20:,.0f} MiB" if value >= 2**20 else f"{value / 2**10:,.0f} KiB"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def named(limit: float) -> str:
    """Return a limit as people write it: ``1/3``, ``1.15``."""
    inverse = round(1 / limit)
    return f"1/{inverse}" if inverse > 1 and abs(limit * inverse - 1) < 1e-6 else f"{limit:g}"


def bar_text(bar: Bar, row: Row, results: Results) -> tuple[str, Mark]:
    """Return a bar in words with the ratio that was found, and its mark."""
    mark, found = held(bar, row, results)
    who = "" if bar.contender == "batiste" else f"{CONTENDERS[bar.contender].title}: "
    to = bar.words or CONTENDERS[bar.against].title
    text = f"{who}≤ {named(bar.limit)} of {to}"
    return (f"{text}: {found}" if found else text), mark


def columns(row: Row) -> tuple[str, ...]:
    """Return the contenders that have a column in a row's table, the base left out."""
    if row.base == "raw" and set(row.contenders) <= set(LIBRARIES):
        return tuple(name for name in LIBRARIES if name != "raw")
    return tuple(name for name in dict.fromkeys(row.contenders + row.long) if name != row.base)


def lines(row: Row, results: Results, shown: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of a row."""
    found = results.get(row.name, {})
    samples, absent = found.get("samples", ()), found.get("absent", {})
    for figure in row.figures:
        own = spread(figures(samples, row.base, figure))
        cells: list[str] = []
        for contender in shown:
            ratio = ratios(samples, contender, figure, row.base)
            values = spread(figures(samples, contender, figure))
            if contender in absent:
                cells.append("absent")
            elif figure in COUNTS and values:
                cells.append(amount(figure, values.median))
            else:
                cells.append(str(ratio) if ratio else "")
        bars = tuple(bar_text(bar, row, results) for bar in row.bars if bar.figure == figure)
        what = row.title if len(row.figures) == 1 else f"{row.title}: {figure}"
        yield Line(what, amount(figure, own.median) if own else "", tuple(cells), bars or (("", Mark.NO_BAR),))


def groups(rows: Sequence[Row]) -> list[tuple[str, tuple[str, ...], list[Row]]]:
    """Return the rows by table: base, other columns, rows."""
    found: dict[str, tuple[tuple[str, ...], list[Row]]] = {}
    for row in rows:
        shown = columns(row)
        kind = f"{row.base} {set(shown) <= set(LIBRARIES)}"
        known, members = found.setdefault(kind, (shown, []))
        members.append(row)
        found[kind] = (tuple(dict.fromkeys(known + shown)), members)
    return [(kind.split()[0], shown, members) for kind, (shown, members) in found.items()]


def terminal(results: Results, rows: Sequence[Row] = ROWS) -> Iterator[Table]:
    """Yield the tables for a terminal; rows that were not measured are left out."""
    for base, shown, members in groups([row for row in rows if row.name in results]):
        table = Table(title=f"ratios to {CONTENDERS[base].title}: medians (smallest-largest)", title_justify="left")
        table.add_column("what", overflow="fold")
        for name in (base, *shown):
            table.add_column(CONTENDERS[name].title, justify="right", overflow="fold")
        table.add_column("bar", overflow="fold")
        table.add_column("mark", no_wrap=True)
        for row in members:
            for line in lines(row, results, shown):
                bars = "\n".join(text for text, _ in line.bars)
                marks = "\n".join(f"[{COLOURS[mark]}]{SIGNS[mark]}[/]" for _, mark in line.bars)
                table.add_row(line.what, line.base, *line.cells, bars, marks)
        yield table


def markdown(results: Results, rows: Sequence[Row] = ROWS) -> str:
    """Return the tables in Markdown, every row of them."""
    texts: list[str] = []
    for base, shown, members in groups(rows):
        heads = ["what", CONTENDERS[base].title, *(CONTENDERS[name].title for name in shown), "bar", ""]
        table = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (1 + len(shown))} --- | --- |"]
        for row in members:
            for line in lines(row, results, shown):
                bars = "<br>".join(text for text, _ in line.bars)
                marks = "<br>".join(SIGNS[mark] for _, mark in line.bars)
                table.append(f"| {' | '.join((line.what, line.base, *line.cells, bars, marks))} |")
        texts.append(f"Ratios to {CONTENDERS[base].title}: medians (smallest-largest).\n\n" + "\n".join(table))
    return "\n\n".join(texts)


def unmet(results: Results, rows: Sequence[Row] = ROWS) -> list[tuple[Row, Bar, str]]:
    """Return every bar that is not met, with its words."""
    found: list[tuple[Row, Bar, str]] = []
    for row in rows:
        for bar in row.bars:
            text, mark = bar_text(bar, row, results)
            if mark is Mark.NOT_MET:
                found.append((row, bar, text))
    return found


def reasons(results: Results) -> dict[str, dict[str, Any]]:
    """Return who was absent from which row, and why."""
    return {name: found["absent"] for name, found in results.items() if found.get("absent")}
