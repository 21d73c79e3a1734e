"""The law of this package: what ``save`` accepts comes back as it was, and what it does not accept leaves no trace.

The trees are the same each time. ``BATISTE_LAW=7 make test ARGS=tests/checkpoint/test_law.py`` draws others, and more:
the number is the seed.
"""

import os

from hypothesis import given, seed, settings

from batiste import checkpoint, errors
from tests.checkpoint.trees import assert_exact, bare, trees, without_devices

SEED = os.environ.get("BATISTE_LAW")


def drawn(count):
    """Draw so many trees for a test, or more from a seed."""

    def decorate(test):
        test = settings(max_examples=count if SEED is None else 5 * count, derandomize=SEED is None)(
            given(trees())(test)
        )
        return test if SEED is None else seed(int(SEED))(test)

    return decorate


def check(path, tree, *, kinds=True):
    checkpoint.save(path, tree)
    if kinds:
        assert_exact(checkpoint.restore(path), bare(tree))
    assert_exact(checkpoint.restore(path, tree), tree, placed=True)
    assert_exact(checkpoint.restore(path, without_devices(tree), verify=False), tree, placed=True)


def check_or_refuse(folder, name, tree, *, kinds=True):
    try:
        check(folder / "above" / name, tree, kinds=kinds)
    except (errors.UnsavableTreeError, errors.UnsavableLeafError, errors.FormatLossError):
        assert list(folder.iterdir()) == []


@drawn(40)
def test_in_a_file(tmp_path_factory, tree):
    check(tmp_path_factory.mktemp("law") / "one.safetensors", {"tree": tree})


@drawn(20)
def test_in_an_npz(tmp_path_factory, tree):
    check_or_refuse(tmp_path_factory.mktemp("law"), "one.npz", {"tree": tree})


@drawn(12)
def test_in_a_folder(tmp_path_factory, tree):
    check(tmp_path_factory.mktemp("law") / "one", {"tree": tree})


@drawn(20)
def test_in_a_file_of_flax(tmp_path_factory, tree):
    check_or_refuse(tmp_path_factory.mktemp("law"), "one.msgpack", {"tree": tree}, kinds=False)
