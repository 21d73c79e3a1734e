"""Odd numbers of every dtype, through all that compares, casts, averages and counts: IEEE's rules, or an error.

Each law is a table over dtypes (`odd_numbers.py`); what is right is asked of Python's exact numbers or of NumPy.
"""

import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import errors, tree
from batiste.tree._conversion import converted
from tests.tree.odd_numbers import COMPLEX, DTYPES, FLOATS, WHOLE, array, dtype_of, kind_of, limits
from tests.tree.support import Reads

inf, nan = math.inf, math.nan


def pairs(name):
    """Every two numbers of a dtype, as two arrays."""
    numbers = array(name)[::9] if name in COMPLEX else array(name)
    first, second = np.meshgrid(np.arange(len(numbers)), np.arange(len(numbers)))
    return numbers[first.reshape(-1)], numbers[second.reshape(-1)]


def exactly(number):
    """A number of NumPy as one of Python without rounding; complex ones as their parts."""
    value = number.item()
    parts = (value.real, value.imag) if isinstance(value, complex) else (value,)
    return [part if isinstance(part, float) and not math.isfinite(part) else Fraction(part) for part in parts]


def is_equal(one, two):
    if any(math.isnan(part) for part in one) or any(math.isnan(part) for part in two):
        return any(map(math.isnan, one)) and any(map(math.isnan, two))
    return one == two


def is_close(one, two, rtol):
    """As `numpy.isclose` has it for NaN and infinities, and as real numbers have it for all others."""
    if is_equal(one, two):
        return True
    if not all(map(math.isfinite, [*one, *two])):
        return False
    square = sum((left - right) ** 2 for left, right in zip(one, two, strict=True))
    return square <= Fraction(rtol) ** 2 * sum(part**2 for part in one)


