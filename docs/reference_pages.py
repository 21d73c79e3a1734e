"""The reference, a page for each public package, made from its ``__all__``: nothing public can be missing from it.

A name is documented once, on the page of the package that it comes from; where another package offers it again, that
page points there. A name of JAX's own is given with the JAX name it stands for. An error shows its code, message and
hint.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

LIBRARY = "batiste"


def public_modules(source: Path) -> Iterator[str]:
    """Yield the dotted names of the packages and files that users import from, in alphabetical order."""
    for path in sorted((source / LIBRARY).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            yield ".".join(parts)


def constants(source: Path, module: str) -> dict[str, str]:
    """Return, for each name that a package's files assign, the docstring that stands below it.

    ``other_name = name`` is a second name of a function or class, which has its own.
    """
    folder = source / Path(*module.split("."))
    found: dict[str, str] = {}
    for path in filter(Path.exists, [folder.with_suffix(".py"), *sorted(folder.glob("*.py"))]):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, after in zip(body, [*body[1:], None], strict=True):
            alias = isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name | ast.Attribute)
            if alias or not isinstance(statement, ast.Assign | ast.AnnAssign):
                continue
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id: inspect.cleandoc(str(said)) for target in targets if isinstance(target, ast.Name)}
    return found


def home_of(value: object, name: str, module: ModuleType) -> str:
    """Return the public package whose page documents a class or function, or "" if it is not the library's.

    That is the package in whose folder it is written, unless only other packages offer it.
    """
    parts = str(getattr(value, "__module__", "")).split(".")
    if parts[0] != LIBRARY:
        return ""
    private = next((place for place, part in enumerate(parts) if part.startswith("_")), len(parts))
    home = ".".join(parts[:private])
    return home if name in getattr(importlib.import_module(home), "__all__", ()) else module.__name__


def entry(module: ModuleType, name: str, assigned: dict[str, str]) -> str:
    """Return the text that documents one public name of a module."""
    value = getattr(module, name)
    if name in assigned:
        return directive(f"py:data:: {name}", f":module: {module.__name__}", "", *assigned[name].splitlines())
    if inspect.ismodule(value):
        return f"`{name}`\n: the package `{value.__name__}`.\n"
    home = home_of(value, name, module)
    if home != module.__name__:
        return f"`{name}`\n: `{f'{home}.{name}' if home else jax_name(value, name)}`, offered again.\n"
    target = f"{module.__name__}.{name}"
    if not inspect.isclass(value):
        return directive(f"{'autofunction' if callable(value) else 'autodata'}:: {target}")
    text = directive(f"autoclass:: {target}", ":members:", ":show-inheritance:")
    if issubclass(value, Exception) and isinstance(getattr(value, "code", None), str):
        parts = (value.message, value.hint and f"  {value.hint}", f"  [{value.code}]")
        words = "\n".join(filter(None, parts)).replace("{{", "{").replace("}}", "}")
        text += f"\n````text\n{words}\n````\n"
    return text


def jax_name(value: object, name: str) -> str:
    """Return where users of JAX find what JAX defines in a private file."""
    for module in ("jax.nn", "jax.nn.initializers", "jax.numpy", "jax.typing", "jax.tree", "jax"):
        if getattr(importlib.import_module(module), name, None) is value:
            return f"{module}.{name}"
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', name)}"


def directive(*lines: str) -> str:
    """Return a directive of Sphinx inside a MyST page."""
    return "```{eval-rst}\n.. " + "\n   ".join(lines) + "\n```\n"


def page(source: Path, name: str) -> str:
    """Return the page of one public package."""
    module = importlib.import_module(name)
    assigned = constants(source, name)
    entries = "\n".join(entry(module, public, assigned) for public in getattr(module, "__all__", ()))
    return f"# {name}\n\n{directive(f'automodule:: {name}', ':no-members:')}\n{entries}"


def write(source: Path, folder: Path) -> None:
    """Write every page into ``folder``, and remove pages of packages that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {f"{name}.md": page(source, name) for name in public_modules(source)}
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for filename, text in pages.items():
        path = folder / filename
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
