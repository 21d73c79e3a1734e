"""A save in the background: the tree may be donated, changed or dropped as soon as it has begun."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint, errors
from batiste.checkpoint import _save
from tests.checkpoint.support import KINDS, assert_same, training


@pytest.mark.parametrize("kind", KINDS)
def test_donated_and_mutated(tmp_path, kind):
    @functools.partial(jax.jit, donate_argnums=0)
    def step(tree):
        return jax.tree.map(lambda leaf: leaf + 1, tree)

    donated = {"w": jnp.arange(100_000.0), "b": jnp.ones(3)}
    mutated = np.arange(50_000)
    strided = np.arange(20.0).reshape(4, 5)
    expected = {"donated": jax.tree.map(np.array, donated), "mutated": mutated.copy(), "strided": strided.T.copy()}
    handle = checkpoint.save_async(tmp_path / kind, {"donated": donated, "mutated": mutated, "strided": strided.T})
    mutated[:] = -1
    strided[:] = -1
    for _ in range(20):
        donated = step(donated)
    assert handle.wait()
    assert handle.done
    assert handle.path == tmp_path / kind
    assert_same(checkpoint.restore(tmp_path / kind), expected)


@pytest.mark.parametrize("place", ["one", "parts", "copies"])
def test_large_arrays_that_are_donated_at_once(tmp_path, place):
    """Their copies are made while the program goes on, and the next step takes no memory before that."""
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    spec = {"parts": jax.P("x"), "copies": jax.P()}.get(place)
    new = jnp.arange(1 << 20, dtype=jnp.float32)
    tree = {"a": new, "b": new + 1} if spec is None else jax.device_put([new, new + 1], jax.NamedSharding(mesh, spec))
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2 + 1, tree), donate_argnums=0)
    handles = []
    for n in range(4):
        handles.append((n, jax.tree.map(np.array, tree), checkpoint.save_async(tmp_path / str(n), tree)))
        for _ in range(3):
            tree = step(tree)
    for n, expected, handle in handles:
        handle.wait()
        assert_same(checkpoint.restore(tmp_path / str(n)), expected)


def test_it_appears_when_it_is_complete(tmp_path, monkeypatch):
    go = threading.Event()
    write = _save._write

    def slow(job):
        go.wait(60)
        write(job)

    monkeypatch.setattr(_save, "_write", slow)
    handle = checkpoint.save_async(tmp_path / "one", training())
    assert not handle.done
    assert handle.wait(0.01) is False
    assert list(tmp_path.iterdir()) == []
    go.set()
    assert handle.wait(60) is True
    assert checkpoint.verify(tmp_path / "one").digests


def test_what_goes_wrong_is_raised_where_it_is_waited_for(tmp_path):
    handle = checkpoint.save_async(tmp_path / "one", {"w": np.ones(3)})
    again = checkpoint.save_async(tmp_path / "two", {"w": np.ones(3)})
    handle.wait()
    again.wait()
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UnsavableLeafError):
        checkpoint.save_async(tmp_path / "three", {"w": object()})
    handle = checkpoint.save_async(tmp_path / "file" / "four", {"w": np.ones(3)})
    for _ in range(2):
        with pytest.raises(errors.CheckpointWriteError):
            handle.wait()


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_ends_has_saved(fresh_python, tmp_path, kind):
    source = (
        "import sys, numpy, threading, time\n"
        "from batiste import checkpoint\n"
        "from batiste.checkpoint import _save\n"
        "write = _save._write\n"
        "_save._write = lambda job: (time.sleep(0.5), write(job))\n"
        "checkpoint.save_async(sys.argv[1], {'w': numpy.arange(10)})\n"
    )
    done = fresh_python(source, str(tmp_path / kind))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_same(checkpoint.restore(tmp_path / kind), {"w": np.arange(10)})


def test_a_save_that_can_start_no_thread(tmp_path, monkeypatch):
    """As when Python ends, in some releases: what a thread would have done is done without one."""

    def refuse(*_):
        message = "can't create new thread at interpreter shutdown"
        raise RuntimeError(message)

    monkeypatch.setattr("threading.Thread.start", refuse)
    checkpoint.save(tmp_path / "one.safetensors", {"w": np.ones(1 << 19)})
    assert checkpoint.verify(tmp_path / "one.safetensors").digests


def test_a_program_that_ends_says_what_it_has_not_saved(fresh_python, tmp_path):
    (tmp_path / "file").write_text("")
    source = (
        "import sys, numpy\n"
        "from batiste import checkpoint\n"
        "checkpoint.save_async(sys.argv[1], {'w': numpy.arange(10)})\n"
    )
    done = fresh_python(source, str(tmp_path / "file" / "one.safetensors"))
    assert "was not saved" in done.stderr
    assert "could not be written" in done.stderr
