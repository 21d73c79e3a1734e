"""Errors: a message is text, the context is a dict, and `nearest` takes any iterable of names."""

from typing import Any, assert_type

from batiste.errors import BatisteError, nearest

assert_type(nearest("kernal", ("kernel", "bias")), str)
assert_type(BatisteError(what="nothing").context, dict[str, Any])
assert_type(BatisteError.code, str)
nearest("kernal", 3)  # pyright: ignore[reportArgumentType]
