"""What the description of a pickle means, from a fixed list: arrays, random keys, plain values and plain containers.

The list: arrays, scalars and dtypes of NumPy and ml_dtypes; arrays and random keys of JAX; dicts, ``OrderedDict``,
``defaultdict``, ``Counter`` and Flax's ``FrozenDict``; lists and tuples; named tuples, as dicts of their fields; what
``_torch.py`` adds for tensors. Whatever else a pickle describes is *opaque*: its path is kept with the name of what it
asks for, so that it can be shown, and it is refused when somebody asks for it. Nothing is imported on a file's word but
the class of a named tuple, for its fields, and that only under the rules of ``_structure.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

import numpy as np

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, dtype_by_name
from batiste.checkpoint._directory import allowance
from batiste.checkpoint._manifest import MAX_DEPTH, Manifest
from batiste.checkpoint._pickle import BrokenPickleError, Call, Name, Pairs, Persistent, Span, read_pickle
from batiste.checkpoint._strided import Bytes, Stored, StridedSource, dense, in_file
from batiste.checkpoint._structure import fields_of
from batiste.checkpoint._types import PythonKind, Record
from batiste.errors import CheckpointFormatError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["Meaning", "Opaque", "Reader", "collect", "open_pickle", "words"]

_CUT: Final = "Look for the whole file: this one is cut or damaged."
_CODE: Final = re.compile(r"[?bBhHiIlLqQefdFD]|[biufc][0-9]{1,2}")
_MOST_NODES: Final = 4
_PADDING: Final = b"\0\r\n\t "


@dataclasses.dataclass(frozen=True, slots=True)
class Opaque:
    """What is neither an array nor plain, in words."""

    what: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Keys:
    """Typed random keys: their data, and the name of their implementation."""

    data: Stored
    implementation: str


Meaning: TypeAlias = Any
"""A ``Stored`` array, ``Opaque``, ``Pairs``, a list, a tuple, or a plain value."""


class Reader:
    """Gives the descriptions of one pickle their meaning.

    Args:
      path: the file.
      buffer: the whole file, or the member of a zip that the pickle is.
      is_file: whether the buffer is the file itself, so that arrays may stay in it.
      more: further names, each with what a call of it means.
    """

    def __init__(
        self,
        path: Path,
        buffer: Any,
        *,
        is_file: bool,
        more: Mapping[str, Callable[[Reader, Call], Meaning]] = MappingProxyType({}),
    ) -> None:
        self.path = path
        self._buffer = buffer
        self._is_file = is_file
        self._more = more

    def meaning(self, node: Any) -> Meaning:
        """Return what a description means, one level deep."""
        if isinstance(node, Call):
            name = str(node.function) if isinstance(node.function, Name) else ""
            known = self._more.get(name) or _KNOWN.get(name)
            found: Meaning = None
            with contextlib.suppress(ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError):
                found = known(self, node) if known is not None else self._named_tuple(node)
            if isinstance(found, Stored) and not found.fits:
                reason = f"an array of shape {list(found.shape)} in it has {found.data.size} bytes"
                raise CheckpointFormatError(path=self.path, reason=reason, cure=_CUT)
            return Opaque(words(node)) if found is None else found
        if isinstance(node, Span):
            raw = bytes(self._buffer[node.begin : node.end])
            return raw.decode("utf-8", "surrogatepass") if node.text else raw
        if node is None or isinstance(
            node, Pairs | list | tuple | bool | int | float | complex | str | bytes | Stored | Opaque
        ):
            return cast("Meaning", node)
        return Opaque(words(node))

    def stored(self, node: Any) -> Stored:
        """Return the array that a description means.

        Raises:
          TypeError: if it means none.
        """
        found = self.meaning(node)
        if not isinstance(found, Stored):
            message = "no array"
            raise TypeError(message)
        return found

    def bytes_of(self, node: Any) -> Bytes:
        """Return the bytes that a description means, unread where they can stay in the file.

        Raises:
          TypeError: if it means none.
        """
        if isinstance(node, Call) and str(node.function) == "_codecs.encode":
            text = node.args[0]
            if isinstance(text, Span):
                coded = self._raw(text)
                return Bytes(coded.size, lambda: bytes(coded.load()).decode().encode("latin-1"))
            raw = cast("str", text).encode("latin-1")
            return Bytes(len(raw), lambda: raw)
        if isinstance(node, Span):
            return self._raw(node)
        found = self.meaning(node)
        raw = found.encode("latin-1") if isinstance(found, str) else found
        if not isinstance(raw, bytes):
            message = "no bytes"
            raise TypeError(message)
        return Bytes(len(raw), lambda: raw)

    def _raw(self, span: Span) -> Bytes:
        """The bytes of a span as they are, in the file where they can stay there."""
        if self._is_file:
            return in_file(self.path, span.begin, span.end)
        held = bytes(self._buffer[span.begin : span.end])
        return Bytes(len(held), lambda: held)

    def dtype_of(self, node: Any) -> np.dtype[Any]:
        """Return the dtype that a description means.

        Raises:
          ValueError: if it means none that arrays here may have.
        """
        code = node.args[0] if isinstance(node, Call) and str(node.function) == "numpy.dtype" else node
        if isinstance(code, Name) and code.module in ("ml_dtypes", "numpy") and code.name in BYTES_BY_DTYPE:
            return dtype_by_name(code.name)
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            message = "no dtype of numbers"
            raise ValueError(message)
        dtype = np.dtype(code)
        if dtype.name not in BYTES_BY_DTYPE:
            message = "a dtype that cannot be kept"
            raise ValueError(message)
        order = node.state[1] if isinstance(node, Call) and node.state is not None else "="
        return dtype.newbyteorder(">") if order == ">" else dtype

    def _named_tuple(self, node: Call) -> Meaning:
        """A named tuple, as a dict of its fields, or of its numbers where its class is not at hand."""
        args: Any = node.args
        if not node.makes or not isinstance(args, tuple) or node.state is not None or node.items or node.appended:
            return None
        values = cast("tuple[Any, ...]", args)
        module, name = node.function.module, node.function.name
        fields = fields_of(module, name)
        if fields is None:
            held = any(isinstance(value, Pairs | Call | list | tuple) for value in values)
            fields = [str(number) for number in range(len(values))] if held else None
        if fields is None or len(fields) != len(values):
            return None
        return Pairs(list(zip(fields, values, strict=True)))


def _array(reader: Reader, node: Call) -> Meaning:
    """``_reconstruct`` of NumPy, filled by its state."""
    _, shape, dtype, fortran, data = node.state if len(node.state) == 5 else (0, *node.state)
    return _described(reader, node, shape, dtype, data, fortran=bool(fortran))


def _from_buffer(reader: Reader, node: Call) -> Meaning:
    data, dtype, shape, order = node.args[:4]
    return _described(reader, node, shape, dtype, data, fortran=order == "F")


def _scalar(reader: Reader, node: Call) -> Meaning:
    dtype, data = node.args
    return _described(reader, node, (), dtype, data, fortran=False)


def _described(reader: Reader, node: Call, shape: Any, dtype: Any, data: Any, *, fortran: bool) -> Meaning:
    del node
    extents = tuple(cast("tuple[Any, ...]", shape))
    if any(type(extent) is not int for extent in extents):
        return None
    try:
        kind = reader.dtype_of(dtype)
    except ValueError:
        return Opaque(f"a NumPy array of {_dtype_words(dtype)}")
    return Stored(extents, kind, reader.bytes_of(data), 0, dense(extents, fortran=fortran))


def _dtype_words(dtype: Any) -> str:
    code = dtype.args[0] if isinstance(dtype, Call) and dtype.args else dtype
    kinds = {"O": "Python objects", "U": "text", "S": "text", "V": "records", "M": "dates", "m": "durations"}
    return kinds.get(code[:1], f"dtype {code[:40]}") if isinstance(code, str) else f"dtype {words(code)}"


def _jax_array(reader: Reader, node: Call) -> Meaning:
    function, args, state = node.args[:3]
    return reader.meaning(Call(function, args, state=state))


def _jax_keys(reader: Reader, node: Call) -> Meaning:
    state: Any = node.state
    pairs = cast("Pairs", state[1] if isinstance(state, tuple) else state)
    fields = {str(name): value for name, value in pairs.items}
    parts: tuple[Any, ...] = fields["_impl"].args
    names = [part for part in parts if isinstance(part, str)]
    data = reader.stored(fields["_base_array"])
    return _Keys(data, names[0]) if data.dtype == np.uint32 and data.shape else None


def _dict(reader: Reader, node: Call) -> Meaning:
    found: list[tuple[Any, Any]] = []
    for given in node.args:
        inner = reader.meaning(given)
        if isinstance(inner, Pairs):
            found += inner.items
        else:
            found += [(key, value) for key, value in inner]
    return Pairs(found + node.items)


def _default_dict(reader: Reader, node: Call) -> Meaning:
    return _dict(reader, dataclasses.replace(node, args=node.args[1:]))


def _encoded(reader: Reader, node: Call) -> Meaning:
    return bytes(reader.bytes_of(node).load())


def _bytes(reader: Reader, node: Call) -> Meaning:
    return bytes(reader.bytes_of(node.args[0]).load()) if node.args else b""


def _complex(reader: Reader, node: Call) -> Meaning:
    del reader
    real, imaginary = node.args
    return complex(float(real), float(imaginary))


def _list(reader: Reader, node: Call) -> Meaning:
    given = reader.meaning(node.args[0]) if node.args else ()
    return [*cast("list[Any]", given), *node.appended] if isinstance(given, list | tuple) else None


_KNOWN: Final[Mapping[str, Callable[[Reader, Call], Meaning]]] = MappingProxyType(
    {
        "numpy._core.multiarray._reconstruct": _array,
        "numpy.core.multiarray._reconstruct": _array,
        "numpy._core.numeric._frombuffer": _from_buffer,
        "numpy.core.numeric._frombuffer": _from_buffer,
        "numpy._core.multiarray.scalar": _scalar,
        "numpy.core.multiarray.scalar": _scalar,
        "jax._src.array._reconstruct_array": _jax_array,
        "jax._src.device_array.reconstruct_device_array": _jax_array,
        "jax._src.random.prng.PRNGKeyArray": _jax_keys,
        "jax._src.prng.PRNGKeyArray": _jax_keys,
        "collections.OrderedDict": _dict,
        "collections.Counter": _dict,
        "collections.defaultdict": _default_dict,
        "builtins.dict": _dict,
        "flax.core.frozen_dict.FrozenDict": _dict,
        "builtins.list": _list,
        "builtins.tuple": _list,
        "_codecs.encode": _encoded,
        "builtins.bytes": _bytes,
        "builtins.bytearray": _bytes,
        "builtins.complex": _complex,
    }
)


def words(node: Any) -> str:
    """Return what a description asks for, as ``module.Class``."""
    while isinstance(node, Call):
        if str(node.function) == "copyreg._reconstructor":
            node = node.args[0] if node.args else node.function
        else:
            node = node.function
    if isinstance(node, Persistent) and isinstance(node.key, tuple):  # PyTorch's old way to name a class of modules
        node = next((part for part in cast("tuple[Any, ...]", node.key) if isinstance(part, Name)), node)
    if isinstance(node, Name):
        return str(node)[:200]
    return f"a {type(node).__name__.lower()}"


def open_pickle(path: Path, more: Mapping[str, Callable[[Reader, Call], Meaning]]) -> StridedSource:
    """Open a pickle of arrays, or several in one file, which are the elements of a tuple.

    What follows the last of them and is none is an opaque element.

    Args:
      path: the file.
      more: as for ``Reader``.

    Raises:
      CheckpointFormatError: if it is cut, no pickle, or if there is nothing in it but what is opaque.
      RefusedCheckpointError: if it says more than its size allows.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        try:
            root = _roots(buffer)
        except BrokenPickleError as error:
            reason, cure = f"it begins as a pickle, and {error}", _CUT
            if buffer.find(b"joblib.numpy_pickle") >= 0:
                reason = "it is a file of joblib, whose arrays lie between the parts of a pickle"
                cure = "Read it with `joblib.load`, and save the arrays with `numpy.savez`."
            raise CheckpointFormatError(path=path, reason=reason, cure=cure) from None
        reader = Reader(path, buffer, is_file=True, more=more)
        manifest, arrays = collect(reader, root, "pickle", len(buffer))
    return StridedSource(path, manifest, arrays)


