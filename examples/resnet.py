"""A small residual network on Fashion-MNIST: batch normalisation, augmentation, mixed metrics, a moving average.

    python -m examples.resnet --data-dir /usr/share/datasets/fashion-mnist

The images are in Debian's package `dataset-fashion-mnist` (60,000 for training and 10,000 for the test, of 28 by 28
pixels, MIT licence; Xiao, Rasul and Vollgraf 2017, https://arxiv.org/abs/1708.07747). `apt-get download` and
`dpkg -x` unpack it without installing it.

Measured on 2 CPU cores (109 s of CPU time): after two epochs 89.54% of the test images are right, at a loss of 0.287.
"""

import argparse
import functools
import gzip
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from batiste import TrainState, nn, train
from batiste.train import metrics


class Block(nn.Module):
    """Two convolutions beside a shortcut, normalised before each (He and others 2016, arXiv:1603.05027)."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x, *, train):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        conv = functools.partial(nn.Conv, self.features, use_bias=False)
        y = nn.relu(norm()(x))
        shortcut = conv((1, 1), strides=self.stride)(y) if y.shape[-1] != self.features else x
        y = conv((3, 3), strides=self.stride)(y)
        return shortcut + conv((3, 3))(nn.relu(norm()(y)))


class ResNet(nn.Module):
    widths: tuple[int, ...] = (24, 48, 96)

    @nn.compact
    def __call__(self, images, *, train):  # [batch, 28, 28] of 0 to 255
        x = (images[..., None] / 255.0 - 0.29) / 0.35
        x = nn.Conv(self.widths[0], (3, 3), strides=2, use_bias=False)(x)
        for stage, width in enumerate(self.widths):
            x = Block(width, 2 if stage else 1)(x, train=train)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)).mean((1, 2))
        return nn.Dense(10)(x)


def moved(key, images):
    """Mirror one image in two, and move each by up to two pixels."""
    flip, move = jax.random.split(key)
    mirrored = jax.random.bernoulli(flip, 0.5, (len(images), 1, 1))
    padded = jnp.pad(jnp.where(mirrored, images[:, :, ::-1], images), [(0, 0), (2, 2), (2, 2)])
    cut = jax.vmap(lambda image, start: jax.lax.dynamic_slice(image, start, (28, 28)))
    return cut(padded, jax.random.randint(move, (len(images), 2), 0, 5))


def loss_fn(model, batch):
    images = moved(model.rngs["augment"], batch["x"]) if model.train else batch["x"]
    logits = model(images, train=model.train)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses, {"accuracy": metrics.Accuracy.of(logits, batch["y"])}


def read(folder, part):
    """Return images and labels of one of the two parts: IDX files, whose values come after a head."""
    images, labels = (
        np.frombuffer(gzip.decompress((folder / f"{part}-{name}-ubyte.gz").read_bytes()), np.uint8, offset=head)
        for name, head in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return {"x": images.reshape(-1, 28, 28), "y": labels.astype(np.int32)}


def main(folder, epochs=2, batch=128):
    examples, test = read(folder, "train"), read(folder, "t10k")
    data = train.shuffled(examples, batch, epochs=epochs)
    steps = epochs * data.steps_per_epoch
    rngs = {"params": jax.random.key(0), "augment": jax.random.key(1)}
    tx = optax.adamw(optax.cosine_onecycle_schedule(max(steps, 4), 1e-2), weight_decay=1e-2)
    state = TrainState.init(ResNet(), tx, rngs, examples["x"][:1], train=False)
    step = train.make_step(loss_fn, average=0.98)
    state = train.fit(step, state, data, log=train.show)
    found = train.evaluate(state, test, step, batch_size=500, averaged=True)
    print(f"{found['accuracy']:.2%} of the test images are right, loss {found['loss']:.3f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    main(parser.parse_args().data_dir)
