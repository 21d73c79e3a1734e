"""A blueprint is a value: equality, hashes, copies, pickles, its text, and what jit sees of it."""

import copy
import dataclasses
import functools
import pickle
from typing import Any

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste.core import fingerprint
from batiste.errors import SetAttributeFrozenModuleError, UnknownModuleAttributeError
from batiste.lift import remat
from batiste.module import Module, compact

X = jnp.arange(6.0).reshape(2, 3)


class Dense(Module):
    features: int
    kernel_init: Any = jax.nn.initializers.lecun_normal()

    @compact
    def __call__(self, x):
        return x @ self.param("kernel", self.kernel_init, (x.shape[-1], self.features))


class Model(Module):
    width: int = 3
    layers: Any = ()
    options: Any = None
    activation: Any = jnp.tanh

    @compact
    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.activation(Dense(self.width)(x))


class Other(Model):
    pass


class Doubled(Module):
    hidden: dataclasses.InitVar[int]
    note: str = dataclasses.field(default="", compare=False)

    def __post_init__(self, hidden):
        self.double = 2 * hidden
        super().__post_init__()

    @functools.cached_property
    def half(self):
        return self.double / 2


SHARED, TWIN = Dense(2), Dense(2)


def scale(x, by=2.0):
    return x * by


def make(width=3, name=None):
    """Return a new blueprint with one of every kind of field, equal to the next that it returns."""
    return Model(
        width,
        [Dense(3), Dense(3, kernel_init=jax.nn.initializers.normal(0.02))],
        {"rate": 0.5, "sizes": [1, 2], "table": np.arange(3), "partial": functools.partial(scale, by=3.0)},
        activation=lambda x: scale(x, by=width),
        name=name,
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (make(), make()),
        (Model(), Model(activation=jnp.tanh)),
        (Model(options=np.ones(2)), Model(options=np.ones(2))),
        (Model(options={1, 2}), Model(options={2, 1})),
        (Model(layers=(Dense(2),)), Model(layers=(Dense(2),))),
        (Model(name="n"), Model(name="n")),
        (Model(layers=[SHARED, SHARED]), Model(layers=[TWIN, TWIN])),
    ],
)
def test_equal_descriptions_are_equal_modules(one, other):
    assert one == other
    assert hash(one) == hash(other)
    assert one.apply == other.apply
    assert hash(one.apply) == hash(other.apply)
    assert {one: 1}[other] == 1
    assert fingerprint(one) == fingerprint(other)


def test_a_field_that_is_not_compared_may_be_computed_with():
    one, other = Doubled(hidden=1), Doubled(hidden=1, note="not compared")
    assert one == other
    assert hash(one) == hash(other)
    assert one.apply == one.apply
    assert one.apply != other.apply


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (make(3), make(4)),
        (make(3), make(3, name="n")),
        (Model(), Other()),
        (Model(1), Model(1.0)),
        (Model(1), Model(True)),
        (Model(layers=[Dense(2)]), Model(layers=(Dense(2),))),
        (Model(options=np.ones(2)), Model(options=np.ones(2, np.float32))),
        (Model(options=np.zeros(2)), Model(options=np.zeros((1, 2)))),
        (Model(activation=jnp.tanh), Model(activation=jnp.sin)),
        (Model(options=functools.partial(scale, by=1)), Model(options=functools.partial(scale, by=2))),
        (Model(options={"a": 1, "b": 2}), Model(options={"b": 2, "a": 1})),  # a model may walk over it
        (Model(layers=[SHARED, SHARED]), Model(layers=[Dense(2), Dense(2)])),  # one kernel, or two
        (Doubled(hidden=1), Doubled(hidden=2)),
        (Model(), 3),
        (Model(), None),
    ],
)
def test_different_descriptions_are_different_modules(one, other):
    assert one != other
    if isinstance(other, Module):
        assert one.apply != other.apply


def test_what_a_cached_property_keeps_is_no_part_of_the_value():
    one, other = Doubled(hidden=1), Doubled(hidden=1)
    assert one.half == 1
    assert one == other


