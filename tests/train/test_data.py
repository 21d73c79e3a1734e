"""Where batches come from, and whether a run finds again where it was in them."""

import random
import warnings

import grain
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from batiste import checkpoint
from batiste.errors import DataPositionError, DataPositionWarning, LoopArgumentError
from batiste.train import Loop, fit
from batiste.train._data import Batches, decode, encode


class Numbers:
    """An iterator that knows where it is."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)

    def __iter__(self):
        return self

    def __next__(self):
        return self.random.normal(size=2).astype(np.float32)

    def get_state(self):
        return self.random.bit_generator.state

    def set_state(self, state):
        self.random.bit_generator.state = state


class Shuffled:
    """An object with a position, whose iterators have none."""

    def __init__(self):
        self.random = random.Random(3)  # noqa: S311 - no secrets

    def __iter__(self):
        while True:
            yield np.float32([self.random.random(), 1])

    def get_state(self):
        return self.random.getstate()

    def set_state(self, state):
        self.random.setstate(state)


class Source:
    """A data source for grain that prints the same in each process."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return np.float32(index)

    def __repr__(self):
        return "Source()"


class Nameless(Source):
    def __repr__(self):
        return object.__repr__(self)


FEW_THREADS = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)


def dataset():
    return grain.MapDataset.source(Source()).shuffle(seed=4).repeat().batch(2).to_iter_dataset(FEW_THREADS)


def loader(source):
    sampler = grain.samplers.IndexSampler(10, grain.sharding.NoSharding(), shuffle=True, num_epochs=None, seed=1)
    return grain.DataLoader(
        data_source=source,
        sampler=sampler,
        operations=[grain.transforms.Batch(2)],
        worker_count=0,
        read_options=FEW_THREADS,
    )


def add(state, x):
    return {"sum": jnp.sin(state["sum"]) + x}, {"loss": x.mean()}


def zero():
    return {"sum": jnp.zeros(2)}


@pytest.fixture
def run(tmp_path):
    return checkpoint.Manager(tmp_path)


KINDS = {
    "function": lambda: lambda n: np.float32([n, 1]),
    "iterator": Numbers,
    "iterable": Shuffled,
    "grain dataset": dataset,
    "grain iterator": lambda: iter(dataset()),
    "grain loader": lambda: loader(Source()),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_run_goes_on_with_the_next_batch(run, make):
    whole = fit(add, zero(), make(), steps=9)
    for stop in (2, 3, 7):
        loop = Loop(add, zero(), make(), steps=9, run=run)
        for n, _ in loop:
            if n == stop:
                loop.save()
                break
    resumed = fit(add, zero(), make(), steps=9, run=run)
    assert np.asarray(resumed["sum"]).tobytes() == np.asarray(whole["sum"]).tobytes()


def batches():
    for n in range(100):
        yield np.float32([n, 1])


@pytest.mark.parametrize("make", [batches, lambda: list(batches())], ids=["generator", "list"])
def test_data_without_a_position_is_said_at_once_and_never_repeated(run, make):
    with pytest.warns(DataPositionWarning, match="neither a function of the step nor"):
        fit(add, zero(), make(), steps=3, run=run)
    with pytest.raises(DataPositionError) as error:
        fit(add, zero(), make(), steps=6, run=run)
    text = str(error.value)
    assert "after step 3" in text
    assert "would begin again with its first batch" in text
    for way in ("function from the step", "grain", "get_state() and set_state(position)"):
        assert way in text
    assert run.steps() == [3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(add, zero(), make(), steps=3)


def test_a_position_that_is_not_there_or_not_taken(run):
    fit(add, zero(), lambda n: np.float32([n, 1]), steps=3, run=run)
    with pytest.raises(DataPositionError, match="the data that it was saved with had no position"):
        fit(add, zero(), Numbers(), steps=6, run=run)
    fit(add, zero(), lambda n: np.float32([n, 1]), steps=4, run=run)


def test_a_grain_source_that_prints_its_address(run):
    first, second = Nameless(), Nameless()  # both are kept, or the second could be where the first was
    fit(add, zero(), loader(first), steps=3, run=run)
    with pytest.raises(DataPositionError, match=r"DataLoaderIterator.set_state\(\) refused the position") as error:
        fit(add, zero(), loader(second), steps=6, run=run)
    assert "sources print the same in each process" in str(error.value)


def test_data_that_is_none(run):
    with pytest.raises(LoopArgumentError, match="`data` cannot be a int: it is neither a function nor"):
        list(Loop(add, zero(), 3, steps=1))

    class Odd(Numbers):
        def get_state(self):
            return {"file": object()}

    with pytest.raises(LoopArgumentError, match=r"its get_state\(\) returns 'object', which cannot be saved"):
        list(Loop(add, zero(), Odd(), steps=1, run=run))
    assert Batches(Odd()).resumable


@pytest.mark.parametrize(
    "position",
    [
        None,
        True,
        -(2**127),
        0.1,
        float("-inf"),
        "text",
        b"\x00\xff",
        [1, (2, [3.5]), ()],
        {"a": {1: "x", (2, 3): None}, "bytes": "no", "list": [], "array": {}},
        np.random.PCG64(1).state,
        np.random.MT19937(1).state,
        random.Random(1).getstate(),  # noqa: S311 - no secrets
        [np.int64(7), np.array(2.5), np.arange(6, dtype=">i2").reshape(2, 3), np.array(["a", "bc"])],
    ],
)
def test_positions_come_back(position, run):
    run.save(1, {}, metadata={"position": encode(position)})
    back = decode(run.open(1).metadata["position"])
    assert repr(back) == repr(position).replace("array(2.5)", "np.float64(2.5)")


def test_arrays_of_jax_come_back_as_numpy():
    assert decode(encode(jnp.arange(3))).tolist() == [0, 1, 2]
    with pytest.raises(LoopArgumentError):
        encode(np.ones(2, ml_dtypes.bfloat16))
    with pytest.raises(LoopArgumentError):
        encode(np.array([object()]))
