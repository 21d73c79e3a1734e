"""PyTorch files (``.pt``, ``.pth``, ``.bin``, ``.ckpt``), without PyTorch and without running them: read only.

Such a file is a pickle, and a pickle is a program. It is read here as ``_pickle.py`` reads any: tensors, parameters,
sizes and what ``_pickled.py`` knows have a meaning, and whatever else it asks for stays an opaque entry with its name.

Since PyTorch 1.6 the file is a zip with the pickle as ``data.pkl`` and each storage as a member, uncompressed; tensors
are views of storages, by offset and strides. Before, it was a row of pickles (a magic number, a version, facts about
the machine, the content, the names of the storages), and then the storages, each after its number of elements.
(``torch.serialization``; https://pytorch.org/docs/stable/notes/serialization.html)

The levels of a path are the file's own containers; a state dict's name such as ``encoder.0.weight`` stays one name.
Tuples are lists, and numbers that are keys are texts.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, dtype_by_name
from batiste.checkpoint._pickle import BrokenPickleError, Call, Pairs, Persistent, read_pickle
from batiste.checkpoint._pickled import Meaning, Opaque, Reader, collect, words
from batiste.checkpoint._strided import Bytes, Stored, StridedSource, in_file
from batiste.errors import CheckpointFormatError, RefusedCheckpointError

__all__ = ["MAGIC", "is_torch_zip", "open_torch", "open_torch_zip", "tensor_names"]

MAGIC: Final = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What files of PyTorch before 1.6 begin with: the pickle of their magic number."""

