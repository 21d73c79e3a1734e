"""Why a function is traced again: each kind of difference is named, and what makes none is traced once."""

import dataclasses
import functools
import gc
import itertools
import re
import sys
import types
import warnings
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, nn, struct
from batiste.diagnose import explain_retrace, watch_retraces
from batiste.errors import ArgumentError, RetraceWarning

INPUTS = jnp.ones((2, 3))
AUTO, EXPLICIT = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit

pytestmark = pytest.mark.usefixtures("users_rules")


class MLP(nn.Module):
    layers: tuple[nn.Module, ...] = ()
    features: int = 4
    activation: Any = nn.relu
    options: Any = None

    @nn.compact
    def __call__(self, x):
        return self.activation(nn.Dense(self.features)(x))


def step(state, x):
    def loss(params):
        return jnp.mean(state.apply_fn(state.variables(params), x) ** 2)

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def make(tx=None, x=INPUTS, **fields):
    return TrainState.init(MLP(**fields), optax.adam(1e-3) if tx is None else tx, jax.random.key(0), x)


def explain(before, after, **options):
    """Return the lines that say how two calls with positional arguments differ."""
    return [str(found) for found in explain_retrace((before, {}), (after, {}), **options).differences]


def static(before, after):
    return explain((before,), (after,), static_argnums=0)


# What is traced once.


def adam():
    return optax.adam(1e-3, b1=0.8)


def adamw():
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 2, 9)
    return optax.adamw(rate, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params))


def chain():
    return optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.trace(0.9), True), optax.scale(-0.1))


def rebuilt(tx):
    """Yield three equal calls, with everything made anew."""
    for number in range(3):
        fields = {"layers": (nn.Dense(3),), "activation": lambda x: nn.relu(x) + 1, "options": {"a": [1, 2]}}
        yield make(tx(), **fields), INPUTS + number


@pytest.mark.parametrize("tx", [adam, adamw, chain])
def test_equal_states_built_again_meet_one_trace(tx):
    watched = watch_retraces(step, donate_argnames="state")
    calls = list(rebuilt(tx))
    assert explain(calls[0], calls[1], function=step) == []
    for call in calls:
        watched(*call)
    assert watched.traces == 1


def test_an_equal_module_is_a_static_argument_that_meets_one_trace():
    watched = watch_retraces(lambda model, x: model.init(jax.random.key(0), x), static_argnums=0)
    for _ in range(3):
        watched(MLP(activation=lambda x: x * 2, layers=(nn.Dense(3),)), INPUTS)
    assert watched.traces == 1


def test_another_learning_rate_in_the_state_meets_one_trace():
    def injected(rate):
        state = make(optax.inject_hyperparams(optax.adam)(learning_rate=1e-3))
        hyperparams = {**state.opt_state.hyperparams, "learning_rate": jnp.float32(rate)}
        return state.replace(opt_state=state.opt_state._replace(hyperparams=hyperparams))

    watched = watch_retraces(step)
    states = [injected(rate) for rate in (1e-3, 2e-3, 3e-3)]
    new = [watched(state, INPUTS).params["Dense_0"]["kernel"] for state in states]
    assert watched.traces == 1
    assert not jnp.array_equal(new[0], new[1])
    assert explain((states[0],), (states[2],)) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, 2),
        (1.0, 2.5),
        (INPUTS, INPUTS + 1),
        (INPUTS, np.ones((2, 3), np.float32)),
        ({"a": 1, "b": 2}, {"b": 3, "a": 4}),
    ],
    ids=["int", "float", "array", "numpy", "order"],
)
def test_a_dynamic_value_is_no_difference(before, after):
    watched = watch_retraces(lambda x: x)
    watched(before)
    watched(after)
    assert watched.traces == 1
    assert explain((before,), (after,)) == []
    assert str(explain_retrace(((before,), {}), ((after,), {}))) == "Nothing in the call differs."


# What differs, by name. Each pair is also traced twice, and the warning says the same.


def traced_twice(before, after, **options):
    """Return what a watched function says of the second call."""

    def function(value):
        return 0

    watched = watch_retraces(function, **options)
    watched(before)
    with pytest.warns(RetraceWarning) as caught:
        watched(after)
    assert watched.traces == 2
    assert len(caught) == 1
    first, *lines = str(caught[0].message).split("\n  ")
    assert first == "function is traced again, for the 2nd time. Since the nearest earlier call:"
    assert explain((before,), (after,), function=function, **options) == lines
    return lines


