"""``flax.training.checkpoints``: a folder of checkpoints, one a step, with the newest few kept.

``save_checkpoint`` writes a folder with Orbax, or one file of MessagePack bytes where the switch
``flax_use_orbax_checkpointing`` is off; ``restore_checkpoint`` sees by itself which of the two it reads. Flax reads
what is written here, and the other way round. Shapes and dtypes are not compared with the target's, as in Flax;
``batiste.checkpoint`` does compare them, and checks digests.

Differences from Flax: an error of a save in the background is raised by ``wait_previous_save`` and not lost; the
checkpoint just written is never among those removed; with an asynchronous Orbax checkpointer older ones are removed
only once the new one is complete; arrays that lie on several processes are Orbax's alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import jax

from batiste.compat.flax import io
from batiste.compat.flax._packages import load
from batiste.compat.flax.configurations import config
from batiste.compat.flax.core.frozen_dict import FrozenDict
from batiste.compat.flax.serialization import from_state_dict, msgpack_restore, to_bytes, to_state_dict
from batiste.compat.flax.training._checkpoint_files import (
    Keeping,
    all_checkpoints,
    natural_sort,
    path_of_step,
    remove,
    safe_normpath,
    step_of_path,
    superfluous,
    temporary_path,
    written_by_orbax,
)
from batiste.compat.flax.training.orbax_utils import (
    maybe_construct_transformations,
    restore_args_from_target,
    save_args_from_target,
)
from batiste.errors import (
    InvalidCheckpointError,
    MissingCheckpointError,
    MPACheckpointingRequiredError,
    OrbaxTargetError,
)
from batiste.typing import PyTree

__all__ = [
    "AsyncManager",
    "available_steps",
    "convert_pre_linen",
    "latest_checkpoint",
    "natural_sort",
    "restore_checkpoint",
    "safe_normpath",
    "save_checkpoint",
    "save_checkpoint_multiprocess",
]

_PREFIX = "checkpoint_"
_PLACEHOLDER = "//GDAPlaceholder:"  # what Flax writes where an array lies beside the file
_NUMBERED = re.compile(r"(.*)_\d+")

_Path = str | os.PathLike[str]


class AsyncManager:
    """Writes files of MessagePack bytes in the background, one after another.

    Args:
      max_workers: how many threads to keep for it.
    """

    def __init__(self, max_workers: int = 1) -> None:
        self.executor = ThreadPoolExecutor(max_workers=max_workers)
        self.save_future: Future[Any] | None = None

    def wait_previous_save(self) -> None:
        """Wait until the save at work is complete, and raise what it raised."""
        future, self.save_future = self.save_future, None
        if future is not None:
            future.result()

    def save_async(self, task: Callable[[], Any]) -> None:
        """Run a task in the background, after the one at work."""
        self.wait_previous_save()
        self.save_future = self.executor.submit(task)


def save_checkpoint(
    ckpt_dir: _Path,
    target: PyTree,
    step: float,
    prefix: str = _PREFIX,
    keep: int = 1,
    overwrite: bool = False,
    keep_every_n_steps: int | None = None,
    async_manager: AsyncManager | None = None,
    orbax_checkpointer: Any = None,
) -> str:
    """Save a tree as the checkpoint of a step, from a single process.

    Args:
      ckpt_dir: the folder of checkpoints.
      target: the tree; for Orbax it must have containers.
      step: the step, or a metric that grows.
      prefix: how the names of checkpoints begin.
      keep: how many of the newest to keep.
      overwrite: whether one of this step or a later one may be there; later ones are removed.
      keep_every_n_steps: if given, older ones that are so many steps apart are kept too.
      async_manager: writes the file in the background; only for MessagePack.
      orbax_checkpointer: an Orbax checkpointer for trees, to save with; it may be asynchronous.

    Returns:
      The path of the checkpoint.

    Raises:
      InvalidCheckpointError: a checkpoint of this step (for MessagePack, of a later one too) is there.
      OrbaxTargetError: Orbax is given a leaf alone.
    """
    jax.effects_barrier()
    keeping = Keeping(prefix, keep, overwrite, keep_every_n_steps)
    if async_manager is not None:
        async_manager.wait_previous_save()
    if orbax_checkpointer is not None or config.flax_use_orbax_checkpointing:
        return _save_with_orbax(ckpt_dir, target, step, keeping, orbax_checkpointer)
    return _save_bytes(ckpt_dir, target, step, keeping, async_manager)


def save_checkpoint_multiprocess(
    ckpt_dir: _Path,
    target: PyTree,
    step: float,
    prefix: str = _PREFIX,
    keep: int = 1,
    overwrite: bool = False,
    keep_every_n_steps: int | None = None,
    async_manager: AsyncManager | None = None,
    gda_manager: Any = None,
    orbax_checkpointer: Any = None,
) -> str:
    """Save a tree as the checkpoint of a step, from all processes to one folder.

    Every process calls it. Orbax writes each process's part; a MessagePack file is written by the first one.

    Args:
      ckpt_dir: the folder of checkpoints.
      target: the tree; for Orbax it must have containers.
      step: the step, or a metric that grows.
      prefix: how the names of checkpoints begin.
      keep: how many of the newest to keep.
      overwrite: whether one of this step or a later one may be there; later ones are removed.
      keep_every_n_steps: if given, older ones that are so many steps apart are kept too.
      async_manager: writes the file in the background; only for MessagePack.
      gda_manager: accepted, and not used: Orbax writes arrays of several processes.
      orbax_checkpointer: an Orbax checkpointer for trees, to save with; it may be asynchronous.

    Returns:
      The path of the checkpoint.

    Raises:
      InvalidCheckpointError: a checkpoint of this step (for MessagePack, of a later one too) is there.
      MPACheckpointingRequiredError: an array of several processes is to go into a MessagePack file.
      OrbaxTargetError: Orbax is given a leaf alone.
    """
    del gda_manager
    settings = (prefix, keep, overwrite, keep_every_n_steps, async_manager, orbax_checkpointer)
    if orbax_checkpointer is not None or config.flax_use_orbax_checkpointing or jax.process_count() == 1:
        return save_checkpoint(ckpt_dir, target, step, *settings)
    path = path_of_step(ckpt_dir, step, prefix)
    _refuse_remote_arrays(target, path)
    if jax.process_index() == 0:
        save_checkpoint(ckpt_dir, target, step, *settings)
    load("jax.experimental.multihost_utils", "A barrier", "jax").sync_global_devices(f"flax checkpoint {path}")
    return path


def restore_checkpoint(
    ckpt_dir: _Path,
    target: PyTree | None,
    step: float | None = None,
    prefix: str = _PREFIX,
    parallel: bool = True,
    gda_manager: Any = None,
    allow_partial_mpa_restoration: bool = False,
    orbax_checkpointer: Any = None,
    orbax_transforms: dict[str, Any] | None = None,
) -> PyTree:
    """Return a tree like ``target`` from the newest checkpoint of a folder, or from that of a step.

    Args:
      ckpt_dir: the folder of checkpoints, or one checkpoint.
      target: a tree of the wanted structure; None for the bare state dict. Where Orbax wrote the checkpoint, arrays
        come back with the target's shardings.
      step: the step; None for the newest.
      prefix: how the names of checkpoints begin.
      parallel: accepted, and not used.
      gda_manager: accepted, and not used.
      allow_partial_mpa_restoration: whether arrays that lie beside a MessagePack file may be left as placeholders.
      orbax_checkpointer: an Orbax checkpointer for trees, to restore with.
      orbax_transforms: Orbax's transformations of the tree.

    Returns:
      The tree, or ``target`` itself where there is no checkpoint and no step was asked for.

    Raises:
      MissingCheckpointError: there is no checkpoint of the step.
      StateDictKeysError: the structure is another one.
      MPACheckpointingRequiredError: arrays lie beside the file, and are not to be left out.
    """
    del parallel, gda_manager
    jax.effects_barrier()
    path: str | None = safe_normpath(os.fspath(ckpt_dir))
    if step is not None:
        path = path_of_step(ckpt_dir, step, prefix)
        if not io.exists(path):
            raise MissingCheckpointError(path=path)
    elif io.isdir(path) and not written_by_orbax(path):
        path = latest_checkpoint(ckpt_dir, prefix)
    if path is None or not io.exists(path):
        return target
    if written_by_orbax(path):
        return _restore_with_orbax(path, target, orbax_checkpointer, orbax_transforms)
    with io.GFile(path, "rb") as file:
        state = msgpack_restore(file.read())
    if not allow_partial_mpa_restoration and _has_placeholder(state):
        raise MPACheckpointingRequiredError(path=path, what="has arrays that lie beside it")
    return state if target is None else from_state_dict(target, state)


def latest_checkpoint(ckpt_dir: _Path, prefix: str = _PREFIX) -> str | None:
    """Return the path of a folder's newest checkpoint, or None."""
    paths = all_checkpoints(ckpt_dir, prefix)
    return paths[-1] if paths else None


