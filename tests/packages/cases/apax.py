"""apax: an energy model of atoms."""

import jax
import jax.numpy as jnp
import numpy as np
from apax.layers.descriptor.gaussian_moment_descriptor import GaussianMomentDescriptor
from apax.layers.readout import AtomisticReadout

vectors = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5], [-1.0, 0.0, 0.0], [0.0, -1.0, -0.5]])
numbers = jnp.array([1, 8, 1])
neighbours = jnp.array([[0, 1, 1, 2], [1, 0, 2, 1]])
descriptor = GaussianMomentDescriptor()
variables = descriptor.init(jax.random.key(0), vectors, numbers, neighbours)
out = descriptor.apply(variables, vectors, numbers, neighbours)
print("descriptor", np.asarray(out).sum())
readout = AtomisticReadout(units=[8, 8])
variables = readout.init(jax.random.key(1), out[0])
print("readout", np.asarray(readout.apply(variables, out[0])).sum())
