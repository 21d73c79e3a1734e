"""Every rule of the house can fail: each finds the mistake in a small bad example, and none in a good one."""

import types

import pytest

from tests.architecture import rules, test_house
from tests.architecture.source import SourceFile


def file(text: str, module: str = "batiste.core._scope", *, is_package: bool = False) -> SourceFile:
    return SourceFile(module, text, is_package)


@pytest.mark.parametrize(
    ("module", "text", "problems"),
    [
        ("batiste.core._scope", "from batiste.nn import Dense", 1),
        ("batiste.core._scope", "import jax\nif TYPE_CHECKING:\n    from batiste.module import Module", 1),
        ("batiste.core._scope", "def f():\n    from batiste.module import Module", 1),
        ("batiste.core._scope", "from batiste import nn", 1),
        ("batiste.core._scope", "import batiste.nn", 1),
        ("batiste.errors._core", "from batiste.typing import Array", 1),
        ("batiste.drawer._things", "import jax", 1),
        ("batiste.core._scope", "from batiste.errors import BatisteError\nfrom batiste.core._keys import fold", 0),
        ("batiste.typing", "from batiste.errors import BatisteError", 0),
        ("batiste", "from batiste.nn import Dense", 0),
        ("batiste.__main__", "from batiste.cli import main", 0),
    ],
)
def test_upward_imports(module, text, problems):
    assert len(rules.upward_imports([file(text, module)])) == problems


def test_import_cycles():
    package = file("from batiste.core._scope import Scope", "batiste.core", is_package=True)
    lazy = file("def f():\n    from batiste.core import Scope", "batiste.core._scope")
    typed = file("if TYPE_CHECKING:\n    from batiste.core import _scope", "batiste.core._keys")
    scope = file("from batiste.core._keys import fold", "batiste.core._scope")
    itself = file("from batiste.core import Scope", "batiste.core", is_package=True)
    assert len(rules.import_cycles([package, lazy])) == 1
    assert len(rules.import_cycles([typed, scope])) == 1
    assert len(rules.import_cycles([itself])) == 1
    assert rules.import_cycles([package, scope, file("import jax", "batiste.core._keys")]) == []


@pytest.mark.parametrize(
    "text",
    [
        "import batiste",
        "import batiste.core as core",
        "from batiste import nn",
        "from . import _keys",
        "from .. import nn",
    ],
)
def test_self_imports(text):
    assert len(rules.self_imports(file(text))) == 1


def test_self_imports_knows_the_table_of_contents():
    assert rules.self_imports(file("from batiste import nn", "batiste", is_package=True)) == []
    assert rules.self_imports(file("from batiste.errors import BatisteError\nimport batistery")) == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("from batiste.errors._base import BatisteError", 1),
        ("from batiste.compat.flax._names import NAMES", 1),
        ("from batiste.errors import _base", 1),
        ("from batiste.core._keys import fold", 0),
        ("from batiste.core._keys import _fold_one", 0),
        ("from batiste.core import _keys", 0),
        ("from batiste.errors import BatisteError", 0),
    ],
)
def test_foreign_privates(text, problems):
    assert len(rules.foreign_privates(file(text))) == problems


def test_foreign_privates_knows_inner_folders():
    inner = file("from batiste.compat._names import NAMES", "batiste.compat.flax._linen")
    outer = file("from batiste.compat.flax._linen import NAMES", "batiste.compat._names")
    assert rules.foreign_privates(inner) == []
    assert len(rules.foreign_privates(outer)) == 1


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("def f(module):\n    return module._state", 1),
        ("def f(module):\n    module._state.count += 1", 1),
        ("def f(module):\n    module._state = 1", 1),
        ("def f(x):\n    return x.inner()._state", 1),
        ("def f(x):\n    return getattr(x, '_state', None)", 1),
        ("def f(x):\n    object.__setattr__(x, '_state', 1)", 1),
        ("class A:\n    def f(self, other):\n        return self._state == other._state", 1),
        ("class A:\n    def f(self):\n        return self._state, super()._state, getattr(self, '_state')", 0),
        ("class A:\n    def __init__(self, other):\n        self._state = other._state", 0),
        ("class A:\n    _state: int\ndef f(a):\n    return a._state", 0),
        ("class A:\n    __slots__ = ('_state',)\ndef f(a):\n    return a._state", 0),
        ("def f(pair):\n    return pair._replace(a=1), pair.__dict__, pair.state_", 0),
        ("def f(a):\n    return a._near", 0),
    ],
)
def test_border_crossings(text, problems):
    near = file("class Near:\n    def _near(self): ...", "batiste.core._keys")
    far = file("class Module:\n    def __init__(self):\n        self._state = 1", "batiste.module._module")
    assert len(rules.border_crossings([near, far, file(text)])) == problems


