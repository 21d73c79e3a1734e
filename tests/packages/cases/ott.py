"""ott-jax: neural potentials and an input convex network."""

import jax
import optax
from ott.neural.networks import icnn, potentials

x = jax.random.normal(jax.random.key(0), (8, 2))
for model in (icnn.ICNN(dim_data=2, dim_hidden=[8, 8]), potentials.PotentialMLP(dim_hidden=[8, 8])):
    state = model.create_train_state(jax.random.key(1), optax.adam(1e-2), 2)
    grads = jax.grad(lambda params, model=model: model.apply({"params": params}, x).sum())(state.params)
    state = state.apply_gradients(grads=grads)
    print(type(model).__name__, model.apply({"params": state.params}, x).sum())