_CUT: Final = "Look for the whole file: this one is cut or damaged."
_STORAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "DoubleStorage": "float64",
        "FloatStorage": "float32",
        "HalfStorage": "float16",
        "BFloat16Storage": "bfloat16",
        "LongStorage": "int64",
        "IntStorage": "int32",
        "ShortStorage": "int16",
        "CharStorage": "int8",
        "ByteStorage": "uint8",
        "BoolStorage": "bool",
        "ComplexFloatStorage": "complex64",
        "ComplexDoubleStorage": "complex128",
        "UntypedStorage": "uint8",
    }
)
_WIDTHS: Final[Mapping[str, int]] = MappingProxyType(
    {"QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1, "QUInt2x4Storage": 1}
)


class _Storages:
    """The storages of a file: which bytes each key stands for."""

    def __init__(self, find: Callable[[str], Bytes], *, big: bool = False) -> None:
        self._big = big
        self._find = find

    def tensor(self, reader: Reader, node: Call) -> Meaning:
        """``_rebuild_tensor_v2`` and its relatives: a view of a storage."""
        storage, start, shape, strides, *rest = node.args
        third = str(node.function).endswith("v3")
        dtype, data, begin = self._storage(reader, storage, rest[2] if third else None)
        if dtype is None:
            return Opaque(f"a tensor of {words(rest[2] if third else _kind(storage))}")
        metadata = rest[3 if third else 2] if len(rest) > (3 if third else 2) else None
        flags = dict(metadata.items) if isinstance(metadata, Pairs) else {}
        return Stored(
            _numbers(reader.meaning(shape)),
            dtype.newbyteorder(">") if self._big and dtype.itemsize > 1 else dtype,
            data,
            begin + start,
            _numbers(reader.meaning(strides)),
            conjugated=bool(flags.get("conj")),
            negated=bool(flags.get("neg")),
        )

    def _storage(self, reader: Reader, node: Any, asked: Any) -> tuple[np.dtype[Any] | None, Bytes, int]:
        """The dtype of a storage, its bytes, and the element that it begins with."""
        if isinstance(node, Call) and str(node.function) == "torch.storage._load_from_bytes":
            return _inner_storage(reader, node)
        if not isinstance(node, Persistent) or node.key[0] != "storage":
            message = "no storage"
            raise TypeError(message)
        _, kind, key, *_ = node.key
        name = str(_STORAGES.get(kind.name) if asked is None else asked.name)
        dtype = dtype_by_name(name) if name in BYTES_BY_DTYPE else None
        view = node.key[5] if len(node.key) > 5 else None
        return dtype, self._find(_key(key)), int(view[1]) if view is not None else 0


def tensor_names() -> Mapping[str, Callable[[Reader, Call], Meaning]]:
    """Return what PyTorch's names mean in a pickle that ``torch.save`` has not written."""
    return _names(_Storages(lambda key: Bytes(0, lambda: key.encode()[:0])))


def is_torch_zip(names: list[str]) -> bool:
    """Return whether a zip with these members is a file of PyTorch."""
    return any(name.endswith("/data.pkl") or name == "data.pkl" for name in names)


def open_torch_zip(path: Path) -> StridedSource:
    """Open a file of PyTorch 1.6 or later; its storages are mapped and not read.

    Raises:
      RefusedCheckpointError: if it is a program (TorchScript), or holds nothing but what is opaque.
      CheckpointFormatError: if it is cut.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = {entry.filename: entry for entry in archive.infolist()}
            stored = path.stat().st_size
            name = min((name for name in entries if name.rpartition("/")[2] == "data.pkl"), key=len)
            prefix = name.removesuffix("data.pkl")
            if f"{prefix}constants.pkl" in entries or any(entry.startswith(f"{prefix}code/") for entry in entries):
                reason = "it is a program of TorchScript"
                cure = "Save its weights where PyTorch is: `torch.save(torch.jit.load(path).state_dict(), new)`."
                raise RefusedCheckpointError(path=path, reason=reason, cure=cure)
            if entries[name].file_size > 100 * stored:
                reason = f"its {stored} bytes would become {entries[name].file_size}"
                raise RefusedCheckpointError(path=path, reason=reason, cure="Do not trust where it came from.")
            content = archive.read(name)
            order = archive.read(f"{prefix}byteorder") if f"{prefix}byteorder" in entries else b"little"
            begins = {member: _begin(file, entry) for member, entry in entries.items()}
        root, _ = read_pickle(content, 0, len(content))
    except (
        zipfile.BadZipFile,
        ValueError,
        EOFError,
        OSError,
        NotImplementedError,
        KeyError,
        BrokenPickleError,
    ) as error:
        if isinstance(error, PermissionError):
            raise
        reason = f"it is a PyTorch file that cannot be read ({error})"
        raise CheckpointFormatError(path=path, reason=reason, cure=_CUT) from None

    def find(key: str) -> Bytes:
        member = f"{prefix}data/{key}"
        entry = entries.get(member)
        if entry is None:
            raise CheckpointFormatError(path=path, reason=f"the storage {member!r} is not in it", cure=_CUT)
        if entry.compress_type == zipfile.ZIP_STORED:
            begin = begins[member]
            size = max(0, min(entry.file_size, stored - begin))
            return in_file(path, begin, begin + size)
        return Bytes(entry.file_size, lambda: _inflate(path, member, entry.file_size))

    storages = _Storages(find, big=order.strip() == b"big")
    reader = Reader(path, content, is_file=False, more=_names(storages))
    manifest, arrays = collect(reader, root, "torch", len(content), plain=True)
    return StridedSource(path, manifest, arrays)


def open_torch(path: Path) -> StridedSource:
    """Open a file of PyTorch before 1.6; its storages are mapped and not read.

    Raises:
      RefusedCheckpointError: if it holds nothing but what is opaque.
      CheckpointFormatError: if it is cut.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        try:
            root, storages, size = _read_row(buffer, 0, len(buffer), lambda begin, end: in_file(path, begin, end))
        except (BrokenPickleError, ValueError, TypeError, AttributeError, KeyError, IndexError, struct.error) as error:
            reason = f"it is a PyTorch file that cannot be read ({error})"
            raise CheckpointFormatError(path=path, reason=reason, cure=_CUT) from None
        reader = Reader(path, buffer, is_file=True, more=_names(storages))
        manifest, arrays = collect(reader, root, "torch", size, plain=True)
    return StridedSource(path, manifest, arrays)


def _read_row(buffer: Any, begin: int, end: int, place: Callable[[int, int], Bytes]) -> tuple[Any, _Storages, int]:
    """The content of a file before 1.6, its storages, and the size of its pickles."""
    at = begin
    for _ in range(2):  # the magic number and the version
        _, at = read_pickle(buffer, at, end)
    facts, at = read_pickle(buffer, at, end)
    is_little = dict(facts.items).get("little_endian", True)
    left: list[Persistent] = []
    root, at = read_pickle(buffer, at, end, left)
    keys, at = read_pickle(buffer, at, end)
    widths = {_key(found.key[2]): _width(found.key[1].name) for found in left if found.key[0] == "storage"}
    pickles = at - begin
    places: dict[str, Bytes] = {}
    for key in map(_key, keys):
        (count,) = struct.unpack("<q" if is_little else ">q", bytes(buffer[at : at + 8]))
        at += 8
        length = count * widths[key]
        if not 0 <= length <= end - at:
            message = f"{length} bytes at {at} of {end}"
            raise ValueError(message)
        places[key] = place(at, at + length)
        at += length
    return root, _Storages(places.__getitem__, big=not is_little), pickles


def _inner_storage(reader: Reader, node: Call) -> tuple[np.dtype[Any] | None, Bytes, int]:
    """A storage that was pickled without ``torch.save``: its bytes are a file before 1.6."""
    raw = bytes(reader.bytes_of(node.args[0]).load())

    def place(begin: int, end: int) -> Bytes:
        return Bytes(end - begin, lambda: memoryview(raw)[begin:end])

    root, storages, _ = _read_row(raw, 0, len(raw), place)
    return storages._storage(reader, root, None)


def _names(storages: _Storages) -> Mapping[str, Callable[[Reader, Call], Meaning]]:
    """What PyTorch's names mean."""
    return MappingProxyType(
        {
            "torch._utils._rebuild_tensor": storages.tensor,
            "torch._utils._rebuild_tensor_v2": storages.tensor,
            "torch._utils._rebuild_tensor_v3": storages.tensor,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
            "torch._tensor._rebuild_from_type_v2": _of_type,
            "torch._tensor._rebuild_from_type": _of_type,
            "torch.Size": _size,
        }
    )


def _first(reader: Reader, node: Call) -> Meaning:
    """A parameter is its tensor."""
    return reader.meaning(node.args[0])


def _of_type(reader: Reader, node: Call) -> Meaning:
    """A tensor of a class of the user is a tensor."""
    function, _, args, *_ = node.args
    return reader.meaning(Call(function, args))


def _size(reader: Reader, node: Call) -> Meaning:
    return list(reader.meaning(node.args[0]))


def _kind(storage: Any) -> Any:
    return storage.key[1] if isinstance(storage, Persistent) else storage


def _key(key: Any) -> str:
    if not isinstance(key, str | int):
        message = "a storage without a name"
        raise TypeError(message)
    return str(key)


def _width(name: str) -> int:
    return BYTES_BY_DTYPE[_STORAGES[name]] if name in _STORAGES else _WIDTHS[name]


def _numbers(node: Any) -> tuple[int, ...]:
    found = tuple(node)
    if any(type(number) is not int for number in found):
        message = "a shape of what are no numbers"
        raise TypeError(message)
    return found


def _begin(file: Any, entry: zipfile.ZipInfo) -> int:
    """Where the data of a member begins: behind its own header, whose lengths need not be those of the table."""
    file.seek(entry.header_offset)
    head = file.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        message = f"{entry.filename!r} has no header"
        raise ValueError(message)
    name, extra = struct.unpack("<HH", head[26:30])
    return entry.header_offset + 30 + name + extra


def _inflate(path: Path, member: str, size: int) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return file.read(size)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(*error.args) from error
