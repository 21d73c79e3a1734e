"""``Region``: modules as a pure function of variables and keys, for a transform that somebody writes themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import nn
from batiste.errors import (
    InvalidScopeError,
    MixedCallsError,
    NameInUseError,
    ScopeCollectionNotFound,
    ScopeParamNotFoundError,
    TransformedMethodReturnValueError,
    TransformedModuleError,
)
from tests.nn.oracle import drawn

KEY = jax.random.key(0)
X = drawn(1, 3, 4)


class Layer(nn.Module):
    """State of every kind: parameters, a counter, a sown value, dropout."""

    @nn.compact
    def __call__(self, x):
        seen = self.variable("stats", "seen", jnp.zeros, ())
        if not self.is_initializing():
            seen.value += x.sum()
        self.sow("intermediates", "mean", x.mean())
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(4)(nn.tanh(x)))


def through(transform):
    """Return a transform of a function of a module, by way of a region."""

    def lifted(function, module, *inputs):
        region = nn.Region.take(module)
        if region.is_initializing:
            return region.run_in_place(function, (module, *inputs))

        @transform
        def body(variables, streams, *inputs):
            return region.run(function, variables, streams, (module, *inputs))

        output, written = body(region.variables, region.streams, *inputs)
        region.publish(written)
        return output

    return lifted


def plainly(function, module, *inputs):
    return function(module, *inputs)


LIFTS = {
    "checkpoint": through(jax.checkpoint),
    "jit": through(jax.jit),
    "nested": lambda function, module, x: through(jax.jit)(
        lambda module, x: through(jax.checkpoint)(function, module, x), module, x
    ),
}


def nets(lift):
    """Return networks that use ``lift`` in every style in which modules are written."""

    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x):
            return lift(Layer.__call__, Layer(), lift(Layer.__call__, Layer(), x))

    class Midst(nn.Module):
        """The function makes submodules of the module that calls the transform, and both go on numbering."""

        @nn.compact
        def __call__(self, x):
            def two(module, x):
                return Layer()(Layer()(x))

            x = nn.Dense(4)(x)
            return nn.Dense(4)(Layer()(lift(two, self, Layer()(x))))

    class Setup(nn.Module):
        def setup(self):
            self.first, self.more = Layer(), [Layer(), Layer()]

        def __call__(self, x):
            for layer in (self.first, *self.more):
                x = lift(Layer.__call__, layer, x)
            return lift(Layer.__call__, self.first, x)

    class Holder(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            return Layer()(self.inner(x))

    class Passed(nn.Module):
        """The module that is taken holds a module from elsewhere."""

        @nn.compact
        def __call__(self, x):
            shared = Layer()
            return lift(Holder.__call__, Holder(shared), shared(x))

    return {"compact": Compact(), "midst": Midst(), "setup": Setup(), "passed": Passed()}


def run(model):
    rngs = {"params": KEY, "dropout": jax.random.key(2)}
    variables = model.init(rngs, X)

    def loss(params):
        output, changed = model.apply({**variables, "params": params}, X, rngs=rngs, mutable=["stats", "intermediates"])
        return jnp.sum(output**2), (output, changed)

    quickly = jax.jit(jax.grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    return variables, quickly(variables["params"])


@pytest.fixture(scope="module")
def plain():
    return {style: run(model) for style, model in nets(plainly).items()}


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("style", ["compact", "midst", "setup", "passed"])
def test_is_what_it_is_without(style, lift, plain):
    wanted, found = plain[style], run(nets(LIFTS[lift])[style])
    paths = [
        [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(t)] for t in (wanted, found)
    ]
    assert paths[0] == paths[1]
    jax.tree.map(np.testing.assert_array_equal, wanted[0], found[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), wanted[1], found[1])


def test_groups_and_streams():
    seen = {}

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = Layer()
            if self.is_initializing():
                return layer(x)
            region = nn.Region.take(layer, ["params", nn.DenyList("params")], ["dropout"])
            seen.update(variables=region.variables, streams=region.streams, path=region.path)
            output, written = region.run(Layer.__call__, region.variables, region.streams, (layer, x))
            seen["written"] = written
            return output  # and nothing is published

    rngs = {"params": KEY, "dropout": jax.random.key(2)}
    variables = Net().init(rngs, X)
    _, changed = Net().apply(variables, X, rngs=rngs, mutable=["stats", "intermediates"])
    assert [set(held) for (held,) in seen["variables"]] == [{"params"}, {"stats"}]
    assert [set(held) for (held,) in seen["streams"]] == [{"dropout"}]
    assert [set(group) for group in seen["written"]] == [
        set(),
        {("stats", "Layer_0", "seen"), ("intermediates", "Layer_0", "mean")},
    ]
    assert seen["path"] == "/Layer_0"
    assert changed["stats"]["Layer_0"]["seen"] == 0
    assert not changed.get("intermediates")


def test_what_no_filter_accepts_is_not_seen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(4)
            if self.is_initializing():
                return layer(x)
            region = nn.Region.take(layer, ["stats"])
            return region.run(nn.Dense.__call__, region.variables, region.streams, (layer, x))[0]

    with pytest.raises(ScopeCollectionNotFound, match="params"):
        Net().apply(Net().init(KEY, X), X)


def test_a_variable_that_was_not_given_is_said_to_be_missing_outside():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True})(4)(x)

    with pytest.raises(ScopeParamNotFoundError, match="/ holds Dense_0"):
        Net().apply({"params": {"Dense_0": {}}}, X)


def test_mistakes():
    dense = nn.Dense(4)
    variables = dense.init(KEY, X)
    bound, other = dense.bind(variables), dense.bind(variables)
    with pytest.raises(TransformedModuleError, match="an unbound Dense"):
        nn.Region.take(dense)
    with pytest.raises(TransformedModuleError, match="no module"):
        nn.Region.take(X)
    with pytest.raises(MixedCallsError):
        nn.Region.take([bound, other])
    region = nn.Region.take(bound)
    with pytest.raises(TransformedMethodReturnValueError, match="Dense"):
        region.run(lambda module: module, region.variables, region.streams)
    kept = []
    dense.apply(variables, X, method=lambda module, x: kept.append(module))
    with pytest.raises(InvalidScopeError):
        nn.Region.take(kept[0])


def test_names_are_the_scopes_alone():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = LIFTS["jit"](lambda module, x: nn.Dense(4, name="mine")(x), self, x)
            assert self.scope.child_names() == ["mine"]
            return nn.Dense(4, name="mine")(x)

    with pytest.raises(NameInUseError, match="a submodule Dense"):
        Two().init(KEY, X)


def test_a_block_that_is_a_template_takes_no_name():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            nn.Repeat(nn.Dense(4), 2, name="h")
            assert self.scope.child_names() == ["h", "h_0", "h_1"]
            assert self.scope.numbers == {"Dense": 0}
            return x

    Net().init(KEY, X)


def test_two_modules_at_one_scope_count_for_themselves():
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(x)

    class Outer(nn.Module):
        def setup(self):
            self.inner = Inner()
            nn.share_scope(self, self.inner)

        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(self.inner(x))

    with pytest.raises(NameInUseError, match="Dense_0"):
        Outer().init(KEY, X)
