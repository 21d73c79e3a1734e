"""What becomes of a step whose numbers are not finite, as data.

Four answers: the run stops and says why (``"stop"``), the update is not made (``"skip"``), the run returns to its last
checkpoint and leaves the batch out (``"return"``), or nothing (``"pass"``). With the second and the third, the compiled
step keeps the state that it was given where a metric is not finite, or an array of the next state has a number that is
not finite where it had a finite one before: an optimiser may hold an infinity on purpose. So no state with such numbers
is ever saved. The loop learns of it when it reads the metrics; until then it holds on to the batches, at most
``_BATCHES`` of them and ``_BYTES`` bytes, so that the batch in question can be written to the folder of the run.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from batiste._arguments import choice, function, whole_number
from batiste.checkpoint import save
from batiste.errors import UnsavedStepWarning
from batiste.train._step import as_program, compile_step, is_compiled

__all__ = ["FOLDER", "NonFinite", "Recent", "Taken", "compiled", "guarded", "kept_batch"]

_BATCHES = 64
_BYTES = 1 << 26
FOLDER = "nonfinite"


@dataclasses.dataclass(frozen=True)
class NonFinite:
    """What a loop does when a metric of a step, or the state after it, has NaN or infinity.

    Where the loop has a ``run``, the batch of that step is written as a checkpoint to ``nonfinite/STEP`` in its folder.
    Skipped steps are counted: in ``loop.skipped``, in each row as ``skipped``, and over interruptions.

    Attributes:
      action: ``"stop"`` raises ``NonFiniteMetricError`` where a metric is not finite; ``"skip"`` leaves the state as it
        was before the step; ``"return"`` goes back to the last checkpoint and leaves the batch out, for which the loop
        needs a ``run``, data that can go on and a step that JAX has not compiled ahead of time; ``"pass"`` does
        nothing.
      limit: how many steps may be skipped, or how often the run may go back, before it stops after all.
      explain: called with a state and the batch, where the run stops; what it returns is added to the error as text.
        The state is the one before that step where it can be had, else the one at hand. Without it,
        ``batiste.diagnose.find_nan`` looks for the module and the operation.

    Raises:
      ArgumentError: there is no such action, the limit is no whole number from 1 on, or ``explain`` is no function.
    """

    action: Literal["stop", "skip", "return", "pass"] = "stop"
    limit: int = 100
    explain: Callable[[Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        choice(self.action, "action", "NonFinite", ("stop", "skip", "return", "pass"))
        whole_number(self.limit, "limit", "NonFinite", low=1)
        if self.explain is not None:
            function(self.explain, "explain", "NonFinite", what="a function of a state and a batch")

    @property
    def guards(self) -> bool:
        """Whether the compiled step keeps the state that it was given where its result is not finite."""
        return self.action in ("skip", "return")


def guarded(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that keeps the state where its result is not finite, and says so beside its metrics."""

    @functools.wraps(step)
    def guarding(state: Any, batch: Any) -> Any:
        after, metrics = step(state, batch)
        good = jnp.bool_(True)
        for leaf in jax.tree.leaves(metrics):
            if _is_inexact(leaf):
                good &= jnp.isfinite(leaf).all()
        for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
            if _is_inexact(new):
                good &= ~(jnp.isfinite(old) & ~jnp.isfinite(new)).any()

        def choose(old: Any, new: Any) -> Any:
            return jax.lax.select(good, new, _like(old, new))

        chosen: Any = jax.tree.map(choose, state, after)
        return chosen, (metrics, good)

    return guarding


def compiled(step: Callable[..., Any], state: Any, policy: NonFinite) -> Callable[..., Any]:
    """Return the step as a loop runs it, with the test of its result where the policy needs one."""
    if not policy.guards:
        return compile_step(step, state)
    if is_compiled(step):
        return jax.jit(guarded(step))
    return compile_step(as_program(guarded(step)), state)


def _like(old: Any, new: Any) -> Any:
    return old if isinstance(old, jax.Array) and old.dtype == new.dtype else jnp.asarray(old, new.dtype)


def _is_inexact(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, float | complex) if dtype is None else bool(jnp.issubdtype(dtype, jnp.inexact))


class Taken(NamedTuple):
    """A batch of which it is not known yet whether its step went well: the step, its number in the data, itself."""

    step: int
    draw: int
    batch: Any


class Recent:
    """The batches of the steps whose metrics have not been read.

    Args:
      kept: whether any are held at all.
    """

    def __init__(self, *, kept: bool) -> None:
        self._kept = kept
        self._batches: deque[Taken] = deque()
        self._most = 0  # not known before there is a batch

    def add(self, step: int, draw: int, batch: Any) -> int | None:
        """Hold a batch; return the step up to which the metrics should be read, where there are too many."""
        if not self._kept:
            return None
        if not self._most:
            size = sum(int(getattr(leaf, "nbytes", 0)) for leaf in jax.tree.leaves(batch))
            self._most = max(1, min(_BATCHES, _BYTES // max(1, size)))
        self._batches.append(Taken(step, draw, batch))
        return step - self._most // 2 - 1 if len(self._batches) > self._most else None

    def find(self, step: int) -> Taken | None:
        """Return the batch of a step, where it is still held."""
        return next((taken for taken in self._batches if taken.step == step), None)

    def forget(self, last: int) -> None:
        """Let go of the batches of all steps up to ``last``."""
        while self._batches and self._batches[0].step <= last:
            self._batches.popleft()


def kept_batch(folder: Path, step: int, batch: Any) -> Path | None:
    """Write a batch to the folder of a run, and return where; a failure is a warning, since the run comes first."""
    place = folder / FOLDER / str(step)
    try:
        save(place, batch, step=step, overwrite=True)
    except Exception as error:  # noqa: BLE001 - it is told, and what is said of the step matters more
        text = f"The batch of step {step} was not written to {place}: {error}"
        warnings.warn(text, UnsavedStepWarning, stacklevel=2)
        return None
    return place
