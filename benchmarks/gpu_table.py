"""The table of the accelerator benchmark, from the file that ``benchmarks/gpu.py`` writes."""

import statistics
from collections.abc import Mapping
from typing import Any

NOT_AT_HAND = (
    "No GPU was at hand: nothing here was measured. The script is `python benchmarks/gpu.py`; it is tested on tiny "
    "shapes on the CPU."
)


def middle(samples: list[dict[str, Any]], contender: str, figure: str) -> float | None:
    """Return the median of one contender's figure over the rounds."""
    values = [sample[contender][figure] for sample in samples if figure in sample.get(contender, {})]
    return statistics.median(values) if values else None


def markdown(found: Mapping[str, Any] | None) -> str:
    """Return the tables in Markdown, or that there is nothing to show."""
    if found is None:
        return NOT_AT_HAND
    where = f"{found['device']}, JAX {found['jax']}, {found['rounds']} rounds"
    if found["tiny"]:
        where += "; tiny shapes, which say nothing about speed"
    texts = [where + "."]
    for name, model in found["models"].items():
        unit = model["unit"]
        heads = ("", "step", "to raw JAX", f"{unit} a second", "utilisation", "peak memory", "compile")
        lines = [f"{name}: {model['shape']}.\n", f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
        raw = middle(model["samples"], "raw", "step")
        for contender, title in model["contenders"].items():
            if contender in model["absent"]:
                lines.append(f"| {title} | {model['absent'][contender]} |" + " |" * (len(heads) - 2))
                continue
            step, rate, used, peak, compile_ = (
                middle(model["samples"], contender, figure)
                for figure in ("step", "rate", "utilisation", "peak", "compile")
            )
            cells = (
                f"{1e3 * step:.4g} ms" if step else "",
                f"{step / raw:.3f}" if step and raw else "",
                f"{rate:,.0f}" if rate else "",
                f"{100 * used:.1f} %" if used else "not known",
                f"{peak / 2**30:.1f} GiB" if peak else "not known",
                f"{compile_:.1f} s" if compile_ else "",
            )
            lines.append(f"| {title} | {' | '.join(cells)} |")
        texts.append("\n".join(lines))
    return "\n\n".join(texts)
