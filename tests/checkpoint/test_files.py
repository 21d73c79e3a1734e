"""Paths, links, rights and full disks: what is there stays whole, and what cannot be done is said in one line."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from batiste import checkpoint, errors
from batiste.checkpoint import _files
from tests.checkpoint.support import WHOLE, assert_same, files_of

EVERY = (*WHOLE, "file.msgpack")

ONE, TWO = {"w": np.arange(3.0)}, {"w": np.arange(3.0) + 1}


@pytest.mark.parametrize("kind", EVERY)
def test_relative_paths_and_odd_names(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    for name in (
        kind,
        f"a b/ünï {kind}",
        f"日本/{kind}",
        f"#?%20*[x]/'\"{kind}",
        f"../{tmp_path.name}/up_{kind}",
        f"$HOME/{kind}",
    ):
        checkpoint.save(name, ONE)
        assert_same(checkpoint.restore(name), ONE)
        assert_same(checkpoint.restore(Path(name).absolute()), ONE)
        assert checkpoint.verify(name).digests == (kind in WHOLE)
    assert all(not checkpoint.leftovers(folder) for folder in tmp_path.rglob("*") if folder.is_dir())


@pytest.mark.parametrize("kind", EVERY)
def test_nothing_is_overwritten_unasked(tmp_path, kind):
    path = tmp_path / kind
    checkpoint.save(path, ONE)
    before = {file: file.read_bytes() for file in files_of(path)}
    with pytest.raises(errors.CheckpointExistsError, match="overwrite=True"):
        checkpoint.save(path, TWO)
    with pytest.raises(FileExistsError):
        checkpoint.save_async(path, TWO)
    assert {file: file.read_bytes() for file in files_of(path)} == before
    checkpoint.save(path, TWO, overwrite=True)
    assert_same(checkpoint.restore(path), TWO)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("exchange", [True, False])
def test_a_checkpoint_is_replaced_whatever_it_is(tmp_path, kind, exchange, monkeypatch):
    """A file by a folder, a folder by a file, a damaged one, an empty file, an empty folder."""
    if not exchange:
        monkeypatch.setattr(_files, "_exchange", lambda *_: False)  # also where names cannot be exchanged
    path = tmp_path / kind
    for other in EVERY:
        checkpoint.save(tmp_path / f"other_{other}", ONE)
        (tmp_path / f"other_{other}").rename(path)
        checkpoint.save(path, TWO, overwrite=True)
        assert_same(checkpoint.restore(path), TWO)
        for file in files_of(path):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 + 20])
        checkpoint.save(path, ONE, overwrite=True)
        assert_same(checkpoint.restore(path), ONE)
        _files.remove(path)
    path.mkdir()
    checkpoint.save(path, ONE, overwrite=True)
    assert_same(checkpoint.restore(path), ONE)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("exchange", [True, False])
def test_a_save_that_fails_leaves_the_old_one(tmp_path, kind, exchange, monkeypatch):
    path = tmp_path / kind
    checkpoint.save(path, ONE)
    if not exchange:
        monkeypatch.setattr(_files, "_exchange", lambda *_: False)

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_files, "_flush", fail)
    with pytest.raises(errors.CheckpointWriteError, match=r"No space left on device.*untouched") as caught:
        checkpoint.save(path, TWO, overwrite=True)
    assert "Free some space" in str(caught.value)
    assert_same(checkpoint.restore(path), ONE)
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_put_aside_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "one"
    checkpoint.save(path, ONE)
    monkeypatch.setattr(_files, "_exchange", lambda *_: False)
    rename = Path.rename

    def die(self, target):
        if self.name.startswith("."):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die)
    monkeypatch.setattr(_files, "_delete", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, TWO, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(errors.CheckpointNotFoundError, match="cleanup"):
        checkpoint.open(path)
    assert len(checkpoint.cleanup(tmp_path)) == 2
    assert_same(checkpoint.restore(path), ONE)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", EVERY)
def test_symbolic_links(tmp_path, kind):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    checkpoint.save(tmp_path / "near" / kind, ONE)
    assert_same(checkpoint.restore(tmp_path / "far" / kind), ONE)
    link = tmp_path / f"link_{kind}"
    link.symlink_to(tmp_path / "far" / kind)
    assert_same(checkpoint.restore(link), ONE)
    with pytest.raises(errors.CheckpointExistsError):
        checkpoint.save(link, TWO)
    checkpoint.save(link, TWO, overwrite=True)
    assert link.is_symlink()
    assert_same(checkpoint.restore(tmp_path / "far" / kind), TWO)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(errors.CheckpointNotFoundError):
        checkpoint.open(dangling)


@pytest.mark.parametrize("kind", EVERY)
def test_a_folder_that_cannot_be_written(tmp_path, kind):
    """Root may write to any folder, so a file in the place of one stands for the folder there."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        folder.rmdir()
        folder.write_text("not a folder")
    with pytest.raises(errors.CheckpointWriteError) as caught:
        checkpoint.save(folder / kind, ONE)
    assert isinstance(caught.value, OSError)
    assert str(folder / kind) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["closed"]


FULL = """
import resource, signal, sys
import numpy as np
from batiste import checkpoint, errors
checkpoint.save(sys.argv[1], {"w": np.ones(10)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(sys.argv[1], {"w": np.random.default_rng(0).random(100_000)}, overwrite=True)
except errors.CheckpointWriteError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", EVERY)
def test_a_disk_that_fills_up(tmp_path, kind):
    program = [sys.executable, "-c", FULL, str(tmp_path / kind)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert "could not be written: File too large" in done.stdout
    assert "[checkpoint/write]" in done.stdout
    assert_same(checkpoint.restore(tmp_path / kind), {"w": np.ones(10)})
    assert [entry.name for entry in tmp_path.iterdir()] == [kind]


def test_what_is_there_and_is_none(tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "nothing").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("text", "nothing", "folder"):
        with pytest.raises(errors.CheckpointFormatError):
            checkpoint.open(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        checkpoint.open(tmp_path / "absent")
    assert checkpoint.leftovers(tmp_path / "absent") == []


def test_a_quiet_import_and_a_quiet_save(fresh_python, tmp_path):
    heavy = {"orbax", "tensorstore", "safetensors", "torch", "optax"}
    done = fresh_python(f"import sys, batiste.checkpoint; sys.exit(len({heavy} & set(sys.modules)))")
    assert (done.returncode, done.stderr) == (0, "")
    source = (
        "import sys, numpy\n"
        "from batiste import checkpoint\n"
        "checkpoint.save(sys.argv[1], {'w': numpy.ones(3)})\n"
        "checkpoint.restore(sys.argv[1])\n"
        "checkpoint.verify(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(tmp_path / "one")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
