"""Where a number that is not finite came from: the step that made it is done once more, and looked into.

The loop learns of such a number long after its step, when the state before it has been used up. So a run holds on to an
earlier state, as long as it is small, and to the batches since. From there the steps are done again, to the same bits,
until one has a metric or a new state that is not finite: with that step, its state and its batch
``batiste.diagnose.find_nan`` names the module and the operation. Where the state is too large, that of the last
checkpoint stands in for it. Nothing is added to the compiled step, and nothing of this happens in a run that goes well,
but for a copy of the state every so many steps: the cheaper it is, the more often, and the fewer batches are held.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from batiste._later import later
from batiste.errors import BatisteError

if TYPE_CHECKING:
    from batiste.checkpoint import Manager

__all__ = ["Found", "Past", "searched"]

_BYTES = 1 << 26  # of a state that is copied, and of the batches that are held
_APART = 256  # steps between two copies, at most: one of 100 arrays takes 4 ms of a CPU
_LEAST = 32  # and of a state of 20 arrays or less: to hold 300 batches of 25 KB costs 20 us a step, in fresh memory
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
        self._apart = _APART

    def begin(self, step: int, state: Any) -> None:
        """Take the state that a run begins or goes on with, unless an earlier one is there."""
        if self._kept and self._good is None and self._next is None:
            self._good = _copied(step, state)
            leaves: list[Any] = jax.tree.leaves(state)
            self._apart = min(_APART, max(_LEAST, 2 * len(leaves), _size(leaves) >> 16))

    def forget(self) -> None:
        """Let go of all: the state was replaced."""
        self._good = self._next = None
        self._batches.clear()

    def add(self, step: int, batch: Any) -> None:
        """Take the batch of a step."""
        if self._good is None and self._next is None:
            return
        if not self._most:
            self._most = max(1, min(_BATCHES, _BYTES // max(1, _size(jax.tree.leaves(batch)))))
        self._batches.append((step, batch))
        if len(self._batches) > self._most:
            self._batches.popleft()

    def went_well(self, last: int, now: int, state: Any) -> None:
        """Take note that all steps up to ``last`` were good, and of the state after ``now`` steps, which may not be."""
        if self._next is not None and self._next[0] <= last:
            self._good, self._next = self._next, None
            while self._batches and self._batches[0][0] <= self._good[0]:
                self._batches.popleft()
        if self._next is None and self._good is not None and now - self._good[0] >= self._apart:
            self._next = _copied(now, state)

    def find(self, step: int) -> Found | None:
        """Return the first step up to this one that gave what is not finite; None where that cannot be known."""
        earlier = (each for each in (self._next, self._good) if each is not None and each[0] < step)
        known = next((each for each in earlier if not _has_nan(each[1])), None)
        held = [(number, batch) for number, batch in self._batches if known is not None and known[0] < number <= step]
        self.forget()  # the program may use them up
        if known is None or not held or held[-1][0] != step:
            return None
        after, state = known
        if len(held) < step - after:  # too far back, but better than nothing
            return Found(state, held[-1][1], step, after)
        for number, batch in held:
            before = _copied(number - 1, state, any_size=True)
            state, _ = self._program(state, batch)
            if before is not None and (number == step or _has_gone_wrong(before[1], state)):
                return Found(before[1], batch, number, number - 1)
        return None


def _copied(step: int, state: Any, *, any_size: bool = False) -> tuple[int, Any] | None:
    """Return a step with a copy of its state, where that is small; it needs no program, and keeps places."""
    leaves: list[Any] = jax.tree.leaves(state)
    if not any_size and _size(leaves) > _BYTES:
        return None
    places = [leaf.sharding if isinstance(leaf, jax.Array) else None for leaf in leaves]
    arrays = [leaf for leaf, place in zip(leaves, places, strict=True) if place is not None]
    copies = iter(jax.device_put(arrays, [place for place in places if place is not None], may_alias=False))
    filled = [leaf if place is None else next(copies) for leaf, place in zip(leaves, places, strict=True)]
    tree = cast("Any", jax.tree)
    return step, tree.unflatten(tree.structure(state), filled)


def _size(leaves: list[Any]) -> int:
    return sum(int(getattr(leaf, "nbytes", 0)) for leaf in leaves)


def _has_nan(state: Any) -> bool:
    """Say whether a state is none to begin with: a NaN may show in the state one step before it does in the loss."""
    inexact = (leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))
    return any(bool(jnp.isnan(leaf).any()) for leaf in inexact)


def _has_gone_wrong(before: Any, after: Any) -> bool:
    """Say whether a number of the state is not finite and was so before; an optimiser may hold an infinity."""
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        if jnp.issubdtype(jnp.result_type(new), jnp.inexact) and bool((jnp.isfinite(old) & ~jnp.isfinite(new)).any()):
            return True
    return False


def searched(step: Callable[..., Any], found: Found | None, known: Found, run: Manager | None) -> str:
    """Return what ``diagnose.find_nan`` says of a step, for an error; "" where no state can be had.

    Args:
      step: the function that was given.
      found: the step that can be looked into; None where that is not known.
      known: the step that was not finite, its batch, and the state at hand.
      run: the checkpoints, whose last state is taken in the place of an unknown one; None for none.
    """
    if found is None:
        if run is None:
            return ""
        with contextlib.suppress(BatisteError):  # one that was under way and failed is no state to take
            run.wait()
        last = run.latest()
        if last is None:
            return ""
        found = known._replace(state=run.restore(known.state, step=last), after=last)
    # The compiled step has arrays for numbers, and Python's own division by zero raises.
    state, batch = cast("Any", jax.tree).map(jnp.asarray, (found.state, found.batch))
    answer = _tool("diagnose").find_nan(inspect.unwrap(step), state, batch)
    where = f"step {found.step}"
    if found.after != found.step - 1:
        where = f"the batch of step {found.step} and the state after step {found.after}"
    said = " finds nothing that is not finite." if answer is None else f": {answer}"
    return f"`diagnose.find_nan` on {where}{said}"
