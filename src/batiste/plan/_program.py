"""The training step as one program that can be compiled elsewhere: exported, with how its arguments lie.

It is exported under a mesh that has no devices, so the process that plans needs none, and the program can be compiled
by another one that simulates as many as there are (``_compile.py``). State goes in and comes out the same way, and is
donated, as in ``batiste.train``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import export
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from batiste.plan._placement import Spec
from batiste.plan._trace import Traced

__all__ = ["exported"]


def exported(
    traced: Traced,
    mesh: AbstractMesh,
    of_params: Sequence[Spec],
    of_optimizer: Sequence[Spec],
    of_rest: Sequence[Spec],
    of_batch: Sequence[Spec],
    *,
    platform: str,
) -> tuple[Any, int]:
    """Return the step, and how many of its first arguments are state, which is donated.

    Args:
      traced: the step.
      mesh: the mesh, without devices.
      of_params: how parameters lie.
      of_optimizer: how the optimiser's state lies.
      of_rest: how other collections lie.
      of_batch: how the inputs lie.
      platform: what it is to be compiled for: ``cpu`` or ``tpu``.
    """
    make_function: Any = jaxpr_as_fun
    gradients: Any = make_function(traced.gradients)
    update: Any = None if traced.update is None else make_function(traced.update)
    keys = [aval for aval in traced.gradients.in_avals if jax.numpy.issubdtype(aval.dtype, jax.dtypes.prng_key)]
    raw = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    counts = [len(jax.tree.leaves(each)) for each in (traced.params, traced.opt_state, traced.collections)]

    def step(params: Any, opt_state: Any, rest: Any, batch: Any, seed: Any) -> Any:
        streams: list[Any] = [jax.random.wrap_key_data(seed)] * len(keys)
        loss, *found = gradients(*params, *rest, *batch, *streams)
        grads, changed = found[: counts[0]], found[counts[0] :]
        if update is not None:
            after = update(*grads, *opt_state, *params)
            params, opt_state = after[: counts[0]], after[counts[0] :]
        else:
            params = grads
        return params, opt_state, changed, loss

    def placed(specs: Sequence[Spec]) -> Any:
        return [NamedSharding(mesh, PartitionSpec(*(axes or None for axes in spec))) for spec in specs]

    state = [placed(of_params), placed(of_optimizer), placed(of_rest)]
    whole = NamedSharding(mesh, PartitionSpec())
    changes = len(traced.gradients.out_avals) - 1 - counts[0]
    out = [*state[:2], state[2] if changes == counts[2] else [whole] * changes, whole]
    arguments = [jax.tree.leaves(each) for each in (traced.params, traced.opt_state, traced.collections)]
    jitted: Any = jax.jit(
        step, in_shardings=(*state, placed(of_batch), whole), out_shardings=tuple(out), donate_argnums=(0, 1, 2),
        keep_unused=True,
    )  # fmt: skip
    make: Any = export.export(jitted, platforms=[platform])
    with jax.sharding.use_abstract_mesh(mesh):
        return make(*arguments, list(traced.batch), raw), sum(counts)
