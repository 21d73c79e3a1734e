"""Training: steps and the state that they take and return, losses, metrics, evaluation, the loop and what is around it.

Around it are hooks, loggers, data, the configuration and the page of a run, and a folder of compiled programs.
"""

from batiste.train import losses as losses
from batiste.train import metrics as metrics
from batiste.train._compile_cache import compile_cache
from batiste.train._config import configured, read_config
from batiste.train._early import early_stopping, keep_best, time_limit
from batiste.train._evaluate import evaluate
from batiste.train._fit import fit
from batiste.train._groups import by_pattern, freeze, matching
from batiste.train._hooks import Hook, at
from batiste.train._loggers import Aim, JsonLines, Mlflow, TensorBoard, Wandb
from batiste.train._loop import Loop
from batiste.train._lora import lora, lora_merged
from batiste.train._make_step import Step, make_step
from batiste.train._metrics import Row, log_row, show
from batiste.train._model_call import ModelCall
from batiste.train._nonfinite import NonFinite
from batiste.train._patience import Patience
from batiste.train._prefetch import Prefetched, prefetch
from batiste.train._processes import global_batch, local_rows
from batiste.train._progress import flops_of, progress
from batiste.train._report import curves, metric_names, read_lines, write_report
from batiste.train._settings import Settings
from batiste.train._sources import Shuffled, from_datasets, from_grain, from_tf, from_torch, shuffled
from batiste.train._state import TrainState
from batiste.train._trial import LearningRates, fast_dev_run, find_learning_rate, overfit_batches, profile

__all__ = [
    "Aim",
    "Hook",
    "JsonLines",
    "LearningRates",
    "Loop",
    "Mlflow",
    "ModelCall",
    "NonFinite",
    "Patience",
    "Prefetched",
    "Row",
    "Settings",
    "Shuffled",
    "Step",
    "TensorBoard",
    "TrainState",
    "Wandb",
    "at",
    "by_pattern",
    "compile_cache",
    "configured",
    "curves",
    "early_stopping",
    "evaluate",
    "fast_dev_run",
    "find_learning_rate",
    "fit",
    "flops_of",
    "freeze",
    "from_datasets",
    "from_grain",
    "from_tf",
    "from_torch",
    "global_batch",
    "keep_best",
    "local_rows",
    "log_row",
    "lora",
    "lora_merged",
    "make_step",
    "matching",
    "metric_names",
    "overfit_batches",
    "prefetch",
    "profile",
    "progress",
    "read_config",
    "read_lines",
    "show",
    "shuffled",
    "time_limit",
    "write_report",
]
