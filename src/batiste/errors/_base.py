"""What every error of batiste is: a class with a code, a message and a hint.

A message has three parts: what was written, why it cannot work, and what to write instead. The first two are the
class's ``message``, the third is its ``hint``; both are format strings over the keyword arguments that the error is
raised with, so that the catalogue can be read, tested and documented without a single error being raised.

A new error is a subclass in the file of the package that raises it (``_core.py``, ``_module.py``, ...), with one row in
``tests/errors/catalogue/``: the smallest program that triggers it.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BatisteError", "BatisteWarning", "nearest"]


class BatisteError(Exception):
    """The base of every error that batiste raises for a user's mistake.

    Raise a subclass with the keyword arguments that its ``message`` and ``hint`` name; the text is put together when it
    is printed. Errors pickle back to themselves, so they survive the way out of a worker process.

    Attributes:
      code: a stable name, ``"package/short-name"``, that the docs and tests use.
      message: a format string: what was given, and why it cannot work.
      hint: a format string: what to write instead.
      flax_arguments: where Flax has a class of this name, what its constructor takes, in order: programs raise those
        classes themselves, ``raise NameInUseError("param", "kernel", "Dense")``.
      context: the keyword arguments of this error, for programs that want to read them.
    """

    code: ClassVar[str] = "batiste/error"
    message: ClassVar[str] = "{what}"
    hint: ClassVar[str] = ""
    flax_arguments: ClassVar[tuple[str, ...]] = ("what",)

    def __init__(self, *given: Any, **context: Any) -> None:
        if len(given) > len(self.flax_arguments):
            msg = f"{type(self).__name__} takes {len(self.flax_arguments)} positional arguments, not {len(given)}"
            raise TypeError(msg)
        context = {**dict(zip(self.flax_arguments, given, strict=False)), **context}
        Exception.__init__(self)  # a class that is also of another kind may have a base that takes arguments
        self.context = context

    def __str__(self) -> str:
        try:
            text = self.message.format(**self.context)
            hint = self.hint.format(**self.context) if self.hint else ""
        except KeyError:  # raised by a program, as Flax's class of this name
            text, hint = self._plain(), ""
        return f"{text}\n  {hint}\n  [{self.code}]" if hint else f"{text}\n  [{self.code}]"

    def _plain(self) -> str:
        if list(self.context) in (["message"], ["msg"]):
            return str(next(iter(self.context.values())))
        first = (type(self).__doc__ or type(self).__name__).partition("\n")[0].replace("``", "").rstrip(".")
        given = ", ".join(f"{name}={value!r}" for name, value in self.context.items())
        return f"{first}: {given}." if given else f"{first}."

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        notes = getattr(self, "__notes__", None)
        return (_rebuild, (type(self), self.context), *([{"__notes__": notes}] if notes else []))


class BatisteWarning(UserWarning):
    """The category of every warning that batiste gives, so that it can be filtered as one."""


def _rebuild(kind: type[BatisteError], context: dict[str, Any]) -> BatisteError:
    return kind(**context)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name nearest to ``name``, or "" where none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
