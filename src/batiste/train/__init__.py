"""Training: the state that a step takes and returns, the loop over steps, and a folder that keeps compiled programs."""

from batiste.train import metrics as metrics
from batiste.train._compile_cache import compile_cache
from batiste.train._loop import Loop, fit
from batiste.train._make_step import Step, make_step
from batiste.train._metrics import Row, log_row, show
from batiste.train._model_call import ModelCall
from batiste.train._state import TrainState

__all__ = ["Loop", "ModelCall", "Row", "Step", "TrainState", "compile_cache", "fit", "log_row", "make_step", "show"]