def available_steps(ckpt_dir: _Path, prefix: str = _PREFIX, step_type: type = int) -> list[int | float]:
    """Return the steps of a folder's checkpoints, the lowest first.

    Args:
      ckpt_dir: the folder of checkpoints.
      prefix: how the names of checkpoints begin.
      step_type: what steps are given as: ``int`` or ``float``.
    """
    steps = [step_of_path(path, prefix) for path in all_checkpoints(ckpt_dir, prefix)]
    return [step_type(step) for step in steps if step is not None]


def convert_pre_linen(params: PyTree) -> PyTree:
    """Return parameters of Flax before Linen with the names that Linen gives.

    Before Linen submodules were numbered together: ``Conv_0``, ``Dense_1``. Linen counts each class alone: ``Conv_0``,
    ``Dense_0``. Parameters that have Linen's names already are returned as they are.

    Args:
      params: a nested dict or frozen dict of parameters.
    """
    if not isinstance(params, dict | FrozenDict):
        return params
    named = cast("Mapping[str, Any]", params)
    counts: dict[str, int] = {}
    renamed: dict[str, Any] = {}
    for name in natural_sort(named):
        value = convert_pre_linen(named[name])
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None:
            renamed[name] = value
            continue
        kind = numbered[1]
        renamed[f"{kind}_{counts.get(kind, 0)}"] = value
        counts[kind] = counts.get(kind, 0) + 1
    return cast("PyTree", FrozenDict(renamed) if isinstance(params, FrozenDict) else renamed)


