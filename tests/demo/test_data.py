"""The images of the demo: the fixed split, and files that are missing or damaged."""

import gzip

import numpy as np
import pytest
from sklearn.datasets import load_digits

from examples.demo import data
from examples.demo.problems import DemoError

RANDOM = np.random.default_rng(0)


def idx(array, kind=8):
    head = bytes((0, 0, kind, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(head + array.astype(np.uint8).tobytes())


@pytest.fixture
def folder(tmp_path):
    """A folder with a small Fashion-MNIST."""
    for part, count in (("train", 6), ("t10k", 4)):
        images = RANDOM.integers(0, 256, (count, 8, 8))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(count)))
    return tmp_path


def test_every_fifth_digit_is_for_the_test():
    digits, bunch = data.digits(), load_digits()
    assert digits.train_images.shape == (1438, 8, 8, 1)
    assert digits.test_images.shape == (359, 8, 8, 1)
    np.testing.assert_array_equal(digits.test_images[..., 0], bunch.images[4::5])
    np.testing.assert_array_equal(digits.test_labels, bunch.target[4::5])
    np.testing.assert_array_equal(digits.train_labels[:5], bunch.target[[0, 1, 2, 3, 5]])
    assert digits.train_images.max() == digits.brightest == 16


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(DemoError, match="pip install scikit-learn"):
        data.digits()


def test_fashion_mnist_is_read_as_it_was_written(folder):
    found = data.fashion_mnist(folder)
    assert found.train_images.shape == (6, 8, 8, 1)
    assert found.train_images.dtype == np.uint8
    assert found.test_labels.tolist() == [0, 1, 2, 3]
    assert found.test_labels.dtype == np.int32
    again = data.read_idx(folder / "t10k-images-idx3-ubyte.gz", axes=3)
    np.testing.assert_array_equal(found.test_images[..., 0], again)


NAME = "train-images-idx3-ubyte.gz"
GOOD = RANDOM.integers(0, 256, (6, 8, 8))
DAMAGED = {
    "truncated": (idx(GOOD)[:-20], "cannot be read"),
    "flipped": (idx(GOOD)[:40] + b"\x00\xff\x00" + idx(GOOD)[43:], "cannot be read|says that it holds"),
    "not gzip": (b"hello", "cannot be read"),
    "empty": (b"", "no IDX file"),
    "empty gzip": (gzip.compress(b""), "no IDX file"),
    "other magic": (idx(GOOD, kind=9), "no IDX file"),
    "other axes": (idx(GOOD[0]), "no IDX file of unsigned bytes with 3 axes"),
    "too short": (gzip.compress(gzip.decompress(idx(GOOD))[:-1]), "says that it holds"),
    "too long": (gzip.compress(gzip.decompress(idx(GOOD)) + b"x"), "says that it holds"),
    "no images": (idx(GOOD[:0]), "says that it holds"),
    "fewer images": (idx(GOOD[:5]), "5 train images but 6 labels"),
    "other size": (idx(GOOD[:, :4]), r"training images are \(4, 8\) pixels, test images \(8, 8\)"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_said_in_one_line(folder, damage):
    content, message = DAMAGED[damage]
    (folder / NAME).write_bytes(content)
    with pytest.raises(DemoError, match=message) as caught:
        data.fashion_mnist(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_that_is_no_class(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(6) + 5))
    with pytest.raises(DemoError, match="a train label is 10, more than 9"):
        data.fashion_mnist(folder)


def test_a_missing_file_and_a_folder_in_its_place(folder):
    (folder / NAME).unlink()
    with pytest.raises(DemoError, match=r"is missing: install Debian's dataset-fashion-mnist.*--data-dir"):
        data.fashion_mnist(folder)
    (folder / NAME).mkdir()
    with pytest.raises(DemoError, match="cannot be read"):
        data.fashion_mnist(folder)
