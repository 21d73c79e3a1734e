"""An initialiser with its arguments, as a value: what first values and shapes are remembered by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from batiste.core._fingerprint import Valued, fingerprint
from batiste.core._keys import fold_numbers

if TYPE_CHECKING:
    from batiste.typing import Key

__all__ = ["InitCall"]


class InitCall(Valued):
    """An initialiser with its arguments; two are equal if they surely make the same."""

    __slots__ = ("args", "init_fn", "kwargs")

    def __init__(self, init_fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(fingerprint((init_fn, args, kwargs)))
        self.init_fn, self.args, self.kwargs = init_fn, args, kwargs

    def __call__(self, key: Key | None, numbers: Any = ()) -> Any:
        """Return what the initialiser makes: without a key if it takes none, else with numbers folded into the key."""
        if key is None:
            return self.init_fn(*self.args, **self.kwargs)
        return self.init_fn(fold_numbers(key, numbers), *self.args, **self.kwargs)