def _save_with_orbax(folder: _Path, target: PyTree, step: float, keeping: Keeping, checkpointer: Any) -> str:
    if _stands_alone(target):
        raise OrbaxTargetError(given=f"a {type(target).__name__} with nothing below it")
    path = path_of_step(folder, step, keeping.prefix)
    if io.exists(path) and not keeping.overwrite:
        raise InvalidCheckpointError(step=step, path=path)
    checkpointer = checkpointer or _orbax().PyTreeCheckpointer()
    checkpointer.save(_absolute(path), target, save_args=save_args_from_target(target), force=keeping.overwrite)
    gone = superfluous(folder, path, keeping)
    if gone and hasattr(checkpointer, "wait_until_finished"):
        checkpointer.wait_until_finished()
    for old in gone if jax.process_index() == 0 else ():
        remove(old)
    return path


def _restore_with_orbax(path: str, target: PyTree | None, checkpointer: Any, transforms: Any) -> PyTree:
    checkpointer = checkpointer or _orbax().PyTreeCheckpointer()
    if target is None:
        return to_state_dict(checkpointer.restore(_absolute(path), item=None, transforms=transforms))
    if _stands_alone(target):
        return target
    restored = checkpointer.restore(
        _absolute(path),
        item=target,
        restore_args=restore_args_from_target(target),
        transforms=maybe_construct_transformations(target, transforms),
    )
    return from_state_dict(target, to_state_dict(restored))  # the target's order of keys


def _stands_alone(target: PyTree) -> bool:
    return cast("Any", jax.tree.structure(target)).num_nodes == 1


def _save_bytes(
    folder: _Path, target: PyTree, step: float, keeping: Keeping, async_manager: AsyncManager | None
) -> str:
    path = path_of_step(folder, step, keeping.prefix)
    _refuse_remote_arrays(target, path)
    newest = latest_checkpoint(folder, keeping.prefix)
    if not keeping.overwrite and newest is not None and natural_sort([newest, path])[-1] == newest:
        raise InvalidCheckpointError(step=step, path=path)
    content = to_bytes(target)
    unfinished = temporary_path(folder, keeping.prefix)

    def write() -> None:
        io.makedirs(os.path.dirname(path))  # noqa: PTH120 - it may be gs://
        with io.GFile(unfinished, "wb") as file:
            file.write(content)
        if io.isdir(path):
            remove(path)
        io.rename(unfinished, path, overwrite=keeping.overwrite)
        for old in superfluous(folder, path, keeping):
            remove(old)

    if async_manager is None:
        write()
    else:
        async_manager.save_async(write)
    return path


def _refuse_remote_arrays(target: PyTree, path: str) -> None:
    for leaf in jax.tree.leaves(target):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            raise MPACheckpointingRequiredError(path=path, what="would hold an array that lies on several processes")


def _has_placeholder(state: Any) -> bool:
    if isinstance(state, dict):
        return any(map(_has_placeholder, cast("dict[Any, Any]", state).values()))
    return isinstance(state, str) and state.startswith(_PLACEHOLDER)


def _absolute(path: str) -> str:
    """Return a path as Orbax wants it: from the root, or with a scheme."""
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100 - a string stays a string


def _orbax() -> Any:
    return load("orbax.checkpoint", "Orbax's checkpoints", "batiste[checkpoint]")
