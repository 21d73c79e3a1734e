"""What is known not to change, and what an object holds: the tables that fingerprints rest on."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Iterable
from typing import Any, Final

__all__ = [
    "DESCRIPTORS",
    "IMPURE_BUILTINS",
    "READS",
    "RULES",
    "attributes",
    "is_only_added_to",
    "is_trusted",
    "members",
    "root",
]

_TRUSTED = frozenset(
    [
        "jax",
        "jaxlib",
        "numpy",
        "ml_dtypes",
        "optax",
        "batiste",
        "flax",
        "chex",
        "einops",
        "jaxtyping",
        "beartype",
        "abc",
        "builtins",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "decimal",
        "enum",
        "fractions",
        "functools",
        "itertools",
        "logging",
        "math",
        "numbers",
        "operator",
        "string",
        "types",
        "typing",
        "typing_extensions",
        "warnings",
    ]
)
"""Packages whose functions and classes stay as they are; JAX's compare as ``replaced`` says."""

_NOT_TRUSTED = ("numpy.random", "batiste.checkpoint", "batiste.importers", "batiste.cli")
READS: Final = frozenset({"DataSource", "fromfile", "fromregex", "genfromtxt", "load", "loads", "loadtxt", "memmap"})
"""Functions of trusted packages that read files."""

IMPURE_BUILTINS: Final = frozenset(
    [
        "__import__",
        "breakpoint",
        "compile",
        "delattr",
        "eval",
        "exec",
        "globals",
        "id",
        "input",
        "locals",
        "open",
        "setattr",
        "vars",
    ]
)
_OF_CLASSES = frozenset(
    [
        "__abstractmethods__",
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__match_args__",
        "__module__",
        "__orig_bases__",
        "__parameters__",
        "__qualname__",
        "__slots__",
        "__static_attributes__",
        "__type_params__",
        "__weakref__",
        "_abc_impl",
    ]
)
"""What Python writes into a class beside its body."""

_OF_NAMED_TUPLES = frozenset(
    [
        "__getnewargs__",
        "__new__",
        "__replace__",
        "__repr__",
        "_asdict",
        "_field_defaults",
        "_fields",
        "_make",
        "_replace",
    ]
)
_OF_DATACLASSES = frozenset(
    [
        "__delattr__",
        "__eq__",
        "__ge__",
        "__gt__",
        "__hash__",
        "__init__",
        "__le__",
        "__lt__",
        "__replace__",
        "__repr__",
        "__setattr__",
    ]
)
_WRITTEN_BY_DATACLASSES = ("<string>", dataclasses.__file__)
RULES: Final = frozenset({"bwd", "fun", "fwd", "jvp", "nondiff_argnames", "nondiff_argnums", "symbolic_zeros"})
DESCRIPTORS: Final = (types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType)


def members(kind: type) -> Iterable[tuple[str, Any]]:
    """Return what the body of a class holds, without what Python and ``dataclasses`` write into it."""
    own = vars(kind)
    skipped = _OF_CLASSES | getattr(kind, "fingerprint_skips", frozenset[str]())
    if "_fields" in own and issubclass(kind, tuple):
        skipped |= _OF_NAMED_TUPLES | frozenset(own["_fields"])
    is_made = "__dataclass_fields__" in own
    for name, member in own.items():
        code = getattr(getattr(member, "__wrapped__", member), "__code__", None)
        if name in skipped or (
            is_made and name in _OF_DATACLASSES and (code is None or code.co_filename in _WRITTEN_BY_DATACLASSES)
        ):
            continue
        yield name, member
    if is_made:
        for field in own["__dataclass_fields__"].values():
            if field.default_factory is not dataclasses.MISSING:
                yield f"{field.name}()", field.default_factory


def is_only_added_to(value: Any, chains: Iterable[tuple[str, ...]]) -> bool:
    """Return whether code does nothing with a list or set but add to it, so that what is in it does not count."""
    return type(value) in (list, set) and all(chain[1:] in {("append",), ("add",), ("extend",)} for chain in chains)


def attributes(value: Any) -> list[tuple[str, Any]]:
    """Return what an object holds, by name: its dict and its slots."""
    held = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            descriptor = inspect.getattr_static(base, name, None)
            if isinstance(descriptor, types.MemberDescriptorType) and hasattr(value, name):
                held[name] = getattr(value, name)
    return list(held.items())


def root(name: str) -> str:
    """Return the package of a dotted name."""
    return name.partition(".")[0]


@functools.lru_cache(maxsize=4096)
def is_trusted(name: str) -> bool:
    """Return whether what a module holds stays as it is."""
    return root(name) in _TRUSTED and not any(name == each or name.startswith(f"{each}.") for each in _NOT_TRUSTED)
