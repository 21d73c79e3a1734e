# ruff: noqa: PLW0108 - models are written as their users write them, with lambdas
"""A scope alone: functions of a scope against Flax's core, names, mutability, shapes, and the end of a call."""

import copy
import types

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste.core import DenyList, Frame, Scope, Variable, apply, fingerprint, init, open_scope
from batiste.errors import (
    ApplyScopeInvalidVariablesStructureError,
    ApplyScopeInvalidVariablesTypeError,
    InvalidRngError,
    InvalidScopeError,
    JaxTransformError,
    ModifyScopeVariableError,
    NameInUseError,
    ScopeCollectionNotFound,
    ScopeParamNotFoundError,
    ScopeParamShapeError,
    ScopeVariableNotFoundError,
)
from tests.core.compiling import compiled

X = jnp.arange(6.0).reshape(2, 3)
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def dense(scope, x, features, bias=True):
    y = x @ scope.param("kernel", jax.nn.initializers.lecun_normal(), (x.shape[-1], features))
    return y + scope.param("bias", jax.nn.initializers.zeros, (1, features)) if bias else y


def mlp(scope, x):
    x = jax.nn.relu(scope.child(dense)(x, 3))
    x = scope.child(dense, "named")(x, 3)
    x = scope.child(dense, prefix="layer_")(x, 3)
    return dense(scope.push("pushed"), dense(scope.push(prefix="auto"), x, 2), 2)


def shared(scope, x):
    layer = scope.child(dense, "shared")
    return layer(layer(x, 3), 3)


def counter(scope, x):
    count = scope.variable("state", "count", lambda start: jnp.asarray(start, jnp.int32), 2)
    if scope.is_mutable_collection("state"):
        count.value += 1
    inner = scope.push("inner")
    seen = inner.variable("state", "sum", jnp.zeros, (3,))
    if inner.is_mutable_collection("state"):
        seen.value = seen.value + x.sum(0)
    return count.value, seen.value, inner.has_variable("state", "sum"), scope.has_variable("state", "nothing")


def reads(scope, x):
    inner = scope.push("inner")
    inner.variable("cache", "a", jnp.zeros, ())
    return (
        scope.get_variable("cache", "a"),
        inner.get_variable("cache", "a"),
        inner.get_variable("cache", "b", 5),
        inner.is_collection_empty("cache"),
        inner.is_collection_empty("nothing"),
        inner.has_rng("dropout"),
        inner.has_rng("nothing"),
        inner.path,
        inner.path_text,
        inner.name,
        scope.name,
        inner.root is scope,
    )


def trees(scope, x):
    value = scope.param("tree", lambda key, n: {"a": jax.random.uniform(key, (n,)), "b": [jnp.ones(2)]}, 3)
    return value["a"] * value["b"][0].sum()


def noise(scope, x):
    def inner(scope, x):
        return x + jax.random.uniform(scope.make_rng("dropout"), x.shape)

    layer = scope.child(inner, "noise")
    return layer(layer(x))


FUNCTIONS = [mlp, shared, counter, reads, trees, noise, lambda scope, x: dense(scope, x, 2, bias=False)]


def assert_same(ours, theirs):
    ours, theirs = flax.core.unfreeze(ours), flax.core.unfreeze(theirs)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if isinstance(other, jax.Array):
            assert (one.dtype, one.weak_type) == (other.dtype, other.weak_type)
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("function", FUNCTIONS, ids=range(len(FUNCTIONS)))
def test_functions_of_a_scope_are_flax(function):
    ours, theirs = init(function)(KEYS, X), flax.core.init(function)(KEYS, X)
    assert_same(ours, theirs)
    variables = ours[1]
    for mutable in (False, True, ["state"], DenyList("params")):
        flax_mutable = flax.core.DenyList("params") if isinstance(mutable, DenyList) else mutable
        assert_same(
            apply(function, mutable=mutable)(variables, X, rngs=KEYS),
            flax.core.apply(function, mutable=flax_mutable)(variables, X, rngs=KEYS),
        )


def test_init_makes_what_its_filter_accepts():
    def function(scope):
        scope.param("w", jax.nn.initializers.ones, ())
        if scope.is_mutable_collection("cache"):
            scope.variable("cache", "c", jnp.zeros, ())

    assert set(init(function)(KEYS)[1]) == {"params", "cache"}
    assert set(init(function, DenyList("cache"))(KEYS)[1]) == {"params"}


