"""Checkpoints: files that are not there, are damaged, or hold something else than is asked for."""

import importlib.util
import json
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp

from batiste import checkpoint
from batiste.errors import (
    CheckpointArgumentError,
    CheckpointChangedError,
    CheckpointExistsError,
    CheckpointFormatError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    DamagedCheckpointError,
    FormatLossError,
    MissingPackageError,
    NoStepError,
    RefusedCheckpointError,
    RemoteShardsError,
    UnknownPolicyError,
    UnmatchedPolicyError,
    UnsavableLeafError,
    UnsavableTreeError,
)
from tests.errors.rows import raises, x


@raises(CheckpointArgumentError, "pt")
def a_format_that_is_not_written():
    checkpoint.save("model.pt", {"w": x})


@raises(CheckpointChangedError, "model.safetensors")
def a_file_that_was_replaced_since_it_was_opened():
    checkpoint.save("model.safetensors", {"w": x})
    opened = checkpoint.open("model.safetensors")
    checkpoint.save("model.safetensors", {"w": x + 1}, overwrite=True)
    opened.lazy("w").read()


@raises(CheckpointExistsError, "model.safetensors")
def a_file_that_is_there():
    checkpoint.save("model.safetensors", {"w": x})
    checkpoint.save("model.safetensors", {"w": x})


@raises(CheckpointFormatError, "notes.txt")
def a_file_of_another_kind():
    Path("notes.txt").write_text("not a checkpoint", encoding="utf-8")
    checkpoint.open("notes.txt")


@raises(CheckpointMismatchError, "v", "w")
def another_model():
    checkpoint.save("model.safetensors", {"w": x})
    checkpoint.restore("model.safetensors", {"v": x})


@raises(CheckpointNotFoundError, "model.safetensors")
def a_file_that_is_not_there():
    checkpoint.open("model.safetensors")


@raises(CheckpointWriteError, "file")
def a_folder_that_is_a_file():
    Path("file").write_text("", encoding="utf-8")
    checkpoint.save("file/model", {"w": x})


@raises(DamagedCheckpointError, "model")
def a_manifest_without_its_contents():
    checkpoint.save("model", {"w": x})
    Path("model/batiste.json").write_text("{}", encoding="utf-8")
    checkpoint.open("model")


@raises(FormatLossError, "step: 100", "model.msgpack")
def a_step_in_a_file_of_flax():
    checkpoint.save("model.msgpack", {"w": x}, step=100)


@raises(MissingPackageError, "pip install")
def a_package_that_is_not_installed():
    with mock.patch.object(importlib.util, "find_spec", return_value=None):
        checkpoint.save("model", {"w": x})


@raises(NoStepError, "runs")
def a_folder_without_steps():
    checkpoint.Manager("runs").open()


@raises(RefusedCheckpointError, "../secret")
def a_file_outside_of_its_folder():
    index = {"weight_map": {"w": "../secret"}}
    Path("x.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    checkpoint.open(".")


@raises(RemoteShardsError, "w")
def an_array_of_other_processes():
    array = jnp.ones(1)
    with mock.patch.object(type(array), "is_fully_addressable", new=False):
        checkpoint.save("model", {"w": array})


@raises(UnknownPolicyError, "ignore")
def an_unknown_policy():
    checkpoint.save("model.safetensors", {"w": x})
    checkpoint.restore("model.safetensors", {"w": x}, extra="ignore")


@raises(UnmatchedPolicyError, "x/**")
def a_policy_for_nothing():
    checkpoint.save("model.safetensors", {"w": x})
    checkpoint.restore("model.safetensors", {"w": x}, extra={"x/**": "drop"})


@raises(UnsavableLeafError, "step")
def a_function_is_saved():
    checkpoint.save("model", {"w": x, "step": jax.jit})


@raises(UnsavableTreeError, "keys are of type float", "strings or with integers")
def a_fraction_as_a_key():
    checkpoint.save("model", {1.5: x})
