"""PyTorch files (``.pt``, ``.pth``, ``.bin``), through ``torch.load(weights_only=True)`` alone: read only.

Such a file is a pickle, and a pickle is a program. PyTorch's restricted loader builds tensors and plain containers and
refuses anything else; there is no way here to make it do more. PyTorch must be installed.

The levels of a path are the file's own containers; a state dict's name such as ``encoder.0.weight`` stays one name.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, dtype_by_name
from batiste.checkpoint._manifest import Manifest, check_paths
from batiste.checkpoint._orbax import require
from batiste.checkpoint._types import Box, Damage, NumpyArray, PythonKind, Record
from batiste.checkpoint._unchanged import Unchanged
from batiste.errors import CheckpointFormatError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["TorchSource"]


class TorchSource:
    """A PyTorch file, opened: tensors are mapped into memory where the file's format allows it.

    Raises:
      MissingPackageError: if PyTorch is not installed.
      RefusedCheckpointError: if the file needs more than tensors and plain containers.
      CheckpointFormatError: if it is no PyTorch file.
    """

    def __init__(self, path: Path) -> None:
        require("torch", "torch", "Reading a PyTorch file")
        self._torch: Any = importlib.import_module("torch")
        self._path = path
        self._tensors: dict[str, Any] = {}
        self._manifest = Manifest({}, storage={"format": "torch"})
        self._unchanged = Unchanged(path)
        self._collect(self._load(), ())
        check_paths(self._manifest.records, str(path))

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What it holds."""
        return self._manifest

    def read(self, path: str, box: Box | None = None) -> NumpyArray | Damage:
        """Read one tensor, or a box of it."""
        record = self._manifest.records[path]
        self._unchanged.check()  # it may be mapped into memory, and what was cut off cannot be read there
        tensor = self._tensors[path].detach()
        part = tensor if box is None else tensor[box]
        raw = part.contiguous().reshape(-1).view(self._torch.uint8).numpy()
        return np.array(raw).view(dtype_by_name(record.dtype)).reshape(tuple(part.shape))

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole tensors, one at a time."""
        for path in paths:
            yield path, self.read(path)

    def check_files(self, *, whole: bool) -> list[Damage]:
        """The format keeps no digests."""
        del whole
        return []

    def _load(self) -> Any:
        try:
            try:
                return self._torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # the format of PyTorch before 1.6 cannot be mapped
                return self._torch.load(self._path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = f"it asks for more than tensors ({str(error).splitlines()[0][:160]})"
            cure = "Save its `state_dict()` with `torch.save` where the file comes from."
            raise RefusedCheckpointError(path=self._path, reason=reason, cure=cure) from None
        except (RuntimeError, ValueError, EOFError, OSError) as error:
            reason = f"PyTorch cannot read it ({str(error).splitlines()[0][:160]})"
            cure = "Look for the whole file: this one is cut or damaged."
            raise CheckpointFormatError(path=self._path, reason=reason, cure=cure) from None

    def _collect(self, node: Any, parts: tuple[str, ...]) -> None:
        path = join_path(parts)
        if isinstance(node, Mapping):
            for name, child in cast("Mapping[Any, Any]", node).items():
                self._collect(child, (*parts, str(name)))
        elif isinstance(node, list | tuple):
            items = cast("list[Any]", node)
            self._manifest.containers[path] = {"kind": "list", "size": len(items)}
            for index, child in enumerate(items):
                self._collect(child, (*parts, str(index)))
        elif node is None:
            self._manifest.containers[path] = {"kind": "none"}
        elif isinstance(node, bool | int | float | complex | str | bytes):
            kind = cast("PythonKind", type(node).__name__)
            self._manifest.records[path] = Record((), "python", 0, kind=kind, value=node)
        elif isinstance(node, self._torch.Tensor):
            dtype = str(node.dtype).removeprefix("torch.")
            if dtype not in BYTES_BY_DTYPE or node.layout != self._torch.strided:
                cure = "Convert it to a dense tensor of a plain dtype where the file comes from."
                reason = f"the tensor {path!r} is {node.layout} of {node.dtype}"
                raise CheckpointFormatError(path=self._path, reason=reason, cure=cure)
            shape = tuple(int(extent) for extent in node.shape)
            self._manifest.records[path] = Record(shape, dtype, int(node.numel()) * BYTES_BY_DTYPE[dtype])
            self._tensors[path] = node
        else:
            reason = f"{path!r} is a {type(node).__name__}"
            raise CheckpointFormatError(path=self._path, reason=reason, cure="Save its `state_dict()` alone.")