Point = struct.dataclass(type("Point", (), {"__annotations__": {"x": Any, "y": Any}, "__module__": __name__}))


class Config(struct.PyTreeNode):
    weight: Any
    depth: int = struct.field(pytree_node=False)
    rate: Any = 1


@jax.tree_util.register_pytree_node_class
class Box:
    def __init__(self, value, label):
        self.value, self.label = value, label

    def tree_flatten(self):
        return (self.value,), self.label

    @classmethod
    def tree_unflatten(cls, label, children):
        return cls(*children, label)


Pair = jax.tree_util.register_static(type("Pair", (tuple,), {}))

WEAK = "(a Python number has a weak type, an array made with a dtype has none)"
DYNAMIC = {
    "shape": ({"a": INPUTS}, {"a": jnp.ones((2, 5))}, ["value/a: shape (2, 3) -> (2, 5)"]),
    "rank": ([INPUTS], [jnp.ones(3)], ["value[0]: shape (2, 3) -> (3,)"]),
    "dtype": ((INPUTS,), (INPUTS.astype(jnp.bfloat16),), ["value[0]: dtype float32 -> bfloat16"]),
    "number": (1, 1.0, ["value: dtype int32 -> float32"]),
    "weak": (1, np.int32(1), [f"value: weak type True -> False {WEAK}"]),
    "key": (
        jax.random.key(0),
        jax.random.PRNGKey(0),
        ["value: shape () -> (2,)", "value: dtype key<fry> -> uint32"],
    ),
    "leaf": ({"a": 1}, {"a": [1]}, ["value/a: structure int32[] -> list"]),
    "none": ({"a": None}, {"a": INPUTS}, ["value/a: structure None -> float32[2,3]"]),
    "added": ({"a": 1}, {"a": 1, "b": (1,)}, ["value/b: structure absent -> tuple"]),
    "removed": ([1, 2.0], [1], ["value[1]: structure float32[] -> absent"]),
    "container": ([1], (1,), ["value: structure list -> tuple"]),
    "keys": ({1: 1}, {2: 1}, ["value[1]: structure int32[] -> absent", "value[2]: structure absent -> int32[]"]),
    "dataclass": (Point(1, 2), Point(1, INPUTS), [
        "value.y: shape () -> (2, 3)", "value.y: dtype int32 -> float32", f"value.y: weak type True -> False {WEAK}",
    ]),
    "field": (Config(1, 1), Config(2, 2), ["value.depth: 1 -> 2"]),
    "node": (Box(1, "a"), Box(2, "b"), ["value: 'a' -> 'b'"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_dynamic_difference_is_named(name):
    before, after, lines = DYNAMIC[name]
    assert traced_twice(before, after) == lines


def field(name):
    return f"(the blueprint's field {name})"


def scaled(by, more=None):
    return lambda x, *, times=by: x * by * times if more is None else more(x)


def relu6(x):
    return x


ONCE = "(define it once, outside of what makes the call)"
STATIC = "(a static argument: each value is another program)"


@dataclasses.dataclass(frozen=True)
class Options:
    size: int
    activation: Any = None


class Plain:
    def __init__(self, size):
        self.size = size

    def method(self):
        return self.size


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (1, 2, [f"value: 1 -> 2 {STATIC}"]),
        (1, 1.0, [f"value: 1 (int) -> 1.0 (float) {STATIC}"]),
        ("a", None, [f"value: 'a' -> None {STATIC}"]),
        ((1, (2, 3)), (1, (2, 4)), ["value[1][1]: 3 -> 4"]),
        ((1, 2), (1,), ["value[1]: 2 -> absent"]),
        (Options(1), Options(2), ["value.size: 1 -> 2"]),
        (Plain(1), Plain(2), ["value.size: 1 -> 2"]),
        (Plain(1).method, Plain(2).method, ["value.__self__.size: 1 -> 2"]),
        (
            MLP((nn.Dense(3), nn.Dense(8))),
            MLP((nn.Dense(3), nn.Dense(16))),
            [f"value.layers[1].features: 8 -> 16 {field('Dense.features')}"],
        ),
        (MLP(name="a"), MLP(name="b"), [f"value.name: 'a' -> 'b' {field('MLP.name')}"]),
        (MLP(options={"a": 1}), MLP(options={"a": 2}), [f"value.options/a: 1 -> 2 {field('MLP.options')}"]),
        (MLP().apply, MLP(features=5).apply, [f"value.module.features: 4 -> 5 {field('MLP.features')}"]),
        (MLP(activation=nn.relu), MLP(activation=nn.gelu), None),
        (MLP(options=np.zeros(2)), MLP(options=np.ones(2)), None),
        (functools.partial(jnp.sum, axis=0), functools.partial(jnp.sum, axis=1), ["value.keywords/axis: 0 -> 1"]),
        (functools.partial(jnp.sum, 1), functools.partial(jnp.sum, 2), ["value.args[0]: 1 -> 2"]),
        (scaled(1), scaled(2), ["value: closure variable by: 1 -> 2", "value: default of times: 1 -> 2"]),
        (scaled(1, scaled(3)), scaled(1, scaled(4)), None),
        (optax.sgd(0.1), optax.sgd(0.2), None),
    ],
    ids=itertools.count(),
)
def test_a_static_difference_is_named(before, after, lines):
    found = traced_twice(before, after, static_argnames="value")
    assert found == lines if lines else found


def test_another_function_is_named_with_its_place():
    assert static(MLP(activation=nn.relu), MLP(activation=relu6)) == [
        f"args[0].activation: function relu -> function relu6 (test_retrace.py:{relu6.__code__.co_firstlineno}) "
        + field("MLP.activation")
    ]
    one, two = (lambda x: x + 1), (lambda x: x + 2)
    where = f"function <lambda> (test_retrace.py:{one.__code__.co_firstlineno})"
    assert static(MLP(activation=one), MLP(activation=two)) == [
        f"args[0].activation: {where} -> another {where} {field('MLP.activation')[:-1]}; {ONCE[1:]}"
    ]


def test_variables_of_inner_closures():
    lines = static(scaled(1, scaled(3)), scaled(1, scaled(4)))
    assert lines == [
        "args[0]: closure variable more.by: 3 -> 4",
        "args[0]: closure variable more.times: 3 -> 4",
    ]


def test_what_is_made_anew_is_said_with_its_place():
    def make_one():
        return lambda x: x

    place = f"test_retrace.py:{make_one.__code__.co_firstlineno + 1}"
    anew = f"function <lambda> ({place}) -> the same code, made anew {ONCE}"
    assert static(make_one(), make_one()) == [f"args[0]: {anew}"]
    assert static(Options(1, make_one()), Options(1, make_one())) == [f"args[0].activation: {anew}"]
    assert static(MLP(activation=make_one()), MLP(activation=make_one())) == []
    alone = "an equal one, made anew (an object of type Plain is equal to itself alone: make it once)"
    assert static(Plain(1), Plain(1)) == [f"args[0]: <{__name__}.Plain object> -> {alone}"]
    (line,) = static(Plain(1).method, Plain(1).method)
    assert line.startswith("args[0].__self__: ")
    (one, two) = (type("Model", (), {"__module__": "a", "__qualname__": "Model"}) for _ in range(2))
    assert static(one, two) == ["args[0]: Model -> another Model (the class was defined anew: define it once)"]
    (line,) = static(one(), two())
    assert line.startswith("args[0]: <a.Model object> -> another <a.Model object> (the class was defined anew")


def test_a_bare_optimiser_is_compared_by_identity_and_that_of_a_state_by_value():
    lines = static(optax.adam(1e-3), optax.adam(1e-3))
    assert [line.partition(":")[0] for line in lines] == ["args[0].init", "args[0].update"]
    assert all("the same code, made anew" in line for line in lines)
    assert explain((make(optax.adam(1e-3)),), (make(optax.adam(1e-3)),)) == []


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [
        (optax.adam(1e-3, b1=0.9), optax.adam(1e-3, b1=0.8), "b1: 0.9 -> 0.8"),
        (optax.adam(1e-3), optax.adam(2e-3), "step_size: -0.001 -> -0.002"),
        (
            optax.adamw(optax.cosine_decay_schedule(1e-3, 10)),
            optax.adamw(optax.cosine_decay_schedule(1e-3, 20)),
            "decay_steps: 10 -> 20",
        ),
        (optax.adamw(1e-3, weight_decay=0.1), optax.adamw(1e-3, weight_decay=0.2), "weight_decay: 0.1 -> 0.2"),
    ],
    ids=["b1", "rate", "schedule", "decay"],
)
def test_a_setting_of_an_optimiser_is_named(before, after, end):
    (line,) = explain((make(before),), (make(after),), function=step)
    assert re.match(r"state\.tx\.(init|update): closure variable (init|update)_fns\[\d\]\.", line)
    assert line.endswith(end)