def _roots(buffer: mmap.mmap) -> Any:
    """What the pickles in a file describe, one after the other; where there is only one, that alone."""
    first, at = read_pickle(buffer, 0, len(buffer))
    found: list[Any] = [first]
    while at < len(buffer) and not (buffer[at] in _PADDING and not buffer[at:].strip(_PADDING)):
        try:
            root, at = read_pickle(buffer, at, len(buffer))
        except BrokenPickleError:
            found.append(Opaque(f"{len(buffer) - at} bytes that are no pickle"))
            break
        found.append(root)
    return tuple(found) if len(found) > 1 else first


def collect(
    reader: Reader, root: Any, form: str, size: int, *, plain: bool = False
) -> tuple[Manifest, dict[str, Stored]]:
    """Return what a pickle holds: its manifest, and its arrays by path.

    Args:
      reader: for the descriptions of the pickle.
      root: what it describes.
      form: the name of the format.
      size: the bytes of the pickle.
      plain: whether tuples are lists, and numbers that are keys are texts.

    Raises:
      CheckpointFormatError: if there is nothing in a plain pickle but what is opaque.
      RefusedCheckpointError: if there is nothing in a file of PyTorch but what is opaque, or if one says more than its
        size allows.
    """
    made = _Collection(reader, form, size, plain=plain)
    made.add(root, ())
    manifest = made.manifest
    stored = reader.path.stat().st_size
    if manifest.opaque and not manifest.records:
        first = next(iter(manifest.opaque.values()))
        reason = f"asks for more than tensors and plain values ({first}), and holds nothing else"
        cure = "Save the arrays alone where the file comes from: as a dict, or as a model's `state_dict()`."
        if form == "pickle":
            raise CheckpointFormatError(path=reader.path, reason=f"it is a pickle that {reason}", cure=cure)
        raise RefusedCheckpointError(path=reader.path, reason=f"it {reason}", cure=cure)
    if manifest.bytes > allowance(stored, compressed=True):
        reason = f"its {stored} bytes would become {manifest.bytes}"
        raise RefusedCheckpointError(path=reader.path, reason=reason, cure="Do not trust where it came from.")
    return manifest, made.arrays


