# ruff: noqa: PLW0108, RUF015 - functions are written as their users write them
"""What was drawn, traced or compiled for old settings is never used for new ones.

A setting is a number that lies somewhere (``PLACES``), a function reaches it in some way (``ROUTES``), and a program is
built around the function (``USES``). The program is built and run for one number after another, in one process, and
gives what a fresh process would give for that number.

Each pair of a place and a use is tried with two of the routes, and each pair of a route and a use with one of the
places; ``BATISTE_STALE=all`` tries every combination.
"""

import argparse
import dataclasses
import enum
import functools
import itertools
import os
import random
import sys
import types
from collections import OrderedDict
from typing import Any, ClassVar, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, nn
from batiste.train import fit

SETTINGS = (2.0, 3.0, 2.0)
X = jnp.ones((1, 2))
KEY = jax.random.key(0)

# --- where a number lies. Each returns a function that puts it there, and a function that reads it.

NUMBER = 0.0
TABLE: dict[str, Any] = {}
HELD = types.SimpleNamespace()


class Config:
    scale = 0.0
    table: ClassVar[dict[str, Any]] = {}

    @staticmethod
    def static():
        return Config.scale

    @classmethod
    def of_class(cls):
        return cls.scale


class Below(Config):
    pass


class Meta(type):
    scale = 0.0


class OfMeta(metaclass=Meta):
    pass


class Member(enum.Enum):
    A = 1


class Slotted:
    __slots__ = ("scale",)


class Computed:
    scale = 0.0

    @property
    def twice(self):
        return 2 * self.scale


class Called:
    scale = 0.0

    def __call__(self):
        return self.scale

    def method(self):
        return self.scale


class Row(NamedTuple):
    scale: float


@dataclasses.dataclass
class Options:
    scale: float = 0.0
    note: float = dataclasses.field(default=0.0, compare=False)
    shared: ClassVar[float] = 0.0


@dataclasses.dataclass(frozen=True)
class Frozen:
    note: float = dataclasses.field(compare=False)


def own():
    return own.scale


def written(source, **names):
    """Return a function from source, as a notebook's cell defines it."""
    space = {"__name__": "__main__", **names}
    exec(compile(source, "<cell>", "exec"), space)  # noqa: S102 - the cell is a test's own
    return space


def attribute(holder, name="scale"):
    return lambda value: setattr(holder, name, value), lambda: getattr(holder, name)


def a_global():
    return lambda value: globals().update(NUMBER=value), lambda: NUMBER


def a_global_table():
    return lambda value: TABLE.update(scale=value), lambda: TABLE["scale"]


def a_table_of_tables():
    TABLE["inner"] = [OrderedDict(), ()]
    return lambda value: TABLE["inner"][0].update(scale=value), lambda: TABLE["inner"][0]["scale"]


def a_class():
    return lambda value: setattr(Config, "scale", value), lambda: Config.scale


def a_base_class():
    return lambda value: setattr(Config, "scale", value), lambda: Below.scale


def a_metaclass():
    return lambda value: setattr(Meta, "scale", value), lambda: OfMeta.scale


def a_static_method():
    return lambda value: setattr(Config, "scale", value), Config.static


def a_class_method():
    return lambda value: setattr(Config, "scale", value), Config.of_class


def a_table_on_a_class():
    return lambda value: Config.table.update(scale=value), lambda: Config.table["scale"]


def a_replaced_method():
    def put(value):
        Called.method = lambda self: value

    holder = Called()
    return put, lambda: holder.method()


def a_property():
    made = Computed()
    return lambda value: setattr(Computed, "twice", property(lambda self: value)), lambda: made.twice


def a_member():
    return lambda value: setattr(Member.A, "scale", value), lambda: Member.A.scale


def an_instance():
    holder = Called()
    return attribute(holder)[0], lambda: holder.scale


def an_instance_that_is_called():
    holder = Called()
    return attribute(holder)[0], holder


