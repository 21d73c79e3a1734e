"""Every layer on eight devices with Explicit axes, forwards and backwards: the numbers of one device.

The batch is cut along one axis of the mesh, parameters along another, and nothing along the third. Gradients lie as
what they are gradients of; what a layer draws does not depend on the mesh.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from batiste import shard
from tests.laws.cases import CASES
from tests.laws.test_laws import keys, total

MESH = "data=2,fsdp=2,rest=2"


def cut(shape: tuple[int, ...]) -> Any:
    """Cut the longest axis that can be cut in two."""
    even = [(length, at) for at, length in enumerate(shape) if length % 2 == 0]
    at = max(even)[1] if even else -1
    return jax.P(*("fsdp" if axis == at else None for axis in range(len(shape))))


def is_float(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


WRONG = pytest.mark.xfail(
    strict=True,
    reason="XLA's partitioner (jax 0.10.2), along Auto axes too, makes the gradient of a grouped kernel too large: by "
    "the number of devices along axes that do not cut the batch",
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=WRONG) if name == "Conv" else name for name in CASES])
def test_a_layer_on_explicit_axes(name):
    case, mesh = CASES[name], shard.mesh(MESH, types="explicit")

    def loss(params: Any, floating: Any, rest: Any, whole: Any) -> Any:
        values = iter(floating)
        args = [next(values) if value is None else value for value in whole]
        variables = {**rest, "params": params}
        rngs = keys(case)
        outputs, changed = case.make().apply(variables, *args, rngs=rngs, mutable=list(case.mutable), **case.train)
        return total(outputs), (outputs, changed)

    step: Any = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    rest = dict(jax.jit(lambda: case.make().init(keys(case), *case.args, **case.train))())
    params = rest.pop("params", {})
    args = [jnp.asarray(value) for value in case.args]
    floating, whole = [value for value in args if is_float(value)], [None if is_float(v) else v for v in args]
    (wanted, about), grads = step(params, floating, rest, whole)

    def put(tree: Any, spec: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec(leaf.shape))), tree)

    def batch(shape: tuple[int, ...]) -> Any:
        return jax.P("data") if shape[0] % 2 == 0 else jax.P()

    with jax.set_mesh(mesh):
        placed, given = put(params, cut), put(floating, batch)
        (found, others), ours = step(placed, given, put(rest, lambda _: jax.P()), put(whole, batch))
    for one, other in zip(jax.tree.leaves((wanted, about, grads)), jax.tree.leaves((found, others, ours)), strict=True):
        np.testing.assert_allclose(np.asarray(other), np.asarray(one), rtol=1e-4, atol=1e-5)
    for leaf, grad in zip(jax.tree.leaves((placed, given)), jax.tree.leaves(ours), strict=True):
        assert grad.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
