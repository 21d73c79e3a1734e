"""`Repeat` is the loop over blocks that it stands for, stored in two ways and run in two ways."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import nn, tree
from batiste.errors import (
    NameInUseError,
    RepeatBlockError,
    RepeatCarryError,
    RepeatInputError,
    RepeatLayersError,
    ScopeParamNotFoundError,
)
from tests.nn.oracle import drawn

KEY = jax.random.key(0)
X = drawn(1, 2, 5, 4)
RUNS = ["scan", "loop"]


class Block(nn.Module):
    """A parameter, dropout, a counter and a sown value: something of every kind of state."""

    scale: Any = 1.0
    causal: bool = False

    @nn.compact
    def __call__(self, x, train=True):
        y = nn.Dropout(0.1, deterministic=not train)(jnp.cumsum(x, 1) if self.causal else x)
        y = nn.Dropout(0.3, deterministic=not train)(nn.tanh(y))
        self.sow("intermediates", "mean", y.mean())
        seen = self.variable("stats", "seen", jnp.zeros, ())
        if self.is_mutable_collection("stats") and not self.is_initializing():
            seen.value += y.sum()
        return x + self.scale * nn.Dense(x.shape[-1])(y)


class WithInner(nn.Module):
    """A block with lifted transforms and a `Repeat` of its own."""

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.remat(Block, static_argnums=2)(name="again")(x, train)
        x = nn.Repeat(Block(), 2, name="inner", run="loop")(x, train=train)
        rows = nn.vmap(nn.Dropout, in_axes=0, split_rngs={"dropout": True}, variable_axes={})
        return rows(0.2, deterministic=not train)(x)


class Net(nn.Module):
    """`run` is how Repeat runs, or "written" for the loop that it stands for."""

    run: str
    blocks: Any = (Block(),)
    n: int = 3
    twice: bool = False
    remat: Any = False

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(4)(x)
        if self.run == "written":
            layers = [self.blocks[i % len(self.blocks)].clone(name=f"h_{i}") for i in range(self.n * len(self.blocks))]
            layers = [layer.clone(parent=self) for layer in layers]
        else:
            layers = [nn.Repeat(self.blocks, self.n, name="h", run=self.run, remat=self.remat)]
        for _ in range(1 + self.twice):
            for layer in layers:
                x = layer(x, train=train)
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


class InSetup(nn.Module):
    run: str

    def setup(self):
        self.h = (
            [Block() for _ in range(3)] if self.run == "written" else nn.Repeat(Block(), 3, run=self.run, name=None)
        )
        self.head = nn.Dense(2)

    def __call__(self, x, train=True):
        if self.run == "written":
            for block in self.h:
                x = block(x, train)
            return self.head(x)
        return self.head(self.h(x, train=train))


def lifted(transform):
    def make(run):
        return transform(Net)(run)

    return make


MODELS = {
    "plain": Net,
    "pattern": lambda run: Net(run, blocks=(Block(causal=True), Block()), n=2),
    "called_twice": lambda run: Net(run, twice=True),
    "remat": lambda run: Net(run, remat=True),
    "remat_policy": lambda run: Net(run, remat=jax.checkpoint_policies.dots_saveable),
    "nested": lambda run: Net(run, (WithInner(),), 2),
    "setup": InSetup,
    "inside_jit": lifted(nn.jit),
    "inside_remat": lifted(nn.remat),
}
ONE_RUN = {"remat": "scan", "remat_policy": "loop", "inside_jit": "loop", "inside_remat": "scan"}
"""What does not ask how the layers run is run in one way."""
CASES = [(name, run) for name in MODELS for run in RUNS if ONE_RUN.get(name, run) == run]


def paths(variables):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}


def assert_close(found, wanted, **tolerance):
    found, wanted = paths(found), paths(wanted)
    assert list(found) == list(wanted)
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, err_msg=path, **tolerance)


def stacked(variables):
    return {c: tree.stack_layers(t, "h") if "h_0" in str(paths(t)) else t for c, t in variables.items()}


def unstacked(variables):
    return {c: tree.unstack_layers(t, "h") if "'h'" in str(paths(t)) else t for c, t in variables.items()}


def outcome(model, variables):
    """Return output, gradients and changed collections of a training call."""

    def loss(params):
        output, changed = model.apply(
            {**variables, "params": params}, X, rngs={"dropout": KEY}, mutable=["stats", "intermediates"]
        )
        return jnp.sum(output**2), (output, changed)

    grads, (output, changed) = jax.grad(loss, has_aux=True)(variables["params"])
    return output, {"params": grads}, changed


def quickly(function):
    """Compile without optimisation: it is the compiling that takes the time here."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def written():
    """For each model the variables and the outcome of the loop written out, made once."""
    known = {}

    def get(name):
        if name not in known:
            model = MODELS[name]("written")
            variables = model.init({"params": KEY, "dropout": KEY}, X)
            known[name] = variables, quickly(lambda v: outcome(model, v))(variables)
        return known[name]

    return get


