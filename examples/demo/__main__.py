"""Train a convolutional network on real images: ``python -m examples.demo --help``.

Ends with the accuracy on the test images. The exit status is 0 after a run, 1 where something is missing, damaged or
cannot be written, or where the accuracy is below what the default settings promise, 2 for a wrong option, and 130 after
Ctrl-C; each says why in one line.
"""

import argparse
import dataclasses
import sys
import time
import warnings
from pathlib import Path
from typing import NoReturn

import jax

from batiste.diagnose import summary
from batiste.train import compile_cache
from examples.demo import report
from examples.demo.augment import Augment
from examples.demo.data import FASHION_MNIST_DIR, digits, fashion_mnist
from examples.demo.model import ConvNet
from examples.demo.problems import DemoError
from examples.demo.training import Progress, train


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What suits one set of images, and the test accuracy that it promises."""

    epochs: int
    batch_size: int
    stride: int
    augment: Augment
    promise: float


RECIPES = {
    "digits": Recipe(
        epochs=40,
        batch_size=64,
        stride=1,
        augment=Augment(turn=0.2, scale=0.12, shear=0.15, shift=1.0),
        promise=0.985,
    ),
    "fashion-mnist": Recipe(
        epochs=10,
        batch_size=128,
        stride=2,
        augment=Augment(flip=True),
        promise=0.91,
    ),
}


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options, or leave the program with one line on what is wrong with them."""
    parser = Parser(prog="demo", description="Train a convolutional network on real images.", allow_abbrev=False)
    parser.add_argument("--data", choices=RECIPES, default="digits", help="the images (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help=f"where Fashion-MNIST's files are (default: {FASHION_MNIST_DIR})")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="the folder to write (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=positive, help="how often each image is seen (default: what suits the images)")
    parser.add_argument("--batch-size", type=positive, help="images in a step (default: what suits the images)")
    parser.add_argument("--seed", type=natural, default=0, help="for everything that is drawn (default: %(default)s)")
    parser.add_argument(
        "--no-compile-cache",
        action="store_true",
        help="compile anew, instead of keeping compiled programs in the user's cache folder",
    )
    options = parser.parse_args(arguments)
    if options.data_dir and options.data != "fashion-mnist":
        parser.error("--data-dir is where Fashion-MNIST is; it needs --data fashion-mnist")
    return options


def natural(text: str) -> int:
    """Return a whole number from 0 on that a random seed may be."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise ValueError
    return number


def positive(text: str) -> int:
    """Return a whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def run(options: argparse.Namespace) -> int:
    """Train as the options say, and return the exit status."""
    recipe = RECIPES[options.data]
    epochs = options.epochs or recipe.epochs
    batch_size = options.batch_size or recipe.batch_size
    data = digits() if options.data == "digits" else fashion_mnist(options.data_dir or FASHION_MNIST_DIR)
    if batch_size > len(data.train_images):
        msg = f"--batch-size {batch_size} is more than the {len(data.train_images)} training images"
        raise DemoError(msg)
    report.prepare(options.out)
    if not options.no_compile_cache:
        keep_programs()

    model = ConvNet(brightest=data.brightest, stride=recipe.stride)
    batch = jax.ShapeDtypeStruct((batch_size, *data.train_images.shape[1:]), data.train_images.dtype)
    report.show(summary(model, batch, train=False))

    start = time.perf_counter()
    seen: list[Progress] = []
    with report.following(epochs) as follow:

        def keep(progress: Progress) -> None:
            follow(progress)
            if progress.test_accuracy is not None:
                seen.append(progress)

        state = train(model, data, recipe.augment, keep, epochs=epochs, batch_size=batch_size, seed=options.seed)
    print(f"trained for {time.perf_counter() - start:.1f} s")
    for path in report.write(options.out, seen, state.variables()):
        print(f"wrote {path}")
    return conclude(seen[-1].test_accuracy or 0.0, len(data.test_images), recipe, options)


def keep_programs() -> None:
    """Let the next run find what this one compiles; say in one line where that cannot be."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compile_cache()
    for warning in caught:
        print(f"demo: {warning.message}", file=sys.stderr)


def conclude(accuracy: float, images: int, recipe: Recipe, options: argparse.Namespace) -> int:
    """Say how good the network is, and return 1 if the default settings missed what they promise."""
    print(f"test accuracy: {accuracy:.2%} ({round(accuracy * images)} of {images} images)")
    if options.epochs or options.batch_size or accuracy >= recipe.promise:
        return 0
    print(f"demo: the test accuracy is below the {recipe.promise:.1%} that these settings promise", file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Read the options, train, and turn what can go wrong into one line."""
    options = read_options(arguments)
    try:
        return run(options)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
