"""Products in 8-bit floating point, held to Linen bit for bit."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from flax.linen import fp8_ops

from batiste.errors import DotArgumentsError, Fp8DtypeError, IgnoredPrecisionWarning, LinenDeprecationWarning
from batiste.nn import _fp8, _fp8_ops
from batiste.nn._linear import Dense
from tests.nn.oracle import QUICKLY, assert_same, compare, drawn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

X, Y = drawn(0, 4, 8), drawn(1, 8, 3)
PLAIN = (((1,), (0,)), ((), ()))
BATCHED_X, BATCHED_Y = drawn(2, 2, 5, 4, 8), drawn(3, 5, 2, 8, 3)
PRODUCTS = {
    "plain": (X, Y, PLAIN),
    "batched": (BATCHED_X, BATCHED_Y, (((3,), (2,)), ((1, 0), (0, 1)))),
    "two-contracted": (BATCHED_X, BATCHED_X, (((3, 1), (3, 1)), ((0,), (0,)))),
    "bfloat16": (drawn(0, 4, 8, dtype=jnp.bfloat16), drawn(1, 8, 3, dtype=jnp.bfloat16), PLAIN),
    "mixed": (drawn(0, 4, 8, dtype=jnp.bfloat16), Y, PLAIN),
}
LAYERS = ["Fp8DotGeneralOp", "Fp8DirectDotGeneralOp", "NANOOFp8DotGeneralOp"]


def layers(name, **options):
    return [getattr(library, name)(amax_history_length=4, **options) for library in (_fp8, linen)]


def moved(variables):
    """Return the variables as they may be after some steps."""
    return jax.tree.map(lambda leaf: leaf + jax.random.uniform(jax.random.key(5), leaf.shape), variables)


def compare_steps(ours, theirs, variables, *arrays, axes):
    """Compare output, gradients and the next scales and histories."""

    def run(layer):
        def loss(variables, *arrays):
            out = layer.apply(variables, *axes[0], *arrays, *axes[1])
            return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True), compiler_options=QUICKLY)(variables, *arrays)

    assert_same(run(ours), run(theirs))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("lhs", "rhs", "dimensions"), PRODUCTS.values(), ids=PRODUCTS.keys())
def test_products_equal_linen(name, lhs, rhs, dimensions):
    ours, theirs = layers(name)
    variables = ours.init(jax.random.key(0), lhs, rhs, dimensions)
    assert_same(variables, theirs.init(jax.random.key(0), lhs, rhs, dimensions))
    compare_steps(ours, theirs, moved(variables), lhs, rhs, axes=((), (dimensions,)))


EQUATIONS = {
    "plain": ("ab,bc->ac", X, Y),
    "weights": ("...qhd,...khd->...hqk", BATCHED_X[0], BATCHED_X[1]),
    "swapped": ("...hqk,...khd->...qhd", BATCHED_X, BATCHED_X.transpose(0, 3, 1, 2)),
}


@pytest.mark.parametrize(("equation", "lhs", "rhs"), EQUATIONS.values(), ids=EQUATIONS.keys())
def test_einsum_equals_linen(equation, lhs, rhs):
    ours, theirs = layers("Fp8Einsum")
    variables = ours.init(jax.random.key(0), equation, lhs, rhs)
    assert_same(variables, theirs.init(jax.random.key(0), equation, lhs, rhs))
    compare_steps(ours, theirs, moved(variables), lhs, rhs.astype(jnp.bfloat16), axes=((equation,), ()))


def test_formats_equal_linen():
    for name in ("Fp8DotGeneralOp", "Fp8DirectDotGeneralOp"):
        ours, theirs = layers(name, e4m3_dtype=jnp.float8_e5m2, e5m2_dtype=jnp.float8_e4m3fn)
        variables = moved(ours.init(jax.random.key(0), X, Y, PLAIN))
        compare_steps(ours, theirs, variables, X, Y, axes=((), (PLAIN,)))


SCALE, HISTORY = jnp.array([0.3]), jnp.array([2.0, 0.5, 1.0, 3.0, 0.1])
FUNCTIONS = {
    "quantize": ("quantize", (X * 900, jnp.float8_e4m3fn, SCALE, jnp.float32)),
    "quantize-e5m2": ("quantize", (X, jnp.float8_e5m2, SCALE, jnp.bfloat16)),
    "dequantize": ("dequantize", (X.astype(jnp.float8_e4m3fn), jnp.bfloat16, SCALE)),
    "qdq": ("qdq", (X, jnp.float8_e4m3fn, SCALE, jnp.float32)),
    "scale": ("compute_scale", (jnp.float32(3.0), SCALE, 448.0)),
    "scale-margin": ("compute_scale", (jnp.float32(3.0), SCALE, 448.0, 2)),
    "scale-zero": ("compute_scale", (jnp.float32(0.0), SCALE, 448.0)),
    "scale-nan": ("compute_scale", (jnp.float32(jnp.nan), SCALE, 448.0)),
    "scale-infinite": ("compute_scale", (jnp.float32(jnp.inf), SCALE, 448.0)),
    "history": ("compute_amax_history", (X, HISTORY)),
    "history-of-two": ("compute_amax_history", (X, HISTORY[:2])),
    "history-of-one": ("compute_amax_history", (X, HISTORY[:1])),
    "update": ("update_fp8_meta", (X, jnp.float8_e4m3fn, SCALE, HISTORY)),
    "all": ("quantize_dequantize_update", (X, jnp.float8_e4m3fn, SCALE, HISTORY, jnp.float32)),
}


@pytest.mark.parametrize(("name", "arguments"), FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_functions_equal_linen(name, arguments):
    assert_same(getattr(_fp8_ops, name)(*arguments), getattr(fp8_ops, name)(*arguments))


@pytest.mark.parametrize("name", ["in_qdq", "out_qdq"])
def test_gradients_of_scales_are_their_next_values(name):
    def run(library):
        function = functools.partial(getattr(library, name), jnp.float32, jnp.float8_e4m3fn)
        out, back = jax.vjp(function, X, SCALE, HISTORY)
        return out, back(jnp.cos(X))

    out, (gradient, scale, history) = run(_fp8_ops)
    assert_same((out, (gradient, scale, history)), run(fp8_ops))
    rounded, source = (out, X) if name == "in_qdq" else (gradient, jnp.cos(X))
    np.testing.assert_allclose(rounded, source, rtol=2**-4, atol=1e-3)
    assert scale == pytest.approx(3.0 / 448)  # the largest of the history, at the largest 8-bit number
    np.testing.assert_allclose(history, [jnp.abs(source).max(), 1.0, 3.0, 0.1, 2.0], rtol=1e-6)


def test_scaled_product_close_to_the_exact_one():
    out = _fp8_ops.fp8_scaled_dot_general(
        X,
        Y,
        PLAIN,
        lhs_scale=SCALE,
        rhs_scale=SCALE,
        grad_scale=SCALE,
        lhs_amax_history=HISTORY,
        rhs_amax_history=HISTORY,
        grad_amax_history=HISTORY,
    )
    np.testing.assert_allclose(out, X @ Y, atol=0.5)


def test_precision_is_that_of_linen():
    def run(library):
        tangents = jax.jvp(lambda x, y: library.dot_general_with_precision(x, y, PLAIN), (X, Y), (X + 1, Y - 1))
        return tangents, jax.grad(lambda x: jnp.sum(jnp.sin(library.dot_general_with_precision(x, Y, PLAIN))))(X)

    assert_same(run(_fp8_ops), run(fp8_ops))
    program = str(jax.make_jaxpr(jax.grad(lambda x: _fp8_ops.dot_general_with_precision(x, Y, PLAIN).sum()))(X))
    assert "DEFAULT" in program
    assert "HIGHEST" in program


def test_dense_layer_equals_linen_and_trains():
    ours = Dense(3, dot_general_cls=_fp8.Fp8DotGeneral)
    variables = compare(ours, linen.Dense(3, dot_general_cls=linen.Fp8DotGeneral), X)
    (name,) = variables["_overwrite_with_gradient"]
    assert name == "Fp8DirectDotGeneralOp_0"
    step = jax.jit(jax.grad(lambda variables: ours.apply(variables, X).var()))
    for _ in range(3):
        gradient = step(variables)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient["params"])
        variables = {"params": params, "_overwrite_with_gradient": gradient["_overwrite_with_gradient"]}
    meta = variables["_overwrite_with_gradient"][name]
    np.testing.assert_allclose(meta["input_amax_history"][0], jnp.abs(X).max(), rtol=1e-6)
    np.testing.assert_allclose(meta["input_scale"], jnp.abs(X).max() / 448, rtol=1e-6)


def test_names_are_linens():
    assert _fp8.Fp8DotGeneral is _fp8.Fp8DirectDotGeneralOp
    assert linen.Fp8DotGeneral is linen.Fp8DirectDotGeneralOp


def test_deprecated_layer_warns_and_its_successors_do_not():
    with pytest.warns(LinenDeprecationWarning, match="Fp8DirectDotGeneralOp"):
        _fp8.Fp8DotGeneralOp()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _fp8.NANOOFp8DotGeneralOp()
        _fp8.Fp8DirectDotGeneralOp()


def test_precision_that_is_not_used_warns():
    with pytest.warns(IgnoredPrecisionWarning, match="dot_general_with_precision"):
        _fp8_ops.dot_general_with_precision(X, Y, PLAIN, "highest")
    layer = _fp8.Fp8Einsum(amax_history_length=4)
    with pytest.warns(IgnoredPrecisionWarning, match="fp8_scaled_dot_general"):
        layer.init_with_output(jax.random.key(0), "ab,bc->ac", X, Y, "highest")


def test_other_types_are_no_8_bit_types():
    with pytest.raises(Fp8DtypeError, match="float16 is no 8-bit float type"):
        _fp8_ops.get_fp8_max(jnp.float16, jnp.float32)


def test_a_product_needs_three_arguments_and_all_scales():
    layer = _fp8.Fp8DirectDotGeneralOp()
    with pytest.raises(DotArgumentsError, match="2 positional arguments"):
        layer.init(jax.random.key(0), X, Y)
    with pytest.raises(DotArgumentsError, match="three scales"):
        _fp8_ops.fp8_scaled_dot_general(X, Y, PLAIN)
