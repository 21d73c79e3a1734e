"""Frozen pytree dataclasses: a field assigned, a field that is not there, an option that cannot be."""

from typing import Any

from batiste import struct
from batiste.errors import FrozenStructError, StructFieldError, StructOptionError
from tests.errors.rows import raises


@raises(FrozenStructError, "Pair.left cannot be assigned", "replace(left=...)")
def a_field_is_assigned():
    @struct.dataclass
    class Pair:
        left: Any
        right: Any

    Pair(1, 2).left = 3


@raises(StructFieldError, "Pair.replace() was given", "rihgt", "left, right", "Did you mean 'right'?")
def a_misspelt_field():
    @struct.dataclass
    class Pair:
        left: Any
        right: Any

    Pair(1, 2).replace(rihgt=3)


@raises(StructOptionError, "Pair is a PyTreeNode with slots=True", "@struct.dataclass(slots=True)")
def slots_of_a_node():
    class Pair(struct.PyTreeNode, slots=True):
        left: Any

    return Pair