def test_another_optimiser():
    lines = explain((make(optax.adam(1e-3)),), (make(optax.sgd(1e-3)),), function=step)
    assert lines[0] == "state.opt_state[0]: structure ScaleByAdamState -> EmptyState"
    assert any(line.startswith("state.tx.update: closure variable update_fns[0]") for line in lines)


def test_a_whole_state_of_another_shape():
    lines = explain((make(), INPUTS), (make(x=jnp.ones((2, 5))), INPUTS), function=step)
    assert lines[0] == "state.params/Dense_0/kernel: shape (3, 4) -> (5, 4)"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        f"state.opt_state[0].{name}/Dense_0/kernel" for name in ("mu", "nu")
    ]


def test_shapes_stand_for_arrays():
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    assert explain((shape,), (INPUTS,)) == []
    assert explain((shape,), (jax.ShapeDtypeStruct((4, 3), jnp.float32),)) == ["args[0]: shape (2, 3) -> (4, 3)"]


def test_a_value_that_jit_would_refuse_is_compared_as_it_is():
    assert explain(("a",), ("b",)) == ["args[0]: 'a' -> 'b'"]


# Where arrays are.


def on(kind, *names):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    return jax.device_put(jnp.ones((2, 4)), jax.NamedSharding(mesh, jax.P(*names)))


