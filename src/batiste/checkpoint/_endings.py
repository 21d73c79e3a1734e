"""Which format a checkpoint is written in: the ending of its name says so, and an ending that looks like one is none.

``weights.safetensor`` and ``weights.npy`` are mistakes, and not folders of that name; ``v1.5`` is a folder.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from batiste._arguments import path as checked_path
from batiste.errors import CheckpointArgumentError

__all__ = ["Format", "format_of"]

Format: TypeAlias = Literal["safetensors", "npz", "msgpack", "orbax"]
"""A format that ``save`` writes; ``"orbax"`` is a directory."""

_WRITTEN: Final[Mapping[str, Format]] = MappingProxyType(
    {".safetensors": "safetensors", ".npz": "npz", ".msgpack": "msgpack"}
)
_OTHERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".npy": ".npz",
        ".zip": ".npz",
        ".mat": ".npz",
        ".pt": ".safetensors",
        ".pth": ".safetensors",
        ".bin": ".safetensors",
        ".gguf": ".safetensors",
        ".onnx": ".safetensors",
        ".tar": ".safetensors",
        ".gz": ".safetensors",
        ".st": ".safetensors",
        ".h5": ".safetensors",
        ".hdf5": ".safetensors",
        ".keras": ".safetensors",
        ".eqx": ".safetensors",
        ".json": ".safetensors",
        ".pkl": ".msgpack",
        ".pickle": ".msgpack",
        ".mpk": ".msgpack",
    }
)


def format_of(path: str | os.PathLike[str]) -> Format:
    """Return the format that ``save`` writes at a path: that of its ending, or a directory where it has none of these.

    Raises:
      ArgumentError: if it is no path.
      CheckpointArgumentError: if the ending is that of a file, or nearly so, and no such file is written.

    Example:
      >>> from batiste import checkpoint
      >>> checkpoint.format_of("run.safetensors"), checkpoint.format_of("run")
      ('safetensors', 'orbax')
    """
    name = Path(checked_path(path, "path", "checkpoint.format_of")).name
    ending = Path(name).suffix
    if ending in _WRITTEN:
        return _WRITTEN[ending]
    ending = ending or (name if name in _WRITTEN else "")
    small = ending.lower()
    near = small if small in _WRITTEN else _OTHERS.get(small)
    near = near or next(iter(difflib.get_close_matches(small, _WRITTEN, n=1, cutoff=0.7)), None)
    if not ending or near is None:
        return "orbax"
    known = small in _OTHERS
    reason = f"{ending} files are read only" if known else f"{ending} is not the ending of a file that is written"
    cure = f"Write a `{near}` file, or a folder: a name without such an ending."
    raise CheckpointArgumentError(argument="path", value=str(path), reason=reason, cure=cure)
