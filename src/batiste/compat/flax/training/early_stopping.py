"""``flax.training.early_stopping``: when a metric that should fall has stopped falling."""

from __future__ import annotations

import math

from batiste.compat.flax.struct import PyTreeNode

__all__ = ["EarlyStopping"]


class EarlyStopping(PyTreeNode):
    """A counter of evaluations without improvement; ``update`` returns the next one.

    Attributes:
      min_delta: by how much a metric must fall below the best one to be better.
      patience: how many evaluations in a row may bring nothing before the next such one stops the training.
      best_metric: the best metric so far.
      patience_count: how many evaluations in a row brought nothing.
      should_stop: whether the training should stop.
      has_improved: whether the last evaluation was better.
    """

    min_delta: float = 0
    patience: int = 0
    best_metric: float = math.inf
    patience_count: int = 0
    should_stop: bool = False
    has_improved: bool = False

    def reset(self) -> EarlyStopping:
        """Return a counter with the same settings that has seen nothing."""
        return self.replace(best_metric=math.inf, patience_count=0, should_stop=False, has_improved=False)

    def update(self, metric: float) -> EarlyStopping:
        """Return the counter after one more evaluation. Once it says stop, it says so until ``reset``."""
        if math.isinf(self.best_metric) or self.best_metric - metric > self.min_delta:
            return self.replace(best_metric=metric, patience_count=0, has_improved=True)
        stop = self.should_stop or self.patience_count >= self.patience
        return self.replace(patience_count=self.patience_count + 1, should_stop=stop, has_improved=False)