class TestDiff:
    @pytest.mark.parametrize("name", DTYPES)
    def test_every_two_numbers(self, name):
        for rtol, (one, two) in itertools.product([0.0, 2.0**-10, 0.5, 3.0], zip(*pairs(name), strict=True)):
            expected = is_close(exactly(one), exactly(two), rtol)
            found = tree.diff({"a": np.array([one])}, {"a": np.array([two])}, rtol=rtol)
            assert bool(found) != expected, (one, two, str(found))

    @pytest.mark.parametrize("name", DTYPES)
    def test_as_one_array_and_of_every_library(self, name):
        one, two = pairs(name)
        expected = sum(not is_equal(exactly(left), exactly(right)) for left, right in zip(one, two, strict=True))
        libraries = [np.asarray, lambda leaf: Reads(leaf).lazy]
        if jax.dtypes.canonicalize_dtype(one.dtype) == one.dtype:
            libraries.append(jnp.asarray)
        for left, right in itertools.product(libraries, libraries):
            (entry,) = tree.diff({"a": left(one)}, {"a": right(two)})
            assert entry.unequal == expected
            assert not tree.diff({"a": left(one)}, {"a": right(one)})

    def test_numpy_agrees_on_infinities(self):
        for name in ("float16", "float32", "float64", "complex64", "complex128"):
            numbers = np.array([inf, -inf, nan, 1.0, 1.0001, 0.0], name)
            for one, two in itertools.product(numbers, numbers):
                close = np.isclose(two, one, rtol=1e-3, atol=0, equal_nan=True)
                assert bool(tree.diff(np.array([one]), np.array([two]), rtol=1e-3)) != close

    def test_nan_is_nan_whatever_its_bits(self):
        quiet, other = np.array([0x7FC00000, 0xFFC12345], np.uint32).view(np.float32)
        assert not tree.diff(np.float32(quiet), np.float32(other))
        (entry,) = tree.diff(np.array([quiet]), np.array([1.0], np.float32), rtol=0.5, atol=1e30)
        assert entry.unequal == 1

    def test_a_tolerance_that_overflows_is_not_infinite(self):
        most = np.finfo(np.float64).max
        assert tree.diff(np.array([most]), np.array([inf]), rtol=3.0)
        assert tree.diff(np.array([most]), np.array([-most]), rtol=1.5, atol=1.0)
        assert not tree.diff(np.array([most]), np.array([-most]), rtol=2.0)
        assert tree.diff(np.array([complex(most, most)]), np.array([0j]), rtol=0.5)

    def test_integers_beyond_the_digits_of_floats(self):
        for dtype, number in (("int64", 2**53), ("uint64", 2**64 - 2), ("int64", -(2**63))):
            (entry,) = tree.diff(np.array([number], dtype), np.array([number + 1], dtype))
            assert (entry.distance, entry.unequal) == (1.0, 1)
        (entry,) = tree.diff(np.array([-(2**63)]), np.array([2**63 - 1]))
        assert entry.distance == 2.0**64
        (entry,) = tree.diff(np.array([0], np.uint8), np.array([255], np.uint8))
        assert entry.distance == 255
        assert tree.diff(np.array([2**53 + 1]), np.array([2.0**53])).differences[0].unequal == 1

    def test_numbers_of_python(self):
        (entry,) = tree.diff({"n": 2**70}, {"n": 2**70 + 1})
        assert (entry.kind, entry.distance, entry.unequal) == ("value", 1.0, 1)
        assert not tree.diff(2**70, 2**70 + 1, rtol=1e-9)
        assert tree.diff(0, 10**400).differences[0].distance == inf
        assert [tree.diff(one, two).differences[0].kind for one, two in ((1, 1.0), (True, 1))] == ["dtype", "dtype"]
        assert not tree.diff([nan, 1j, np.float64(1.0)], [nan, 1j, 1.0])

    def test_keys_are_no_numbers(self):
        one, two = jax.random.split(jax.random.key(0), 3), jax.random.split(jax.random.key(1), 3)
        (entry,) = tree.diff({"k": one}, {"k": two}, rtol=10.0, atol=1e12)
        assert (entry.kind, entry.unequal, entry.distance) == ("value", 3, None)
        assert str(entry) == "k  value  key<fry>[3], 3 elements"
        assert not tree.diff({"k": one}, {"k": jax.random.split(jax.random.key(0), 3)})
        assert tree.diff({"k": jax.random.key(0)}, {"k": jax.random.key(0, impl="rbg")}).differences[0].kind == "dtype"
        raw = jax.random.PRNGKey(0)
        assert tree.diff({"k": raw}, {"k": raw + 1})
        assert tree.diff({"k": raw}, {"k": jax.random.key(0)})

    def test_arrays_that_are_no_numbers(self):
        for one, two in (
            (np.array(["a", "b"]), np.array(["a", "c"])),
            (np.array([None, "b"], object), np.array([None, 2], object)),
            (np.array(["2020-01-01", "NaT"], "M8[D]"), np.array(["2020-01-02", "NaT"], "M8[D]")),
            (np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]), np.array([(1, 3.0)], [("a", "i4"), ("b", "f4")])),
        ):
            assert not tree.diff(one, one.copy())
            (entry,) = tree.diff(one, two, rtol=9.0)
            assert (entry.unequal, entry.distance) == (1, None)

    def test_hidden_elements(self):
        one = np.ma.array([1.0, 2.0], mask=[False, True])
        assert not tree.diff(one, np.ma.array([1.0, 9.0], mask=[False, True]))
        assert tree.diff(one, np.ma.array([1.0, 2.0], mask=[False, False])).differences[0].unequal == 1
        assert tree.diff(one, np.array([1.0, 2.0])).differences[0].unequal == 1

    def test_sizes_orders_and_shards(self):
        for name in DTYPES:
            assert not tree.diff(np.zeros((0, 3), dtype_of(name)), np.zeros((0, 3), dtype_of(name)), rtol=1.0)
        assert tree.diff(np.zeros((0, 3)), np.zeros((0, 3), np.float32))
        assert not tree.diff(np.array([1.5], ">f4"), np.array([1.5], "<f4"))
        assert tree.diff(np.array([1], np.longdouble), np.array([1 + np.finfo(np.longdouble).eps], np.longdouble))
        mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
        spread = jax.device_put(np.arange(8.0, dtype=np.float32), jax.NamedSharding(mesh, jax.P("x")))
        assert not tree.diff(spread, np.arange(8.0, dtype=np.float32))
        assert tree.diff(spread, spread.at[3].set(inf), rtol=0.5)

    def test_a_double_is_not_narrowed(self):
        assert tree.diff({"a": np.array([1.0])}, {"a": np.array([1.0 + 2.0**-50])})
        assert tree.diff({"a": np.array([1e300])}, {"a": np.array([2e300])})

    @pytest.mark.parametrize("tolerance", [-1.0, nan, inf, -inf])
    @pytest.mark.parametrize("argument", ["rtol", "atol"])
    def test_tolerances_that_are_none(self, argument, tolerance):
        with pytest.raises(errors.ArgumentError, match=argument):
            tree.diff(1.0, 1.0, **{argument: tolerance})