@pytest.mark.parametrize(("name", "run"), CASES)
def test_is_the_loop_written_out(name, run, written):
    wanted, (output, grads, changed) = written(name)
    model = MODELS[name](run)
    variables = model.init({"params": KEY, "dropout": KEY}, X)
    assert_close(variables, wanted, rtol=0)
    for how in (lambda v: v, stacked) if name in {"plain", "pattern"} else (lambda v: v,):
        found = quickly(lambda v: outcome(model, v))(how(variables))
        np.testing.assert_allclose(found[0], output, rtol=1e-5, atol=1e-6)
        assert_close(unstacked(found[1]), grads, rtol=1e-4, atol=1e-5)
        assert_close(unstacked(found[2]), changed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("how", [lambda v: v, stacked], ids=["layers", "stacked"])
def test_outside_of_a_trace(run, how, written):
    variables, (output, _, changed) = written("plain")
    given = how(variables)
    found, state = Net(run).apply(given, X, rngs={"dropout": KEY}, mutable=["stats", "intermediates"])
    np.testing.assert_allclose(found, output, rtol=1e-5, atol=1e-6)
    assert_close(unstacked(state), changed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", RUNS)
def test_the_separated_key_scheme(run):
    variables = Net(run).init({"params": KEY, "dropout": KEY}, X, key_scheme="separated")
    options = {"rngs": {"dropout": KEY}, "key_scheme": "separated"}
    wanted = Net("written").apply(variables, X, **options)
    found = quickly(lambda v: Net(run).apply(v, X, **options))(variables)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert not np.allclose(found, Net(run).apply(variables, X, rngs={"dropout": KEY}))


class Scaled(nn.Module):
    run: str

    @nn.compact
    def __call__(self, x, more):
        if self.run == "written":
            outputs = []
            for i in range(3):
                x = Block(scale=jnp.float32(i + 1), name=f"h_{i}")(x + more[i], train=False)
                outputs.append({"mean": x.mean(), "first": x[0]})
            return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)
        repeat = nn.Repeat(
            Inner(), 3, fields={"scale": [1.0, 2.0, 3.0]}, in_axes=(0, nn.broadcast), has_outputs=True, run=self.run,
            name="h",
        )  # fmt: skip
        return repeat(x, more, "text")


class Inner(Block):
    @nn.compact
    def __call__(self, x, more, text):
        assert text == "text"
        x = Block.__call__(self, x + more, train=False)
        return x, {"mean": x.mean(), "first": x[0]}


@pytest.mark.parametrize("run", RUNS)
def test_what_differs_from_layer_to_layer(run):
    more = jnp.arange(12.0).reshape(3, 1, 1, 4)
    variables = Scaled("written").init(KEY, X, more)
    assert_close(Scaled(run).init(KEY, X, more), variables, rtol=0)
    wanted = Scaled("written").apply(variables, X, more)
    for how in (jax.jit, lambda function: function):
        for given in (variables, stacked(variables)):
            found = how(Scaled(run).apply)(given, X, more)
            assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", RUNS)
def test_a_cache(run):
    class Decoder(nn.Module):
        run: str

        @nn.compact
        def __call__(self, x):
            block = Step()
            if self.run == "written":
                for i in range(3):
                    x = Step(name=f"h_{i}")(x)
                return x
            return nn.Repeat(block, 3, name="h", run=self.run)(x)

    class Step(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.MultiHeadDotProductAttention(num_heads=2, decode=True)(x, x)

    variables = Decoder("written").init(KEY, X)
    assert_close(Decoder(run).init(KEY, X), variables, rtol=0)
    for how in (lambda v: v, stacked):
        ours, theirs = how(variables), variables
        decode = quickly(lambda v, t: Decoder(run).apply(v, t, mutable=["cache"]))
        for step in range(3):
            token = X[:, step : step + 1]
            found, cache = decode(ours, token)
            wanted, other = Decoder("written").apply(theirs, token, mutable=["cache"])
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
            ours, theirs = {**ours, **cache}, {**theirs, **other}
        assert_close(unstacked(cache), other, rtol=1e-5, atol=1e-6)


def test_boxes_keep_the_names_of_axes():
    dense = nn.Dense(4, kernel_init=nn.with_partitioning(nn.initializers.normal(), ("in", "out")))
    model = nn.Repeat(dense, 3, name="h")
    variables = model.init(KEY, X)
    assert variables["params"]["h_1"]["kernel"].names == ("in", "out")
    wanted = model.apply(nn.unbox(variables), X)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, X), wanted, rtol=1e-6)


