"""Adversarial training: a network that is not fooled by small changes to an image.

    python -m examples.adversarial

Each step asks which small change of the images would raise the loss most, and learns from the changed images as well
(Goodfellow, Shlens and Szegedy 2014, https://arxiv.org/abs/1412.6572). The change is a variable: `perturb` adds it to a
value in the middle of a model, where no argument reaches, and its gradient is that of the value. Here that is the
normalised image; it could be the embedding of a word. The digits come with scikit-learn.

Measured on 2 CPU cores (15 s of CPU time): trained as usual, 97.8% of 360 test images are right and 26.7% under attack;
trained against attacks, 99.2% and 81.4%.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from batiste import TrainState, nn, train

SIZE = 0.3  # of a change, where pixels have the deviation 1


class Net(nn.Module):
    @nn.compact
    def __call__(self, images):  # [batch, 64] of 0 to 16
        x = self.perturb("image", (images - 4.9) / 6.0)
        x = nn.relu(nn.Conv(16, (3, 3))(x.reshape(-1, 8, 8, 1)))
        x = nn.relu(nn.Conv(32, (3, 3), strides=2)(x))
        return nn.Dense(10)(nn.relu(nn.Dense(64)(x.reshape(len(x), -1))))


def losses_of(model, batch, change):
    logits = model(batch["x"], collections={"perturbations": {"image": change}})
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses, logits.argmax(-1) == batch["y"]


def worst(model, batch, steps):
    """Return the change of at most ``SIZE`` for each pixel that raises the loss most, as found in so many steps."""
    slope = jax.grad(lambda change: losses_of(model, batch, change)[0].sum())
    change = jnp.zeros(batch["x"].shape)
    for _ in range(steps):  # projected gradient ascent: Madry and others 2017, arXiv:1706.06083
        change = jnp.clip(change + 1.5 * SIZE / steps * jnp.sign(slope(change)), -SIZE, SIZE)
    return jax.lax.stop_gradient(change)


def plain(model, batch):
    losses, right = losses_of(model, batch, jnp.zeros(batch["x"].shape))
    return losses, {"accuracy": right}


def hardened(model, batch):
    losses, right = plain(model, batch)
    attacked, holds = losses_of(model, batch, worst(model, batch, 2))
    return (losses + attacked) / 2, {**right, "under attack": holds}


def attacked(model, batch):
    """Measure a network: as it is, and under a stronger attack than it was trained with."""
    losses, right = plain(model, batch)
    return losses, {**right, "under attack": losses_of(model, batch, worst(model, batch, 10))[1]}


def main(steps=1000, batch=64):
    digits = load_digits()
    examples = {"x": digits.data.astype(np.float32), "y": digits.target.astype(np.int32)}
    is_test = np.arange(len(examples["y"])) % 5 == 0
    parts = [jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples) for rows in (~is_test, is_test)]
    found = {}
    for loss_fn in (plain, hardened):
        params = Net().init(jax.random.key(0), examples["x"][:1])["params"]
        state = TrainState.create(apply_fn=Net().apply, params=params, tx=optax.adam(2e-3))
        step = train.make_step(loss_fn)
        state = train.fit(step, state, train.shuffled(parts[0], batch), steps=steps, log=None)
        found[loss_fn.__name__] = measured = train.evaluate(state, parts[1], attacked, batch_size=360)
        print(f"{loss_fn.__name__:8}: {measured['accuracy']:.1%} right, {measured['under attack']:.1%} under attack")
    return found


if __name__ == "__main__":
    main()
