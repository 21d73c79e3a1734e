"""The mixture of experts beside the same written out token by token, in both forms; its losses; and on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import errors, nn, shard

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 8, 4)), jnp.float32)
P = jax.P


def by_hand(params, x, top_k):
    rows = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    kernels = {name: np.asarray(value, np.float64) for name, value in params["experts"].items()}
    logits = rows @ np.asarray(params["router"]["kernel"], np.float64)
    likely = np.exp(logits - logits.max(-1, keepdims=True))
    likely /= likely.sum(-1, keepdims=True)
    out = np.zeros_like(rows)
    for number, row in enumerate(rows):
        best = np.argsort(-likely[number])[:top_k]
        for expert in best:
            gate = row @ kernels["gate"][expert]
            hidden = gate / (1 + np.exp(-gate)) * (row @ kernels["up"][expert])
            out[number] += likely[number, expert] / likely[number, best].sum() * (hidden @ kernels["down"][expert])
    return out.reshape(x.shape)


@pytest.mark.parametrize("capacity", [None, 4.0])
@pytest.mark.parametrize("top_k", [1, 2])
def test_every_token_goes_through_its_experts(capacity, top_k):
    layer = nn.MoE(4, 6, top_k=top_k, capacity_factor=capacity)
    variables = layer.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "router": {"kernel": (4, 4)},
        "experts": {"gate": (4, 4, 6), "up": (4, 4, 6), "down": (4, 6, 4)},
    }
    found = layer.apply({"params": variables["params"]}, X)
    np.testing.assert_allclose(found, by_hand(variables["params"], X, top_k), atol=1e-5)


def test_both_forms_have_the_same_gradients():
    whole, seated = nn.MoE(4, 6, capacity_factor=None), nn.MoE(4, 6, capacity_factor=4.0)
    params = whole.init(jax.random.key(0), X)["params"]

    def grads(layer):
        return jax.grad(lambda params: jnp.square(layer.apply({"params": params}, X)).sum())(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads(whole), grads(seated))


def test_a_full_expert_passes_later_tokens_by():
    layer = nn.MoE(2, 6, top_k=1, capacity_factor=0.5)
    params = layer.init(jax.random.key(0), X)["params"]
    params["router"]["kernel"] = jnp.zeros((4, 2))  # all choose the first expert, which has room for four of sixteen
    found = layer.apply({"params": params}, X).reshape(16, 4)
    assert jnp.all(jnp.any(found[:4] != 0, axis=1))
    assert jnp.all(found[4:] == 0)


def test_the_losses_of_the_router():
    layer = nn.MoE(4, 6)
    params = layer.init(jax.random.key(0), X)["params"]
    params["router"]["kernel"] = jnp.zeros((4, 4))
    _, state = layer.apply({"params": params}, X, mutable=["losses"])
    (balance,), (router_z,) = state["losses"]["load_balance"], state["losses"]["router_z"]
    assert balance == pytest.approx(1.0)
    assert router_z == pytest.approx(np.log(4) ** 2)

    def unbalanced(kernel):
        sown = layer.apply({"params": {**params, "router": {"kernel": kernel}}}, X, mutable=["losses"])[1]
        return sown["losses"]["load_balance"][0]

    assert unbalanced(100 * jnp.eye(4)) >= 1.0
    assert jnp.any(jax.grad(unbalanced)(jnp.eye(4)) != 0)


def test_sizes_that_cannot_be():
    for wrong in ({"top_k": 5}, {"capacity_factor": 0}, {"num_experts": 0}, {"activation": "silu"}):
        with pytest.raises(errors.ArgumentError):
            nn.MoE(**{"num_experts": 4, "hidden_features": 6, **wrong}).init(jax.random.key(0), X)


def test_experts_on_eight_devices_compute_the_same():
    layer = nn.MoE(8, 16, capacity_factor=4.0)
    x = jnp.asarray(RNG.normal(size=(8, 4, 16)), jnp.float32)
    params = layer.init(jax.random.key(0), x)["params"]

    def loss(params, x):
        return jnp.square(layer.apply({"params": params}, x)).mean()

    alone = jax.jit(jax.value_and_grad(loss))(params, x)
    mesh = shard.mesh("expert=8")
    placed = jax.device_put(params, shard.shardings(params, shard.preset("expert"), mesh))
    assert placed["experts"]["up"].addressable_shards[0].data.shape == (1, 16, 16)
    spread = jax.jit(jax.value_and_grad(loss))(placed, jax.device_put(x, jax.NamedSharding(mesh, P("expert"))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone, spread)