def test_names():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Repeat(nn.Dense(4), 2)(nn.Dense(4)(x))
            return nn.Dense(4)(nn.Repeat(lambda: nn.Dense(4), 2)(x))

    # a block that is written down in a compact method takes no automatic name
    wanted = {"Dense_0", "Repeat_0_0", "Repeat_0_1", "Repeat_1_0", "Repeat_1_1", "Dense_1"}
    assert set(Two().init(KEY, X)["params"]) == wanted
    assert set(nn.Repeat(nn.Dense(4), 2).init(KEY, X)["params"]) == {"layers_0", "layers_1"}


def test_a_name_that_is_taken():
    class Clash(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="h_1")(x)
            return nn.Repeat(nn.Dense(4), 2, name="h")(x)

    with pytest.raises(NameInUseError, match="h_1"):
        Clash().init(KEY, X)


def test_is_a_value():
    one, two = nn.Repeat(Block(), 3, name="h"), nn.Repeat(Block(), 3, name="h")
    assert one == two
    assert hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own
    assert one.clone(n=4).length == 4
    assert repr(nn.Repeat([nn.Dense(4), nn.Dense(4)])) == "Repeat(block=Dense(features=4), n=2)"
    assert one.blocks == (Block(),)
    assert nn.Repeat([nn.Dense(4), nn.Dense(4, use_bias=False)], 2).length == 4
    local, whole = Block(causal=True), Block()
    assert nn.Repeat([local, local, whole] * 2) == nn.Repeat([local, local, whole], 2)  # a pattern given whole


@pytest.mark.parametrize("run", RUNS)
def test_captures(run, written):
    variables, _ = written("plain")
    wanted = Net("written").apply(variables, X, rngs={"dropout": KEY}, capture_intermediates=True)[1]
    found = quickly(lambda v: Net(run).apply(v, X, rngs={"dropout": KEY}, capture_intermediates=True)[1])(variables)
    assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("short_collections")
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("how", [lambda v: v, stacked], ids=["layers", "stacked"])
def test_no_tracer_is_left_and_nothing_is_changed(run, how, written):
    variables, _ = written("plain")
    given = how(variables)
    before = jax.tree.map(np.array, given)
    with jax.checking_leaks():
        jax.eval_shape(lambda v: outcome(Net(run), v), given)
    assert_close(given, before, rtol=0)


