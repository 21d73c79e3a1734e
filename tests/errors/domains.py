"""What an argument may be, as the walk over the public names needs it: wrong values, other spellings of right ones.

A *domain* has the wrong values that must be refused with an error of the catalogue. ``open_to(reason)`` is the domain
of an argument that takes what it gets: the reason is the documented behaviour. `arguments_table.py` has a row for each
public callable.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

NAN, INFINITE = float("nan"), float("inf")
MATRIX = np.ones((2, 3))


class Anything:
    """An object that is no number, no text and no function."""


@dataclasses.dataclass(frozen=True)
class Domain:
    """What an argument takes.

    Attributes:
      wrong: values that must be refused.
      alike: whether NumPy's and JAX's spellings of the usual value are taken for it.
      reason: why nothing is refused, where nothing is.
    """

    wrong: tuple[Any, ...] = ()
    alike: Callable[[Any], tuple[Any, ...]] = lambda value: ()
    reason: str = ""


def integers_of(value: Any) -> tuple[Any, ...]:
    """Return other spellings of a whole number, or of several."""
    if isinstance(value, tuple):
        return list(value), np.array(value), jnp.array(value), tuple(map(np.int64, value)), tuple(map(jnp.int32, value))
    return np.int64(value), np.array(value), jnp.int32(value)


def numbers_of(value: Any) -> tuple[Any, ...]:
    """Return other spellings of a number."""
    return np.float32(value), np.float64(value), np.array(value), jnp.float32(value)


def open_to(reason: str) -> Domain:
    """Return the domain of an argument that takes what it gets, for a documented reason."""
    return Domain(reason=reason)


NO_INTEGER = (1.5, 8.0, True, "1", "", NAN, INFINITE, MATRIX, Anything(), {}, len)
# Sizes of layers have the ends and the usual slips: each case traces a layer.
SIZE = Domain((*NO_INTEGER, None, -1), integers_of)
COUNT = Domain((*NO_INTEGER, None, -1, 0), integers_of)
COUNT_OR_NONE = Domain((*NO_INTEGER, -1, 0), integers_of)
SIZE_OR_NONE = Domain((*NO_INTEGER, -1), integers_of)
AXIS = Domain((*NO_INTEGER, None, 17), integers_of)
AXES = Domain((1.5, True, "1", NAN, None, MATRIX, Anything(), (0, 0), 17), integers_of)
SIZES = Domain(
    (1.5, 8.0, True, "1", NAN, None, MATRIX, Anything(), (1, 2.0), (2, "2"), (2, True), -1, (2, -1)), integers_of
)
STEPS = Domain((*(wrong for wrong in SIZES.wrong if wrong is not None), 0, (0, 0)), integers_of)
EXTENTS = Domain((*SIZES.wrong, 0, (0, 0)), integers_of)
NO_NUMBER = (NAN, INFINITE, True, "0.5", MATRIX, Anything(), {}, len)
NUMBER = Domain((*NO_NUMBER, None), numbers_of)
POSITIVE = Domain((*NO_NUMBER, None, -0.5), numbers_of)
NUMBER_OR_NONE = Domain(NO_NUMBER, numbers_of)
RATE = Domain((*NO_NUMBER, None, -0.5, 1.5), numbers_of)
TEXT = Domain((3, 1.5, None, "", Anything(), MATRIX, True))
PATH = Domain((3, 1.5, None, Anything(), MATRIX, True))
FUNCTION = Domain((3, "relu", MATRIX, {}))
FUNCTION_REQUIRED = Domain((*FUNCTION.wrong, None))
DTYPE = Domain(("flaot32", "", Anything(), MATRIX, 3))
ARRAY = Domain((None, "x", "", {"x": MATRIX}, {}, Anything(), [[1.0], [1.0, 2.0]], ["a"], np.array(["a"]), len))
PATTERN = Domain((3, None, Anything(), "nowhere/*", "PARAMS/**", "", b"params", {"params": 1}, ["**", 3], "[", NAN))
UNMATCHED = Domain(("IGNORE", "ignored", True, 0, None, "", Anything()))

FLAG = open_to("a flag is taken by its truth value, as in Flax Linen and in Python")
TREE = open_to("any pytree is one, a single number too")
JAX = open_to("handed to JAX as it is, which names it in its own error")
ADVANCED = open_to("in place of a function of JAX, and called as that is")
OUTSIDE = open_to("whatever belongs to the caller: it is stored or handed on, and not looked at")


@dataclasses.dataclass(frozen=True)
class Row:
    """How a public callable is called, and what each of its arguments may be.

    Attributes:
      call: takes the arguments by name, and calls it so that each is used.
      usual: a right value of each argument that must be given, or is to be varied.
      domains: the domain of every argument.
      options: arguments that must be given with one, so that it is used: ``{"rotary_dim": {"rotary_base": 10.0}}``.
    """

    call: Callable[..., Any]
    usual: Mapping[str, Any]
    domains: Mapping[str, Domain]
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def choice(*known: str) -> Domain:
    """Return the domain of an argument that is one of some texts."""
    return Domain((*(word.upper() for word in known if word.upper() != word), "nothing", "", 3, True, None, Anything()))