def test_a_mesh_is_named():
    plain = jnp.ones((2, 4))
    assert traced_twice(plain, on(EXPLICIT, "data"))[0].startswith("value: sharding no mesh -> ")
    assert traced_twice(plain, on(AUTO, "data")) == ["value: sharding no mesh -> the mesh {'data': 2}"]
    (line,) = traced_twice(on(EXPLICIT, "data"), on(EXPLICIT, None, "data"))
    assert line == "value: sharding ('data', None) on the mesh {'data': 2} -> (None, 'data') on the mesh {'data': 2}"


def test_what_only_compiles_again_is_said():
    first, second = jax.devices()[:2]
    here_now, there = jax.device_put(INPUTS, first), jax.device_put(INPUTS, second)
    watched = watch_retraces(lambda x: x)
    for array in (INPUTS, here_now, there):
        watched(array)
    assert watched.traces == 1
    assert explain((INPUTS,), (here_now,)) == ["args[0]: committed False -> True (it compiles again, without a trace)"]
    (line,) = explain((here_now,), (there,))
    assert line.endswith("(it compiles again, without a trace)")
    assert explain((on(AUTO, "data"),), (on(AUTO),))[0].endswith(
        "on the mesh {'data': 2} (it compiles again, without a trace)"
    )


# Arguments.


def test_arguments_by_position_and_by_name():
    def function(x, y=1, *rest, scale=2):
        return x

    def lines(before, after, **options):
        return str(explain_retrace(before, after, function=function, **options)).splitlines()

    calls = ((1, 2), {}), ((1,), {"y": 2})
    assert lines(*calls) == ["y: given by position -> given by name (JAX takes them for different calls)"]
    watched = watch_retraces(function)
    watched(1, 2)
    with pytest.warns(RetraceWarning, match="y: given by position -> given by name"):
        watched(1, y=2)
    with pytest.warns(
        RetraceWarning, match=r"for the 3rd time\.(.|\n)*y: given -> absent \(JAX knows of no defaults\)"
    ):
        watched(1)
    assert lines(((1, 2, 3), {}), ((1, 2, 3.0), {"scale": 1})) == [
        "rest[0]: dtype int32 -> float32",
        "scale: absent -> given (JAX knows of no defaults)",
    ]


@pytest.mark.parametrize(
    "options", [{"static_argnums": 1}, {"static_argnums": (-1,)}, {"static_argnames": "n"}, {"static_argnames": ["n"]}]
)
def test_static_by_number_and_by_name(options):
    def function(x, n):
        return x * n

    watched = watch_retraces(function, **options)
    watched(1.0, 2)
    watched(3.0, 2)
    assert watched.traces == 1
    with pytest.warns(RetraceWarning, match=r"n: 2 -> 3 \(a static"):
        watched(1.0, 3)
    found = explain_retrace(((1.0,), {"n": 2}), ((1.0,), {"n": 3}), function=function, **options)
    assert [difference.path for difference in found.differences] == ["n"]


