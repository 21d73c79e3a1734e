"""What an array becomes: promotion against Linen's, and that nothing is done where nothing is to be done."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import dtypes as theirs

from batiste import dtypes as ours
from batiste.errors import InexactDtypeError

F32, BF16, F16, I32 = (jnp.ones(2, kind) for kind in (jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32))

MIXES = {
    "same": (F32, F32, None),
    "half and single": (BF16, F32),
    "two halves": (BF16, F16),
    "integers": (I32, I32),
    "integer and half": (I32, BF16),
    "Booleans": (jnp.array([True]),),
    "numbers": (1.0, F32, 2),
    "number alone": (2,),
    "NumPy": (np.ones(2), BF16),
    "NumPy integers": (np.arange(2), None),
    "complex": (F32, jnp.ones(2, jnp.complex64)),
    "weak": (jax.lax.broadcast(jnp.asarray(2.0), (2,)), BF16),
}


@pytest.mark.parametrize("options", [{}, {"inexact": False}, {"dtype": jnp.bfloat16}, {"dtype": "float16"}], ids=str)
@pytest.mark.parametrize("args", MIXES.values(), ids=MIXES)
def test_promotion_is_linens(args, options):
    if options.get("dtype") is not None and any(jnp.iscomplexobj(arg) for arg in args if arg is not None):
        return
    assert ours.canonicalize_dtype(*args, **options) == theirs.canonicalize_dtype(*args, **options)
    mine, other = ours.promote_dtype(*args, **options), theirs.promote_dtype(*args, **options)
    assert [(None if a is None else (a.dtype, a.weak_type)) for a in mine] == [
        (None if a is None else (a.dtype, a.weak_type)) for a in other
    ]


def test_arrays_that_agree_are_returned_as_they_are():
    first, second, nothing = ours.promote_dtype(F32, F32, None)
    assert first is F32
    assert second is F32
    assert nothing is None
    assert ours.cast(F32, jnp.float32) is F32
    assert ours.cast(F32, "float32") is F32


def test_no_equation_where_nothing_is_to_be_done():
    assert not jax.make_jaxpr(ours.promote_dtype)(F32, F32).eqns


def test_integers_cannot_be_asked_for():
    with pytest.raises(InexactDtypeError, match="int32"):
        ours.canonicalize_dtype(F32, dtype=jnp.int32)
    assert ours.canonicalize_dtype(F32, dtype=jnp.int32, inexact=False) == jnp.int32


def test_reductions_are_at_least_float32():
    kinds = [jnp.bfloat16, jnp.float16, jnp.int8, jnp.float32, jnp.float64, jnp.complex64]
    expected = ["float32", "float32", "float32", "float32", "float64", "complex64"]
    assert [ours.reduction_dtype(kind).name for kind in kinds] == expected


def test_matched_is_not_stopped_by_strict_promotion(strict_dtypes):
    del strict_dtypes
    first, second = ours.matched(F32, BF16)
    assert first.dtype == second.dtype == jnp.float32
    assert ours.matched(BF16, BF16)[0] is BF16