def test_equality_does_not_depend_on_what_was_compared_before():
    one, other, third = make(), make(), make()
    assert one.layers == other.layers
    assert one == other
    assert one == third


def test_bound_modules_are_equal_to_themselves_alone():
    model = Model()
    first, second = model.bind({}), model.bind({})
    assert first == first  # noqa: PLR0124
    assert first != second
    assert first != model
    with pytest.raises(TypeError, match="is hashed"):  # as in Linen
        hash(first)


def test_a_hashed_blueprint_is_frozen():
    model = Model()
    model.width = 5
    assert model.width == 5
    hash(model)
    with pytest.raises(SetAttributeFrozenModuleError, match=r"model\.clone\(width=\.\.\.\)"):
        model.width = 6
    assert model.clone(width=6).width == 6
    assert hash(model.clone()) == hash(model)


def test_a_blueprint_is_not_changed_by_its_calls():
    layers = [Dense(3), Dense(3)]
    model = Model(layers=layers)
    held, before = dict(model.__dict__), [dict(layer.__dict__) for layer in layers]
    variables = model.init(jax.random.key(0), X)
    model.apply(variables, X)
    model.bind(variables)(X)
    assert model.__dict__ == held
    assert [layer.__dict__ for layer in layers] == before
    assert model.layers is layers
    assert model.scope is None
    assert model.name is None


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, Model.clone, Model.copy], ids=range(4))
def test_copies_are_equal(duplicate):
    model = make()
    twin = duplicate(model)
    assert twin is not model
    assert twin == model
    assert twin.parent is None
    np.testing.assert_array_equal(
        twin.init(jax.random.key(0), X)["params"]["Dense_0"]["kernel"],
        model.init(jax.random.key(0), X)["params"]["Dense_0"]["kernel"],
    )


def test_copy_is_shallow_and_deepcopy_is_deep():
    model = make()
    assert copy.copy(model).layers is model.layers
    assert copy.deepcopy(model).layers[0] is not model.layers[0]
    shared = Dense(3)
    twin = copy.deepcopy(Model(layers=[shared, shared]))
    assert twin.layers[0] is twin.layers[1]


def test_a_copy_of_a_bound_module_is_unbound():
    bound = Model(4).bind({})
    for twin in (copy.copy(bound), copy.deepcopy(bound), pickle.loads(cloudpickle.dumps(bound))):  # noqa: S301 - its own bytes
        assert twin.scope is None
        assert twin.width == 4
    assert copy.copy(bound) == Model(4)


def test_pickle():
    init = functools.partial(scale, by=3.0)
    model = Model(4, [Dense(3, init), Dense(3, init)], {"a": np.ones(2)}, activation=scale)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - its own bytes
    assert (type(again), again.width, again.layers, again.activation) == (Model, 4, model.layers, scale)
    assert again == model
    apply = pickle.loads(pickle.dumps(model.apply))  # noqa: S301 - its own bytes
    assert apply == model.apply
    hash(model)
    assert pickle.loads(pickle.dumps(model)) == model  # noqa: S301 - its own bytes


def test_cloudpickle_takes_lambdas_and_local_classes():
    class Local(Module):
        inner: Any
        function: Any

        @compact
        def __call__(self, x):
            return self.function(self.inner(x))

    model = Local(make(), lambda x: x + 1)
    again = pickle.loads(cloudpickle.dumps(model))  # noqa: S301 - its own bytes
    variables = model.init(jax.random.key(0), X)
    np.testing.assert_array_equal(again.apply(variables, X), model.apply(variables, X))