def test_put_and_merge():
    def function(scope):
        scope.put_variable("cache", "tree", {"a": 1, "b": {"c": 2}})
        scope.put_variable("cache", "tree", {"b": {"d": 3}})
        held = scope.get_variable("cache", "tree")
        held["a"] = 5  # a copy
        return scope.get_variable("cache", "tree")

    output, changed = apply(function, mutable=["cache"])({})
    assert output == {"a": 1, "b": {"c": 2, "d": 3}}
    assert changed == {"cache": {"tree": output}}


def deep(variables):
    """Return every dict of a tree with its identity and its items, and every leaf by identity."""
    if isinstance(variables, dict):
        return (id(variables), [(name, deep(value)) for name, value in variables.items()])
    return id(variables)


def test_given_variables_are_never_changed():
    def function(scope):
        scope.put_variable("state", "new", 1)
        scope.push("inner").put_variable("state", "old", 2)
        scope.push("more").param("w", jax.nn.initializers.ones, ())
        scope.variable("made", "v", jnp.zeros, ())
        variable = scope.variable("state", "tree", dict)
        variable.value = {"a": {"b": 5}}
        read = scope.get_variable("state", "tree")
        read["a"]["b"] = 6

    variables = {"params": {"w": X}, "state": {"inner": {"old": 1}, "tree": {"a": {"b": 3}}}, "other": {"x": [1]}}
    before, copied = deep(variables), copy.deepcopy(variables)
    _, changed = apply(function, mutable=True)(variables, rngs=KEYS)
    assert deep(variables) == before
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.all(a == b)), variables, copied))
    assert changed["state"] == {"inner": {"old": 2}, "tree": {"a": {"b": 5}}, "new": 1}
    assert changed["params"]["w"] is X
    assert changed["other"] == {"x": [1]}


def test_mappings_of_other_kinds_are_variables():
    variables = init(mlp)(KEYS, X)[1]
    expected = apply(mlp)(variables, X)
    for given in (flax.core.freeze(variables), types.MappingProxyType(variables)):
        np.testing.assert_array_equal(apply(mlp)(given, X), expected)
        output, changed = apply(mlp, mutable=["params"])(given, X)
        np.testing.assert_array_equal(output, expected)
        assert type(changed["params"]["named"]) is dict


def test_names():
    def function(scope):
        assert scope.default_name("a") == "a0"
        assert scope.push(prefix="a").name == "a0"
        assert scope.push(prefix="a").name == "a1"
        scope.param("w", jax.nn.initializers.ones, ())
        scope.variable("state", "w", jnp.zeros, ())
        assert scope.name_reserved("w", "params")
        assert scope.name_reserved("w", "state")
        assert not scope.name_reserved("w", "other")
        assert scope.name_reserved("w")
        assert not scope.name_reserved("free")
        with pytest.raises(NameInUseError, match=r"a child 'w' .* in /: .*taken by a variable of params, state"):
            scope.push("w")
        with pytest.raises(NameInUseError, match=r"a variable of params 'w'"):
            scope.param("w", jax.nn.initializers.ones, ())
        with pytest.raises(NameInUseError, match=r"a variable of params 'a0' .*taken by a child"):
            scope.param("a0", jax.nn.initializers.ones, ())
        assert scope.push("a0", reuse=True).path == ("a0",)
        again = scope.rewound()
        assert again.push(prefix="a").name == "a0"
        assert again.param("w", jax.nn.initializers.ones, ()).shape == ()

    init(function)(KEYS)


def test_rewound_can_start_keys_over():
    def function(scope):
        inner = scope.push("inner")
        first = [inner.make_rng("dropout"), scope.make_rng("dropout")]
        second = inner.rewound(rewind_rngs=True).make_rng("dropout")
        third = inner.rewound().make_rng("dropout")
        return first[0], second, third, scope.make_rng("dropout"), first[1]

    keys = [np.asarray(jax.random.key_data(key)).tolist() for key in apply(function)({}, rngs=KEYS)]
    assert keys[0] == keys[1] != keys[2]
    assert keys[3] != keys[4]