def a_bound_method():
    holder = Called()
    return attribute(holder)[0], holder.method


def slots():
    holder = Slotted()
    return attribute(holder)[0], lambda: holder.scale


def a_namespace():
    holder = argparse.Namespace()
    return attribute(holder)[0], lambda: holder.scale


def a_simple_namespace():
    holder = types.SimpleNamespace()
    return attribute(holder)[0], lambda: holder.scale


def a_dataclass():
    holder = Options()
    return attribute(holder)[0], lambda: holder.scale


def a_field_that_is_not_compared():
    def put(value):
        HELD.frozen = Frozen(value)

    return put, lambda: HELD.frozen.note


def a_class_variable():
    holder = Options()
    return lambda value: setattr(Options, "shared", value), lambda: holder.shared


def a_named_tuple():
    def put(value):
        TABLE["row"] = Row(value)

    return put, lambda: TABLE["row"].scale


def an_attribute_of_a_function():
    return attribute(own)[0], own


def a_variable_around():
    number = 0.0

    def put(value):
        nonlocal number
        number = value

    return put, lambda: number


def a_module():
    module = types.ModuleType("settings_of_a_run")
    sys.modules[module.__name__] = module
    return attribute(module)[0], lambda: module.scale


def a_module_that_is_imported():
    module = types.ModuleType("settings_that_are_imported")
    sys.modules[module.__name__] = module
    space = written("def read():\n    import settings_that_are_imported\n    return settings_that_are_imported.scale")
    return attribute(module)[0], space["read"]


def a_cell_of_a_notebook():
    space = written("def read():\n    return inner()\ndef inner():\n    return NUMBER")
    return lambda value: space.update(NUMBER=value), space["read"]


def a_function_defined_again():
    space = written("def read():\n    return inner()")

    def put(value):
        space["inner"] = written(f"def inner():\n    return {value}")["inner"]

    return put, space["read"]


def the_environment():
    return lambda value: os.environ.update(BATISTE_STALE_SCALE=str(value)), lambda: float(
        os.environ["BATISTE_STALE_SCALE"]
    )


def an_array():
    array = np.zeros(3)
    return lambda value: array.fill(value), lambda: float(array[1])


def a_large_array():
    array = np.zeros(20_000)
    return lambda value: array.fill(value), lambda: float(array[1])


def numpy_state():
    return lambda value: np.random.seed(int(value)), lambda: float(np.random.get_state()[1][0])  # noqa: NPY002


def a_generator():
    def put(value):
        HELD.numbers = itertools.repeat(value)

    return put, lambda: next(HELD.numbers)


def a_counter():
    def put(value):
        HELD.random = random.Random(0)  # noqa: S311 - a number that is drawn
        HELD.value = value

    return put, lambda: HELD.value + 0 * HELD.random.random()


def a_file(folder):
    path = folder / "scale.txt"
    return lambda value: path.write_text(str(value)), lambda: float(path.read_text())


def an_opened_file(folder):
    path = f"{folder}/scale.txt"

    def put(value):
        with open(path, "w", encoding="utf8") as file:  # noqa: PTH123 - a user's
            file.write(str(value))

    def read():
        with open(path, encoding="utf8") as file:  # noqa: PTH123 - a user's
            return float(file.read())

    return put, read


def an_array_in_a_file(folder):
    path = f"{folder}/scale.npy"
    return lambda value: np.save(path, np.full(2, value)), lambda: float(np.load(path)[0])


PLACES = {
    make.__name__: make
    for make in (
        a_global, a_global_table, a_table_of_tables, a_class, a_base_class, a_metaclass, a_static_method,
        a_class_method, a_table_on_a_class, a_replaced_method, a_property, a_member, an_instance,
        an_instance_that_is_called, a_bound_method, slots, a_namespace, a_simple_namespace, a_dataclass,
        a_field_that_is_not_compared, a_class_variable, a_named_tuple, an_attribute_of_a_function, a_variable_around,
        a_module, a_module_that_is_imported, a_cell_of_a_notebook, a_function_defined_again, the_environment, an_array,
        a_large_array, numpy_state, a_generator, a_counter, a_file, an_opened_file, an_array_in_a_file,
    )
}  # fmt: skip

