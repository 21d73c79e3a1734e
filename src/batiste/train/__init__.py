"""Training: the state that a step takes and returns, the loop over steps, and a folder that keeps compiled programs."""

from batiste.train._compile_cache import compile_cache
from batiste.train._loop import Loop, fit
from batiste.train._metrics import Row, log_row, show
from batiste.train._processes import global_batch, local_rows
from batiste.train._state import TrainState

__all__ = [
    "Loop",
    "Row",
    "TrainState",
    "compile_cache",
    "fit",
    "global_batch",
    "local_rows",
    "log_row",
    "show",
]
