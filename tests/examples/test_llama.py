"""The Llama of the examples: it learns, it goes on as it computes, and its names are those of the mapping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, tree
from batiste.importers import from_torch, to_torch
from examples import llama

pytestmark = pytest.mark.usefixtures("users_rules")


def state():
    return TrainState.init(llama.Llama(llama.TOY), optax.adamw(3e-3), jax.random.key(0), jnp.zeros((1, 16), jnp.int32))


def test_it_learns_a_text():
    tokens = jnp.tile(jnp.arange(16, dtype=jnp.int32), (4, 1))
    before, losses = state(), []
    for _ in range(10):
        before, loss = llama.train_step(before, tokens)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(np.log(llama.TOY.vocab), rel=0.4)
    assert losses[-1] < 0.5 * losses[0]


def test_it_goes_on_with_the_cache_as_without():
    params = state().params
    model = llama.Llama(llama.TOY)
    prompt = jnp.array([[1, 2, 3], [4, 5, 6]], jnp.int32)
    made = llama.generate(model, params, prompt, jax.random.key(0), 5)
    expected = prompt
    for _ in range(5):
        logits = model.apply({"params": params}, expected)
        expected = jnp.concatenate([expected, logits[:, -1:].argmax(-1).astype(jnp.int32)], axis=1)
    np.testing.assert_array_equal(made, expected)
    drawn = llama.generate(model, params, prompt, jax.random.key(0), 5, temperature=1.0)
    assert drawn.shape == made.shape


@pytest.mark.parametrize(
    ("config", "billions"), [(llama.LLAMA_8B, 8.03), (llama.LLAMA_70B, 70.55), (llama.LLAMA_405B, 405.85)]
)
def test_the_sizes_are_those_of_the_paper(config, billions):
    shapes = jax.eval_shape(llama.Llama(config).init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e9 == pytest.approx(billions, abs=0.01)


def test_the_mapping_takes_every_leaf_there_and_back():
    variables = {"params": state().params}
    tensors = to_torch(variables, llama.HUGGING_FACE)
    assert tensors["model.layers.1.self_attn.k_proj.weight"].shape == (32, 64)
    again = from_torch(tensors, jax.eval_shape(lambda: variables), llama.HUGGING_FACE)
    assert not tree.diff(variables, again)
