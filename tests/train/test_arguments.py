"""What a loop is given: arguments out of their domain, and batches and data that no step can take, are refused by name.

Nothing is trained, and no folder is made, before an argument is known to be right.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint, train
from batiste.errors import ArgumentError, BatchError, LoopArgumentError, StepResultError
from batiste.train import Loop, compile_cache, fit, log_row, show


def step(state, x):
    return {"sum": state["sum"] + jnp.mean(x)}, {"loss": state["sum"]}


def begin():
    return {"sum": jnp.float32(0)}


def number(n):
    return np.float32(n + 1)


WRONG = {
    "steps": [-1, True, 10.0, 2.5, float("nan"), float("inf"), "10", [10], jnp.arange(2), np.float32(3)],
    "save_every": [0, -1, True, False, 10.0, float("nan"), "10", None, np.int64(0)],
    "log_every": [0, -5, True, 1e3, "100", None, ()],
    "evaluate_every": [0, -1, False, 1.5, "1000", None, np.ones(1)],
    "finite": [0, 1, None, "yes", np.ones(2)],
    "log": [3, "show", True, {}],
    "evaluate": [3, "evaluate", {"loss": 1}],
    "run": [3, "", True, b"run", ["run"], {"folder": "run"}],
    "compile_cache": [3, "", None, ["cache"]],
    "step": [None, 3, "step", {"sum": 1}, dict],
    "state": [step, len, lambda: 0, "state", {"name": "x"}, {1: 0.0, "b": 0.0}, {"o": object()}, np.array(["a"])],
}


@pytest.mark.parametrize("name", WRONG)
def test_an_argument_out_of_its_domain(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in WRONG[name]:
        given = {"step": step, "state": begin(), "data": number, "steps": 2, name: value}
        for call in (Loop, fit):
            with pytest.raises(
                (ArgumentError, LoopArgumentError), match=f"`{name}` cannot be |was given {name}="
            ) as error:
                call(**given)
            assert isinstance(error.value, ValueError)
            assert isinstance(error.value, TypeError)
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_of_every_kind(tmp_path):
    for one in (1, np.int64(1), np.uint8(1), np.array(1), jnp.int32(1)):
        three = one + 2
        options = {"save_every": one, "log_every": one, "evaluate_every": one, "compile_cache": False}
        run = tmp_path / str(type(one)) / str(getattr(one, "dtype", ""))
        assert fit(step, begin(), number, steps=three, run=run, **options)["sum"] == 6
        assert checkpoint.Manager(run).steps() == [1, 2, 3]
    assert fit(step, begin(), number, steps=0)["sum"] == 0


def test_arguments_in_another_order():
    with pytest.raises(ArgumentError, match=r"was given step={(?s:.*)Write the step first: fit\(step, state"):
        fit(begin(), step, [number(0)], steps=2)
    with pytest.raises(LoopArgumentError, match="`data` cannot be a dict of 'sum'"):
        fit(step, begin(), begin(), steps=2)
    with pytest.raises(ArgumentError, match="was given state=the function number"):
        fit(step, number, begin(), steps=2)


def test_a_path_is_a_run(tmp_path):
    for folder in (tmp_path / "path", str(tmp_path / "text")):
        fit(step, begin(), number, steps=3, run=folder, save_every=2, compile_cache=False)
        assert checkpoint.Manager(folder).steps() == [2, 3]
        assert fit(step, begin(), number, steps=4, run=folder, compile_cache=False)["sum"] == 10


def test_other_public_functions(tmp_path):
    for folder in (3, "", b"x", True, ["x"]):
        with pytest.raises(ArgumentError, match=r"train\.compile_cache was given folder="):
            compile_cache(folder)
    for seconds in (-1, float("nan"), "1", None, True, np.ones(2)):
        with pytest.raises(ArgumentError, match=r"train\.compile_cache was given min_seconds="):
            compile_cache(tmp_path / "cache", min_seconds=seconds)
    assert not (tmp_path / "cache").exists()
    for row in (3, None, {}, {"loss": 1.0}, {"step": "x"}, {"step": 1, "loss": "x"}, [("step", 1)]):
        for function in (log_row, show):
            with pytest.raises(ArgumentError, match=r"train\.show was given row="):
                function(row)


# Data


def generator():
    yield number(0)


class Whole:
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter([number(self.n)])


DATA = {
    "None": (None, "it is neither a function nor can it be iterated over"),
    "a number": (3, "it is neither a function"),
    "a path": (pathlib.Path("x"), "it is neither a function"),
    "a text": ("data.npz", "its items are letters"),
    "bytes": (b"data", "its items are letters"),
    "a dict of arrays": ({"x": np.ones((6, 2)), "y": np.ones(6)}, "a dict of 'x', 'y': its items are not batches"),
    "an empty dict": ({}, "a dict of nothing"),
    "inputs and targets": ((np.ones((6, 2)), np.ones(6)), r"a tuple of arrays of the shapes \(6, 2\), \(6,\)"),
    "a list of both": ([jnp.ones((6, 2)), np.ones(6)], "its items are not batches"),
    "a generator function": (generator, r"Call it, and give the iterator: data=generator\(...\)"),
    "a class": (Whole, r"Make one: Whole\(...\)"),
    "a function of nothing": (lambda: 1.0, "it is called with the number of steps done, and takes"),
    "a function of two": (lambda a, b: a + b, "it is called with the number of steps done"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_gives_no_batches(name):
    data, words = DATA[name]
    with pytest.raises(LoopArgumentError, match=f"`data` cannot be .*(?s:.*){words}"):
        Loop(step, begin(), data, steps=2)


def test_data_of_every_kind():
    assert fit(step, begin(), np.arange(3.0))["sum"] == 3
    assert fit(step, begin(), jnp.arange(3.0))["sum"] == 3
    assert fit(step, begin(), generator())["sum"] == 1
    assert fit(step, begin(), Whole(4))["sum"] == 5
    assert fit(step, begin(), {1.0: 0}.keys())["sum"] == 1
    assert fit(step, begin(), float, steps=3)["sum"] == 3
    assert fit(step, begin(), lambda n, scale=2: scale * n, steps=3)["sum"] == 6
    assert fit(step, begin(), (np.ones((2, 2)), np.ones((2, 2))))["sum"] == 2
    assert fit(lambda s, _: (s, {}), begin(), lambda _: None, steps=2)["sum"] == 0


# Batches


class Tensor:
    """What a tensor of another library looks like: it has a shape, a dtype and values, and JAX does not take it."""

    shape, dtype = (2,), "float32"

    def __array__(self, dtype=None, copy=None):
        return np.ones(2, dtype)


Tensor.__module__ = "torch._tensor"

BATCHES = {
    "a text": (lambda: "sample-7", "it is the text 'sample-7', and JAX computes with numbers only"),
    "a text in a dict": (lambda: {"x": np.ones(3), "id": "sample-7"}, "'id' is the text 'sample-7'"),
    "bytes": (lambda: [np.ones(3), b"x"], "'1' is the text b'x'"),
    "texts": (lambda: {"x": np.array(["a", "b"])}, "'x' is an array of dtype <U1"),
    "objects": (lambda: {"x": np.ones(3), "boxes": np.array([None, 1], object)}, "'boxes' is an array of dtype object"),
    "ragged": (lambda: np.array([np.ones(2), np.ones(3)], object), "Pad or cut"),
    "times": (lambda: np.array(["2020-01-01"], "M8[D]"), "JAX has no such dtype"),
    "fields": (lambda: np.zeros(2, [("a", "f4")]), "JAX has no arrays with fields"),
    "a mask": (lambda: np.ma.array([1.0, 2.0], mask=[0, 1]), "its mask would be lost"),
    "long doubles": (lambda: np.ones(2, np.longdouble), "JAX has no such dtype"),
    "a tensor": (lambda: (Tensor(),), r"'0' is a torch.Tensor(?s:.*)tensor.numpy\(\), batch\) for batch in loader"),
    "a set": (lambda: {1.0, 2.0}, "it is a set"),
    "an object": (lambda: {"x": object()}, "'x' is a object"),
    "an iterator": (lambda: iter([1.0]), "an iterator is not a batch"),
    "a function": (lambda: {"f": len}, "Give what it returns"),
    "shapes": (lambda: {"x": jax.ShapeDtypeStruct((2,), jnp.float32)}, "the form of an array without values"),
    "keys of two kinds": (lambda: {1: 1.0, "a": 2.0}, "JAX takes no such container"),
    "large numbers": (lambda: {"n": np.array([2**40])}, "'n' is an array of dtype int64 with large numbers"),
    "a large number": (lambda: {"n": -(2**40)}, "'n' is the number -1099511627776"),
    "a large unsigned": (lambda: np.array([2**32], np.uint64), "with large numbers"),
    "a huge one": (lambda: np.array([1e300]), "in float32, in which values of it are infinite"),
    "None": (lambda: None, "A function that ends without `return`"),
    "a list of numbers": (lambda: {"x": [1.0, 2.0]}, r"'x' is a list of numbers(?s:.*)np.asarray"),
    "ragged lists": (lambda: [[1, 2], [3]], "it is a list of numbers"),
}


def lookup(state, batch):
    return {"sum": state["sum"] + jnp.mean(batch["x"] if isinstance(batch, dict) else batch)}, {}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_that_no_step_can_take(name):
    make, words = BATCHES[name]
    for compiled in (lookup, jax.jit(lookup)):
        with pytest.raises(BatchError, match=rf"The batch of step 1 cannot go into a step: (?s:.*){words}") as error:
            fit(compiled, begin(), lambda _: make(), steps=1)
        assert "static_argnums" not in str(error.value)
        assert isinstance(error.value, TypeError)
    if name not in ("None", "a list of numbers", "ragged lists"):
        with pytest.raises(BatchError, match="The batch of step 2"):
            fit(step, begin(), [1.0, make()])


def test_a_step_that_takes_or_returns_something_else():
    def returning(result):
        with pytest.raises(StepResultError) as error:
            fit(result, begin(), number, steps=1)
        return str(error.value)

    assert "returns None" in returning(lambda s, x: None)
    assert "return (state, metrics)" in returning(lambda s, x: ({"loss": jnp.ones(2)}, s))
    assert "its state has 'name', which is a str" in returning(lambda s, x: ({**s, "name": "x"}, {}))
    assert "it returns a str" in returning(lambda s, x: "done")
    with pytest.raises(StepResultError, match=r"it is called with a state and a batch, and takes \(state\)"):
        fit(lambda state: (state, {}), begin(), number, steps=1)
    with pytest.raises(StepResultError, match=r"missing a required argument: 'y'"):
        fit(lambda state, x, y: (state, {}), begin(), number, steps=1)
    with pytest.raises(ValueError, match="mine"):
        fit(lambda _, x: (int("mine"), {"loss": x}), begin(), number, steps=1)


def test_the_names_of_the_package():
    around = {"Loop", "Row", "TrainState", "compile_cache", "fit", "log_row", "show"}
    steps = {"ModelCall", "Patience", "Step", "evaluate", "make_step"}
    groups = {"by_pattern", "freeze", "lora", "lora_merged", "matching"}
    assert set(train.__all__) >= around | steps | groups
