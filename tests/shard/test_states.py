"""Whole states made on a mesh: parameters, optimiser, averages and collections, by rules, presets and cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from batiste import TrainState, errors, nn, shard
from batiste.struct import field
from tests.shard.support import spec_of

P = jax.P
MESHES = ("data=8", "data=2,fsdp=4", "fsdp=-1", "data=2,fsdp=2,tensor=2")


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(64, name="up")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(16, name="down")(nn.Repeat(nn.Dense(64), 2, name="h")(x))


class Averaged(TrainState):
    ema: object = field(default=None, kw_only=True)


def rngs():
    return {"params": jax.random.key(0), "dropout": jax.random.key(1)}


INPUT = jax.ShapeDtypeStruct((8, 32), jnp.float32)


# --- meshes in words


def test_a_mesh_in_words():
    mesh = shard.mesh("data=2, fsdp=4,tensor=1")
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert list(mesh.shape) == ["data", "fsdp", "tensor"]
    assert dict(shard.mesh("data=2,fsdp=-1").shape) == {"data": 2, "fsdp": 4}
    assert dict(shard.mesh({"data": -1}).shape) == {"data": 8}
    assert shard.mesh("data=2").devices.size == 2
    assert shard.mesh("data=-1", devices=jax.devices()[:4]).devices.size == 4
    assert set(shard.mesh("data=2,fsdp=4").axis_types) == {AxisType.Auto}
    assert set(shard.mesh("data=2,fsdp=4", types="explicit").axis_types) == {AxisType.Explicit}
    assert shard.mesh("data=2,fsdp=4", types={"fsdp": "explicit"}).axis_types == (AxisType.Auto, AxisType.Explicit)
    assert shard.mesh_sizes("data=32,tensor=8") == {"data": 32, "tensor": 8}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ("data", "'data' is no name with a size"),
        ("data=two", "no name with a size"),
        ("data=0", "0 is no size"),
        ("data=3,fsdp=-1", "8 devices cannot be shared out evenly"),
        ("data=-1,fsdp=-1", "only one axis"),
        ("data=16", "needs 16 devices"),
        ("data=2,data=2", "twice"),
        ("", "there is no axis"),
        ({"data": True}, "True is no size"),
        (8, "neither a text nor a dict"),
    ],
)
def test_a_mesh_that_cannot_be(sizes, words):
    with pytest.raises(errors.MeshAxesError, match=words):
        shard.mesh(sizes)


def test_types_of_axes_that_cannot_be():
    with pytest.raises(errors.ArgumentError, match="explicit"):
        shard.mesh("data=2", types="manual")
    with pytest.raises(errors.UnknownMeshAxisError, match="Did you mean 'data'"):
        shard.mesh("data=2", types={"dta": "auto"})
    with pytest.raises(errors.MeshAxesError, match="how many devices are left"):
        shard.mesh_sizes("data=-1")


# --- cuts and tables


def test_a_cut_counts_from_the_last_axis():
    cut = shard.Cut(None, "tensor")
    assert cut.spec((4, 8), {}) == P(None, "tensor")
    assert cut.spec((3, 4, 8), {}) == P(None, None, "tensor")
    assert cut.spec((8,), {}) == P("tensor")
    assert cut.spec((), {}) == P()


def test_a_cut_finds_the_longest_axis():
    sizes = {"fsdp": 4, "tensor": 2}
    assert shard.Cut(largest="fsdp").spec((8, 16), sizes) == P(None, "fsdp")
    assert shard.Cut(largest="fsdp").spec((8, 18), sizes) == P("fsdp")
    assert shard.Cut(largest="fsdp").spec((3, 5), sizes) == P()
    assert shard.Cut(None, "tensor", largest="fsdp").spec((8, 16), sizes) == P("fsdp", "tensor")
    assert shard.Cut(largest=("fsdp", "tensor")).spec((8, 4), sizes) == P(("fsdp", "tensor"))
    assert shard.Cut(largest="fsdp", at_least=100).spec((8, 8), sizes) == P()


def test_presets_are_data(tmp_path):
    for name in (*shard.PRESETS, "fsdp+tensor", "fsdp+tensor+sequence+expert", "zero1+tensor"):
        rules = shard.preset(name)
        (tmp_path / "rules.json").write_text(rules.to_json())
        again = shard.Rules.from_json(tmp_path / "rules.json")
        assert again == rules
        assert again.name == name
        assert str(again) == str(rules)
    mine = shard.preset("fsdp").first({"**/up/kernel": P(None, "fsdp")})
    assert next(iter(mine)) == "**/up/kernel"
    assert mine != shard.preset("fsdp")
    assert "**/up/kernel" in str(mine)


def test_tables_that_cannot_be():
    with pytest.raises(errors.ArgumentError, match="Did you mean 'fsdp'"):
        shard.preset("fsdq")
    with pytest.raises(errors.PartitionRulesError):
        shard.Rules({"**": "fsdp"})
    with pytest.raises(errors.PartitionRulesError, match="no table of rules"):
        shard.Rules.from_json("{}")
    with pytest.raises(errors.PartitionRulesError):
        shard.Cut(3)


# --- states


@pytest.fixture(scope="module")
def alone():
    return jax.jit(lambda: TrainState.init(Net(), optax.adam(1e-3), rngs(), INPUT))()


@pytest.mark.parametrize("preset", ["data", "zero1", "fsdp", "fsdp+tensor"])
@pytest.mark.parametrize("sizes", ["data=2,fsdp=2,tensor=2"])
def test_a_state_is_the_same_on_every_mesh(alone, sizes, preset):
    mesh = shard.mesh(sizes)
    state = TrainState.init(Net(), optax.adam(1e-3), rngs(), INPUT, mesh=mesh, rules=shard.preset(preset))
    assert jax.tree.structure(state) == jax.tree.structure(alone)
    for ours, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(alone), strict=True):
        assert ours.dtype == wanted.dtype
        if not jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            assert ours.weak_type == wanted.weak_type
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(wanted))
        assert set(ours.sharding.device_set) == set(mesh.devices.flat)


def test_what_belongs_to_a_parameter_lies_as_the_parameter():
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3), optax.ema(0.9))
    mesh = shard.mesh("data=2,fsdp=4")

    def make(rngs, x):
        state = Averaged.init(Net(), tx, rngs, x)
        return state.replace(ema=state.params)

    state = shard.init(make, mesh, shard.preset("fsdp"), rngs(), INPUT)
    kernel = state.params["up"]["kernel"]
    assert spec_of(kernel) == (None, "fsdp")
    assert spec_of(state.opt_state[1][0].mu["up"]["kernel"]) == (None, "fsdp")
    assert spec_of(state.opt_state[1][0].nu["up"]["kernel"]) == (None, "fsdp")
    assert spec_of(state.opt_state[2].ema["up"]["kernel"]) == (None, "fsdp")
    assert spec_of(state.ema["up"]["kernel"]) == (None, "fsdp")
    assert spec_of(state.collections["batch_stats"]["BatchNorm_0"]["mean"]) == ()
    assert spec_of(state.step) == ()


def test_factors_of_a_moment_lie_as_what_is_left():
    mesh = shard.mesh("data=2,fsdp=4")
    rules = {"**/up/kernel": P("data", "fsdp"), "**": P()}
    tx = optax.adafactor(1e-3, min_dim_size_to_factor=8)
    state = TrainState.init(Net(), tx, rngs(), INPUT, mesh=mesh, rules=rules)
    found = shard.explain(state, rules, mesh)
    factors = {leaf.path.split("/")[-3]: leaf.spec for leaf in found.leaves if leaf.path.endswith("up/kernel")}
    assert factors["v_row"] == P("data")
    assert factors["v_col"] == P("fsdp")


def test_zero1_cuts_the_optimiser_alone():
    mesh = shard.mesh("data=8")
    state = TrainState.init(Net(), optax.adam(1e-3), rngs(), INPUT, mesh=mesh, rules=shard.preset("zero1"))
    assert spec_of(state.params["up"]["kernel"]) == ()
    assert spec_of(state.opt_state[0].mu["up"]["kernel"]) == (None, "data")


def test_zero1_cuts_moments_beside_what_cuts_their_parameters():
    mesh = shard.mesh("data=4,tensor=2")
    shapes = jax.eval_shape(lambda: TrainState.init(Net(), optax.adam(1e-3), rngs(), INPUT))
    found = shard.specs(shapes, shard.preset("zero1+tensor"), mesh)
    own, moment = found.params["up"]["kernel"], found.opt_state[0].mu["up"]["kernel"]
    assert (own, moment) == (P(None, "tensor"), P("data", "tensor"))


def test_rules_for_a_field_come_first():
    shapes = jax.eval_shape(lambda: TrainState.init(Net(), optax.adam(1e-3), rngs(), INPUT))
    mesh = shard.mesh("data=8")
    rules = {"opt_state/**/nu/**/kernel": P("data"), "params/**/kernel": P(None, "data"), "**": P()}
    found = shard.specs(shapes, rules, mesh)
    assert found.opt_state[0].nu["up"]["kernel"] == P("data")
    assert found.opt_state[0].mu["up"]["kernel"] == P(None, "data")


def test_names_in_boxes_hold_for_the_optimiser():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "data"))
    mesh = shard.mesh("data=8")
    model = nn.Dense(64, kernel_init=init, use_bias=False)
    state = TrainState.init(model, optax.adam(1e-3), rngs(), INPUT, mesh=mesh)
    assert spec_of(state.params["kernel"].value) == (None, "data")
    assert spec_of(state.opt_state[0].mu["kernel"].value) == (None, "data")


def test_rules_without_a_mesh():
    with pytest.raises(errors.StateArgumentError, match="no mesh"):
        TrainState.init(Net(), optax.adam(1e-3), rngs(), INPUT, rules=shard.preset("fsdp"))
    with pytest.raises(errors.ArgumentError, match="of devices"):
        shard.init(Net(), shard.mesh("data=8").abstract_mesh, shard.preset("fsdp"), rngs(), INPUT)
    with pytest.raises(errors.ArgumentError, match="a Module"):
        shard.init(3, shard.mesh("data=8"), shard.preset("fsdp"), rngs(), INPUT)


@pytest.mark.parametrize("types", ["auto", {"fsdp": "auto", "data": "explicit"}])
def test_a_state_trains_where_it_lies(types):
    mesh = shard.mesh("data=2,fsdp=4", types=types)
    state = TrainState.init(nn.Dense(64), optax.adam(1e-3), rngs(), INPUT, mesh=mesh, rules=shard.preset("fsdp"))

    @jax.jit
    def step(state, x):
        def loss(params):
            return jnp.square(state.apply_fn({"params": params}, x)).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value, grads

    x = jax.device_put(jnp.ones((8, 32)), jax.NamedSharding(mesh, P(("data", "fsdp"))))
    with jax.set_mesh(mesh):
        after, first, grads = step(state, x)
        _, second, _ = step(after, x)
    assert second < first
    assert spec_of(after.params["kernel"]) == spec_of(state.params["kernel"])
    assert spec_of(grads["kernel"]) == spec_of(state.params["kernel"])


# --- explanations


def test_an_explanation_names_rule_spec_and_bytes():
    shapes = jax.eval_shape(lambda: TrainState.init(Net(), optax.adam(1e-3), rngs(), INPUT))
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "fsdp"))
    found = shard.explain(shapes, shard.preset("fsdp"), mesh)
    kernel = found["params/up/kernel"]
    assert (kernel.why, kernel.spec, kernel.parts) == ("**", P(None, "fsdp"), 4)
    assert kernel.device_bytes == 32 * 64 * 4 // 4
    assert found["opt_state/0/mu/up/kernel"].why == "as params/up/kernel"
    assert found["opt_state/0/count"].why == "**"
    text = str(found)
    assert "params/up/kernel" in text
    assert f"{found.device_bytes:,}" in text


@pytest.mark.parametrize("sizes", MESHES)
def test_explained_bytes_are_those_of_the_arrays(sizes):
    mesh = shard.mesh(sizes)
    rules = shard.preset("fsdp+tensor")
    state = TrainState.init(Net(), optax.adam(1e-3), rngs(), INPUT, mesh=mesh, rules=rules)
    arrays = [leaf for leaf in jax.tree.leaves(state) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    real = sum(leaf.addressable_shards[0].data.nbytes for leaf in arrays)
    explained = shard.explain(state, rules, mesh)
    assert sum(leaf.device_bytes for leaf in explained.leaves if "key<" not in leaf.dtype) == real


def test_no_device_holds_more_than_its_part_and_one_shard():
    """What a program allocates at once: its results and its temporary values, and for the second its arguments."""
    made = []
    whole_jit = jax.jit

    def noting(function, **options):
        compiled = whole_jit(function, **options)

        def call(*args):
            made.append(compiled.lower(*args).compile().memory_analysis())
            return compiled(*args)

        return call if "out_shardings" in options else compiled

    class Wide(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(256, name="down")(nn.Dense(1024, name="up")(nn.Repeat(nn.Dense(256), 4, name="h")(x)))

    mesh, x = shard.mesh("fsdp=8"), jax.ShapeDtypeStruct((8, 256), jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", noting)
        state = TrainState.init(Wide(), optax.adam(1e-3), rngs(), x, mesh=mesh, rules=shard.preset("fsdp"))
    assert len(made) == 2
    arrays = [leaf for leaf in jax.tree.leaves(state) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    held = [leaf.addressable_shards[0].data.nbytes for leaf in arrays]
    peaks = [
        used.argument_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes + used.temp_size_in_bytes
        for used in made
    ]
    assert max(peaks) <= sum(held) + max(held)
