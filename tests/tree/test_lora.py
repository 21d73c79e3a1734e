"""Low-rank adapters on an untouched tree of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import errors, tree
from tests.tree.support import Reads, same, transformer

KEY = jax.random.key(0)
INPUTS = {"**/query/kernel": 1, "**/out/kernel": 2, "**": 1}


def filled(adapters, by=0.5):
    """Adapters whose second half is no longer zero."""
    return tree.map(adapters, {"**/b": lambda _, leaf: leaf + by})


def test_adapters_are_nested_as_the_parameters_are():
    adapters = tree.lora_init(KEY, transformer(1), ["**/attn/*/kernel", "head/kernel"], 2, inputs=INPUTS)
    assert {path: leaf.shape for path, leaf in tree.items(adapters)} == {
        "encoder/h_0/attn/out/kernel/a": (2, 2, 2),
        "encoder/h_0/attn/out/kernel/b": (2, 4),
        "encoder/h_0/attn/query/kernel/a": (4, 2),
        "encoder/h_0/attn/query/kernel/b": (2, 2, 2),
        "head/kernel/a": (4, 2),
        "head/kernel/b": (2, 3),
    }


def test_fresh_adapters_change_nothing():
    params = transformer(2)
    merged = tree.lora_merge(params, tree.lora_init(KEY, params, "**/kernel", 2, inputs=INPUTS))
    assert same(merged, params)
    assert merged["encoder"]["norm"]["scale"] is params["encoder"]["norm"]["scale"]


def test_the_formula_for_two_axes():
    params = {"w": np.ones((3, 4), np.float32)}
    adapters = filled(tree.lora_init(KEY, params, "w", 2))
    a, b = (np.float64(adapters["w"][part]) for part in "ab")
    np.testing.assert_allclose(tree.lora_merge(params, adapters)["w"], 1 + a @ b, rtol=1e-6)
    np.testing.assert_allclose(tree.lora_merge(params, adapters, alpha=16)["w"], 1 + 16 / 2 * a @ b, rtol=1e-6)


def test_alpha_is_saved_beside_the_pair_and_can_be_overridden():
    params = {"w": np.ones((3, 4), np.float32)}
    adapters = filled(tree.lora_init(KEY, params, "w", 2, alpha=16))
    assert adapters["w"]["alpha"] == 16
    bare = tree.exclude(adapters, "**/alpha")
    assert same(tree.lora_merge(params, adapters), tree.lora_merge(params, bare, alpha=16))
    assert same(tree.lora_merge(params, adapters, alpha=4), tree.lora_merge(params, bare, alpha=4))


def test_the_formula_for_kernels_of_more_axes():
    params = {"query": np.ones((4, 2, 3), np.float32), "out": np.ones((2, 3, 4), np.float32)}
    adapters = filled(tree.lora_init(KEY, params, "*", 2, inputs={"out": 2, "query": 1}))
    merged = tree.lora_merge(params, adapters)
    query, out = adapters["query"], adapters["out"]
    np.testing.assert_allclose(merged["query"], 1 + np.einsum("ir,rhd->ihd", query["a"], query["b"]), rtol=1e-6)
    np.testing.assert_allclose(merged["out"], 1 + np.einsum("hdr,ro->hdo", out["a"], out["b"]), rtol=1e-6)


def test_stacked_layers_have_a_pair_each():
    params = transformer(3)
    stacked = tree.stack_layers(params, "h")
    options = {"inputs": INPUTS, "alpha": 4.0}
    adapters = filled(
        tree.lora_init(KEY, stacked, ["encoder/h/**/kernel", "head/kernel"], 2, stacked={"encoder/h/**": 1}, **options)
    )
    assert adapters["encoder"]["h"]["attn"]["out"]["kernel"]["a"].shape == (3, 2, 2, 2)
    assert adapters["encoder"]["h"]["attn"]["out"]["kernel"]["alpha"].shape == (3,)
    apart = tree.unstack_layers(adapters, "h")
    merged = tree.unstack_layers(tree.lora_merge(stacked, adapters), "h")
    assert not tree.diff(merged, tree.lora_merge(params, apart), rtol=1e-6)
    pair = apart["encoder"]["h_0"]["mlp"]["kernel"]
    assert not np.array_equal(pair["a"], apart["encoder"]["h_1"]["mlp"]["kernel"]["a"])


def test_inside_scan_a_slice_of_the_adapters_fits_a_slice_of_the_parameters():
    params = {"h": {"kernel": jax.random.normal(KEY, (5, 4, 4)) / 2}}
    adapters = filled(tree.lora_init(KEY, params, "**", 2, stacked=1, alpha=1.0), 0.1)

    def run(adapters):
        def layer(carry, slices):
            kernel = tree.lora_merge(*slices)["h"]["kernel"]
            return jnp.tanh(carry @ kernel), None

        return jax.lax.scan(layer, jnp.ones((2, 4)), (params, adapters))[0]

    def unrolled(adapters):
        carry = jnp.ones((2, 4))
        for kernel in tree.lora_merge(params, adapters)["h"]["kernel"]:
            carry = jnp.tanh(carry @ kernel)
        return carry

    np.testing.assert_allclose(jax.jit(run)(adapters), unrolled(adapters), rtol=1e-5)
    gradients = [jax.grad(lambda adapters, run=run: run(adapters).sum())(adapters) for run in (run, unrolled)]
    assert not tree.diff(*gradients, rtol=1e-4, atol=1e-6)


def test_gradients_flow_to_the_pair_and_not_to_alpha():
    params = {"w": np.ones((3, 4), np.float32), "b": np.zeros(4, np.float32)}
    adapters = filled(tree.lora_init(KEY, params, "w", 2, alpha=4.0))
    loss = lambda adapters: (tree.lora_merge(params, adapters)["w"] ** 2).sum()  # noqa: E731 - one line
    gradient = jax.grad(loss)(adapters)["w"]
    assert np.abs(gradient["a"]).min() > 0
    assert np.abs(gradient["b"]).min() > 0
    assert gradient["alpha"] == 0


def test_training_adapters_alone_fits_a_low_rank_change():
    target = np.float32(np.outer(np.arange(1, 5), [1, -1, 2]) / 4)
    params = {"dense": {"kernel": np.zeros((4, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    adapters = tree.lora_init(KEY, params, "**/kernel", 1, alpha=2.0)
    labels = tree.label(adapters, {"**/alpha": "frozen"}, default="train")
    optimiser = optax.multi_transform({"frozen": optax.set_to_zero(), "train": optax.adamw(0.05)}, labels)

    def loss(adapters):
        return ((tree.lora_merge(params, adapters)["dense"]["kernel"] - target) ** 2).mean()

    @jax.jit
    def step(adapters, state):
        updates, state = optimiser.update(jax.grad(loss)(adapters), state, adapters)
        return optax.apply_updates(adapters, updates), state

    before, state = loss(adapters), optimiser.init(adapters)
    for _ in range(200):
        adapters, state = step(adapters, state)
    assert loss(adapters) < before / 1000
    assert adapters["dense"]["kernel"]["alpha"] == 2.0
    assert not params["dense"]["kernel"].any()


def test_the_draw_depends_on_the_path_alone():
    params = transformer(2)
    few = tree.lora_init(KEY, params, "head/kernel", 2)
    many = tree.lora_init(KEY, params, "**/kernel", 2, inputs=INPUTS)
    assert same(few["head"], many["head"])
    assert not tree.diff(few, tree.lora_init(KEY, jax.eval_shape(lambda: params), "head/kernel", 2))
    assert tree.diff(few, tree.lora_init(jax.random.key(1), params, "head/kernel", 2))


def test_the_draw_has_variance_one_over_fan_in():
    params = {"w": jax.ShapeDtypeStruct((40, 10, 8), jnp.float32)}
    drawn = tree.lora_init(KEY, params, "w", 64, inputs=2)["w"]["a"]
    assert abs(float(drawn.std()) * 20 - 1) < 0.02


def test_dtypes():
    params = {"w": jnp.ones((4, 4), jnp.bfloat16)}
    assert tree.lora_init(KEY, params, "w", 2)["w"]["a"].dtype == jnp.bfloat16
    adapters = tree.lora_init(KEY, params, "w", 2, dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(adapters)} == {np.dtype("float32")}
    assert tree.lora_merge(params, adapters)["w"].dtype == jnp.bfloat16


def test_a_lazy_kernel_stays_lazy():
    source = Reads(np.ones((3, 4), np.float32))
    adapters = filled(tree.lora_init(KEY, {"w": source.lazy}, "w", 2))
    merged = tree.lora_merge({"w": source.lazy}, adapters)["w"]
    assert (type(merged), source.boxes) == (tree.LazyArray, [])
    assert np.array_equal(merged.read(), tree.lora_merge({"w": source.array}, adapters)["w"])


def test_a_bare_kernel():
    adapters = tree.lora_init(KEY, np.ones((3, 4), np.float32), "", 2)
    assert sorted(adapters) == ["a", "b"]
    assert tree.lora_merge(np.ones((3, 4), np.float32), adapters).shape == (3, 4)


def test_abstract_parameters_stay_abstract():
    params = jax.eval_shape(lambda: {"w": jnp.ones((3, 4))})
    assert tree.lora_merge(params, tree.lora_init(KEY, params, "w", 2)) == params


def test_what_has_no_adapter_is_listed():
    params = {"bias": np.ones(3), "whole": np.ones((2, 2), np.int32), "text": "x", "ok": np.ones((2, 2))}
    with pytest.raises(errors.AdapterTargetError) as raised:
        tree.lora_init(KEY, params, "*", 2)
    lines = str(raised.value).splitlines()
    assert lines[0] == "These 3 leaves cannot have a low-rank adapter:"
    assert lines[1:4] == ["  bias: float64[3]", "  text: str", "  whole: int32[2, 2]"]
    with pytest.raises(errors.AdapterTargetError, match=r"ok: float64\[2, 2\] with 1 axes of layers"):
        tree.lora_init(KEY, params, "ok", 2, stacked=1)


def test_kernels_that_can_be_split_in_more_ways_are_listed():
    with pytest.raises(errors.AmbiguousKernelError, match=r"2 kernels.*\n.*out/kernel: float32\[2, 2, 4\]\n.*query"):
        tree.lora_init(KEY, transformer(1), "**/kernel", 2)
    with pytest.raises(errors.AmbiguousKernelError, match=r"head/kernel: .*not 2 inputs"):
        tree.lora_init(KEY, transformer(1), "head/kernel", 2, inputs=2)


def test_patterns_and_ranks_are_checked():
    with pytest.raises(errors.UnmatchedPatternError, match="'\\*\\*/kernl'"):
        tree.lora_init(KEY, transformer(1), "**/kernl", 2)
    with pytest.raises(errors.UnmatchedPatternError, match="'dec/\\*\\*'"):
        tree.lora_init(KEY, transformer(1), "head/kernel", 2, inputs={"dec/**": 1})
    with pytest.raises(errors.TreeValueError, match="`rank` is 0"):
        tree.lora_init(KEY, transformer(1), "head/kernel", 0)


def test_adapters_that_do_not_fit_are_listed():
    params = {"w": np.ones((3, 4)), "v": np.ones((3, 4)), "u": np.ones((3, 4)), "t": np.ones((2, 3, 4))}
    ones = lambda *shape: np.ones(shape)  # noqa: E731 - short
    adapters = {
        "w": {"a": ones(3, 2), "b": ones(2, 5)},
        "v": {"a": ones(3, 2)},
        "u": {"a": ones(3, 2), "b": ones(2, 4), "alpha": ones(7)},
        "t": {"a": ones(2, 3, 1), "b": ones(3, 1, 4)},
        "x": {"a": ones(3, 2), "b": ones(2, 4)},
    }
    with pytest.raises(errors.AdapterMismatchError) as raised:
        tree.lora_merge(params, adapters)
    assert sorted(str(raised.value).splitlines()[1:6]) == [
        "  t: float64[2, 3, 4] with a float64[2, 3, 1], b float64[3, 1, 4]",
        "  u: float64[3, 4] with a float64[3, 2], alpha float64[7], b float64[2, 4]",
        "  v: an adapter is `a`, `b` and perhaps `alpha`, and this has a",
        "  w: float64[3, 4] with a float64[3, 2], b float64[2, 5]",
        "  x: the parameters have no such leaf",
    ]
