"""Plans: a step that XLA does not compile, and what compiles for TPUs is not there."""

from unittest import mock

import jax
import jax.numpy as jnp

from batiste import nn
from batiste.errors import PlanCompileError
from batiste.plan import plan
from tests.errors.rows import raises


@raises(PlanCompileError, "the CPU", "device ran out of memory")
def a_step_that_does_not_compile():
    with mock.patch("jax.stages.Lowered.compile", side_effect=RuntimeError("device ran out of memory")):
        plan(nn.Dense(4), jax.ShapeDtypeStruct((8, 4), jnp.float32), compile=True)