def test_the_parts_of_a_difference():
    (found,) = explain_retrace(((INPUTS,), {}), ((INPUTS[:1],), {})).differences
    assert (found.path, found.what, found.before, found.after, found.why) == (
        "args[0]",
        "shape",
        "(2, 3)",
        "(1, 3)",
        "",
    )


# The watched function.


def test_it_is_compared_with_the_nearest_earlier_call():
    watched = watch_retraces(lambda x, y: x)
    watched(INPUTS, 1.0)
    with pytest.warns(RetraceWarning):
        watched(jnp.ones(7), jnp.ones(3))
    with pytest.warns(RetraceWarning) as caught:
        watched(jnp.ones(8), jnp.ones(3))
    assert str(caught[0].message).splitlines()[1:] == ["  x: shape (7,) -> (8,)"]
    assert caught[0].filename == __file__
    assert watched.traces == 3


def test_many_differences_are_counted():
    watched = watch_retraces(lambda x: 0)
    watched({str(n): 1 for n in range(30)})
    with pytest.warns(RetraceWarning) as caught:
        watched({str(n): 1.0 for n in range(30)})
    assert len(str(caught[0].message).splitlines()) == 14
    assert str(caught[0].message).endswith("and 18 more")


def test_an_option_of_jax_and_cleared_caches():
    watched = watch_retraces(lambda x: x * 2)
    watched(1)
    said = "jax_default_matmul_precision: None -> 'float32'"
    with pytest.warns(RetraceWarning, match=said), jax.default_matmul_precision("float32"):
        watched(1)
    jax.clear_caches()
    with pytest.warns(RetraceWarning, match="for the 3rd time.\n  Nothing in the call differs: JAX's caches"):
        watched(1)
    watched.clear_cache()
    assert watched(1) == 2
    assert watched.traces == 1


def test_a_call_that_is_not_traced_does_nothing_more():
    def count(function):
        """Return how many Python functions a call enters."""
        entered = []
        sys.setprofile(lambda frame, event, _: entered.append(frame.f_code.co_name) if event == "call" else None)
        try:
            function(state, INPUTS)
        finally:
            sys.setprofile(None)
        return entered

    state = make()
    watched, plain = watch_retraces(step), jax.jit(step)
    for function in (watched, plain):
        function(state, INPUTS)
        function(state, INPUTS)
    ours, theirs = count(watched), count(plain)
    assert len(ours) <= len(theirs) + 1, (ours, theirs)


def test_no_array_is_kept_and_donated_ones_are_fine():
    watched = watch_retraces(lambda state, x: jax.tree.map(lambda leaf: leaf + x.sum(), state), donate_argnums=0)
    state, x = {"a": jnp.ones(3)}, jnp.ones(2)
    held = [weakref.ref(state["a"]), weakref.ref(x)]
    for _ in range(3):
        state = watched(state, x)
    assert watched.traces == 1
    del state, x
    gc.collect()
    assert [reference() for reference in held] == [None, None]
    with jax.check_tracer_leaks():
        watch_retraces(lambda x: x + 1)(INPUTS)


def test_a_node_that_holds_arrays_only():
    class Strict:
        def __init__(self, array):
            self.array = array + 0

    jax.tree_util.register_pytree_node(Strict, lambda node: ((node.array,), None), lambda _, leaves: Strict(*leaves))
    watched = watch_retraces(lambda node: node.array)
    watched(Strict(INPUTS))
    with pytest.warns(RetraceWarning, match=r"node/<flat index 0>|node/\[.*: shape \(2, 3\) -> \(1, 3\)"):
        watched(Strict(INPUTS[:1]))


def test_inside_other_transforms_and_as_a_method():
    class Model:
        factor = 3.0

        @functools.partial(watch_retraces, static_argnums=0)
        def scale(self, x):
            return x * self.factor

    model = Model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(model.scale(INPUTS), 3.0)
        np.testing.assert_allclose(jax.vmap(model.scale)(INPUTS[None]), 3.0)
    assert Model.scale.traces == 1
    with pytest.warns(RetraceWarning, match="self: "):
        Model().scale(INPUTS)
    watched = watch_retraces(lambda x: x**2)
    assert jax.grad(watched)(3.0) == 6.0
    assert watched.lower(3.0).compile()(4.0) == 16.0
    assert watched.eval_shape(3.0).shape == ()
    assert watched.traces == 1


