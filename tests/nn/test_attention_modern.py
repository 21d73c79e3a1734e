"""Grouped queries, rotary positions, windows and caches, held to a plain NumPy reference and to one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste.errors import (
    AttentionHeadsError,
    CacheLengthError,
    CacheMaskError,
    CacheShapeError,
    CacheSizeError,
    RotaryShapeError,
    WindowError,
)
from batiste.nn._modern_attention import GroupedQueryAttention, apply_rotary, rotary_angles
from tests.nn.oracle import QUICKLY, drawn

X = drawn(0, 2, 9, 12)
SIZES = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 6}
OPTIONS = {
    "plain": {},
    "window": {"window": 3},
    "wide-window": {"window": 20, "normalize_qk": True},
    "rotary": {"rotary_dim": 4, "rotary_interleaved": True, "rotary_base": 500.0},
    "no-positions": {"rotary_base": None, "use_bias": True, "scale": 0.3},
}


def reference(
    params, x, positions, *, causal=True, window=None, base=10_000.0, rotary_dim=None, interleaved=False, **more
):
    """Compute the layer with loops over heads, queries and keys, in float64."""
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    query, key, value = (
        np.einsum("tf,fhd->thd", np.asarray(x, np.float64), weights[name]["kernel"]) + weights[name].get("bias", 0.0)
        for name in ("query", "key", "value")
    )
    if more.get("normalize_qk"):
        query, key = (
            z / np.sqrt(np.mean(z**2, -1, keepdims=True) + 1e-6) * weights[name]["scale"]
            for z, name in ((query, "query_norm"), (key, "key_norm"))
        )
    depth = query.shape[-1]
    turned = rotary_dim or depth
    if base is not None:
        for pair in range(turned // 2):
            first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + turned // 2)
            for z in (query, key):
                plane = z[..., first] + 1j * z[..., second]
                plane = plane * np.exp(1j * positions * base ** (-2 * pair / turned))[:, None]
                z[..., first], z[..., second] = plane.real, plane.imag
    heads, shared = query.shape[1], query.shape[1] // key.shape[1]
    out = np.zeros((*query.shape[:2], value.shape[-1]))
    scale = more.get("scale") or depth**-0.5
    for i, at in enumerate(positions):
        seen = [
            j
            for j, there in enumerate(positions)
            if there >= 0 and (not causal or there <= at) and (window is None or at - there < window)
        ]
        for head in range(heads if seen else 0):
            scores = np.array([scale * query[i, head] @ key[j, head // shared] for j in seen])
            scores = np.exp(scores - scores.max())
            out[i, head] = sum(s * value[j, head // shared] for s, j in zip(scores / scores.sum(), seen, strict=True))
    return np.einsum("thd,hdo->to", out, weights["out"]["kernel"]) + weights["out"].get("bias", 0.0)


def renamed(options):
    names = {"rotary_base": "base", "rotary_interleaved": "interleaved"}
    return {names.get(name, name): option for name, option in options.items()}


def decode(layer, params, x, cuts, positions=None):
    """Run the layer over `x` in parts of the given lengths, and return all outputs and the last state."""
    step = jax.jit(lambda variables, x, positions: layer.apply(variables, x, positions=positions, mutable=["cache"]))
    variables, outputs, at = dict(params), [], 0
    for cut in cuts:
        part = None if positions is None else positions[..., at : at + cut]
        y, state = step(variables, x[..., at : at + cut, :], part)
        variables, at = {**variables, **state}, at + cut
        outputs.append(y)
    return jnp.concatenate(outputs, axis=-2), variables


def run(layer, params, x, **arguments):
    """Apply the layer as one program."""
    program = jax.jit(lambda params, x, arguments: layer.apply(params, x, **arguments), compiler_options=QUICKLY)
    return program(params, x, arguments)


# Rotary positions.


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_product_depends_on_distance_alone(interleaved):
    query, key = drawn(1, 2, 1, 1, 8)

    def product(query_at, key_at):
        turned = [
            apply_rotary(z, rotary_angles([at], 8, base=100.0), interleaved=interleaved)
            for z, at in ((query, query_at), (key, key_at))
        ]
        return float(jnp.vdot(*turned))

    assert product(3, 1) == pytest.approx(product(13, 11), abs=1e-5)
    assert product(3, 1) == pytest.approx(product(2, 0), abs=1e-5)
    assert product(3, 1) != pytest.approx(product(4, 1), abs=1e-3)


def test_rotary_keeps_lengths_the_origin_the_dtype_and_the_rest():
    x = drawn(2, 2, 5, 3, 8, dtype=jnp.bfloat16)
    turned = apply_rotary(x, rotary_angles(jnp.arange(5), 4))
    assert turned.dtype == x.dtype
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])
    wide = x.astype(jnp.float32)
    turned = apply_rotary(wide, rotary_angles(jnp.broadcast_to(jnp.arange(5), (2, 5)), 8))
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(wide, axis=-1), rtol=1e-5)


def test_rotary_layouts_are_permutations_of_each_other():
    x, angles = drawn(2, 5, 3, 8), rotary_angles(jnp.arange(5), 8)
    order = np.arange(8).reshape(4, 2).T.reshape(-1)  # neighbours to halves
    np.testing.assert_allclose(
        apply_rotary(x, angles, interleaved=True)[..., order], apply_rotary(x[..., order], angles), atol=1e-6
    )


def test_rotary_shapes():
    with pytest.raises(RotaryShapeError, match="whole pairs"):
        rotary_angles(jnp.arange(3), 5)
    with pytest.raises(RotaryShapeError, match=r"angles have shape \(3, 4\)"):
        apply_rotary(jnp.ones((2, 3, 4, 6)), jnp.ones((3, 4)))


# The layer.


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_equals_the_reference_and_decodes_to_the_same(options):
    layer = GroupedQueryAttention(**SIZES, **options)
    params = layer.init(jax.random.key(1), X)
    full = run(layer, params, X)
    for row in range(2):
        wanted = reference(params["params"], X[row], np.arange(9), **renamed(options))
        np.testing.assert_allclose(full[row], wanted, atol=2e-6)
    decoder = layer.clone(decode=True, max_length=9)
    for cuts in ([4, 1, 1, 1, 1, 1], [2, 6, 1]):
        steps, state = decode(decoder, params, X, cuts)
        np.testing.assert_allclose(steps, full, atol=2e-6)
        slots = 3 if options.get("window") == 3 else 9
        assert state["cache"]["cached_key"].shape == (2, slots, 2, 6)
        assert state["cache"]["cache_index"] == 9


def test_looking_both_ways_equals_the_reference():
    layer = GroupedQueryAttention(**SIZES, causal=False)
    params = layer.init(jax.random.key(1), X)
    wanted = reference(params["params"], X[0], np.arange(9), causal=False)
    np.testing.assert_allclose(run(layer, params, X)[0], wanted, atol=2e-6)


def test_shared_heads_equal_repeated_ones():
    grouped = GroupedQueryAttention(**SIZES, use_bias=True)
    params = grouped.init(jax.random.key(1), X)
    repeated = {
        name: jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=-2), part) if name in {"key", "value"} else part
        for name, part in params["params"].items()
    }
    whole = GroupedQueryAttention(num_heads=4, head_dim=6, use_bias=True)
    np.testing.assert_allclose(run(grouped, params, X), run(whole, {"params": repeated}, X), atol=1e-6)


def test_plain_heads_equal_multi_head_attention():
    from batiste.nn._masks import make_causal_mask
    from batiste.nn._multihead import MultiHeadDotProductAttention

    layer = GroupedQueryAttention(num_heads=4, rotary_base=None, use_bias=True)
    other = MultiHeadDotProductAttention(num_heads=4)
    params = layer.init(jax.random.key(1), X)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, other.init(jax.random.key(1), X))
    np.testing.assert_allclose(
        run(layer, params, X), run(other, params, X, mask=make_causal_mask(X[..., 0])), atol=1e-6
    )


def test_window_equals_a_mask():
    layer = GroupedQueryAttention(**SIZES)
    params = layer.init(jax.random.key(1), X)
    distance = np.arange(9)[:, None] - np.arange(9)
    mask = jnp.asarray(distance < 3)[None, None]
    np.testing.assert_allclose(run(layer.clone(window=3), params, X), run(layer, params, X, mask=mask), atol=1e-6)


def test_padding_on_the_left_changes_nothing():
    for window in (None, 3):
        layer = GroupedQueryAttention(**SIZES, window=window)
        params = layer.init(jax.random.key(1), X)
        alone = run(layer, params, X[:, 3:])
        positions = jnp.array([-1, -1, -1, 0, 1, 2, 3, 4, 5])
        np.testing.assert_allclose(run(layer, params, X, positions=positions)[:, 3:], alone, atol=2e-6)
        batch = jnp.stack([positions, jnp.arange(9)])  # a row with padding and one without
        decoder = layer.clone(decode=True, max_length=9)
        steps, _ = decode(decoder, params, X, [5, 1, 1, 1, 1], batch)
        np.testing.assert_allclose(steps[0, 3:], alone[0], atol=2e-6)
        np.testing.assert_allclose(steps[1], run(layer, params, X)[1], atol=2e-6)


def test_packed_sequences_with_a_mask():
    layer = GroupedQueryAttention(**SIZES)
    params = layer.init(jax.random.key(1), X)
    segments = np.array([0] * 4 + [1] * 5)
    positions = jnp.array([0, 1, 2, 3, 0, 1, 2, 3, 4])
    packed = run(layer, params, X, positions=positions, mask=jnp.asarray(segments[:, None] == segments)[None, None])
    np.testing.assert_allclose(packed[:, :4], run(layer, params, X[:, :4]), atol=1e-6)
    np.testing.assert_allclose(packed[:, 4:], run(layer, params, X[:, 4:]), atol=1e-6)


@pytest.mark.parametrize("decoding", [False, True])
def test_any_number_of_batch_axes(decoding):
    layer = GroupedQueryAttention(**SIZES, decode=decoding, max_length=9 if decoding else None)
    params = {"params": layer.init(jax.random.key(1), X)["params"]}

    def outputs(x):
        result = jax.jit(lambda params, x: layer.apply(params, x, mutable=["cache"] if decoding else False))(params, x)
        return result[0] if decoding else result

    wanted = outputs(X)
    np.testing.assert_allclose(outputs(X[0]), wanted[0], atol=1e-6)
    np.testing.assert_allclose(outputs(X[None]), wanted[None], atol=1e-6)


def test_init_leaves_the_cache_empty():
    layer = GroupedQueryAttention(**SIZES, decode=True, max_length=7)
    cache = layer.init(jax.random.key(0), X[:, :1])["cache"]
    assert {name: leaf.shape for name, leaf in cache.items()} == {
        "cache_index": (),
        "cached_key": (2, 7, 2, 6),
        "cached_position": (2, 7),
        "cached_value": (2, 7, 2, 6),
    }
    assert int(cache["cache_index"]) == 0
    assert (cache["cached_position"] == -1).all()
    assert not cache["cached_key"].any()


def test_half_precision_caches_in_half_precision():
    layer = GroupedQueryAttention(**SIZES, decode=True, max_length=9, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), X)
    assert variables["cache"]["cached_key"].dtype == jnp.bfloat16
    y, _ = layer.apply(variables, X, mutable=["cache"])
    assert y.dtype == jnp.bfloat16
    exact = layer.clone(decode=False, dtype=None).apply({"params": variables["params"]}, X)
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05)


def test_decoding_is_one_program_and_differentiable_without_a_cache():
    layer = GroupedQueryAttention(**SIZES, decode=True, max_length=9)
    variables = layer.init(jax.random.key(0), X)
    step = jax.jit(lambda variables, x: layer.apply(variables, x, mutable=["cache"]))
    for at in range(3):
        _, state = step(variables, X[:, at : at + 1])
        variables = {**variables, **state}
    assert step._cache_size() == 1
    plain = layer.clone(decode=False)
    gradient = jax.jit(jax.grad(lambda params: plain.apply({"params": params}, X).sum()))(variables["params"])
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_full_cache_that_runs_over_gives_nan():
    layer = GroupedQueryAttention(**SIZES, decode=True, max_length=4)
    params = {"params": layer.init(jax.random.key(0), X)["params"]}
    steps, _ = decode(layer, params, X[:, :5], [4, 1])
    assert jnp.isfinite(steps[:, :4]).all()
    assert jnp.isnan(steps[:, 4]).all()
    ring, _ = decode(layer.clone(window=4), params, X[:, :5], [4, 1])
    assert jnp.isfinite(ring).all()


# Bad input.


def test_more_tokens_than_slots():
    layer = GroupedQueryAttention(**SIZES, decode=True, max_length=4)
    with pytest.raises(CacheLengthError, match="9 tokens at once, but its cache has room for 4"):
        layer.apply({"params": layer.init(jax.random.key(0), X)["params"]}, X, mutable=["cache"])


def test_a_cache_needs_a_size():
    with pytest.raises(CacheSizeError, match="max_length"):
        GroupedQueryAttention(**SIZES, decode=True).init(jax.random.key(0), X)


def test_a_cache_is_for_one_batch():
    layer = GroupedQueryAttention(**SIZES, decode=True, max_length=9)
    variables = layer.init(jax.random.key(0), X)
    with pytest.raises(CacheShapeError, match=r"\(1, 9, 2, 6\)"):
        layer.apply(variables, X[:1, :1], mutable=["cache"])


def test_no_mask_with_a_cache():
    layer = GroupedQueryAttention(**SIZES, decode=True, max_length=9)
    with pytest.raises(CacheMaskError, match="position -1"):
        layer.init(jax.random.key(0), X, mask=jnp.ones((1, 1, 9, 9)))


@pytest.mark.parametrize("options", [{"window": 0}, {"window": 2, "causal": False}])
def test_windows_that_hold_nothing(options):
    with pytest.raises(WindowError):
        GroupedQueryAttention(**SIZES, **options).init(jax.random.key(0), X)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads=4 over num_kv_heads=3"),
        ({"num_heads": 5}, "features=12 over num_heads=5"),
    ],
)
def test_heads_are_shared_out_evenly(options, text):
    with pytest.raises(AttentionHeadsError, match=text):
        GroupedQueryAttention(**options).init(jax.random.key(0), X)
