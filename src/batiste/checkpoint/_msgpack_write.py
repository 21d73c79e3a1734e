"""Flax's MessagePack files, written: byte for byte what ``flax.serialization.to_bytes`` gives for the same tree.

What Flax makes of a tree, and so this file: dicts keep the order of their keys, and keys become strings; tuples and
lists become dicts from "0", "1", ..., named tuples and dataclasses dicts of their fields, a box a dict with ``value``;
numbers, strings and ``None`` are MessagePack's own; arrays are extension 1, NumPy's scalars 3, complex numbers 2; an
array above 1 GiB is written in flat chunks. (https://github.com/msgpack/msgpack/blob/master/spec.md)

The file is written one leaf at a time, without a second copy. It has no place for a manifest: ``losses`` says what of
one would be lost, so that a save can refuse to lose it unasked. Kinds of containers are lost as in Flax: a target
brings them back. That layers are stacked is not written either: it shows in the shapes, and is told from them.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, TypeAlias, cast

from batiste.checkpoint._arrays import as_bytes
from batiste.checkpoint._manifest import Manifest
from batiste.checkpoint._msgpack import CHUNKED
from batiste.checkpoint._structure import children_of, is_box, is_leaf, is_mapping, stored_in
from batiste.checkpoint._types import NumpyArray, Record
from batiste.errors import UnsavableLeafError, UnsavableTreeError
from batiste.tree import join_path

__all__ = ["Layout", "Place", "flax_layout", "losses", "write_msgpack"]

_ARRAY: Final = 1
_COMPLEX: Final = 2
_SCALAR: Final = 3
_CHUNK_BYTES: Final = 1 << 30
_WHOLE: Final = range(-(1 << 63), 1 << 64)
_FIXED: Final[Mapping[int, int]] = MappingProxyType({1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8})


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a leaf goes, by its path."""

    path: str


Layout: TypeAlias = dict[str, "Layout | Place | None"]
"""The maps of the file, in their order, with places for the leaves."""


def flax_layout(tree: Any, records: Mapping[str, Record]) -> Layout:
    """Return what Flax makes of a tree, with places for its leaves.

    Args:
      tree: what is saved.
      records: what its leaves are.

    Raises:
      UnsavableTreeError: if the tree is a leaf alone.
      UnsavableLeafError: if an integer has more than 64 bits.
    """
    long = [path for path, row in records.items() if row.kind == "int" and row.value not in _WHOLE]
    if long:
        lines = "\n".join(f"  {path}: an int of more than 64 bits" for path in long)
        raise UnsavableLeafError(count=len(long), lines=lines)
    made = _layout(tree, ())
    if not isinstance(made, dict):
        raise UnsavableTreeError(path="", reason="a MessagePack file of Flax is a dict, and this is one leaf")
    return made


def losses(manifest: Manifest) -> list[str]:
    """Return what of a manifest this format cannot hold, a line each."""
    keys = [path for path, record in manifest.records.items() if record.key is not None]
    found = {
        "the step": [str(manifest.step)] * (manifest.step is not None),
        "metadata": list(manifest.metadata),
        "logical names of axes": list(manifest.axes),
        "the type of random keys": keys,
        "the byte order": [path for path, record in manifest.records.items() if record.form in ("big", "little")],
    }
    return [f"{what}: {', '.join(names)}" for what, names in found.items() if names]


def write_msgpack(
    file_path: Path,
    layout: Layout,
    manifest: Manifest,
    fetch: Callable[[str], NumpyArray],
    *,
    chunk_bytes: int = _CHUNK_BYTES,
) -> None:
    """Write a file, one leaf at a time.

    Args:
      file_path: where.
      layout: the maps of the file.
      manifest: what the leaves are.
      fetch: returns the array at a path, in C order.
      chunk_bytes: the size above which an array is written in chunks.

    """
    records = manifest.records

    def write(file: BinaryIO, node: Layout | Place | None) -> None:
        if isinstance(node, dict):
            file.write(_sized(len(node), 0x80, 15, (None, 0xDE, 0xDF)))
            for name, child in node.items():
                file.write(_text(name))
                write(file, child)
        elif node is None:
            file.write(b"\xc0")
        elif records[node.path].kind is not None:
            file.write(_plain(records[node.path].value))
        else:
            array = fetch(node.path)
            file.writelines(_array(array, _SCALAR if records[node.path].form == "scalar" else _ARRAY, chunk_bytes))

    with file_path.open("wb") as file:
        write(file, layout)


