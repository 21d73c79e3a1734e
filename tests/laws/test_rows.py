"""CONTRIBUTING's way to a new layer: what is missing is said with the file to open and the command to run."""

import inspect
import json
import re
from pathlib import Path

import pytest

from batiste import nn
from docs import reference_pages

TESTS = Path(__file__).resolve().parent.parent
NAMED = {name: getattr(nn, name, None) for name in nn.__all__}
LAYERS = sorted(
    name
    for name, value in NAMED.items()
    if inspect.isclass(value) and issubclass(value, nn.Module) and value is not nn.Module
)
NO_LAW = {
    "Fp8DirectDotGeneralOp": "stands for `dot_general` in other layers; tests/nn/test_fp8.py",
    "Fp8DotGeneral": "the same",
    "Fp8DotGeneralBase": "a base without a call",
    "Fp8DotGeneralOp": "the same as Fp8DotGeneral, by its older name",
    "Fp8Einsum": "stands for `einsum`; tests/nn/test_fp8.py",
    "NANOOFp8DotGeneralOp": "the same as Fp8DotGeneral, in AMD's number format",
    "RNNCellBase": "a base without a call",
    "SelfAttention": "MultiHeadDotProductAttention with one input",
}
"""Layers that no law runs over, with the reason."""


def named(name, *folders):
    """Return whether a word stands in a Python file of these folders of the tests."""
    texts = (path.read_text(encoding="utf-8") for folder in folders for path in (TESTS / folder).glob("*.py"))
    return any(re.search(rf"\b{name}\b", text) for text in texts)


def test_every_name_is_there():
    missing = [name for name, value in NAMED.items() if value is None]
    assert not missing, f"{missing}: name the file in the table of src/batiste/nn/__init__.py, as for `Dense`"


def test_every_layer_has_a_row_in_the_laws():
    table = (TESTS / "laws" / "cases.py").read_text(encoding="utf-8")
    missing = [name for name in LAYERS if name not in NO_LAW and not re.search(rf"\b{name}\b", table)]
    assert not missing, f"{missing}: add a row to CASES in tests/laws/cases.py, then `make test ARGS=tests/laws`"
    assert set(NO_LAW) <= set(LAYERS)


def test_every_row_has_golden_variables():
    from tests.laws.cases import CASES

    golden = json.loads((TESTS / "golden" / "trees.json").read_text(encoding="utf-8"))
    write = 'run `make test ARGS="tests/golden --write-golden" WORKERS=0` and look at the difference'
    assert sorted(set(CASES) - set(golden)) == [], write
    assert sorted(set(golden) - set(CASES)) == [], "remove these from tests/golden/trees.json"


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_in_a_group_of_the_reference(name):
    group = reference_pages.group_of(getattr(nn, name))
    assert group in reference_pages.GROUPS, (
        f"{name} is in no group: add its file to GROUPS in docs/reference_pages.py, then `make docs`"
    )
    assert reference_pages.first_line(getattr(nn, name), name, {}), f"{name} has no docstring"


@pytest.mark.parametrize("name", [name for name in LAYERS if "base" not in NO_LAW.get(name, "")])
def test_every_layer_is_compared_or_tested_by_name(name):
    assert named(name, "nn", "module"), (
        f"{name} is in no file of tests/nn: add a test, against Linen where it has the layer (tests/nn/oracle.py)"
    )


def test_every_layer_has_a_row_in_numerics():
    from tests.numerics.test_table import ELSEWHERE, ROWS

    computing = {name for name in LAYERS if "Fp8" not in name and "base" not in NO_LAW.get(name, "")}
    missing = sorted(computing - set(ROWS) - set(ELSEWHERE))
    assert not missing, (
        f"{missing}: add a row to ROWS in tests/numerics/test_table.py, then `make test ARGS=tests/numerics`; "
        "or, where the layer computes nothing of its own, a reason to ELSEWHERE in that file"
    )
    assert sorted(name for name in ELSEWHERE if name not in computing or name in ROWS) == []


def test_every_layer_has_a_type():
    missing = [name for name in LAYERS if "base" not in NO_LAW.get(name, "") and not named(f"nn.{name}", "typing")]
    assert not missing, f"{missing}: add a row to tests/typing/layers.py, then `make test ARGS=tests/test_typing.py`"


def test_the_reference_shows_calls_and_what_private_bases_have():
    def shown(kind):
        return reference_pages.members_option(kind)[0]

    for name in (
        "apply",
        "init",
        "bind",
        "param",
        "variable",
        "sow",
        "make_rng",
        "perturb",
        "has_variable",
        "tabulate",
    ):
        assert re.search(rf"[ ,]{name}(,|$)", shown(nn.Module)), name
    for layer in (nn.Dense, nn.Conv, nn.LayerNorm, nn.BatchNorm, nn.Embed, nn.RNN, nn.MultiHeadDotProductAttention):
        assert "__call__" in shown(layer), layer
    assert "activation_fn" not in shown(nn.LSTMCell)
    assert "init" not in shown(nn.Dense).split(", ")
