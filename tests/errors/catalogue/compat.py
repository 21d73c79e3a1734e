"""Flax's module layout over batiste: what its functions refuse, and what is there for its name alone."""

import os
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from batiste.compat.flax import configurations, cursor, io, jax_utils, serialization, traverse_util
from batiste.compat.flax.core import freeze
from batiste.compat.flax.training import checkpoints
from batiste.errors import (
    AlreadyExistsError,
    ArrayBytesError,
    BackendModeError,
    BatchSizesError,
    CorruptBytesError,
    CursorAttributeError,
    CursorFindError,
    CursorIndexError,
    CursorIterationError,
    CursorKeyError,
    FlagExistsError,
    FlagIgnoredWarning,
    FlagTruthError,
    FlagValueError,
    FlatKeyError,
    FlaxDeprecationWarning,
    FrozenDictError,
    HandlerRegisteredError,
    InvalidCheckpointError,
    MissingCheckpointError,
    MPACheckpointingRequiredError,
    NotADictError,
    OrbaxTargetError,
    ReplicaAxisError,
    ScanAxesError,
    StateDictError,
    StateDictKeysError,
    TraversalError,
    TraversalValuesError,
    UnknownFlagError,
    UnserializableError,
)
from tests.errors.rows import raises, x


@raises(AlreadyExistsError, "notes.txt exists already")
def a_file_is_copied_onto_itself():
    Path("notes.txt").write_text("", encoding="utf-8")
    io.copy("notes.txt", "notes.txt")


@raises(ArrayBytesError, "key<fry>")
def a_random_key_is_written():
    serialization.to_bytes({"key": jax.random.key(0)})


@raises(BackendModeError, "'TF' is no way to reach files")
def an_unknown_backend():
    io.set_mode("TF")


@raises(BatchSizesError, "no batch")
def nothing_to_pad():
    jax_utils.pad_shard_unpad(jnp.sum)(1)


@raises(CorruptBytesError, "The 0 bytes cannot be read")
def an_empty_file():
    serialization.msgpack_restore(b"")


@raises(CursorAttributeError, "no attribute 'width'")
def an_attribute_of_a_dict():
    cursor.cursor({}).width  # noqa: B018 - it raises


@raises(CursorFindError, "one object")
def a_condition_of_several():
    cursor.cursor({"a": 1, "b": 2}).find(lambda path, value: True)


@raises(CursorIndexError, "int cannot be indexed", "['a']")
def a_number_is_indexed():
    cursor.cursor(1)["a"]


@raises(CursorIterationError, "a dict cannot be iterated")
def a_dict_is_iterated():
    list(cursor.cursor({}))


@raises(CursorKeyError, "no key 'kernal'")
def a_misspelt_key():
    cursor.cursor({"kernel": 1})["kernal"]


@raises(FlagExistsError, "'flax_profile' is declared already")
def a_switch_is_declared_twice():
    configurations.bool_flag("flax_profile", default=True, help="Mine.")


@raises(FlagTruthError, "'flax_profile' is an object")
def a_switch_as_a_condition():
    bool(configurations.flax_profile)


@raises(FlagValueError, "MY_SWITCH is 'perhaps'")
def a_switch_that_is_neither():
    with mock.patch.dict(os.environ, {"MY_SWITCH": "perhaps"}):
        configurations.static_bool_env("MY_SWITCH", default=True)


@raises(FlatKeyError, "()")
def a_value_without_a_path():
    traverse_util.unflatten_dict({(): 1})


@raises(FrozenDictError, "'bias' cannot be assigned")
def a_frozen_dict_is_changed():
    variables = freeze({"kernel": x})
    variables["bias"] = x


@raises(HandlerRegisteredError, "dict already has")
def a_type_is_registered_twice():
    serialization.register_serialization_state(dict, dict, lambda target, state: target)


@raises(InvalidCheckpointError, "Step 1")
def a_step_is_saved_twice():
    checkpoints.save_checkpoint(Path.cwd(), {"w": x}, step=1)
    checkpoints.save_checkpoint(Path.cwd(), {"w": x}, step=1)


@raises(MissingCheckpointError, "no checkpoint at")
def a_step_that_is_not_there():
    checkpoints.restore_checkpoint(Path.cwd(), None, step=1)


@raises(MPACheckpointingRequiredError, "whole arrays only")
def a_part_of_an_array():
    Path("checkpoint_1").write_bytes(serialization.to_bytes({"a": "//GDAPlaceholder:a"}))
    checkpoints.restore_checkpoint(Path.cwd(), None)


@raises(NotADictError, "freeze takes a", "not a list")
def a_list_is_frozen():
    freeze([1])


@raises(OrbaxTargetError, "trees of arrays")
def a_number_is_saved_by_orbax():
    checkpoints.save_checkpoint(Path.cwd(), 1, step=1)


@raises(ReplicaAxisError, "unreplicate needs arrays with a leading axis")
def a_number_is_unreplicated():
    jax_utils.unreplicate(1)


@raises(ScanAxesError, "The axes () cannot be scanned over")
def a_scan_over_no_axis():
    jax_utils.scan_in_dim(lambda carry, row: (carry, row), 0, np.ones(1), axis=())


@raises(StateDictError, "no string")
def a_state_dict_with_numbers():
    class Box:
        pass

    serialization.register_serialization_state(Box, lambda box: {1: 2}, lambda box, state: box)
    serialization.to_state_dict(Box())


@raises(StateDictKeysError, "only in the target")
def a_state_dict_of_another_length():
    serialization.from_state_dict([1, 2], {"0": 1})


@raises(TraversalError, "cannot walk into")
def a_number_is_traversed():
    traverse_util.t_identity.each().update(str, 1)


@raises(TraversalValuesError, "0 values for 1 places")
def too_few_values():
    traverse_util.t_identity.set([], 1)


@raises(UnknownFlagError, "no configuration switch 'flax_profil'", "Did you mean 'flax_profile'?")
def a_misspelt_switch():
    configurations.config.update("flax_profil", True)


@raises(UnserializableError, "object")
def an_object_is_written():
    serialization.to_bytes({"x": object()})


@raises(FlagIgnoredWarning, "flax_profile=False", "changes nothing")
def a_switch_that_nothing_reads():
    configurations.config.update("flax_profile", False)


@raises(FlaxDeprecationWarning, "deprecated")
def a_class_of_older_flax():
    traverse_util.TraverseTree()
