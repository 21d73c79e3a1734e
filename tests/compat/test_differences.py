"""The small differences of the migration guide: each is one still, and is what the guide says."""

import dataclasses
import inspect

import flax.linen
import jax
import jax.numpy as jnp
import pytest

from batiste import nn

X, KEY = jnp.ones((2, 3)), jax.random.key(0)
LINEN = flax.linen


def flagged(linen):
    class Flagged(linen.Module):
        @linen.compact
        def __call__(self, x, train=False, how=""):
            return linen.Dense(2)(x) if train else linen.Dense(2)(x) * 2

    return Flagged


def applied(linen, transform, *args, **kwargs):
    kind = flagged(linen)
    return transform(kind)().apply(kind().init(KEY, X), X, *args, **kwargs)


def spectral(linen):
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            init = linen.with_partitioning(linen.initializers.lecun_normal(), ("a", "b"))
            return linen.SpectralNorm(linen.Dense(2, kernel_init=init))(x, update_stats=True)

    return Model().init(KEY, X)


def bound_method(linen):
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.jit(linen.Dense(2).__call__)(x)

    return Model().init(KEY, X)


def decorated(linen):
    @dataclasses.dataclass
    class Model(linen.Module):
        width: int = 2

        @linen.compact
        def __call__(self, x):
            return linen.Dense(self.width)(x)

    class Wider(Model):
        depth: int = 1

    return Wider(3, 4).init(KEY, X)


WORKS_HERE = {
    "text": (
        TypeError,
        lambda linen: applied(linen, lambda kind: linen.remat(kind, static_argnums=2), True, "no array"),
    ),
    "static by name": (
        ValueError,
        lambda linen: applied(linen, lambda kind: linen.remat(kind, static_argnums=(2,)), train=True),
    ),
    "static and left out": (
        ValueError,
        lambda linen: applied(linen, lambda kind: linen.remat(kind, static_argnums=(2, 3)), True),
    ),
    "static_argnames": (
        TypeError,
        lambda linen: applied(linen, lambda kind: linen.remat(kind, static_argnames="train"), train=True),
    ),
    "bound method": (AttributeError, bound_method),
    "boxed kernel": (AttributeError, spectral),
    "decorated": (ValueError, decorated),
}


@pytest.mark.parametrize("name", WORKS_HERE)
def test_works_here_and_not_in_flax(name):
    kind, run = WORKS_HERE[name]
    with pytest.raises(kind):
        run(LINEN)
    assert jax.tree.leaves(run(nn))


def test_parent_and_name_are_keywords():
    theirs, ours = inspect.signature(LINEN.Dense), inspect.signature(nn.Dense)
    for name in ("parent", "name"):
        assert theirs.parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert ours.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError):
        nn.Dense(*[parameter.default for parameter in theirs.parameters.values()])
