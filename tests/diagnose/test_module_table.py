"""The table of the modules: FLOPs beside the analytic counts, bytes, filters, and the forms that it is written in."""

import json

import jax
import jax.numpy as jnp
import pytest

from batiste import nn
from batiste.diagnose import summary
from batiste.errors import ArgumentError, NoSuchModuleError

BATCH, LENGTH, WIDTH, HEADS, VOCABULARY = 2, 16, 32, 4, 50
TOKENS = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        attention = nn.MultiHeadDotProductAttention(HEADS, name="attn")
        x = x + attention(nn.LayerNorm()(x), mask=nn.make_causal_mask(x[..., 0]))
        return x + nn.Dense(WIDTH, name="down")(nn.gelu(nn.Dense(4 * WIDTH, name="up")(nn.LayerNorm()(x))))


class Language(nn.Module):
    """A language model, its blocks in a row or in a loop."""

    depth: int
    loop: bool = False

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, WIDTH, name="embed")
        x = embed(tokens)
        if self.loop:
            x = nn.Repeat(Block(), self.depth, name="h")(x)
        else:
            for number in range(self.depth):
                x = Block(name=f"h_{number}")(x)
        return embed.attend(nn.LayerNorm()(x))


def analytic(depth):
    """Return the operations of the language model: those of Kaplan et al. (2020) with attention counted in full."""
    tokens = BATCH * LENGTH
    projections = 2 * tokens * 4 * WIDTH * WIDTH
    scores = 2 * 2 * tokens * LENGTH * WIDTH
    mlp = 2 * tokens * 2 * WIDTH * 4 * WIDTH
    return depth * (projections + scores + mlp) + 2 * tokens * WIDTH * VOCABULARY


def row(found, path):
    return next(each for each in found.modules if each.path == path)


@pytest.mark.parametrize("loop", [False, True])
def test_flops_of_a_language_model_are_the_analytic_count(loop):
    found = summary(Language(3, loop), TOKENS)
    assert abs(found.flops / analytic(3) - 1) < 0.01
    assert found.flops == sum(each["flops"] for each in found.to_json()["modules"] if each["depth"] == 0)
    if loop:
        assert row(found, "h_*/up").calls == 3
        assert row(found, "h_*/up").flops == 3 * 2 * BATCH * LENGTH * WIDTH * 4 * WIDTH
    else:
        assert row(found, "h_1/up").flops == 2 * BATCH * LENGTH * WIDTH * 4 * WIDTH


def test_flops_of_convolutions_experts_and_recurrence_are_the_analytic_count():
    class Images(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(16, (3, 3), strides=2, padding="VALID")(x)
            x = nn.Conv(16, (3, 3), padding="VALID", feature_group_count=4)(x)
            return nn.Dense(10)(x.mean((1, 2)))

    class Series(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.RNN(nn.LSTMCell(8), name="rnn")(x)
            experts = nn.vmap(nn.Dense, in_axes=None, out_axes=-1, axis_size=4, variable_axes={"params": 0},
                              split_rngs={"params": True})  # fmt: skip
            return experts(5, name="experts")(x)

    images = summary(Images(), jax.ShapeDtypeStruct((2, 17, 17, 3), jnp.float32))
    first, second = 2 * 2 * 8 * 8 * 16 * 9 * 3, 2 * 2 * 6 * 6 * 16 * 9 * 4
    assert images.flops == first + second + 2 * 2 * 16 * 10
    assert row(images, "Conv_1").share == pytest.approx(second / images.flops)
    series = summary(Series(), jax.ShapeDtypeStruct((2, 7, 6), jnp.float32))
    assert series.flops == 7 * 2 * 2 * 4 * 8 * (6 + 8) + 4 * 2 * 2 * 7 * 8 * 5


def test_bytes_count_shared_leaves_once_and_activations_each_time():
    found = summary(Language(2), TOKENS)
    assert found.bytes == 4 * found.parameters
    assert row(found, "Language").parameters == found.parameters
    assert row(found, "embed").parameters == VOCABULARY * WIDTH
    assert row(found, "h_0/down").bytes == 4 * (4 * WIDTH * WIDTH + WIDTH)
    assert row(found, "h_0/up").activation_bytes == 4 * BATCH * LENGTH * 4 * WIDTH
    looped = summary(Language(2, loop=True), TOKENS)
    assert row(looped, "h_*/up").activation_bytes == 2 * 4 * BATCH * LENGTH * 4 * WIDTH
    assert looped.activation_bytes >= found.activation_bytes


def test_depth_and_patterns_select_modules_and_their_variables():
    found = summary(Language(2), TOKENS)
    flat = found.select(depth=1)
    assert [each.path for each in flat.modules] == ["Language", "embed", "h_0", "h_1", "LayerNorm_0"]
    assert {each.path.split("/")[1] for each in flat.rows} == {"embed", "LayerNorm_0"}
    attention = found.select("*/attn/*")
    assert {each.path.split("/")[-1] for each in attention.modules} == {"query", "key", "value", "out"}
    assert all("/attn/" in each.path for each in attention.rows)
    assert len(found.select(["h_0", "h_1/up"]).modules) == 2
    with pytest.raises(NoSuchModuleError, match=r"h_0/atn"):
        found.select("h_0/atn")
    with pytest.raises(ArgumentError):
        found.select(depth=-1)


def test_text_markdown_json_and_html_say_the_same():
    found = summary(Language(1), TOKENS).select("h_0/up")
    (up,) = found.modules
    cells = ["h_0/up", "Dense", "float32[2, 16, 128]", "4,224", "16,896", "262,144", f"{up.share:.1%}", "16,384"]
    assert found.to_markdown().splitlines()[2] == f"| {' | '.join(cells)} |"
    assert found.module_table().splitlines()[1].split() == " ".join(cells).split()
    assert json.loads(json.dumps(found.to_json()))["modules"][0]["flops"] == 262_144
    assert "".join(f"<td>{cell}</td>" for cell in cells) in found.to_html()
    assert found.to_html() == found._repr_html_()


def test_the_work_of_a_deep_model_grows_with_its_blocks_alone(monkeypatch):
    traced = []
    original = nn.LayerNorm.__call__
    monkeypatch.setattr(nn.LayerNorm, "__call__", lambda self, x: traced.append(1) or original(self, x))
    found = summary(Language(6), TOKENS)
    assert len(found.modules) == 2 + 6 * 10 + 1
    assert len(traced) == 2 * (2 * 6 + 1)  # once for the variables, once for the costs
