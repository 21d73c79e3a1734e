"""Training: the state that a step takes and returns."""

from batiste.train._state import TrainState

__all__ = ["TrainState"]
