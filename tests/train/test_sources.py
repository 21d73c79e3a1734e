"""Data of our own and of other libraries, taken ahead or not: the same batches, and the exact place on resumption."""

import threading
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint, train
from batiste.errors import ArgumentError, DataPositionError, LoopArgumentError
from batiste.train import Loop, fit


def step(state, x):
    return {"n": state["n"] + 1, "sum": jnp.sin(state["sum"]) + x["x"].mean()}, {"loss": x["x"].mean()}


def begin():
    return {"n": jnp.int32(0), "sum": jnp.float32(0)}


def arrays():
    return {"x": np.arange(20, dtype=np.float32), "y": np.arange(40).reshape(20, 2)}


def rows(count=20):
    return [{"x": np.float32(n)} for n in range(count)]


class Batches:
    """Counts, says where it is, and fails where it is told to."""

    def __init__(self, fail=None):
        self.n, self.fail = 0, fail

    def __iter__(self):
        return self

    def __next__(self):
        if self.n == self.fail:
            raise OSError(5, "the disk is gone")
        if self.n == 12:
            raise StopIteration
        self.n += 1
        return {"x": np.full(3, self.n, np.float32)}

    def get_state(self):
        return {"n": self.n}

    def set_state(self, state):
        self.n = state["n"]


@pytest.fixture
def run(tmp_path):
    return checkpoint.Manager(tmp_path / "run")


def goes_on(make, run, leave=5, steps=9):
    """Say whether a run that is left goes on to the same bits."""
    whole = fit(step, begin(), make(), steps=steps, compile_cache=False, log=None)
    for n, _ in Loop(step, begin(), make(), steps=steps, run=run, save_every=2, compile_cache=False):
        if n == leave:
            break
    return fit(step, begin(), make(), steps=steps, run=run, compile_cache=False)["sum"] == whole["sum"]


def test_shuffled_batches_of_arrays(run):
    data = train.shuffled(arrays(), 6, seed=3)
    assert (data.steps_per_epoch, data.examples) == (3, 20)
    first, second = (list(data.epoch(number)) for number in (0, 1))
    for epoch in (first, second):
        seen = np.concatenate([each["x"] for each in epoch])
        assert len(set(seen.tolist())) == 18
        assert all((each["y"][:, 0] == 2 * each["x"]).all() for each in epoch)
    assert not (first[0]["x"] == second[0]["x"]).all()
    assert (data(4)["x"] == second[1]["x"]).all()
    assert (train.shuffled(arrays(), 6, seed=3)(4)["x"] == second[1]["x"]).all()
    assert not (train.shuffled(arrays(), 6, seed=4)(4)["x"] == second[1]["x"]).all()
    with_last = train.shuffled(arrays(), 6, keep_last=True, shuffle=False, epochs=1)
    assert [each["x"].tolist() for each in with_last.epoch()][-1] == [18, 19]
    assert goes_on(lambda: train.shuffled(arrays(), 6, seed=3), run)
    assert fit(step, begin(), train.shuffled(arrays(), 5, epochs=2))["n"] == 8


def test_arrays_that_cannot_be_shuffled():
    for wrong in ({}, {"x": np.ones(3), "y": np.ones(4)}, {"x": np.float32(1)}, None):
        with pytest.raises(ArgumentError, match="arrays="):
            train.shuffled(wrong, 2)
    for options in ({"batch": 0}, {"batch": 21}, {"batch": 2.0}, {"batch": 2, "seed": -1}, {"batch": 2, "epochs": 0}):
        with pytest.raises(ArgumentError):
            train.shuffled(arrays(), **options)


@pytest.mark.parametrize("make", [lambda n: {"x": np.float32(n)}, Batches()], ids=["function", "iterator"])
def test_prefetched_batches_are_the_same_and_on_the_device(make):
    ahead = train.prefetch(make, 3)
    found = [next(ahead) for _ in range(5)]
    assert all(isinstance(each["x"], jax.Array) for each in found)
    assert [float(each["x"].mean()) for each in found] == ([0, 1, 2, 3, 4] if callable(make) else [1, 2, 3, 4, 5])
    ahead.close()


