"""Training: the state that a step takes and returns, and a folder that keeps compiled programs."""

from batiste.train._compile_cache import compile_cache
from batiste.train._state import TrainState

__all__ = ["TrainState", "compile_cache"]
