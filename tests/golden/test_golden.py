"""The variables of every layer, as they were when this file was last written: paths, shapes, dtypes and values.

Of the values four sums are kept, in which each number has a weight of its own: a number that changes, moves or turns
its sign changes them. The bits themselves hang on the compiler of the day in the last place.

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
    """Return shape, dtype and four weighted sums of each variable, by path."""
    rngs = {name: jax.random.key(seed) for seed, name in enumerate(("params", *case.rngs))}
    variables = case.make().init(rngs, *case.args, **case.train)
    return {
        "/".join(entry.key for entry in path): [list(leaf.shape), leaf.dtype.name, weighted_sums(leaf)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def weighted_sums(leaf: Any) -> list[float]:
    """Return four sums of an array's numbers, each with weights between 1 and 2 that no two places share."""
    flat = np.asarray(leaf).astype(np.float64).reshape(-1)
    places = np.arange(1, flat.size + 1)
    return [float((flat * (1 + (places * root) % 1)).sum()) for root in np.sqrt([2, 3, 5, 7])]


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
    for path, (shape, dtype, sums) in found.items():
        assert [shape, dtype] == golden[name][path][:2], f"{path} of {name} has changed. {advice}"
        scale = 1e-6 * max(1.0, *np.abs(sums))
        np.testing.assert_allclose(
            sums, golden[name][path][2], rtol=0, atol=scale, err_msg=f"{path} of {name}. {advice}"
        )


def test_a_change_is_noticed() -> None:
    golden = json.loads(GOLDEN.read_text())["Dense"]
    wider = Case(make=lambda: CASES["Dense"].make().clone(features=5), args=CASES["Dense"].args)
    assert described(CASES["Dense"])["params/kernel"][:2] == golden["params/kernel"][:2]
    assert described(wider)["params/kernel"][:2] != golden["params/kernel"][:2]


@pytest.mark.parametrize(
    "change", [np.negative, np.flip, np.transpose, lambda leaf: leaf + 1e-3 * (leaf == leaf.max())]
)
def test_a_change_of_values_is_noticed(change: Any) -> None:
    leaf = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    assert not np.allclose(weighted_sums(leaf), weighted_sums(change(leaf)), rtol=0, atol=1e-5)
