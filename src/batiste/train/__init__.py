"""Training: steps and the state that they take and return, the loop over them, losses, metrics, evaluation."""

from batiste.train import losses as losses
from batiste.train import metrics as metrics
from batiste.train._compile_cache import compile_cache
from batiste.train._evaluate import evaluate
from batiste.train._groups import by_pattern, freeze, matching
from batiste.train._loop import Loop, fit
from batiste.train._lora import lora, lora_merged
from batiste.train._make_step import Step, make_step
from batiste.train._metrics import Row, log_row, show
from batiste.train._model_call import ModelCall
from batiste.train._patience import Patience
from batiste.train._state import TrainState

__all__ = [
    "Loop",
    "ModelCall",
    "Patience",
    "Row",
    "Step",
    "TrainState",
    "by_pattern",
    "compile_cache",
    "evaluate",
    "fit",
    "freeze",
    "log_row",
    "lora",
    "lora_merged",
    "make_step",
    "matching",
    "show",
]
