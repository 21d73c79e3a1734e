"""What `init` compiles through transforms grows neither with the depth nor with the length."""

import jax
import jax.numpy as jnp
import pytest

from batiste import nn
from tests.core.compiling import compiled
from tests.nn.oracle import cheap_initializer

KEY = jax.random.key(0)
OWN = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        layer = nn.Dense(x.shape[-1], kernel_init=cheap_initializer, bias_init=cheap_initializer)
        return nn.LayerNorm()(layer(x)), None


def in_vmap(number, x):
    return nn.vmap(Block, in_axes=None, axis_size=number, **OWN)()(x)[0][0]


def in_scan(number, x):
    return nn.scan(Block, length=number, **OWN)()(x, None)[0]


def in_nested_scans(number, x):
    return nn.scan(nn.scan(nn.remat(Block), length=2, **OWN), length=number, **OWN)()(x, None)[0]


def in_remat(number, x):
    for _ in range(number):
        x, _ = nn.remat(Block)()(x)
    return x


def in_jit(number, x):
    for _ in range(number):
        x, _ = nn.jit(Block)()(x)
    return x


def in_scans(number, x):
    for _ in range(number):
        x, _ = nn.scan(nn.remat(Block), length=2, **OWN)()(x, None)
    return x


def in_one_another(number, x):
    layer = Block
    for _ in range(number):
        layer = nn.remat(layer)
    return layer()(x)[0]


PROGRAMS = [in_vmap, in_scan, in_nested_scans, in_remat, in_jit, in_scans, in_one_another]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_that_init_compiles(program):
    class Model(nn.Module):
        number: int

        @nn.compact
        def __call__(self, x):
            return program(self.number, x)

    counts = []
    for number in (2, 7):
        features = 10 + 10 * PROGRAMS.index(program) + number  # nothing of this shape is compiled yet
        x = jnp.ones((1, features))
        with compiled() as names:
            Model(number).init(KEY, x)
        counts.append(len(names))
    assert counts[0] == counts[1] <= 8, names


def test_a_second_init_compiles_nothing():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x, _ = nn.scan(nn.remat(Block), length=3, **OWN)()(x, None)
            return nn.vmap(Block, in_axes=None, axis_size=3, **OWN)()(x)

    x = jnp.ones((1, 9))
    first = Model().init(KEY, x)
    with compiled() as names:
        again = Model().init(KEY, x)
    assert names == []
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), first, again))
