"""The manifest: everything about a checkpoint save its arrays, in JSON.

It is ``batiste.json`` beside the arrays of a directory, and the entry ``batiste`` in the ``__metadata__`` of a
safetensors file. Opening a checkpoint reads this and nothing else. Its text begins, in every version, with::

    {"format":"batiste.checkpoint","version":1,"digest":"<32 hexadecimal digits>",

(version 2 where several processes have saved an array in parts, see ``_parts.py``)

and the digest (XXH3, 128 bits) is that of all the other bytes, so that a flipped bit in the manifest itself is found
before anything in it is believed. A manifest is checked as input from a stranger: sizes, depths, names and types.

``Manifest.records`` holds the leaves by path, in JAX's order; ``Manifest.containers`` what the levels are where they
are not plain dicts (see ``_structure.py``).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, digest_bytes, dtype_by_name
from batiste.checkpoint._parts import count_parts
from batiste.checkpoint._types import PythonKind, Record
from batiste.errors import CheckpointFormatError, DamagedCheckpointError, RefusedCheckpointError

__all__ = [
    "MANIFEST_NAME",
    "MAX_DEPTH",
    "MAX_MANIFEST_BYTES",
    "MAX_RANK",
    "Manifest",
    "check_depth",
    "check_paths",
    "looks_like_manifest",
]

MANIFEST_NAME: Final = "batiste.json"
_VERSIONS: Final = (1, 2)  # the second has arrays in parts, each with a digest
MAX_MANIFEST_BYTES: Final = 1 << 28
MAX_DEPTH: Final = 200
MAX_RANK: Final = 32
_LONG: Final = 1024  # bits of an integer that is written as hexadecimal digits: there is a limit on decimal ones
_NAN: Final = struct.pack(">d", float("nan"))
_dump: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_START: Final = '{"format":"batiste.checkpoint"'
_HEAD: Final = re.compile(r'\{"format":"batiste\.checkpoint","version":([0-9]{1,9}),"digest":"([0-9a-f]{32})",')
_PYTHON_TYPES: Final[Mapping[str, type[Any]]] = MappingProxyType(
    {
        "bool": bool,
        "int": int,
        "float": float,
        "complex": complex,
        "str": str,
        "bytes": bytes,
    }
)


@dataclasses.dataclass(slots=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
      records: what each leaf is, by path.
      containers: what each level is that is not a dict with strings as keys, by path.
      step: the training step, where one was given.
      saved_at: seconds since 1970, by the clock of the save; 0.0 where unknown.
      versions: the versions of the packages that wrote it.
      metadata: whatever the user saved with it, as JSON has it.
      axes: the logical names of the axes of some leaves, by path.
      layers: levels that are repeated layers, by path: ``{"params/h": {"layout": "per_layer", "count": 12}}``.
      storage: how the arrays are stored: the format, and what its reader needs to know.
      opaque: what is there and is neither an array nor plain, in words by path; only in files of other programs.
      files: size and digest of each file beside the manifest, by relative path; no digest ("") for a large file of
        arrays, of which each has its own.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> params = {"w": np.ones((2, 3), np.float32)}
      >>> checkpoint.save("run", params, metadata={"note": "first"})
      >>> manifest = checkpoint.open("run").manifest
      >>> manifest.bytes, manifest.metadata, list(manifest.records)
      (24, {'note': 'first'}, ['w'])
    """

    records: dict[str, Record]
    containers: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict[str, dict[str, Any]])
    step: int | None = None
    saved_at: float = 0.0
    versions: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    axes: dict[str, list[str | None]] = dataclasses.field(default_factory=dict[str, list[str | None]])
    layers: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict[str, dict[str, Any]])
    storage: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    files: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict[str, tuple[int, str]])
    opaque: dict[str, str] = dataclasses.field(default_factory=dict[str, str])

    @property
    def bytes(self) -> int:
        """The size of all arrays together."""
        return sum(record.bytes for record in self.records.values())

    def to_text(self) -> str:
        """Return the manifest as JSON text with its digest, one leaf a line."""
        metadata, odd = _without_odd(self.metadata)
        head = {
            "step": self.step,
            "saved_at": self.saved_at,
            "versions": self.versions,
            "metadata": metadata,
            "storage": self.storage,
            "layers": self.layers,
            **({"odd": odd} if odd else {}),
        }
        tables = {
            "leaves": {path: _record_text(record) for path, record in self.records.items()},
            "containers": {path: _dump(row) for path, row in self.containers.items()},
            "axes": {path: _dump(row) for path, row in self.axes.items()},
            "files": {path: _dump(row) for path, row in self.files.items()},
        }
        lines = ["", *(f'"{name}":{_dump(value)},' for name, value in head.items())]
        for name, table in tables.items():
            rows = ",\n".join(f"{_dump(path)}:{row}" for path, row in table.items())
            lines.append(f'"{name}":{{\n{rows}\n}},')
        body = "\n".join(lines)[:-1] + "}\n"
        version = _VERSIONS[any(record.chunk is not None for record in self.records.values())]
        start = f'{_START},"version":{version},"digest":"'
        return f'{start}{_digest(start, chr(34) + "," + body)}",{body}'

    @classmethod
    def from_text(cls, text: str, where: str) -> Manifest:
        """Read a manifest.

        Args:
          text: the JSON text.
          where: the file that it is from, for errors.

        Raises:
          DamagedCheckpointError: if the text is not what was written.
          CheckpointFormatError: if a later version of batiste wrote it.
          RefusedCheckpointError: if it says what no honest manifest says.
        """
        head = _HEAD.match(text)
        if head is None or _digest(text[: head.start(2)], text[head.end(2) :]) != head[2]:
            raise DamagedCheckpointError(path=where, count=1, lines=f"  {MANIFEST_NAME}: its digest does not fit")
        if int(head[1]) > _VERSIONS[-1]:
            raise CheckpointFormatError(
                path=where,
                reason=f"its manifest has version {head[1]}, and this batiste reads up to {_VERSIONS[-1]}",
                cure="Upgrade batiste.",
            )
        try:
            return _from_json(json.loads(text), where)
        except RecursionError:
            raise _refused(where, "its manifest is nested too deeply") from None
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _refused(where, f"its manifest is not well formed ({type(error).__name__}: {error})") from None


