"""One program, two libraries: a model with lifted transforms is built with Linen and with batiste, and all it does is
compared.

A program is a function of a namespace (``batiste.nn`` or ``flax.linen``) that returns a module. ``compare`` observes

- the variables that ``init`` makes, and the result and variables of ``init_with_output``;
- the result of ``apply``, and the collections that it changes, on variables that are not the initial ones;
- the gradient of a fixed sum of the result by every parameter and by the inputs.

Both libraries run in one program, compiled with little optimisation, and with an initialiser that is cheap to compile.
So what is computed in the same way gives the same bits, and a test takes less than a second.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import flax.linen
import flax.typing
import jax
import jax.numpy as jnp

from batiste import nn
from tests.nn.oracle import assert_same, cheap_initializer

flax.config.update("flax_fix_rng_separator", False)

BATISTE = types.SimpleNamespace(**{name: getattr(nn, name) for name in nn.__all__})
LINEN = types.SimpleNamespace(**vars(flax.linen), In=flax.typing.In, Out=flax.typing.Out)
X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that the compiler of this JAX has."""
    known: dict[str, Any] = {}
    for name, value in options.items():
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError:
            continue
        known[name] = value
    return known


QUICKLY = _known(
    {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
)
"""Options with which programs compile fast."""
PARAMS = {"params": jax.random.key(1)}
KEYS = {**PARAMS, "noise": jax.random.key(2), "dropout": jax.random.key(3)}
OTHER_KEYS = {name: jax.random.fold_in(key, 7) for name, key in KEYS.items()}

OWN: Mapping[str, Any] = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
"""Options of ``vmap`` and ``scan`` with which each call has parameters of its own."""

SHARED: Mapping[str, Any] = {"variable_axes": {"params": None}, "split_rngs": {"params": False}}
"""Options of ``vmap`` with which calls share their parameters."""

Program = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A program and how it is observed.

    Attributes:
      program: builds the module.
      args: the inputs.
      mutable: the collections that ``apply`` may change, beside those that ``init`` makes.
      gradients: whether gradients are taken.
      exact: whether results are the same bits; else they are equal within 1e-6.
      capture: whether intermediates are captured.
    """

    program: Program
    args: Sequence[Any] = (X,)
    mutable: Sequence[str] = ()
    gradients: bool = True
    exact: bool = True
    capture: bool = False


CASES: dict[str, Case] = {}
"""Every program of the folder ``programs`` by name."""


def case(**options: Any) -> Callable[[Program], Program]:
    """Add a program to the cases."""

    def add(program: Program) -> Program:
        CASES[program.__name__] = Case(program, **options)
        return program

    return add


def compact(nn: Any, body: Callable[..., Any], name: str = "Model") -> Any:
    """Return a module whose compact method is ``body(module, *inputs)``."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, *inputs):
            return body(self, *inputs)

    Model.__name__ = Model.__qualname__ = name
    return Model()


def row(vector: Any, like: Any) -> Any:
    """Return a vector with the rank of an array, which it is broadcast to."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def key_bits(key: Any) -> Any:
    """Return a random key as numbers that can be added to a result."""
    return jax.random.key_data(key).astype(jnp.uint32)


def compare(case: Case) -> Any:
    """Run a case in both libraries, assert that they show the same, and return what batiste shows."""

    def run(args: Any) -> Any:
        return [_observe(library, case, args) for library in (BATISTE, LINEN)]

    ours, theirs = jax.jit(run, compiler_options=QUICKLY)(case.args)
    for what, values in ours.items():
        if what == "init":
            continue
        exact = what == "variables" or (case.exact and what != "initial output")  # ours are made before the model runs
        assert_same(values, theirs[what], exact=exact, tolerance=1e-6, what=what)
        assert names_of_axes(values) == names_of_axes(theirs[what]), what
    assert_same(ours["init"], ours["variables"], exact=case.exact, what="init beside init_with_output")
    return ours


def names_of_axes(tree: Any) -> list[Any]:
    """Return the names in every box."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "names"))
    return [(jax.tree_util.keystr(path), getattr(leaf, "names", None)) for path, leaf in leaves]


def _observe(library: Any, case: Case, args: Any) -> dict[str, Any]:
    model = case.program(library)
    output, variables = model.init_with_output(KEYS, *args)
    state = {c: jax.tree.map(_shifted, v) for c, v in variables.items() if c != "params"}
    mutable = [*state, *case.mutable, *(["intermediates"] if case.capture else [])]

    def loss(params: Any, args: Any) -> Any:
        given = {**state, "params": params} if "params" in variables else state
        results = model.apply(given, *args, rngs=OTHER_KEYS, mutable=mutable, capture_intermediates=case.capture)
        return weighted_sum(results[0]), results

    params = variables.get("params", {})
    grads: Any = {}
    if case.gradients:
        grads, results = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, args)
    else:
        results = loss(params, args)[1]
    return {
        "init": model.init(KEYS, *args) if library is BATISTE else {},
        "initial output": output,
        "variables": variables,
        "output": results[0],
        "changed": results[1],
        "gradients": grads,
    }


