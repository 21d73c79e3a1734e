"""Where a number that is not finite came from: the step that made it is done once more, and looked into.

The loop learns of such a number long after its step, when the state before it has been used up. So a run holds on to an
earlier state, as long as it is small, and to the batches since. From there the steps are done again, to the same bits,
until one has a metric or a new state that is not finite: with that step, its state and its batch
``batiste.diagnose.find_nan`` names the module and the operation. Where the state is too large, that of the last
checkpoint stands in for it. Nothing is added to the compiled step, and nothing of this happens in a run that goes well,
but for a copy of the state every ``_APART`` steps.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from batiste._later import later
from batiste.errors import BatisteError

if TYPE_CHECKING:
    from batiste.checkpoint import Manager

__all__ = ["Found", "Past", "searched"]

_BYTES = 1 << 26  # of a state that is copied, and of the batches that are held
_APART = 256  # steps between two copies: one of 100 arrays takes 4 ms of a CPU
_BATCHES = 1024

_tool, _ = later("batiste", ("diagnose",))  # which is above this package, loads slowly, and is for runs that failed


class Found(NamedTuple):
    """A step that can be looked into: the state before it, its batch, its number, and that of the state."""

    state: Any
    batch: Any
    step: int
    after: int


class Past:
    """An earlier state and the batches since.

    Args:
      program: the compiled step, which may use its state up.
      kept: whether anything is held at all.
    """

    def __init__(self, program: Callable[..., Any], *, kept: bool) -> None:
        self._program, self._kept = program, kept
        self._good: tuple[int, Any] | None = None
        self._next: tuple[int, Any] | None = None  # of which it is not known yet whether it is good
        self._batches: deque[tuple[int, Any]] = deque()
        self._most = 0

    def begin(self, step: int, state: Any) -> None:
        """Take the state that a run begins or goes on with."""
        self.forget()
        if self._kept and (self._good is None or self._good[0] != step):
            self._good = _copied(step, state)

    def forget(self) -> None:
        """Let go of all: the state was replaced."""
        self._good = self._next = None
        self._batches.clear()

    def add(self, step: int, batch: Any) -> None:
        """Take the batch of a step."""
        if self._good is None and self._next is None:
            return
        if not self._most:
            size = sum(int(getattr(leaf, "nbytes", 0)) for leaf in jax.tree.leaves(batch))
            self._most = max(1, min(_BATCHES, _BYTES // max(1, size)))
        self._batches.append((step, batch))
        if len(self._batches) > self._most:
            self._batches.popleft()

    def went_well(self, last: int, now: int, state: Any) -> None:
        """Take note that all steps up to ``last`` were good, and of the state after ``now`` steps, which may not be."""
        if self._next is not None and self._next[0] <= last:
            self._good, self._next = self._next, None
            while self._batches and self._batches[0][0] <= self._good[0]:
                self._batches.popleft()
        if self._next is None and self._good is not None and now - self._good[0] >= _APART:
            self._next = _copied(now, state)

    def find(self, step: int) -> Found | None:
        """Return the first step up to this one that gave what is not finite; None where that cannot be known."""
        known = next((each for each in (self._next, self._good) if each is not None and each[0] < step), None)
        held = [(number, batch) for number, batch in self._batches if known is not None and known[0] < number <= step]
        if known is None or not held or held[-1][0] != step:
            return None
        if len(held) < step - known[0]:  # it is as far back as batches are not: near is better than nothing
            return Found(known[1], held[-1][1], step, known[0])
        state = known[1]
        for number, batch in held:
            before = _copied(number - 1, state, any_size=True)
            after, _ = self._program(state, batch)
            if before is None or number == step or _has_gone_wrong(before[1], after):
                return None if before is None else Found(before[1], batch, number, number - 1)
            state = after
        return None


def _copied(step: int, state: Any, *, any_size: bool = False) -> tuple[int, Any] | None:
    """Return a step with a copy of its state, where that is small; it needs no program, and keeps places."""
    leaves: list[Any] = jax.tree.leaves(state)
    if not any_size and sum(int(getattr(leaf, "nbytes", 0)) for leaf in leaves) > _BYTES:
        return None
    places = [leaf.sharding if isinstance(leaf, jax.Array) else None for leaf in leaves]
    arrays = [leaf for leaf, place in zip(leaves, places, strict=True) if place is not None]
    copies = iter(jax.device_put(arrays, [place for place in places if place is not None], may_alias=False))
    filled = [leaf if place is None else next(copies) for leaf, place in zip(leaves, places, strict=True)]
    return step, jax.tree.unflatten(jax.tree.structure(state), filled)


def _has_gone_wrong(before: Any, after: Any) -> bool:
    """Say whether a number of the state is not finite and was so before; an optimiser may hold an infinity."""
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        if jnp.issubdtype(jnp.result_type(new), jnp.inexact) and bool((jnp.isfinite(old) & ~jnp.isfinite(new)).any()):
            return True
    return False


def searched(step: Callable[..., Any], found: Found | None, run: Manager | None, at: tuple[int, Any, Any]) -> str:
    """Return what ``diagnose.find_nan`` says of a step, for an error.

    Args:
      step: the function that was given.
      found: the step that can be looked into; None where there is none.
      run: the checkpoints, whose last state is taken then; None for none.
      at: the step that was not finite, its batch, and the state at hand.
    """
    number, batch, state = at
    try:
        if found is None and run is not None and run.latest() is not None:
            last = run.latest() or 0
            found = Found(run.restore(state, step=last), batch, number, last)
        if found is None:
            return ""
        answer = _tool("diagnose").find_nan(inspect.unwrap(step), found.state, found.batch)
    except Exception as error:  # noqa: BLE001 - what is known already is worth more
        reason = str(error).splitlines() or [""]
        return f"`diagnose.find_nan` failed: {type(error).__name__}: {reason[0]}"
    where = f"step {found.step}"
    if found.after != found.step - 1:
        where = f"the batch of step {found.step} and the state after step {found.after}"
    if answer is None:
        return f"`diagnose.find_nan` on {where} finds nothing that is not finite."
    return f"`diagnose.find_nan` on {where}: {answer}"
