"""The rules of the house, each a function from source files to a list of problems in words.

`LAYERS` is the table of arrows. What each rule forbids is in its docstring; `test_rules.py` proves that each can fail.
"""

import ast
import graphlib
import types
import typing
from collections.abc import Iterable, Sequence

from tests.architecture.source import LIBRARY, SourceFile, assigned, exported, is_ours, top_level, walk

LAYERS: tuple[tuple[str, ...], ...] = (
    ("_later",),
    ("_version", "_annotations", "_deprecated", "errors", "_arguments", "_page", "typing", "dtypes", "tree", "struct"),
    ("_processes", "core"),
    ("module",),
    ("lift",),
    ("shard",),
    ("nn",),
    ("generation",),
    ("checkpoint",),
    ("importers",),
    ("train",),
    ("plan", "diagnose", "view"),
    ("cli", "compat", "launch", "testing"),
)
"""The packages from the lowest to the highest, in a layer from left to right: each imports only what is before it."""

LONGEST_FILE = 600
LONGEST_FUNCTION = 80

FROZEN = frozenset({"MappingProxyType", "frozenset", "tuple"})
MUTABLE = frozenset(
    {
        "ChainMap", "Counter", "OrderedDict", "SimpleNamespace", "UserDict", "UserList", "WeakKeyDictionary", "WeakSet",
        "WeakValueDictionary", "bytearray", "count", "cycle", "defaultdict", "deque", "dict", "fromkeys", "list",
        "local", "set",
    }
)  # fmt: skip
DISPLAYS = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp, ast.GeneratorExp)


def upward_imports(files: Iterable[SourceFile]) -> list[str]:
    """Forbid a package to import one that is not before it in `LAYERS`, and packages that are not in it."""
    order = [package for layer in LAYERS for package in layer]
    problems = []
    for file in files:
        if file.owner == "":  # the top: nothing imports it, and it may name everything
            continue
        if file.owner not in order:
            problems.append(f"{file.module}: {file.owner!r} is not in the table of layers")
            continue
        for found in file.imports():
            parts = f"{found.module}.{found.name}".split(".") if found.module == LIBRARY else found.module.split(".")
            if parts[1] not in order[: order.index(file.owner) + 1]:
                problems.append(f"{file.at(found.line)}: {file.owner} may not import {parts[1]}, which is not below it")
    return problems


def import_cycles(files: Sequence[SourceFile]) -> list[str]:
    """Forbid files that import each other in a circle, be it only for their types."""
    known = {file.module for file in files}
    graph = {}
    for file in files:
        wanted = (f"{found.module}.{found.name}" for found in file.imports())
        graph[file.module] = [name if name in known else name.rpartition(".")[0] for name in wanted]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def self_imports(file: SourceFile) -> list[str]:
    """Forbid `import batiste...`, `from batiste import ...` and relative imports.

    The library's own `__init__.py` may say `from batiste import nn`, to make the package at hand.
    """
    problems = []
    for node, _ in walk(file.tree):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            problems.append(f"{file.at(node.lineno)}: write the package's full name, not a relative one")
    return problems + [
        f"{file.at(found.line)}: write `from {LIBRARY}.package import name`"
        for found in file.imports()
        if found.name is None or (found.module == LIBRARY and file.module != LIBRARY)
    ]


def foreign_privates(file: SourceFile) -> list[str]:
    """Forbid to import a private file of another folder, or a private name from a public package."""
    problems = []
    for found in file.imports():
        parts = found.module.split(".")
        private = next((place for place, part in enumerate(parts) if part.startswith("_")), None)
        if private is not None:
            home = ".".join(parts[:private])
            if not f"{file.folder}.".startswith(f"{home}."):
                problems.append(f"{file.at(found.line)}: {found.module} is private to {home}")
        elif (found.name or "").startswith("_") and not f"{file.folder}.".startswith(f"{found.module}."):
            problems.append(f"{file.at(found.line)}: {found.name} is private to {found.module}")
    return problems


NAMED_TUPLE = frozenset({"_asdict", "_fields", "_make", "_replace"})
"""What `typing.NamedTuple` documents under names that look private."""

