"""Random keys: Linen's, bit for bit, and a scheme in which distinct paths never share one."""

from typing import Any

import flax.core
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from batiste.core import apply, check_key_scheme, hash_parts, init, is_key, streams_from
from batiste.errors import InvalidRngError, UnknownKeySchemeError

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
paths = st.lists(names, max_size=4)
draws = st.lists(st.sampled_from(["params", "dropout", "noise"]), min_size=1, max_size=4)


def typed(seed: int) -> Any:
    return jax.random.key(seed)


def raw(seed: int) -> Any:
    return jax.random.PRNGKey(seed)


def bits(key: Any) -> list[int]:
    data = jax.random.key_data(key) if jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return np.asarray(data).tolist()


def walk(path, streams):
    """Return a function of a scope, of either library, that draws from streams at a path."""

    def function(scope):
        for name in path:
            scope = scope.push(name)
        return [scope.make_rng(stream) for stream in streams]

    return function


@pytest.mark.parametrize("make", [typed, raw])
@given(path=paths, streams=draws, seed=st.integers(0, 2**31 - 1))
def test_keys_are_flax(make, path, streams, seed):
    rngs = {"params": make(seed), "dropout": make(seed + 1)}  # `noise` falls back to `params`
    ours = apply(walk(path, streams))({}, rngs=rngs)
    theirs = flax.core.apply(walk(path, streams))({}, rngs=rngs)
    assert list(map(bits, ours)) == list(map(bits, theirs))
    assert [key.dtype for key in ours] == [key.dtype for key in theirs]


@given(path=paths, streams=draws, seed=st.integers(0, 2**31 - 1))
def test_one_key_stands_for_params(path, streams, seed):
    ours, _ = init(walk(path, streams))(typed(seed))
    theirs, _ = flax.core.init(walk(path, streams))(typed(seed))
    assert list(map(bits, ours)) == list(map(bits, theirs))


def test_counters_belong_to_a_path_and_a_stream():
    def function(scope):
        first, second = scope.push("a"), scope.push("b")
        order = [first.make_rng("x"), second.make_rng("x"), first.make_rng("y"), first.make_rng("x")]
        return [*order, second.make_rng("x"), scope.make_rng("x")]

    rngs = {"x": typed(0), "y": typed(1)}
    ours, theirs = apply(function)({}, rngs=rngs), flax.core.apply(function)({}, rngs=rngs)
    assert list(map(bits, ours)) == list(map(bits, theirs))
    assert len({tuple(bits(key)) for key in ours}) == len(ours)


def test_a_missing_stream_and_params_share_a_counter():
    def function(scope):
        return [scope.make_rng(name) for name in ("params", "missing", "other", "params")]

    ours, theirs = apply(function)({}, rngs=typed(0)), flax.core.apply(function)({}, rngs={"params": typed(0)})
    assert list(map(bits, ours)) == list(map(bits, theirs))
    assert len({tuple(bits(key)) for key in ours}) == 4


def test_parameters_draw_from_the_same_counter():
    def function(scope):
        scope.param("a", jax.nn.initializers.ones, ())
        before = scope.make_rng("params")
        scope.param("b", lambda key: jax.random.uniform(key, (2,)))
        return before, scope.make_rng("params")

    ours, variables = init(function)(typed(3))
    theirs, expected = flax.core.init(function)(typed(3))
    assert list(map(bits, ours)) == list(map(bits, theirs))
    np.testing.assert_array_equal(variables["params"]["b"], expected["params"]["b"])


def test_keys_do_not_depend_on_what_is_drawn_elsewhere():
    def alone(scope):
        return scope.push("b").make_rng("x")

    def beside(scope):
        for _ in range(3):
            scope.push().make_rng("x")
        return scope.push("b").make_rng("x")

    assert bits(apply(alone)({}, rngs={"x": typed(0)})) == bits(apply(beside)({}, rngs={"x": typed(0)}))


def test_linens_keys_collide_where_linens_do():
    pairs = [(("ab", "cdef"), ("abc", "def")), (("a", "b", "c"), ("abc",))]
    for one, other in pairs:
        keys = [bits(apply(walk(path, ["x"]))({}, rngs={"x": typed(0)})[0]) for path in (one, other)]
        assert keys[0] == keys[1]
        theirs = [bits(flax.core.apply(walk(path, ["x"]))({}, rngs={"x": typed(0)})[0]) for path in (one, other)]
        assert keys == theirs