def is_kept(before, after, kind):
    """Whether a number that was cast is, but for rounding, still that number; parts of it where it is complex."""
    before, after = ([*parts, Fraction(0)][:2] for parts in (before, after))
    if kind in ("bool", "int"):
        return before == after
    if kind == "float" and before[1] != 0:
        return False
    return all(
        math.isnan(one) and math.isnan(two)
        if math.isnan(one) or math.isnan(two)
        else one == two or (math.isfinite(one) and math.isfinite(two) and is_near(one, two))
        for one, two in zip(before, after, strict=True)
    )


def is_near(one, two):
    return one * two >= 0 and abs(one - two) <= max(Fraction(3, 5) * abs(one), Fraction(1, 8))


class TestCast:
    @pytest.mark.parametrize("old", DTYPES)
    def test_every_dtype_to_every_dtype(self, old):
        """Number by number: what is cast is the same but for rounding, or nothing is cast."""
        for new, number in itertools.product(DTYPES, array(old)[:40]):
            try:
                (made,) = tree.cast(np.array([number]), dtype_of(new), kinds="all")
            except errors.CastLossError:
                forced = converted(np.array([number]), dtype_of(new))[0]
                assert not is_kept(exactly(number), exactly(forced), kind_of(new)) or is_at_the_end(number, new)
                continue
            assert made.dtype == dtype_of(new)
            assert is_kept(exactly(number), exactly(made), kind_of(new)), (number, made)

    @pytest.mark.parametrize(("values", "new", "reason"), [
        ([1.0, 1e6], "float16", "1 of 2 elements are beyond 65504"),
        ([1.0, -500.0], "float8_e4m3fn", "1 of 2 elements are beyond 448"),
        ([1.0, inf], "float8_e4m3fn", "1 of 2 elements are infinite"),
        ([nan, 9.0], "float4_e2m1fn", "1 of 2 elements are beyond 6, 1 of 2 elements are NaN"),
        ([0.0, -1.0], "float8_e8m0fnu", "2 of 2 elements are zero or negative"),
        ([1j, 1.0], "float32", "1 of 2 elements have imaginary parts"),
        ([1.5, nan], "int32", "1 of 2 elements are NaN, 1 of 2 elements have fractions"),
        ([-1.0, 3e9], "uint8", "2 of 2 elements are outside of 0 to 255"),
        ([2.0**63], "int64", "1 of 1 elements are outside of"),
        ([2.0, 1.0], "bool", "1 of 2 elements are neither 0 nor 1"),
    ])  # fmt: skip
    def test_what_would_be_lost_is_told(self, values, new, reason):
        leaf = np.array(values)
        lazy = Reads(leaf)
        for nested in ({"a": leaf}, [leaf.tolist()[0], leaf], leaf):
            with pytest.raises(errors.CastLossError, match=reason):
                tree.cast(nested, new)
        made = tree.cast({"a": {"b": lazy.lazy}}, new)
        with pytest.raises(errors.CastLossError, match=f"a/b: .*{reason}"):
            made["a"]["b"].read()

    def test_every_leaf_is_listed_and_none_is_changed(self):
        nested = {"a": np.array([1e9]), "b": jnp.array([1e9, 1.0]), "c": np.ones(2), "d": np.int32(7)}
        with pytest.raises(errors.CastLossError) as raised:
            tree.cast(nested, "float16")
        assert str(raised.value).splitlines()[:3] == [
            "A cast may round numbers, and 2 of these would lose more than that:",
            "  a: float64[1] -> float16: 1 of 1 elements are beyond 65504",
            "  b: float32[2] -> float16: 1 of 2 elements are beyond 65504",
        ]
        assert tree.cast(nested, {"{c,d}": "float16"})["c"].dtype == np.float16

    @pytest.mark.parametrize("new", ["float16", "bfloat16", "float8_e4m3fn", "int8", "bool"])
    def test_arrays_of_jax_are_as_numpys(self, new):
        for values in ([0.0, 1.0], [1.0, 7.25], [3e5, 1.0], [nan, 1.0], [-0.0, 1e-30]):
            host, kind = np.array(values, np.float32), dtype_of(new)
            try:
                expected = tree.cast(host, kind)
            except errors.CastLossError:
                with pytest.raises(errors.CastLossError):
                    tree.cast(jnp.asarray(host), kind)
            else:
                assert not tree.diff(tree.cast(jnp.asarray(host), kind), expected)

    def test_inside_jit_as_jax(self):
        cast = jax.jit(lambda leaf: tree.cast(leaf, "float16"))
        assert cast(jnp.array([1e9, 1.0])).tolist() == [inf, 1.0]
        assert tree.cast(jax.ShapeDtypeStruct((2,), np.float32), "float16").dtype == np.float16

    def test_sharded_arrays(self):
        mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
        spread = jax.device_put(np.arange(8.0, dtype=np.float32), jax.NamedSharding(mesh, jax.P("x")))
        assert tree.cast(spread, "float16").sharding == spread.sharding
        with pytest.raises(errors.CastLossError, match="1 of 8"):
            tree.cast(spread.at[7].set(1e6), "float16")

    def test_doubles_stay_numpys_where_jax_has_none(self):
        assert tree.cast(np.float32([1 / 3]), "float64").dtype == np.float64
        with pytest.raises(errors.TreeValueError, match="jax_enable_x64"):
            tree.cast({"a": jnp.ones(2)}, "float64")

    @pytest.mark.parametrize("dtype", [None, "U3", object, "M8[s]", jax.random.key(0).dtype], ids=str)
    def test_dtypes_of_no_numbers(self, dtype):
        with pytest.raises(errors.TreeValueError, match="dtype"):
            tree.cast({"a": np.ones(2)}, dtype)

    def test_nothing_to_lose(self):
        assert tree.cast(np.zeros((0, 2)), "int4").dtype == dtype_of("int4")
        assert tree.cast(np.ma.array([1.0, 2.0], mask=[False, True]), "float16").mask.tolist() == [False, True]
        assert tree.cast(np.array([1 + 0j, 2]), "float32").tolist() == [1.0, 2.0]
        key = jax.random.key(0)
        assert tree.cast(key, "float32", kinds="all") is key
        with pytest.raises(errors.CastLossError, match="not both numbers"):
            tree.cast({"a": np.array(["x"])}, "float32", kinds="all")