BORDER_EXCEPTIONS: types.MappingProxyType[tuple[str, str], str] = types.MappingProxyType(
    {
        ("batiste.core._trace", "_trace"): "JAX has no public name for the trace that a tracer belongs to",
        ("batiste.struct", "_flax_dataclass"): "by which libraries that work with Flax's classes know one",
        ("batiste.train._hyperparams", "_opt"): "Optax's MultiSteps has no public name for what it wraps",
        ("batiste.train._processes", "_exit"): "os._exit, a public function of Python in spite of its name",
        ("batiste.train._stop", "_exit"): "likewise",
    }
)
"""Private attributes of others that a file may use, by module and attribute, each with its reason."""


def border_crossings(files: Sequence[SourceFile]) -> list[str]:
    """Forbid `x._name`, and `getattr(x, "_name")`, of what another package keeps to itself.

    A package is one house: its files may use what one of them defines. What a class hands to its subclasses in other
    packages they reach through `self`, `cls` or `super()`.
    """
    defined_in: dict[str, set[str]] = {}
    for file in files:
        defined_in.setdefault(file.owner, set()).update(private_definitions(file))
    problems = []
    for file in files:
        for line, name in private_uses(file):
            exception = BORDER_EXCEPTIONS.get((file.module, name))
            if name not in NAMED_TUPLE and name not in defined_in[file.owner] and not exception:
                problems.append(f"{file.at(line)}: {name} is private to another package")
    return problems


INSIDES: types.MappingProxyType[str, str] = types.MappingProxyType(
    {
        **dict.fromkeys(("ctypes",), "C functions"),
        **dict.fromkeys(("dis", "co_code", "co_consts", "co_freevars", "co_names", "co_varnames"), "code"),
        **dict.fromkeys(("__closure__", "cell_contents"), "closures"),
        **dict.fromkeys(("_getframe", "currentframe", "f_back", "f_code", "f_locals", "tb_frame"), "frames"),
        **dict.fromkeys(("gc",), "the collector"),
        **dict.fromkeys(("__class__",), "another class"),
        **dict.fromkeys(("start_dir", "_register_atexit"), "the standard library"),
        **dict.fromkeys(("eqns",), "jaxprs"),
    }
)
"""Names that reach into how Python, or a library, does things: modules that are imported, and attributes."""

_CAPTURED = "what a user's function holds is shown to its user"
_PROGRAM = "the traced program is what is asked about; read with jax.extend.core"
INSIDES_EXCEPTIONS: types.MappingProxyType[tuple[str, str], str] = types.MappingProxyType(
    {
        ("batiste.checkpoint._files", "C functions"): "two names exchanged in one step; measured beside it",
        ("batiste.compat.flax.__main__", "frames"): "which of the program's lines asked",
        ("batiste.compat.flax._partial_eval", "jaxprs"): _PROGRAM,
        ("batiste.compat.flax._serve", "another class"): "as Python's reference documents it for modules",
        ("batiste.core._code", "code"): "what a function can reach; measured beside it",
        (
            "batiste.core._draws",
            "jaxprs",
        ): "draws of one program for all shapes: `init` compiles 4 programs in place of 19",
        ("batiste.core._fingerprint", "closures"): "what a function computes with, to know it by value; see _code",
        ("batiste.core._fingerprint", "code"): "the names of its closure",
        ("batiste.core._initialise", "frames"): "a warning's stacklevel; `skip_file_prefixes` came with Python 3.12",
        ("batiste.core._programs", "jaxprs"): "when two initialisers draw by the same program; see _draws",
        ("batiste.core._trace", "jaxprs"): "what a result depends on; see _draws",
        ("batiste.diagnose._capture", "jaxprs"): _PROGRAM,
        ("batiste.diagnose._differences", "closures"): _CAPTURED,
        ("batiste.diagnose._differences", "code"): _CAPTURED,
        ("batiste.diagnose._evaluate", "jaxprs"): _PROGRAM,
        ("batiste.diagnose._flops", "jaxprs"): _PROGRAM,
        ("batiste.diagnose._keys", "jaxprs"): _PROGRAM,
        ("batiste.diagnose._lint", "jaxprs"): _PROGRAM,
        ("batiste.diagnose._nan", "jaxprs"): _PROGRAM,
        ("batiste.diagnose._purity", "frames"): "which line changed what",
        ("batiste.diagnose._purity", "jaxprs"): _PROGRAM,
        ("batiste.diagnose._purity", "the collector"): "who holds a tracer that has outlived its trace",
        ("batiste.diagnose._reach", "closures"): _CAPTURED,
        ("batiste.diagnose._reach", "code"): _CAPTURED,
        ("batiste.diagnose._retrace", "frames"): "which line called",
        ("batiste.lift._calls", "code"): "the names of a function's arguments",
        ("batiste.module._notes", "code"): "the names of a method's arguments, for a note",
        ("batiste.module._notes", "frames"): "whether another module has noted the exception",
        ("batiste.module._union", "code"): "which methods a message names; measured beside it",
        ("batiste.plan._costs", "jaxprs"): _PROGRAM,
        ("batiste.plan._flat", "jaxprs"): _PROGRAM,
        ("batiste.plan._remat", "jaxprs"): _PROGRAM,
        ("batiste.shard._mesh", "jaxprs"): "the mesh of a `with mesh:`, for which JAX has no public name",
        ("batiste.train._hyperparams", "closures"): "the settings of an optimiser; measured beside it",
        ("batiste.train._hyperparams", "code"): "their names",
        ("batiste.train._optimizer", "closures"): "the arguments that an optimiser reads; measured beside it",
    }
)
"""The files that may reach inside, each with its reason."""