@given(one=paths, other=paths, counts=st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_separated_keys_never_collide(one, other, counts):
    first, second = (*one, counts[0]), (*other, counts[1])
    assert (hash_parts(first, "separated") == hash_parts(second, "separated")) == (first == second)


def test_separated_keys_of_the_same_path():
    def function(scope):
        return scope.push("ab").push("cdef").make_rng("x"), scope.push("abc").push("def").make_rng("x")

    one, other = apply(function, key_scheme="separated")({}, rngs={"x": typed(0)})
    assert bits(one) != bits(other)
    again, _ = apply(function, key_scheme="separated")({}, rngs={"x": typed(0)})
    assert bits(one) == bits(again)
    linen, _ = apply(function)({}, rngs={"x": typed(0)})
    assert bits(one) != bits(linen)


def test_separated_reaches_initial_values():
    def function(scope):
        for path in (("ab", "cdef"), ("abc", "def")):
            scope.push(path[0]).push(path[1]).param("w", jax.nn.initializers.normal(1.0), (2,))

    def values(scheme):
        params = init(function, key_scheme=scheme)(typed(0))[1]["params"]
        return params["ab"]["cdef"]["w"].tolist(), params["abc"]["def"]["w"].tolist()

    one, other = values("linen")
    assert one == other
    one, other = values("separated")
    assert one != other


def test_golden_keys():
    """Keys must never change: variables and published results depend on them."""
    assert hash_parts(("encoder", "Dense_0", 1), "linen") == 0x6C217D8
    assert hash_parts(("encoder", "Dense_0", 1), "separated") == 0xA5846326
    assert hash_parts((), "linen") == 0xDA39A3EE


def test_is_key():
    assert is_key(typed(0))
    assert is_key(raw(0))
    assert is_key(np.asarray(raw(0)))
    assert is_key(jax.random.key(0, impl="rbg"))
    assert is_key(jax.random.PRNGKey(0, impl="rbg"))
    for wrong in (3, None, jax.random.split(typed(0)), jax.random.split(raw(0)), np.zeros(2), jax.numpy.zeros(2)):
        assert not is_key(wrong)


def test_keys_of_other_implementations():
    key = jax.random.key(0, impl="rbg")
    ours = apply(walk(["a"], ["x"]))({}, rngs={"x": key})[0]
    theirs = flax.core.apply(walk(["a"], ["x"]))({}, rngs={"x": key})[0]
    assert ours.dtype == key.dtype
    assert bits(ours) == bits(theirs)


def test_streams_from():
    key = typed(0)
    assert streams_from(None, "here") == {}
    assert streams_from(key, "here") == {"params": key}
    assert streams_from({"a": key}, "here") == {"a": key}
    (converted,) = streams_from(np.asarray(raw(0)), "here").values()
    assert isinstance(converted, jax.Array)
    with pytest.raises(InvalidRngError, match=r"here .*'dropout' was given an array of shape \(3,\)"):
        streams_from({"dropout": np.zeros(3)}, "here")
    with pytest.raises(InvalidRngError, match="was given 3"):
        streams_from(3, "here")


def test_a_missing_stream():
    with pytest.raises(InvalidRngError, match=r"/a/b .*needs the stream 'dropout'.*given are: 'dropuot'.*Did you mean"):
        apply(walk(["a", "b"], ["dropout"]))({}, rngs={"dropuot": typed(0)})
    with pytest.raises(InvalidRngError, match="given are: none"):
        apply(walk([], ["dropout"]))({})


def test_key_schemes():
    check_key_scheme("linen")
    with pytest.raises(UnknownKeySchemeError, match="Did you mean 'separated'"):
        check_key_scheme("seperated")
    with pytest.raises(UnknownKeySchemeError):
        apply(walk([], ["x"]), key_scheme="flax")({}, rngs={"x": typed(0)})
    with pytest.raises(UnknownKeySchemeError):
        init(walk([], ["x"]), key_scheme="flax")({"x": typed(0)})
