"""Every error of `batiste.compat`, raised by the smallest program, says what was given and what to do instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import batiste.errors._compat as catalogue
from batiste.compat.flax import configurations, cursor, io, jax_utils, serialization, traverse_util
from batiste.compat.flax.core import freeze
from batiste.compat.flax.training import checkpoints
from batiste.errors import BatisteError, BatisteWarning


def save_outdated(folder):
    for _ in range(2):
        checkpoints.save_checkpoint(folder, {"a": jnp.ones(1)}, 1)


def copy_onto(folder):
    (folder / "a").write_text("")
    io.copy(str(folder / "a"), str(folder / "a"))


def restore_placeholder(folder):
    (folder / "checkpoint_1").write_bytes(serialization.to_bytes({"a": "//GDAPlaceholder:a"}))
    checkpoints.restore_checkpoint(folder, None)


class Box:
    pass


def register_twice(folder):
    serialization.register_serialization_state(dict, dict, lambda target, state: target)


def return_number_key(folder):
    serialization.register_serialization_state(Box, lambda box: {1: 2}, lambda box, state: box, override=True)
    serialization.to_state_dict(Box())


def bad_environment(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_SWITCH", "perhaps")
        configurations.static_bool_env("MY_SWITCH", default=True)


PROGRAMS = {
    "AlreadyExistsError": copy_onto,
    "ArrayBytesError": lambda folder: serialization.to_bytes(jax.random.key(0)),
    "BackendModeError": lambda folder: io.set_mode("TF"),
    "BatchSizesError": lambda folder: jax_utils.pad_shard_unpad(print)(1),
    "CorruptBytesError": lambda folder: serialization.msgpack_restore(b""),
    "CursorAttributeError": lambda folder: cursor.cursor({}).x,
    "CursorFindError": lambda folder: cursor.cursor({}).find(lambda path, value: True),
    "CursorIndexError": lambda folder: cursor.cursor(1)["a"],
    "CursorIterationError": lambda folder: list(cursor.cursor({})),
    "CursorKeyError": lambda folder: cursor.cursor({"a": 1})["b"],
    "FlagExistsError": lambda folder: configurations.bool_flag("flax_profile", default=True, help=""),
    "FlagTruthError": lambda folder: bool(configurations.flax_profile),
    "FlagValueError": bad_environment,
    "FlatKeyError": lambda folder: traverse_util.unflatten_dict({(): 1}),
    "FrozenDictError": lambda folder: freeze({}).__setitem__("a", 1),
    "HandlerRegisteredError": register_twice,
    "InvalidCheckpointError": save_outdated,
    "MPACheckpointingRequiredError": restore_placeholder,
    "MissingCheckpointError": lambda folder: checkpoints.restore_checkpoint(folder, None, step=1),
    "NotADictError": lambda folder: freeze(1),
    "OrbaxTargetError": lambda folder: checkpoints.save_checkpoint(folder, 1, 1),
    "ReplicaAxisError": lambda folder: jax_utils.unreplicate(1),
    "ScanAxesError": lambda folder: jax_utils.scan_in_dim(print, 0, np.ones(1), axis=()),
    "StateDictError": return_number_key,
    "StateDictKeysError": lambda folder: serialization.from_state_dict([1], {}),
    "TraversalError": lambda folder: traverse_util.t_identity.each().update(str, 1),
    "TraversalValuesError": lambda folder: traverse_util.t_identity.set([], 1),
    "UnknownFlagError": lambda folder: configurations.config.update("nothing", 1),
    "UnserializableError": lambda folder: serialization.to_bytes(object()),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")
@pytest.mark.parametrize("name", PROGRAMS)
def test_errors(name, tmp_path):
    kind = getattr(catalogue, name)
    with pytest.raises(kind) as raised:
        PROGRAMS[name](tmp_path)
    assert type(raised.value) is kind
    lines = str(raised.value).splitlines()
    assert lines[-1] == f"  [{kind.code}]"
    assert len(lines) == 3
    assert "{" not in kind.message.format(**raised.value.context).replace("{'", "").replace("{}", "")


def test_every_error_has_a_program():
    errors = [name for name in catalogue.__all__ if issubclass(getattr(catalogue, name), BatisteError)]
    assert sorted(PROGRAMS) == sorted(errors)
    assert all(issubclass(getattr(catalogue, name), BatisteError | BatisteWarning) for name in catalogue.__all__)
    codes = [getattr(catalogue, name).code for name in errors]
    assert len(set(codes)) == len(codes)
