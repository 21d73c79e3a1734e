"""The models that are measured, once for each library, all computing the same function of the same weights.

`CONTENDERS` names who can be measured; `build` makes one contender's model; `compare` holds it against raw JAX.
"""

import importlib
import importlib.util
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.models.contract import Model, Spec, batch, loss, weights

FAILED = "failed: "  # what the answer for a contender begins with that computes nothing
TOLERANCE = 2e-4  # of the largest output: float32 through fifty layers, in two orders of operations


class Contender(NamedTuple):
    """Someone who is measured: a name for people, the package it needs, and the file and function that build it."""

    title: str
    package: str
    module: str
    function: str = "build"


CONTENDERS = MappingProxyType(
    {
        "raw": Contender("raw JAX", "jax", "benchmarks.models.raw"),
        "batiste": Contender("batiste", "batiste", "benchmarks.models.batiste"),
        "linen": Contender("Linen", "flax", "benchmarks.models.linen"),
        "nnx": Contender("NNX", "flax", "benchmarks.models.nnx"),
        "haiku": Contender("Haiku", "haiku", "benchmarks.models.haiku"),
        "equinox": Contender("Equinox", "equinox", "benchmarks.models.equinox"),
        "raw_scan": Contender("raw JAX scan", "jax", "benchmarks.models.raw", "build_scan"),
        "repeat_loop": Contender("Repeat loop", "batiste", "benchmarks.repeat", "build_loop"),
        "repeat_scan": Contender("Repeat scan", "batiste", "benchmarks.repeat", "build_scan"),
        "repeat_stacked": Contender("Repeat stacked", "batiste", "benchmarks.repeat", "build_stacked"),
    }
)


def installed(contender: str) -> bool:
    """Say whether a contender's package can be imported."""
    return importlib.util.find_spec(CONTENDERS[contender].package) is not None


def build(contender: str, spec: Spec) -> Model:
    """Return the model of one contender."""
    found = CONTENDERS[contender]
    return getattr(importlib.import_module(found.module), found.function)(spec)


def packed(contender: str, spec: Spec) -> tuple[Model, Any, Any, jax.Array, jax.Array]:
    """Return a contender's model, its parameters and state, an input for it and a target."""
    model = build(contender, spec)
    params, state = model.pack(*weights(spec))
    x, y = batch(spec)
    return model, params, state, model.input(x), y


def evidence(contender: str, spec: Spec, *, train: bool) -> dict[str, Any]:
    """Return what must be equal: the outputs and, with ``train``, the loss and the size of its gradient."""
    model, params, state, x, y = packed(contender, spec)
    found: dict[str, Any] = {"outputs": model.apply(params, state, x)}
    if train:

        def objective(params: Any) -> jax.Array:
            return loss(model.train(params, state, x)[0], y)

        found["loss"], grads = jax.jit(jax.value_and_grad(objective))(params)
        found["gradient"] = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)) ** 0.5
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def compare(contenders: Iterable[str], spec: Spec, *, train: bool) -> dict[str, str]:
    """Return what is wrong with each contender that does not compute what raw JAX computes; "" for those that do."""
    expected = evidence("raw", spec, train=train)
    found: dict[str, str] = {}
    for contender in contenders:
        try:
            given = evidence(contender, spec, train=train)
        except Exception as error:  # noqa: BLE001 - one that fails is named, and the others are measured
            found[contender] = f"{FAILED}{type(error).__name__}: {error}"
            continue
        found[contender] = "; ".join(difference(name, given[name], expected[name]) for name in expected).strip("; ")
    return found


def difference(name: str, given: np.ndarray, expected: np.ndarray) -> str:
    """Say how two arrays differ, or return "" if they agree to `TOLERANCE` of the largest."""
    if given.shape != expected.shape:
        return f"{name} have shape {given.shape}, raw JAX {expected.shape}"
    error = float(np.max(np.abs(given - expected)) / np.max(np.abs(expected)))
    return "" if error <= TOLERANCE else f"{name} differ by {error:.1e} of the largest"