def test_variables_that_are_missing():
    def read(scope, collection, name):
        return scope.push("encoder").variable(collection, name)

    def weight(scope):
        return scope.push("encoder").param("kernel", jax.nn.initializers.ones, (2,))

    params = {"encoder": {"bias": X}, "decoder": {}}
    with pytest.raises(ScopeParamNotFoundError, match=r"/encoder has no parameter 'kernel'.*/encoder holds bias"):
        apply(weight)({"params": params})
    with pytest.raises(ScopeParamNotFoundError, match=r"/ holds encodr\. Did you mean 'encodr'\?\n.*params/encoder/k"):
        apply(weight)({"params": {"encodr": {"kernel": X}}})
    with pytest.raises(ScopeParamNotFoundError, match=r"/encoder holds kernal\. Did you mean 'kernal'"):
        apply(weight)({"params": {"encoder": {"kernal": X}}})
    with pytest.raises(ScopeParamNotFoundError, match="/encoder holds nothing"):
        apply(weight)({"params": {"encoder": {}}})
    with pytest.raises(ScopeCollectionNotFound, match=r"Wrap the parameters: apply\({'params': params}"):
        apply(weight)(params)
    with pytest.raises(ScopeCollectionNotFound, match="no collections at all"):
        apply(weight)({})
    with pytest.raises(ScopeCollectionNotFound, match="The collection 'parms' is misspelt: write 'params'"):
        apply(weight)({"parms": params})
    with pytest.raises(ScopeCollectionNotFound, match="The collection 'cachee' is misspelt: write 'cache'"):
        apply(read)({"params": params, "cachee": {}}, "cache", "k")
    with pytest.raises(ScopeVariableNotFoundError, match=r"no variable 'keys' .*'cache'; /encoder holds key\. Did you"):
        apply(read)({"cache": {"encoder": {"key": 1}}}, "cache", "keys")


def test_a_call_without_a_key():
    with pytest.raises(InvalidRngError, match="needs the stream 'params'"):
        init(lambda scope: scope.param("w", jax.nn.initializers.normal(), (2,)))({})
    with pytest.raises(InvalidRngError):
        apply(lambda scope: scope.param("w", jax.nn.initializers.ones, ()), mutable=["params"])({})


def test_what_is_no_variables():
    for wrong in ([], 3, None, X):
        with pytest.raises(ApplyScopeInvalidVariablesTypeError, match="was given an object of type"):
            apply(mlp)(wrong, X)
    with pytest.raises(ApplyScopeInvalidVariablesTypeError, match="a dict with the key 3"):
        apply(mlp)({3: {}}, X)
    with pytest.raises(ApplyScopeInvalidVariablesStructureError, match="wrapped twice"):
        apply(mlp)({"params": {"params": {"w": X}}}, X)


def test_a_parameter_may_be_called_params():
    def function(scope):
        return scope.param("params", jax.nn.initializers.ones, (2,))

    variables = init(function)(KEYS)[1]
    assert apply(function)(variables).shape == (2,)


def test_immutable_collections():
    def writes(scope):
        scope.push("bn").put_variable("batch_stats", "mean", 0)

    def assigns(scope):
        scope.variable("batch_stats", "mean").value = 1

    for function in (writes, assigns):
        with pytest.raises(ModifyScopeVariableError, match=r"'mean'.*'batch_stats'.*\n.*mutable=\['batch_stats'\]"):
            apply(function, mutable=["cache"])({"batch_stats": {"mean": 0}})


def test_variables_are_references():
    def function(scope):
        one = scope.variable("state", "v", lambda: 1)
        other = Variable(scope, "state", "v")
        other.value = 5
        return one.value, one.is_mutable(), repr(one)

    assert init(function)(KEYS)[0] == (5, True, "Variable('state', 'v')")
    assert apply(lambda scope: scope.variable("state", "v").is_mutable())({"state": {"v": 1}}) is False


# --- shapes


class Counting:
    """An initialiser that counts how often it runs."""

    def __init__(self):
        self.runs = 0

    def __call__(self, key, shape):
        self.runs += 1
        return jnp.ones(shape)


