"""Planted faults: each is found by its path; sound models have no finding; nothing is added to their programs.

All pairs of model and fault run with ``BATISTE_FAULTS=all``; by default those that are quick, and each kind of fault in
some model.
"""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste.diagnose import capture, check_pure, dtypes, find_nan, keys, lint
from tests.diagnose.planted import MODELS, made

ALL = os.environ.get("BATISTE_FAULTS") == "all"
IMPURE = {
    "global": "write", "list": "write", "dict": "write", "helper": "write", "attribute": "write", "class": "write",
    "captured": "captured", "captured numpy": "captured", "numpy random": "randomness", "python random": "randomness",
    "generator": "randomness", "clock": "clock", "environment": "environment",
}  # fmt: skip
OPERATIONS = {"log": "log", "div": "div", "exp": "exp", "masked": "sub", "sqrt backward": "div", "norm backward": "div"}


FEW = [("repeat", "log"), ("tied", "exp"), ("tied", "sqrt backward")]
QUICK = ("repeat", "tied", "moe")
NAMES = tuple(MODELS) if ALL else QUICK


def pairs(faults):
    """Return all pairs of model and fault; or each fault in a quick model."""
    if ALL:
        return [(model, fault) for model in MODELS for fault in faults]
    return [(QUICK[n % len(QUICK)], fault) for n, fault in enumerate(faults)]


def at_place(path, place):
    return re.fullmatch(place.replace("*", r"(\*|\d+)"), path) is not None


def rngs():
    return {"dropout": jax.random.key(1)}


@pytest.mark.parametrize(("name", "fault"), pairs(IMPURE))
def test_check_pure_finds_the_fault(name, fault):
    model, variables, x, place = made(name, fault)
    found = check_pure(model, variables, x, rngs=rngs())
    hits = [each for each in found if each.kind == IMPURE[fault] and at_place(each.path, place)]
    assert hits, str(found)
    assert not [each for each in found if not at_place(each.path, place)], str(found)


@pytest.mark.parametrize("fault", ["grow", "sow"])
@pytest.mark.parametrize("name", ["resnet", "gpt", "tied"] if ALL else ["tied"])
def test_check_pure_finds_a_collection_that_grows(name, fault):
    model, variables, x, place = made(name, fault)
    assert check_pure(model, variables, x, rngs=rngs()).paths("growth") == [place]


@pytest.mark.parametrize(("name", "fault"), pairs(["twice", "constant key"]))
def test_keys_finds_the_fault(name, fault):
    model, variables, x, place = made(name, fault)
    found = keys(model, variables, x, rngs=rngs()).findings
    assert found, "nothing found"
    assert all(at_place(path, place) for path in found.paths()), str(found)
    assert "key used twice" in {each.kind for each in found}


@pytest.mark.parametrize(("name", "fault"), pairs(OPERATIONS) if ALL else FEW)
def test_find_nan_finds_the_fault(name, fault):
    model, variables, x, place = made(name, fault)
    found = find_nan(model, variables, x, rngs=rngs())
    assert found is not None
    assert at_place(found.path, place), str(found)
    assert found.kind == "Planted"
    assert found.options == f"fault={fault!r}"
    assert found.operation == OPERATIONS[fault]
    assert found.backward == fault.endswith("backward")
    assert any(each.name.endswith("scale") for each in found.parameters)


@pytest.mark.parametrize(("name", "fault"), pairs(["stopped", "zero", "rounded"]) if ALL else [("tied", "zero")])
def test_lint_finds_the_fault(name, fault):
    model, variables, x, place = made(name, fault)
    found = lint(model, variables, x, rngs=rngs())
    dead = [path for path in found.paths() if at_place(path.removeprefix("params/").rpartition("/")[0], place)]
    assert dead, str(found)


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_finds_the_fault(name):
    model, variables, x, place = made(name, "half")
    before = dtypes(made(name)[0], variables, x, rngs=rngs())
    after = dtypes(model, variables, x, rngs=rngs())
    path = place
    assert after[path].casts > before[path].casts
    assert [row.path for row in after.rows if row not in before.rows] == [path]


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_model_has_no_finding(name):
    model, variables, x, _ = made(name)
    assert check_pure(model, variables, x, rngs=rngs()) == []
    assert keys(model, variables, x, rngs=rngs()).findings == []
    if ALL or name == "tied":  # they compile
        assert find_nan(model, variables, x, rngs=rngs()) is None
        assert lint(model, variables, x, rngs=rngs(), optimizer=optax.adam(1e-3)) == []


@pytest.mark.parametrize("name", NAMES)
def test_capture_changes_no_output_and_finds_the_place(name):
    model, variables, x, place = made(name)
    found = capture(model, "**/planted" if "/" in place else "planted")(
        variables, x, rngs=rngs(), mutable=["batch_stats"]
    )
    assert found.values
    assert all(path.endswith("planted") for path in found.values)
    assert any(at_place(path, place) for path in found.values)
    output, _ = model.apply(variables, x, rngs=rngs(), mutable=["batch_stats"])
    np.testing.assert_allclose(found.output[0], output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt", "repeat"] if ALL else ["repeat"])
def test_nothing_is_added_to_the_compiled_program_when_nobody_looks(name):
    model, variables, x, _ = made(name)

    def compiled():
        run = jax.jit(lambda v, x: model.apply(v, x, rngs=rngs()))
        return len(run.lower(variables, jnp.asarray(x)).as_text().splitlines())

    before = compiled()
    keys(model, variables, x, rngs=rngs())
    capture(model, "**")(variables, x, rngs=rngs())
    assert compiled() == before
