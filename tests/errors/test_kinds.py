"""Errors are also of the built-in kind that Flax Linen, JAX or Python raise for the same program.

The rows of the catalogue are run once more with Flax's ``linen`` in the place of ``batiste.nn``: whoever catches what
is raised there catches it here. Flax's own classes have the same names here, and are caught by those.
"""

import importlib
import inspect
import pickle

import flax.errors
import flax.linen
import pytest

from batiste import errors
from batiste.compat.flax import errors as names
from batiste.errors import BatisteError
from tests.errors.rows import Row

FILES = ("nn", "lift")
BUILTIN = "builtins"

# Rows whose mistake Flax does not see: what it raises is about something else.
OTHERWISE = {
    "a_loop_without_a_length": "Flax has no scan over a decorated function there",
    "a_loop_of_two_lengths": "Flax has no scan over a decorated function there",
    "fewer_names_than_loops": "Flax's remat_scan does not take metadata_params",
    "a_body_without_outputs": "Flax's body is given other arguments",
}


def rows():
    """Yield the rows that are about names that Flax has, too."""
    for file in FILES:
        module = importlib.import_module(f"tests.errors.catalogue.{file}")
        for row in vars(module).values():
            if not isinstance(row, Row) or not issubclass(row.kind, BatisteError) or row.program.__name__ in OTHERWISE:
                continue
            used = {word.split("(")[0] for word in row.source.replace("nn.", " nn.").split() if word.startswith("nn.")}
            if all(hasattr(flax.linen, word[3:].split(".")[0].strip("(),:[]")) for word in used):
                yield pytest.param(module, row, id=f"{file}-{row.program.__name__}")


def raised_by(program):
    """Return what a program raises, or None."""
    try:
        program()
    except Exception as error:  # noqa: BLE001 - whatever Flax, JAX or Python raise
        return error
    return None


def builtin_kind(kind):
    """Return the built-in class nearest to ``kind``."""
    return next(base for base in kind.__mro__ if base.__module__ == BUILTIN)


@pytest.mark.usefixtures("users_rules")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("module", "row"), list(rows()))
def test_whoever_catches_flax_catches_batiste(module, row, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "nn", flax.linen)
    raised = raised_by(row.program)
    kind = None if isinstance(raised, flax.errors.FlaxError) else builtin_kind(type(raised))
    assert kind in {None, type(None), Exception} or issubclass(row.kind, kind), f"Flax raises {raised!r}"


def test_every_layers_error_is_a_value_error():
    kinds = [getattr(errors, name) for name in errors.__all__]
    layers = [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, errors.LayerError)]
    assert len(layers) > 30
    assert [kind.__name__ for kind in layers if not issubclass(kind, ValueError)] == []


CLASSES = sorted(
    name
    for name, kind in vars(flax.errors).items()
    if inspect.isclass(kind) and issubclass(kind, Exception) and hasattr(names, name)
)


@pytest.mark.parametrize("name", CLASSES)
def test_classes_take_what_flaxs_take_and_pickle(name):
    ours, parameters = getattr(names, name), list(inspect.signature(getattr(flax.errors, name).__init__).parameters)[1:]
    given = [f"<{parameter}>" for parameter in parameters]
    for error in (ours(*given), ours(**dict(zip(parameters, given, strict=True)))):
        text = str(error)
        assert all(value in text for value in given) or "{" not in ours.message.replace("{{", ""), text
        assert text.partition("\n")[0]
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own bytes
        assert (type(again), str(again), again.context) == (ours, text, error.context)
    with pytest.raises(TypeError):
        ours(*given, "one too many")


def test_a_subclass_of_flax_error_takes_its_text():
    class OwnError(names.FlaxError):
        pass

    assert str(OwnError("what happened")).startswith("what happened")