def is_at_the_end(number, name):
    """Whether a number would become the largest or a sign of a dtype that has no infinity, no NaN or no zero."""
    low, high = limits(name)
    value = number.item()
    parts = [value.real, value.imag] if isinstance(value, complex) else [value]
    return any(not low <= part <= high for part in parts) or name == "float8_e8m0fnu"


class TestSums:
    @pytest.mark.parametrize("count", [1, 3, 10])
    @pytest.mark.parametrize("name", [*FLOATS, *COMPLEX])
    def test_the_mean_of_equal_trees_is_that_tree(self, name, count):
        leaf = array(name)
        assert not tree.diff(tree.average([{"a": leaf}] * count)["a"], leaf)
        if name in FLOATS and name not in ("float64", "float8_e8m0fnu"):
            normal = leaf[~(np.abs(leaf.astype(np.float64)) < 1e-37) | (leaf == 0)]  # XLA takes others for zero
            found = tree.average([jnp.asarray(normal)] * count)
            assert found.dtype == leaf.dtype
            assert not tree.diff(found, normal, rtol=1e-6)
            assert np.array_equal(np.isfinite(np.asarray(found)), np.isfinite(normal))

    def test_half_precision_does_not_overflow_on_the_way(self):
        for leaf in (np.full(2, 60000, np.float16), jnp.full(2, 60000, jnp.float16), Reads(np.full(2, 6e4, "f2")).lazy):
            result = tree.average([leaf, leaf, leaf])
            assert np.asarray(result).tolist() == [60000] * 2
            assert np.asarray(tree.average([leaf, leaf], weights=[3, -1])).tolist() == [60000] * 2

    def test_a_sum_beyond_the_dtype_is_infinite(self):
        jax_sum = tree.add_scaled(jnp.full(1, 60000, jnp.float16), jnp.full(1, 60000, jnp.float16), 1.0)
        with np.errstate(over="ignore"):
            numpy_sum = tree.add_scaled(np.full(1, 60000, np.float16), np.full(1, 60000, np.float16), 1.0)
        assert jax_sum.tolist() == numpy_sum.tolist() == [inf]

    def test_a_wider_tree_is_not_lost_in_a_narrow_one(self):
        for narrow, wide in itertools.product((np.float16([1]), jnp.float16([1])), (np.float32([1e6]),)):
            with pytest.raises(errors.CastLossError, match=r"w: the sum as float16: 1 of 1"):
                tree.average([{"w": narrow}, {"w": wide}])
            assert tree.average([{"w": narrow}, {"w": wide / 1e6}])["w"].tolist() == [1]
            assert tree.average([{"w": wide}, {"w": narrow}])["w"].tolist() == [500000.5]
        with pytest.raises(errors.CastLossError):
            tree.average([{"w": jnp.ones(1)}, {"w": np.array([1e300])}])

    def test_doubles_are_not_narrowed_by_an_array_of_jax(self):
        result = tree.average([{"w": np.array([1 / 3])}, {"w": jnp.zeros(1)}])["w"]
        assert (type(result), result.dtype, result.tolist()) == (np.ndarray, np.float64, [1 / 6])

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            (np.array([1]), np.array([0.5])),
            (np.array([True]), np.array([0.5])),
            (np.array([1.0]), np.array([1j])),
            (np.array([1], dtype_of("int4")), np.array([0.5], np.float32)),
            (np.zeros(2, np.float32), jax.random.split(jax.random.key(0))),
            (np.zeros(1, np.float32), np.array(["x"])),
        ],
        ids=["int", "bool", "complex", "int4", "key", "text"],
    )
    def test_what_has_no_place_in_the_first_tree_is_an_error(self, one, two):
        for combine in (lambda: tree.average([one, two]), lambda: tree.interpolate(one, two, 0.5)):
            with pytest.raises(errors.TreeMismatchError):
                combine()
        assert np.array_equal(tree.average([one, two], weights=[1, 0]), one)  # not looked into

    @pytest.mark.parametrize("name", ["bool", *WHOLE])
    def test_whole_numbers_are_those_of_the_first_tree(self, name):
        one, two = array(name), array(name)[::-1].copy()
        assert tree.average([one, two]) is one
        mixed = tree.average([np.zeros(len(two), np.float32), two.astype(np.float32) if name == "bool" else two])
        with np.errstate(over="ignore"):
            assert np.array_equal(mixed, (two.astype(np.float64) / 2).astype(np.float32))

    def test_sub_normal_numbers(self):
        for dtype in (np.float32, np.float64):
            tiny = np.array([np.finfo(dtype).smallest_subnormal], dtype)
            assert tree.average([tiny, tiny, tiny]).tolist() == tiny.tolist()

    @pytest.mark.parametrize("weight", [nan, inf, -inf, "0.5", None, [0.5, 0.5], np.ones(1), 1j, jnp.ones(2)], ids=str)
    def test_weights_that_are_no_scalars(self, weight):
        one = {"a": np.ones(2)}
        with pytest.raises(errors.TreeValueError):
            tree.interpolate(one, one, weight)
        with pytest.raises(errors.TreeValueError):
            tree.add_scaled(one, one, weight)

    @pytest.mark.parametrize(
        "weights", [[nan, 1], [inf, 1], [inf, -inf], [0, 0], [1, -1], [1], [1, 1, 1], ["1", "1"], [1j, 1]], ids=str
    )
    def test_weights_that_have_no_proportions(self, weights):
        with pytest.raises(errors.TreeValueError, match="weights"):
            tree.average([{"a": np.ones(2)}] * 2, weights=weights)

    @pytest.mark.parametrize("weights", [2, 0.5, "11", [[1, 1]], np.ones((2, 1)), {0: 1.0, 1: 1.0}], ids=str)
    def test_weights_that_are_no_sequence(self, weights):
        with pytest.raises(errors.TreeValueError, match="weights"):
            tree.average([{"a": np.ones(2)}] * 2, weights=weights)

    def test_one_tree_that_is_no_list(self):
        with pytest.raises(errors.TreeValueError, match="average"):
            tree.average({"a": np.ones(2), "b": np.ones(2)})

    @pytest.mark.parametrize(
        "weights", [[1e308, 1e308], [5e-324, 5e-324], [True, True], np.float16([6e4, 6e4])], ids=str
    )
    def test_weights_of_every_size(self, weights):
        assert tree.average([np.array([1.0]), np.array([2.0])], weights=weights).tolist() == [1.5]

    @pytest.mark.parametrize(
        "kind", [np.uint8, np.int8, np.bool_, np.float16, jnp.uint8, jnp.bool, jnp.float16], ids=str
    )
    def test_weights_of_every_dtype(self, kind):
        one, two = np.array([1.0]), np.array([2.0])
        for number in (0, 1) if kind in (np.bool_, jnp.bool) else (0, 1, 2):
            assert tree.interpolate(one, two, kind(number)).tolist() == [1.0 + number]
            assert tree.add_scaled(one, two, kind(number)).tolist() == [1.0 + 2 * number]
        if kind in (np.float16, jnp.float16):
            assert tree.interpolate(np.float32([1]), np.float32([1]), kind(0.3)).tolist() == [1.0]

    @pytest.mark.parametrize("weight", [-1.0, 1.5, 2, 1e10])
    def test_beyond_the_ends(self, weight):
        one, two = np.array([1.0, -2.0]), np.array([3.0, 2.0])
        assert np.allclose(tree.interpolate(one, two, weight), one + weight * (two - one))

    def test_hidden_and_empty(self):
        hidden = tree.average([np.ma.array([1.0, 2.0], mask=[False, True]), np.array([3.0, 4.0])])
        assert (hidden.mask.tolist(), hidden[0]) == ([False, True], 2.0)
        both = tree.average([np.ma.array([1j, 2.0], mask=[False, True])] * 2)
        assert (both.mask.tolist(), both[0]) == ([False, True], 1j)
        assert tree.average([np.zeros((0, 3), np.float16)] * 2).shape == (0, 3)
        assert float(tree.average([1.0, 2.0])) == 1.5