def _shifted(value: Any) -> Any:
    return value + value.dtype.type(1) if hasattr(value, "dtype") else value


def weighted_sum(outputs: Any) -> Any:
    """Return a sum of all numbers in ``outputs``, each with a weight of its own."""
    total = jnp.float32(0)
    for leaf in jax.tree.leaves(outputs):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            numbers = leaf.astype(jnp.float32).reshape(-1)
            total += jnp.sum(numbers * jnp.sin(jnp.arange(numbers.size, dtype=jnp.float32)))
    return total


# --- parts that programs are made of


def dense(nn: Any) -> Any:
    """Return a class with two parameters."""

    class Dense(nn.Module):
        features: int = 4

        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", cheap_initializer, (x.shape[-1], self.features))
            return jnp.tanh(x @ kernel + row(self.param("bias", cheap_initializer, (self.features,)), x))

    return Dense


def noise(nn: Any) -> Any:
    """Return a class that draws keys of two streams, before and after a parameter and in a submodule."""

    class Inner(nn.Module):
        @nn.compact
        def __call__(self):
            return key_bits(self.make_rng("noise"))

    class Noise(nn.Module):
        @nn.compact
        def __call__(self, x):
            bits = [key_bits(self.make_rng("noise")), Inner()()]
            x = x * row(self.param("scale", cheap_initializer, (4,)), x)
            bits += [key_bits(self.make_rng("params")), key_bits(self.make_rng("noise"))]
            return x + jax.random.uniform(self.make_rng("noise"), x.shape), jnp.stack(bits)

    return Noise


def statistics(nn: Any) -> Any:
    """Return a class with a running mean and a count, which are written outside of ``init``."""

    class Statistics(nn.Module):
        @nn.compact
        def __call__(self, x):
            mean = self.variable("stats", "mean", jnp.zeros, (4,))
            count = self.variable("stats", "count", lambda: jnp.zeros((), jnp.int32))
            if not self.is_initializing():
                mean.value = 0.5 * mean.value + x.reshape(-1, 4).mean(0)
                count.value = count.value + 1
            return dense(nn)()(x - row(mean.value, x))

    return Statistics


def counter(nn: Any) -> Any:
    """Return a class that counts its calls, those of ``init`` too."""

    class Counter(nn.Module):
        @nn.compact
        def __call__(self, x):
            count = self.variable("stats", "count", lambda: jnp.zeros(()))
            count.value = count.value + 1
            return x + count.value

    return Counter


def two_layers(nn: Any) -> Any:
    """Return a class with ``setup``, a list of submodules, a parameter and a second method."""

    class TwoLayers(nn.Module):
        def setup(self):
            self.layers = [dense(nn)(), dense(nn)()]
            self.scale = self.param("scale", cheap_initializer, (4,))

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.scaled(x)

        def scaled(self, x):
            return x * row(self.scale, x)

        def first(self, x, by=1.0):
            return self.layers[0](x) * by

    return TwoLayers


def cell(nn: Any) -> Any:
    """Return a class with the signature of a loop's body."""

    class Cell(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            carry = dense(nn)()(carry if x is None else carry + x)
            return carry, carry * 2

    return Cell


def body_of(nn: Any, layer: Any) -> Any:
    """Return a class that is the body of a loop over a layer."""

    class Body(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            result = layer()(carry)
            return result if isinstance(result, tuple) else (result, None)

    return Body


def times(number: float) -> Any:
    """Return a function that multiplies variables."""
    return lambda variables: jax.tree.map(lambda value: value * number, variables)


def clipped(nn: Any) -> Any:
    """Return a call of a layer of which the gradients of parameters are signs."""

    def forward(layer, x):
        return nn.vjp(lambda layer, x: layer(x), layer, x)

    def backward(pull, cotangent):
        params, *inputs = pull(cotangent)
        return (jax.tree.map(jnp.sign, params), *inputs)

    return nn.custom_vjp(lambda layer, x: layer(x), forward, backward)
