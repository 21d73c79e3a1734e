# ruff: noqa: T201 - it is a program, and what it prints is compared
"""A training loop in the manner of Flax's MNIST example: train_state, metrics, checkpoints, early stopping."""

import dataclasses
import tempfile
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from flax.training import checkpoints, common_utils, train_state
from flax.training.early_stopping import EarlyStopping

flax.config.update("flax_use_orbax_checkpointing", False)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(features=4, kernel_size=(3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.relu(x)
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.Dense(features=16)(x)
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(features=10)(nn.relu(x))


@struct.dataclass
class Metrics:
    loss_sum: jnp.ndarray
    correct: jnp.ndarray
    count: jnp.ndarray

    @classmethod
    def empty(cls):
        return cls(jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def merge(self, loss, logits, labels):
        return self.replace(
            loss_sum=self.loss_sum + loss * labels.shape[0],
            correct=self.correct + jnp.sum(jnp.argmax(logits, -1) == labels),
            count=self.count + labels.shape[0],
        )

    def compute(self):
        return {"loss": self.loss_sum / self.count, "accuracy": self.correct / self.count}


class TrainState(train_state.TrainState):
    batch_stats: flax.core.FrozenDict
    key: jax.Array
    metrics: Metrics


def create_train_state(rng, learning_rate):
    cnn = CNN()
    params_rng, dropout_rng = jax.random.split(rng)
    variables = cnn.init(params_rng, jnp.ones([1, 8, 8, 1]), train=False)
    print(jax.tree.map(jnp.shape, variables))
    print("Conv_0" in cnn.tabulate(params_rng, jnp.ones([1, 8, 8, 1]), train=False))
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, 5, 30)
    return TrainState.create(
        apply_fn=cnn.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        key=dropout_rng,
        metrics=Metrics.empty(),
        tx=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule)),
    )


@jax.jit
def train_step(state, batch):
    dropout_key = jax.random.fold_in(key=state.key, data=state.step)

    def loss_fn(params):
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        one_hot = common_utils.onehot(batch["label"], 10)
        return optax.softmax_cross_entropy(logits, one_hot).mean(), (logits, updates)

    (loss, (logits, updates)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state = state.apply_gradients(grads=grads, batch_stats=updates["batch_stats"])
    state = state.replace(metrics=state.metrics.merge(loss, logits, batch["label"]))
    return state, common_utils.stack_forest([{"g": optax.global_norm(grads)}])


def main():
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(64, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 64)
    state = create_train_state(jax.random.key(0), 1e-2)
    stopper = EarlyStopping(min_delta=1e-3, patience=2)
    with tempfile.TemporaryDirectory() as folder:
        for epoch in range(3):
            for i in range(0, 64, 16):
                state, extra = train_step(state, {"image": images[i : i + 16], "label": labels[i : i + 16]})
            metrics = jax.device_get(state.metrics.compute())
            stopper = stopper.update(metrics["loss"])
            print(f"epoch {epoch}: loss {metrics['loss']:.4f} accuracy {metrics['accuracy'] * 100:.2f}")
            print(f"grad {float(extra['g'][0]):.4f} stop {stopper.should_stop} {stopper.has_improved}")
            state = state.replace(metrics=Metrics.empty(), key=state.key)
            names = ("params", "batch_stats", "opt_state", "step")
            saved = {name: getattr(state, name) for name in names}
            path = checkpoints.save_checkpoint(folder, saved, step=int(state.step), keep=2, prefix="ckpt_")
            print(Path(path).name)
        latest = checkpoints.latest_checkpoint(folder, prefix="ckpt_")
        print(Path(latest).name, sorted(path.name for path in Path(folder).iterdir()))
        restored = checkpoints.restore_checkpoint(folder, target=saved, prefix="ckpt_")
        print(jax.tree.all(jax.tree.map(lambda a, b: bool(np.all(np.asarray(a) == np.asarray(b))), saved, restored)))
        raw = checkpoints.restore_checkpoint(folder, target=None, prefix="ckpt_")
        print(jax.tree.map(np.shape, raw))
        state2 = create_train_state(jax.random.key(1), 1e-2).replace(**restored)
        state2, _ = train_step(state2, {"image": images[:16], "label": labels[:16]})
        print(f"{float(state2.metrics.loss_sum):.4f}", int(state2.step))
    print(type(state).__mro__[1].__name__, [f.name for f in dataclasses.fields(state)])


main()
