"""Odd numbers in the weights of others: NaN, infinities and large numbers come through, and a cast loses no range."""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from batiste import errors, tree
from batiste.importers import ConvTranspose, Embedding, Linear, Rule, WeightNorm, from_torch, to_torch
from tests.tree.odd_numbers import DTYPES, array, dtype_of

inf, nan = math.inf, math.nan
HALVES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


@pytest.mark.parametrize("new", ["float16", "bfloat16", "int32", "bool", "float32"])
def test_a_cast_is_that_of_the_tree(new):
    """Every dtype of a tensor into a leaf of another: as `tree.cast`, or one error with a line for each."""
    given = {name: array(name)[:24] for name in DTYPES}
    mapping = [Rule(name, name) for name in given]
    target = {name: jax.ShapeDtypeStruct(leaf.shape, dtype_of(new)) for name, leaf in given.items()}
    lost = {name for name, leaf in given.items() if tree.cast_loss(leaf, dtype_of(new))}
    with pytest.raises(errors.CastLossError) as raised:
        from_torch(given, target, mapping, dtype="cast")
    assert {line.split(":")[0].strip() for line in raised.value.context["lines"].splitlines()} == lost
    kept = [name for name in given if name not in lost]
    found = from_torch(
        {name: given[name] for name in kept},
        {name: target[name] for name in kept},
        [Rule(name, name) for name in kept],
        dtype="cast",
    )
    for name in kept:
        assert not tree.diff(found[name], tree.cast(given[name], dtype_of(new), kinds="all"))


@pytest.mark.parametrize("dtype", HALVES)
def test_tied_tensors_with_nan_are_the_same(dtype):
    weight = np.array([[1.0, nan], [inf, -0.0]]).astype(dtype)
    mapping = [("embed", "embed", Embedding()), Rule("head.weight", None, same_as="embed.weight")]
    found = from_torch({"embed.weight": weight, "head.weight": weight.copy()}, None, mapping)
    assert not tree.diff(found, {"embed": {"embedding": weight}})
    with pytest.raises(errors.TiedTensorsError):
        from_torch({"embed.weight": weight, "head.weight": np.nan_to_num(weight.astype(np.float32))}, None, mapping)
    assert set(to_torch(found, mapping)) == {"embed.weight", "head.weight"}


@pytest.mark.parametrize("dtype", HALVES)
def test_groups_do_not_mix_what_is_infinite(dtype):
    """Channels of different groups are not connected: zeros, and not 0 times infinity."""
    weight = np.arange(1, 13, dtype=np.float32).reshape(4, 1, 3).astype(dtype)
    weight[0, 0, 0], weight[3, 0, 2] = inf, nan
    mapping = [("", "layer", ConvTranspose(groups=2))]
    variables = from_torch({"weight": weight}, None, mapping)
    kernel = np.moveaxis(np.asarray(variables["layer"]["kernel"])[::-1], 0, -1).astype(np.float64)
    assert not kernel[:2, 1].any()
    assert not kernel[2:, 0].any()
    assert np.array_equal(kernel[:2, 0], weight[:2, 0].astype(np.float64), equal_nan=True)
    assert not tree.diff(to_torch(variables, mapping), {"weight": weight})


@pytest.mark.parametrize(("dtype", "size"), [(np.float16, 6e4), (ml_dtypes.bfloat16, 1e38), (np.float32, 1e38)])
@pytest.mark.parametrize("sign", [1, -1])
def test_lengths_of_large_and_small_directions(dtype, size, sign):
    """The length of a direction does not overflow or vanish where the direction itself does not."""
    for scale in (sign * size / 4, sign / size):
        direction = (np.array([[1.0, 2.0], [2.0, 1.0]]) * scale).astype(dtype)
        length = np.array([[5.0], [0.5]]).astype(dtype)
        state = {"weight_g": length, "weight_v": direction}
        kernel = from_torch(state, None, [("", "layer", WeightNorm())])["layer"]["kernel"].T
        wide = direction.astype(np.float64)
        expected = length.astype(np.float64) * wide / np.linalg.norm(wide, axis=1, keepdims=True)
        assert np.allclose(kernel.astype(np.float64), expected, rtol=2e-2 if dtype != np.float32 else 1e-6)


def test_a_target_that_jax_could_not_hold():
    """NumPy's doubles in a target stay doubles, whatever JAX is told."""
    given = {"weight": np.array([[1 / 3, 1e300]])}
    found = from_torch(given, {"layer": {"kernel": np.zeros((2, 1))}}, [("", "layer", Linear())])
    assert found["layer"]["kernel"].tolist() == [[1 / 3], [1e300]]
    with pytest.raises(errors.CastLossError, match="beyond"):
        from_torch(given, {"layer": {"kernel": jnp.zeros((2, 1))}}, [("", "layer", Linear())], dtype="cast")
