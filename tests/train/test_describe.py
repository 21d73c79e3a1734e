"""What a train state shows at a prompt and in a notebook."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from batiste import TrainState, nn


def made(kind=TrainState, **more):
    return kind.init(nn.Dense(3), optax.adam(1e-3), jax.random.key(0), jnp.ones((1, 4)), **more)


def test_path_dtype_shape_and_bytes_of_every_leaf_and_no_values():
    lines = repr(made()).splitlines()
    assert lines[0] == "TrainState at step 0: 9 leaves, 192 bytes"
    assert [line.split() for line in lines if "kernel" in line] == [
        ["params/kernel", "float32[4,", "3]", "48"],
        ["opt_state/0/mu/kernel", "float32[4,", "3]", "48"],
        ["opt_state/0/nu/kernel", "float32[4,", "3]", "48"],
    ]
    assert len(lines) == 10
    assert str(made()) == repr(made())
    assert "rngs/params" in repr(made())


def test_subclasses_show_their_fields():
    class Averaged(TrainState):
        ema: Any = None

    state = made(Averaged, ema={"<w>": np.ones((2, 2))})
    assert repr(state).startswith("Averaged at step 0: 10 leaves")
    assert "ema/<w>" in repr(state)
    assert "<td>ema/&lt;w&gt;</td><td>float64[2, 2]</td><td>32</td>" in state._repr_html_()


def test_states_on_their_way_through_jax():
    state = made()
    assert "float32[4, 3]" in repr(jax.eval_shape(lambda: state))
    seen = []
    jax.jit(lambda state: seen.append(repr(state)) or state.params)(state)
    assert seen[0].startswith("TrainState: 9 leaves")
    bare = jax.tree.map(lambda _: object(), state)
    assert "object" in repr(bare)
    used = jax.tree.map(jnp.copy, state.replace(step=jnp.int32(3)))
    assert repr(used).startswith("TrainState at step 3:")
    jax.tree.map(lambda leaf: leaf.delete(), used)
    assert repr(used).startswith("TrainState: 9 leaves")


def test_many_leaves_are_counted():
    state = TrainState.create(apply_fn=len, params={f"w{i}": jnp.ones(1) for i in range(300)}, tx=optax.sgd(1.0))
    assert len(repr(state).splitlines()) == 202
    assert repr(state).endswith("... and 101 more")