def insides(file: SourceFile) -> list[str]:
    """Forbid to reach into how Python, JAX or another library does things, where the table gives no reason for it."""
    return [
        f"{file.at(line)}: {name} reaches into {group}; write down why in INSIDES_EXCEPTIONS, or do without"
        for line, name, group in inside_uses(file)
        if not INSIDES_EXCEPTIONS.get((file.module, group))
    ]


def inside_uses(file: SourceFile) -> Iterable[tuple[int, str, str]]:
    """Yield the line, the name and the kind of every use of a name of `INSIDES`."""
    for node, _ in walk(file.tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Attribute) and (node.attr != "__class__" or isinstance(node.ctx, ast.Store)):
            names = [node.attr] if node.attr not in {"ctypes", "dis", "gc"} else []
        for name in names:
            if name in INSIDES:
                yield node.lineno, name, INSIDES[name]


def is_private(name: str) -> bool:
    """Say whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__") and name != "_"


def private_definitions(file: SourceFile) -> set[str]:
    """Return the private names that a file defines: functions, classes, values, and attributes of its classes."""
    found = set()
    for node, _ in walk(file.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                slots = [assigned(part)[1] for part in node.body if assigned(part)[0] == ["__slots__"]]
                found |= {
                    each.value for slot in slots if slot for each in ast.walk(slot) if isinstance(each, ast.Constant)
                }
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found |= set(assigned(node)[0])
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            found.add(node.attr)
    return {name for name in found if is_private(str(name))}


def private_uses(file: SourceFile) -> Iterable[tuple[int, str]]:
    """Yield the line and the name of every private attribute of something that is not `self`, `cls` or `super()`."""
    for node, _ in walk(file.tree):
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            name = node.attr
        elif isinstance(node, ast.Call) and last_name(node.func) in ATTRIBUTE_FUNCTIONS and len(node.args) > 1:
            second = node.args[1]
            name = second.value if isinstance(second, ast.Constant) and not is_own(node.args[0]) else ""
        else:
            continue
        if isinstance(name, str) and is_private(name):
            yield node.lineno, name


ATTRIBUTE_FUNCTIONS = frozenset({"__setattr__", "delattr", "getattr", "hasattr", "setattr"})


def is_own(node: ast.expr) -> bool:
    """Say whether an expression is `self`, `cls` or `super()`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def local_imports(file: SourceFile) -> list[str]:
    """Forbid to import the library inside a function, `importlib.import_module("batiste...")` included."""
    problems = [
        f"{file.at(found.line)}: {found.module} is imported inside a function"
        for found in file.imports()
        if found.inside
    ]
    for node, _ in walk(file.tree):
        if isinstance(node, ast.Call) and last_name(node.func) in {"import_module", "__import__"} and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and is_ours(first.value):
                problems.append(f"{file.at(node.lineno)}: {first.value} is imported by its name")
    return problems