def test_it_looks_like_what_it_watches():
    watched = watch_retraces(step)
    assert watched.__name__ == "step"
    assert watched.__wrapped__ is step
    outer = watch_retraces(watched)
    assert (outer.__name__, outer._calls is watched._calls) == ("step", False)
    applied = watch_retraces(MLP().apply)
    variables = MLP().init(jax.random.key(0), INPUTS)
    assert applied(variables, INPUTS).shape == (2, 4)
    with pytest.warns(RetraceWarning, match="apply_MLP is traced again"):
        applied(variables, INPUTS[:1])


def test_a_warning_that_is_an_error_leaves_the_donated_state():
    watched = watch_retraces(step, donate_argnums=0)
    watched(make(), INPUTS)
    state = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RetraceWarning)
        with pytest.raises(RetraceWarning):
            watched(state, INPUTS[:1])
    assert state.params["Dense_0"]["kernel"].shape == (3, 4)
    assert not state.params["Dense_0"]["kernel"].is_deleted()


def test_what_has_no_equality_that_can_be_asked():
    class Odd:
        __slots__ = ("size",)

        def __init__(self, size):
            self.size = size

        def __eq__(self, other):
            raise RuntimeError

        def __repr__(self):
            raise RuntimeError

        __hash__ = None

    (line,) = static(Odd(1), Odd(2))
    assert line == "args[0].size: 1 -> 2"
    (line,) = static(Odd(1), Odd(1))
    assert line.startswith("args[0]: an object of type Odd -> an equal one")
    ring = types.SimpleNamespace()
    ring.self = ring
    other = types.SimpleNamespace(size=1)
    other.self = other
    assert static(Plain(ring), Plain(other)) != []


# --- what kind of thing differs, and what it costs


class Wide(nn.Module):
    width: int = 4
    layers: tuple[nn.Module, ...] = (nn.Dense(2),)

    def __call__(self, x):
        return x * self.width


def test_differences_name_the_field_of_the_blueprint_and_their_kind():
    def run(model, variables, x, mutable, rngs):
        return model, variables, x, mutable, rngs

    one = (Wide(), {}, jnp.ones((2, 3)), False, {"dropout": jax.random.key(0)}), {}
    two = (Wide(5, (nn.Dense(3), nn.Dense(2))), {}, jnp.ones((2, 3), jnp.bfloat16), ["cache"], {}), {}
    found = explain_retrace(one, two, static_argnames=("model", "mutable"), function=run)
    assert [(each.kind, each.field) for each in found.differences] == [
        ("blueprint", "Wide.width"), ("blueprint", "Dense.features"), ("blueprint", "Wide.layers"),
        ("dtype", ""), ("mutable", ""), ("rngs", ""),
    ]  # fmt: skip
    assert found.kinds == {"blueprint": 3, "dtype": 1, "mutable": 1, "rngs": 1}
    assert str(found).splitlines()[:2] == [
        "model.width: 4 -> 5 (the blueprint's field Wide.width)",
        "model.layers[0].features: 2 -> 3 (the blueprint's field Dense.features)",
    ]


def test_what_a_trace_and_a_compilation_take_is_told():
    def double(x, times):
        return x * times

    call = (jnp.ones(3), 2), {}
    for function in (double, jax.jit(double, static_argnames="times")):
        found = explain_retrace(call, call, static_argnames="times", function=function, measure=True)
        assert found.differences == ()
        assert 0 < found.trace_seconds < found.trace_seconds + found.compile_seconds
        assert re.search(r"The second call takes \d+\.\d\d s to trace and \d+\.\d\d s to compile\.$", str(found))
    with pytest.raises(ArgumentError, match="the function whose compilation is measured"):
        explain_retrace(call, call, measure=True)


def test_a_watched_function_keeps_what_each_trace_took_and_why():
    watched = watch_retraces(lambda x: x + 1)
    watched(jnp.ones(3))
    watched(jnp.ones(3))
    with pytest.warns(RetraceWarning):
        watched(jnp.ones(4))
    with pytest.warns(RetraceWarning):
        watched.lower(jnp.ones(5))
    assert [len(record.differences) for record in watched.records] == [0, 1, 1]
    assert [record.compile_seconds is None for record in watched.records] == [False, False, True]
    assert all(record.trace_seconds > 0 for record in watched.records)
    first, *lines = watched.report().splitlines()
    assert first.startswith("<lambda> was traced 3 times: ")
    assert lines[1].startswith("  2nd: ")
    assert lines[1].endswith(" compiled: x: shape (3,) -> (4,)")
    watched.clear_cache()
    assert list(watched.records) == []