# --- how a function reaches what reads the number; each is built anew for each number


def closure(read):
    return lambda: read()


def default(read):
    return lambda read=read: read()


def keyword_default(read):
    return lambda *, read=read: read()


def partial(read):
    return functools.partial(lambda read: read(), read)


def wrapped(read):
    @functools.wraps(read)
    def call(*args, **kwargs):
        return read(*args, **kwargs)

    return call


def nested(read):
    def outer():
        def inner():
            return [read() for _ in range(1)][0]

        return inner()

    return outer


def of_a_class(read):
    class Reads:
        reader = staticmethod(read)

        def __call__(self):
            return self.reader()

    return Reads()


def of_a_frozen_dataclass(read):
    return Reader(read).method


@dataclasses.dataclass(frozen=True)
class Reader:
    read: Any

    def method(self):
        return self.read()


def in_a_table(read):
    table = {"read": [read]}
    return lambda: table["read"][0]()


def itself(read):
    return read


ROUTES = {
    make.__name__: make
    for make in (
        closure, default, keyword_default, partial, wrapped, nested, of_a_class, of_a_frozen_dataclass, in_a_table,
        itself,
    )
}  # fmt: skip

# --- what is built around it; each returns the number that was used


class Scale(nn.Module):
    function: Any

    @nn.compact
    def __call__(self, x):
        return x * self.function()


class Block(nn.Module):
    """A block of a loop: its carry is scaled."""

    function: Any

    @nn.compact
    def __call__(self, x):
        return x * self.function()


class Step(nn.Module):
    function: Any

    @nn.compact
    def __call__(self, carry, x):
        return carry * self.function(), x


def constant(function):
    return lambda key, shape, dtype=jnp.float32: function() * jnp.ones(shape, dtype)


@jax.jit
def forward(state, x):
    return state.apply_fn({}, x)


@jax.jit
def update(state):
    return state.apply_gradients(grads={"w": jnp.ones(())})


def stepped(state, _):
    return state.apply_gradients(grads={"w": jnp.ones(())}), {}


ALIVE = []  # what is dropped from JAX's caches by itself would hide a fault


def run(jitted, *args):
    """Return what a jitted function computes: traced, by JAX's cache, and run operation by operation."""
    traced = jitted.trace(*args)
    with jax.disable_jit():
        outputs = jax.extend.core.jaxpr_as_fun(traced.jaxpr)(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), outputs)


def use_init(function):
    return nn.Dense(1, kernel_init=constant(function)).init(KEY, X)["params"]["kernel"][0, 0]


def use_init_under_jit(function):
    model = nn.Dense(1, kernel_init=constant(function))
    ALIVE.append(jax.jit(model.init))
    return run(ALIVE[-1], KEY, X)["params"]["kernel"][0, 0]


def use_init_of_a_stack(function):
    block = nn.Dense(2, kernel_init=constant(function))
    return jax.tree.leaves(nn.Repeat(block, 3).init(KEY, X)["params"])[-1].reshape(-1)[0]


def use_apply(function):
    ALIVE.append(jax.jit(Scale(function).apply))
    return run(ALIVE[-1], {}, X)[0, 0]


def use_apply_of_a_class(function):
    class Own(nn.Module):
        def __call__(self, x):
            return x * function()

    ALIVE.append(jax.jit(Own().apply))
    return run(ALIVE[-1], {}, X)[0, 0]


def use_state(function):
    state = TrainState.create(apply_fn=Scale(function).apply, params={}, tx=optax.sgd(1.0))
    ALIVE.append(state)
    return run(forward, state, X)[0, 0]