def test_shapes_are_checked():
    variables = {"params": {"kernel": X}}

    def function(scope, shape):
        return scope.param("kernel", jax.nn.initializers.ones, shape)

    assert apply(function)(variables, (2, 3)) is X
    assert apply(function)(variables, [2, 3]) is X
    for shape in ((3, 2), (2, 3, 1), (6,), ()):
        with pytest.raises(ScopeParamShapeError, match=r"'kernel' of / has shape \(2, 3\).*with shape"):
            apply(function)(variables, shape)


def test_shapes_of_trees_and_closures_are_checked():
    def tree(scope):
        return scope.param("t", lambda key: {"a": jnp.zeros((2,)), "b": jnp.zeros((3,))})

    def keywords(scope):
        return scope.param("k", lambda key, *, size: jnp.zeros((size,)), size=3)

    apply(tree)({"params": {"t": {"a": jnp.ones(2), "b": jnp.ones(3)}}})
    with pytest.raises(ScopeParamShapeError, match=r"'t' of / has shape \(2,\).*\(3,\)"):
        apply(tree)({"params": {"t": {"a": jnp.ones(2), "b": jnp.ones(2)}}})
    apply(keywords)({"params": {"k": jnp.ones(3)}})
    with pytest.raises(ScopeParamShapeError):
        apply(keywords)({"params": {"k": jnp.ones(4)}})


def test_the_check_does_not_run_a_known_initialiser():
    def function(scope):
        return scope.param("w", jax.nn.initializers.normal(0.3), (2, 3))

    variables = {"params": {"w": X}}
    apply(function)(variables)
    with compiled() as names:
        for _ in range(3):
            apply(function)(variables)
    assert names == []


def test_an_initialiser_with_a_state_is_asked_for_its_shape_once_a_call():
    initialiser = Counting()

    def function(scope):
        return scope.param("w", initialiser, (2, 3))

    for calls in (1, 2, 3):
        apply(function)({"params": {"w": X}})
        assert initialiser.runs == calls


def test_an_initialiser_known_by_value_is_asked_once_for_all_calls():
    space = {"jnp": jnp, "__name__": "user"}
    exec("def initialiser(key, shape):\n    return jnp.ones(shape) + jnp.sqrt(0.25)", space)  # noqa: S102
    initialiser = space["initialiser"]
    assert fingerprint(initialiser).is_by_value

    def function(scope):
        return scope.param("w", initialiser, (2, 3))

    asked = []
    real = jax.eval_shape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "eval_shape", lambda *args: asked.append(args) or real(*args))
        for _ in range(3):
            apply(function)({"params": {"w": X}})
    assert len(asked) == 1


# --- the end of a call, and transforms


def test_a_scope_ends_with_its_call():
    kept = []

    def function(scope):
        kept.extend((scope, scope.push("inner"), scope.variable("state", "v", lambda: 1)))
        return X

    init(function)(KEYS)
    apply(function, mutable=True)({"state": {"v": 1}})
    for scope in (kept[0], kept[1], kept[3], kept[4]):
        for use in (
            lambda scope=scope: scope.push("more"),
            lambda scope=scope: scope.param("w", jax.nn.initializers.ones, ()),
            lambda scope=scope: scope.variable("state", "w", jnp.zeros, ()),
            lambda scope=scope: scope.put_variable("state", "w", 1),
            lambda scope=scope: scope.make_rng(),
            scope.rewound,
        ):
            with pytest.raises(InvalidScopeError, match="after the init, apply or transform"):
                use()
    with pytest.raises(InvalidScopeError):
        kept[2].value = 3


def test_a_scope_ends_with_an_error():
    kept = []

    def function(scope):
        kept.append(scope)
        raise KeyError("stop")

    for run in (lambda: init(function)(KEYS), lambda: apply(function)({})):
        with pytest.raises(KeyError):
            run()
    assert len(kept) == 2
    for scope in kept:
        with pytest.raises(InvalidScopeError):
            scope.make_rng()


@pytest.mark.parametrize(
    "transform",
    [
        jax.jit,
        jax.grad,
        jax.vmap,
        jax.checkpoint,
        lambda f: lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, 2),
    ],
    ids=["jit", "grad", "vmap", "checkpoint", "scan"],
)
def test_writing_what_depends_on_a_transform_is_refused(transform):
    uses = (
        lambda scope, x: scope.put_variable("state", "v", x),
        lambda scope, x: scope.param("new", lambda key: x + jax.random.uniform(key)),
        lambda scope, x: scope.variable("state", "new", lambda: 2 * x),
    )
    argument = jnp.ones(3) if transform is jax.vmap else jnp.float32(1)
    for use in uses:

        def function(scope, use=use):
            def inner(x):
                use(scope, x)
                return x

            return transform(inner)(argument)

        with pytest.raises(JaxTransformError, match="inside a JAX transform"):
            apply(function, mutable=True)({"state": {"v": 1}}, rngs=KEYS)