class _Collection:
    """Walks through what a pickle describes."""

    def __init__(self, reader: Reader, form: str, size: int, *, plain: bool) -> None:
        self._reader = reader
        self._plain = plain
        self._left = 1000 + _MOST_NODES * size
        self.manifest = Manifest({}, storage={"format": form})
        self.arrays: dict[str, Stored] = {}

    def add(self, node: Any, parts: tuple[str, ...]) -> None:
        self._left -= 1
        if self._left < 0 or len(parts) > MAX_DEPTH:
            reason = "it describes far more than it holds" if self._left < 0 else "it is nested too deeply"
            raise RefusedCheckpointError(path=self._reader.path, reason=reason, cure="Do not trust where it came from.")
        found = self._reader.meaning(node)
        path = join_path(parts)
        if isinstance(found, Pairs):
            self._add_dict(found, path, parts)
        elif isinstance(found, list | tuple):
            items = cast("list[Any]", found)
            kind = "list" if self._plain or isinstance(found, list) else "tuple"
            self.manifest.containers[path] = {"kind": kind, "size": len(items)}
            for number, child in enumerate(items):
                self.add(child, (*parts, str(number)))
        elif isinstance(found, Stored):
            self._add_array(path, found)
        elif isinstance(found, _Keys):
            self._add_array(path, found.data, found.implementation)
        elif isinstance(found, Opaque):
            self.manifest.opaque[path] = found.what
        elif found is None:
            self.manifest.containers[path] = {"kind": "none"}
        else:
            kind = cast("PythonKind", type(found).__name__)
            self.manifest.records[path] = Record((), "python", 0, kind=kind, value=found)

    def _add_array(self, path: str, found: Stored, key: str | None = None) -> None:
        dtype = found.dtype.newbyteorder("=").name
        self.manifest.records[path] = Record(found.shape, dtype, found.nbytes, key=key)
        self.arrays[path] = found

    def _add_dict(self, found: Pairs, path: str, parts: tuple[str, ...]) -> None:
        if not found.items:
            self.manifest.containers[path] = {"kind": "dict"}
        elif not self._plain and all(type(key) is int for key, _ in found.items):
            self.manifest.containers[path] = {"kind": "dict", "keys": "int"}
        for name, child in self._named(found):
            self.add(child, (*parts, name))

    def _named(self, found: Pairs) -> Iterator[tuple[str, Any]]:
        """The children of a dict by names that are all different: where two keys are one text, the type tells them."""
        keys = [self._reader.meaning(key) for key, _ in found.items]
        names = [_key_text(key) for key in keys]
        texts = {name for name, key in zip(names, keys, strict=True) if isinstance(key, str)}
        taken: set[str] = set()
        for name, key, (_, child) in zip(names, keys, found.items, strict=True):
            chosen = name if isinstance(key, str) or name not in texts | taken else f"{name} ({type(key).__name__})"
            if chosen in taken:
                reason = f"two keys of one dict have the name {chosen!r}"
                cure = "Give them names that differ as texts, where the file comes from."
                raise RefusedCheckpointError(path=self._reader.path, reason=reason, cure=cure)
            taken.add(chosen)
            yield chosen, child


def _key_text(key: Any) -> str:
    if isinstance(key, tuple):
        return f"({', '.join(map(_key_text, cast('tuple[Any, ...]', key)))})"
    if isinstance(key, str | bool | float | complex | bytes) or key is None:
        return key if isinstance(key, str) else str(key)
    if isinstance(key, int):
        return str(key) if abs(key) < 1 << 64 else hex(key)
    return f"<{key.what if isinstance(key, Opaque) else words(key)}>"
