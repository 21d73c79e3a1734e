"""Modules: fields are checked, `apply` has the return type of the method, and submodules keep their own types."""

from collections.abc import Callable, Sequence
from typing import Any, assert_type

import jax

from batiste import nn

Pair = tuple[jax.Array, jax.Array]


class Encoder(nn.Module):
    """A module with two methods of different types."""

    features: int
    layers: Sequence[nn.Module] = ()
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    scale: float = 1.0

    def setup(self) -> None:
        self.dense = nn.Dense(self.features)
        self.gain = self.param("gain", nn.initializers.ones, (1,))
        self.count = self.variable("state", "count", lambda: 0)

    def __call__(self, x: jax.Array) -> jax.Array:
        assert_type(self.dense, nn.Dense)
        assert_type(self.count.value, int)
        self.count.value = "three"  # pyright: ignore[reportAttributeAccessIssue]
        return self.activation(self.dense(x)) * self.scale

    def statistics(self, x: jax.Array) -> Pair:
        return x.mean(), x.std()


class Model(nn.Module):
    """A model with a submodule in a field, and a compact method."""

    encoder: Encoder
    depth: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        for _ in range(self.depth):
            x = self.encoder(x)
        assert_type(self.encoder.statistics(x), Pair)
        assert_type(self.make_rng("dropout"), jax.Array)
        return {"x": x}


# The constructor is that of a dataclass: its fields, and `name` and `parent` by keyword.

encoder = Encoder(3, name="encoder")
assert_type(encoder, Encoder)
assert_type(encoder.features, int)
assert_type(encoder.name, str | None)
assert_type(encoder.clone(features=4), Encoder)
assert_type(encoder.copy(), Encoder)
model = Model(encoder=encoder, depth=2, parent=None)
assert_type(model.encoder, Encoder)

Encoder()  # pyright: ignore[reportCallIssue]
Encoder("three")  # pyright: ignore[reportArgumentType]
Encoder(features=3, widht=4)  # pyright: ignore[reportCallIssue]
Encoder(3, (), nn.relu, 1.0, "name")  # pyright: ignore[reportCallIssue]
Model(3)  # pyright: ignore[reportArgumentType]
encoder.feature  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


class Wide(Encoder):
    """Fields are inherited."""

    width: int = 1


assert_type(Wide(3, width=2).features, int)


class Named(nn.Module, kw_only=True):
    """All fields are given by keyword."""

    size: int
    label: str = ""


assert_type(Named(size=3).label, str)
Named(3)  # pyright: ignore[reportCallIssue]


# `apply` returns what the method returns, and a pair where collections may change.


def calls(key: jax.Array, x: jax.Array) -> None:
    """Every way to call a model."""
    variables = model.init(key, x)
    assert_type(variables, dict[str, Any])
    assert_type(model.init({"params": key, "dropout": key}, x, train=True), dict[str, Any])
    assert_type(model.init(key, jax.ShapeDtypeStruct((2, 3), x.dtype)), dict[str, Any])
    assert_type(model.lazy_init(key, x), dict[str, Any])

    assert_type(model.apply(variables, x), dict[str, jax.Array])
    assert_type(model.apply(variables, x, train=True, rngs={"dropout": key}), dict[str, jax.Array])
    assert_type(model.apply(variables, x, mutable=False), dict[str, jax.Array])
    assert_type(model.apply(variables, x, mutable=["state"]), tuple[dict[str, jax.Array], dict[str, Any]])
    assert_type(model.apply(variables, x, mutable=True), tuple[dict[str, jax.Array], dict[str, Any]])
    assert_type(model.apply(variables, x, mutable="state"), tuple[dict[str, jax.Array], dict[str, Any]])
    assert_type(model.apply(variables, x, mutable=nn.DenyList("params")), tuple[dict[str, jax.Array], dict[str, Any]])
    output, state = model.apply(variables, x, capture_intermediates=True)
    assert_type(output, dict[str, jax.Array])
    assert_type(state, dict[str, Any])
    capture = model.apply(variables, x, capture_intermediates=lambda module, name: name == "__call__")
    assert_type(capture, tuple[dict[str, jax.Array], dict[str, Any]])

    assert_type(encoder.apply(variables, x, method=Encoder.statistics), Pair)
    assert_type(encoder.apply(variables, x, method=encoder.statistics), Pair)
    assert_type(encoder.apply(variables, x, method=Encoder.statistics, mutable=["a"]), tuple[Pair, dict[str, Any]])
    encoder.apply(variables, x, method="statistics")  # a name says nothing of the type
    encoder.apply(variables, x, method=3)  # pyright: ignore[reportArgumentType, reportCallIssue]
    encoder.apply()  # pyright: ignore[reportCallIssue]
    model.init(3, x)  # pyright: ignore[reportArgumentType]

    bound = encoder.bind(variables)
    assert_type(bound, Encoder)
    assert_type(bound(x), jax.Array)
    assert_type(bound.unbind(), tuple[Encoder, dict[str, Any]])
    assert_type(bound.variables, dict[str, Any])
    assert_type(bound.path, tuple[str, ...])
