"""Training: a step that is compiled once, and the loop that feeds it.

The state carries everything that a step needs: the parameters, the optimiser's moments, the running statistics of the
batch normalisation and the random streams. A step takes a state and a batch, and returns the next state.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from batiste.train import TrainState
from batiste.typing import PyTree
from examples.demo.augment import Augment
from examples.demo.data import Data
from examples.demo.model import ConvNet

EVALUATION_BATCH = 1000
LABEL_SMOOTHING = 0.05
PEAK_LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-4


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where training is after a batch: the epoch's means so far, and at its end the accuracy on the test images."""

    epoch: int
    step: int
    steps: int  # in all epochs together
    loss: float
    accuracy: float
    images_per_second: float
    test_accuracy: float | None = None


def optimizer(steps: int) -> optax.GradientTransformation:
    """Return AdamW whose learning rate rises in the first tenth of the steps and falls to zero at the last."""
    rate = optax.warmup_cosine_decay_schedule(0.0, PEAK_LEARNING_RATE, warmup_steps=steps // 10, decay_steps=steps)
    return optax.adamw(rate, weight_decay=WEIGHT_DECAY)


@functools.partial(jax.jit, static_argnames="augment", donate_argnames="state")
def train_step(
    state: TrainState, images: jax.Array, labels: jax.Array, augment: Augment
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Return the state after one batch, with the loss and the accuracy on it."""
    rngs = state.step_rngs()
    images = augment(rngs.pop("augment"), images)

    def loss_fn(params: PyTree) -> tuple[jax.Array, Any]:
        logits, changed = state.apply_fn(
            state.variables(params), images, train=True, rngs=rngs, mutable=list(state.collections)
        )
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), LABEL_SMOOTHING)
        return optax.softmax_cross_entropy(logits, targets).mean(), (logits, changed)

    (loss, (logits, changed)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state = state.apply_gradients(grads=grads, collections=changed)
    return state, {"loss": loss, "accuracy": jnp.mean(logits.argmax(-1) == labels)}


@jax.jit
def count_right(state: TrainState, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Return how many images get their label, with the running statistics and without dropout."""
    logits = state.apply_fn(state.variables(), images, train=False)
    return jnp.sum(logits.argmax(-1) == labels)


def evaluate(state: TrainState, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images that get their label."""
    batches = (slice(start, start + EVALUATION_BATCH) for start in range(0, len(images), EVALUATION_BATCH))
    return sum(int(count_right(state, images[batch], labels[batch])) for batch in batches) / len(images)


def train(
    model: ConvNet,
    data: Data,
    augment: Augment,
    report: Callable[[Progress], None],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> TrainState:
    """Return the state after some epochs, and call ``report`` after every batch.

    Each epoch draws its own order; the images that do not fill a batch sit it out.
    """
    batches = len(data.train_images) // batch_size
    rngs = dict(zip(("params", "dropout", "augment"), jax.random.split(jax.random.key(seed), 3), strict=True))
    state = TrainState.init(model, optimizer(epochs * batches), rngs, data.train_images[:1], train=False)
    orders = np.random.default_rng(seed)
    for epoch in range(1, epochs + 1):
        order = orders.permutation(len(data.train_images))[: batches * batch_size].reshape(batches, batch_size)
        total_loss = total_accuracy = 0.0
        start = time.perf_counter()
        for batch, chosen in enumerate(order, start=1):
            state, metrics = train_step(state, data.train_images[chosen], data.train_labels[chosen], augment)
            total_loss += float(metrics["loss"])
            total_accuracy += float(metrics["accuracy"])
            progress = Progress(
                epoch=epoch,
                step=(epoch - 1) * batches + batch,
                steps=epochs * batches,
                loss=total_loss / batch,
                accuracy=total_accuracy / batch,
                images_per_second=batch * batch_size / (time.perf_counter() - start),
            )
            if batch == batches:
                accuracy = evaluate(state, data.test_images, data.test_labels)
                progress = dataclasses.replace(progress, test_accuracy=accuracy)
            report(progress)
    return state
