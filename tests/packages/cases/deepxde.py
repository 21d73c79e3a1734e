"""deepxde: a differential equation solved by a network, with its JAX backend."""

import os

os.environ["DDE_BACKEND"] = "jax"
import deepxde as dde
import numpy as np

dde.config.set_random_seed(0)


def equation(x, y):
    dy_x, _ = dde.grad.jacobian(y, x)
    return dy_x - y[0] if isinstance(y, tuple) else dy_x - y


geometry = dde.geometry.Interval(0, 1)
start = dde.icbc.DirichletBC(geometry, lambda x: np.ones((len(x), 1)), lambda x, on: on and x[0] < 0.5)
data = dde.data.PDE(geometry, equation, start, num_domain=16, num_boundary=2)
model = dde.Model(data, dde.nn.FNN([1, 8, 8, 1], "tanh", "Glorot normal"))
model.compile("adam", lr=1e-3)
history, _ = model.train(iterations=20, verbose=0)
print("losses", np.sum(history.loss_train[-1]))
