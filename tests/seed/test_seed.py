"""The seed: the programs of `day05_state_management.md` run on batiste with no change but their Flax imports.

The text is looked for where `BATISTE_SEED` says, else in `shared/seed/` beside the repository. Its blocks run in order
in one namespace, once on batiste and once on Flax; what the text promises is checked on batiste's, and both print the
same.
"""

import ast
import math
import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import jax
import pytest

from tests.markdown import Block, execute, program, python_blocks

ROOT = Path(__file__).resolve().parent.parent.parent
SEED = Path(os.environ.get("BATISTE_SEED", ROOT.parent / "shared" / "seed" / "day05_state_management.md"))

IMPORTS = {
    "import flax.linen as nn": "import batiste.nn as nn",
    "from flax.training import train_state": "from batiste import train as train_state",
}

pytestmark = [
    pytest.mark.skipif(not SEED.is_file(), reason="the seed text is not here; BATISTE_SEED names its file"),
    pytest.mark.usefixtures("users_rules"),
]


@dataclass(frozen=True)
class Step:
    """What one block printed, and the names as they were after it."""

    printed: str
    names: dict


def on_batiste(block: Block) -> Block:
    """Return the block with its Flax imports, and nothing else, replaced."""
    lines = [IMPORTS.get(line, line) for line in block.source.split("\n")]
    return Block(block.line, block.info, "\n".join(lines))


def run(blocks, capsys) -> list[Step]:
    """Run the blocks in order in one namespace."""
    steps = []
    with program("seed") as module:
        for block in blocks:
            capsys.readouterr()
            execute(block, SEED.name, module)
            steps.append(Step(capsys.readouterr().out, dict(vars(module))))
    return steps


def imported_packages(blocks) -> set[str]:
    """Return the top-level packages that the blocks import."""
    found = set()
    for node in (node for block in blocks for node in ast.walk(ast.parse(block.source))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def shapes(tree):
    """Return the shape of each leaf, in the tree's own containers."""
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def losses(printed: str) -> list[float]:
    """Return the losses that a training section printed, one a step."""
    rows = re.findall(r"^Step (\d+), Loss: (\S+)$", printed, flags=re.MULTILINE)
    assert [int(step) for step, _ in rows] == [0, 1, 2, 3, 4]
    assert len(printed.splitlines()) == 5
    return [float(loss) for _, loss in rows]


def sorted_keys(printed: str) -> str:
    """Put the names in each printed `dict_keys([...])` in sorted order: no order of the collections is promised."""
    return re.sub(r"dict_keys\((\[.*?\])\)", lambda row: f"dict_keys({sorted(ast.literal_eval(row[1]))})", printed)


def falls(values: list[float]) -> bool:
    """Say whether every value is finite and less than the one before."""
    return all(map(math.isfinite, values)) and all(after < before for before, after in pairwise(values))


@pytest.fixture
def blocks() -> list[Block]:
    found = python_blocks(SEED.read_text(encoding="utf-8"))
    assert len(found) == 8, "the seed has eight runnable blocks"
    return found


def test_only_the_imports_change(blocks):
    changed = [
        (old, new)
        for block in blocks
        for old, new in zip(block.source.split("\n"), on_batiste(block).source.split("\n"), strict=True)
        if old != new
    ]
    assert changed == list(IMPORTS.items())
    assert "flax" in imported_packages(blocks)
    assert imported_packages(map(on_batiste, blocks)) == {"batiste", "jax", "optax"}


def test_what_the_text_promises(blocks, capsys):
    imports, raw_init, raw_predict, raw_training, blueprint, collections, mutation, training = run(
        map(on_batiste, blocks), capsys
    )

    assert imports.printed == ""
    assert imports.names["nn"].__name__ == "batiste.nn"

    assert raw_init.printed == "PyTreeDef({'layer1': {'b': *, 'w': *}, 'layer2': {'b': *, 'w': *}})\n"
    assert raw_predict.printed == "Prediction shape: (5, 1)\n"
    assert falls(losses(raw_training.printed))

    assert blueprint.printed.startswith("=== Flax 生成的参数结构 ===\n{'params': {'dense1': {'")
    assert type(blueprint.names["variables"]) is dict
    assert shapes(blueprint.names["variables"]) == {
        "params": {
            "dense1": {"kernel": (2, 10), "bias": (10,)},
            "dense2": {"kernel": (10, 1), "bias": (1,)},
        }
    }

    assert sorted_keys(collections.printed) == "\n=== 含状态的变量结构 ===\ndict_keys(['batch_stats', 'params'])\n"
    assert shapes(collections.names["variables"]) == {
        "params": {
            "bn1": {"scale": (2,), "bias": (2,)},
            "head": {"kernel": (2, 1), "bias": (1,)},
        },
        "batch_stats": {"bn1": {"mean": (2,), "var": (2,)}},
    }

    assert mutation.printed == "返回的新状态 keys: dict_keys(['batch_stats'])\n"
    assert mutation.names["y"].shape == (1, 1)
    before = mutation.names["variables"]["batch_stats"]["bn1"]
    after = mutation.names["new_state"]["batch_stats"]["bn1"]
    assert shapes(after) == shapes(before)
    assert bool((after["mean"] != before["mean"]).all()), "the running mean moved towards the batch"
    assert bool((before["mean"] == 0).all()), "the variables that were given stay as they were"

    assert falls(losses(training.printed))
    state = training.names["state"]
    assert int(state.step) == 5
    assert shapes(state.params) == shapes(blueprint.names["variables"]["params"])


def test_prints_what_flax_prints(blocks, capsys):
    ours = [sorted_keys(step.printed) for step in run(map(on_batiste, blocks), capsys)]
    theirs = [sorted_keys(step.printed) for step in run(blocks, capsys)]
    assert ours == theirs