def use_schedule(function):
    tx = optax.sgd(lambda count: function() + 0.0 * count)
    state = TrainState.create(apply_fn=None, params={"w": jnp.zeros(())}, tx=tx)
    ALIVE.append(state)
    return -run(update, state).params["w"]


def use_fit(function):
    tx = optax.chain(optax.identity(), optax.scale_by_schedule(lambda count: -function() + 0.0 * count))
    state = TrainState.create(apply_fn=None, params={"w": jnp.zeros(())}, tx=tx)
    ALIVE.append(state)
    return -fit(stepped, state, itertools.repeat({}), steps=1, compile_cache=False).params["w"]


def stepped_by(function):
    """Return a step that reads the number itself; it is one function for all numbers."""

    def step(state, _):
        return state.apply_gradients(grads={"w": jnp.ones(()) * function()}), {}

    return step


def use_fit_of_a_step(function):
    state = TrainState.create(apply_fn=None, params={"w": jnp.zeros(())}, tx=optax.sgd(1.0))
    return -fit(stepped_by(function), state, itertools.repeat({}), steps=1, compile_cache=False).params["w"]


def use_lifted(function):
    ALIVE.append(jax.jit(nn.remat(nn.jit(Block))(function).apply))
    return run(ALIVE[-1], {}, X)[0, 0]


def use_scan(function):
    loop = nn.scan(Step, variable_broadcast="params", split_rngs={"params": False}, length=2)
    ALIVE.append(jax.jit(loop(function).apply))
    return run(ALIVE[-1], {}, X, jnp.zeros((2, 1)))[0][0, 0] ** 0.5


def use_repeat(function):
    ALIVE.append(jax.jit(nn.Repeat(Block(function), 2).apply))
    return run(ALIVE[-1], {}, X)[0, 0] ** 0.5


USES = {
    make.__name__.removeprefix("use_"): make
    for make in (
        use_init, use_init_under_jit, use_init_of_a_stack, use_apply, use_apply_of_a_class, use_state, use_schedule,
        use_fit, use_fit_of_a_step, use_lifted, use_scan, use_repeat,
    )
}  # fmt: skip


def cases():
    if os.environ.get("BATISTE_STALE") == "all":
        return list(itertools.product(PLACES, ROUTES, USES))
    routes, places = itertools.cycle(ROUTES), itertools.cycle(PLACES)
    chosen = {
        (place, next(routes), use)
        for use in USES
        for place in PLACES
        for _ in range(1 if use in {"scan", "repeat"} else 2)
    }
    chosen |= {(next(places), route, use) for use in USES for route in ROUTES}
    dear = {
        "fit": list(PLACES)[::8],
        "fit_of_a_step": list(PLACES)[4::8],
        "scan": list(PLACES)[::2],
        "repeat": list(PLACES)[1::2],
    }  # each compiles a step
    chosen -= {(p, route, use) for use, few in dear.items() for p in PLACES if p not in few for route in ROUTES}
    return sorted(chosen)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setenv("BATISTE_STALE_SCALE", "0")
    state, method, twice = np.random.get_state(), Called.method, Computed.twice  # noqa: NPY002
    yield
    np.random.set_state(state)  # noqa: NPY002
    Called.method, Computed.twice = method, twice
    ALIVE.clear()


@pytest.mark.parametrize("use", USES)
def test_what_is_built_again_computes_with_what_is_there_now(use, tmp_path):
    wrong = []
    for place, route, _ in (case for case in cases() if case[2] == use):
        make = PLACES[place]
        put, read = make(tmp_path) if make.__code__.co_argcount else make()
        found = []
        for number in SETTINGS:
            put(number)
            found.append(round(float(USES[use](ROUTES[route](read))), 4))
        if found != list(SETTINGS):
            wrong.append(f"{place}, {route}: {found}")
        ALIVE.clear()
    assert wrong == []
