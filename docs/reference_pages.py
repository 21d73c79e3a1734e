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
from types import MappingProxyType, ModuleType

LIBRARY = "batiste"
COMPAT = f"{LIBRARY}.compat"

GROUPS = MappingProxyType(
    {
        "Modules": ("_module", "_wrap", "_functional", "_context", "_variable", "_boxes", "_filters", "_tabulate"),
        "Linear layers": ("_linear", "_embedding"),
        "Convolutions and pooling": ("_conv", "_pooling"),
        "Attention": ("_attention", "_multihead", "_modern_attention", "_masks"),
        "Recurrent layers": ("_recurrent", "_cells"),
        "Normalisation and dropout": ("_norm", "_batch_norm", "_reparam", "_dropout"),
        "Combinators": ("_combinators", "_repeat", "_moe"),
        "Activations": ("_activations", "functions", "special", "numpy"),
        "Initialisers": ("_initializers",),
        "Transforms": ("_vmap", "_scan", "_calls", "_branches", "_autodiff", "_variables", "_axes"),
        "Eight-bit floats": ("_fp8",),
    }
)
"""The groups of ``batiste.nn``: for each the files whose names are in it; what is in none of them comes last."""


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
    text = directive(f"autoclass:: {target}", *members_option(value), ":show-inheritance:")
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


def members_option(kind: type) -> list[str]:
    """Return which members of a class to show: its own, those of bases that are not public, and ``__call__``."""
    shown: dict[str, None] = {}
    for base in kind.__mro__:
        if base is not kind and (not base.__module__.startswith(f"{LIBRARY}.") or is_public(base)):
            break
        own = [name for name, member in vars(base).items() if described(kind, name, member)]
        shown |= dict.fromkeys(own)
    return [f":members: {', '.join(shown)}"] if shown else []


def described(kind: type, name: str, member: object) -> bool:
    """Return whether a member is one that users call or read, and has a docstring, its own or inherited."""
    fields = getattr(kind, "__dataclass_fields__", {})  # one whose default is a function is described by its class
    plain = not name.startswith("_") and not name.endswith("_") and name not in fields
    is_kind = inspect.isroutine(member) or isinstance(member, property | classmethod | staticmethod)
    is_kind = is_kind or (plain and inspect.isfunction(getattr(kind, name, None)))
    return (plain or name == "__call__") and is_kind and bool(inspect.getdoc(getattr(kind, name, None)))


def is_public(kind: type) -> bool:
    """Return whether a class is offered by the package in whose folder it is written."""
    parts = kind.__module__.split(".")
    private = next((place for place, part in enumerate(parts) if part.startswith("_")), len(parts))
    return kind.__name__ in getattr(importlib.import_module(".".join(parts[:private])), "__all__", ())


def group_of(value: object) -> str:
    """Return the group of ``batiste.nn`` that a value belongs to."""
    file = str(getattr(value, "__module__", "")).rpartition(".")[2]
    return next((group for group, files in GROUPS.items() if file in files), "Sharding and other names")


def first_line(value: object, name: str, assigned: dict[str, str]) -> str:
    """Return the first sentence of what a name's docstring says, for a table."""
    said = assigned.get(name) or ("" if isinstance(value, str) else inspect.getdoc(value) or "")
    text = said.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    return text.replace("``", "`").partition(". ")[0].rstrip(".:")


def table(module: ModuleType, names: list[str], assigned: dict[str, str]) -> str:
    """Return a table of names, each with what it is in one line."""
    lines = [f"| `{name}` | {first_line(getattr(module, name), name, assigned)} |" for name in names]
    return "\n".join(["| name | what it is |", "| --- | --- |", *lines, ""])


def page(source: Path, name: str) -> str:
    """Return the page of one public package."""
    module = importlib.import_module(name)
    assigned = constants(source, name)
    groups: dict[str, list[str]] = {}
    for public in getattr(module, "__all__", ()):
        groups.setdefault(group_of(getattr(module, public)) if name == f"{LIBRARY}.nn" else "", []).append(public)
    order = [group for group in ("", *GROUPS, "Sharding and other names") if group in groups]
    head = "\n".join(
        f"{f'**{group}**' if group else ''}\n\n{table(module, groups[group], assigned)}" for group in order
    )
    body = "\n".join(
        f"{f'## {group}' if group else ''}\n\n" + "\n".join(entry(module, each, assigned) for each in groups[group])
        for group in order
    )
    return f"# {name}\n\n{directive(f'automodule:: {name}', ':no-members:')}\n{head}\n{body}"


def compat_page(source: Path, names: list[str]) -> str:
    """Return one page for all of ``batiste.compat``: a section for each module, below one heading."""
    parts = [page(source, name).replace("# ", "## ", 1) for name in names]
    return f"# {COMPAT}\n\nFlax's modules over batiste: a section for each.\n\n" + "\n".join(parts)


def write(source: Path, folder: Path) -> None:
    """Write every page into ``folder``, and remove pages of packages that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(public_modules(source))
    compat = [name for name in names if name.startswith(COMPAT)]
    pages = {f"{name}.md": page(source, name) for name in names if name not in compat}
    pages[f"{COMPAT}.md"] = compat_page(source, compat)
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for filename, text in pages.items():
        path = folder / filename
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
