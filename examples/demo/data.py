"""The images: scikit-learn's handwritten digits, or Fashion-MNIST from its four gzipped IDX files.

Both come as unsigned bytes of shape ``[image, height, width, 1]`` with one label from 0 to 9 for each image, split into
a training and a test part that never change.

Digits: 1797 scans of 8 by 8 pixels with values 0 to 16 (E. Alpaydin and C. Kaynak, UCI 1998), shipped in the wheel of
scikit-learn; every fifth image is a test image. Fashion-MNIST: 60,000 and 10,000 pictures of 28 by 28 pixels with
values 0 to 255 (Xiao, Rasul and Vollgraf 2017, https://arxiv.org/abs/1708.07747), in Debian's package
``dataset-fashion-mnist``.
"""

import dataclasses
import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from examples.demo.problems import DemoError, need

FASHION_MNIST_DIR = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Data:
    """Images and labels for training and for the test; ``brightest`` is the largest value that a pixel can have."""

    train_images: np.ndarray  # [image, height, width, 1] uint8
    train_labels: np.ndarray  # [image] int32
    test_images: np.ndarray
    test_labels: np.ndarray
    brightest: int


def digits() -> Data:
    """Return the handwritten digits; every fifth is for the test."""
    bunch = need("sklearn.datasets", package="scikit-learn", why="the digits come with").load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    is_test = np.arange(len(images)) % 5 == 4
    return Data(images[~is_test], labels[~is_test], images[is_test], labels[is_test], brightest=16)


def fashion_mnist(folder: Path = FASHION_MNIST_DIR) -> Data:
    """Return Fashion-MNIST from the four files in ``folder``."""
    train = _images_and_labels(folder, "train")
    test = _images_and_labels(folder, "t10k")
    if train[0].shape[1:] != test[0].shape[1:]:
        msg = f"{folder}: training images are {train[0].shape[1:3]} pixels, test images {test[0].shape[1:3]}"
        raise DemoError(msg)
    return Data(*train, *test, brightest=255)


def _images_and_labels(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", axes=3)
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", axes=1)
    if len(images) != len(labels):
        msg = f"{folder}: {len(images)} {part} images but {len(labels)} labels"
        raise DemoError(msg)
    if labels.max(initial=0) >= CLASSES:
        msg = f"{folder}: a {part} label is {labels.max()}, more than {CLASSES - 1}"
        raise DemoError(msg)
    return images[..., None], labels.astype(np.int32)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Return the array of bytes in a gzipped IDX file.

    The format: the bytes 0, 0, 8 (unsigned bytes) and the number of axes, each axis as a big-endian 32-bit integer,
    then the values (http://yann.lecun.com/exdb/mnist/).
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        msg = f"{path} is missing: install Debian's dataset-fashion-mnist, or say where the files are with --data-dir"
        raise DemoError(msg) from error
    except (OSError, EOFError, zlib.error) as error:
        msg = f"{path} cannot be read: {error}"
        raise DemoError(msg) from error
    head = 4 + 4 * axes
    if len(content) < head or content[:4] != bytes((0, 0, 8, axes)):
        msg = f"{path} is no IDX file of unsigned bytes with {axes} axes"
        raise DemoError(msg)
    shape = tuple(int(extent) for extent in np.frombuffer(content, ">u4", count=axes, offset=4))
    if len(content) - head != math.prod(shape) or 0 in shape:
        msg = f"{path} says that it holds {shape} values, but has {len(content) - head} bytes of them"
        raise DemoError(msg)
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