def test_prefetching_keeps_the_exact_place(run):
    def make():
        return train.prefetch(Batches(), 4)

    assert goes_on(make, run)
    ahead = make()
    assert [float(next(ahead)["x"][0]) for _ in range(3)] == [1, 2, 3]
    time.sleep(0.05)  # by now the thread is further
    place = ahead.get_state()
    other = make()
    other.set_state(place)
    assert float(next(other)["x"][0]) == 4
    assert [float(each["x"][0]) for each in ahead] == [*range(4, 13)]
    assert list(ahead) == []
    assert not hasattr(train.prefetch(iter(rows())), "get_state")


def test_an_exception_of_the_data_comes_in_its_turn():
    ahead = train.prefetch(Batches(fail=4), 2)
    assert [float(next(ahead)["x"][0]) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    before = threading.active_count()
    forgotten = train.prefetch(lambda n: {"x": np.float32(n)}, 1)
    next(forgotten)
    del forgotten
    time.sleep(0.3)
    assert threading.active_count() <= before
    with pytest.raises(LoopArgumentError):
        train.prefetch(3)
    for wrong in ({"size": 0}, {"sharding": "cpu"}):
        with pytest.raises(ArgumentError):
            train.prefetch(Batches(), **wrong)


def test_batches_of_grain(run):
    def make():
        return train.from_grain(grain.MapDataset.source(rows()).seed(1).shuffle().repeat().batch(4))

    assert goes_on(make, run)
    with pytest.raises(ArgumentError):
        train.from_grain(3)


class Loader:
    """A stand-in with the interface of torch.utils.data.DataLoader."""

    def __init__(self, sampler=None):
        self.dataset, self.sampler = rows(), sampler

    def __iter__(self):
        return ({"x": np.stack([row["x"] for row in self.dataset[n : n + 4]]), "id": ["a"]} for n in range(0, 20, 4))


class Stateful(Loader):
    def __init__(self):
        super().__init__()
        self.taken = 0

    def __iter__(self):
        for n in range(self.taken, 5):
            self.taken = n + 1
            yield {"x": np.stack([row["x"] for row in self.dataset[4 * n : 4 * n + 4]])}
        self.taken = 0

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.taken = state["taken"]


class RandomSampler:
    pass


class Tensors:
    """A stand-in with the interface of tf.data.Dataset."""

    def as_numpy_iterator(self):
        return iter([{"x": np.float32([n]), "name": np.array(b"x", object)} for n in range(12)])


@pytest.mark.parametrize(
    "make",
    [lambda: train.from_torch(Loader()), lambda: train.from_torch(Stateful()), lambda: train.from_tf(Tensors())],
    ids=["torch", "stateful", "tf"],
)
def test_adapters_go_on_at_the_exact_batch(make, run):
    assert goes_on(make, run, leave=7, steps=11)


def test_an_order_that_is_another_one_in_each_process_is_refused(run):
    orders = iter((1, -1))  # of the two processes

    class Unseeded(Tensors):
        def as_numpy_iterator(self):
            return iter(list(super().as_numpy_iterator())[:: next(orders)])

    for n, _ in Loop(step, begin(), train.from_tf(Unseeded()), steps=9, run=run, save_every=2, compile_cache=False):
        if n == 5:
            break
    with pytest.raises(DataPositionError, match="another order"):
        fit(step, begin(), train.from_tf(Unseeded()), steps=9, run=run, compile_cache=False)


def test_adapters_say_what_cannot_go_on():
    with pytest.raises(ArgumentError, match="StatefulDataLoader"):
        train.from_torch(Loader(RandomSampler()))
    for function in (train.from_torch, train.from_tf):
        with pytest.raises(ArgumentError):
            function([1, 2])
    with pytest.raises(ArgumentError):
        train.from_datasets([1, 2], 3)
