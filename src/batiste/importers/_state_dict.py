"""A state dict, wherever it is: the tensors of a model by name, described and not yet read.

It comes as a dict (of NumPy arrays, PyTorch's tensors, JAX's arrays, lazy arrays), or as a file that
``batiste.checkpoint`` reads: PyTorch's through its restricted loader, safetensors, sharded weights with their index.

People save it wrapped. What is taken off is said in the report, and nothing else is: the dict around it (``state_dict``
and the like, beside an optimiser's state and an epoch), and the levels that wrappers of modules put in front of every
name (``module.``, ``_orig_mod.``).

safetensors' ``save_model`` writes a tensor that several layers share under one name, and the other names, its
*aliases*, into the metadata. A tensor is found under these too; one that no rule takes is no mistake.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import jax
import numpy as np

from batiste._arguments import refused, text
from batiste.checkpoint import Checkpoint
from batiste.checkpoint import open as open_checkpoint
from batiste.errors import NestedStateDictError, NotAStateDictError
from batiste.importers._names import join_name
from batiste.tree import LazyArray, join_path, split_path

__all__ = ["PREFIXES", "Source", "StateDict", "Stripped", "open_state_dict"]

Source: TypeAlias = str | os.PathLike[str] | Checkpoint | Mapping[str, Any]
"""A path, an opened checkpoint, or a state dict."""

PREFIXES: Final = ("module.", "_orig_mod.")
"""What ``DataParallel`` and ``torch.compile`` put in front of every name."""

_WRAPPERS: Final = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
)

Stripped: TypeAlias = tuple[str, ...]
"""The prefixes that were taken off, in order."""

_Entry: TypeAlias = tuple[tuple[str, ...], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Opaque:
    """What stands in a file and is neither an array nor plain, in words."""

    what: str


@dataclasses.dataclass(frozen=True, slots=True)
class StateDict:
    """The tensors of a model.

    Attributes:
      label: where they come from, in words.
      tensors: by name, in order.
      others: what stands among them and is no tensor that can be read: the type by name.
      nested: the name of the dict within the source that they are, or "".
      stripped: the prefixes that were taken off every name.
      outside: how many leaves there are beside that dict, by their first level; what is opaque among the tensors and
        is none counts as beside them.
      aliases: further names of tensors that have one already, each with that one.
    """

    label: str
    tensors: Mapping[str, LazyArray]
    others: Mapping[str, str]
    nested: str = ""
    stripped: Stripped = ()
    outside: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


def open_state_dict(source: Source, *, nested: str | None, strip: Sequence[str]) -> StateDict:
    """Return the state dict of a source.

    Args:
      source: where it is.
      nested: which dict within the source it is, levels with slashes between; "" for the whole, None to find it.
      strip: prefixes to take off where every name has them.

    Raises:
      ArgumentError: if ``nested`` is no text, or ``strip`` no list of prefixes.
      NestedStateDictError: if there are several state dicts, or none at ``nested``.
      NotAStateDictError: if the source is none.
    """
    if nested is not None:
        text(nested, "nested", "importers", what="the names of dicts, with slashes between", empty=True)
    prefixes: Any = strip
    if not isinstance(prefixes, list | tuple) or not all(isinstance(one, str) for one in cast("list[Any]", prefixes)):
        advice = f"Write strip=[{strip!r}]." if isinstance(prefixes, str) else ""
        raise refused(strip, "strip", "importers", "a list of prefixes", advice)
    label, entries, shared = _entries(source)
    path = _find(entries, label) if nested is None else tuple(filter(None, nested.split("/")))
    depth = len(path)
    inside = [(levels[depth:], leaf) for levels, leaf in entries if levels[:depth] == path and len(levels) > depth]
    if path and not inside:
        known = sorted({"/".join(levels[:-1]) for levels, _ in entries} - {""})
        found = f"nothing at {'/'.join(path)!r}, only {', '.join(known[:5]) or 'tensors at its top'}"
        raise NestedStateDictError(source=label, found=found, example=known[0] if known else "")
    outside: dict[str, int] = {}
    for levels, _ in entries:
        if levels[:depth] != path:
            outside[levels[0]] = outside.get(levels[0], 0) + 1
    tensors: dict[str, LazyArray] = {}
    aliases: dict[str, str] = {}
    others: dict[str, str] = {}
    for levels, leaf in inside:
        name = join_name(*levels)
        if isinstance(leaf, _Opaque) and "tensor" not in leaf.what:
            outside[name] = outside.get(name, 0) + 1
            continue
        if name in tensors or name in others:
            raise NotAStateDictError(source=label, reason=f"two tensors have the name {name!r}")
        lazy = _lazy(leaf)
        if lazy is None:
            others[name] = leaf.what if isinstance(leaf, _Opaque) else type(leaf).__name__
        else:
            tensors[name] = lazy
            if levels in shared:
                aliases[name] = join_name(*shared[levels])
    if not tensors:
        raise NotAStateDictError(source=label, reason="it holds no tensors")
    stripped, renamed = _strip(list(tensors), strip)
    if len(set(renamed)) < len(renamed):
        twice = next(name for name in renamed if renamed.count(name) > 1)
        raise NotAStateDictError(source=label, reason=f"without prefixes two tensors have the name {twice!r}")
    named = dict(zip(renamed, tensors.values(), strict=True))
    new = dict(zip(tensors, renamed, strict=True))
    aliases = {new[name]: new[other] for name, other in aliases.items()}
    return StateDict(label, named, others, "/".join(path), stripped, outside, aliases)


def _entries(source: Source) -> tuple[str, list[_Entry], Mapping[tuple[str, ...], tuple[str, ...]]]:
    """Where a source is, in words, every leaf with its levels, and which of them are aliases of which."""
    if isinstance(source, str | os.PathLike):
        source = open_checkpoint(source)
    if isinstance(source, Checkpoint):
        records = source.manifest.records
        leaves = {path: source.lazy(path) if row.kind is None else row.value for path, row in records.items()}
        leaves |= {path: _Opaque(what) for path, what in source.manifest.opaque.items()}
        aliases = _aliases(source)
        leaves |= {path: leaves[other] for path, other in aliases.items()}
        levels = {split_path(path): split_path(other) for path, other in aliases.items()}
        return str(source.path), [(split_path(path), leaf) for path, leaf in leaves.items()], levels
    if not isinstance(cast("Any", source), Mapping):
        kind = type(source).__name__
        reason = f"it is a {kind}" + ("; call its `state_dict()`" if hasattr(source, "state_dict") else "")
        raise NotAStateDictError(source="What was given", reason=reason)
    return "The state dict", list(_walk(source, ())), {}


def _aliases(source: Checkpoint) -> dict[str, str]:
    """Further paths of arrays, out of the metadata of a file that another program wrote, each with the array's own."""
    if source.has_digests or source.manifest.storage.get("format") not in ("safetensors", "shards"):
        return {}
    records = source.manifest.records
    paths = {
        join_path(name.split("/")): join_path(other.split("/"))
        for name, other in source.metadata.items()
        if isinstance(other, str)
    }
    return {path: other for path, other in paths.items() if path not in records and other in records}


