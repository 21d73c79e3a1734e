"""Boxes with names: their methods, in layers, through lifted transforms; held to Flax."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from flax.core import meta
from flax.linen import spmd
from jax.sharding import NamedSharding, PartitionSpec

from batiste import core, errors, nn, shard, tree
from tests.shard.support import described, mesh_of

P = PartitionSpec
NAME = shard.PARTITION_NAME
RULES = (("batch", "data"), ("mlp", "model"))


def same_box(ours, theirs):
    assert type(ours).__name__ == type(theirs).__name__
    assert (ours.names, ours.mesh, ours.value) == (theirs.names, theirs.mesh, theirs.value)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("name", ["layers", None])
def test_added_and_removed_axes(index, name):
    params = {NAME: name}
    for kind in ("Partitioned", "LogicallyPartitioned"):
        ours, theirs = getattr(shard, kind)(1, ("a", None)), getattr(linen, kind)(1, ("a", None))
        same_box(ours.add_axis(index, params), theirs.add_axis(index, params))
        if index < 3:
            assert ours.add_axis(index, params).remove_axis(index, params) == ours


@pytest.mark.parametrize("index", [-1, -2, -3])
def test_axes_from_the_end(index):
    """An axis counted from the end is that of the array with it; Flax puts the name one too far in front."""
    box = shard.Partitioned(jnp.ones((2, 3)), ("a", "b"))
    stacked = box.add_axis(index, {NAME: "layers"})
    assert stacked.names.index("layers") == 3 + index
    assert stacked.remove_axis(index, {NAME: "layers"}).names == box.names


def test_an_axis_without_a_name():
    box = shard.Partitioned(1, ("a",))
    for change in (box.add_axis, box.remove_axis):
        with pytest.raises(errors.PartitioningUnspecifiedError):
            change(0, {})
    with pytest.raises(errors.PartitionNameMismatchError, match="'layers'"):
        box.remove_axis(0, {NAME: "layers"})
    with pytest.raises(errors.PartitionNameMismatchError):
        box.remove_axis(1, {NAME: "a"})


def test_what_a_box_says():
    mesh = mesh_of()
    for kind in ("Partitioned", "LogicallyPartitioned"):
        ours = getattr(shard, kind)(jnp.ones((8, 2)), ("data", None))
        theirs = getattr(linen, kind)(jnp.ones((8, 2)), ("data", None))
        assert ours.get_partition_spec() == theirs.get_partition_spec() == P("data", None)
        assert ours.get_sharding(mesh) == theirs.get_sharding(mesh)
        assert ours.unbox() is ours.unbox(apply_constraint=False) is ours.value
        same_box(ours.replace_boxed(3), theirs.replace_boxed(3))
    assert shard.PARTITION_NAME == linen.PARTITION_NAME


def test_boxes_are_values():
    box = shard.LogicallyPartitioned(1, ["a", None], rules=[["a", ["x", "y"]]])
    same = shard.LogicallyPartitioned(1, ("a", None), None, (("a", ("x", "y")),))
    assert box == same
    assert hash(box) == hash(same)
    assert jax.tree.structure(box) == jax.tree.structure(same)
    assert jax.tree.structure(box) != jax.tree.structure(shard.Partitioned(1, ("a", None)))
    assert pickle.loads(pickle.dumps(box)) == box  # noqa: S301 - its own bytes
    assert box.replace(names=("b",)).names == ("b",)
    with pytest.raises(errors.AxisNamesError):
        shard.Partitioned(1, "ab")


def test_paths_are_flaxs():
    paths = jax.tree_util.tree_flatten_with_path({"kernel": shard.Partitioned(1, ("a",))})[0]
    assert paths == jax.tree_util.tree_flatten_with_path({"kernel": linen.Partitioned(1, ("a",))})[0]


def test_partition_specs():
    def of(library):
        return {
            "box": library.Partitioned(jnp.ones((8, 2)), ("data", None)),
            "several": library.Partitioned(jnp.ones((8, 2)), (("data", "model"), None)),
            "logical": library.LogicallyPartitioned(jnp.ones(2), ("model",), rules=RULES),
            "shape": library.Partitioned(jax.ShapeDtypeStruct((8,), jnp.float32), ("data",)),
            "array": jnp.ones(2),
            "numpy": np.ones(2),
            "key": jax.random.key(0),
            "number": 3,
            "text": "text",
            "none": None,
        }

    assert shard.get_partition_spec(of(shard)) == linen.get_partition_spec(of(linen))
    mesh = mesh_of()
    assert shard.get_sharding(of(shard), mesh) == linen.get_sharding(of(linen), mesh)


def test_shardings_that_cannot_be():
    mesh = mesh_of()
    boxes = {
        "a": shard.Partitioned(jnp.ones((6, 2)), ("data", "model")),
        "b": shard.Partitioned(jnp.ones(3), ("model",)),
    }
    with pytest.raises(errors.IndivisibleAxisError) as raised:
        shard.get_sharding(boxes, mesh)
    assert "a (6, 2)" in str(raised.value)
    assert "b (3,)" in str(raised.value)
    with pytest.raises(errors.IndivisibleAxisError):
        boxes["a"].get_sharding(mesh)
    with pytest.raises(errors.UnknownMeshAxisError, match="Did you mean 'model'"):
        shard.get_sharding({"a": shard.Partitioned(jnp.ones(2), ("modle",))}, mesh)
    with pytest.raises(errors.PartitionSpecError, match="2 entries for 1 axes"):
        shard.get_sharding({"a": shard.Partitioned(jnp.ones(2), ("data", "model"))}, mesh)
    with pytest.raises(errors.UnknownMeshAxisError, match="a/b"):
        shard.logical_to_mesh_sharding({"a": {"b": P("batch")}}, mesh, (("batch", "rows"),))


def model_of(library, names=shard):
    """Every kind of layer with a kernel, boxed, of either library."""
    wrap = names.with_partitioning
    normal = library.initializers.lecun_normal()

    class Model(library.Module):
        @library.compact
        def __call__(self, x):
            x = library.Dense(4, kernel_init=wrap(normal, ("in", "out")))(x)
            x = library.DenseGeneral((2, 3), kernel_init=wrap(normal, ("in", "heads", "dim")))(x)
            x = library.LayerNorm(scale_init=wrap(library.initializers.ones, ("dim",)))(x)
            x = library.Conv(3, (3,), kernel_init=wrap(normal, (None, "in", "out")))(x)
            return library.Embed(5, 3, embedding_init=wrap(normal, ("vocab", "dim"))).attend(x)

    return Model()


def scanned_of(library, names, axis, *, transform, logical=False, remat=False):
    """A block under `scan` or `vmap` whose parameters are boxed and stacked along `axis`."""
    wrap = names.with_logical_partitioning if logical else names.with_partitioning
    init = library.initializers.lecun_normal()

    class Block(library.Module):
        @library.compact
        def __call__(self, x, _):
            bias = wrap(library.initializers.zeros, ("out",))
            x = library.Dense(4, kernel_init=wrap(init, ("in", "out")), bias_init=bias)(x)
            return library.Dense(4, kernel_init=init)(x), None

    class Model(library.Module):
        @library.compact
        def __call__(self, x):
            block = library.remat(Block) if remat else Block
            options = {"variable_axes": {"params": axis}, "split_rngs": {"params": True}}
            options["metadata_params"] = {NAME: "layers"}
            if transform == "scan":
                return library.scan(block, length=3, **options)()(x, None)[0]
            return library.vmap(block, in_axes=(0, None), axis_size=3, **options)()(x, None)[0]

    return Model()


def compare(ours, theirs, x):
    """Hold tree, names, values and outputs of ours to Flax's."""
    key = jax.random.key(0)
    mine, reference = ours.init(key, x), jax.jit(theirs.init)(key, x)
    assert described(mine) == described(reference)
    assert shard.get_partition_spec(mine) == linen.get_partition_spec(reference)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    output = ours.apply(mine, x)
    np.testing.assert_allclose(output, theirs.apply(reference, x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(output, ours.apply(core.unbox(mine), x))  # a box changes nothing
    return mine


def test_layers():
    compare(model_of(nn), model_of(linen, linen), jnp.ones((2, 5, 4)))


@pytest.mark.parametrize("transform", ["scan", "vmap"])
@pytest.mark.parametrize("axis", [0, 1])
def test_stacked(transform, axis):
    x = jnp.ones((2, 4)) if transform == "scan" else jnp.ones((3, 2, 4))
    pair = [scanned_of(library, names, axis, transform=transform) for library, names in ((nn, shard), (linen, linen))]
    made = compare(*pair, x)
    kernel = next(leaf for path, leaf in described(made).items() if path.endswith("['Dense_0']['kernel']"))
    assert kernel[1].index("layers") == axis
    assert kernel[2][axis] == 3


def test_stacked_logical_under_remat():
    options = {"transform": "scan", "logical": True, "remat": True}
    compare(scanned_of(nn, shard, 0, **options), scanned_of(linen, linen, 0, **options), jnp.ones((2, 4)))


@pytest.mark.parametrize("transform", ["scan", "vmap"])
def test_stacked_at_the_end(transform):
    """Flax's own `apply` fails here, because its boxes count from another end."""
    model = scanned_of(nn, shard, -1, transform=transform)
    x = jnp.ones((2, 4)) if transform == "scan" else jnp.ones((3, 2, 4))
    variables = model.init(jax.random.key(0), x)
    found = {path.split("Block_0']")[1]: words for path, words in described(variables).items()}
    assert found["['Dense_0']['kernel']"] == ("Partitioned", ("in", "out", "layers"), (4, 4, 3))
    assert found["['Dense_0']['bias']"] == ("Partitioned", ("out", "layers"), (4, 3))
    assert model.apply(variables, x).shape == x.shape


def test_a_transform_must_name_its_axis():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            init = shard.with_partitioning(nn.initializers.ones, ("in", "out"))
            return nn.Dense(4, kernel_init=init)(x), None

    scanned = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
    with pytest.raises(errors.PartitioningUnspecifiedError, match="metadata_params"):
        scanned().init(jax.random.key(0), jnp.ones((2, 4)), None)


@pytest.mark.parametrize("under", ["apply", "jit", "grad", "eval_shape"])
def test_reading_puts_no_constraint(under):
    """Flax's boxes constrain what is read wherever there is a mesh; ours say names."""
    model = nn.Dense(4, kernel_init=shard.with_partitioning(nn.initializers.ones, ("data", "model"), mesh_of()))
    variables = model.init(jax.random.key(0), jnp.ones((2, 4)))
    assert isinstance(variables["params"]["kernel"], shard.Partitioned)

    def loss(variables, x):
        return model.apply(variables, x).sum()

    with jax.set_mesh(mesh_of()):
        assert "sharding_constraint" not in str(jax.make_jaxpr(loss)(variables, jnp.ones((2, 4))))
        function = {"apply": loss, "jit": jax.jit(loss), "grad": jax.grad(loss)}.get(under)
        result = (
            function(variables, jnp.ones((2, 4))) if function else jax.eval_shape(loss, variables, jnp.ones((2, 4)))
        )
    assert jax.tree.structure(result) == jax.tree.structure(variables if under == "grad" else 0)


def test_names_of_axes_that_no_mesh_has():
    """The names in a box may be anything until a mesh is asked for."""
    model = nn.Dense(3, kernel_init=shard.with_partitioning(nn.initializers.ones, ("rows", "columns")))
    with jax.set_mesh(mesh_of()):
        variables = model.init(jax.random.key(0), jnp.ones((2, 4)))
        assert model.apply(variables, jnp.ones((2, 4))).shape == (2, 3)


def test_initialisers_are_values():
    def of(names=("a", "b"), init=0.02):
        return shard.with_logical_partitioning(nn.initializers.normal(init), names, rules=[["a", "data"]])

    assert of() == of(["a", "b"])
    assert hash(of()) == hash(of())
    assert of() != of(("b", "a"))
    assert of() != of(init=0.03)
    assert core.fingerprint(of()) == core.fingerprint(of())
    assert core.fingerprint(of()).is_by_value
    on_mesh = [shard.with_partitioning(nn.initializers.ones, ("a",), mesh_of()) for _ in range(2)]
    assert core.fingerprint(on_mesh[0]) == core.fingerprint(on_mesh[1])
    assert nn.Dense(3, kernel_init=of()) == nn.Dense(3, kernel_init=of())
    assert pickle.loads(pickle.dumps(of())) == of()  # noqa: S301 - its own bytes
    assert of().honours_shape
    assert not shard.with_partitioning(lambda key, shape, dtype: jnp.zeros(shape, dtype), ("a",)).honours_shape


def loud(key, shape, dtype=jnp.float32):
    print("traced")  # noqa: T201 - it is counted
    return jax.random.normal(key, shape, dtype)


def test_one_program_for_equal_initialisers(capsys):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(6):
                x = nn.Dense(4, kernel_init=shard.with_partitioning(loud, ("a", "b")))(x)
            return x

    def times_traced():
        return capsys.readouterr().out.count("traced")

    model, x = Model(), jnp.ones((1, 4))
    variables = model.init(jax.random.key(0), x)
    assert times_traced() == 1  # what was learned is also what is compiled
    model.apply(variables, x)
    assert times_traced() == 1  # for its shape
    model.apply(variables, x)
    assert times_traced() == 0


def test_a_wrong_shape_is_seen_in_a_box():
    init = shard.with_partitioning(nn.initializers.ones, ("a", "b"))
    variables = {"params": {"kernel": shard.Partitioned(jnp.ones((4, 2)), ("a", "b")), "bias": jnp.ones(3)}}
    with pytest.raises(errors.ScopeParamShapeError, match=r"\(4, 2\)"):
        nn.Dense(3, kernel_init=init).apply(variables, jnp.ones((1, 4)))


def test_gradients_and_optimisers_see_through():
    model = nn.Dense(3, kernel_init=shard.with_partitioning(nn.initializers.ones, ("rows", None)))
    x = jnp.ones((2, 4))
    params = model.init(jax.random.key(0), x)["params"]
    gradients = jax.grad(lambda params: (model.apply({"params": params}, x) ** 2).mean())(params)
    assert described(gradients) == described(params)
    state = optax.adam(1e-3).init(params)
    assert described(state[0].mu) == described(params)
    updates, _ = optax.adam(1e-3).update(gradients, state, params)
    assert described(optax.apply_updates(params, updates)) == described(params)
    assert tree.paths(params) == ["bias", "kernel/value"]


def test_put_back():
    boxed = {"a": shard.Partitioned(1, ("x",)), "b": 2}
    values = core.unbox(boxed)
    assert values == {"a": 1, "b": 2}
    assert core.replace_boxed(boxed, values) == boxed
    theirs = meta.replace_boxed({"a": linen.Partitioned(1, ("x",)), "b": 2}, {"a": 5, "b": 7})
    assert described(jax.tree.map(jnp.asarray, core.replace_boxed(boxed, {"a": 5, "b": 7}))) == described(
        jax.tree.map(jnp.asarray, theirs)
    )


def test_flax_way_of_sharded_init():
    """The idiom of Flax's guide: specs from shapes, then a jitted init with shardings."""
    mesh = mesh_of()
    init = shard.with_logical_partitioning(nn.initializers.lecun_normal(), ("batch", "mlp"))
    model, x = nn.Dense(6, kernel_init=init), jnp.ones((2, 8))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    placed = shard.logical_to_mesh_sharding(shard.get_partition_spec(shapes), mesh, RULES)
    assert placed["params"]["kernel"] == NamedSharding(mesh, P("data", "model"))
    variables = jax.jit(model.init, out_shardings=placed)(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]
    assert isinstance(kernel, shard.LogicallyPartitioned)
    assert kernel.value.sharding.is_equivalent_to(placed["params"]["kernel"], 2)
    assert placed == spmd.logical_to_mesh_sharding(shard.get_partition_spec(shapes), mesh, RULES)