def test_border_crossings_has_exceptions(monkeypatch):
    monkeypatch.setattr(rules, "BORDER_EXCEPTIONS", {("batiste.core._scope", "_state"): "a reason"})
    text = "def f(x):\n    return x._state, x._other"
    assert [line.split(": ")[1] for line in rules.border_crossings([file(text)])] == [
        "_other is private to another package"
    ]


def test_every_exception_at_the_border_has_a_use_and_a_reason():
    for (module, name), reason in rules.BORDER_EXCEPTIONS.items():
        source = next(each for each in test_house.FILES if each.module == module)
        assert name in {used for _, used in rules.private_uses(source)}
        assert reason


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("import ctypes", 1),
        ("from dis import get_instructions", 1),
        ("def f(x):\n    x.__class__ = int", 1),
        ("def f(x):\n    return x.__class__", 0),
        ("def f(x):\n    return [cell.cell_contents for cell in x.__closure__]", 2),
        ("def f(jaxpr):\n    return jaxpr.eqns", 1),
        ("def f(array):\n    return array.ctypes.data", 0),  # NumPy's, and public
    ],
)
def test_insides(text, problems):
    assert len(rules.insides(file(text))) == problems


def test_every_exception_that_reaches_inside_has_a_use_and_a_reason():
    for (module, group), reason in rules.INSIDES_EXCEPTIONS.items():
        source = next(each for each in test_house.FILES if each.module == module)
        assert group in {used for _, _, used in rules.inside_uses(source)}, (module, group)
        assert reason


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("def f():\n    from batiste.errors import BatisteError", 1),
        ("class A:\n    def f(self):\n        import batiste.nn", 1),
        ("def f():\n    return importlib.import_module('batiste.nn')", 1),
        ("def f():\n    import optax", 0),
        ("if TYPE_CHECKING:\n    from batiste.errors import BatisteError", 0),
    ],
)
def test_local_imports(text, problems):
    assert len(rules.local_imports(file(text))) == problems


def test_asserts():
    assert len(rules.asserts(file("def f(x):\n    if x:\n        assert x"))) == 1
    assert rules.asserts(file("'assert x'")) == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("import jax._src.core", 1),
        ("from jax._src import core", 1),
        ("from jax import _src", 1),
        ("from jax.interpreters import mlir", 1),
        ("import jaxlib", 1),
        ("import jax\njax._src.core.trace()", 1),
        ("import jax\njax.interpreters.mlir", 1),
        ("import jax.numpy as jnp\njnp._private(3)", 1),
        ("from jax import core as c\nc._trace", 1),
        ("import jax\njax.__version__\nself._src = jax.numpy.ones(3)", 0),
        ("from batiste.core import _src", 0),
    ],
)
def test_private_jax(text, problems):
    assert len(rules.private_jax(file(text))) == problems


