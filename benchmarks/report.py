"""Filling in ``benchmarks/README.md`` from the files of figures, so that no number is typed by hand."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import gpu_table, picture, results, table

README = results.HERE / "README.md"
PICTURE = results.ROOT / "docs" / "benchmarks.svg"


def fill(text: str, parts: Mapping[str, str]) -> str:
    """Return a text whose parts between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` are replaced."""
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda found, part=part: f"{found[1]}\n{part}\n\n{found[2]}", text)
        if count != 1:
            message = f"the text has {count} places for {name!r}, not one"
            raise ValueError(message)
    return text


def machines(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the figures were measured on; a line for each machine and set of versions."""
    rows: dict[str, list[str]] = {}
    for name, row in found.items():
        if "machine" not in row:
            continue
        where = row["machine"]
        versions = ", ".join(f"{package} {version}" for package, version in where["packages"].items())
        text = f"{where['processor']}, {where['cores']} cores, {where['system']}, Python {where['python']}, {versions}"
        rows.setdefault(f"{text}; {row.get('rounds', 1)} rounds", []).append(name)
    if not rows:
        return "Nothing has been measured yet."
    if len(rows) == 1:
        return f"Measured on: {next(iter(rows))}."
    return "\n".join(f"- {text}: {', '.join(names)}" for text, names in rows.items())


def missing(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return who was absent, and why; each reason once."""
    rows: dict[tuple[str, str], list[str]] = {}
    for row, absent in table.reasons(found).items():
        for contender, why in absent.items():
            rows.setdefault((contender, why), []).append(row)
    lines = [f"- {table.CONTENDERS[who].title}: {why} ({', '.join(names)})" for (who, why), names in rows.items()]
    return "\n".join(lines) or "Nobody was absent."


def unmet(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the list of bars that are not met."""
    lines = [f"- {row.title}, {bar.figure}: {text}" for row, bar, text in table.unmet(found)]
    if not lines and not any("samples" in row for row in found.values()):
        return "No bar has been measured yet."
    return "\n".join(lines) or "Every bar that was measured is met."


def checkpoints(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the checkpoint benchmark."""
    if "checkpoint" not in found:
        return "Not measured yet."
    texts: list[str] = []
    for title, contenders in found["checkpoint"]["tables"].items():
        operations = list(dict.fromkeys(name for row in contenders.values() for name in row))
        lines = [f"| {title} | {' | '.join(operations)} |", f"| --- |{' ---: |' * len(operations)}"]
        for name, row in contenders.items():
            cells = (f"{1e3 * row[operation]:.3g} ms" if operation in row else "" for operation in operations)
            lines.append(f"| {name} | {' | '.join(cells)} |")
        texts.append("\n".join(lines))
        shares = found["checkpoint"]["digests"][title].items()
        texts.append("Digests, of a save: " + ", ".join(f"{share:.1%} ({name})" for name, share in shares) + ".")
    return "\n\n".join(texts)


def large(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of one large checkpoint."""
    if "large" not in found:
        return "Not measured yet."
    lines = [f"| {found['large']['gigabytes']:g} GB | seconds | MiB beside the arrays |", "| --- | ---: | ---: |"]
    rows = found["large"]["rows"].items()
    lines += [f"| {name} | {row['seconds']:.3g} | {row['extra'] / 2**20:,.0f} |" for name, row in rows]
    return "\n".join(lines)


def leaves(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of trees of many leaves, and of models of many layers."""
    if "leaves" not in found:
        return "Not measured yet."
    rows = found["leaves"]["leaves"]
    sizes = list(next(iter(rows.values())))
    lines = [f"| CPU time | {' | '.join(f'{int(size):,} leaves' for size in sizes)} | growth |"]
    lines.append(f"| --- |{' ---: |' * (len(sizes) + 1)}")
    for name, row in rows.items():
        cells = " | ".join(f"{1e3 * row[size]:.3g} ms" for size in sizes)
        lines.append(f"| {name} | {cells} | {row[sizes[-1]] / row[sizes[-2]]:.1f} |")
    texts = [
        f"{model}: " + ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in row.items()) + "."
        for model, row in found["leaves"]["models"].items()
    ]
    if left := found["leaves"].get("left"):
        kept = f"{left['objects']:,} objects and {left['bytes'] / 2**20:,.0f} MiB"
        texts.append(f"{left['models']:,} different models, each used once, leave {kept} behind.")
    return "\n".join([*lines, "", *texts])


def overhead(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the training loop costs, with its bars."""
    if "overhead" not in found:
        return "Not measured yet."
    rows, save = found["overhead"]["steps"], found["overhead"]["save"]
    names = [name for name in rows[0] if name != "step"]
    lines = [f"| a step | {' | '.join(f'{name} time' for name in names)} |", f"| --- |{' ---: |' * len(names)}"]
    for row in rows:
        cells = " | ".join(f"{row[name]:.3f} {'✓' if row[name] <= 1.05 else '✗'}" for name in names)
        lines.append(f"| {1e3 * row['step']:.2f} ms | {cells} |")
    mark = "✓ met" if save["ratio"] <= 0.1 else "✗ not met"
    held, whole = (1e3 * save[name] for name in ("held", "whole"))
    text = (
        f"A save of 200 MB in the background holds the program up for {held:.1f} ms; a whole one takes {whole:.0f} ms."
    )
    lines += ["", f"{text} The ratio, as the median of pairs: {save['ratio']:.3f} (≤ 0.1: {mark})."]
    return "\n".join(lines)


def processes(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what a state costs that several processes save and restore, with the bar of the bytes that each reads."""
    if "processes" not in found:
        return "Not measured yet."
    texts: list[str] = []
    for count, row in found["processes"]["processes"].items():
        own, chunk = (row["limits"][name] / 1e6 for name in ("own", "chunk"))
        lines = [f"| {count} process{'es' if count != '1' else ''} | time | processor time | written | read |"]
        lines.append("| --- | ---: | ---: | ---: | ---: |")
        for operation in ("save", "restore", "unchecked"):
            for name, operations in row["programs"].items():
                if operation not in operations:
                    continue
                figures = operations[operation]
                cells = [f"{figures[figure]:.2f} s" for figure in ("seconds", "processor")]
                cells += [f"{figures[figure] / 1e6:,.1f} MB" for figure in ("written", "read")]
                if name == "batiste" and operation != "save":
                    cells[-1] += f" {'✓' if figures['read'] / 1e6 <= own + chunk else '✗'}"
                lines.append(f"| {operation}, {name} | {' | '.join(cells)} |")
        texts.append("\n".join(lines))
        texts.append(f"Each process has {own:,.1f} MB of the arrays, and a chunk is {chunk:,.1f} MB.")
    return "\n\n".join(texts)


def plans(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what plans cost, with their bars."""
    rows = [
        (name, row) for file in ("plans", "plans_compiled") for name, row in found.get(file, {}).get("rows", {}).items()
    ]
    if not rows:
        return "Not measured yet."
    lines = ["| plan | devices | processor time | peak memory |", "| --- | ---: | ---: | ---: |"]
    for name, row in rows:
        held = name == "70B"  # the others have no bars
        marks = [
            f" {'✓' if is_met else '✗'}" if held else ""
            for is_met in (row["seconds"] <= (120 if row["compiled"] else 10), row["peak"] <= 3e9)
        ]
        title = f"{name}, compiled" if row["compiled"] else name
        lines.append(
            f"| {title} | {row['devices']} | {row['seconds']:.1f} s{marks[0]} | {row['peak'] / 1e9:.2f} GB{marks[1]} |"
        )
    if "compiled" in found:
        ratios = sorted(row["planned"] / row["compiled"] for row in found["compiled"]["rows"])
        near = sum(abs(ratio - 1) <= 0.05 for ratio in ratios)
        text = f"{near} of {len(ratios)} plans are within 5% of the compiled program's bytes on a device: from"
        lines += ["", f"{text} {ratios[0]:.3f} to {ratios[-1]:.3f} times (`python -m benchmarks.compiled`)."]
    return "\n".join(lines)


def pipeline(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the ratios of layers in stages to the same by hand, with their bars."""
    if "pipeline" not in found:
        return "Not measured yet."
    row = found["pipeline"]
    lines = ["| | ratio to the program by hand |", "| --- | ---: |"]
    for title, figure in (("instructions", "instructions_ratio"), ("process time", "time_ratio")):
        lines.append(f"| {title} | {row[figure]:.3f} {'✓' if row[figure] <= 1.1 else '✗'} |")
    return "\n".join([*lines, "", f"Loss and gradients differ by at most {row['largest_difference']:.1e}."])


def kills(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how often a run was ended, at what, and what it came to."""
    if "kills" not in found:
        return "Not measured yet."
    lines = ["| ended by | times | where it was at | rows | differences |", "| --- | ---: | --- | ---: | --- |"]
    for way, row in found["kills"]["ways"].items():
        at = ", ".join(f"{name} {count}" for name, count in row["at"].items())
        lines.append(f"| {way} | {row['ended']} | {at} | {row['rows']} | {', '.join(row['differences']) or 'none'} |")
    return "\n".join(lines)


def write(folder: Path = results.FOLDER, readme: Path = README, drawing: Path = PICTURE) -> list[Path]:
    """Fill in the README and draw the picture; return the files that were written."""
    found = results.read(folder)
    parts = {
        "machine": machines(found),
        "tables": table.markdown(found),
        "absent": missing(found),
        "unmet": unmet(found),
        "checkpoints": checkpoints(found),
        "large": large(found),
        "leaves": leaves(found),
        "overhead": overhead(found),
        "kills": kills(found),
        "processes": processes(found),
        "plans": plans(found),
        "pipeline": pipeline(found),
        "accelerator": gpu_table.markdown(found.get("gpu")),
    }
    written = [readme]
    readme.write_text(fill(readme.read_text(encoding="utf-8"), parts), encoding="utf-8")
    return written + ([drawing] if picture.draw(found, drawing) else [])
