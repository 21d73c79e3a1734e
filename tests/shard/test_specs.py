"""Rules over paths, and the names of boxes, turned into specs and shardings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from batiste import errors, nn, shard, tree
from tests.shard.support import KINDS, mesh_of, spec_of

P = PartitionSpec
RULES = {"**/h_*/attn/kernel": P(None, "model"), "**/kernel": P("data", "model"), "**/bias": P("model"), "**": P()}


def params():
    block = {"attn": {"kernel": jnp.ones((4, 8))}, "mlp": {"kernel": jnp.ones((8, 6)), "bias": jnp.ones(6)}}
    return {"h_0": block, "h_1": block, "scale": jnp.ones(3)}


def test_the_first_rule_that_matches():
    found = shard.specs(params(), RULES)
    block = {"attn": {"kernel": P(None, "model")}, "mlp": {"kernel": P("data", "model"), "bias": P("model")}}
    assert found == {"h_0": block, "h_1": block, "scale": P()}
    assert shard.specs(params(), RULES, mesh_of()) == found
    assert shard.specs(jax.eval_shape(params), RULES, mesh_of()) == found


@pytest.mark.parametrize("kind", KINDS)
def test_shardings(kind):
    mesh = mesh_of(kind)
    placed = jax.device_put(params(), shard.shardings(params(), RULES, mesh))
    assert spec_of(placed["h_0"]["mlp"]["kernel"]) == ("data", "model")
    assert spec_of(placed["scale"]) == ()
    made = jax.jit(params, out_shardings=shard.shardings(jax.eval_shape(params), RULES, mesh))()
    assert jax.tree.map(spec_of, made) == jax.tree.map(spec_of, placed)
    on_nothing = shard.shardings(params(), RULES, mesh.abstract_mesh)
    assert on_nothing["scale"] == NamedSharding(mesh.abstract_mesh, P())


def test_an_optimiser_state_has_the_same_paths():
    state = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params())
    found = shard.specs(state, RULES, mesh_of())
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert tree.get(found, "1/0/mu/h_0/mlp/kernel") == P("data", "model")
    assert tree.get(found, "1/0/count") == P()


def test_a_box_is_one_leaf():
    init = shard.with_partitioning(nn.initializers.ones, ("a", "b"))
    variables = nn.Dense(8, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 4)))
    mesh = mesh_of()
    found = shard.specs(variables, {"params/kernel": P("data"), "**": P()}, mesh)
    assert found == {"params": {"kernel": P("data"), "bias": P()}}
    placed = jax.device_put(variables, shard.shardings(variables, {"params/kernel": P("data"), "**": P()}, mesh))
    assert isinstance(placed["params"]["kernel"], shard.Partitioned)
    assert spec_of(placed["params"]["kernel"].value) == ("data",)


def test_a_leaf_without_a_rule():
    rules = {"**/kernel": P("data")}
    with pytest.raises(errors.UnmatchedPathsError) as raised:
        shard.specs(params(), rules)
    for path in ("h_0/mlp/bias", "h_1/mlp/bias", "scale"):
        assert path in str(raised.value)
    assert "kernel" not in str(raised.value)
    found = shard.specs(params(), rules, default=P())
    assert found["scale"] == P()
    assert found["h_0"]["mlp"] == {"kernel": P("data"), "bias": P()}


def test_a_rule_without_a_leaf():
    rules = {"**/kernle": P("data"), "h/**": P(), "**": P()}
    with pytest.raises(errors.UnmatchedPatternError) as raised:
        shard.specs(params(), rules)
    assert "'**/kernle'" in str(raised.value)
    assert "'h/**'" in str(raised.value)
    assert "attn/kernel" in str(raised.value)  # the nearest path
    assert shard.specs(params(), rules, unmatched="ignore") == shard.specs(params(), {"**": P()})


def test_a_rule_behind_others():
    rules = {"h_*/**": P(), "**": P(), "**/kernel": P("data", "model"), "h_0/mlp/*": P("model")}
    with pytest.raises(errors.ShadowedRuleError) as raised:
        shard.specs(params(), rules)
    assert "'**/kernel', after 'h_*/**'" in str(raised.value)
    assert "'h_0/mlp/*'" in str(raised.value)
    assert shard.specs(params(), rules, unmatched="ignore")["h_0"]["mlp"]["kernel"] == P()


def test_uneven_parts():
    rules = {"**/kernel": P("model", "data"), "**": P("data")}
    with pytest.raises(errors.IndivisibleAxisError) as raised:
        shard.specs(params(), rules, mesh_of())
    lines = [line for line in str(raised.value).splitlines() if "entries, for" in line]
    assert [line.split()[0] for line in lines] == [
        "h_0/mlp/bias", "h_0/mlp/kernel", "h_1/mlp/bias", "h_1/mlp/kernel", "scale",
    ]  # fmt: skip
    assert "(8, 6)" in lines[1]
    assert "axis 1 has 6 entries, for 4 parts" in lines[1]
    found = shard.specs(params(), rules, mesh_of(), indivisible="replicate")
    assert found["h_0"]["mlp"] == {"kernel": P("model", None), "bias": P(None)}
    assert found["h_0"]["attn"]["kernel"] == P("model", "data")
    assert shard.specs(params(), rules)["scale"] == P("data")  # without a mesh, no one knows


def test_several_mesh_axes_for_one_axis():
    assert shard.specs({"a": jnp.ones(16)}, {"a": P(("data", "model"))}, mesh_of()) == {"a": P(("data", "model"))}
    with pytest.raises(errors.IndivisibleAxisError, match="12 entries, for 8 parts"):
        shard.specs({"a": jnp.ones(12)}, {"a": P(("data", "model"))}, mesh_of())


def test_an_axis_that_the_mesh_does_not_have():
    with pytest.raises(errors.UnknownMeshAxisError) as raised:
        shard.specs(params(), {"**/bias": P("modell"), "scale": P("rows"), "**": P()}, mesh_of())
    assert str(raised.value).count("there is no 'modell'. Did you mean 'model'?") == 2
    assert "scale (3,) P('rows',)" in str(raised.value)


def test_specs_that_do_not_fit():
    with pytest.raises(errors.PartitionSpecError) as raised:
        shard.specs(params(), {"scale": P("data", "model"), "**/kernel": P("data", "data"), "**": P()})
    assert "scale (3,)" in str(raised.value)
    assert "2 entries for 1 axes" in str(raised.value)
    assert str(raised.value).count("a mesh axis is used twice") == 4
    with pytest.raises(errors.PartitionSpecError, match="1 entries for 0 axes"):
        shard.specs({"step": 3}, {"**": P("data")})


@pytest.mark.parametrize("rules", [[("**", P())], {"**": "data"}, {"**": ("data",)}, {"**": None}], ids=str)
def test_rules_that_are_none(rules):
    with pytest.raises(errors.PartitionRulesError):
        shard.specs(params(), rules)


def boxed():
    return {
        "a": shard.Partitioned(jnp.ones((8, 2)), ("data", None)),
        "b": shard.LogicallyPartitioned(jnp.ones((8, 2)), ("batch", "mlp")),
        "c": shard.LogicallyPartitioned(jnp.ones((8, 2)), ("batch", "mlp"), rules=[("batch", None), ("mlp", "model")]),
    }


def test_by_boxes():
    with shard.logical_axis_rules([("batch", "data"), ("mlp", None)]):
        found = shard.specs(boxed(), None, mesh_of())
        assert found == {"a": P("data", None), "b": P("data", None), "c": P(None, "model")}
        placed = jax.device_put(boxed(), shard.shardings(boxed(), None, mesh_of()))
        assert spec_of(placed["c"].value) == (None, "model")
        with pytest.raises(errors.UnboxedLeavesError, match="d/e"):
            shard.specs(boxed() | {"d": {"e": jnp.ones(2)}}, None, mesh_of())
        assert shard.specs(boxed() | {"d": jnp.ones(2)}, None, default=P())["d"] == P()
    with pytest.raises(errors.UnknownLogicalAxisError):
        shard.specs(boxed(), None, mesh_of())


class Model(nn.Module):
    """Two layers and a running count, boxed or plain."""

    wrap: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        init = nn.initializers.uniform(1.0)  # exact arithmetic: the same bits however it is compiled
        if self.wrap:
            init = shard.with_logical_partitioning(init, ("embed", "mlp"))
        for _ in range(2):
            x = nn.Dense(8, kernel_init=init)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return shard.with_logical_constraint(x, ("batch", "mlp"))


X = jnp.arange(32.0).reshape(4, 8)
LOGICAL = (("batch", "data"), ("mlp", "model"), ("embed", "data"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "inputs", [X, np.asarray(X), jax.ShapeDtypeStruct((4, 8), jnp.float32)], ids=["jax", "numpy", "shape"]
)
def test_init(kind, inputs):
    rules = {"params/*/kernel": P("data", "model"), "**": P()}
    with shard.logical_axis_rules(LOGICAL):
        made = shard.init(Model(), mesh_of(kind), rules, jax.random.key(0), inputs, train=False)
    expected = Model().init(jax.random.key(0), X)
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, made, expected)
    assert spec_of(made["params"]["Dense_0"]["kernel"]) == ("data", "model")
    assert spec_of(made["batch_stats"]["BatchNorm_0"]["mean"]) == ()
    assert made["params"]["Dense_1"]["kernel"].addressable_shards[0].data.shape == (2, 4)


def test_init_by_boxes():
    with shard.logical_axis_rules(LOGICAL):
        made = shard.init(Model(wrap=True), mesh_of(), None, jax.random.key(0), X, default=P())
    kernel = made["params"]["Dense_0"]["kernel"]
    assert isinstance(kernel, shard.LogicallyPartitioned)
    assert spec_of(kernel.value) == ("data", "model")


def test_init_says_what_is_wrong():
    start = functools.partial(shard.init, Model(), mesh_of())
    with shard.logical_axis_rules(LOGICAL):
        with pytest.raises(errors.UnmatchedPathsError, match="params/Dense_0/bias"):
            start({"**/kernel": P()}, jax.random.key(0), X)
        with pytest.raises(errors.IndivisibleAxisError, match=r"params/Dense_0/kernel \(7, 8\)"):
            start({"**/kernel": P("data"), "**": P()}, jax.random.key(0), X[:, :7])
    with pytest.raises(errors.UnknownLogicalAxisError):  # the mesh is named, so the constraint in the model must act
        start({"**": P()}, jax.random.key(0), X)
    assert jax.sharding.get_abstract_mesh().empty
