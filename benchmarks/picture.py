"""The picture for the docs: each library's ratio to raw JAX, row by row, with the bars."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.models import CONTENDERS
from benchmarks.ratios import Results, ratios
from benchmarks.rows import LIBRARIES, ROWS, Row
from benchmarks.table import columns

STYLES = {
    "batiste": ("o", "#c1272d"),
    "linen": ("s", "#0072b2"),
    "nnx": ("^", "#009e73"),
    "haiku": ("D", "#e69f00"),
    "equinox": ("v", "#7f7f7f"),
}


def drawn(results: Results) -> list[tuple[Row, str]]:
    """Return the rows and figures that the picture shows: seconds of those that every library is measured in."""
    shown: list[tuple[Row, str]] = []
    for row in ROWS:
        if row.base == "raw" and set(columns(row)) <= set(LIBRARIES) and row.name in results:
            wanted = [figure for figure in row.figures if figure not in {"programs", "equations", "lower"}]
            shown += [(row, figure) for figure in wanted]
    return shown


def draw(results: Results, path: Path) -> bool:
    """Write the picture as SVG, the same bytes for the same figures; say whether there was anything to draw."""
    shown = drawn(results)
    if not shown:
        return False
    figure = Figure(figsize=(9.0, 1.2 + 0.32 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for height, (row, name) in enumerate(reversed(shown)):
        samples = results[row.name]["samples"]
        for contender, (marker, colour) in STYLES.items():
            found = ratios(samples, contender, name, "raw")
            if found is not None:
                axes.plot([found.low, found.high], [height, height], color=colour, linewidth=1.2, alpha=0.6)
                size = 7 if contender == "batiste" else 5
                axes.plot([found.median], [height], marker, color=colour, markersize=size)
        for bar in row.bars:
            if bar.against == "raw" and bar.figure == name:
                axes.plot([bar.limit], [height], "|", color="black", markersize=14, markeredgewidth=2)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16, 32], labels=["1/4", "1/2", "1", "2", "4", "8", "16", "32"])
    axes.minorticks_off()
    labels = [row.title if len(row.figures) == 1 else f"{row.title}: {name}" for row, name in reversed(shown)]
    axes.set_yticks(range(len(shown)), labels=labels)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlabel("ratio to raw JAX: median, smallest to largest; black strokes: bars")
    axes.grid(axis="x", linewidth=0.4)
    handles = [
        axes.plot([], [], marker, color=colour, label=CONTENDERS[name].title)[0]
        for name, (marker, colour) in STYLES.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "batiste", "svg.fonttype": "path"}):
        figure.savefig(path, metadata={"Date": None})
    return True