def _layout(node: Any, parts: tuple[str, ...]) -> Layout | Place | None:
    if node is None:
        return None
    if is_box(node):
        return {"value": _layout(stored_in(node), parts)}
    if is_leaf(node):
        return Place(join_path(parts))
    if is_mapping(node):  # in an order of its own
        mapping = cast("Mapping[Any, Any]", node)
        return {str(key): _layout(child, (*parts, str(key))) for key, child in mapping.items()}
    return {name: _layout(child, (*parts, name)) for name, child in children_of(node)}


def _array(array: NumpyArray, code: int, chunk_bytes: int) -> Iterator[bytes | memoryview]:
    """The bytes of an array, in chunks where it is large."""
    data = as_bytes(array)
    if len(data) <= chunk_bytes:
        yield _array_head(array.shape, array.dtype.name, len(data), code)
        yield data
        return
    step = max(1, chunk_bytes // array.dtype.itemsize) * array.dtype.itemsize
    chunks = [data[start : start + step] for start in range(0, len(data), step)]
    shape = b"".join(_text(str(axis)) + _integer(extent) for axis, extent in enumerate(array.shape))
    yield b"\x83" + _text(CHUNKED) + b"\xc3"
    yield _text("shape") + _sized(array.ndim, 0x80, 15, (None, 0xDE, 0xDF)) + shape
    yield _text("chunks") + _sized(len(chunks), 0x80, 15, (None, 0xDE, 0xDF))
    for number, chunk in enumerate(chunks):
        extent = len(chunk) // array.dtype.itemsize
        yield _text(str(number)) + _array_head((extent,), array.dtype.name, len(chunk), _ARRAY)
        yield chunk


def _array_head(shape: tuple[int, ...], dtype: str, size: int, code: int) -> bytes:
    extents = b"".join(map(_integer, shape))
    head = b"\x93" + _sized(len(shape), 0x90, 15, (None, 0xDC, 0xDD)) + extents + _text(dtype)
    head += _sized(size, 0, -1, (0xC4, 0xC5, 0xC6))
    return _extension(code, len(head) + size) + head


def _plain(value: Any) -> bytes:
    """A number, a string or bytes."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, complex):
        parts = b"\x92" + _plain(value.real) + _plain(value.imag)
        return _extension(_COMPLEX, len(parts)) + parts
    if isinstance(value, bytes):
        return _sized(len(value), 0, -1, (0xC4, 0xC5, 0xC6)) + value
    return _text(value)


def _integer(value: int) -> bytes:
    """The shortest form of an integer."""
    if -32 <= value < 128:
        return struct.pack(">b" if value < 0 else ">B", value)
    forms = ((0xD0, "b"), (0xD1, "h"), (0xD2, "i"), (0xD3, "q")) if value < 0 else _UNSIGNED
    for code, form in forms:
        bits = 8 * struct.calcsize(form) - (value < 0)
        if -(1 << bits) <= value < 1 << bits:
            return struct.pack(f">B{form}", code, value)
    raise OverflowError(value)


_UNSIGNED: Final = ((0xCC, "B"), (0xCD, "H"), (0xCE, "I"), (0xCF, "Q"))


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _sized(len(encoded), 0xA0, 31, (0xD9, 0xDA, 0xDB)) + encoded


def _sized(length: int, fixed: int, most: int, codes: tuple[int | None, int, int]) -> bytes:
    """What stands before something of a length: one byte up to ``most``, else a code and the length."""
    if length <= most:
        return bytes([fixed | length])
    for code, form, bits in zip(codes, "BHI", (8, 16, 32), strict=True):
        if code is not None and length < 1 << bits:
            return struct.pack(f">B{form}", code, length)
    raise OverflowError(length)


def _extension(code: int, length: int) -> bytes:
    if length in _FIXED:
        return struct.pack(">Bb", _FIXED[length], code)
    return _sized(length, 0, -1, (0xC7, 0xC8, 0xC9)) + struct.pack(">b", code)
