"""One program, two libraries: how the module tests compare batiste with Flax Linen.

A program is a function of a namespace, written as a user writes a model: ``nn.Module``, ``nn.compact``, ``nn.Dense``.
It returns what can be observed: trees of variables, results, names. ``same`` runs it with both libraries and asks that
everything observed is equal: the same trees, dtypes, and numbers to the last bit.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import batiste.module
from batiste.core import DenyList
from batiste.errors import BatisteError

flax.config.update("flax_fix_rng_separator", False)


def namespace(library: types.ModuleType, **more: Any) -> types.SimpleNamespace:
    """Return what programs use of a library, with a layer that is written on top of it."""
    nn = types.SimpleNamespace(**{**vars(library), **more, "relu": jax.nn.relu, "tanh": jnp.tanh})
    nn.initializers = jax.nn.initializers

    class Dense(nn.Module):
        features: int
        use_bias: bool = True
        kernel_init: Any = jax.nn.initializers.lecun_normal()

        @nn.compact
        def __call__(self, x):
            y = x @ self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
            return y + self.param("bias", jax.nn.initializers.zeros, (1, self.features)) if self.use_bias else y

    class Dropout(nn.Module):
        rate: float = 0.5

        @nn.compact
        def __call__(self, x):
            return jnp.where(jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape), x, 0)

    nn.Dense, nn.Dropout = Dense, Dropout
    return nn


LINEN = namespace(flax.linen, DenyList=flax.core.DenyList, Error=Exception)
BATISTE = namespace(batiste.module, DenyList=DenyList, Error=BatisteError)

Program = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Raised:
    """Stands for an error among what a program observes: its class, by name."""

    kind: str


def raised(nn: Any, run: Callable[[], Any]) -> Raised:
    """Return the class of the error that ``run`` raises."""
    try:
        run()
    except nn.Error as error:
        return Raised(type(error).__name__)
    return pytest.fail("nothing was raised")


def plain(value: Any) -> Any:
    """Return what was observed with NumPy arrays for arrays and dicts for mappings, and types beside them."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Raised) and not hasattr(value, "scope"):
        return (type(value).__name__, {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)})
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value)) if not hasattr(value, "_fields") else tuple(map(plain, value))
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        return ("key", np.asarray(jax.random.key_data(value)))
    if isinstance(value, jax.Array):
        return np.asarray(value)
    return value


def assert_equal(actual: Any, expected: Any, where: str = "") -> None:
    """Assert that two observations are equal, arrays to the last bit, and say where they are not."""
    if isinstance(expected, Mapping):
        assert isinstance(actual, Mapping), f"{where}: {actual!r} is no mapping"
        assert sorted(map(str, actual)) == sorted(map(str, expected)), where
        for name in expected:
            assert_equal(actual[name], expected[name], f"{where}/{name}")
    elif isinstance(expected, tuple | list):
        assert type(actual) is type(expected), f"{where}: {actual!r}, expected {expected!r}"
        assert len(actual) == len(expected), where
        for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_equal(one, other, f"{where}[{index}]")
    elif isinstance(expected, np.ndarray | np.generic):
        assert isinstance(actual, np.ndarray | np.generic), f"{where}: {actual!r} is no array"
        assert actual.dtype == expected.dtype, where
        np.testing.assert_array_equal(actual, expected, err_msg=where)
    else:
        assert actual == expected, where


def same(program: Program) -> Any:
    """Run a program with both libraries, assert that they show the same, and return what batiste shows."""
    actual, expected = plain(program(BATISTE)), plain(program(LINEN))
    assert_equal(actual, expected)
    return actual


def calls(model: Any, *args: Any, mutable: Any = False, rngs: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    """Observe the usual: the variables that ``init`` makes, and the result of ``apply``."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1), "noise": jax.random.key(2)}
    variables = model.init(keys if rngs is None else rngs, *args, **kwargs)
    return variables, model.apply(variables, *args, mutable=mutable, rngs=rngs, **kwargs)
