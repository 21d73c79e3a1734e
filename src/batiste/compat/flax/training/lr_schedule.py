"""``flax.training.lr_schedule``: learning rates by step, constant, in steps and along a cosine, each with a warmup.

Flax has deprecated them in favour of Optax's schedules. The warmup is a linear ramp from 0, after Goyal et al.,
*Accurate, Large Minibatch SGD*, 2017, https://arxiv.org/abs/1706.02677; the cosine is that of Loshchilov and Hutter,
*SGDR*, 2016, https://arxiv.org/abs/1608.03983, without restarts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from batiste.errors import FlaxDeprecationWarning

__all__ = [
    "create_constant_learning_rate_schedule",
    "create_cosine_learning_rate_schedule",
    "create_stepped_learning_rate_schedule",
]

_Schedule = Callable[[Any], Any]


def create_constant_learning_rate_schedule(
    base_learning_rate: float, steps_per_epoch: int, warmup_length: float = 0.0
) -> _Schedule:
    """Return a function from the step to a constant learning rate.

    Args:
      base_learning_rate: the rate.
      steps_per_epoch: the number of steps of an epoch.
      warmup_length: the number of epochs over which the rate climbs from 0.
    """
    _say_deprecated()

    def rate(step: Any) -> Any:
        return _warmed_up(base_learning_rate, step, steps_per_epoch, warmup_length)

    return rate


def create_stepped_learning_rate_schedule(
    base_learning_rate: float,
    steps_per_epoch: int,
    lr_sched_steps: Sequence[Sequence[float]],
    warmup_length: float = 0.0,
) -> _Schedule:
    """Return a function from the step to a learning rate that changes at given epochs.

    Args:
      base_learning_rate: the rate before the first change.
      steps_per_epoch: the number of steps of an epoch.
      lr_sched_steps: pairs of an epoch and the factor on the base rate after it, in the order of the epochs.
      warmup_length: the number of epochs over which the rate climbs from 0.
    """
    _say_deprecated()
    ends = [epoch * steps_per_epoch for epoch, _ in lr_sched_steps]
    rates = jnp.array([base_learning_rate, *(base_learning_rate * factor for _, factor in lr_sched_steps)])

    def rate(step: Any) -> Any:
        return _warmed_up(rates[jnp.sum(step > jnp.array(ends))], step, steps_per_epoch, warmup_length)

    return rate


def create_cosine_learning_rate_schedule(
    base_learning_rate: float, steps_per_epoch: int, halfcos_epochs: float, warmup_length: float = 0.0
) -> _Schedule:
    """Return a function from the step to a learning rate that falls to 0 along half a cosine.

    Args:
      base_learning_rate: the rate at the beginning.
      steps_per_epoch: the number of steps of an epoch.
      halfcos_epochs: the number of epochs until it is 0.
      warmup_length: the number of epochs over which the rate climbs from 0.
    """
    _say_deprecated()
    steps = halfcos_epochs * steps_per_epoch

    def rate(step: Any) -> Any:
        falling = jnp.cos(step * math.pi / steps) * 0.5 + 0.5
        return _warmed_up(base_learning_rate * falling, step, steps_per_epoch, warmup_length)

    return rate


def _warmed_up(rate: Any, step: Any, steps_per_epoch: int, warmup_length: float) -> Any:
    if warmup_length <= 0:
        return rate
    return rate * jnp.minimum(1.0, step / float(warmup_length) / steps_per_epoch)


def _say_deprecated() -> None:
    text = "Flax has deprecated flax.training.lr_schedule: use a schedule of optax.schedules."
    warnings.warn(text, FlaxDeprecationWarning, stacklevel=3)