class TestAdapters:
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_kernels_that_jax_does_not_hold(self, dtype):
        kernel = np.full((2, 2), 1 / 3, dtype)
        adapters = {"k": {"a": np.full((2, 1), 0.5), "b": np.full((1, 2), 2.0)}}
        for leaf in (kernel, Reads(kernel).lazy):
            merged = np.asarray(tree.lora_merge({"k": leaf}, adapters)["k"])
            assert merged.dtype == kernel.dtype
            assert np.array_equal(merged, kernel + 1.0)

    def test_half_precision_is_computed_in_single(self):
        large = {"k": {"a": np.full((1, 1), 300, np.float16), "b": np.full((1, 1), 300, np.float16)}}
        assert tree.lora_merge({"k": np.zeros((1, 1), np.float16)}, large, alpha=0.5)["k"].tolist() == [[44992.0]]

    @pytest.mark.parametrize(
        "kernel", [np.ones((2, 2), np.int8), np.ones((2, 2), bool), np.ones((2, 2), dtype_of("int4"))]
    )
    def test_kernels_that_have_no_place_for_fractions(self, kernel):
        with pytest.raises(errors.AdapterMismatchError, match="has no place"):
            tree.lora_merge({"k": kernel}, {"k": {"a": np.ones((2, 1)), "b": np.ones((1, 2))}})

    def test_an_imaginary_adapter_and_one_without_rank(self):
        with pytest.raises(errors.AdapterMismatchError, match="has no place"):
            tree.lora_merge({"k": np.ones((2, 2))}, {"k": {"a": np.ones((2, 1)) * 1j, "b": np.ones((1, 2))}})
        with pytest.raises(errors.AdapterMismatchError):
            tree.lora_merge({"k": np.ones((2, 2))}, {"k": {"a": np.ones((2, 0)), "b": np.ones((0, 2))}})

    @pytest.mark.parametrize("name", ["float16", "float32", "float64", "float8_e4m3fn", "float4_e2m1fn"])
    def test_adapters_of_every_dtype(self, name):
        params = {"k": np.zeros((4, 3), dtype_of(name))}
        adapters = tree.lora_init(jax.random.key(0), params, "k", 2)
        assert adapters["k"]["a"].dtype == jax.dtypes.canonicalize_dtype(dtype_of(name))
        assert not tree.diff(tree.lora_merge(params, adapters), params)

    def test_dtypes_that_no_adapter_has(self):
        kernel = {"k": np.ones((2, 2), np.float32)}
        for dtype in ("int32", "bool", "float8_e8m0fnu", "float64"):
            with pytest.raises((errors.TreeValueError, errors.ArgumentError), match=dtype):
                tree.lora_init(jax.random.key(0), kernel, "k", 1, dtype=dtype)
        with pytest.raises(errors.TreeValueError, match="float8_e8m0fnu"):
            tree.lora_init(jax.random.key(0), {"k": np.ones((2, 2), dtype_of("float8_e8m0fnu"))}, "k", 1)


