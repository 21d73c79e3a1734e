"""FLOPs of a table of models beside the count by hand: within one part in a hundred, in ``plan`` and in ``summary``.

A product of ``[m, k]`` and ``[k, n]`` takes ``2 * m * k * n`` forwards, and as much again for the gradient of each
operand. Inputs of the model have no gradient, so what they go into takes its product once less backwards; the body of
a loop over layers is one program for all of them, and takes it in full.
"""

import jax
import jax.numpy as jnp
import pytest

from batiste import diagnose, nn, plan

ROWS, WIDE, NARROW = 8, 64, 32
UP = 2 * ROWS * NARROW * WIDE  # one product between NARROW and WIDE


class MLP(nn.Module):
    """Two products and something narrow to add them to, as in a residual network."""

    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(NARROW, name="down")(nn.gelu(nn.Dense(WIDE, name="up")(x)))


class Images(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        x = nn.relu(nn.Conv(32, (3, 3), strides=2, padding="VALID")(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


class Turn(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        return MLP()(carry), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(Turn, variable_axes={"params": 0}, split_rngs={"params": True}, length=5)
        return layers()(x, None)[0]


class Checkpointed(nn.Module):
    """Three blocks that are computed again, then something that needs the value of the last one."""

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.remat(MLP)()(x)
        return x * x


def convolutions():
    first = 2 * 4 * 16 * 16 * 16 * 9 * 3
    second = 2 * 4 * 7 * 7 * 32 * 9 * 16
    last = 2 * 4 * 7 * 7 * 32 * 10
    return first + second + last, first + 2 * (second + last)


def attention(heads, kv_heads, depth=8, length=16):
    tokens = 2 * length
    ins = 2 * tokens * NARROW * depth * (heads + 2 * kv_heads)
    rest = 2 * tokens * NARROW * depth * heads + 2 * 2 * tokens * length * heads * depth
    return ins + rest, ins + 2 * rest


def mixture(seats):
    """The router, the experts' three products over so many rows, and the sum of a token's two experts."""
    tokens, experts = 64, 4
    router, mix = 2 * tokens * NARROW * experts, 2 * tokens * 2 * NARROW
    product = 2 * seats * NARROW * WIDE
    return router + 3 * product + mix, router + 4 * product + 2 * mix


SEQUENCE = (2, 16, NARROW)
CASES = {
    "MLP": (MLP(), (ROWS, NARROW), (2 * UP, 3 * UP), 0),
    "CNN": (Images(), (4, 16, 16, 3), convolutions(), 0),
    "attention": (nn.MultiHeadAttention(num_heads=4), SEQUENCE, attention(4, 4), 0),
    "grouped": (nn.GroupedQueryAttention(num_heads=4, num_kv_heads=2, head_dim=8), SEQUENCE, attention(4, 2), 0),
    "scan": (Scanned(), (ROWS, NARROW), (5 * 2 * UP, 5 * 4 * UP), 0),
    "Repeat": (nn.Repeat(MLP(), 5), (ROWS, NARROW), (5 * 2 * UP, 5 * 4 * UP), 0),
    "Repeat, a loop": (nn.Repeat(MLP(), 5, run="loop"), (ROWS, NARROW), (5 * 2 * UP, 5 * 4 * UP - UP), 0),
    "remat": (Checkpointed(), (ROWS, NARROW), (3 * 2 * UP, 3 * 4 * UP - UP), 3 * UP),  # the last product is not needed
    "Repeat, remat": (nn.Repeat(MLP(), 5, remat=True), (ROWS, NARROW), (5 * 2 * UP, 5 * 4 * UP), 5 * UP),
    "MoE": (nn.MoE(4, WIDE, capacity_factor=1.5), (4, 16, NARROW), mixture(4 * 48), 0),
    "MoE, dropless": (nn.MoE(4, WIDE, capacity_factor=None), (4, 16, NARROW), mixture(2 * 64), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_flops_are_those_of_the_count_by_hand(name):
    model, shape, (forward, backward), again = CASES[name]
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    found = plan.plan(model, inputs, optimizer=None, remat=False)
    by_pass = {which.value: cost.flops for which, cost in found.costs.by_pass().items()}
    assert by_pass["forward"] == pytest.approx(forward, rel=0.01)
    assert by_pass["backward"] == pytest.approx(backward, rel=0.01)
    assert found.model_flops == pytest.approx(forward + backward, rel=0.01)
    assert found.flops == pytest.approx(forward + backward + again, rel=0.01)
    assert diagnose.summary(model, inputs).flops == pytest.approx(forward, rel=0.01)
