"""Errors and warnings of what is around a run: its folder, its configuration, and data that comes from elsewhere."""

from __future__ import annotations

from batiste.errors._base import BatisteError, BatisteWarning

__all__ = ["ConfigChangedWarning", "LearningRateError", "RunFolderError", "RunNotFoundError"]


class RunFolderError(BatisteError, OSError):
    """A file in the folder of a run cannot be written; also an ``OSError``."""

    code = "train/run-folder"
    message = "{path} cannot be written ({reason}), so the run was stopped; its checkpoints are as they were."
    hint = (
        'Free the disk, or mend the folder, and start the run again. save_errors="warn" lets a run go on without being '
        "saved."
    )


class ConfigChangedWarning(BatisteWarning):
    """A run goes on with another configuration than the one that it was begun with."""


class LearningRateError(BatisteError, ValueError):
    """A state has no learning rate that could be set; also a ``ValueError``."""

    code = "train/learning-rate"
    message = "The learning rate of this {kind} cannot be set: its optimiser keeps none in its state."
    hint = "Build the optimiser so that it does: optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)."


class RunNotFoundError(BatisteError, FileNotFoundError):
    """There is no run of that name; also a ``FileNotFoundError``."""

    code = "train/no-run"
    message = "{folder} holds no run: {reason}."
    hint = "{advice}"
