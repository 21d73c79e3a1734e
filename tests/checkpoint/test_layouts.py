"""Layers apart and layers stacked are one model; anything that does not fit exactly is an error as ever."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import checkpoint, errors
from tests.checkpoint.support import KINDS, assert_same, stacked, variables


def with_optimiser(made):
    return {**made, "opt_state": optax.adam(1e-3).init(made["params"])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verify", [True, False])
def test_both_ways(tmp_path, kind, verify):
    apart, together = with_optimiser(variables()), with_optimiser(stacked(variables()))
    checkpoint.save(tmp_path / f"apart_{kind}", apart)
    checkpoint.save(tmp_path / f"together_{kind}", together, stacked=["params/h"])
    for goal in (apart, together):
        blank = jax.tree.map(jnp.zeros_like, goal)
        for name in ("apart", "together"):
            restored = checkpoint.restore(tmp_path / f"{name}_{kind}", blank, verify=verify)
            assert_same(restored, goal)


def test_eleven_layers_in_order(tmp_path):
    apart = {f"h_{number}": {"w": np.full(2, number)} for number in range(11)}
    together = {"h": {"w": np.repeat(np.arange(11)[:, None], 2, axis=1)}}
    checkpoint.save(tmp_path / "apart", apart)
    checkpoint.save(tmp_path / "together", together)
    assert_same(checkpoint.restore(tmp_path / "apart", together), together)
    assert_same(checkpoint.restore(tmp_path / "together", apart), apart)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param({f"h_{number}": np.ones(2) for number in range(2)}, id="fewer"),
        pytest.param({f"h_{number}": np.ones(2) for number in range(4)}, id="more"),
        pytest.param({f"h_{number}": np.ones(3) for number in range(3)}, id="another shape"),
        pytest.param({f"h_{number}": np.ones(2) for number in range(1, 4)}, id="not from zero"),
        pytest.param({f"g_{number}": np.ones(2) for number in range(3)}, id="another name"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, target):
    checkpoint.save(tmp_path / "together", {"h": np.ones((3, 2))})
    with pytest.raises(errors.CheckpointMismatchError, match="h: the target has nothing"):
        checkpoint.restore(tmp_path / "together", target)
    checkpoint.save(tmp_path / "apart", target)
    with pytest.raises(errors.CheckpointMismatchError, match="h: the target has"):
        checkpoint.restore(tmp_path / "apart", {"h": np.ones((3, 2))})


def test_a_dtype_is_still_the_policys_matter(tmp_path):
    checkpoint.save(tmp_path / "together", {"h": np.ones((2, 2), np.float32)})
    target = {"h_0": jnp.zeros(2, jnp.bfloat16), "h_1": jnp.zeros(2, jnp.bfloat16)}
    with pytest.raises(errors.CheckpointMismatchError, match=r"h_1: the target has bfloat16\[2\]"):
        checkpoint.restore(tmp_path / "together", target)
    restored = checkpoint.restore(tmp_path / "together", target, dtype="cast")
    assert_same(restored, {"h_0": jnp.ones(2, jnp.bfloat16), "h_1": jnp.ones(2, jnp.bfloat16)})


def test_both_layouts_on_one_side_are_no_pair(tmp_path):
    checkpoint.save(tmp_path / "one", {"h": np.ones((2, 2)), "h_0": np.ones(2)})
    with pytest.raises(errors.CheckpointMismatchError, match="h_1: the target has float64"):
        checkpoint.restore(tmp_path / "one", {"h_0": np.ones(2), "h_1": np.ones(2)})
