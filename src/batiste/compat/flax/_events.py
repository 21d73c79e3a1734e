"""TensorBoard's event files, read: a file is a row of records, each a length, a message and two checksums."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batiste.compat.flax._packages import load

__all__ = ["protos", "read_events", "read_scalars"]

_LENGTH = struct.Struct("<Q")
_CHECKSUM_BYTES = 4


def protos(name: str) -> Any:
    """Return one of the message modules of TensorBoard, such as ``event_pb2``."""
    return load(f"tensorboardX.proto.{name}", "TensorBoard's event files", "tensorboardX")


def read_events(folder: str | Path) -> Iterator[Any]:
    """Yield the events of all files in a folder, in the order of the files' names; a record cut short ends its file."""
    for path in sorted(Path(folder).glob("*tfevents*")):
        content = path.read_bytes()
        at = 0
        while at + _LENGTH.size <= len(content):
            (length,) = _LENGTH.unpack_from(content, at)
            begin = at + _LENGTH.size + _CHECKSUM_BYTES
            at = begin + length + _CHECKSUM_BYTES
            if at <= len(content):
                event = protos("event_pb2").Event()
                event.ParseFromString(content[begin : begin + length])
                yield event


def read_scalars(folder: str | Path) -> dict[str, list[tuple[float, int, float]]]:
    """Return, by tag, the time, the step and the value of each scalar in a folder's event files."""
    found: dict[str, list[tuple[float, int, float]]] = {}
    for event in read_events(folder):
        for value in event.summary.value:
            number = value.simple_value if value.HasField("simple_value") else _single(value.tensor)
            if number is not None:
                found.setdefault(value.tag, []).append((event.wall_time, event.step, number))
    return found


def _single(tensor: Any) -> float | None:
    """Return the number that a tensor of one float holds; None for any other."""
    if tensor.dtype != protos("types_pb2").DT_FLOAT or tensor.tensor_shape.dim:
        return None
    if tensor.float_val:
        return tensor.float_val[0]
    return struct.unpack("<f", tensor.tensor_content)[0] if len(tensor.tensor_content) == 4 else None
