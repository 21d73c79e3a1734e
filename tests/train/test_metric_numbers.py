"""The arithmetic of metrics: means of numbers of every dtype, in double precision."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from batiste import errors
from batiste.train._metrics import Metrics, evaluation
from tests.tree.odd_numbers import COMPLEX, DTYPES, array

inf, nan = math.inf, math.nan


def mean(values):
    metrics = Metrics(finite=False)
    for step, value in enumerate(values):
        metrics.add(step, {"a": value})
    metrics.read(len(values))
    return metrics.means()["a"]


@pytest.mark.parametrize("name", [name for name in DTYPES if name not in COMPLEX])
def test_every_dtype(name):
    numbers = array(name)
    for number in numbers:
        assert np.array_equal(mean([number, number, number]), float(number), equal_nan=True)
        assert np.array_equal(evaluation({"a": number})["eval/a"], float(number), equal_nan=True)
    finite = numbers[np.isfinite(numbers.astype(np.float64))].astype(np.float64)
    exact = [number for number in numbers if math.isfinite(number)]
    assert math.isclose(mean(exact), math.fsum(finite / len(finite)), rel_tol=1e-12, abs_tol=1e-300)


def test_sums_do_not_overflow_the_dtype_of_a_step():
    assert mean([jnp.float16(60000)] * 100) == 60000
    assert mean([np.uint8(250)] * 100) == 250
    assert mean([np.bool_(True), np.bool_(False)]) == 0.5
    assert mean([np.int32(2**31 - 1)] * 5) == 2**31 - 1
    assert mean([np.float64(1.7e308)] * 5) == 1.7e308
    assert mean([np.float64(1.7e308), np.float64(-1.7e308)] * 3) == 0
    assert mean([inf, 1.0]) == inf
    assert math.isnan(mean([inf, -inf]))
    assert math.isnan(mean([nan, 1.0]))


def test_interrupted_sums_go_on_as_they_were():
    values = [1.7e308, 1.7e308, 1.6e308, 0.1, -1e300]
    whole = mean([np.float64(value) for value in values])
    first = Metrics(finite=False)
    for step, value in enumerate(values[:3]):
        first.add(step, {"a": np.float64(value)})
    first.read(3)
    second = Metrics(finite=False)
    second.load(first.state())
    for step, value in enumerate(values[3:]):
        second.add(step, {"a": np.float64(value)})
    second.read(5)
    assert second.means()["a"] == whole


@pytest.mark.parametrize("value", [1j, np.complex64(1), "1", np.ones(1), None, 10**400, [1.0, 2.0]], ids=repr)
def test_what_is_no_real_scalar(value):
    with pytest.raises(errors.MetricError):
        evaluation({"a": value} if value is not None and not isinstance(value, list) else {"a": np.array([1, 2])})