def asserts(file: SourceFile) -> list[str]:
    """Forbid `assert`: under `python -O` it is not there."""
    return [f"{file.at(node.lineno)}: assert" for node, _ in walk(file.tree) if isinstance(node, ast.Assert)]


def private_jax(file: SourceFile) -> list[str]:
    """Forbid JAX's private names, `jax.interpreters` and `jaxlib`, whether imported or reached by attribute."""
    aliases: dict[str, str] = {}
    used: list[tuple[int, str]] = []
    for node, _ in walk(file.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                used.append((node.lineno, alias.name))
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                used.append((node.lineno, f"{node.module}.{alias.name}"))
    for node, _ in walk(file.tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = dotted(node).partition(".")
            used.append((node.lineno, f"{aliases.get(root, '')}.{rest}"))
    private = {line: name for line, name in sorted(used) if is_private_jax(name)}  # the longest name of a line
    return [f"{file.at(line)}: {name} is not public" for line, name in private.items()]


def is_private_jax(name: str) -> bool:
    """Say whether a dotted name is one of JAX's that is not for others."""
    root, *parts = name.split(".")
    if root == "jaxlib":
        return True
    hidden = any(part.startswith("_") and not part.startswith("__") for part in parts)
    return root == "jax" and (hidden or parts[:1] == ["interpreters"])


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for a chain of attributes on a name, and "" for one on anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return before and f"{before}.{node.attr}"
    return ""


def last_name(node: ast.expr) -> str:
    """Return the last part of the name of what is called."""
    if isinstance(node, ast.Subscript):  # dict[str, int]()
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def mutable_globals(file: SourceFile) -> list[str]:
    """Forbid module-level values that can change, and `global`; a ContextVar may live in a `_context.py`."""
    problems = []
    for statement in top_level(file.tree.body):
        names, value = assigned(statement)
        if names == ["__all__"] or value is None:
            continue
        what = changeable(value)
        if what == "ContextVar" and file.module.endswith("._context"):
            continue
        if what is not None:
            problems.append(f"{file.at(statement.lineno)}: {', '.join(names)} is a module-level {what}")
    for node, _ in walk(file.tree):
        if isinstance(node, ast.Global):
            problems.append(f"{file.at(node.lineno)}: global {', '.join(node.names)}")
    return problems


def changeable(value: ast.expr, *, frozen: bool = False) -> str | None:
    """Name what in a value can change: a display or a container, but not what stands directly in a frozen one."""
    if isinstance(value, DISPLAYS) and not frozen:
        return type(value).__name__.lower()
    if isinstance(value, ast.Call):
        called = last_name(value.func)
        if called == "ContextVar" or (called in MUTABLE and not frozen):
            return called
        parts = list(value.args) if called in FROZEN or frozen else []
        return next(filter(None, (changeable(part, frozen=called in FROZEN) for part in parts)), None)
    if isinstance(value, ast.Dict):
        parts = list(value.values)
    elif isinstance(value, ast.List | ast.Set | ast.Tuple):
        parts = list(value.elts)
    elif isinstance(value, ast.DictComp):
        parts = [value.value]
    elif isinstance(value, ast.ListComp | ast.SetComp | ast.GeneratorExp):
        parts = [value.elt]
    elif isinstance(value, ast.IfExp):
        parts = [value.body, value.orelse]
    elif isinstance(value, ast.BoolOp):
        parts = list(value.values)
    elif isinstance(value, ast.BinOp):
        parts = [value.left, value.right]
    elif isinstance(value, ast.NamedExpr | ast.Starred):
        parts = [value.value]
    else:
        parts = []
    return next(filter(None, map(changeable, parts)), None)


def missing_docstrings(file: SourceFile) -> list[str]:
    """Ask a docstring of every file, and of its public functions and classes."""
    problems = [] if ast.get_docstring(file.tree) else [f"{file.at(1)}: the file has no docstring"]
    for statement in top_level(file.tree.body):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            overload = any(last_name(decorator) == "overload" for decorator in statement.decorator_list)
            if not statement.name.startswith("_") and not overload and not ast.get_docstring(statement):
                problems.append(f"{file.at(statement.lineno)}: {statement.name} has no docstring")
    return problems


def undocumented_constants(files: Iterable[SourceFile]) -> list[str]:
    """Ask a docstring, on the line below, of every constant and type alias that a public file offers.

    `other_name = name` is a second name of what is explained elsewhere, and needs none.
    """
    offered = set()
    for file in filter(is_public, files):
        listed = exported(file) or []
        offered |= {(file.module, name) for name in listed}
        offered |= {(found.module, found.name) for found in file.imports() if found.name in listed}
    problems = []
    for file in files:
        statements = list(top_level(file.tree.body))
        for statement, after in zip(statements, [*statements[1:], None], strict=True):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            alias = isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name | ast.Attribute)
            names = [] if said or alias else assigned(statement)[0]
            wanted = [name for name in names if (file.module, name) in offered and name != "__all__"]
            problems += [f"{file.at(statement.lineno)}: {name} has no docstring below it" for name in wanted]
    return problems


def undocumented_methods(kind: type) -> list[str]:
    """Ask a docstring, its own or inherited, of every public method and property of a public class."""
    described = (types.FunctionType, classmethod, staticmethod, property)
    return [
        f"{kind.__module__}: {kind.__qualname__}.{name} has no docstring"
        for name, member in vars(kind).items()
        if not name.startswith("_")
        and isinstance(member, described)
        and not any(vars(base)[name].__doc__ for base in kind.__mro__ if name in vars(base))
    ]


def oversized(file: SourceFile) -> list[str]:
    """Forbid files above 600 lines and functions above 80, the example at a docstring's end aside."""
    lines = len(file.text.splitlines())
    problems = [f"{file.module}: {lines} lines; {LONGEST_FILE} at most"] if lines > LONGEST_FILE else []
    for node, _ in walk(file.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            example = (ast.get_docstring(node) or "").partition("\nExample:")[2]
            lines = (node.end_lineno or node.lineno) - node.lineno + 1 - len(example.splitlines())
            if lines > LONGEST_FUNCTION:
                problems.append(f"{file.at(node.lineno)}: {node.name} has {lines} lines; {LONGEST_FUNCTION} at most")
    return problems


def exports(file: SourceFile, module: types.ModuleType) -> list[str]:
    """Ask a sorted `__all__` of a public file, equal to the public names that can be imported from it.

    A package's `__init__.py` is a table of contents, so whatever it binds counts, except its own submodules: they are
    bound by being imported. In a file that defines things itself, the names that it imports do not count. A type
    variable is never an export.
    """
    listed = exported(file)
    if listed is None:
        return [f"{file.module}: no __all__"]
    problems = [] if listed == sorted(set(listed)) else [f"{file.module}: __all__ is not sorted, or names one twice"]
    problems += [
        f"{file.module}: {name} is in __all__ and cannot be imported" for name in listed if not hasattr(module, name)
    ]
    bound = vars(module) if file.is_package else defined(file)
    for name in bound:
        value = getattr(module, name, None)
        submodule = isinstance(value, types.ModuleType) and value.__name__ == f"{file.module}.{name}"
        future = name == "annotations" and type(value).__module__ == "__future__"
        unlisted = name not in listed and not name.startswith("_")
        if unlisted and not submodule and not future and not isinstance(value, typing.TypeVar | typing.ParamSpec):
            problems.append(f"{file.module}: {name} is public and not in __all__")
    return problems


def defined(file: SourceFile) -> list[str]:
    """Return the names that a file defines itself."""
    names = []
    for statement in top_level(file.tree.body):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(statement.name)
        names += assigned(statement)[0]
    return names


def is_public(file: SourceFile) -> bool:
    """Say whether users import from a file."""
    return not any(part.startswith("_") for part in file.module.split("."))
