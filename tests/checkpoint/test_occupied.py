"""What is there already: only a checkpoint is replaced, of two writers one is first, what is open does not change."""

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint import v1

from batiste import checkpoint, errors
from batiste.checkpoint import _files, _replaceable
from tests.checkpoint.support import WHOLE, assert_same, files_of

EVERY = (*WHOLE, "file.msgpack")
ONE, TWO = {"w": np.arange(300.0)}, {"w": np.arange(300.0) + 1}


def snapshot(folder):
    """Every entry beneath a folder, with the bytes of files and the targets of links."""
    return {
        str(path): path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in Path(folder).rglob("*")
    }


def names_in(folder):
    return [entry.name for entry in folder.iterdir()]


def a_run(path):
    run = checkpoint.Manager(path)
    for step in range(2):
        run.save(step, ONE)


def a_run_of_one_step(path):
    checkpoint.Manager(path).save(7, ONE)


def a_run_of_orbax(path):
    with ocp.CheckpointManager(path) as manager:
        manager.save(1, args=ocp.args.StandardSave(ONE))


def a_run_of_bare_steps(path):
    for step in range(2):
        ocp.PyTreeCheckpointer().save(path / str(step), ONE)


def a_checkpoint_with_steps_in_it(path):
    checkpoint.save(path, ONE)
    checkpoint.Manager(path).save(3, ONE)


def a_checkpoint_with_notes(path):
    checkpoint.save(path, ONE)
    (path / "notes.txt").write_text("what I have learnt")


def a_checkpoint_with_another_folder(path):
    checkpoint.save(path, ONE)
    (path / "plots").mkdir()


def a_checkpoint_with_a_link(path):
    checkpoint.save(path, ONE)
    (path / "d").symlink_to(path.parent)


def a_folder(path):
    path.mkdir()
    (path / "thesis.tex").write_text("chapter one")


def folders(path):
    (path / "src" / "d").mkdir(parents=True)


def exported_weights(path):
    path.mkdir()
    checkpoint.save(path / "model.safetensors", ONE)
    (path / "config.json").write_text("{}")


def a_text(path):
    path.write_text("chapter one")


