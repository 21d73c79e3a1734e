"""The pages of ``docs/errors``: every error with the smallest program that raises it, and what it then says.

``python -m docs.errors.generate`` writes them, from the catalogue in ``tests/errors/catalogue`` and by running each of
its programs. They are kept in the repository, and a test compares them with what would be written now.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from batiste.errors import BatisteError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from tests.errors.rows import Row

HERE = Path(__file__).resolve().parent
CATALOGUE = HERE.parent.parent / "tests" / "errors" / "catalogue"

INDEX = """# Errors

Every error of batiste is a class with a *code*, a *message* (what was given, and why it cannot work) and a *hint* (what
to write instead). All are subclasses of `batiste.errors.BatisteError`, and many can also be caught as the built-in
error that fits: `ValueError`, `TypeError`, `AttributeError`.

These pages show the smallest program for each, and what it then says. They are made by running it.

```{toctree}
:glob:
:maxdepth: 1

*
```
"""


def prelude(module: ModuleType) -> str:
    """Return the lines that the programs of a catalogue file begin with: its imports, a key and an input."""
    source = inspect.getsource(module)
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = [
        ast.unparse(node)
        for node in imports
        if not (isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in {"tests", "typing"})
        and not (isinstance(node, ast.ImportFrom) and node.module == "batiste.errors")
    ]
    given = {"key": "key = jax.random.key(0)", "x": "x = jnp.ones((2, 3))"}
    lines += [line for name, line in given.items() if hasattr(module, name)]
    text = "\n".join(lines)
    for line in ("import jax.numpy as jnp", "import jax"):
        name = line.split()[-1]
        if line not in lines and f"{name}." in text:
            lines.insert(0, line)
    return "\n".join(lines)


def text_of(row: Row) -> str:
    """Run a program, and return the text of what it raises as it stands in a traceback."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), jax.numpy_rank_promotion("allow"):
        raised = _raised(row)
        said = str(raised).replace(f"{Path.cwd()}{os.sep}", "").replace(str(Path.cwd()), ".")
    said = re.sub(r" at 0x[0-9a-f]+", " at 0x...", said)
    said = re.sub(r"while it is traced \(.*\)\.", "while it is traced (...).", said)  # JAX's own words
    said = re.sub(r"(  line: \w+\.py):\d+", r"\1:...", said)  # where the program stands in the catalogue's file
    return f"{row.kind.__name__}: {said}"


def _raised(row: Row) -> BaseException | str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            row.program()
        except row.kind as error:
            return error
    return next(str(each.message) for each in caught if issubclass(each.category, row.kind))


def section(kind: type, rows: list[Row]) -> str:
    """Return the part of a page that shows one class."""
    title = kind.code if issubclass(kind, BatisteError) else kind.__name__
    anchor = title.replace("/", "-").lower()
    parts = [f"(error-{anchor})=\n\n## {title}", f"`batiste.errors.{kind.__name__}`: {_sentence(kind)}"]
    for row in rows:
        parts.append(f"```{{code-block}} python\n{row.source}\n```")
        parts.append(f"```text\n{text_of(row)}\n```")
    return "\n\n".join(parts)


def _sentence(kind: type) -> str:
    first = (kind.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(first.split()).replace("``", "`")


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every page."""
    yield "index.md", INDEX
    from tests.errors.rows import Row

    for path in sorted(CATALOGUE.glob("*.py")):
        module = importlib.import_module(f"tests.errors.catalogue.{path.stem}")
        found: dict[type, list[Row]] = {}
        for value in vars(module).values():
            if isinstance(value, Row):
                found.setdefault(value.kind, []).append(value)
        sections = [section(kind, found[kind]) for kind in sorted(found, key=lambda kind: getattr(kind, "code", ""))]
        about = f"{(module.__doc__ or '').strip()} The programs begin with"
        start = f"```{{code-block}} python\n{prelude(module)}\n```"
        yield f"{path.stem}.md", "\n\n".join([f"# Errors of {path.stem}", about, start, *sections]) + "\n"


def write(folder: Path = HERE) -> None:
    """Write every page, and remove those of packages that are no more."""
    texts = dict(pages())
    for old in folder.glob("*.md"):
        if old.name not in texts:
            old.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    write()
