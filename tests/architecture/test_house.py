"""The library keeps the rules of the house."""

import importlib
import inspect
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.architecture import rules
from tests.architecture.source import exported, library_files

SOURCE = Path(__file__).resolve().parent.parent.parent / "src"
FILES = library_files(SOURCE)
PUBLIC = {file.module: file for file in FILES if rules.is_public(file)}

THE_WHOLE = (
    rules.upward_imports,
    rules.import_cycles,
    rules.undocumented_constants,
    rules.border_crossings,
)
EACH_FILE = (
    rules.self_imports,
    rules.foreign_privates,
    rules.insides,
    rules.local_imports,
    rules.asserts,
    rules.private_jax,
    rules.mutable_globals,
    rules.missing_docstrings,
    rules.oversized,
)


def hold(problems: Iterable[str]) -> None:
    """Fail with every problem on a line of its own."""
    found = list(problems)
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_the_library_is_read():
    assert {"batiste", "batiste.core", "batiste.core._scope"} <= {file.module for file in FILES}
    assert {"batiste", "batiste.core"} <= set(PUBLIC)


@pytest.mark.parametrize("rule", THE_WHOLE, ids=lambda rule: rule.__name__)
def test_the_whole_keeps(rule):
    hold(rule(FILES))


@pytest.mark.parametrize("rule", EACH_FILE, ids=lambda rule: rule.__name__)
def test_every_file_keeps(rule):
    hold(problem for file in FILES for problem in rule(file))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name):
    module = importlib.import_module(name)
    values = [getattr(module, public, None) for public in exported(PUBLIC[name]) or ()]
    classes = [value for value in values if inspect.isclass(value) and value.__module__.startswith("batiste")]
    hold(rules.exports(PUBLIC[name], module) + [line for kind in classes for line in rules.undocumented_methods(kind)])
