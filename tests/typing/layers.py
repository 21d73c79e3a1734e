"""What each layer's call returns: a row for every layer of ``nn``, which ``tests/laws/test_rows.py`` asks for."""

from typing import Any, assert_type

from jax import Array

from batiste import nn


def linear(x: Array) -> None:
    assert_type(nn.Dense(4)(x), Array)
    assert_type(nn.DenseGeneral((2, 4))(x), Array)
    assert_type(nn.Einsum((3, 4), "ab,bc->ac")(x), Array)
    assert_type(nn.Embed(10, 4)(x), Array)
    assert_type(nn.PReLU()(x), Array)


def convolutions(x: Array) -> None:
    assert_type(nn.Conv(4, 3)(x), Array)
    assert_type(nn.ConvLocal(4, (3,))(x), Array)
    assert_type(nn.ConvTranspose(4, (3,))(x), Array)


def norms_and_dropout(x: Array) -> None:
    assert_type(nn.BatchNorm(use_running_average=True)(x), Array)
    assert_type(nn.LayerNorm()(x), Array)
    assert_type(nn.GroupNorm(num_groups=2)(x), Array)
    assert_type(nn.InstanceNorm()(x), Array)
    assert_type(nn.RMSNorm()(x), Array)
    assert_type(nn.Dropout(0.5)(x, deterministic=True), Array)
    assert_type(nn.SpectralNorm(nn.Dense(4))(x, update_stats=True), Any)
    assert_type(nn.WeightNorm(nn.Dense(4))(x), Any)


def attention(x: Array) -> None:
    assert_type(nn.MultiHeadDotProductAttention(2)(x), Array)
    assert_type(nn.MultiHeadAttention(2)(x), Array)
    assert_type(nn.SelfAttention(2)(x), Array)
    assert_type(nn.GroupedQueryAttention(2)(x), Array)


def recurrent(x: Array) -> None:
    assert_type(nn.LSTMCell(4)((x, x), x), tuple[tuple[Array, Array], Array])
    assert_type(nn.OptimizedLSTMCell(4)((x, x), x), tuple[tuple[Array, Array], Array])
    assert_type(nn.ConvLSTMCell(4, (3, 3))((x, x), x), tuple[tuple[Array, Array], Array])
    assert_type(nn.SimpleCell(4)(x, x), tuple[Array, Array])
    assert_type(nn.GRUCell(4)(x, x), tuple[Array, Array])
    assert_type(nn.MGUCell(4)(x, x), tuple[Array, Array])
    assert_type(nn.RNN(nn.GRUCell(4))(x), Any)
    assert_type(nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(4)))(x), Any)


def combinators(x: Array) -> None:
    assert_type(nn.Sequential([nn.Dense(4)])(x), Any)
    assert_type(nn.Repeat(nn.Dense(4), 2)(x), Any)
    assert_type(nn.MoE(4, 2)(x), Array)


def eight_bits(x: Array) -> None:
    assert_type(nn.Fp8DirectDotGeneralOp()(x, x), Array)
    assert_type(nn.Fp8DotGeneral()(x, x), Array)
    assert_type(nn.Fp8DotGeneralOp()(x, x), Array)
    assert_type(nn.NANOOFp8DotGeneralOp()(x, x), Array)
    assert_type(nn.Fp8Einsum()("ab,bc->ac", x, x), Array)