def a_picture(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def another_zip(path):
    shutil.make_archive(str(path), "zip", path.parent, ".")
    path.with_name(path.name + ".zip").rename(path)


def a_pipe(path):
    os.mkfifo(path)


OTHERS = (
    a_run, a_run_of_one_step, a_run_of_orbax, a_run_of_bare_steps, a_checkpoint_with_steps_in_it,
    a_checkpoint_with_notes, a_checkpoint_with_another_folder, a_checkpoint_with_a_link, a_folder, folders,
    exported_weights, a_text, a_picture, another_zip, a_pipe,
)  # fmt: skip


@pytest.mark.parametrize("make", OTHERS, ids=lambda make: make.__name__)
def test_nothing_else_is_replaced(tmp_path, make):
    for kind in EVERY:
        path = tmp_path / kind
        (tmp_path / "beside.txt").write_text("x")
        make(path)
        before = snapshot(tmp_path)
        for save in (checkpoint.save, checkpoint.save_async):
            with pytest.raises(errors.CheckpointArgumentError, match=r"`overwrite` cannot be True") as caught:
                save(path, TWO, overwrite=True)
            assert str(path) in str(caught.value)
        assert snapshot(tmp_path) == before
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if make in OTHERS[:8]:
            break  # these take long, and are folders whatever the name


def test_what_appears_during_a_save_is_not_replaced_either(tmp_path, monkeypatch):
    for kind in EVERY:
        path = tmp_path / kind
        flush = _files._flush

        def appear(stage, path=path, flush=flush):
            flush(stage)
            path.mkdir(exist_ok=True)
            (path / "thesis.tex").write_text("chapter one")

        monkeypatch.setattr(_files, "_flush", appear)
        for overwrite, kind_of_error in ((False, errors.CheckpointExistsError), (True, errors.CheckpointArgumentError)):
            with pytest.raises(kind_of_error):
                checkpoint.save(path, ONE, overwrite=overwrite)
            assert names_in(tmp_path) == [kind]
            assert names_in(path) == ["thesis.tex"]
            shutil.rmtree(path)
        monkeypatch.undo()


def test_checkpoints_of_orbax_are_replaced(tmp_path):
    several = ocp.args.Composite(state=ocp.args.StandardSave(ONE), more=ocp.args.JsonSave({"a": 1}))
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(1, args=several, metrics={"loss": 1.0})

    def standard(path):
        with ocp.StandardCheckpointer() as checkpointer:  # which saves in the background, and waits at its end
            checkpointer.save(path, ONE)

    for path, write in {
        tmp_path / "standard": standard,
        tmp_path / "pytree": lambda path: ocp.PyTreeCheckpointer().save(path, ONE),
        tmp_path / "files": lambda path: ocp.PyTreeCheckpointer(use_ocdbt=False).save(path, {"a": ONE}),
        tmp_path / "v1": lambda path: v1.save(path, ONE),
        tmp_path / "run" / "1": lambda _: None,
    }.items():
        write(path)
        assert not any("tmp" in entry.name for entry in path.parent.iterdir())
        checkpoint.save(path, TWO, overwrite=True)
        assert_same(checkpoint.restore(path), TWO)
    assert not checkpoint.leftovers(tmp_path)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("kind", EVERY)
def test_of_two_threads_one_is_first(tmp_path, kind, links, monkeypatch):
    if not links:

        def refuse(*_):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for number in range(4 if kind == "folder" else 12):
            place, told, together = tmp_path / f"{number}_{kind}", [], threading.Barrier(3)

            def write(value, place=place, told=told, together=together):
                together.wait()
                save = checkpoint.save if value else lambda *args: checkpoint.save_async(*args).wait()
                try:
                    save(place, {"w": np.full(100, value)})
                except errors.CheckpointExistsError:
                    told.append(value)

            threads = [threading.Thread(target=write, args=(value,)) for value in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(told) == 2
            (winner,) = {0, 1, 2} - set(told)
            assert (checkpoint.restore(place)["w"] == winner).all()
    finally:
        sys.setswitchinterval(interval)
    assert not checkpoint.leftovers(tmp_path)


def save_all(folder, value, together, told):
    """Save to the same paths as another process does at the same time."""
    for number in range(3):
        for kind in EVERY:
            together.wait()
            try:
                checkpoint.save(f"{folder}/{number}_{kind}", {"w": np.full(100, value)})
            except errors.CheckpointExistsError:
                told.put((number, kind, value))


def test_of_two_processes_one_is_first(tmp_path):
    context = multiprocessing.get_context("spawn")
    together, told = context.Barrier(2), context.Queue()
    others = [context.Process(target=save_all, args=(str(tmp_path), value, together, told)) for value in range(2)]
    for other in others:
        other.start()
    lost = [told.get(timeout=120) for _ in range(3 * len(EVERY))]
    for other in others:
        other.join(60)
    assert len({(number, kind) for number, kind, _ in lost}) == len(lost)
    for number, kind, value in lost:
        assert (checkpoint.restore(tmp_path / f"{number}_{kind}")["w"] == 1 - value).all()
    assert not checkpoint.leftovers(tmp_path)


def test_a_link_that_was_made_though_the_system_says_otherwise(tmp_path, monkeypatch):
    """A network file system may hear one request twice, and answer the second."""
    link = os.link

    def heard_twice(stage, target):
        link(stage, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", heard_twice)
    checkpoint.save(tmp_path / "one.safetensors", ONE)
    assert_same(checkpoint.restore(tmp_path / "one.safetensors"), ONE)
    assert names_in(tmp_path) == ["one.safetensors"]


def test_a_folder_that_is_replaced_while_it_is_looked_at(tmp_path, monkeypatch):
    """The half of the old one that is found says nothing of what is there now."""
    checkpoint.save(tmp_path / "one", ONE)
    looked = []

    def emptied(folder, is_item=_replaceable._is_item):
        looked.append(folder)
        if len(looked) == 1:
            checkpoint.save(tmp_path / "other", TWO)
            (tmp_path / "one").rename(tmp_path / "aside")
            (tmp_path / "other").rename(tmp_path / "one")
            return False
        return is_item(folder)

    monkeypatch.setattr(_replaceable, "_is_item", emptied)
    _replaceable.check_replaceable(tmp_path / "one")
    assert len(looked) > 1
    monkeypatch.setattr(_replaceable, "_is_item", lambda folder: False)
    with pytest.raises(errors.CheckpointArgumentError, match="no part of one"):
        _replaceable.check_replaceable(tmp_path / "one")
    assert_same(checkpoint.restore(tmp_path / "one"), TWO)


def test_many_overwrite_one_path_and_others_read_it(tmp_path):
    """Whoever opens it finds one of the versions, and reads that version or is told."""
    for kind in EVERY:
        path = tmp_path / kind
        checkpoint.save(path, {"w": np.zeros(4000), "v": np.zeros(4000)})
        stop, wrong, seen = threading.Event(), [], []

        def write(start, path=path, stop=stop, wrong=wrong):
            number = start
            while not stop.is_set():
                try:
                    checkpoint.save(path, {"w": np.full(4000, number), "v": np.full(4000, -number)}, overwrite=True)
                except Exception as error:  # noqa: BLE001 - told below
                    wrong.append(error)
                number += 2

        threads = [threading.Thread(target=write, args=(start,)) for start in (1, 2)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            try:
                opened = checkpoint.open(path)
                w, v = opened.lazy("w")[5:9].read(), opened.lazy("v").read()
            except errors.CheckpointChangedError:
                seen.append("changed")
            else:
                seen.append("read")
                assert set(w.tolist()) == {w[0]}
                assert (v == -w[0]).all()
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert seen
        assert not checkpoint.leftovers(tmp_path)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("change", ["replaced", "replaced twice", "removed", "cut", "copied over", "moved"])
def test_what_is_open_is_what_was_opened(tmp_path, kind, change):
    path = tmp_path / kind
    made = {name: np.full(2000, number, np.float32) for number, name in enumerate("abc")}
    other = {"c": np.full(2000, 7, np.float32), "d": np.full(2000, 8, np.float32), "a": np.full(2000, 9, np.float32)}
    checkpoint.save(path, made)
    opened = checkpoint.open(path)
    lazy, part = opened.lazy("a"), opened.lazy("b")[100:200]
    if change.startswith("replaced"):
        for _ in range(1 + change.endswith("twice")):
            checkpoint.save(path, other, overwrite=True)
    elif change == "removed":
        _files.remove(path)
    elif change == "moved":
        path.rename(tmp_path / "away")
    elif change == "cut":
        for file in files_of(path):
            os.truncate(file, file.stat().st_size // 2)
    else:
        checkpoint.save(tmp_path / f"other_{kind}", other)
        if path.is_dir():
            for file in files_of(path):
                file.unlink()
            shutil.copytree(tmp_path / f"other_{kind}", path, dirs_exist_ok=True)
        else:
            shutil.copyfile(tmp_path / f"other_{kind}", path)
    for read in (
        lazy.read,
        part.read,
        lambda: checkpoint.restore(opened, verify=False),
        lambda: dict(opened.read_many(["c"], verify=True)),
    ):
        with pytest.raises(errors.CheckpointChangedError, match=r"no longer what was opened"):
            read()
    with pytest.raises(errors.CheckpointChangedError):
        checkpoint.verify(opened)


def test_a_run_that_is_pruned_while_it_is_read(tmp_path):
    run = checkpoint.Manager(tmp_path / "run", keep=[checkpoint.KeepLast(1)])
    run.save(1, ONE)
    opened = run.open()
    run.save(2, TWO)
    with pytest.raises(errors.CheckpointChangedError, match="no longer there"):
        opened.lazy("w").read()
    assert_same(run.restore(), TWO)


REFUSED = """
import os, sys, threading, time
import numpy as np
from batiste import checkpoint, errors
tree = {"w": np.arange(4, dtype=np.float32), "large": np.zeros(400_000)}
start = time.monotonic()
for place in sys.argv[1:]:
    for kind in ("", ".safetensors", ".npz", ".msgpack"):
        for save in (checkpoint.save, lambda *args: checkpoint.save_async(*args).wait()):
            try:
                save(place + kind, tree)
            except (errors.CheckpointWriteError, errors.CheckpointExistsError) as error:
                print(type(error).__name__, repr(place[-20:] + kind))
            else:
                print("saved", repr(place + kind))
others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
print("threads", others)
"""


def test_what_the_system_refuses_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    places = [
        tmp_path / "file" / "one",  # a file in the place of a folder
        tmp_path / ("n" * 256),  # too long
        tmp_path / ("n" * 300) / "one",
        "/proc/one",  # a file system that makes no files
        "/dev/null/one",
        tmp_path / "x" / ("é" * 200),
    ]
    start = time.monotonic()
    command = [sys.executable, "-c", REFUSED, *map(str, places)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("CheckpointWriteError") == 8 * len(places), done.stdout
    assert "threads []" in done.stdout
    assert time.monotonic() - start < 60
    assert {entry.name for entry in tmp_path.iterdir()} <= {"file", "x"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_folder_of_somebody_else(tmp_path):
    for parent in [tmp_path, *tmp_path.parents]:
        if not parent.stat().st_mode & 0o001:
            pytest.skip("the folders above are closed to others")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    source = f"import os\nos.setuid(65534)\n{REFUSED}"
    command = [sys.executable, "-c", source, str(closed / "one")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.count("CheckpointWriteError") == 8, done.stderr
    assert names_in(closed) == []


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("number", [errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("where", ["_flush", "_flush_folder"])
def test_a_disk_that_fails(tmp_path, monkeypatch, kind, number, where):
    checkpoint.save(tmp_path / kind, ONE)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_files, where, fail)
    with pytest.raises(errors.CheckpointWriteError, match=os.strerror(number)):
        checkpoint.save(tmp_path / f"new_{kind}", TWO)
    monkeypatch.undo()
    assert_same(checkpoint.restore(tmp_path / kind), ONE)
    assert not checkpoint.leftovers(tmp_path)


NAMES = (
    "lr=[0.1]", "a*b", "a?b", "a#b", "a%20b", "%", "a b", "a,b=c;d", "ünï", "日本", "~x", "a:b", "{x}", "-x", "x.",
    ".x",
    "a\nb", "a\\b", "\\", "'\"", "$HOME", "`x`", "a\tb", "...", " ", "e\u0301", "a|b", "<x>", "!x", "x\x7f", "\x01",
    "n" * 250, "é" * 125, os.fsdecode(b"\xff\xfe"), "d", "state", "c",
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_names(tmp_path, number):
    """Of folders above, of the checkpoint, and of leaves: each name as a folder, and as a file of some format."""
    name = NAMES[number]
    leaf = name if name.isprintable() or name.isascii() else "x"
    made = {leaf: {"w": np.arange(4.0)}, "w": {leaf: np.arange(3.0), f"{leaf}.{leaf}/{leaf}": np.ones(2)}}
    ending = (".safetensors", ".npz", ".msgpack")[number % 3]
    places = [tmp_path / name / "c", tmp_path / name / f"c{ending}", tmp_path / f"_{name}"]
    if len(os.fsencode(name)) < 240:
        places.append(tmp_path / f"{name}{ending}")
    for path in places:
        checkpoint.save(path, made)
        if path.suffix != ".msgpack":
            assert checkpoint.verify(path).digests
        assert_same(checkpoint.restore(path, made), made)
        assert_same(checkpoint.open(path)["**"]["w"][leaf][1:].read(), made["w"][leaf][1:])
        with pytest.raises(errors.CheckpointExistsError):
            checkpoint.save(path, made)
    checkpoint.save(places[0], checkpoint.open(places[1]), overwrite=True)
    assert_same(checkpoint.restore(places[0], made), made)
    assert not checkpoint.leftovers(tmp_path)
    assert not checkpoint.leftovers(tmp_path / name)


@pytest.mark.parametrize("kind", EVERY)
def test_a_leaf_whose_name_is_no_text(tmp_path, kind):
    with pytest.raises(errors.UnsavableTreeError, match="no text"):
        checkpoint.save(tmp_path / kind, {"a\udc80": np.ones(2)})
    assert names_in(tmp_path) == []


def test_a_name_with_a_null_character(tmp_path):
    for call in (lambda path: checkpoint.save(path, ONE), checkpoint.open, checkpoint.restore, checkpoint.Manager):
        with pytest.raises(errors.ArgumentError, match="null character"):
            call(f"{tmp_path}/a\0b")
    assert names_in(tmp_path) == []


def test_what_orbax_leaves_unfinished_is_no_checkpoint(tmp_path):
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(1, args=ocp.args.StandardSave(ONE))
    one, left = tmp_path / "run" / "1", tmp_path / "run" / "2.orbax-checkpoint-tmp"
    shutil.copytree(one, left)  # complete but for its name
    part = tmp_path / "run" / "3"
    shutil.copytree(one, part)
    (part / "default").rename(part / "default.orbax-checkpoint-tmp")
    for path in (left, left / "default", part, part / "default.orbax-checkpoint-tmp"):
        for call in (checkpoint.open, checkpoint.restore, checkpoint.verify):
            with pytest.raises(errors.RefusedCheckpointError, match="unfinished"):
                call(path)
    assert len(checkpoint.open(one).paths()) == 1