@pytest.mark.parametrize(
    "text",
    [
        "X = {}",
        "X: dict[str, int] = {}",
        "X = []",
        "X = {1}",
        "X = [i for i in range(3)]",
        "X = (i for i in range(3))",
        "X = ('a', [])",
        "X = None or {}",
        "X = [0] * 3",
        "X = dict()",
        "X = dict[str, int]()",
        "X = dict.fromkeys('ab')",
        "X = collections.defaultdict(list)",
        "X = weakref.WeakKeyDictionary()",
        "X = threading.local()",
        "X = MappingProxyType({'a': []})",
        "X = MappingProxyType({'a': MappingProxyType({'b': {}})})",
        "X = ContextVar('x')",
        "if True:\n    X = {}",
        "try:\n    pass\nexcept OSError:\n    X = {}",
        "A = B = {}",
        "def f():\n    global X\n    X = 3",
    ],
)
def test_mutable_globals(text):
    assert len(rules.mutable_globals(file(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "__all__ = ['a']",
        "X = 3",
        "X: int",
        "X = ('a', ('b',))",
        "X = frozenset({'a'})",
        "X = tuple([1, 2])",
        "X = tuple(i for i in range(3))",
        "X = MappingProxyType({'a': 1, 'b': MappingProxyType({'c': 2})})",
        "X = TypeVar('X')",
        "X = Callable[[int], str]",
        "def f():\n    x = {}",
        "class A:\n    x = {}",
    ],
)
def test_what_cannot_change_is_fine(text):
    assert rules.mutable_globals(file(text)) == []


def test_context_variables_have_one_file():
    assert rules.mutable_globals(file("X = ContextVar('x')", "batiste.module._context")) == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("X = 3", 1),
        ("'Head.'\ndef f(): ...", 1),
        ("'Head.'\nclass A: ...", 1),
        ("'Head.'\nif x:\n    def f(): ...", 1),
        ("'Head.'\nX = 3\ndef _f(): ...\n@overload\ndef g(): ...\ndef h():\n    'What it does.'", 0),
    ],
)
def test_missing_docstrings(text, problems):
    assert len(rules.missing_docstrings(file(text))) == problems


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("X = 3", 1),
        ("X: TypeAlias = int", 1),
        ("X = 3\n'What it is.'", 0),
        ("X = Y", 0),
        ("_X = 3", 0),
    ],
)
def test_undocumented_constants(text, problems):
    package = file("from batiste.core._keys import X\n__all__ = ['X']", "batiste.core", is_package=True)
    private = file(text, "batiste.core._keys")
    public = file(f"__all__ = ['X']\n{text}", "batiste.typing")
    assert len(rules.undocumented_constants([package, private])) == problems
    assert len(rules.undocumented_constants([public])) == problems
    assert rules.undocumented_constants([private]) == []


def test_undocumented_methods():
    class Base:
        def inherited(self):
            """Say it once."""

    class Bad(Base):
        def plain(self): ...

        @property
        def value(self): ...

        @classmethod
        def make(cls): ...

    class Good(Base):
        field: int = 3

        def inherited(self): ...

        def _private(self): ...

    assert len(rules.undocumented_methods(Bad)) == 3
    assert rules.undocumented_methods(Good) == []


def test_oversized():
    lines = "\n".join(f"    x{number} = {number}" for number in range(80))
    long_function = f"def f():\n{lines}"
    assert len(rules.oversized(file(long_function))) == 1
    assert rules.oversized(file(long_function[: long_function.rindex("\n")])) == []
    example = '    """Do it.\n\n    Example:\n      >>> f()\n      >>> f()\n    """\n'
    shown = f"def f():\n{example}" + lines.partition("\n")[2]
    assert rules.oversized(file(shown[: shown.rindex("\n    x76")])) == []
    assert len(rules.oversized(file(shown.replace("Example:", "Or else:")))) == 1
    assert len(rules.oversized(file("x = 3\n" * 601))) == 1
    assert rules.oversized(file("x = 3\n" * 600)) == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("a = 1", 1),
        ("__all__ = ['b', 'a']\na = b = 1", 1),
        ("__all__ = ['a', 'a']\na = 1", 1),
        ("__all__ = ['a', 'b']\na = 1", 1),
        ("__all__ = ['a']\na = b = 1", 1),
        ("import types\n__all__ = ['a']\na = 1", 1),
        ("from types import MappingProxyType\n__all__ = ['a']\na = 1", 1),
        ("from __future__ import annotations\n__all__ = ['a']\na = 1\n_b = 2", 0),
    ],
)
def test_exports(text, problems):
    module = types.ModuleType("batiste.core")
    exec(text, vars(module))  # noqa: S102 - the examples above
    assert len(rules.exports(file(text, "batiste.core", is_package=True), module)) == problems


def test_exports_of_a_file_that_defines_things():
    text = "from typing import Any, TypeVar\n__all__ = ['a']\nT = TypeVar('T')\na = 1\ndef b(): ..."
    module = types.ModuleType("batiste.dtypes")
    exec(text, vars(module))  # noqa: S102 - the example above
    assert rules.exports(file(text, "batiste.dtypes"), module) == ["batiste.dtypes: b is public and not in __all__"]


def test_exports_knows_submodules():
    text = "__all__ = []"
    module = types.ModuleType("batiste")
    exec(text, vars(module))  # noqa: S102 - the example above
    module.nn = types.ModuleType("batiste.nn")
    assert rules.exports(file(text, "batiste", is_package=True), module) == []
    module.np = types.ModuleType("numpy")
    assert rules.exports(file(text, "batiste", is_package=True), module) == ["batiste: np is public and not in __all__"]
