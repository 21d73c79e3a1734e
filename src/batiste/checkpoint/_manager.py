"""The checkpoints of one run: a folder with one checkpoint a step, named by the step."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from batiste._arguments import function
from batiste._processes import is_first
from batiste.checkpoint._background import SaveHandle
from batiste.checkpoint._checkpoint import Checkpoint, open  # noqa: A004 - this package's own
from batiste.checkpoint._detect import holds_checkpoint
from batiste.checkpoint._files import cleanup, leftovers, remove, resolve
from batiste.checkpoint._policies import PolicyLike
from batiste.checkpoint._restore import restore
from batiste.checkpoint._retention import METRICS, KeepRule, Saved, as_rules, kept, misnamed
from batiste.checkpoint._savable import CLOCK, as_json, as_metrics, as_step
from batiste.checkpoint._save import save, save_async
from batiste.checkpoint._target import ShardingsLike
from batiste.errors import BatisteError, BatisteWarning, CheckpointArgumentError, NoStepError

__all__ = ["Manager"]


class Manager:
    """Saves, finds and removes the checkpoints of a run.

    A step is there from the moment its save is complete; saves that were interrupted are not seen, and stay until
    ``cleanup`` is called. In a program of several processes, all of them save a step together, and process 0 alone
    removes steps. Runs that Orbax's ``CheckpointManager`` wrote can be read. Wherever a step is taken, it is an
    integer from 0 on, of Python, NumPy or JAX: ``state.step`` is one.

    Args:
      folder: the folder of the run; made by the first save.
      keep: rules for the steps to keep; None keeps all. The latest step is always kept, and so is the one that this
        manager has saved last, which may be an earlier step.
      clock: seconds since 1970.

    Raises:
      ArgumentError: if the folder is no path, ``keep`` are no rules, or the clock cannot be called.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> manager = checkpoint.Manager("run", keep=[checkpoint.KeepLast(2)])
      >>> for step in (10, 20, 30):
      ...     manager.save(step, {"w": np.full(2, step)}, metrics={"loss": 1 / step})
      >>> manager.steps(), manager.latest()
      ([20, 30], 30)
      >>> manager.restore()["w"].tolist()
      [30, 30]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: Sequence[KeepRule] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = resolve(folder, "checkpoint.Manager", "folder")
        self._keep = as_rules(keep)
        self._clock = function(clock, "clock", "checkpoint.Manager", what=CLOCK)
        self._told: set[str] = set()  # the metrics that a warning was about
        self._newest: int | None = None  # the step that was saved last
        self._pending: SaveHandle | None = None
        self._pending_step: int | None = None

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self._folder

    @property
    def keep(self) -> tuple[KeepRule, ...] | None:
        """The rules for the steps to keep; None where all are kept."""
        return self._keep

    def path(self, step: int) -> Path:
        """Return where a step is saved."""
        return self._folder / str(as_step(step, "checkpoint.Manager"))

    def steps(self) -> list[int]:
        """Return the steps that are complete, in order."""
        if not self._folder.is_dir():
            return []
        names = [
            entry for entry in self._folder.iterdir() if entry.name.isdecimal() and str(int(entry.name)) == entry.name
        ]
        return sorted(int(entry.name) for entry in names if entry.is_dir() and holds_checkpoint(entry))

    def latest(self) -> int | None:
        """Return the latest complete step, or None where there is none."""
        return max(self.steps(), default=None)

    def save(
        self,
        step: int,
        tree: Any,
        *,
        metrics: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> None:
        """Save a step, and remove the steps that no rule keeps.

        Args:
          step: the training step.
          tree: any pytree of arrays, typed random keys, numbers and strings.
          metrics: real numbers by name, of Python, NumPy or JAX, that ``KeepBest`` looks at; they are kept in the
            metadata as ``metrics``. One that is NaN or infinite is saved, and is never the best.
          metadata: as ``batiste.checkpoint.save`` takes it.
          overwrite: whether to replace the step where it is saved already.
          **options: every other argument of ``batiste.checkpoint.save``.

        Raises:
          BatisteError: as ``batiste.checkpoint.save`` does, or what an earlier ``save_async`` ended with.
        """
        self.wait()
        more = self._options(step, metrics, metadata)
        save(self.path(step), tree, overwrite=overwrite, **more, **options)
        self._newest = more["step"]
        self.prune()

    def save_async(
        self,
        step: int,
        tree: Any,
        *,
        metrics: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> SaveHandle:
        """Save a step in the background; the arguments are those of ``save``.

        One save is under way at a time: a second one waits for the first. Steps that no rule keeps are removed when the
        next save begins, or when ``wait`` is called.

        Raises:
          BatisteError: as ``batiste.checkpoint.save_async`` does, or what an earlier ``save_async`` ended with.
        """
        self.wait()
        more = self._options(step, metrics, metadata)
        self._pending = save_async(self.path(step), tree, overwrite=overwrite, **more, **options)
        self._pending_step = more["step"]
        return self._pending

    def wait(self) -> None:
        """Wait for a save in the background, and remove the steps that no rule keeps.

        Raises:
          BatisteError: what the save ended with.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.wait()
            self._newest = self._pending_step
            self.prune()

    def open(self, step: int | None = None) -> Checkpoint:
        """Open a step, or the latest one.

        Raises:
          NoStepError: if there is no such step.
        """
        return open(self._find(step))

    def restore(
        self,
        target: Any = None,
        *,
        step: int | None = None,
        missing: PolicyLike = "error",
        extra: PolicyLike = "error",
        shape: PolicyLike = "error",
        dtype: PolicyLike = "error",
        shardings: ShardingsLike = None,
        verify: bool = True,
    ) -> Any:
        """Restore a step, or the latest one; the other arguments are those of ``batiste.checkpoint.restore``.

        Raises:
          NoStepError: if there is no such step.
          BatisteError: as ``batiste.checkpoint.restore`` does.
        """
        place = self._find(step)
        return restore(
            place, target, missing=missing, extra=extra, shape=shape, dtype=dtype, shardings=shardings, verify=verify
        )

    def prune(self) -> list[int]:
        """Remove the steps that no rule keeps, and return them.

        A step whose manifest cannot be read is left where it is: it is not for a rule to remove what is damaged. A
        warning names the metric of a ``KeepBest`` that no step has, where the steps have one of nearly the same name.
        """
        if self._keep is None or not is_first():
            return []
        saved: list[Saved] = []
        for step in self.steps():
            try:
                manifest = open(self.path(step)).manifest
            except BatisteError:
                continue
            saved.append(Saved(step, manifest.saved_at, manifest.metadata))
        for metric, other in misnamed(self._keep, saved).items():
            if metric not in self._told:
                self._told.add(metric)
                text = (
                    f"KeepBest({metric!r}) removes nothing: no step in {self._folder} has this metric. "
                    f"They have {other!r}."
                )
                warnings.warn(text, BatisteWarning, stacklevel=3)
        keep = kept(self._keep, saved, self._clock())
        gone = [row.step for row in saved if row.step not in keep and row.step != self._newest]
        for step in gone:
            remove(self.path(step))
        return gone

    def remove(self, step: int) -> None:
        """Remove one step.

        Raises:
          NoStepError: if there is no such step.
        """
        place = self._find(as_step(step, "checkpoint.Manager.remove"))
        if is_first():
            remove(place)

    def leftovers(self) -> list[Path]:
        """Return what interrupted saves and removals have left."""
        return leftovers(self._folder)

    def cleanup(self) -> list[Path]:
        """Remove what interrupted saves and removals have left, and return it.

        Call it when no other process saves into the folder.
        """
        self.wait()
        return cleanup(self._folder) if is_first() else []

    def _options(
        self, step: int, metrics: Mapping[str, float] | None, metadata: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        known = {} if metadata is None else as_json(metadata)
        if metrics is not None and METRICS in known:
            reason = "the metrics of the step would take its place"
            cure = "Give them as `metrics` alone, or what is in the metadata another name."
            raise CheckpointArgumentError(argument="metadata['metrics']", value="saved", reason=reason, cure=cure)
        more = {} if metrics is None else {METRICS: as_metrics(metrics)}
        return {"step": as_step(step, "checkpoint.Manager.save"), "metadata": {**known, **more}, "clock": self._clock}

    def _find(self, step: int | None) -> Path:
        steps = self.steps()
        if not steps:
            cure = "A save that was interrupted is not counted; check the folder, or save a step first."
            raise NoStepError(folder=self._folder, found="no complete checkpoint", cure=cure)
        step = None if step is None else as_step(step, "checkpoint.Manager")
        if step is not None and step not in steps:
            known = ", ".join(map(str, steps[-10:]))
            raise NoStepError(
                folder=self._folder, found=f"no complete checkpoint of step {step}", cure=f"It has {known}."
            )
        return self.path(steps[-1] if step is None else step)
