"""`batiste._arguments`: what can stand for a number, a choice, a function, an array; and the words of a refusal."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from batiste import _arguments as arguments
from batiste.errors import ArgumentError

WHOLE = (
    7, np.int8(7), np.int64(7), np.uint8(7), np.array(7), np.array(7, np.uint16), jnp.int32(7), jnp.array(7, jnp.uint8),
)  # fmt: skip
NOT_WHOLE = (
    7.0, 6.5, True, False, np.bool_(True), np.float32(7), jnp.float32(7), jnp.array(True), "7", b"7", None, (7,), [7],
    np.array([7]), jnp.array([7]), jnp.ones((2, 3)), {}, float("nan"), float("inf"), 7j, object(), int, len,
)  # fmt: skip
REAL = (0.5, 1, np.float16(0.5), np.float64(0.5), np.int32(1), jnp.float32(0.5), jnp.bfloat16(0.5), np.array(0.5))
NOT_REAL = (
    float("nan"), float("inf"), -float("inf"), np.float32("nan"), jnp.float32("nan"), True, np.bool_(False),
    jnp.array(True), "0.5", None, [0.5], np.array([0.5]), jnp.ones((2, 3)), 1j, {}, object(), float,
)  # fmt: skip


def show(value):
    return arguments.shown(value)


@pytest.mark.parametrize("value", WHOLE, ids=show)
def test_whole_numbers_of_every_kind(value):
    found = arguments.whole_number(value, "features", "Dense")
    assert (type(found), found) == (int, 7)
    assert arguments.whole_numbers(value, "strides", "Conv", count=2) == (7, 7)
    assert arguments.whole_numbers([value, 3], "strides", "Conv") == (7, 3)


@pytest.mark.parametrize("value", NOT_WHOLE, ids=show)
def test_what_is_no_whole_number(value):
    with pytest.raises(ArgumentError, match="features"):
        arguments.whole_number(value, "features", "Dense")


@pytest.mark.parametrize(
    "value", [7.0, "77", None, True, {}, jnp.ones((2, 2)), (7, 7.0), (7, True), ("7", 7), [[7], 7]]
)
def test_what_are_no_whole_numbers(value):
    with pytest.raises(ArgumentError, match="strides"):
        arguments.whole_numbers(value, "strides", "Conv")


@pytest.mark.parametrize("value", [[2, 3], (2, 3), np.array([2, 3]), jnp.array([2, 3]), (np.int64(2), jnp.int32(3))])
def test_several(value):
    found = arguments.whole_numbers(value, "kernel_size", "Conv")
    assert found == (2, 3)
    assert [type(each) for each in found] == [int, int]


def test_how_many():
    assert arguments.whole_numbers((), "axes", "f") == ()
    with pytest.raises(ArgumentError, match="one or 2"):
        arguments.whole_numbers((1, 2, 3), "strides", "Conv", count=2)


def test_ends():
    assert arguments.whole_number(0, "depth", "f") == 0
    assert arguments.whole_number(-3, "axis", "f", low=None) == -3
    for value, low, high in ((-1, 0, None), (0, 1, None), (4, 0, 3), (np.int64(-1), 0, None), (jnp.int32(4), 0, 3)):
        with pytest.raises(ArgumentError):
            arguments.whole_number(value, "depth", "f", low=low, high=high)
    assert arguments.number(0.0, "rate", "f", low=0, high=1) == 0
    for value, ends in ((-0.1, {"low": 0}), (1.1, {"high": 1}), (0.0, {"above": 0})):
        with pytest.raises(ArgumentError):
            arguments.number(value, "rate", "f", **ends)


@pytest.mark.parametrize("value", REAL, ids=show)
def test_numbers_of_every_kind(value):
    found = arguments.number(value, "rate", "Dropout", low=0, high=1)
    assert float(found) == float(value)
    hash(found)


@pytest.mark.parametrize("value", NOT_REAL, ids=show)
def test_what_is_no_number(value):
    with pytest.raises(ArgumentError, match="rate"):
        arguments.number(value, "rate", "Dropout")


def test_traced_values_are_no_settings():
    @jax.jit
    def make(size):
        arguments.whole_number(size, "features", ("encoder", "Dense_0"))

    with pytest.raises(ArgumentError, match=r"/encoder/Dense_0 was given features=a traced array of shape \(\), int32"):
        make(3)

    @jax.jit
    def rate(value):
        arguments.number(value, "rate", "Dropout")

    with pytest.raises(ArgumentError, match="outside of jit"):
        rate(0.5)


def test_sizes_known_by_name_pass_through():
    (size,) = export.symbolic_shape("n")
    assert arguments.whole_number(size, "features", "Dense") is size
    assert arguments.whole_numbers((size, 2), "shape", "Einsum") == (size, 2)


def test_choices():
    known = ("min", "max", None)
    assert arguments.choice("min", "mode", "KeepBest", known) == "min"
    assert arguments.choice(None, "mode", "KeepBest", known) is None
    for value, near in (
        ("MIN", "'min'"),
        ("mx", "'max'"),
        (0, "exactly"),
        (np.ones(2), "exactly"),
        (["min"], "exactly"),
    ):
        with pytest.raises(ArgumentError, match=near):
            arguments.choice(value, "mode", "KeepBest", known)


def test_texts_functions_and_mappings():
    assert arguments.text("h", "name", "f") == "h"
    assert arguments.text("", "name", "f", empty=True) == ""
    assert arguments.function(len, "activation_fn", "f") is len
    assert arguments.mapping({1: 2}, "rules", "f", what="rules") == {1: 2}
    for call in (
        functools.partial(arguments.text, "", "name", "f"),
        functools.partial(arguments.text, 3, "name", "f", empty=True),
        functools.partial(arguments.function, "relu", "activation_fn", "f"),
        functools.partial(arguments.function, None, "activation_fn", "f"),
        functools.partial(arguments.mapping, [("a", 1)], "rules", "f", what="rules"),
    ):
        with pytest.raises(ArgumentError):
            call()
    with pytest.raises(ArgumentError, match=r"nn\.relu"):
        arguments.function("relu", "activation_fn", "f")


def test_arrays():
    for same in (jnp.ones(2), np.ones(2, np.float32), np.float32(1), jax.random.key(0)):
        assert arguments.array(same, "inputs", "Dense") is same
    for wide in (np.ones(2), np.ones(2, int), np.ones(2, complex)):  # which JAX narrows
        assert isinstance(arguments.array(wide, "inputs", "Dense"), jax.Array)
    assert arguments.array([[1.0, 2.0]], "inputs", "Dense").shape == (1, 2)
    assert arguments.array(2.0, "inputs", "Dense").shape == ()
    mixed = jax.jit(lambda a: arguments.array([a, 1.0], "inputs", "Dense"))(2.0)
    assert mixed.shape == (2,)
    for wrong in (
        None,
        "x",
        {"x": jnp.ones(2)},
        [[1.0], [1.0, 2.0]],
        ["a"],
        np.array(["a"]),
        np.array([None]),
        len,
        {},
    ):
        with pytest.raises(ArgumentError, match="inputs"):
            arguments.array(wrong, "inputs", "Dense")
    with pytest.raises(ArgumentError, match=r"batch\['x'\]"):
        arguments.array({"x": jnp.ones(2)}, "inputs", "Dense")


def test_dtypes():
    for given in ("bfloat16", jnp.bfloat16, np.dtype(jnp.bfloat16)):
        assert arguments.dtype_name(given, "dtype", "Dense") == jnp.bfloat16
    for wrong in ("flaot32", "int", None, 3, jnp.ones(2), "float33"):
        with pytest.raises(ArgumentError):
            arguments.dtype_name(wrong, "dtype", "Dense", inexact=True)
    with pytest.raises(ArgumentError, match="'float32'"):
        arguments.dtype_name("flaot32", "dtype", "Dense")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (16 / 2, "Write 8; a division of whole numbers is whole with //."),
        (True, "name the option"),
        ("8", "Write it without quotes: 8."),
        (jnp.ones((2, 3)), "features=an array of shape (2, 3), float32"),
        (jnp.ones((2, 3)), "Layer(...)(x)"),
        (None, "Give a whole number, 0 or more."),
    ],
)
def test_the_words(value, words):
    with pytest.raises(ArgumentError) as failed:
        arguments.whole_number(value, "features", ("Dense_0",))
    assert words in str(failed.value)
    assert "/Dense_0 was given features=" in str(failed.value)
    assert isinstance(failed.value, TypeError)
    assert isinstance(failed.value, ValueError)
    assert str(pickle.loads(pickle.dumps(failed.value))) == str(failed.value)  # noqa: S301 - its own bytes


def test_what_is_shown_is_short():
    for value in (
        "x" * 500,
        list(range(500)),
        {"a": np.ones(100)},
        jnp.ones((3, 3)),
        nested := [[[1]]],
        object(),
        nested,
    ):
        words = arguments.shown(value)
        assert len(words) <= 60
        assert "\n" not in words
