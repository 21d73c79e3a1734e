"""``make_step``: the bits of a step by hand, accumulation, precision, averages, optimisers that ask for more."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, checkpoint, nn, train
from batiste.errors import (
    ArgumentError,
    LossError,
    LossTransformError,
    MicroBatchError,
    NoAverageError,
    PolicyError,
)
from batiste.train import metrics
from tests.nn.oracle import drawn


class Net(nn.Module):
    normalise: bool = True

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(8)(x)
        if self.normalise:
            x = nn.BatchNorm(use_running_average=not train)(x)
            x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(3)(nn.relu(x))


X = drawn(3, 12, 4)
BATCH = {"x": X, "y": jnp.asarray(np.arange(12) % 3), "scale": 1.0}


def loss_fn(model, batch):
    logits = model(batch["x"] * batch["scale"], train=model.train)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses, {"accuracy": logits.argmax(-1) == batch["y"]}


def new(tx=None, *, normalise=True):
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return TrainState.init(Net(normalise), tx or optax.adam(1e-2), rngs, X[:1], train=False)


def equal(one, other):
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), data(one), data(other))
    return jax.tree.structure(one) == jax.tree.structure(other) and all(jax.tree.leaves(same))


def data(tree):
    return jax.tree.map(
        lambda leaf: (
            jax.random.key_data(leaf) if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key) else leaf
        ),
        tree,
    )


def close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}), one, other)


def by_hand(state, batch):
    def objective(params):
        logits, changed = state.apply_fn(
            state.variables(params), batch["x"], train=True, rngs=state.step_rngs(), mutable=list(state.collections)
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), changed

    (loss, changed), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, collections=changed), loss


def test_a_step_has_the_bits_of_one_by_hand():
    step, hand = jax.jit(train.make_step(loss_fn)), jax.jit(by_hand)
    state, other = new(), new()
    for _ in range(3):
        state, found = step(state, BATCH)
        other, loss = hand(other, BATCH)
        assert found["loss"] == loss
    assert equal(state, other)
    assert 0 <= found["accuracy"] <= 1


def test_accumulation_is_one_large_batch():
    count = 4
    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2))
    whole, parts = (jax.jit(train.make_step(loss_fn, accumulate=k)) for k in (1, count))
    state, found = whole(new(tx, normalise=False), BATCH)
    other, others = parts(new(tx, normalise=False), BATCH)
    close(found, others)
    close(state.params, other.params, atol=1e-4)  # Adam's first step is the sign of a gradient, which may be near 0
    close(state.opt_state, other.opt_state)


def test_parts_count_as_their_losses_do():
    counted = jnp.asarray([1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0])

    def masked(model, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(batch["x"], train=False), batch["y"])
        return metrics.Mean.of(losses, where=batch["counted"])

    batch = {**BATCH, "counted": counted}
    results = [
        jax.jit(train.make_step(masked, accumulate=k))(new(optax.sgd(1.0), normalise=False), batch) for k in (1, 4)
    ]
    for state, found in results[1:]:
        close(found, results[0][1])
        close(state.params, results[0][0].params)


def test_a_part_in_which_nothing_counts_changes_nothing():
    def masked(model, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(batch["x"], train=False), batch["y"])
        return metrics.Mean.of(losses, where=batch["counted"])

    state = new(optax.sgd(1.0), normalise=False)
    after, found = jax.jit(train.make_step(masked))(state, {**BATCH, "counted": jnp.zeros(12, bool)})
    assert equal(after.params, state.params)
    assert found["loss"] == 0


def test_collections_and_streams_go_through_the_parts():
    seen = []

    def watched(model, batch):
        seen.append(sorted(model.rngs))
        return loss_fn(model, batch)

    state = new()
    after, _ = jax.jit(train.make_step(watched, accumulate=4))(state, BATCH)
    assert seen[0] == ["dropout", "params"]
    mean = state.collections["batch_stats"]["BatchNorm_0"]["mean"]
    by_parts = mean
    for part in range(4):
        x = X[part::4] @ state.params["Dense_0"]["kernel"] + state.params["Dense_0"]["bias"][None]
        by_parts = 0.99 * by_parts + 0.01 * x.mean(0)
    np.testing.assert_allclose(after.collections["batch_stats"]["BatchNorm_0"]["mean"], by_parts, rtol=1e-5)


def test_two_calls_of_a_step_draw_two_masks():
    def twice(model, batch):
        one, other = (model(batch["x"], train=True, mutable=False) for _ in range(2))
        return jnp.mean((one - other) ** 2)

    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dropout(0.5, deterministic=not train)(nn.Dense(8)(x))

    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    state = TrainState.init(Dropped(), optax.sgd(0.1), rngs, X[:1], train=False)
    assert jax.jit(train.make_step(twice))(state, BATCH)[1]["loss"] > 0


def test_sown_losses_are_found_and_not_kept():
    class Sower(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(2)(x)
            self.sow("losses", "size", jnp.mean(x**2))
            return x

    def with_sown(model, batch):
        value = jnp.mean(model(batch["x"]) ** 2)
        return value + 0.1 * sum(jax.tree.leaves(model.collections["losses"]))

    variables = Sower().init(jax.random.key(0), X)
    state = TrainState.create(apply_fn=Sower().apply, params=variables["params"], tx=optax.sgd(0.1))
    after, found = jax.jit(train.make_step(with_sown, mutable=["losses"]))(state, BATCH)
    plain = jnp.mean(Sower().apply({"params": variables["params"]}, X) ** 2)
    np.testing.assert_allclose(found["loss"], 1.1 * plain, rtol=1e-6)
    assert after.collections == {}


def test_an_average_is_that_of_optax():
    step = train.make_step(loss_fn, average=0.9)
    state = step.prepare(new())
    expected = state.params
    for _ in range(4):
        state, _ = jax.jit(step)(state, BATCH)
        expected = optax.incremental_update(state.params, expected, 0.1)
    close(state.averaged_params(), expected)
    with pytest.raises(NoAverageError):
        new().averaged_params()


def test_precision_is_that_of_the_policy():
    seen = {}

    def watched(model, batch):
        logits = model(batch["x"], train=model.train)
        seen.update(out=logits.dtype, held=model.params["Dense_0"]["kernel"].dtype)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])

    class Peek(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            seen.update(x=x.dtype)
            y = nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x))
            seen.update(y=y.dtype)
            return y

    state = TrainState.init(Peek(), optax.adam(1e-2), jax.random.key(0), X[:1], train=False)
    step = train.make_step(watched, policy="params=float32,compute=bfloat16")
    after, _ = jax.eval_shape(step, state, BATCH)
    assert seen == {"x": jnp.bfloat16, "y": jnp.bfloat16, "out": jnp.float32, "held": jnp.float32}
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.collections))} == {jnp.dtype("float32")}


def test_half_precision_has_a_scale_that_adapts_itself():
    def huge(model, batch):
        return model(batch["x"], train=False).sum() * batch["factor"]

    step = train.make_step(huge, policy="compute=float16")
    state = step.prepare(new(optax.sgd(1e-6), normalise=False))
    jitted = jax.jit(step)
    after, found = jitted(state, {**BATCH, "factor": jnp.float32(100.0)})
    assert found["skipped_update"] == 1
    assert equal(after.params, state.params)
    assert after.extras["loss_scale"]["scale"] == found["loss_scale"] / 2
    assert int(after.extras["skipped"]) == 1
    assert int(after.step) == 1
    for _ in range(20):
        after, found = jitted(after, {**BATCH, "factor": jnp.float32(100.0)})
    assert found["skipped_update"] == 0
    assert not equal(after.params, state.params)
    late = after.replace(
        extras={**after.extras, "loss_scale": {**after.extras["loss_scale"], "finite": jnp.int32(1999)}}
    )
    grown, _ = jitted(late, {**BATCH, "factor": jnp.float32(1e-3)})
    assert grown.extras["loss_scale"]["scale"] == 2 * after.extras["loss_scale"]["scale"]
    assert int(grown.extras["loss_scale"]["finite"]) == 0


def test_gradients_in_half_precision_are_those_of_single():
    full, half = (
        jax.jit(train.make_step(loss_fn, policy=policy))(new(optax.sgd(1.0), normalise=False), BATCH)
        for policy in (None, "compute=float16")
    )
    close(full[0].params, half[0].params, atol=5e-3)


def test_a_step_that_is_not_finite_is_left_out_and_counted():
    bad = {**BATCH, "x": X.at[3, 2].set(jnp.nan)}
    step = train.make_step(loss_fn, skip_nonfinite=True, average=0.9, accumulate=2)
    before = step.prepare(new())
    after, found = jax.jit(step)(before, bad)
    assert jnp.isnan(found["loss"])
    assert equal(after.replace(step=0, extras={**after.extras, "skipped": jnp.int32(0)}), before.replace(step=0))
    assert (int(after.step), int(after.extras["skipped"])) == (1, 1)
    state = train.fit(step, new(), lambda n: bad if n == 1 else BATCH, steps=4, log=None)
    assert int(state.extras["skipped"]) == 1
    assert jnp.isfinite(state.params["Dense_0"]["kernel"]).all()


OPTIMISERS = {
    "lbfgs": lambda: optax.lbfgs(memory_size=2),
    "plateau": lambda: optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=1, accumulation_size=1)),
    "prodigy": lambda: optax.contrib.prodigy(1.0),
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(1e-2, b1=0.9),
}


@pytest.mark.parametrize(("name", "accumulate"), [("lbfgs", 1), ("plateau", 2), ("prodigy", 1), ("schedule_free", 1)])
def test_optimisers_get_what_they_ask_for(name, accumulate):
    tx = OPTIMISERS[name]()

    def plain(params):
        logits = Net(normalise=False).apply({"params": params}, X, train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, BATCH["y"]).mean()

    extra = {"value": None, "grad": None, "value_fn": plain}
    read = {
        "lbfgs": ("value", "grad", "value_fn"), "plateau": ("value",), "polyak": ("value",),
    }.get(name, ())  # fmt: skip

    @jax.jit
    def by_optax(params, opt_state):
        value, grads = jax.value_and_grad(plain)(params)
        given = {**extra, "value": value, "grad": grads}
        updates, opt_state = tx.update(grads, opt_state, params, **{each: given[each] for each in read})
        return optax.apply_updates(params, updates), opt_state

    state = new(tx, normalise=False)
    params, opt_state = state.params, tx.init(state.params)
    step = jax.jit(train.make_step(loss_fn, accumulate=accumulate))
    losses = []
    for _ in range(3):
        state, found = step(state, BATCH)
        params, opt_state = by_optax(params, opt_state)
        losses.append(float(found["loss"]))
    close(state.params, params, rtol=1e-3, atol=1e-4)
    assert losses[-1] < losses[0]
    if name == "schedule_free":
        expected = optax.contrib.schedule_free_eval_params(state.opt_state, state.params)
        close(state.averaged_params(), expected)
        assert not equal(state.averaged_params(), state.params)


def test_one_compiled_step_serves_equal_states_and_steps():
    traced = []

    def counted(model, batch):
        traced.append(1)
        return loss_fn(model, batch)

    for _ in range(2):
        step = train.make_step(counted, accumulate=2, average=0.9)
        state = step.prepare(new())
        jitted = jax.jit(step)
        for _ in range(3):
            state, _ = jitted(state, BATCH)
        train.fit(step, new(), lambda n: BATCH, steps=2, log=None)
    first = len(traced)
    train.fit(train.make_step(counted, accumulate=2, average=0.9), new(), lambda n: BATCH, steps=2, log=None)
    assert len(traced) == first


def test_a_run_goes_on_to_the_same_bits(tmp_path):
    def batch(n):
        rng = np.random.default_rng(n)
        return {"x": rng.normal(size=(12, 4)).astype(np.float32), "y": np.arange(12) % 3, "scale": 1.0}

    step = train.make_step(loss_fn, accumulate=2, average=0.9, policy="compute=float16")
    whole = train.fit(step, new(), batch, steps=7, log=None)
    train.fit(step, new(), batch, steps=4, run=tmp_path / "run", save_every=2, log=None)
    again = train.fit(step, new(), batch, steps=7, run=tmp_path / "run", save_every=2, log=None)
    assert equal(whole, again)
    assert equal(whole, checkpoint.restore(tmp_path / "run" / "7", step.prepare(new())))


def test_the_buffer_of_accumulation_lies_as_the_parameters_do():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    class Wide(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(256, use_bias=False)(nn.relu(nn.Dense(2048, use_bias=False)(x)))

    def square(model, batch):
        return jnp.mean(model(batch) ** 2, axis=-1)

    x = jnp.ones((64, 256))
    state = TrainState.init(Wide(), optax.sgd(0.1), jax.random.key(0), x)
    rows = jax.NamedSharding(mesh, jax.P("data"))
    everywhere = jax.NamedSharding(mesh, jax.P())
    placed = jax.tree.map(lambda leaf: jax.device_put(leaf, rows if jnp.ndim(leaf) == 2 else everywhere), state)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, placed)
    step = jax.jit(train.make_step(square, accumulate=4), donate_argnums=0, out_shardings=(shardings, None))
    compiled = step.lower(placed, jax.device_put(x, rows)).compile()
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    loop = next(line for line in compiled.as_text().splitlines() if " while(" in line)
    carried = loop.split(" while(")[0]  # of each kernel an eighth, and the kernel that all devices compute with
    assert carried.count("f32[32,2048]") >= 1
    assert carried.count("f32[256,256]") >= 1
    assert compiled.memory_analysis().output_size_in_bytes < whole / 4
    after, _ = step(placed, jax.device_put(x, rows))
    assert after.params["Dense_0"]["kernel"].sharding.is_equivalent_to(rows, 2)


WRONG = {
    "no number of parts": ({"accumulate": 0}, ArgumentError),
    "a fraction": ({"accumulate": 2.0}, ArgumentError),
    "a decay of one": ({"average": 1.0}, ArgumentError),
    "no decay": ({"average": True}, ArgumentError),
    "no policy": ({"policy": 32}, ArgumentError),
    "a misspelt part": ({"policy": "param=float32"}, ArgumentError),
    "a misspelt dtype": ({"policy": "compute=bfloat61"}, ArgumentError),
    "an integer": ({"policy": "compute=int8"}, ArgumentError),
    "one name": ({"mutable": "batch_stats"}, ArgumentError),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options(name):
    options, kind = WRONG[name]
    with pytest.raises(kind):
        train.make_step(loss_fn, **options)


def test_wrong_losses_and_batches():
    state = new()
    with pytest.raises(ArgumentError, match="loss_fn"):
        train.make_step("loss")
    for wrong in (None, {"loss": X}, (X, X, X), (X.mean(), X), jnp.arange(3), "x", jnp.zeros((0,))):
        with pytest.raises(LossError):
            jax.eval_shape(train.make_step(lambda model, batch, wrong=wrong: wrong), state, BATCH)
    with pytest.raises(MicroBatchError, match="'x' has 12"):
        jax.eval_shape(train.make_step(loss_fn, accumulate=5), state, BATCH)
    with pytest.raises(MicroBatchError, match="'y' has 4"):
        jax.eval_shape(train.make_step(loss_fn, accumulate=2), state, {"x": X, "y": jnp.arange(4)})
    with pytest.raises(MicroBatchError, match="no array"):
        jax.eval_shape(train.make_step(loss_fn, accumulate=2), state, 3.0)
    with pytest.raises(PolicyError, match="BatchNorm_0/bias"):
        train.make_step(loss_fn, policy="params=bfloat16").prepare(state)


def test_a_change_within_a_transform_is_refused():
    def penalty(model, batch):
        slopes = jax.grad(lambda x: model(x, train=True).sum())(batch["x"])
        return jnp.mean(slopes**2)

    def without(model, batch):
        slopes = jax.grad(lambda x: model(x, train=True, mutable=False).sum())(batch["x"])
        return jnp.mean(slopes**2)

    with pytest.raises(LossTransformError, match="batch_stats"):
        jax.eval_shape(train.make_step(penalty), new(), BATCH)
    plain = new(normalise=False)
    assert jax.eval_shape(train.make_step(without), plain, BATCH)[1]["loss"].shape == ()


def test_a_call_may_have_collections_of_its_own():
    class Perturbed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(self.perturb("inputs", x))

    def slopes(model, batch):
        def total(moved):
            return model(batch["x"], collections={"perturbations": {"inputs": moved}}).sum()

        found = jax.grad(total)(jnp.zeros_like(batch["x"]))
        assert model.collections == {}
        kernel = model.params["Dense_0"]["kernel"]
        return jnp.mean(model(batch["x"]) ** 2), {"error": jnp.abs(found - kernel.sum(1)[None]).max()}

    model = Perturbed()
    params = model.init(jax.random.key(0), X)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.1))
    _, found = jax.jit(train.make_step(slopes))(state, BATCH)
    assert found["error"] < 1e-6
    with pytest.raises(ArgumentError, match="collections"):
        train.make_step(lambda model, batch: model(batch["x"], collections="perturbations").mean())(state, BATCH)
