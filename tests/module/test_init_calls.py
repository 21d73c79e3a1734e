"""``init(..., calls=)``: what several methods need, made once."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, nn, shard
from batiste.diagnose import lint, summary
from batiste.errors import ArgumentError, UnknownModuleAttributeError, UnreachedWarning

KEY = jax.random.key(0)
X, Z = jnp.ones((2, 6)), jnp.ones((2, 4))


class Coder(nn.Module):
    """An autoencoder with two heads beside it."""

    def setup(self):
        self.encoder = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(4, use_bias=False)])
        self.norm = nn.BatchNorm()
        self.decoder = nn.Dense(6)
        self.heads = [nn.Dense(2), nn.Dense(3)]

    def encode(self, x, *, train=False):
        return self.norm(self.encoder(x), use_running_average=not train)

    def decode(self, z, **_):
        return self.decoder(z)

    def classify(self, z, **_):
        return [head(z) for head in self._all_heads()]

    def _all_heads(self):
        return self.heads


class Shares(nn.Module):
    """Two methods with a parameter for each, and one for both, in one scope."""

    def setup(self):
        draw = nn.initializers.normal()
        self.both = self.param("both", draw, (3,))
        self.table = nn.Embed(3, 3)

    def look_up(self, tokens):
        return self.table(tokens) + self.both

    def score(self, x):
        return self.table.attend(x * self.both)


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def equal(one, two):
    assert shapes(one) == shapes(two)
    jax.tree.map(np.testing.assert_array_equal, one, two)


ALL = [("encode", X), ("decode", Z), ("classify", Z)]


def test_the_variables_are_those_of_a_method_that_makes_the_calls():
    def both(model, x, z):
        return model.encode(x), model.decode(z), model.classify(z)

    variables = Coder().init(KEY, calls=ALL)
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == {"encoder", "norm", "decoder", "heads_0", "heads_1"}
    equal(variables, Coder().init(KEY, X, Z, method=both))


def test_each_method_gets_what_its_own_init_gives():
    variables = Coder().init(KEY, calls=ALL)
    for method, array in ALL:
        alone = Coder().init(KEY, array, method=method)
        equal({name: variables["params"][name] for name in alone["params"]}, alone["params"])
        Coder().apply(variables, array, method=method)
    shared = Shares().init(KEY, calls=[("look_up", jnp.zeros((), int)), ("score", jnp.ones(3))])
    equal(shared, Shares().init(KEY, jnp.ones(3), method="score"))


def test_methods_are_names_or_functions_and_keywords_go_to_each():
    shape = jax.ShapeDtypeStruct((2, 6), jnp.float32)
    decode = functools.partial(Coder.decode, unused=True)
    calls = [(Coder.encode, shape), (decode, Z), (lambda model, z, **_: model.classify(z), Z)]
    equal(Coder().init(KEY, calls=calls, train=False), Coder().init(KEY, calls=ALL))


def test_transforms_state_mesh_and_summary_take_calls():
    wanted = Coder().init(KEY, calls=ALL)
    assert jax.eval_shape(lambda key: Coder().init(key, calls=ALL), KEY).keys() == wanted.keys()
    state = jax.eval_shape(lambda key: TrainState.init(Coder(), optax.sgd(0.1), key, calls=ALL), KEY)
    assert shapes(state.params) == shapes(wanted["params"])
    mesh = jax.make_mesh((2,), ("model",))
    placed = shard.init(nn.Dense(2), mesh, {"**": jax.sharding.PartitionSpec()}, KEY, calls=[("__call__", X)])
    assert placed["params"]["kernel"].shape == (6, 2)
    assert "params/heads_1/kernel" in str(summary(Coder(), calls=ALL))


def test_what_no_call_reaches_is_named_with_the_methods_that_use_it():
    with pytest.warns(UnreachedWarning) as caught:
        variables = Coder().init(KEY, calls=ALL[:2])
    text = str(caught[0].message)
    assert text.count("\n") == 1
    assert "Coder.init(calls=...) made no variables for 'heads_0' (Dense)" in text
    assert "used by classify: add ('classify', ...) to calls" in text
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        everything = jax.eval_shape(lambda: Coder().init(KEY, calls=ALL))
    variables = jax.eval_shape(lambda: variables)  # so that nothing is run
    found = lint(Coder(), variables, calls=ALL[:2])
    assert found.paths("unused submodule") == ["heads_0", "heads_1"]
    assert "It is used by classify" in found[0].advice
    assert lint(Coder(), everything, calls=ALL) == []


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ("encode", "Write calls=[('encode', x), ('decode', z)]"),
        (("encode", 3), "Each call is a tuple in a list: calls=[('encode', x)]"),
        ([], "a list of calls, each a method and its arguments"),
        ([("encode", X), (X, "decode")], "The method comes first"),
        ([("encode", X), ()], "Each call is a tuple"),
    ],
)
def test_bad_calls_are_refused(calls, words):
    with pytest.raises(ArgumentError) as raised:
        Coder().init(KEY, calls=calls)
    assert words in str(raised.value)
    assert "Coder.init was given calls=" in str(raised.value)


def test_a_misspelt_method_and_arguments_beside_calls_are_refused():
    with pytest.raises(UnknownModuleAttributeError, match=r"'encod'\. Did you mean 'encode'"):
        Coder().init(KEY, calls=[("encod", X)])
    with pytest.raises(ArgumentError, match="without arguments beside it"):
        Coder().init(KEY, X, calls=ALL)
    with pytest.raises(ArgumentError, match="without method= beside it"):
        Coder().init(KEY, method="encode", calls=ALL)
