# ruff: noqa: PLW0108 - models are written as their users write them, with lambdas
"""``init`` without a forward pass: what is compiled, what is run, and that the values are Linen's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from batiste.errors import BatisteWarning, LazyInitError
from batiste.module import Module, compact
from tests.core.compiling import compiled
from tests.module.libraries import BATISTE, LINEN, assert_equal, plain, same

X = jnp.arange(6.0).reshape(2, 3) / 10
KEY = jax.random.key(0)
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1), "noise": jax.random.key(2)}
SHAPE = jax.ShapeDtypeStruct((2, 3), jnp.float32)
init = jax.nn.initializers


def rotated(key, shape, dtype=jnp.float32):
    """Return an initial value as a user may write it."""
    return jnp.roll(init.normal(0.3)(key, shape, dtype), 1, axis=0)


def tower(nn, depth):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            scale = self.param("scale", init.ones, (1, 3))
            return x + nn.Dense(3)(jnp.tanh(nn.Dense(4)(x * scale)))

    class Tower(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(depth):
                x = Block()(x)
            return nn.Dense(2)(x)

    return Tower()


# --- what is compiled and run


def test_a_deep_model_compiles_what_a_shallow_one_does():
    jax.clear_caches()
    with compiled() as shallow:
        tower(BATISTE, 2).init(KEY, SHAPE)
    assert sorted(shallow) == ["draw_bits"] + ["finish"] * 3  # kernels of three shapes; biases and scale need none
    with compiled() as deep:
        tower(BATISTE, 8).init(KEY, SHAPE)
    assert deep == []


def test_equal_initialisers_are_one_program():
    class Model(Module):
        @compact
        def __call__(self):
            for i in range(3):
                self.param(f"a{i}", init.normal(0.02), (7, 3))
                self.param(f"b{i}", functools.partial(rotated, dtype=jnp.bfloat16), (7, 3))
                self.param(f"c{i}", lambda key, shape: rotated(key, shape) * 2, [7, 3])
            self.param("d", init.normal(0.02), (7, 3), jnp.float32)  # another call of the same program

    jax.clear_caches()
    with compiled() as names:
        Model().init(KEY)
    # Three draw 32 bits, and share the program that does; one draws 8 bits.
    assert sorted(names) == ["draw", "draw_bits", "finish", "finish"]


def test_no_operation_of_the_forward_pass_runs():
    ran = []

    class Model(Module):
        @compact
        def __call__(self, x):
            jax.debug.callback(lambda: ran.append("debug"))
            y = jax.pure_callback(lambda a: (ran.append("pure"), np.asarray(a))[1], x, x)
            z = io_callback(lambda a: (ran.append("io"), np.asarray(a))[1], x, x)
            kernel = self.param("kernel", init.ones, (3, 3))
            mean = self.variable("stats", "mean", jnp.zeros, (3,))
            mean.value = mean.value + kernel.sum(0)  # depends on the parameters alone
            return (y + z) @ kernel

    variables = Model().init(KEY, X)
    jax.effects_barrier()
    assert ran == []
    np.testing.assert_array_equal(variables["stats"]["mean"], [3, 3, 3])


# --- values


def values_of_initialisers(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self):
            for name in ("lecun_normal", "he_uniform", "orthogonal", "truncated_normal"):
                self.param(name, getattr(init, name)(), (4, 3))
            self.param("ones", init.ones, (2,), jnp.bfloat16)
            self.param("constant", init.constant(3), (2,), jnp.int32)
            self.param("uniform", init.uniform(2.0), (5,), jnp.float16)
            self.param("bfloat16", init.normal(0.02), (5,), jnp.bfloat16)

    return Model().init(KEY)


def values_of_users(nn):
    table = jnp.arange(4.0)
    rows = np.arange(4.0)

    def closure(scale):
        return lambda key, shape: scale * jax.random.uniform(key, shape)

    class Model(nn.Module):
        @nn.compact
        def __call__(self):
            self.param("lambda", lambda key, shape: jax.random.uniform(key, shape) - 1, (3,))
            self.param("partial", functools.partial(jax.random.uniform, minval=1.0, maxval=3.0), (3,))
            self.param("closure", closure(2.0), (3,))
            self.param("closure_array", closure(table), (4,))
            self.param("closure_numpy", closure(jnp.asarray(rows)), (4,))
            self.param("jitted", jax.jit(lambda key: jax.random.bits(key, (2,))))
            self.param("numpy", lambda key: np.arange(3))
            self.param("given", lambda key: table)
            self.param("int", lambda key: 3)
            self.param("float", lambda key: 2.5)
            self.param("list", lambda key: [jnp.ones(2), (jax.random.uniform(key), 5)])
            self.param("dict", lambda key: {"a": jax.random.uniform(key), "b": {"c": np.zeros(2)}})
            self.param(
                "split",
                lambda key: {n: jax.random.uniform(k) for n, k in zip("ab", jax.random.split(key), strict=True)},
            )
            self.param("keyword", lambda key, shape, *, by: jnp.full(shape, by), shape=(2,), by=4)
            self.param("key", lambda key: key)
            self.param("none", lambda key: None)
            self.variable("state", "int", lambda: 3)
            self.variable("state", "numpy", lambda: np.zeros(2))
            self.variable("state", "list", list)
            self.variable("state", "zeros", jnp.zeros, (2,), jnp.int32)
            self.variable("state", "dict", lambda n: {"a": jnp.arange(n)}, 3)
            return self.get_variable("params", "int") + 1

    return Model().init_with_output(KEY), Model().init(KEY)


def values_from_the_inputs(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            mean = self.variable("stats", "mean", lambda: x.mean(0))
            shape = self.variable("stats", "rows", lambda: jnp.asarray(x.shape[0]))
            scale = self.param("scale", lambda key: jnp.full((3,), x.max()))
            y = nn.Dense(3)(x - mean.value[None])
            self.variable("stats", "hidden", lambda: y.sum())
            mixed = self.variable("meta", "mixed", lambda: {"a": jnp.ones(2), "number": 3, "text": "t"})
            self.variable("meta", "sum", lambda: mixed.value["a"] * (2 if mixed.value["number"] == 3 else x.sum()))
            return y * scale[None] + shape.value

    return Model().init(KEY, X), Model().init_with_output(KEY, X)


def values_written_again(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            count = self.variable("state", "count", lambda: jnp.zeros((), jnp.int32))
            count.value += 1
            count.value += 1
            kept = self.variable("state", "kept", lambda: {"a": jnp.zeros(2), "b": jnp.ones(2)})
            kept.value = {**kept.value, "a": jnp.full((2,), 7.0)}
            kernel = self.param("kernel", init.uniform(1.0), (3, 3))
            self.put_variable("params", "kernel", kernel * 2)
            self.put_variable("state", "new", x.sum())
            plain = self.variable("state", "plain", lambda: 0)
            plain.value += 3
            cache = self.variable("cache", "index", lambda: jnp.zeros((), jnp.int32))
            cache.value = jnp.asarray(5, jnp.int32)
            for _ in range(2):
                self.sow("sums", "x", jnp.sum(kernel), reduce_fn=lambda a, b: a + b, init_fn=lambda: 0.0)
            return x @ kernel

    return Model().init(KEY, X), Model().init_with_output(KEY, X)


def values_from_keys_in_thunks(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("state", "noise", lambda: jax.random.uniform(self.make_rng("noise"), (2,)))
            self.variable("state", "init", lambda: init.lecun_normal()(self.make_rng("params"), (3, 2)))
            self.param("after", init.lecun_normal(), (3, 2))
            self.param("drawn", lambda key: jax.random.uniform(self.make_rng("noise"), (2,)))
            again = self.variable("state", "again", lambda: self.make_rng("noise"))
            return jax.random.uniform(again.value)

    return Model().init(KEYS, X), Model().init_with_output(KEYS, X), Model().init(KEY, X)


def values_from_other_values(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            y = layer(x)
            kernel = layer.variables["params"]["kernel"]
            self.param("copied", lambda key: kernel)
            self.param("norm", lambda key: jnp.sqrt((kernel**2).sum(0)))  # weight normalisation
            self.variable("ema", "kernel", lambda: kernel + 0)
            self.variable("ema", "tree", lambda: layer.variables["params"])
            self.variable("stats", "output", lambda: y.mean())
            return y

    return jax.jit(Model().init)(KEY, X)


def variables_written_in_thunks(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            def thunk():
                self.put_variable("state", "side", jnp.ones(2))
                return jnp.zeros(2)

            self.variable("state", "main", thunk)
            return x

    return Model().init(KEY, X)


def modules_in_thunks(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = nn.Dense(3, parent=None)
            return self.variable("target", "params", lambda: inner.init(KEY, x)).value["params"]["kernel"]

    return Model().init(KEY, X)


def outputs_with_dropout(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dropout(0.5)(x)
            return nn.Dropout(0.5)(nn.Dense(8)(x)), self.make_rng("noise"), self.make_rng("params")

    return Model().init_with_output(KEYS, X), Model().init_with_output(KEY, X), Model().init(KEYS, X)


def several_streams(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self):
            self.param("a", init.lecun_normal(), (3, 2))
            self.make_rng("params")
            self.variable("other", "a", lambda: init.lecun_normal()(self.make_rng("noise"), (3, 2)))
            self.param("b", init.lecun_normal(), (3, 2))

    rngs = [KEYS, {"params": KEYS["params"]}, {"params": jax.random.PRNGKey(0), "noise": KEY}]
    return [Model().init(each) for each in rngs]


def methods_and_arguments(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, y=None, *, deep=False, options=None, scale=1.0):
            x = nn.Dense(3)(x) if y is None else nn.Dense(3, name="with_y")(x + y["z"])
            if deep and options["width"] > 2:
                x = nn.Dense(options["width"])(x)
            return x * scale

    model = Model()
    return (
        model.init(KEY, X),
        model.init(KEY, X, None, deep=True, options={"width": 4}),
        model.init(KEY, np.asarray(X), {"z": np.float32(2)}, deep=False),
        model.init(KEY, x=X, y={"z": 2.0}, scale=jnp.float32(2)),
        model.init(KEY, X, deep=True, options={"width": np.int64(3)}),
    )


PROGRAMS = (
    values_of_initialisers, values_of_users, values_from_the_inputs, values_written_again, values_from_keys_in_thunks,
    values_from_other_values, variables_written_in_thunks, modules_in_thunks, outputs_with_dropout, several_streams,
    methods_and_arguments,
)  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_values_are_linens(program):
    same(program)


# --- within one unit in the last place of what Linen makes eagerly


def test_eager_values_are_linens_within_one_unit():
    def program(nn):
        class Model(nn.Module):
            @nn.compact
            def __call__(self):
                kernel = self.param("normal", init.normal(0.02), (50, 20))
                self.param("scaled", init.variance_scaling(0.5, "fan_avg", "normal"), (50, 20))
                self.param("norm", lambda key: jnp.sqrt((kernel**2).sum(0)))

        return Model()

    ours, theirs = program(BATISTE).init(KEY)["params"], program(LINEN).init(KEY)["params"]
    np.testing.assert_array_max_ulp(ours["normal"], theirs["normal"], maxulp=1)
    np.testing.assert_array_max_ulp(ours["scaled"], theirs["scaled"], maxulp=2)  # it rounds in two places
    np.testing.assert_allclose(ours["norm"], theirs["norm"], rtol=1e-6)
    under_jit = jax.jit(program(LINEN).init)(KEY)["params"]
    for name in ("normal", "scaled"):
        np.testing.assert_array_equal(ours[name], under_jit[name])
    assert_equal(plain(jax.jit(program(BATISTE).init)(KEY)["params"]), plain(under_jit))


# --- shapes for inputs


def test_shapes_stand_for_inputs():
    def build(nn):
        class Model(nn.Module):
            @nn.compact
            def __call__(self, x, y):
                count = self.variable("state", "count", lambda: jnp.zeros((), jnp.int32))
                count.value += 1
                shape = self.variable("state", "shape", lambda: jnp.asarray(x.shape))
                kernel = self.param("kernel", init.uniform(1.0), (3, 3))
                norm = self.variable("state", "norm", lambda: (kernel**2).sum())
                return nn.Dense(3)(x @ kernel) * norm.value + y["a"] + shape.value[0]

        return Model()

    model, y = build(BATISTE), {"a": SHAPE}
    expected = jax.jit(build(LINEN).init)(KEY, X, {"a": X})
    for variables in (model.init(KEY, SHAPE, y), model.lazy_init(KEY, SHAPE, y), model.init(KEY, X, y)):
        assert_equal(plain(variables), plain(expected))


def test_shapes_where_values_are_needed():
    class Mean(Module):
        def setup(self):
            self.inner = Inner(name="inner")

        def __call__(self, x):
            return self.inner(x)

    class Inner(Module):
        @compact
        def __call__(self, x):
            return self.variable("stats", "mean", lambda: jnp.cumsum(x).mean()).value

    class Branch(Module):
        @compact
        def __call__(self, x):
            return self.param("w", init.ones, ()) if x.sum() > 0 else x

    with pytest.raises(LazyInitError, match=r"Mean .*the value of 'stats/inner/mean' is computed from the inputs"):
        Mean().init(KEY, SHAPE)
    with pytest.raises(LazyInitError, match=r"Branch .*it looks at values while it is traced"):
        Branch().init(KEY, SHAPE)
    with pytest.raises(LazyInitError, match="its output was asked for"):
        Inner().init_with_output(KEY, SHAPE)


def test_a_loop_over_an_input_counts_as_computed_from_it():
    class Model(Module):
        through: str

        @compact
        def __call__(self, x):
            if self.through == "scan":
                value, _ = jax.lax.scan(lambda c, row: (c + row, row), jnp.zeros(3), x)
            elif self.through == "while":
                value = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 2), (0, x))[1]
            elif self.through == "cond":
                value = jax.lax.cond(x.sum() > 0, lambda: jnp.zeros(2), lambda: jnp.ones(2))
            elif self.through == "jit":
                value = jax.jit(lambda a, b: (a, b))(x, jnp.ones(2))[0]
            elif self.through == "beside":  # in one jit with x, and not made of it
                value = jax.jit(lambda a, b: (a, b))(x, jnp.ones(2))[1]
            else:
                value, _ = jax.lax.scan(lambda c, row: (c * 2, row), jnp.ones(3), x)
            return self.variable("stats", "value", lambda: value)

    for through in ("scan", "while", "cond", "jit"):
        with pytest.raises(LazyInitError):
            Model(through).init(KEY, SHAPE)
    for through in ("beside", "beside a scan"):
        assert Model(through).init(KEY, SHAPE)["stats"]["value"].sum() > 0


def test_a_shape_of_keys():
    class Model(Module):
        @compact
        def __call__(self, key):
            count = self.variable("state", "count", lambda: jnp.zeros(()))
            count.value += 1
            return jax.random.uniform(key)

    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    assert Model().init(KEY, key)["state"]["count"] == 1


# --- models that look at values


class LooksAtValues(Module):
    how: str

    @compact
    def __call__(self, x):
        if self.how == "if" and x.sum() > 0:
            x = x + 1
        elif self.how == "numpy":
            x = jnp.asarray(np.asarray(x) + 1)
        elif self.how == "int":
            x = x[: int(x.shape[0] * (x[0, 0] + 1))]
        elif self.how == "mask":
            x = x[x > 0]
        return self.param("kernel", init.lecun_normal(), (x.shape[0], 2)) * 2


@pytest.mark.parametrize("how", ["if", "numpy", "int", "mask"])
def test_a_model_that_looks_at_values_is_run(how):
    with pytest.warns(BatisteWarning, match=r"LooksAtValues\.init ran the whole model") as caught:
        variables = LooksAtValues(how).init(KEY, X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert variables["params"]["kernel"].shape[1] == 2
    with pytest.warns(BatisteWarning) as caught:
        output, again = LooksAtValues(how).init_with_output(KEY, X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert_equal(plain(again), plain(variables))
    np.testing.assert_array_equal(output, variables["params"]["kernel"] * 2)


def test_what_a_model_raises_is_what_init_raises():
    class Model(Module):
        @compact
        def __call__(self, x):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Model().init(KEY, X)


# --- init within transforms


def test_transforms_of_init():
    model, theirs = tower(BATISTE, 1), tower(LINEN, 1)
    expected = jax.jit(theirs.init)(KEY, X)
    assert_equal(plain(jax.jit(model.init)(KEY, X)), plain(expected))
    assert_equal(plain(model.init(KEY, X)), plain(expected))
    shapes = jax.eval_shape(model.init, KEY, X)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), expected) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )
    keys = jax.random.split(KEY, 3)
    stacked = jax.vmap(model.init, in_axes=(0, None))(keys, X)
    for index in range(3):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], stacked)
        assert_equal(plain(one), plain(model.init(keys[index], X)))


def test_jit_of_init_is_a_small_program():
    sizes = {}
    for depth in (1, 8):
        text = jax.jit(tower(BATISTE, depth).init).lower(KEY, X).as_text()
        assert "dot_general" not in text
        sizes[depth] = len(text)
    assert sizes[8] < 2 * sizes[1]  # one draw per initialiser, of a batch of keys


def test_gradients_through_init():
    class Model(Module):
        @compact
        def __call__(self, x):
            return x * self.param("w", lambda key: 2 * x)

    def loss(x):
        variables = Model().init(KEY, x)
        return (Model().apply(variables, x) + variables["params"]["w"]).sum()

    np.testing.assert_allclose(jax.grad(loss)(jnp.float32(3)), 4 * 3 + 2)
    output = jax.grad(lambda x: Model().init_with_output(KEY, x)[0])(jnp.float32(3))
    np.testing.assert_allclose(output, 12)


def test_vmap_over_inputs_of_init():
    class Model(Module):
        @compact
        def __call__(self, x):
            self.variable("stats", "mean", lambda: x.mean())
            return x * self.param("w", init.uniform(), (3,))

    stacked = jax.vmap(Model().init, in_axes=(None, 0), out_axes={"params": None, "stats": 0})(KEY, X)
    np.testing.assert_allclose(stacked["stats"]["mean"], X.mean(1), rtol=1e-6)
    assert stacked["params"]["w"].shape == (3,)


def test_jit_of_init_with_data_and_counters():
    def program(nn):
        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                self.variable("stats", "mean", lambda: x.mean())
                count = self.variable("state", "count", lambda: jnp.zeros(()))
                count.value += 1
                noise = jax.random.uniform(self.make_rng("noise"), x.shape)
                return nn.Dense(3)(x + noise)

        return jax.jit(Model().init)(KEYS, X), jax.jit(Model().init_with_output)(KEYS, X)

    same(program)


@pytest.mark.usefixtures("short_collections")
def test_init_leaks_no_tracer():
    class Model(Module):
        @compact
        def __call__(self, x):
            count = self.variable("state", "count", lambda: x.sum())
            count.value += 1
            return x @ self.param("kernel", init.ones, (3, 2))

    with jax.checking_leaks():
        Model().init(KEY, X)
        jax.jit(Model().init)(KEY, X)


def test_values_are_arrays_of_the_device_and_the_callers_own():
    given = jnp.arange(3.0)

    class Model(Module):
        @compact
        def __call__(self):
            self.param("a", init.ones, (2,))
            self.param("b", init.ones, (2,))
            self.param("given", lambda key: given)

    params = Model().init(KEY)["params"]
    assert all(isinstance(value, jax.Array) for value in params.values())
    assert params["a"] is not params["b"]
    assert params["given"] is given


def test_key_schemes_reach_values():
    class Leaf(Module):
        @compact
        def __call__(self):
            self.param("w", init.lecun_normal(), (2, 2))

    class Model(Module):
        @compact
        def __call__(self):
            Inner(name="ab")("cdef")
            Inner(name="abc")("def")

    class Inner(Module):
        @compact
        def __call__(self, name):
            Leaf(name=name)()

    def pair(variables):
        params = variables["params"]
        return params["ab"]["cdef"]["w"].tolist(), params["abc"]["def"]["w"].tolist()

    one, other = pair(Model().init(KEY))
    assert one == other
    one, other = pair(Model().init(KEY, key_scheme="separated"))
    assert one != other
    assert pair(jax.jit(functools.partial(Model().init, key_scheme="separated"))(KEY)) == (one, other)