def test_the_block_is_traced_once():
    calls = []

    class Noted(nn.Module):
        @nn.compact
        def __call__(self, x):
            calls.append(1)
            return nn.Dense(x.shape[-1])(x)

    for run in RUNS:
        variables = nn.Repeat(Noted(), 20, run=run).init(KEY, X)
        calls.clear()
        jax.jit(nn.Repeat(Noted(), 20, run=run).apply).lower(variables, X)
        assert len(calls) <= 2


def test_init_compiles_one_program_for_each_initialiser():
    with jax.log_compiles(), Counter() as counter:
        nn.Repeat(nn.Dense(7), 4).init(KEY, jnp.ones((2, 7)))
    few = counter.count
    with jax.log_compiles(), Counter() as counter:
        nn.Repeat(nn.Dense(9), 40).init(KEY, jnp.ones((2, 9)))
    assert counter.count == few


class Counter:
    """Counts the programs that JAX compiles."""

    count = 0

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        return self

    def _heard(self, event, *_, **__):
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self._heard)


# --- what is said of bad input is the same in every way of running


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("how", [jax.jit, lambda function: function], ids=["jit", "eager"])
class TestMistakes:
    def test_a_layer_is_missing(self, run, how):
        model = nn.Repeat(nn.Dense(4), 3, name="h", run=run)
        variables = model.init(KEY, X)
        del variables["params"]["h_1"]
        with pytest.raises(RepeatLayersError, match=r"params/\*/bias has shape \(4,\) in h_0, but is missing in h_1"):
            how(model.apply)(variables, X)

    def test_a_layer_has_another_shape(self, run, how):
        model = nn.Repeat(nn.Dense(4), 3, name="h", run=run)
        variables = model.init(KEY, X)
        variables["params"]["h_2"]["kernel"] = jnp.ones((4, 5))
        with pytest.raises(RepeatLayersError, match=r"kernel has shape \(4, 4\) in h_0, but has shape \(4, 5\) in h_2"):
            how(model.apply)(variables, X)

    def test_stacked_for_another_depth(self, run, how):
        variables = stacked(nn.Repeat(nn.Dense(4), 3, name="h").init(KEY, X))
        with pytest.raises(
            RepeatLayersError, match=r"params/h/bias has shape \(3, 4\) in place of a leading axis of 4"
        ):
            how(nn.Repeat(nn.Dense(4), 4, name="h", run=run).apply)(variables, X)

    def test_nothing_is_there(self, run, how):
        with pytest.raises(ScopeParamNotFoundError, match="h_0"):
            how(nn.Repeat(nn.Dense(4), 3, name="h", run=run).apply)({"params": {"k_0": {}}}, X)

    def test_the_carry_changes(self, run, how):
        model = nn.Repeat(nn.Dense(5), 2, name="h", run=run)
        with pytest.raises(RepeatCarryError, match=r"h_0 returns float32\[2, 5, 5\] in place of float32\[2, 5, 4\]"):
            how(model.init)(KEY, X)

    def test_entries_for_another_number_of_layers(self, run, how):
        model = nn.Repeat(Block(), 3, run=run, fields={"scale": [1.0, 2.0]})
        with pytest.raises(RepeatInputError, match=r"the field 'scale' has shape \(2,\) in place of 3 entries"):
            how(model.init)(KEY, X)


def test_blocks_that_are_none():
    for block, n, run in ((3, 2, "scan"), ([], 2, "scan"), (Block(), 0, "scan"), (Block(), 2, "fast")):
        with pytest.raises(RepeatBlockError):
            nn.Repeat(block, n, run)
