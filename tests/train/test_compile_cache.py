"""A folder that keeps compiled programs: a second run compiles nothing, and a folder that cannot be used is said."""

import json
import os
import subprocess
import sys

import jax
import pytest

from batiste.errors import CompileCacheWarning
from batiste.train import compile_cache

pytestmark = pytest.mark.usefixtures("no_kept_programs")

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from jax import monitoring

jax.jit(lambda x: x - 1)(1.0)  # a program before the cache is there must not turn it off
before = []
if len(sys.argv) > 2:
    before = [jax.config.update("jax_compilation_cache_dir", sys.argv[2]), jax.jit(lambda x: x + 9)(1.0)]
events = []
monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
from batiste.train import compile_cache
place = compile_cache(sys.argv[1] or None)
jax.jit(lambda x: jnp.sin(x) * 2)(jnp.ones(3))
print(json.dumps([str(place), events.count("cache_hits"), events.count("cache_misses")]))
"""


def run(*arguments, **environment):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, env={**plain, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_run_compiles_nothing(tmp_path):
    folder = tmp_path / "a" / "programs"
    place, hits, misses = run(folder)
    assert (place, hits) == (str(folder), 0)
    kept = names(folder)
    assert len(kept) == misses > 0
    assert folder.stat().st_mode & 0o777 == 0o700
    assert run(folder) == [str(folder), misses, 0]
    assert names(folder) == kept


def test_by_default_it_is_in_the_users_cache_folder(tmp_path):
    assert run("", XDG_CACHE_HOME=str(tmp_path))[0] == str(tmp_path / "batiste" / "xla")
    assert run("", XDG_CACHE_HOME="", HOME=str(tmp_path))[0] == str(tmp_path / ".cache" / "batiste" / "xla")
    assert run("", XDG_CACHE_HOME="relative", HOME=str(tmp_path))[1] > 0
    mine = tmp_path / "mine"
    assert run("", JAX_COMPILATION_CACHE_DIR=str(mine))[0] == str(mine)


def test_another_folder_takes_the_place_of_one_in_use(tmp_path):
    run(tmp_path / "second", tmp_path / "first")
    assert any(name.startswith("jit_") for name in names(tmp_path / "second"))


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    with pytest.warns(CompileCacheWarning) as caught:
        assert compile_cache(tmp_path / "file" / "below") is None
    assert str(caught[0].message) == (
        f"Compiled programs are not kept: {tmp_path / 'file' / 'below'} cannot be written (Not a directory). "
        "They are compiled in each run."
    )
    assert len(caught) == 1
    assert caught[0].filename == __file__
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(CompileCacheWarning, match="the user's cache folder cannot be written"):
        assert compile_cache() is None
    assert jax.config.jax_compilation_cache_dir == before


def test_importing_sets_nothing(fresh_python, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    names = "batiste, batiste.nn, batiste.train, batiste.diagnose, batiste.cli, examples.demo.training"
    done = fresh_python(f"import jax, {names}; assert jax.config.jax_compilation_cache_dir is None")
    assert (done.returncode, done.stderr) == (0, "")
