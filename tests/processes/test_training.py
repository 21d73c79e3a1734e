"""Two processes train, are stopped, and go on, also as one; and what differs between them is said before it hangs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint, train
from batiste.errors import ArgumentError, DataPositionError, ProcessesDifferError
from batiste.train._processes import Crew
from tests.processes import training
from tests.processes.saving import mesh_of
from tests.processes.support import ended, run, started


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that one process did without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    mesh = mesh_of()
    sharding = jax.NamedSharding(mesh, jax.P("x"))
    train.fit(
        training.step,
        training.begin(mesh),
        lambda n: training.batch_of(n, sharding),
        steps=training.STEPS,
        run=folder,
        save_every=5,
        log_every=4,
        evaluate=lambda state: {"norm": training.optax.tree.norm(state.params)},
        evaluate_every=8,
    )
    return folder


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(tmp_path, whole):
    options = json.dumps({"signal": "SIGTERM", "rank": 1, "at": 7, "slow": 0.05})
    with started(2, "tests.processes.training", tmp_path, options) as running:
        said = ended(running, 143, 143)
    stopped = {text.partition("stopped at ")[2].split()[0] for text in said}
    assert stopped == {str(checkpoint.Manager(tmp_path).latest())}
    assert "batiste.train: step 4" in said[0]
    assert "batiste.train: step" not in said[1]
    with started(2, "tests.processes.training", tmp_path, "{}") as running:
        said = ended(running)
    assert all(f"starts at {next(iter(stopped))}" in text for text in said)
    found, expected = rows(tmp_path), rows(whole)
    assert [row["step"] for row in found] == [row["step"] for row in expected] == [4, 8, 12, 16, 20]
    for row, other in zip(found, expected, strict=True):
        for name in {*row, *other} - {"time"}:
            assert row[name] == pytest.approx(other[name], rel=1e-5), name
    ours, theirs = (checkpoint.restore(folder / "20")["params"] for folder in (tmp_path, whole))
    for leaf, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-6)


def test_what_each_process_has_by_itself(tmp_path):
    """Seeds, parts of data and numbers of one process are refused; decisions are the same; metrics add up."""
    said = run(2, "tests.processes.habits", tmp_path)
    assert all(text.endswith("done\n") for text in said)


def test_a_batch_of_rows():
    mesh = mesh_of()
    sharding = jax.NamedSharding(mesh, jax.P("x", "y"))
    assert train.local_rows(8, sharding).tolist() == list(range(8))
    batch = train.global_batch({"x": np.arange(16.0).reshape(8, 2), "scale": 2.0}, sharding)
    assert batch["x"].sharding == sharding
    assert batch["scale"].sharding.spec == jax.P()
    assert float((batch["x"] * batch["scale"]).sum()) == 240
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert train.global_batch(np.ones(3), one).sharding == one
    with pytest.raises(ArgumentError, match="a sharding of JAX"):
        train.global_batch(np.ones(3), mesh)
    with pytest.raises(ArgumentError, match="size"):
        train.local_rows(7, sharding)


def test_positions_of_another_number_of_processes():
    crew = Crew()
    assert crew.positions({"dict": []}) == {"dict": []}
    assert crew.position({"processes": [3]}, 4) == 3
    with pytest.raises(DataPositionError, match="saved by 2 processes"):
        crew.position({"processes": [3, 4]}, 4)


@pytest.fixture
def two(monkeypatch):
    """Return a list; what stands in it is what a second process would say, each time both meet."""
    from batiste import _processes

    said = []

    def gather(place, own, **_):
        return [own, said.pop(0)(own) if said else own]

    for module in (_processes, train._processes):
        monkeypatch.setattr(module, "several", lambda: True)
        monkeypatch.setattr(module, "gather", gather, raising=False)
    return said


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"version": ["jax 0.1"]}, "process 1 has another version"),
        ({"setting": ["steps=3"]}, "steps=3"),
    ],
)
def test_other_versions_and_settings(two, other, says):
    def differing(own):
        return json.dumps({**json.loads(own), **dict.fromkeys(other, "0")})

    two += [differing, lambda own: json.dumps({**json.loads(own), **other})]
    with pytest.raises(ProcessesDifferError, match=says):
        Crew().begin({"steps": 2})


def test_a_local_batch_must_be_the_same(two):
    two += [
        lambda own: json.dumps({**json.loads(own), "value in the batch": "0"}),
        lambda _: '{"value in the batch": []}',
    ]
    with pytest.raises(ProcessesDifferError, match=r"train\.global_batch"):
        Crew().check_batch({"x": np.arange(3), "n": 1})


def test_another_program(two):
    def step(state, batch):
        return state + batch, {}

    two += [lambda own: json.dumps({**json.loads(own), "program": "0"}), lambda _: '{"program": ["b = mul a 2.0"]}']
    with pytest.raises(ProcessesDifferError, match=r"(?s)process 1 has another program.*\+ .*mul.*- .*add"):
        Crew().check_program(step, jnp.ones(2), jnp.ones(2))
