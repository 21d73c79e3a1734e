"""``init`` on a mesh: every leaf is made where it will lie, so that no device ever holds the whole model.

The shapes are traced first and nothing is computed for them; rules over the paths, or the names in boxes, say where
each leaf lies (``_specs.py``); then one compiled program makes all of them, each device its own part. The values are
those of ``model.init`` under ``jax.jit``: random numbers do not depend on how an array is cut.

What is made may be more than variables: a function that returns a whole state, parameters and optimiser, has it made in
the same way (``TrainState.init(..., mesh=, rules=)`` does).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from batiste._arguments import function
from batiste.core import streams_from
from batiste.errors import InvalidInstanceModuleError
from batiste.module import Blueprint
from batiste.shard._mesh import Indivisible, check_mesh
from batiste.shard._specs import PathRules, Unmatched, shardings
from batiste.typing import Rngs

__all__ = ["Initialisable", "init", "init_placed"]


class Initialisable(Protocol):
    """What has variables to be made: a Module, or anything with its ``init``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn, shard
      >>> model: shard.Initialisable = nn.Dense(4)
      >>> model.init(jax.random.key(0), jnp.ones((2, 3)))["params"]["kernel"].shape
      (3, 4)
    """

    def init(self, rngs: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return variables."""
        ...


def init(
    model: Initialisable | Callable[..., Any],
    mesh: Mesh,
    rules: PathRules | None,
    rngs: Rngs | None,
    *inputs: Any,
    default: PartitionSpec | None = None,
    unmatched: Unmatched = "error",
    indivisible: Indivisible = "error",
    **options: Any,
) -> Any:
    """Return the variables of ``model.init``, each leaf made directly on its part of the mesh.

    It is called outside of ``jax.jit``: it names the mesh itself, also for the constraints in the model.

    Args:
      model: a Module; or a function, called as ``model(rngs, *inputs, **options)``, whose result is made.
      mesh: the devices.
      rules: pattern to spec, in order of precedence, over paths such as ``params/Dense_0/kernel``; None takes the names
        of the boxes.
      rngs: random keys, as for ``model.init``.
      *inputs: the inputs of the model; shapes are enough where ``model.init`` takes shapes.
      default: the spec of a leaf that no rule matches, or that has no box.
      unmatched: whether a rule that no leaf has a use for is an error.
      indivisible: whether an axis that the mesh does not cut into equal parts is an error, or is not split.
      **options: keyword arguments of ``model.init``.

    Raises:
      ArgumentError: ``mesh`` is no mesh, or ``model`` neither has an ``init`` nor is a function.
      InvalidInstanceModuleError: if the model is the class of a Module.
      InvalidRngError: if a stream of a Module is given something that is no key.
      ShardError: what ``batiste.shard.specs`` raises.
      TreeError: likewise.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn, shard
      >>> mesh = shard.mesh("model=-1")
      >>> rules = {"params/kernel": jax.P(None, "model"), "**": jax.P()}
      >>> key, x = jax.random.key(0), jnp.ones((2, 3))
      >>> variables = shard.init(nn.Dense(8), mesh, rules, key, x)
      >>> variables["params"]["kernel"].sharding.spec
      P(None, 'model')
    """
    if isinstance(model, type) and issubclass(model, Blueprint):
        raise InvalidInstanceModuleError(call="init", given=repr(model))
    given = cast("Any", model)
    make: Any = getattr(given, "init", given)
    function(make, "model", "shard.init", what="a Module, or a function of rngs and inputs")
    if isinstance(model, Blueprint):
        streams_from(rngs, type(model).__name__)

    def where(shapes: Any) -> Any:
        return shardings(shapes, rules, mesh, default=default, unmatched=unmatched, indivisible=indivisible)

    return init_placed(make, mesh, where, rngs, inputs, options)


def init_placed(
    make: Callable[..., Any],
    mesh: Mesh,
    where: Callable[[Any], Any],
    rngs: Rngs | None,
    inputs: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """Return what ``make(rngs, *inputs, **options)`` returns, each leaf made where ``where`` says.

    Args:
      make: a function that makes arrays.
      mesh: the devices.
      where: from the shapes of what is made to a tree of shardings.
      rngs: random keys.
      inputs: arguments; shapes stay shapes.
      options: keyword arguments.

    Raises:
      ArgumentError: ``mesh`` is no mesh of devices.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import shard
      >>> whole = jax.sharding.NamedSharding(shard.mesh("data=-1"), jax.P())
      >>> make = lambda key, x: 2 * x
      >>> key, inputs = jax.random.key(0), (jnp.ones(3),)
      >>> made = shard.init_placed(make, whole.mesh, lambda _: whole, key, inputs, {})
      >>> made.sharding == whole
      True
    """
    check_mesh(mesh, "shard.init", devices=True)
    leaves, treedef = cast("tuple[list[Any], Any]", jax.tree.flatten((inputs, options)))
    is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]

    def run(rngs: Rngs | None, arrays: list[Any]) -> Any:
        rest = iter(arrays)
        filled = [next(rest) if mark else leaf for mark, leaf in zip(is_array, leaves, strict=True)]
        args, kwargs = jax.tree.unflatten(treedef, filled)
        return make(rngs, *args, **kwargs)

    arrays: Any = [leaf for mark, leaf in zip(is_array, leaves, strict=True) if mark]
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(run, rngs, arrays)
        return cast("Any", jax.jit(run, out_shardings=where(shapes)))(rngs, arrays)