def _walk(node: Any, levels: tuple[str, ...]) -> Iterator[_Entry]:
    if isinstance(node, Mapping):
        for name, child in cast("Mapping[Any, Any]", node).items():
            yield from _walk(child, (*levels, str(name)))
    elif isinstance(node, list | tuple):
        for index, child in enumerate(cast("Sequence[Any]", node)):
            yield from _walk(child, (*levels, str(index)))
    else:
        yield levels, node


def _find(entries: Sequence[_Entry], label: str) -> tuple[str, ...]:
    """The dict within a source that is the state dict: the whole, where no level has one of the usual names."""
    path: tuple[str, ...] = ()
    while True:
        depth = len(path)
        inner = {
            levels[depth]
            for levels, leaf in entries
            if levels[:depth] == path and len(levels) > depth + 1 and _lazy(leaf) is not None
        }
        known = [name for name in _WRAPPERS if name in inner]
        if not known:
            return path
        if len(known) > 1:
            found = f"several dicts that may be the state dict: {', '.join('/'.join((*path, name)) for name in known)}"
            raise NestedStateDictError(source=label, found=found, example="/".join((*path, known[0])))
        path = (*path, known[0])


def _strip(names: list[str], prefixes: Sequence[str]) -> tuple[Stripped, list[str]]:
    stripped: list[str] = []
    while True:
        found = next((prefix for prefix in prefixes if prefix and all(name.startswith(prefix) for name in names)), None)
        if found is None:
            break
        stripped.append(found)
        names = [name.removeprefix(found) for name in names]
    for prefix in prefixes:
        inner = f".{prefix}"
        if prefix.startswith("_") and any(inner in name for name in names):  # a compiled part of a model
            stripped.append(f"*{prefix}")
            names = [name.replace(inner, ".") for name in names]
    return tuple(stripped), names


def _lazy(leaf: Any) -> LazyArray | None:
    """Return a tensor of any kind as a lazy array; None for what is no tensor."""
    if isinstance(leaf, LazyArray):
        return leaf
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(leaf, torch.Tensor):
        dtype = np.dtype(str(leaf.dtype).removeprefix("torch."))
        return LazyArray(tuple(leaf.shape), dtype, lambda box: _from_tensor(torch, leaf, dtype, box))
    if isinstance(leaf, np.ndarray | np.generic | jax.Array):
        array = cast("Any", leaf)
        return LazyArray(array.shape, array.dtype, lambda box: np.asarray(array if box is None else array[box]))
    return None


def _from_tensor(torch: Any, tensor: Any, dtype: np.dtype[Any], box: Any) -> Any:
    part = tensor.detach() if box is None else tensor.detach()[box]
    raw = part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()  # NumPy has no bfloat16 of PyTorch's
    return np.array(raw).view(dtype).reshape(tuple(part.shape))
