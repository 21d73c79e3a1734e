"""A small GPT on eight devices, by each method: the losses of one device, and only the collectives that it needs."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, errors, nn, shard, tree
from batiste.plan._hlo import collectives_of

pytestmark = pytest.mark.usefixtures("users_rules")
STEPS = 3
NAMES = (("batch", None), ("sequence", None), ("embed", None))
TOKENS = np.random.default_rng(0).integers(0, 64, (16, 16)).astype(np.int32)


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(32, use_bias=False, name="down")(nn.gelu(nn.Dense(64, use_bias=False, name="up")(x)))


class GPT(nn.Module):
    experts: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.with_logical_constraint(nn.Embed(64, 32, name="embed")(tokens), ("batch", None, "embed"))
        attention = nn.GroupedQueryAttention(num_heads=8, num_kv_heads=8, head_dim=4, name="attention")
        x = x + attention(nn.RMSNorm(name="attention_norm")(x))
        mlp = nn.MoE(4, 32, capacity_factor=4.0, name="moe") if self.experts else MLP(name="mlp")
        x = x + mlp(nn.RMSNorm(name="mlp_norm")(x))
        x = nn.with_logical_constraint(x, ("batch", "sequence", "embed"))
        return nn.Dense(64, use_bias=False, name="head")(x)


class Block(nn.Module):
    writes: bool = False

    @nn.compact
    def __call__(self, x, angle=0.0):
        attention = nn.GroupedQueryAttention(num_heads=8, num_kv_heads=8, head_dim=4, name="attention")
        x = x + attention(nn.RMSNorm(name="attention_norm")(x) + angle)
        x = nn.with_logical_constraint(x, ("batch", "sequence", "embed"))
        if self.writes:
            self.sow("seen", "mean", x.mean())
        return x + MLP(name="mlp")(nn.RMSNorm(name="mlp_norm")(x))


class Deep(nn.Module):
    """A GPT of four layers; ``stages`` is how they are run."""

    stages: shard.Pipeline | str = "scan"
    remat: bool = False
    block: Block = Block()

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(64, 32, name="embed")(tokens)
        angle = self.param("angle", nn.initializers.normal(), (16, 32))  # which every layer gets whole
        x = nn.Repeat(self.block, 4, run=self.stages, remat=self.remat, name="h")(x, angle)
        return nn.Dense(64, use_bias=False, name="head")(x)


def step(state, tokens):
    def loss(params):
        logits = state.apply_fn({"params": params}, tokens)[:, :-1]
        hit = jax.nn.one_hot(tokens[:, 1:], 64)  # whichever way the scores are cut
        return -(jax.nn.log_softmax(logits) * hit).sum(-1).mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads), value


def trained(model, mesh="data=1", rules="data"):
    """Return the losses, and what is sent in a step, by kind and axes."""
    tx = optax.sgd(0.5, momentum=0.9)
    shape = jax.ShapeDtypeStruct(TOKENS.shape, jnp.int32)
    table, where = shard.preset(rules), shard.mesh(mesh)
    axes = tuple(axis for axis in table.batch[0] if axis in where.shape)
    tokens = jax.device_put(TOKENS, jax.NamedSharding(where, jax.P(axes or None)))
    with shard.logical_axis_rules(kept(table, where)):
        state = TrainState.init(model, tx, jax.random.key(0), shape, mesh=where, rules=table)
        out = jax.tree.map(lambda leaf: leaf.sharding, state), None
        with jax.set_mesh(where):
            made = jax.jit(step, out_shardings=out).lower(state, tokens).compile()
    sent = collectives_of(made.as_text(), dict(where.shape), [])
    losses = []
    for _ in range(STEPS):
        state, loss = made(state, tokens)
        losses.append(float(loss))
    return losses, {(each.kind, each.axes): each for each in sent}


def kept(table, mesh):
    """Return the names of activations with the axes that the mesh has."""
    return [
        (name, tuple(axis for axis in ((axes,) if isinstance(axes, str) else axes or ()) if axis in mesh.shape) or None)
        for name, axes in table.activations
    ]


def piped(mesh, stages, *, remat=False):
    """Return the losses of a GPT in stages, its parameters after them, and what is sent in a step, by kind and axes."""
    where = shard.mesh(mesh)
    batch = tuple(axis for axis in ("stage", "data") if axis in where.shape)
    tokens = jax.device_put(TOKENS, jax.NamedSharding(where, jax.P(batch or None)))
    params = tree.stack_layers(Deep().init(jax.random.key(0), TOKENS)["params"], "h")
    rules = {"**": jax.P()}
    if "stage" in where.shape:
        cut = "tensor" if "tensor" in where.shape else None
        columns, rows = jax.P("stage", None, cut), jax.P("stage", cut)
        rules = {"h/mlp/up/kernel": columns, "h/mlp/down/kernel": rows, "h/**": jax.P("stage"), **rules}
    places = shard.shardings(params, rules, where)
    params = jax.device_put(params, places)
    tx = optax.sgd(0.5)
    state = TrainState.create(apply_fn=Deep(stages, remat).apply, params=params, tx=tx)
    state = state.replace(step=jax.device_put(jnp.int32(0), jax.NamedSharding(where, jax.P())))
    out = jax.tree.map(lambda leaf: leaf.sharding, state), None
    with shard.logical_axis_rules([("batch", batch), *NAMES]), jax.set_mesh(where):
        made = jax.jit(step, out_shardings=out).lower(state, tokens).compile()
    losses = []
    for _ in range(STEPS):
        state, loss = made(state, tokens)
        losses.append(float(loss))
    sent = collectives_of(made.as_text(), dict(where.shape), [])
    return losses, jax.device_get(state.params), {(each.kind, each.axes): each for each in sent}


@pytest.fixture(scope="module")
def alone():
    with jax.numpy_rank_promotion("allow"):
        return {experts: trained(GPT(experts))[0] for experts in (False, True)}


@pytest.mark.parametrize(
    ("rules", "mesh", "experts", "needed"),
    [
        ("data", "data=8", False, {"all-reduce": {"data"}}),
        ("zero1", "data=8", False, {"all-reduce": {"data"}, "reduce-scatter": {"data"}, "all-gather": {"data"}}),
        ("fsdp", "fsdp=8", False, {"all-reduce": {"fsdp"}, "reduce-scatter": {"fsdp"}, "all-gather": {"fsdp"}}),
        ("tensor", "tensor=8", False, {"all-reduce": {"tensor"}}),
        ("tensor", "data=2,tensor=4", False, {"all-reduce": {"data", "tensor"}}),
        (
            "fsdp+tensor",
            "fsdp=2,tensor=4",
            False,
            {"all-reduce": {"fsdp", "tensor"}, "reduce-scatter": {"fsdp"}, "all-gather": {"fsdp"}},
        ),
        ("expert", "expert=4", True, {"all-reduce": {"expert"}, "all-gather": {"expert"}, "all-to-all": {"expert"}}),
    ],
)
def test_a_method_trains_as_one_device_does(alone, rules, mesh, experts, needed):
    losses, sent = trained(GPT(experts), mesh, rules)
    assert losses == pytest.approx(alone[experts], rel=1e-5)
    assert losses[-1] < losses[0]
    whole = sum(each.bytes for each in sent.values())
    more = {key: each for key, each in sent.items() if not set(key[1]) <= needed.get(key[0], set())}
    # XLA moves the table of vectors, which both methods cut, for its lookup: one part in twenty of a GPT this small.
    assert sum(each.bytes for each in more.values()) <= (0.05 if "+" in rules else 0.01) * whole, more


@pytest.fixture(scope="module")
def unpiped():
    with jax.numpy_rank_promotion("allow"):
        return piped("data=1", "scan")[:2]


@pytest.mark.parametrize("mesh", ["stage=4,data=2", "data=2,stage=2,tensor=2"])
def test_stages_train_as_one_device_does(unpiped, mesh):
    losses, params, sent = piped(mesh, shard.Pipeline(4), remat=mesh == "stage=4,data=2")
    assert losses == pytest.approx(unpiped[0], rel=1e-5)
    assert losses[-1] < losses[0]
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(unpiped[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    ticks = 4 + shard.mesh_sizes(mesh)["stage"] - 1
    assert sent.pop(("permute", ("stage",))).count == 2 * 2 * ticks  # forwards and backwards: to the next, and a part
    sums = {axes: each.count for (kind, axes), each in sent.items() if kind == "all-reduce" and "tensor" not in axes}
    assert len(sums) == len([key for key in sent if "tensor" not in key[1]]), sent  # no other kinds
    assert sums[("data",)] == 1
    assert max(sums.values()) <= 2


@pytest.mark.parametrize("is_stacked", [True, False])
def test_layers_in_stages_are_kept_in_either_way(is_stacked):
    def loss(params, x, run):
        return nn.Repeat(MLP(), 4, run=run, name="h").apply({"params": params}, x).var()

    x = jax.random.normal(jax.random.key(1), (8, 32))
    params = nn.Repeat(MLP(), 4, name="h").init(jax.random.key(0), x)["params"]
    params = tree.stack_layers(params, "h") if is_stacked else params
    theirs = jax.jit(jax.grad(lambda params, x: loss(params, x, "scan")))(params, x)
    with jax.set_mesh(shard.mesh("stage=2")):
        ours = jax.jit(jax.grad(lambda params, x: loss(params, x, shard.Pipeline(4))))(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), jax.device_get(ours), theirs)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(x + nn.Dense(4)(x))


@pytest.mark.parametrize(
    ("key", "count", "mesh", "is_eager"),
    [
        (jax.random.key(7), 1, None, False),  # one part: as without a pipeline
        (jax.random.key(7), 1, "stage=1", False),
        (jax.random.key(7), 4, None, False),
        (jax.random.key(7), 4, None, True),
        (jax.random.key(7), 4, "stage=4", False),
        (jax.random.PRNGKey(7), 4, "stage=2,tensor=2", False),
        (jax.random.key(7), 2, "stage=2,data=2", False),
    ],
)
def test_layers_in_stages_draw_as_each_part_on_its_own(key, count, mesh, is_eager):
    x = jax.random.normal(jax.random.key(1), (8, 4))
    params = nn.Repeat(Dropped(), 4, name="h").init({"params": jax.random.key(0), "dropout": key}, x)

    def one(params, x, key, run="scan"):
        return nn.Repeat(Dropped(), 4, run=run, remat=count == 2, name="h").apply(params, x, rngs={"dropout": key})

    def by_part(params, x):
        parts = count * (2 if mesh and "data" in mesh else 1)
        keys = [key] if parts == 1 else [jax.random.fold_in(key, part) for part in range(parts)]
        return jnp.concatenate([one(params, part, own) for part, own in zip(jnp.split(x, parts), keys, strict=True)])

    def with_gradients(run):
        return jax.value_and_grad(lambda params, x: (jnp.square(run(params, x)).sum(), run(params, x)), has_aux=True)

    def ours(params, x):
        return one(params, x, key, shard.Pipeline(count))

    if is_eager:
        found, wanted = ours(params, x), jax.jit(by_part)(params, x)
    else:
        wanted = jax.jit(with_gradients(by_part))(params, x)
        with jax.set_mesh(shard.mesh(mesh)) if mesh else contextlib.nullcontext():
            found = jax.device_get(jax.jit(with_gradients(ours))(params, x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


def test_what_stages_cannot_do_is_an_error():
    def run(mesh, pipeline, block, **options):
        model = Deep(pipeline, block=block)
        shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
        with jax.set_mesh(shard.mesh(mesh)), shard.logical_axis_rules(NAMES):
            jax.eval_shape(lambda params: model.apply(params, TOKENS, **options), shapes)

    for problem, mesh, count, options in (
        ("none is 'stage'", "data=8", 4, {}),
        ("3 microbatches are no multiple of 2 stages", "stage=2", 3, {}),
        ("4 layers are not the same number for each of 8 stages", "stage=8", 8, {}),
        ("cannot be cut into 16 microbatches, 32 parts in all", "stage=4,data=2", 16, {}),
        ("h_0 writes seen/mean", "stage=2", 2, {"block": Block(writes=True), "mutable": ["seen"]}),
    ):
        with pytest.raises(errors.PipelineError, match=problem):
            run(mesh, shard.Pipeline(count), **{"block": Block(), **options})


def test_without_a_mesh_stages_are_a_scan():
    model = Deep(shard.Pipeline(4))
    params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    ours, theirs = (str(jax.make_jaxpr(each.apply)(params, TOKENS)) for each in (model, Deep()))
    assert ours == theirs
    assert "scan" in ours
