"""The variables of every layer, as they were when this file was last written: paths, shapes, dtypes and values.

Checkpoints and seeds of users hang on them. Where a change is meant, write them anew and look at the difference:

    python -m pytest tests/golden --write-golden
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from tests.laws.cases import CASES, Case

GOLDEN = pathlib.Path(__file__).with_name("trees.json")


def described(case: Case) -> dict[str, Any]:
    """Return shape, dtype and the sum of absolute values of each variable, by path."""
    rngs = {name: jax.random.key(seed) for seed, name in enumerate(("params", *case.rngs))}
    variables = case.make().init(rngs, *case.args, **case.train)
    return {
        "/".join(entry.key for entry in path): [list(leaf.shape), leaf.dtype.name, float(np.abs(leaf).sum())]
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


@pytest.mark.parametrize("name", CASES)
def test_variables_are_as_ever(name: str, request: pytest.FixtureRequest) -> None:
    found = described(CASES[name])
    golden: dict[str, Any] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if request.config.getoption("--write-golden"):
        GOLDEN.write_text(json.dumps(golden | {name: found}, indent=1, sort_keys=True) + "\n")
        return
    advice = "If this change is meant, run `python -m pytest tests/golden --write-golden`."
    assert name in golden, f"{name} has no golden variables. {advice}"
    assert found.keys() == golden[name].keys(), f"The paths of {name} have changed. {advice}"
    for path, (shape, dtype, total) in found.items():
        assert [shape, dtype] == golden[name][path][:2], f"{path} of {name} has changed. {advice}"
        np.testing.assert_allclose(total, golden[name][path][2], rtol=1e-5, err_msg=f"{path} of {name}. {advice}")


def test_a_change_is_noticed() -> None:
    golden = json.loads(GOLDEN.read_text())["Dense"]
    wider = Case(make=lambda: CASES["Dense"].make().clone(features=5), args=CASES["Dense"].args)
    assert described(CASES["Dense"])["params/kernel"][:2] == golden["params/kernel"][:2]
    assert described(wider)["params/kernel"][:2] != golden["params/kernel"][:2]
