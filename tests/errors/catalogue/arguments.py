"""Arguments outside of their domain, and inputs with other axes than were meant."""

import jax
import jax.numpy as jnp

from batiste import nn, tree
from batiste.errors import ArgumentError, AxesWarning
from tests.errors.rows import key, raises, x


@raises(ArgumentError, "/ was given features=8.0", "takes a whole number, 0 or more", "Write 8;")
def the_features_are_a_fraction():
    nn.Dense(16 / 2).init(key, x)


@raises(ArgumentError, "dtype='flaot32'", "Did you mean 'float32'?")
def a_dtype_is_misspelt():
    nn.Dense(3, dtype="flaot32").init(key, x)


@raises(ArgumentError, "lecun_normal() was given dtype='int32'", "Keep the parameter in fractions")
def a_kernel_of_integers():
    nn.Dense(3, param_dtype=jnp.int32).init(key, x)


@raises(ArgumentError, "was given init_fn=", "shape (3,)", "a function that makes the parameter 'kernel'")
def an_array_in_place_of_an_initialiser():
    nn.Dense(3, kernel_init=jnp.ones(3)).init(key, x)


@raises(ArgumentError, "inputs={'x':", "one of its arrays, such as batch['x']")
def the_input_is_a_whole_batch():
    nn.Dense(3).init(key, {"x": x})


@raises(ArgumentError, "overwrite='LAST'", "one of 'error', 'first', 'last'", "Did you mean 'last'?")
def a_choice_in_capitals():
    tree.merge({"a": 1}, {"a": 2}, overwrite="LAST")


@raises(ArgumentError, "features=a traced array of shape (), int32", "Compute it outside of jit")
def a_size_is_traced():
    jax.jit(lambda size: nn.Dense(size).init(key, x))(3)


@raises(AxesWarning, "kernel_size=3, which is one spatial axis", "kernel_size=(3, 3) for 2 spatial axes")
def one_number_for_a_kernel_over_images():
    nn.Conv(8, 3).init(key, jnp.ones((1, 28, 28, 3)))


@raises(AxesWarning, "28 channels", "x[..., None]")
def images_without_channels():
    nn.Conv(8, (3, 3)).init(key, jnp.ones((2, 28, 28)))


@raises(AxesWarning, "moves along the first axis", "For a batch write a window of 2")
def a_window_over_the_batch():
    nn.max_pool(jnp.ones((2, 28, 28, 3)), (2, 2, 2))
