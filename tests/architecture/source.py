"""The syntax trees of the library, and which file imports what: the material that the rules are about."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

LIBRARY = "batiste"


@dataclass(frozen=True)
class Import:
    """One name that a file imports from the library: where it stands, and what it asks for.

    `name` is None for `import batiste.x`; `inside` says that the statement stands in a function.
    """

    line: int
    module: str
    name: str | None
    inside: bool


@dataclass(frozen=True)
class SourceFile:
    """One file: its dotted module (the package's own for an `__init__.py`) and its text."""

    module: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def owner(self) -> str:
        """The package of the library that the file belongs to: `core` for `batiste.core._scope`, "" for the top."""
        parts = self.module.split(".")
        return "" if len(parts) < 2 or parts[1] == "__main__" else parts[1]

    @property
    def folder(self) -> str:
        """The package whose folder the file lies in."""
        return self.module if self.is_package else self.module.rpartition(".")[0]

    def at(self, line: int) -> str:
        """Where a problem is, for a reader."""
        return f"{self.module}:{line}"

    def imports(self) -> Iterator[Import]:
        """Yield what the file imports from the library, `if TYPE_CHECKING:` and functions included."""
        for node, inside in walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if is_ours(alias.name):
                        yield Import(node.lineno, alias.name, None, inside)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and is_ours(node.module or ""):
                for alias in node.names:
                    yield Import(node.lineno, node.module or "", alias.name, inside)


def is_ours(module: str) -> bool:
    """Say whether a dotted name is of the library."""
    return module.partition(".")[0] == LIBRARY


def walk(tree: ast.AST, *, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node, and whether it stands in a function."""
    for node in ast.iter_child_nodes(tree):
        yield node, inside
        deeper = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from walk(node, inside=inside or deeper)


def library_files(source: Path) -> tuple[SourceFile, ...]:
    """Read every file of the library that lies under the folder `source`."""
    files = []
    for path in sorted((source / LIBRARY).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        files.append(SourceFile(module, path.read_text(encoding="utf-8"), is_package))
    return tuple(files)


def top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported, those under `if`, `try`, `for` and `with` included."""
    for statement in body:
        yield statement
        for field in ("body", "orelse", "finalbody"):
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from top_level(getattr(statement, field, ()))
        for handler in getattr(statement, "handlers", ()):
            yield from top_level(handler.body)


def assigned(statement: ast.stmt) -> tuple[list[str], ast.expr | None]:
    """Return the names that a statement assigns at once, and the value they are given."""
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets, value = [statement.target], statement.value
    else:
        return [], None
    names = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return names, value


def exported(file: SourceFile) -> list[str] | None:
    """Return the `__all__` of a file as it is written, or None where it has none."""
    for statement in top_level(file.tree.body):
        names, value = assigned(statement)
        if names == ["__all__"] and isinstance(value, ast.List | ast.Tuple):
            return [str(ast.literal_eval(element)) for element in value.elts]
    return None
