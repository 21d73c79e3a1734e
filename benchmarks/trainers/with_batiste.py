"""The three tasks with batiste."""

# model
import jax
import optax

from batiste import TrainState, nn, train
from benchmarks.trainers.digits import BATCH, EPOCHS, digits

training, test = digits()


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(64)(x))
        return nn.Dense(10)(nn.Dropout(0.2, deterministic=not train)(nn.relu(x)))


def loss_fn(model, batch):
    logits = model(batch["x"], train=model.train)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses, {"accuracy": logits.argmax(-1) == batch["y"]}


def new_state(tx):
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return TrainState.init(Net(), tx, rngs, test["x"][:1], train=False)


# plain
def plain(folder):
    data = train.shuffled(training, BATCH)
    return train.fit(
        train.make_step(loss_fn), new_state(optax.adam(1e-3)), data, steps=EPOCHS * data.steps_per_epoch, run=folder,
        evaluate=lambda state: train.evaluate(state, [test], loss_fn), evaluate_every=data.steps_per_epoch,
    )  # fmt: skip


# more
def more(folder):
    data = train.shuffled(training, BATCH)
    step = train.make_step(loss_fn, accumulate=2, average=0.99, policy="params=float32,compute=bfloat16")
    return train.fit(
        step, new_state(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))), data,
        steps=EPOCHS * data.steps_per_epoch, run=folder,
        evaluate=lambda state: train.evaluate(state, [test], loss_fn, averaged=True),
        evaluate_every=data.steps_per_epoch, hooks=[train.early_stopping(patience=3), train.keep_best()],
    )  # fmt: skip


# resumed
def resumed(folder, hook):
    data = train.shuffled(training, BATCH)
    return train.fit(
        train.make_step(loss_fn), new_state(optax.adam(1e-3)), data, steps=EPOCHS * data.steps_per_epoch, run=folder,
        save_every=10, hooks=[hook],
    )  # fmt: skip


# end
def weights(state):
    """Return the weights of a run that has ended, as arrays."""
    return jax.tree.leaves((state.params, dict(state.collections)))


def accuracy(state, folder):
    """Return the share of test images that are right."""
    del folder
    return train.evaluate(state, [test], loss_fn)["accuracy"]


def ending(at, end):
    """Return what ends the process after a step."""
    return lambda loop: end() if loop.step == at else None
