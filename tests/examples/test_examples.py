"""The steps of `examples/day05` run, and show what they say they show."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from batiste import core

ROOT = Path(__file__).resolve().parents[2]
STEPS = sorted(path.stem for path in (ROOT / "examples" / "day05").glob("step_*.py"))

pytestmark = pytest.mark.usefixtures("users_rules")


def step(name):
    return importlib.import_module(f"examples.day05.{name}")


def run(name, capsys):
    main = step(name).main
    takes_steps = "steps" in inspect.signature(main).parameters
    returned = main(steps=2) if takes_steps else main()
    return returned, capsys.readouterr().out


def test_eight_steps_are_there():
    assert [name.split("_")[1] for name in STEPS] == list("12345678")


@pytest.mark.parametrize("name", STEPS)
def test_prints_only_what_holds(name, capsys):
    _, printed = run(name, capsys)
    assert printed
    wrong = [line for line in printed.splitlines() if line.endswith("False")]
    assert wrong == (["A matrix product in the program of init:  False"] if name == "step_4_lazy_shapes" else [])


@pytest.mark.parametrize("name", ["step_1_raw_jax", "step_2_adam_and_batch_norm", "step_7_train_state"])
def test_the_loss_falls(name, capsys):
    (first, last), printed = run(name, capsys)
    assert last < first
    assert f"Loss: {first:.3f} at first, {last:.3f} after 2 steps" in printed


def test_raw_parameters_are_a_dict(capsys):
    _, printed = run("step_1_raw_jax", capsys)
    shapes = "{'head': {'bias': (1,), 'kernel': (16, 1)}, 'hidden': {'bias': (16,), 'kernel': (2, 16)}}"
    assert f"  {shapes}\n" in printed


def test_adam_by_hand_is_that_of_optax():
    assert step("step_2_adam_and_batch_norm").difference_from_optax(3) < 1e-5


def test_summary_and_init_agree(capsys):
    _, printed = run("step_4_lazy_shapes", capsys)
    rows = re.findall(r"^(params/\S+) +(\(.*?\)) ", printed, re.MULTILINE)
    variables = step("step_4_lazy_shapes").MLP(16).init(jax.random.key(0), jnp.ones((1, 2)))
    flat, _ = jax.tree_util.tree_flatten_with_path(variables)
    made = {"/".join(entry.key for entry in path): str(leaf.shape) for path, leaf in flat}
    assert dict(rows) == made
    assert "40,000,400,001 parameters" in printed


def test_only_the_named_collection_comes_back(capsys):
    _, printed = run("step_5_collections", capsys)
    assert "(32, 1) ['batch_stats']\n" in printed
    assert "[core/immutable-collection]" in printed


def test_the_scope_by_hand_has_forty_lines_at_most():
    assert len(inspect.getsource(step("step_6_scope").Scope).splitlines()) <= 40


def test_the_scope_by_hand_makes_the_keys_of_the_real_one():
    ours = step("step_6_scope").Scope({}, jax.random.key(0))

    def keys(scope):
        inner = scope.push("a").push("b")
        drawn = [scope.make_rng(), inner.make_rng(), inner.make_rng()]
        return jax.tree.map(jax.random.key_data, drawn)

    theirs, _ = core.init(keys)(jax.random.key(0))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, keys(ours), theirs))


def test_a_rebuilt_state_is_not_traced_again(capsys):
    _, printed = run("step_7_train_state", capsys)
    assert re.findall(r": (\d+)$", printed, re.MULTILINE)[-2:] == ["1", "1"]


def test_a_step_is_a_program():
    path = ROOT / "examples" / "day05" / "step_6_scope.py"
    done = subprocess.run([sys.executable, "-W", "error", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Our scope")


def test_a_checkpoint_needs_no_model(capsys):
    _, printed = run("step_8_seventy_billion", capsys)
    assert "70,553,706,496 parameters, 17.6 GB on each" in printed
    assert "Saved, and restored by another table, as P('tensor',)" in printed
    assert "The same numbers: True" in printed
