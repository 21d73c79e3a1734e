"""The law of this package: what ``save`` accepts comes back as it was, and what it does not accept leaves no trace.

``BATISTE_LAW=50 make test ARGS=tests/checkpoint/test_law.py`` draws fifty times as many trees.
"""

import os

from hypothesis import given, settings

from batiste import checkpoint, errors
from tests.checkpoint.trees import assert_exact, bare, trees, without_devices

TIMES = int(os.environ.get("BATISTE_LAW", "1"))


def law(path, tree, *, kinds=True):
    checkpoint.save(path, tree)
    if kinds:
        assert_exact(checkpoint.restore(path), bare(tree))
    assert_exact(checkpoint.restore(path, tree), tree, placed=True)
    assert_exact(checkpoint.restore(path, without_devices(tree), verify=False), tree, placed=True)


@settings(max_examples=40 * TIMES)
@given(tree=trees())
def test_in_a_file(tmp_path_factory, tree):
    law(tmp_path_factory.mktemp("law") / "one.safetensors", {"tree": tree})


@settings(max_examples=20 * TIMES)
@given(tree=trees())
def test_in_an_npz(tmp_path_factory, tree):
    law_or_nothing(tmp_path_factory.mktemp("law"), "one.npz", {"tree": tree})


@settings(max_examples=12 * TIMES)
@given(tree=trees())
def test_in_a_folder(tmp_path_factory, tree):
    law(tmp_path_factory.mktemp("law") / "one", {"tree": tree})


@settings(max_examples=20 * TIMES)
@given(tree=trees())
def test_in_a_file_of_flax(tmp_path_factory, tree):
    law_or_nothing(tmp_path_factory.mktemp("law"), "one.msgpack", {"tree": tree}, kinds=False)


def law_or_nothing(folder, name, tree, *, kinds=True):
    try:
        law(folder / "above" / name, tree, kinds=kinds)
    except (errors.UnsavableTreeError, errors.UnsavableLeafError, errors.FormatLossError):
        assert list(folder.iterdir()) == []
