"""Lazy arrays: nothing is read before `read`, and then only what is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batiste import errors
from batiste.tree import LazyArray
from tests.tree.support import Reads

SHAPE = (3, 4, 5)
NUMBERS = np.arange(60, dtype=np.float32).reshape(SHAPE)

slices = st.builds(
    slice,
    st.one_of(st.none(), st.integers(-7, 7)),
    st.one_of(st.none(), st.integers(-7, 7)),
    st.one_of(st.none(), st.integers(-3, 3).filter(bool)),
)


def test_it_describes_itself_without_reading():
    source = Reads(NUMBERS)
    lazy = source.lazy
    assert (lazy.shape, lazy.dtype, lazy.ndim, lazy.size, lazy.nbytes, len(lazy)) == (SHAPE, np.float32, 3, 60, 240, 3)
    assert repr(lazy) == "LazyArray(float32[3, 4, 5])"
    assert source.boxes == []


def test_jax_takes_it_for_a_leaf():
    lazy = Reads(NUMBERS).lazy
    assert jax.tree.leaves({"a": lazy}) == [lazy]


def test_it_is_read_by_numpy_and_jax():
    source = Reads(NUMBERS)
    np.testing.assert_array_equal(np.asarray(source.lazy), NUMBERS)
    np.testing.assert_array_equal(jnp.asarray(source.lazy), NUMBERS)
    assert np.asarray(source.lazy, dtype=np.float64).dtype == np.float64
    assert source.boxes == [None] * 3


@given(st.lists(slices, max_size=3))
def test_read_takes_any_slices_and_the_reader_gets_plain_boxes(index):
    source = Reads(NUMBERS)
    np.testing.assert_array_equal(source.lazy.read(index), NUMBERS[tuple(index)])
    for box in source.boxes:
        assert box is None or (
            len(box) == 3
            and all(part.step is None and 0 <= part.start < part.stop <= n for part, n in zip(box, SHAPE, strict=True))
        )


@given(st.lists(st.one_of(slices, st.integers(-3, 2)), max_size=3), st.lists(slices, max_size=2))
def test_slices_of_slices_read_as_numpy_does(first, second):
    source = Reads(NUMBERS)
    expected = NUMBERS[tuple(first)]
    lazy = source.lazy[tuple(first)]
    assert (lazy.shape, source.boxes) == (expected.shape, [])
    second = second[: expected.ndim]
    np.testing.assert_array_equal(lazy[tuple(second)].read(), expected[tuple(second)])
    assert source.elements <= NUMBERS.size


def test_a_slice_reads_only_itself():
    source = Reads(NUMBERS)
    np.testing.assert_array_equal(source.lazy[1, ..., 2:4].read(), NUMBERS[1, ..., 2:4])
    assert source.boxes == [(slice(1, 2), slice(0, 4), slice(2, 4))]


def test_an_empty_box_reads_nothing():
    source = Reads(NUMBERS)
    assert source.lazy[1:1].read().shape == (0, 4, 5)
    assert source.boxes == []


def test_derived_arrays_read_only_their_box():
    source = Reads(NUMBERS)
    lazy = source.lazy.astype("bfloat16").transpose(2, 0, 1).map(np.negative, elementwise=True)
    assert (lazy.shape, lazy.dtype, source.boxes) == ((5, 3, 4), jnp.bfloat16, [])
    expected = -NUMBERS.astype(jnp.bfloat16).transpose(2, 0, 1)
    np.testing.assert_array_equal(lazy[4].read(), expected[4])
    assert source.elements == 12
    np.testing.assert_array_equal(lazy.read(), expected)
    np.testing.assert_array_equal(source.lazy.transpose().read(), NUMBERS.T)


def test_astype_of_the_same_dtype_is_the_same_array():
    lazy = Reads(NUMBERS).lazy
    assert lazy.astype(np.float32) is lazy


def test_map_and_reshape_read_everything_once():
    source = Reads(NUMBERS)
    total = source.lazy.map(lambda array: array.sum(0), shape=(4, 5))
    np.testing.assert_array_equal(total[2].read(), NUMBERS.sum(0)[2])
    np.testing.assert_array_equal(source.lazy.reshape(12, 5)[1:3].read(), NUMBERS.reshape(12, 5)[1:3])
    assert source.boxes == [None, None]


def test_rows_can_be_iterated():
    source = Reads(NUMBERS)
    rows = list(source.lazy)
    assert ([row.shape for row in rows], source.boxes) == ([(4, 5)] * 3, [])


def test_a_scalar_is_an_array_too():
    source = Reads(np.float32(3))
    assert source.lazy.read().shape == ()
    assert source.lazy[...].read() == 3


WRONG = {
    "beyond the end": (lambda lazy: lazy[3], "3 is out of bounds"),
    "before the start": (lambda lazy: lazy[-4], "-4 is out of bounds"),
    "too many": (lambda lazy: lazy[0, 0, 0, 0], "3 axes"),
    "two ellipses": (lambda lazy: lazy[..., ...], "more than one"),
    "list": (lambda lazy: lazy[[0, 1]], "holds"),
    "boolean": (lambda lazy: lazy[True], "holds"),
    "text": (lambda lazy: lazy["a"], "holds"),
    "too many slices": (lambda lazy: lazy.read([slice(None)] * 4), "3 axes"),
    "reshape": (lambda lazy: lazy.reshape(7), "number of elements"),
    "transpose": (lambda lazy: lazy.transpose(0, 0, 1), "once"),
    "length": (lambda lazy: len(lazy[0, 0, 0]), "no axes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_index_is_an_error(name):
    use, reason = WRONG[name]
    with pytest.raises(errors.LazyIndexError, match=reason) as raised:
        use(Reads(NUMBERS).lazy)
    assert isinstance(raised.value, IndexError)


@pytest.mark.parametrize("wrong", [NUMBERS[0], NUMBERS.astype(np.float64)], ids=["shape", "dtype"])
def test_a_reader_that_breaks_its_promise_is_an_error(wrong):
    with pytest.raises(errors.LazyReadError, match=r"promised float32\[3, 4, 5\]"):
        LazyArray(SHAPE, np.float32, lambda _: wrong).read()
