"""Diagnosis: a pattern matches no module, a program is traced again, the profiler is busy."""

import jax
import jax.numpy as jnp

from batiste import nn
from batiste.diagnose import capture, profile, watch_retraces
from batiste.errors import NoSuchModuleError, ProfilerBusyError, RetraceWarning
from tests.errors.rows import raises, x


@raises(NoSuchModuleError, "capture was given the pattern 'Dens'", "Did you mean 'Dense'?")
def a_pattern_of_no_module():
    model = nn.Dense(2)
    capture(model, "Dens")(model.init(jax.random.key(0), x), x)


@raises(ProfilerBusyError, "profile cannot start JAX's profiler", "jax.profiler.stop_trace()")
def a_trace_within_a_trace():
    with jax.profiler.trace("traces"):
        profile(jnp.sin, x)


@raises(RetraceWarning, "mean is traced again, for the 2nd time", "a: shape (2, 3) -> (4, 3)")
def a_batch_of_another_length():
    mean = watch_retraces(jnp.mean)
    mean(x)
    mean(jnp.ones((4, 3)))


@raises(RetraceWarning, "rate: 0.1 -> 0.2 (a static argument: each value is another program)")
def a_learning_rate_is_static():
    def scale(x, rate):
        return x * rate

    scale = watch_retraces(scale, static_argnames="rate")
    scale(x, rate=0.1)
    scale(x, rate=0.2)
