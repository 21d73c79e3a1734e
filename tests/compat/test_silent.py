"""What Linen does without a word and batiste does right, or refuses: the tables of the migration guide, row by row.

Each row of the page has a program here, which says what Linen gives and what batiste gives. A row whose difference is
gone fails, and so does a row without a program.
"""

import re
import warnings
from pathlib import Path

import flax.linen
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import batiste
from batiste import errors, nn

LINEN, X, KEY = flax.linen, jnp.ones((2, 3)), jax.random.key(0)
PAGE = Path(__file__).parents[2] / "docs" / "migrating" / "from_flax.md"
ROWS = {}
"""Programs by the first cell of their row."""


def row(first_cell):
    def add(program):
        ROWS[first_cell] = program
        return program

    return add


def cells(heading):
    """Return the first cells of the tables below a heading, up to the next one."""
    section = re.split(r"(?m)^#+ ", PAGE.read_text(encoding="utf-8").split(f"# {heading}\n")[1])[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")]
    return [cell for cell in rows if cell not in {"what", "what is written", "argument", "---"}]


def both(program):
    return program(LINEN), program(nn)


def compact(linen, body):
    class Model(linen.Module):
        @linen.compact
        def __call__(self, *inputs):
            return body(self, *inputs)

    return Model()


def warned(kind, program):
    """Assert that batiste warns of what Linen does in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", errors.BatisteWarning)
        program(LINEN)
    with pytest.warns(kind):
        program(nn)


def refused(kind, program):
    """Assert that batiste refuses what Linen takes."""
    program(LINEN)
    with pytest.raises(kind):
        program(nn)


# --- arithmetic


@row("`avg_pool`, sums by `pool` in half precision")
def _():
    ones = jnp.ones((1, 32, 32, 1), jnp.bfloat16)
    theirs, ours = both(lambda linen: linen.avg_pool(ones, (32, 32)).item())
    assert (theirs, ours) == (0.25, 1.0)


@row("`avg_pool` of small integers, of Booleans")
def _():
    many = jnp.full((1, 2, 2, 1), 100, jnp.uint8)
    theirs, ours = both(lambda linen: linen.avg_pool(many, (2, 2)).item())
    assert (theirs, ours) == (36, 100)


@row("a mask or bias of attention that is larger than the weights")
def _():
    x = jnp.ones((1, 3, 2, 4))
    refused(errors.AttentionMaskError, lambda linen: linen.dot_product_attention(x, x, x, mask=jnp.ones((2, 1, 3, 3))))


def decoding(linen, steps, mask=None):
    layer = linen.MultiHeadDotProductAttention(num_heads=1, decode=True, qkv_features=3)
    variables = layer.init(KEY, jnp.ones((1, 2, 3)))
    for _ in range(steps):
        y, cache = layer.apply(variables, jnp.ones((1, 1, 3)), mask=mask, mutable=["cache"])
        variables |= cache
    return y


@row("a mask of the whole sequence while decoding")
def _():
    theirs, ours = both(lambda linen: decoding(linen, 1, mask=linen.make_causal_mask(jnp.ones((1, 2)))))
    assert (theirs.shape, ours.shape) == ((1, 2, 3), (1, 1, 3))


@row("decoding past the end of the cache")
def _():
    refused(errors.CacheLengthError, lambda linen: decoding(linen, 3))


def normed(linen, x, **options):
    norm = linen.BatchNorm(use_running_average=False, momentum=0.0)
    _, changed = norm.apply(norm.init(KEY, x), x, mutable=["batch_stats"], **options)
    return changed["batch_stats"]["mean"]


@row("norms with `mask` and `axis_name`")
def _():
    members = jnp.array([[1.0, 2, 3, 4], [10, 0, 0, 0]])[..., None]
    present = jnp.array([[1, 1, 1, 1], [1, 0, 0, 0]], bool)[..., None]

    def mean(linen):
        norm = linen.BatchNorm(use_running_average=False, momentum=0.0, axis_name="members")
        start = norm.init(KEY, members[0])
        run = jax.vmap(lambda x, mask: norm.apply(start, x, mask=mask, mutable=["batch_stats"])[1], axis_name="members")
        return run(members, present)["batch_stats"]["mean"][0, 0].item()

    assert both(mean) == (6.25, 4.0)


@row("a batch, or a row, with nothing to average")
def _():
    theirs, ours = both(lambda linen: normed(linen, X, mask=jnp.zeros((2, 1), bool)))
    assert jnp.isnan(theirs).all()
    assert (ours == 0).all()


@row("norms with `axis_name`, `init` outside of the mapped axis")
def _():
    with pytest.raises(NameError):
        LINEN.LayerNorm(axis_name="i").init(KEY, X)
    assert nn.LayerNorm(axis_name="i").init(KEY, X)["params"]["scale"].shape == (3,)


@row("`force_float32_reductions=False`, `WeightNorm`, `SpectralNorm` in float16")
def _():
    def largest(linen):
        norm = linen.LayerNorm(force_float32_reductions=False, param_dtype=jnp.float16, use_fast_variance=False)
        x = jnp.array([[300.0, -300]], jnp.float16)
        return abs(norm.apply(norm.init(KEY, x), x)).max().item()

    assert both(largest) == (0.0, 1.0)


@row('`ConvTranspose`, `"CIRCULAR"` with `transpose_kernel`')
def _():
    x, y = jnp.sin(jnp.arange(6.0)).reshape(1, 6, 1), jnp.cos(jnp.arange(6.0)).reshape(1, 6, 1)

    def gap(linen):
        options = {"kernel_size": (2,), "padding": "CIRCULAR", "use_bias": False}
        kernel = {"params": {"kernel": jnp.array([1.0, 3.0]).reshape(2, 1, 1)}}
        forth = linen.Conv(1, **options).apply(kernel, x)
        back = linen.ConvTranspose(1, transpose_kernel=True, **options).apply(kernel, y)
        return abs((forth * y).sum() - (x * back).sum()).item()

    theirs, ours = both(gap)
    assert theirs > 0.1
    assert ours < 1e-5


@row("an id out of range at `Embed(1, ...)`, or a narrow integer type")
def _():
    table = {"params": {"embedding": jnp.ones((1, 1))}}
    theirs, ours = both(lambda linen: linen.Embed(1, 1).apply(table, jnp.array([7])).item())
    assert theirs == 1
    assert np.isnan(ours)


@row("a length of 0 in `seq_lengths`, with `return_carry`")
def _():
    def carry(linen):
        rnn = linen.RNN(linen.SimpleCell(2), return_carry=True)
        x = jnp.ones((1, 2, 3))
        return rnn.apply(rnn.init(KEY, x), x, seq_lengths=jnp.array([0]))[0]

    theirs, ours = both(carry)
    assert (theirs != 0).all()
    assert (ours == 0).all()


@row("`RNN` whose inputs, cell and carry mix dtypes")
def _():
    def run(linen):
        rnn = linen.RNN(linen.GRUCell(2, param_dtype=jnp.bfloat16, recurrent_kernel_init=linen.initializers.ones))
        return rnn.init_with_output(KEY, jnp.ones((1, 2, 3)))[0].dtype

    with pytest.raises(TypeError):
        run(LINEN)
    assert run(nn) == jnp.float32


@row("orthogonal initialisers in half precision")
def _():
    with pytest.raises(NotImplementedError):
        LINEN.initializers.orthogonal()(KEY, (2, 2), jnp.float16)
    assert nn.initializers.orthogonal()(KEY, (2, 2), jnp.float16).dtype == jnp.float16


@row("layers with no inputs or no outputs")
def _():
    with pytest.raises(ZeroDivisionError):
        LINEN.Dense(2).init(KEY, jnp.ones((2, 0)))
    assert nn.Dense(2).init(KEY, jnp.ones((2, 0)))["params"]["kernel"].shape == (0, 2)


@row("dropout from outside of a scanned or mapped body that splits its stream")
def _():
    def run(linen):
        def body(self, x):
            drop = linen.Dropout(0.5, deterministic=False)
            over = {"variable_axes": {}, "split_rngs": {"dropout": True}}
            return linen.vmap(lambda _, x: drop(x), **over)(self, x)

        return compact(linen, body).apply({}, jnp.ones((2, 16)), rngs={"dropout": KEY})

    same = run(LINEN)
    assert (same[0] == same[1]).all()
    with pytest.raises(errors.SplitStreamError):
        run(nn)


@row("`sow` in a body whose transform does not lift the collection")
def _():
    def run(linen):
        def layer(module, x):
            module.sow("notes", "x", x)
            return x

        model = compact(linen, linen.vmap(layer, variable_axes={}, split_rngs={}))
        return model.apply({}, X, mutable=["notes"])[1]

    assert run(LINEN) == {}
    with pytest.raises(errors.SownInVainError):
        run(nn)


@row("a `Variable` of outside that a lifted body writes, and was not given as an argument")
def _():
    def run(linen):
        def body(self, x):
            count = self.variable("counts", "n", jnp.zeros, ())

            def step(_, x):
                count.value += 1
                return x * count.value

            return linen.jit(step)(self, x)

        return compact(linen, body).apply({"counts": {"n": jnp.zeros(())}}, X, mutable=["counts"])

    y, changed = run(LINEN)
    assert (y.max(), changed["counts"]["n"]) == (1, 0)
    with pytest.raises(errors.JaxTransformError):
        run(nn)


@row("what a body writes in `init` under `nn.map_variables(init=True)`")
def _():
    def halves(linen, body):
        def scaled(factor):
            return lambda variables: jax.tree.map(lambda leaf: leaf * factor, variables)

        return linen.map_variables(body, ["counts", "params"], scaled(2.0), scaled(0.5), init=True, mutable=True)

    def run(linen, times):
        def layer(module, x):
            count = module.variable("counts", "n", jnp.ones, ())
            count.value += 1
            return x * count.value * module.param("scale", lambda key: jnp.full((), 3.0))

        for _ in range(times):
            layer = halves(linen, layer)
        y, variables = compact(linen, layer).init_with_output(KEY, jnp.ones(()))
        return float(y), float(variables["counts"]["n"]), float(variables["params"]["scale"])

    assert [run(nn, times) for times in (0, 1, 2)] == [(6, 2, 3), (6, 1, 1.5), (6, 0.5, 0.75)]
    assert run(LINEN, 0) == (6, 2, 3)
    assert [run(LINEN, times)[0] for times in (1, 2)] != [6, 6]


@row("keyword arguments of a body of `nn.vmap`")
def _():
    def run(linen):
        layer = linen.vmap(lambda module, x, y=0.0: x + y, variable_axes={}, split_rngs={})
        return compact(linen, lambda self, x: layer(self, x, y=2 * x)).apply({}, X)

    assert jnp.array_equal(run(nn), 3 * X)
    with pytest.warns(RuntimeWarning, match="ignored"):
        assert jnp.array_equal(run(LINEN), X)


# --- mistakes


@row("`nn.LayerNorm(x)`, the input where the layer is made")
def _():
    refused(errors.LayerInputError, lambda linen: compact(linen, lambda self, x: linen.LayerNorm(x)).apply({}, X))


@row("`return nn.Dense(3)`, a layer that is not called")
def _():
    warned(
        errors.ModuleResultWarning,
        lambda linen: compact(linen, lambda self, x: linen.Dense(3)).apply({}, X, mutable=[]),
    )


@row('`Model(nn.Dense(3, name="head"))`, without `preserve_adopted_names`')
def _():
    def run(linen):
        class Model(linen.Module):
            inner: linen.Module

            @linen.compact
            def __call__(self, x):
                return self.inner(x)

        return Model(linen.Dense(3, name="head")).init(KEY, X)

    assert list(run(LINEN)["params"]) == ["inner"]
    warned(errors.AdoptedNameWarning, run)


@row('`mutable=["intermediate"]`, which nothing makes')
def _():
    warned(
        errors.CollectionNameWarning,
        lambda linen: compact(linen, lambda self, x: x).apply({}, X, mutable=["intermediate"]),
    )


@row("a submodule that a lifted body names, and a second one of that name after it")
def _():
    def run(linen):
        def layer(_, x):
            return linen.Dense(3, name="layer")(x)

        return compact(linen, lambda self, x: layer(self, linen.jit(layer)(self, x))).init(KEY, X)

    assert list(run(LINEN)["params"]) == ["layer"]
    with pytest.raises(errors.NameInUseError):
        run(nn)


@row("a perturbation of a shape that broadcasts")
def _():
    given = {"perturbations": {"p": jnp.ones((1, 3))}}
    refused(
        errors.PerturbationError, lambda linen: compact(linen, lambda self, x: self.perturb("p", x)).apply(given, X)
    )


# --- arguments

ONE = {"params": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones(1)}}
NORM = {"params": {"scale": jnp.ones(3), "bias": jnp.ones(3)}}


@row("`True` for a size, as in `Dense(True)`")
def _():
    refused(errors.ArgumentError, lambda linen: linen.Dense(True).apply(ONE, X))


@row("a negative, infinite or NaN `epsilon`, `momentum`, `stddev`")
def _():
    refused(errors.ArgumentError, lambda linen: linen.LayerNorm(epsilon=float("nan")).apply(NORM, X))


@row("an array with axes as `epsilon`, as in `LayerNorm(x)`")
def _():
    refused(errors.BatisteError, lambda linen: linen.LayerNorm(epsilon=jnp.ones((2, 3))).apply(NORM, X))


@row("`Conv(8, 3)` on images `[batch, height, width, channels]`")
def _():
    warned(errors.AxesWarning, lambda linen: jax.eval_shape(linen.Conv(8, 3).init, KEY, jnp.ones((2, 4, 4, 3))))


@row("`Conv(8, (3, 3))` on `[batch, 28, 28]`, without channels")
def _():
    warned(errors.AxesWarning, lambda linen: jax.eval_shape(linen.Conv(8, (3, 3)).init, KEY, jnp.ones((2, 28, 28))))


@row("a window of `max_pool` and others that moves along the batch")
def _():
    warned(errors.AxesWarning, lambda linen: linen.max_pool(jnp.ones((2, 6, 6)), (2, 2)))


@row('`self.param(3, ...)`, `self.sow("", ...)`: a name that is no text, or empty')
def _():
    refused(
        errors.BatisteError,
        lambda linen: compact(linen, lambda self, x: self.sow("n", "", x)).apply({}, X, mutable=["n"]),
    )


@row('`mutable=[None]`, `capture_intermediates="yes"`')
def _():
    refused(errors.BatisteError, lambda linen: compact(linen, lambda self, x: x).apply({}, X, mutable=[None]))


@row('`variable_axes={"params": 1.5}`, `static_argnums="x"`, `policy="dots"` of a transform')
def _():
    refused(errors.BatisteError, lambda linen: linen.vmap(linen.Dense, variable_axes={"params": 1.5}))


@row('`fallback="error"` of logical axes, names of axes that are numbers')
def _():
    refused(errors.BatisteError, lambda linen: linen.with_logical_constraint(X, (None, None), fallback="error"))


@row("gradients of another shape than their parameters in `TrainState.apply_gradients`")
def _():
    def run(kind):
        state = kind.create(apply_fn=None, params={"w": jnp.ones(3)}, tx=optax.sgd(0.1))
        return state.apply_gradients(grads={"w": jnp.ones((3, 3))})

    with jax.numpy_rank_promotion("allow"):
        assert run(flax.training.train_state.TrainState).params["w"].shape == (3, 3)
    with pytest.raises(errors.BatisteError):
        run(batiste.TrainState)


@pytest.mark.parametrize("first_cell", ROWS)
def test_row(first_cell):
    ROWS[first_cell]()


def test_every_row_has_a_program():
    assert [*cells("Arithmetic"), *cells("Errors"), *cells("Arguments")] == list(ROWS)