def looks_like_manifest(text: Any) -> bool:
    """Return whether a text was once written by ``Manifest.to_text``, damaged or not."""
    return isinstance(text, str) and text.startswith(_START)


def check_depth(paths: Iterable[str], where: str) -> None:
    """Refuse paths that are too deep.

    Raises:
      RefusedCheckpointError: if one is.
    """
    depth = max((path.count("/") for path in paths), default=0)
    if depth > MAX_DEPTH:
        raise _refused(where, f"a path has {depth} levels, and {MAX_DEPTH} are allowed")


def check_paths(paths: Mapping[str, Any], where: str, containers: Iterable[str] = ()) -> None:
    """Refuse paths that are too deep, or that make one path both a leaf and a level.

    Raises:
      RefusedCheckpointError: if the paths do not make a tree.
    """
    levels = set(containers)
    check_depth([*paths, *levels], where)
    above = {path.rpartition("/")[0] for path in [*paths, *levels]}
    while above:
        levels |= above
        above = {path.rpartition("/")[0] for path in above} - levels
    if "" not in containers:
        levels.discard("")  # the root, which is a level only where there is more than a leaf
    if not levels.isdisjoint(paths) or ("" in paths and len(paths) + len(levels) > 1):
        both = next(path for path in paths if path in levels or path == "")
        raise _refused(where, f"{both!r} is both a leaf and a level with leaves beneath it")


def _refused(where: str, reason: str) -> RefusedCheckpointError:
    return RefusedCheckpointError(path=where, reason=reason, cure="It was not written by `batiste.checkpoint.save`.")


def _digest(start: str, end: str) -> str:
    return digest_bytes(start.encode(), end.encode())


def _record_text(record: Record) -> str:
    if record.kind is not None:
        value = record.value
        if record.kind == "float":
            value = _float_text(value)
        elif record.kind == "complex":
            value = [_float_text(value.real), _float_text(value.imag)]
        elif record.kind == "int" and value.bit_length() > _LONG:
            value = hex(value)
        elif record.kind == "bytes":
            value = value.hex()
        return _dump({"python": record.kind, "value": value})
    shape = ",".join(map(str, record.shape))
    key = "" if record.key is None else f',"key":{_dump(record.key)}'
    form = "" if record.form is None else f',"form":"{record.form}"'
    start = f'{{"shape":[{shape}],"dtype":"{record.dtype}","bytes":{record.bytes},"xxh3_128":"{record.digest}"'
    parts = "" if record.chunk is None else f',"chunk":{_dump(record.chunk)},"parts":{_dump(record.parts)}'
    return f"{start}{key}{form}{parts}}}"


def _float_text(value: float) -> str:
    """A number as Python writes it; of a NaN that is not Python's own, the bits."""
    bits = struct.pack(">d", value)
    return repr(value) if value == value or bits == _NAN else bits.hex()  # noqa: PLR0124 - only NaN is not


def _float_value(text: Any) -> float:
    if type(text) is str and len(text) == 16 and re.fullmatch("[7f]ff[0-9a-f]{13}", text):
        return float(struct.unpack(">d", bytes.fromhex(text))[0])
    return float(str(text))


