"""The words of this package: a *record* says what one leaf is, a *damage* what is not as it was saved, and where.

Which records a checkpoint has is its manifest's to say (``_manifest.py``); how arrays are read, its source's
(``_source.py``).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

import numpy as np

__all__ = ["Box", "Damage", "Form", "NumpyArray", "PythonKind", "Record", "misfit"]

NumpyArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""Any NumPy array."""

Box: TypeAlias = tuple[slice, ...]
"""One slice an axis, within bounds, step 1."""

PythonKind: TypeAlias = Literal["bool", "int", "float", "complex", "str", "bytes"]
"""The plain values that may be leaves; they live in the manifest itself."""

Form: TypeAlias = Literal["scalar", "big", "little"]
"""What an array of NumPy is beside its values: one of NumPy's scalars, or an array in a byte order of its own."""


@dataclasses.dataclass(slots=True)
class Record:
    """What one leaf is.

    Attributes:
      shape: the extent of each axis, of the key data where the leaf is a typed random key.
      dtype: the element type's name, ``"python"`` for a plain value.
      bytes: the size of its array.
      digest: the XXH3 digest (128 bits, hexadecimal) of its bytes in C order, little endian; None where unknown.
      key: the implementation of a typed random key, such as ``"threefry2x32"``; None for what is no key.
      kind: the type of a plain value; None for an array.
      value: the plain value.
      form: what NumPy had in its place, where that was no array in the machine's byte order.
      chunk: the shape of the parts that several processes have saved it in, each with a digest; None for the whole.
      parts: the digest of each part; the digest of the whole is then that of these.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> checkpoint.save("run", {"w": np.ones((2, 3), np.float32)})
      >>> record = checkpoint.open("run").manifest.records["w"]
      >>> record.shape, record.dtype, record.bytes
      ((2, 3), 'float32', 24)
    """

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    digest: str | None = None
    key: str | None = None
    kind: PythonKind | None = None
    value: Any = None
    form: Form | None = None
    chunk: tuple[int, ...] | None = None
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The leaf in a few characters: ``float32[3,4]``, ``key<threefry2x32>[2]``, ``int``; never its values."""
        if self.kind is not None:
            return self.kind
        shape = ",".join(map(str, self.shape if self.key is None else self.shape[:-1]))
        return f"{self.dtype if self.key is None else f'key<{self.key}>'}[{shape}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as it was saved: where, and in what way."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"  {self.where}: {self.reason}"


def misfit(path: str, record: Record) -> Damage:
    """Return what is wrong with a leaf whose digest is not that of its bytes."""
    return Damage(path, f"the digest of {record} does not fit")
