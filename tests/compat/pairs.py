"""Running the same thing in batiste and in Flax, and comparing what comes of it."""

import traceback
from collections.abc import Callable
from typing import Any

import flax
import numpy as np

import batiste.compat.flax
from batiste.errors import BatisteError


def outcome(run: Callable[[], Any]) -> Any:
    """Return what a function returns, or the error it raises."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return error


def text(value: Any) -> str:
    """Return a value as text that is the same for both libraries' types."""
    return repr(value).replace("batiste.compat.flax", "flax")


def assert_same(ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    """Hold that both return the same text, or that both raise, and then that an `except` for theirs catches ours."""
    got, wanted = outcome(ours), outcome(theirs)
    if not isinstance(wanted, Exception):
        if isinstance(got, Exception):
            raise got
        assert text(got) == text(wanted)
        return
    assert isinstance(got, BatisteError), f"{got!r} where Flax raises {wanted!r}"
    if is_meant(wanted):
        kinds = {kind.__name__ for kind in type(got).__mro__}
        assert type(wanted).__name__ in kinds, f"{got!r} is not caught where {wanted!r} is"
    elif not hasattr(flax.errors, type(got).__name__):
        assert isinstance(got, LookupError | TypeError | ValueError | AttributeError), f"{got!r} is of no built-in kind"


def is_meant(error: Exception) -> bool:
    """Return whether a ``raise`` made the error: the others are Flax's accidents, such as ``None.keys()``."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (last.line or "").startswith("raise")


def assert_same_start(ours: Any, theirs: Any, message: str = "") -> None:
    """Hold that two initial values have the same bits.

    Under a JAX newer than the one of the Flax that batiste stands for, the compiler rounds one initialiser differently
    in two programs: there the last two bits are left open.
    """
    if flax.__version__ == batiste.compat.flax.__version__:
        np.testing.assert_array_equal(ours, theirs, err_msg=message)
    else:
        np.testing.assert_allclose(ours, theirs, rtol=4e-7, atol=0, err_msg=message)