def test_cloudpickle_across_processes(fresh_python, tmp_path):
    class Local(Module):
        width: int = 2

        @compact
        def __call__(self, x):
            kernel = self.param("kernel", jax.nn.initializers.ones, (x.shape[-1], self.width))
            return x @ kernel

    path = tmp_path / "model.pickle"
    path.write_bytes(cloudpickle.dumps(Local(4)))
    source = (
        "import pathlib, pickle, sys\n"
        "import jax.numpy as jnp\n"
        "model = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "variables = {'params': {'kernel': jnp.ones((3, 4))}}\n"
        "print(repr(model), model.apply(variables, jnp.ones((1, 3))).tolist())\n"
    )
    answer = fresh_python(source, str(path))
    assert answer.stdout == "Local(width=4) [[3.0, 3.0, 3.0, 3.0]]\n", answer.stderr


def test_repr():
    assert repr(Model()) == "Model()"
    assert repr(Model(4, name="m")) == "Model(width=4, name='m')"
    assert repr(Model(activation=scale)) == "Model(activation=scale)"
    assert repr(Model(layers=[Dense(2), Dense(3, name="d")])) == (
        "Model(layers=[Dense(features=2), Dense(features=3, name='d')])"
    )
    long = repr(Model(layers=[Dense(n) for n in range(100, 107)], options={"a": "b" * 20}))
    assert long.splitlines()[0] == "Model("
    assert long.splitlines()[1].startswith("    layers=[Dense(features=100)")
    assert long.splitlines()[-1] == ")"
    assert repr(Model().apply) == "<apply of Model()>"


def test_repr_of_a_bound_module_has_what_the_blueprint_has():
    assert repr(Model(5).bind({})) == "Model(width=5)"


def test_a_notebook_shows_that_a_module_is_bound():
    class Printer:
        def text(self, text):
            shown.append(text)

    shown = []
    for module in (Model(5), Model(5).bind({})):
        module._repr_pretty_(Printer(), cycle=False)
    assert shown == ["Model(width=5)", "Model(width=5), bound at /"]


def test_dir_has_what_users_may_use():
    names = set(dir(remat(Model)(5).bind({})))
    assert {"width", "layers", "init", "apply", "param"} <= names
    assert not {name for name in names if name[0] != "_" and (name[-1] == "_" or name.startswith("fingerprint"))}


def test_dir_and_unknown_attributes():
    assert {"width", "layers", "init", "apply", "param"} <= set(dir(Model()))
    with pytest.raises(UnknownModuleAttributeError, match=r"no attribute 'widht'.*Did you mean 'width'"):
        _ = Model().widht
    assert not hasattr(Model(), "unknown")
    assert getattr(Model(), "unknown", 3) == 3


def test_dir_of_a_bound_module_has_what_setup_defines():
    class WithSetup(Module):
        def setup(self):
            self.layer = Dense(2)

    assert "layer" in dir(WithSetup().bind({}))
    assert "layer" not in dir(WithSetup())


def test_jit_traces_once_for_equal_modules():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(model, variables, x):
        traces.append(None)
        return model.apply(variables, x)

    @functools.partial(jax.jit, static_argnums=0)
    def run_apply(apply, variables, x):
        traces.append(None)
        return apply(variables, x)

    variables = make().init(jax.random.key(0), X)
    for _ in range(3):
        run(make(), variables, X)
        run_apply(make().apply, variables, X)
    assert len(traces) == 2
    run(make(4), make(4).init(jax.random.key(0), X), X)
    assert len(traces) == 3


def test_jit_of_apply_traces_once_for_equal_modules():
    traces = []

    class Traced(Module):
        width: int

        @compact
        def __call__(self, x):
            traces.append(None)
            return x * self.width

    held = [Traced(3).apply, Traced(3).apply]  # jit forgets a function that nobody holds
    for apply in held:
        jax.jit(apply)({}, X)
    assert len(traces) == 1
    jax.jit(Traced(4).apply)({}, X)
    assert len(traces) == 2


def test_functools_see_apply_as_a_function():
    model = Model()
    assert model.apply.__name__ == "apply_Model"
    assert model.apply.__self__ is model
    wrapped = functools.wraps(model.apply)(lambda: None)
    assert callable(wrapped)
    assert callable(jax.jit(model.apply))
