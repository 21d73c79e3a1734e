"""Two pytree dataclasses are equal as tuples are, on every Python: an array is equal to itself."""

import dataclasses

import jax.numpy as jnp
import pytest

from batiste import struct
from batiste.shard import Partitioned

VALUE = jnp.ones((2, 3))


@struct.dataclass
class Held:
    value: object
    note: str = struct.field(default="", pytree_node=False, compare=False)


def test_one_array_is_equal_to_itself():
    assert Partitioned(VALUE, ("x", None)) == Partitioned(VALUE, ("x", None))
    assert Partitioned(VALUE, ("x", None)) != Partitioned(VALUE, (None, "x"))
    assert Held(VALUE, "a") == Held(VALUE, "b")


def test_two_arrays_have_no_one_answer():
    with pytest.raises(ValueError, match="truth value"):
        _ = Held(VALUE) == Held(jnp.ones((2, 3)))


def test_classes_differ_and_what_the_user_wrote_stays():
    class Below(Held):
        pass

    @struct.dataclass
    class Own:
        value: int

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None

    @dataclasses.dataclass
    class Other:
        value: int

    assert Held(1) != Below(1)
    assert Held(1) != Other(1)
    assert Own(1) == Own(2)
    assert hash(Held(1)) == hash(Held(1, "note"))
