"""The edges of Linen's surface, run with both libraries: what public code uses beside what is documented."""

import dataclasses
import importlib
import subprocess
import sys
import weakref

import flax
import flax.linen
import jax
import jax.numpy as jnp
import pytest

import batiste.compat.flax as compat
from batiste import nn, struct
from batiste.errors import TracedFlagError, UnsupportedOptionError
from tests.compat.pairs import text

X, KEY = jnp.ones((2, 3)), jax.random.key(0)
BOTH = pytest.mark.parametrize("library", [flax, compat], ids=["flax", "batiste"])


def module(library, name):
    return importlib.import_module(f"{library.__name__}.{name}")


def flagged(linen):
    class Flagged(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            seen.append(isinstance(train, jax.core.Tracer))
            return linen.Dense(2)(x) + train

    seen = []
    return Flagged, seen


@BOTH
def test_what_is_not_static_is_traced_by_remat_and_jit(library):
    linen = library.linen
    for transform in (linen.remat, linen.jit):
        kind, seen = flagged(linen)
        variables = kind().init(KEY, X, True)
        for value in (True, 3, 0.5):
            seen.clear()
            transform(kind)().apply(variables, X, value)
            transform(kind)().apply(variables, X, train=value)
            transform(kind, static_argnums=(2,))().apply(variables, X, value)
            assert seen == [True, True, False]


def test_static_by_name():
    kind, seen = flagged(nn)
    variables = kind().init(KEY, X, True)
    seen.clear()
    nn.remat(kind, static_argnums=2)().apply(variables, X, train=True)
    nn.remat(kind, static_argnames="train")().apply(variables, X, train=True)
    nn.jit(kind, static_argnames="train")().apply(variables, X, train=True)
    assert seen == [False] * 3


def test_a_flag_that_is_not_static_says_so():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dropout(0.5, deterministic=not train)(x) if train else x

    with pytest.raises((TracedFlagError, jax.errors.TracerBoolConversionError)) as caught:
        nn.remat(Block)().apply({}, X, True)
    assert "static_argnums" in f"{caught.value} {caught.value.__notes__}"


@BOTH
def test_concrete_is_refused(library):
    with pytest.raises(NotImplementedError):
        library.linen.remat(library.linen.Dense, concrete=True)(2).init(KEY, X)


def test_concrete_says_what_to_write():
    with pytest.raises(UnsupportedOptionError, match="static_argnums"):
        nn.remat(nn.Dense, concrete=True)


@BOTH
def test_transformed_methods_of_unbound_modules_run_plainly(library):
    class Model(library.linen.Module):
        @library.linen.jit
        def double(self, x):
            return 2 * x

        @library.linen.remat
        def triple(self, x):
            return 3 * x

    assert Model().double(2) == 4
    assert Model().triple(2) == 6


@BOTH
def test_fields_are_in_linens_order(library):
    class Base(library.linen.Module):
        width: int
        depth: int = 2

    class Model(Base):
        heads: int = 3

    names = [field.name for field in dataclasses.fields(Model)]
    assert names == ["width", "depth", "heads", "parent", "name"]
    assert Model(1, 4).depth == 4


@BOTH
def test_a_constructor_may_use_its_module_before_it_is_made(library):
    class Model(library.linen.Module):
        def __init__(self, width):
            self.take(width)
            self.double = self.twice

        def take(self, width):
            self.width = width

        @property
        def twice(self):
            return 2 * self.width

    assert (Model(3).width, Model(3).double) == (3, 6)


@BOTH
def test_a_number_is_a_shape(library):
    class Model(library.linen.Module):
        @library.linen.compact
        def __call__(self, x):
            return x * self.param("scale", library.linen.initializers.ones, 3)[None]

    variables = Model().init(KEY, X)
    assert variables["params"]["scale"].shape == Model().apply(variables, X)[0].shape == (3,)


@BOTH
def test_switches_that_act(library):
    module(library, "linen.module")

    class Holder(library.linen.Module):
        inner: library.linen.Module

        @library.linen.compact
        def __call__(self, x):
            return self.inner(x)

    def made():
        return Holder(library.linen.Dense(2, name="own")).init(KEY, X)

    with library.config.temp_flip_flag("preserve_adopted_names", True):
        assert list(made()["params"]) == ["own"]
    norm = library.linen.BatchNorm(use_running_average=False)
    with library.config.temp_flip_flag("return_frozendict", True):
        variables = norm.init(KEY, X)
        _, changed = norm.apply(variables, X, mutable=["batch_stats"])
        assert {type(variables).__name__, type(changed).__name__} == {"FrozenDict"}
    assert type(norm.init(KEY, X)) is dict


@BOTH
def test_the_stack_of_modules(library):
    stack = module(library, "linen.module")._context.module_stack
    seen = []

    class Inner(library.linen.Module):
        @library.linen.compact
        def __call__(self, x):
            seen.append([type(each).__name__ for each in stack])
            held, stack[-1] = stack[-1], None
            seen.append(library.linen.Dense(2).parent)
            stack[-1] = held
            stack.append(None)
            seen.append(library.linen.Dense(2).parent)
            stack.pop()
            seen.append(stack[-1] is self)
            return x

    class Outer(library.linen.Module):
        @library.linen.compact
        def __call__(self, x):
            return Inner()(x)

    Outer().apply({}, X)
    assert seen == [["NoneType", "Outer", "Inner"], None, None, True]
    assert list(stack) == [None]


@BOTH
def test_names_that_are_not_documented(library):
    serialization, scope = module(library, "serialization"), module(library, "core.scope")
    assert dict in serialization._STATE_DICT_REGISTRY
    state = serialization._dict_state_dict({0: 1})
    assert serialization._restore_dict({0: 2}, state) == {0: 1}
    lazy = scope.LazyRng.create(scope.LazyRng.create(KEY, "a"), 3)
    numbers = jax.random.key_data(lazy.as_jax_rng()).tolist()
    theirs = flax.core.scope.LazyRng.create(KEY, "a", 3).as_jax_rng()
    assert numbers == jax.random.key_data(theirs).tolist()
    assert [scope._is_valid_rng(value) for value in (KEY, 3)] == [True, False]
    assert lazy.clear_suffix().as_jax_rng() is KEY
    rules = module(library, "core.spmd")._axis_rules
    with library.linen.logical_axis_rules((("a", "b"),)):
        assert rules.rules == (("a", "b"),)
    assert library.linen.Dense.__call__.method_handler_wrapped
    assert module(library, "core.meta").TAxisMetadata.__bound__ is not None


@BOTH
def test_scopes_as_libraries_use_them(library):
    class Model(library.linen.Module):
        def setup(self):
            self.inner = library.linen.Dense(2)

        def __call__(self, x):
            assert weakref.ref(self.scope)() is self.scope
            assert bool(self._state.setup_called)
            y = self.inner(x)
            seen.append((sorted(self.scope._collection("params")), sorted(self.scope.rngs)))
            self.scope._mutable_collection("notes")["n"] = 1
            return y

    seen = []
    variables = Model().init({"params": KEY, "other": KEY}, X)
    _, changed = Model().apply(variables, X, mutable=["notes"])
    assert changed["notes"] == {"n": 1}
    assert seen == [(["inner"], ["other", "params"]), (["inner"], [])]


@BOTH
def test_pytree_dataclasses_are_marked(library):
    @library.struct.dataclass
    class State:
        step: int

    class Node(library.struct.PyTreeNode):
        step: int

    assert State._flax_dataclass
    assert Node._flax_dataclass
    assert library.struct.dataclass(State) is State


def test_a_state_of_batiste_is_marked():
    assert struct.dataclass(type("Empty", (), {"__annotations__": {"a": int}}))._flax_dataclass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@BOTH
def test_slices_are_traversed_by_element(library):
    traversal = module(library, "traverse_util").TraverseItem(slice(0, 2))
    assert list(traversal.iterate((1, 2, 3))) == [1, 2]


@BOTH
def test_a_train_state_takes_anything_for_apply_fn(library):
    states = module(library, "training.train_state")
    import optax

    state = states.TrainState.create(apply_fn=(), params={"w": X}, tx=optax.sgd(0.1))
    assert state.apply_gradients(grads={"w": X}).params["w"].sum() == pytest.approx(5.4)


@BOTH
def test_tables_have_totals_and_methods(library):
    class Model(library.linen.Module):
        def setup(self):
            self.inner = library.linen.Dense(2)

        def encode(self, x):
            return self.inner(x)

    table = Model().tabulate(KEY, X, method="encode", console_kwargs={"force_terminal": False, "width": 120})
    assert "Model (encode)" in table
    assert "Total Parameters: 8 (32 B)" in text(table)


def test_keys_in_wrappers():
    class Wrapped:
        rng = KEY

    assert nn.Dense(2).init(Wrapped(), X)["params"]["kernel"].tolist() == (
        nn.Dense(2).init(KEY, X)["params"]["kernel"].tolist()
    )


def test_the_code_of_a_function_of_jax_may_be_replaced():
    def seven(lhs, rhs, dimension_numbers, precision=None, preferred_element_type=None, *, out_sharding=None):
        return lhs * 7

    variables = nn.Dense(3).init(KEY, X)
    before = nn.Dense(3).apply(variables, X)
    held, jax.lax.dot_general.__code__ = jax.lax.dot_general.__code__, _code(seven)
    try:
        during = nn.Dense(3).apply(variables, X)
    finally:
        jax.lax.dot_general.__code__ = held
    assert (during == 7).all()
    assert (nn.Dense(3).apply(variables, X) == before).all()


def _code(function):
    return function.__code__.replace(co_name="dot_general")


PROGRAM = """
import batiste.compat.flax
server = batiste.compat.flax.install()
import jax, jax.numpy as jnp
import flax.linen as nn
from flax import nnx
import batiste.nn
assert nn.Dense is batiste.nn.Dense
assert "site-packages" in nnx.__file__
held = nnx.bridge.ToNNX(nn.Dense(4), rngs=nnx.Rngs(0))
assert nnx.bridge.lazy_init(held, jnp.ones((1, 3))).kernel.shape == (3, 4)
class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nnx.bridge.to_linen(nnx.Linear, 3, 2)(nn.Dense(3)(x))
print(Model().init(jax.random.key(0), jnp.ones((1, 3)))["params"].keys(), list(server.missing))
"""


def test_install_and_nnx():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["dict_keys(['Dense_0', 'ToLinen_0']) []"], done.stderr
