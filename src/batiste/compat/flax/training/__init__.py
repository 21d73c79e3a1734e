"""``flax.training``: train states, checkpoints and helpers, each a module of its own."""

from __future__ import annotations

from batiste._later import later as _later

__all__: list[str] = []

__getattr__, __dir__ = _later(
    __name__,
    (
        "checkpoints",
        "common_utils",
        "dynamic_scale",
        "early_stopping",
        "lr_schedule",
        "orbax_utils",
        "prefetch_iterator",
        "train_state",
    ),
)