class TestLayers:
    @pytest.mark.parametrize("name", DTYPES)
    def test_every_number_comes_back_with_its_bits(self, name):
        leaf = array(name)[:40]
        libraries = [np.asarray, lambda leaf: Reads(leaf).lazy]
        if jax.dtypes.canonicalize_dtype(leaf.dtype) == leaf.dtype:
            libraries.append(jnp.asarray)
        for library in libraries:
            layers = {f"h_{index}": {"w": library(leaf)} for index in range(2)}
            stacked = tree.stack_layers(layers, "h")
            assert (stacked["h"]["w"].dtype, stacked["h"]["w"].shape) == (leaf.dtype, (2, *leaf.shape))
            for layer in tree.unstack_layers(stacked, "h").values():
                assert not tree.diff(layer["w"], leaf)
                if library is not jnp.asarray:  # XLA has NaN of its own for small floats
                    assert np.asarray(layer["w"]).tobytes() == leaf.tobytes()

    def test_keys_and_hidden_elements(self):
        keys = jax.random.split(jax.random.key(0))
        layers = {"h_0": {"k": keys[0]}, "h_1": {"k": keys[1]}}
        assert not tree.diff(tree.stack_layers(layers, "h")["h"]["k"], keys)
        assert not tree.diff(tree.unstack_layers(tree.stack_layers(layers, "h"), "h"), layers)
        hidden = {f"h_{index}": np.ma.array([1.0, 2.0], mask=[index, not index]) for index in range(2)}
        assert not tree.diff(tree.unstack_layers(tree.stack_layers(hidden, "h"), "h"), hidden)

    def test_dtypes_do_not_meet_in_one_between(self):
        with pytest.raises(errors.UnequalLayersError):
            tree.stack_layers({"h_0": np.ones(1), "h_1": jnp.ones(1)}, "h")
        with pytest.raises(errors.UnequalLayersError):
            tree.stack_layers({"h_0": np.ones(1, np.int64), "h_1": np.ones(1, np.uint64)}, "h")


