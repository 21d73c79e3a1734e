"""Training: the state that a step takes and returns, the loop over steps, and a folder that keeps compiled programs."""

from batiste.train._compile_cache import compile_cache
from batiste.train._config import configured
from batiste.train._fit import fit
from batiste.train._hooks import Hook, at
from batiste.train._loop import Loop
from batiste.train._metrics import Row, log_row, show
from batiste.train._nonfinite import NonFinite
from batiste.train._settings import Settings
from batiste.train._state import TrainState

__all__ = [
    "Hook",
    "Loop",
    "NonFinite",
    "Row",
    "Settings",
    "TrainState",
    "at",
    "compile_cache",
    "configured",
    "fit",
    "log_row",
    "show",
]