def _record_from_json(row: dict[str, Any]) -> Record:
    kind = row.get("python")
    if kind is not None:
        return Record((), "python", 0, kind=cast("PythonKind", kind), value=_python_value(kind, row["value"]))
    shape: tuple[int, ...] = tuple(row["shape"])
    dtype, size, digest = row["dtype"], row["bytes"], row["xxh3_128"]
    count = BYTES_BY_DTYPE[dtype]
    for extent in shape:
        if type(extent) is not int or extent < 0:
            message = f"shape {shape}"
            raise ValueError(message)
        count *= extent
    if type(size) is not int or size != count or len(shape) > MAX_RANK:
        message = f"{size} bytes for {dtype}{list(shape)}"
        raise ValueError(message)
    if type(digest) is not str or len(digest) != 32:
        message = "no digest"
        raise ValueError(message)
    key = row.get("key")
    if key is not None and (type(key) is not str or dtype != "uint32" or not shape):
        message = f"random keys of {dtype}{list(shape)}"
        raise ValueError(message)
    form = row.get("form")
    swaps = form in ("big", "little") and dtype_by_name(dtype).isbuiltin == 1
    if not (form is None or swaps or (form == "scalar" and not shape)):
        message = f"an array of the form {form!r}"
        raise ValueError(message)
    found = Record(shape, dtype, size, digest, key, form=form)
    if "chunk" in row:
        _add_parts(found, row["chunk"], row["parts"])
    return found


def _add_parts(record: Record, chunk: Any, parts: Any) -> None:
    """Take the parts of an array, of which there are as many as its grid has."""
    honest = _are(chunk, int) and _are(parts, str) and record.bytes > 0
    extents = cast("list[int]", chunk if honest else [])
    digests = cast("list[str]", parts if honest else [])
    honest = honest and len(extents) == len(record.shape) and min(extents, default=1) > 0
    if not honest or count_parts(record.shape, extents) != len(digests):
        message = f"parts of {record}"
        raise ValueError(message)
    record.chunk, record.parts = tuple(extents), tuple(digests)


def _python_value(kind: str, value: Any) -> Any:
    if kind == "float":
        return _float_value(value)
    if kind == "complex":
        return complex(_float_value(value[0]), _float_value(value[1]))
    if kind == "int" and type(value) is str:
        return int(value, 16)
    if kind == "bytes":
        return bytes.fromhex(value)
    if type(value) is not _PYTHON_TYPES[kind]:
        message = f"{type(value).__name__} for {kind}"
        raise ValueError(message)
    return value


def _from_json(body: dict[str, Any], where: str) -> Manifest:
    rows: dict[str, Any] = body["leaves"]
    records = dict(zip(rows, map(_record_from_json, rows.values()), strict=True))
    containers: dict[str, dict[str, Any]] = body["containers"]
    check_paths(records, where, containers)
    axes: dict[str, list[str | None]] = body["axes"]
    layers: dict[str, dict[str, Any]] = body["layers"]
    parts = {
        "containers": all(type(row["kind"]) is str and _are(row.get("fields", []), str) for row in containers.values()),
        "axes": all(_are(names, str, type(None)) for names in axes.values()),
        "layers": all(type(row["layout"]) is str and type(row["count"]) is int for row in layers.values()),
    }
    if not all(parts.values()):
        message = next(part for part, well_formed in parts.items() if not well_formed)
        raise ValueError(message)
    return Manifest(
        records=records,
        containers=containers,
        step=None if body["step"] is None else int(body["step"]),
        saved_at=float(body["saved_at"]),
        versions=dict(body["versions"]),
        metadata=_with_odd(dict(body["metadata"]), body.get("odd", [])),
        axes=axes,
        layers=layers,
        storage=dict(body["storage"]),
        files={name: (int(size), str(digest)) for name, (size, digest) in body["files"].items()},
    )


def _without_odd(metadata: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Metadata as JSON has it: null where a number is NaN or infinite, and these numbers in a list beside."""
    odd: list[Any] = []

    def plain(value: Any, keys: tuple[str | int, ...]) -> Any:
        if isinstance(value, dict):
            return {key: plain(child, (*keys, key)) for key, child in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [plain(child, (*keys, at)) for at, child in enumerate(cast("list[Any]", value))]
        if isinstance(value, float) and not math.isfinite(value):
            odd.append([list(keys), repr(value)])
            return None
        return value

    try:
        _dump(metadata)
    except ValueError:
        return plain(metadata, ()), odd
    return metadata, odd


def _with_odd(metadata: dict[str, Any], odd: list[Any]) -> dict[str, Any]:
    for (*above, last), number in odd:
        level: Any = metadata
        for key in above:
            level = level[key]
        if level[last] is not None:
            message = f"metadata at {last!r}"
            raise ValueError(message)
        level[last] = float(number)
    return metadata


def _are(names: Any, *kinds: type[Any]) -> bool:
    return type(names) is list and all(type(name) in kinds for name in cast("list[Any]", names))
