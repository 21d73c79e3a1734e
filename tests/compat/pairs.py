"""Running the same thing in batiste and in Flax, and comparing what comes of it."""

from collections.abc import Callable
from typing import Any

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
    if type(wanted).__module__ == "builtins" and type(wanted) not in (AssertionError, IndexError):
        assert isinstance(got, type(wanted)) or isinstance(wanted, KeyError | AttributeError | TypeError)
    elif type(wanted).__module__ == "flax.errors":
        assert type(got).__name__ == type(wanted).__name__
