"""Every argument of every public name: a wrong value is an error of the catalogue, or documented; none is silent.

The names come from each package's `__all__`, and the arguments from the signatures; `arguments_table.py` has the rows.
"""

import dataclasses
import functools
import importlib
import inspect
import warnings

import jax
import pytest

from batiste._arguments import shown
from batiste.errors import BatisteError, BatisteWarning
from tests.errors.arguments_table import ELSEWHERE, ROWS, WHOLE_PACKAGES

PACKAGES = (
    "core", "dtypes", "struct", "tree", "module", "lift", "shard", "nn", "nn.initializers", "nn.fp8_ops", "checkpoint",
    "importers", "importers.pretrained", "train", "plan", "diagnose", "view", "generation",
)  # fmt: skip


def public_callables():
    """Yield the name and the object of what users call; types for annotations and JAX's own functions are none.

    What several packages offer is named after the first of them.
    """
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(f"batiste.{package}")
        for name in module.__all__:
            value = getattr(module, name)
            home = getattr(value, "__module__", "") or ""
            is_error = inspect.isclass(value) and issubclass(value, BaseException)
            if inspect.ismodule(value) or is_error or not callable(value) or not home.startswith("batiste."):
                continue
            if id(value) not in seen:
                seen.add(id(value))
                yield f"{package}.{name}", value


CLASSES = (
    "module.Module", "checkpoint.Checkpoint", "checkpoint.Manager", "checkpoint.SaveHandle", "train.TrainState",
)  # fmt: skip


def public_methods():
    """Yield the name and the object of the methods of public classes that take arguments."""
    for kind in CLASSES:
        package, _, name = kind.rpartition(".")
        for method, value in inspect.getmembers(getattr(importlib.import_module(f"batiste.{package}"), name)):
            if not method.startswith("_") and callable(value):
                bound = functools.partial(value, None) if inspect.isfunction(value) else value
                if arguments_of(bound):
                    yield f"{kind}.{method}", bound


def everything():
    """Yield all that users call, by name."""
    yield from public_callables()
    yield from public_methods()


def arguments_of(value):
    """Return the names of the arguments; of a layer its own fields."""
    if inspect.isclass(value) and dataclasses.is_dataclass(value):
        return [
            field.name for field in dataclasses.fields(value) if field.init and field.name not in ("parent", "name")
        ]
    return list(inspect.signature(value).parameters)


def outline(leaf):
    """Return what two equal calls have alike: the shape of an array, a number, a text, the class of anything else."""
    plain = leaf is None or isinstance(leaf, int | float | str)
    return leaf if plain else getattr(leaf, "shape", type(leaf))


def called(row, argument, value):
    """Return None where a catalogue error is raised or a warning given, else what happened in words."""
    arguments = {**row.usual, **row.options.get(argument, {}), argument: value}
    with warnings.catch_warnings():
        warnings.simplefilter("error", BatisteWarning)
        try:
            row.call(**arguments)
        except (BatisteError, BatisteWarning):
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not one of the catalogue
            return f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
    return "it is taken in silence"


def test_every_public_name_has_a_row():
    problems = []
    for name, _ in everything():
        if name not in ROWS and name not in ELSEWHERE and name.rpartition(".")[0] not in WHOLE_PACKAGES:
            problems.append(f"{name}: add a row to ROWS in tests/errors/arguments_table.py, or a reason to ELSEWHERE")
    assert problems == []


def test_every_row_and_reason_is_of_a_public_name():
    known = {name for name, _ in everything()}
    assert [name for name in [*ROWS, *ELSEWHERE] if name not in known] == []
    assert all(ELSEWHERE.values())
    assert all(WHOLE_PACKAGES.values())


def test_every_argument_has_a_domain():
    problems = []
    for name, value in everything():
        if name in ROWS:
            found, row = set(arguments_of(value)), ROWS[name]
            problems += [f"{name}({one}): add its domain to its row" for one in sorted(found - set(row.domains))]
            if not {"args", "kwargs"} <= found:  # which take the others
                problems += [f"{name}({one}): there is no such argument" for one in sorted(set(row.domains) - found)]
    assert problems == []


@pytest.mark.parametrize("name", ROWS)
def test_wrong_values_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = ROWS[name]
    problems = []
    for argument, domain in row.domains.items():
        assert domain.wrong or domain.reason
        for value in domain.wrong:
            happened = called(row, argument, value)
            if happened is not None:
                problems.append(f"{argument}={shown(value)}: {happened}")
    assert problems == []
    assert list(tmp_path.iterdir()) == []  # what was refused has left nothing behind


@pytest.mark.parametrize("name", ROWS)
def test_right_values_are_taken(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = ROWS[name]
    row.call(**row.usual)
    for argument, domain in row.domains.items():
        arguments = {**row.usual, **row.options.get(argument, {})}
        if argument in arguments and arguments[argument] is not None:
            expected = jax.tree.leaves(row.call(**arguments))
            for value in domain.alike(arguments[argument]):
                found = jax.tree.leaves(row.call(**{**arguments, argument: value}))
                assert [*map(outline, found)] == [*map(outline, expected)], f"{argument}={shown(value)}"
