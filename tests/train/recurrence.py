"""A run whose every state depends on all batches before it: a lost, repeated or reordered one shows in the sum."""

import jax.numpy as jnp
import numpy as np


def step(state, x):
    return {"n": state["n"] + 1, "sum": jnp.sin(state["sum"]) + x}, {"loss": x}


def begin():
    return {"n": jnp.int32(0), "sum": jnp.float32(0)}


def batch(n):
    return np.float32(n + 1)
