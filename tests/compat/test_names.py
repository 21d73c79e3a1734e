"""Every public name of Flax's modules is in ours, or is listed with its reason."""

import ast
import importlib
import importlib.util
import typing
from pathlib import Path

import flax
import pytest

import batiste.compat.flax
from tests.compat.missing import MODULES, NAMES


def defined(module: str) -> list[str]:
    """Return the public names that a file of installed Flax defines, without importing it: it may need TensorFlow."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    place = Path(spec.origin).parent.joinpath(*module.split(".")[1:])
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    names = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.ImportFrom) and file.name == "__init__.py":
            names += [alias.asname or alias.name for alias in node.names]
    return sorted({name for name in names if not name.startswith("_")})


def is_type_variable(module: str, name: str) -> bool:
    try:
        return isinstance(getattr(importlib.import_module(module), name, None), typing.TypeVar)
    except ImportError:
        return False


@pytest.mark.parametrize("module", MODULES)
def test_names(module):
    ours = importlib.import_module(f"batiste.compat.{module}")
    listed = NAMES.get(module, {})
    wanted = [name for name in defined(module) if not is_type_variable(module, name)]
    assert [name for name in listed if hasattr(ours, name)] == [], "listed as missing, and there"
    if flax.__version__ == batiste.compat.flax.__version__:  # another Flax may have more, or less
        assert [name for name in wanted if name not in listed and not hasattr(ours, name)] == []
        assert [name for name in listed if name not in wanted] == [], "listed as missing, and not in Flax"


def test_every_exception_has_a_reason():
    assert set(NAMES) <= set(MODULES)
    assert all(reason for names in NAMES.values() for reason in names.values())


def test_a_missing_name_is_seen():
    assert {"flatten_dict", "ModelParamTraversal", "empty_node"} <= set(defined("flax.traverse_util"))
    assert "Benchmark" in defined("flax.testing")


def test_modules_load_late(fresh_python):
    done = fresh_python("""
import sys
import batiste.compat.flax as flax
assert "batiste.compat.flax.serialization" not in sys.modules
assert flax.__version__ == "0.12.8"
assert flax.serialization.to_bytes(1) == b"\\x01"
assert {"orbax", "tensorflow", "tensorboardX", "absl"}.isdisjoint(sys.modules)
assert "training" in dir(flax) and "train_state" in dir(flax.training)
from batiste.compat.flax.core import *
assert FrozenDict is flax.core.FrozenDict
for wrong in (flax, flax.core, flax.training):
    try:
        wrong.nothing_of_the_kind
    except AttributeError as error:
        assert "nothing_of_the_kind" in str(error)
    else:
        raise SystemExit("an unknown name was found")
""")
    assert done.returncode == 0, done.stderr
