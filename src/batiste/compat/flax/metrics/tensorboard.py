"""``flax.metrics.tensorboard``: metrics, images, sounds and texts for TensorBoard.

The event files are written by tensorboardX, which is loaded when a writer is made; TensorFlow is not needed.
"""

from __future__ import annotations

import io
import os
import time
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from batiste.compat.flax._events import protos
from batiste.compat.flax._packages import load
from batiste.typing import ArrayLike

__all__ = ["SummaryWriter"]

_BUCKETS = 30
_DTYPES = {
    "bool": "BOOL",
    "complex128": "COMPLEX128",
    "complex64": "COMPLEX64",
    "float16": "HALF",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "int8": "INT8",
    "uint16": "UINT16",
    "uint8": "UINT8",
}.items()


class SummaryWriter:
    """Writes what TensorBoard shows into a folder.

    Args:
      log_dir: the folder.
      auto_flush: whether every call reaches the file at once.

    Raises:
      MissingPackageError: tensorboardX is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str], auto_flush: bool = True) -> None:
        self._library: Any = load("tensorboardX", "SummaryWriter", "tensorboardX")
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        # The writer without a queue: what is flushed is in the file.
        self._file: Any = self._library.event_file_writer.EventsWriter(str(folder / "events"))
        self._auto_flush = auto_flush

    def close(self) -> None:
        """Write what is left and close the file. The writer cannot be used again."""
        self._file.close()

    def flush(self) -> None:
        """Write what is left."""
        self._file.flush()

    def scalar(self, tag: str, value: ArrayLike, step: int) -> None:
        """Write a number.

        Args:
          tag: what it is called.
          value: the number.
          step: the training step.
        """
        self._add(self._library.summary.scalar(tag, float(np.asarray(value).item())), step)

    def image(self, tag: str, image: ArrayLike, step: int, max_outputs: int = 3) -> None:
        """Write images.

        Args:
          tag: what they are called.
          image: `[height, width]`, `[height, width, channels]` or `[images, height, width, channels]` with 1 or 3
            channels, or `[images, height, width]`; whole numbers to 255, or fractions to 1.
          step: the training step.
          max_outputs: how many images are written at most.
        """
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[None, :, :, None]
        elif pixels.ndim == 3:
            pixels = pixels[None] if pixels.shape[-1] in (1, 3) else pixels[..., None]
        if not np.issubdtype(pixels.dtype, np.integer):
            pixels = np.clip(
                pixels.astype(np.float32) * 255.5, 0, 255
            )  # each of 256 levels gets an equal share of [0, 1]
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        pixels = np.broadcast_to(pixels, (*pixels.shape[:-1], 3))
        for name, one in _named(tag, pixels[:max_outputs]):
            self._add(self._library.summary.image(name, one, dataformats="HWC"), step)

    def audio(self, tag: str, audiodata: ArrayLike, step: int, sample_rate: int = 44100, max_outputs: int = 3) -> None:
        """Write sounds, as 16-bit waves.

        Args:
          tag: what they are called.
          audiodata: `[sounds, frames, channels]`, cut to [-1, 1].
          step: the training step.
          sample_rate: the number of frames of a second.
          max_outputs: how many sounds are written at most.
        """
        levels = (np.clip(np.asarray(audiodata), -1.0, 1.0) * 32767).astype("<i2")
        for name, one in _named(tag, levels[:max_outputs]):
            content = io.BytesIO()
            with wave.open(content, "wb") as file:
                file.setnchannels(one.shape[1])
                file.setsampwidth(2)
                file.setframerate(sample_rate)
                file.writeframes(one.tobytes())
            summary = protos("summary_pb2").Summary()
            value = summary.value.add(tag=name)
            value.audio.sample_rate = sample_rate
            value.audio.num_channels = one.shape[1]
            value.audio.length_frames = one.shape[0]
            value.audio.encoded_audio_string = content.getvalue()
            value.audio.content_type = "audio/wav"
            self._add(summary, step)

    def histogram(self, tag: str, values: ArrayLike, step: int, bins: int | None = None) -> None:
        """Write how values are spread.

        Args:
          tag: what they are called.
          values: the values, of any shape.
          step: the training step.
          bins: the number of intervals; 30 unless given.
        """
        flat = np.asarray(values).reshape(-1)
        self._add(self._library.summary.histogram(tag, flat, bins or _BUCKETS), step)

    def text(self, tag: str, textdata: Any, step: int) -> None:
        """Write a text, which TensorBoard takes for Markdown.

        Args:
          tag: what it is called.
          textdata: the text.
          step: the training step.
        """
        self._add(self._library.summary.text(tag, str(textdata)), step)

    def write(self, tag: str, tensor: Any, step: int, metadata: Any = None) -> None:
        """Write any array, for a plugin of TensorBoard.

        Args:
          tag: what it is called.
          tensor: the array, of numbers or of texts.
          step: the training step.
          metadata: TensorBoard's ``SummaryMetadata``, or its bytes.
        """
        summary = protos("summary_pb2").Summary()
        value = summary.value.add(tag=tag)
        array = np.asarray(tensor)
        types = protos("types_pb2")
        for extent in array.shape:
            value.tensor.tensor_shape.dim.add(size=extent)
        kind = dict(_DTYPES).get(array.dtype.name)
        if kind is None:
            value.tensor.dtype = types.DT_STRING
            texts: list[Any] = array.reshape(-1).tolist()
            value.tensor.string_val.extend(one if isinstance(one, bytes) else str(one).encode() for one in texts)
        else:
            value.tensor.dtype = getattr(types, f"DT_{kind}")
            value.tensor.tensor_content = array.tobytes()
        if metadata is not None:
            content = metadata if isinstance(metadata, bytes) else metadata.SerializeToString()
            value.metadata.ParseFromString(content)
        self._add(summary, step)

    def hparams(self, hparams: Mapping[str, Any]) -> None:
        """Write the hyperparameters of the run.

        Args:
          hparams: their values by name; nested names are joined by ``.``, and what is no number and no text is written
            as text.
        """
        for summary in self._library.summary.hparams(dict(_flat(hparams, "")), {}):
            self._add(summary, 0)

    def _add(self, summary: Any, step: int) -> None:
        event = protos("event_pb2").Event(wall_time=time.time(), step=int(step), summary=summary)
        self._file.write_event(event)
        if self._auto_flush:
            self.flush()


def _named(tag: str, items: Any) -> list[tuple[str, Any]]:
    """Give each item a tag: the tag itself to a single one."""
    return [(tag if len(items) == 1 else f"{tag}/{index}", item) for index, item in enumerate(items)]


def _flat(nested: Mapping[str, Any], above: str) -> list[tuple[str, Any]]:
    entries: list[tuple[str, Any]] = []
    for name, value in nested.items():
        if isinstance(value, Mapping):
            entries += _flat(cast("Mapping[str, Any]", value), f"{above}{name}.")
        else:
            plain = value if isinstance(value, bool | int | float | str) else str(value)
            entries.append((f"{above}{name}", plain))
    return entries
