"""Hooks: what a run calls at named moments, plain functions from the loop to nothing.

A hook may look at the loop, end the run (``loop.stop``) and keep values that are saved with the state
(``loop.kept``). What it remembers elsewhere is forgotten when the run is interrupted; with ``kept`` alone it decides
after a resumption as it would have without one. The moments are those of ``MOMENTS``; each says what is there by then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

from batiste._arguments import choice, function, refused
from batiste.errors import LoopArgumentError

__all__ = ["MOMENTS", "Hook", "Hooks", "at", "check_hooks"]

MOMENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "open": "the loop is made, and nothing is read or written; `loop.settings` may be replaced",
        "start": "the loop begins or goes on; the data is open",
        "step": "a step is done: `loop.step`, `loop.state`, `loop.metrics`, before the body and before a save",
        "row": "a row was written: `loop.row`; the state is that of its step",
        "save": "the state is about to be saved",
        "end": "the loop ends or is left, for whatever reason",
    }
)
"""The moments at which hooks are called, with what is there by then."""


@dataclasses.dataclass(frozen=True)
class Hook:
    """Functions by the moment at which a loop calls them, for what needs several moments; ``at`` makes one of one.

    Attributes:
      calls: functions ``(loop) -> None`` by moment.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> step = lambda state, x: (state + x, {"loss": state})
      >>> say = lambda loop: print(loop.step)
      >>> hook = train.Hook({"start": say, "end": say})
      >>> state = train.fit(step, jnp.zeros(()), [1.0, 2.0], hooks=[hook], log=None)
      0
      2
    """

    calls: Mapping[str, Callable[[Any], Any]]

    def __post_init__(self) -> None:
        given: Any = self.calls
        if not isinstance(given, Mapping) or not given:
            raise refused(given, "calls", "Hook", "functions by moment", 'Write Hook({"row": function}).')
        for moment, call in cast("Mapping[Any, Any]", given).items():
            choice(moment, "calls", "Hook", tuple(MOMENTS))
            function(call, "calls", "Hook", what="functions (loop) -> None")


def at(moment: str) -> Callable[[Callable[[Any], Any]], Hook]:
    """Return a decorator that makes a hook of a function: ``@train.at("row")``.

    Args:
      moment: when it is called. ``"open"``: the loop is made, and ``loop.settings`` may be replaced. ``"start"``: the
        loop begins or goes on. ``"step"``: a step is done, and neither the body has run nor is the state saved.
        ``"row"``: a row was written. ``"save"``: the state is about to be saved. ``"end"``: the loop ends or is left.

    Raises:
      ArgumentError: there is no such moment, or what is decorated is no function.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> step = lambda state, x: (state + x, {"loss": state})
      >>> @train.at("row")
      ... def say(loop):
      ...     print(loop.row["step"], loop.row["loss"])
      >>> options = {"hooks": [say], "log_every": 1, "log": None}
      >>> state = train.fit(step, jnp.zeros(()), [1.0, 2.0], **options)
      1 0.0
      2 1.0
    """
    choice(moment, "moment", "at", tuple(MOMENTS))
    return lambda call: Hook({moment: call})


class Hooks:
    """The hooks of one loop, by moment, in the order in which they were given."""

    def __init__(self, hooks: Sequence[Any]) -> None:
        self._calls: dict[str, list[Callable[[Any], Any]]] = {}
        for hook in hooks:
            calls: Mapping[str, Callable[[Any], Any]] = hook.calls if isinstance(hook, Hook) else {"step": hook}
            for moment, call in calls.items():
                self._calls.setdefault(moment, []).append(call)
        self.row = "row" in self._calls
        """Whether one looks at rows, which are then written before the next step begins."""

    def at(self, moment: str, loop: Any) -> None:
        """Call those of a moment."""
        for call in self._calls.get(moment, ()):
            call(loop)


def check_hooks(hooks: Any) -> tuple[Any, ...]:
    """Return hooks as a tuple.

    Raises:
      LoopArgumentError: one is neither a function nor a ``Hook``.
    """
    given: Any = (hooks,) if isinstance(hooks, Hook) or callable(hooks) else hooks
    cure = 'Give a list of functions (loop) -> None, of train.at("row")(function), or of hooks that train has.'
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        kind = type(hooks).__name__
        raise LoopArgumentError(name="hooks", value=f"a {kind}", reason="it is no list of functions", cure=cure)
    found: list[Any] = list(cast("Iterable[Any]", given))
    for hook in found:
        if not isinstance(hook, Hook) and (isinstance(hook, type) or not callable(hook)):
            what = f"the class {hook.__name__}" if isinstance(hook, type) else f"a {type(hook).__name__}"
            raise LoopArgumentError(
                name="hooks", value=f"with {what}", reason="a loop cannot call it with itself", cure=cure
            )
    return tuple(found)