class TestCounts:
    @pytest.mark.parametrize("name", DTYPES)
    def test_every_dtype_and_kind_of_array(self, name):
        dtype = dtype_of(name)
        for leaf in (np.zeros((2, 3), dtype), jax.ShapeDtypeStruct((2, 3), dtype), Reads(np.zeros((2, 3), dtype)).lazy):
            assert (tree.count(leaf), tree.bytes(leaf)) == (6, 6 * dtype.itemsize)
        assert tree.bytes(np.zeros((0, 3), dtype)) == 0
        if jax.dtypes.canonicalize_dtype(dtype) == dtype:
            assert tree.bytes(jnp.zeros((2, 3), dtype)) == jnp.zeros((2, 3), dtype).nbytes

    @pytest.mark.parametrize("extent", [np.int32(2**20), np.int64(2**40), np.uint8(255), 2**40], ids=repr)
    def test_shapes_beyond_every_integer_of_numpy(self, extent):
        shape = jax.ShapeDtypeStruct((extent,) * 3, np.float32)
        assert (tree.count(shape), tree.bytes(shape)) == (int(extent) ** 3, 4 * int(extent) ** 3)
        assert tree.totals({"a": shape})["a"].count == int(extent) ** 3
        lazy = tree.LazyArray((extent,) * 3, np.float32, np.zeros)
        assert (lazy.size, lazy.nbytes) == (int(extent) ** 3, 4 * int(extent) ** 3)

    @pytest.mark.parametrize(("impl", "size"), [("threefry2x32", 8), ("rbg", 16), ("unsafe_rbg", 16)])
    def test_random_keys(self, impl, size):
        keys = jax.random.split(jax.random.key(0, impl=impl), 5)
        for leaf in (keys, jax.eval_shape(lambda: keys)):
            assert (tree.count(leaf), tree.bytes(leaf)) == (5, 5 * size)

    def test_numbers_of_python(self):
        assert tree.count([1, 1.0, True, 1j, np.float16(1)]) == 5
        assert tree.bytes([1, 1.0, True, 1j, np.float16(1)]) == 8 + 8 + 1 + 16 + 2
