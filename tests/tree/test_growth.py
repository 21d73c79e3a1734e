"""What a tree costs grows as its leaves do: the calls that each function makes, at a size and at twice the size."""

import sys

import jax
import numpy as np
import pytest

from batiste import checkpoint, shard, tree

FUNCTIONS = {
    "flatten": tree.flatten,
    "unflatten": lambda made: tree.unflatten(tree.flatten(made)),
    "select": lambda made: tree.select(made, "**/a"),
    "exclude": lambda made: tree.exclude(made, "**/a"),
    "partition": lambda made: tree.partition(made, {"a": "**/a", "rest": "**"}),
    "map": lambda made: tree.map(made, {"**/a": lambda path, leaf: leaf}, unmatched="ignore"),
    "rename": lambda made: tree.rename(made, {"params/**": "weights/{1}"}),
    "merge": lambda made: tree.merge(made, {"other": made}),
    "label": lambda made: tree.label(made, {"**/a": "a", "**": "b"}),
    "diff": lambda made: tree.diff(made, made),
    "cast": lambda made: tree.cast(made, "float16"),
    "totals": tree.totals,
    "average": lambda made: tree.average([made, made]),
    "stack_layers": lambda made: tree.stack_layers(made, "layer"),
    "unstack_layers": lambda made: tree.unstack_layers(tree.stack_layers(made, "layer"), "layer"),
    "lora_init": lambda made: tree.lora_init(jax.random.key(0), made, "**/a", 1),
    "specs": lambda made: shard.specs(made, {"**/a": jax.P(), "**": jax.P()}),
    "save": lambda made: checkpoint.save("made.safetensors", made, overwrite=True),
    "restore": lambda made: (
        checkpoint.save("made.safetensors", made, overwrite=True),
        checkpoint.restore("made.safetensors", made),
    ),
}


def calls(function, count):
    made = {"params": {f"layer_{n}": {name: np.ones((2, 2), np.float32) for name in "abc"} for n in range(count)}}
    function(made)
    number = 0

    def note(_frame, event, _argument):
        nonlocal number
        number += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        function(made)
    finally:
        sys.setprofile(None)
    return number


@pytest.mark.parametrize("name", FUNCTIONS)
def test_twice_the_leaves_are_twice_the_calls(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few, many = (calls(FUNCTIONS[name], count) for count in (60, 120))
    assert many < 2.2 * few