def test_a_key_drawn_within_a_transform_is_that_drawn_outside():
    def function(scope):
        return jax.jit(lambda: scope.make_rng())(), scope.rewound(rewind_rngs=True).make_rng()

    inside, outside = apply(function)({}, rngs=KEYS)
    np.testing.assert_array_equal(jax.random.key_data(inside), jax.random.key_data(outside))


def test_reading_within_a_transform_is_allowed():
    def function(scope, x):
        kernel = scope.param("w", jax.nn.initializers.ones, (3,))
        state = scope.variable("state", "v", jnp.zeros, ())
        return jax.vmap(jax.jit(lambda row: (row * kernel).sum() + state.value))(x)

    variables = init(function)(KEYS, X)[1]
    assert apply(function)(variables, X).shape == (2,)


def test_calls_within_transforms():
    variables = init(mlp)(KEYS, X)[1]
    expected = apply(mlp)(variables, X)
    np.testing.assert_allclose(jax.jit(apply(mlp))(variables, X), expected, rtol=1e-6)
    rows = jax.vmap(lambda row: apply(mlp)(variables, row[None])[0])(X)
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
    grads = jax.grad(lambda v: apply(mlp)(v, X).sum())(variables)
    assert jax.tree.structure(grads) == jax.tree.structure(variables)


def test_open_scope():
    scope = open_scope({"params": {"a": {"w": X}}}, KEYS, mutable=["state"])
    assert isinstance(scope, Scope)
    assert scope.push("a").param("w", jax.nn.initializers.ones, (2, 3)) is X
    scope.put_variable("state", "v", 1)
    assert scope.mutable_variables() == {"state": {"v": 1}}
    assert scope.variables()["params"]["a"]["w"] is X
    assert set(scope.variables_in("params")) == {"params"}
    scope.close()
    with pytest.raises(InvalidScopeError, match="/ is used after"):
        scope.push("b")


# --- for transforms


def test_a_scope_in_another_frame():
    variables = {"params": {"a": {"b": {"w": X}, "other": X}}, "state": {"a": {"b": {"v": 1}}}, "cache": {}}

    def function(scope):
        inner = scope.push("a").push("b")
        exported = inner.export(["params", "state"])
        assert exported == {"params": {"w": X}, "state": {"v": 1}}
        exported["state"]["v"] = 5  # a copy
        assert inner.get_variable("state", "v") == 1
        before = inner.make_rng("dropout")
        frame = Frame(variables, {}, mutable=["state"])
        twin = inner.rebuild(frame, {})
        assert twin.path == inner.path == ("a", "b")
        assert twin.frame is frame
        assert twin.get_variable("state", "v") == 1
        assert not twin.has_rng("dropout")
        started = inner.rebuild(Frame(variables, {}, mutable=["state"]), {inner.path: inner.start})
        again = started.make_rng("dropout")
        started.put_variable("state", "v", 7)
        assert inner.get_variable("state", "v") == 1
        written = dict.fromkeys(started.frame.written, started.frame.variables["state"]["a"]["b"]["v"])
        assert written == {("state", "a", "b", "v"): 7}
        inner.publish(written)
        return before, again, inner.get_variable("state", "v")

    (before, again, value), changed = apply(function, mutable=["state"])(variables, rngs=KEYS)
    assert bool((jax.random.key_data(before) == jax.random.key_data(again)).all())  # its counters are its own
    assert value == 7
    assert changed == {"state": {"a": {"b": {"v": 7}}}}
    assert variables["state"]["a"]["b"]["v"] == 1


def test_publishing_into_an_immutable_collection():
    def function(scope):
        scope.push("a").publish({("state", "a", "v"): 1})

    with pytest.raises(ModifyScopeVariableError, match="/a writes 'v'"):
        apply(function, mutable=["cache"])({})
