"""Where two calls differ, part by part, as ``jax.jit`` sees them.

JAX compares calls in two ways. What is *dynamic* (arrays, and the containers that hold them) counts by structure,
shape, dtype, weak type and sharding; its values do not count. What is *static* (static arguments, and the fields of a
pytree that are not its children) counts by ``==``. For a function that means identity, unless it is held by something
that batiste compares by value: a module, its ``apply``, the optimiser of a ``TrainState``.

``Comparison`` walks two values side by side and writes down each smallest part that differs, under its path. A path is
written as it would be read in a program: ``state.params/Dense_0/kernel`` (attributes with a dot, keys with a slash),
``state.apply_fn.module.layers[1].features``, ``tx.update: closure variable b1``.

An array is taken for what JAX knows of it, ``Shape``: a walk never needs the numbers of a dynamic one.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import types
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, cast

import jax
import jax.core
import numpy as np

from batiste.core import Fingerprint, fingerprint
from batiste.module import Blueprint, blueprint_fields

__all__ = ["Comparison", "Difference", "Path", "Shape", "shape_of"]

_ABSENT = "absent"
_OPTIONS_OF_APPLY = ("mutable", "rngs")
_LONGEST = 80
_PLAIN = (int, float, complex, str, bytes, type(None), type, types.ModuleType, AbstractSet, np.dtype, slice, range)
_BUILTIN_NODES = (dict, list, tuple, type(None))
_ONCE = "define it once, outside of what makes the call"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One part of a call that differs.

    Attributes:
      path: where it is: ``state.params/Dense_0/kernel``.
      what: the property that differs: ``shape``, ``dtype``, ``weak type``, ``sharding``, ``committed``, ``structure``;
        "" where the value itself does.
      before: what it was, in words.
      after: what it is.
      why: why that matters or what to do about it, where that is not plain; else "".
      field: the field of a blueprint that it is, or is in: ``Dense.features``; "" outside of blueprints.

    Example:
      >>> import numpy as np
      >>> from batiste import diagnose
      >>> before, after = ((np.ones(2),), {}), ((np.ones(3),), {})
      >>> (found,) = diagnose.explain_retrace(before, after).differences
      >>> found.path, found.what, found.before, found.after
      ('args[0]', 'shape', '(2,)', '(3,)')
    """

    path: str
    what: str
    before: str
    after: str
    why: str = ""
    field: str = ""

    @property
    def kind(self) -> str:
        """Which kind of thing differs: ``blueprint``, ``mutable``, ``rngs``, ``static``, or what ``what`` says."""
        root = re.split(r"[./\[:]", self.path, maxsplit=1)[0]
        if self.field:
            return "blueprint"
        return root if root in _OPTIONS_OF_APPLY else self.what or "static"

    def __str__(self) -> str:
        what = f"{self.what} " if self.what else ""
        field = f"the blueprint's field {self.field}" if self.field else ""
        why = "; ".join(text for text in (field, self.why) if text)
        return f"{self.path}: {what}{self.before} -> {self.after}{f' ({why})' if why else ''}"


@dataclasses.dataclass(frozen=True)
class Path:
    """Where a value is, as it is written.

    Attributes:
      text: how it is written.
      field: the innermost field of a blueprint that it is in, ``Dense.features``, or "".
    """

    text: str
    field: str = ""

    def attribute(self, name: str) -> Path:
        return Path(f"{self.text}.{name}", self.field)

    def field_of(self, module: Blueprint, name: str) -> Path:
        return Path(f"{self.text}.{name}", f"{type(module).__name__}.{name}")

    def key(self, key: object) -> Path:
        return Path(f"{self.text}/{key}" if isinstance(key, str) else f"{self.text}[{key!r}]", self.field)

    def index(self, place: int) -> Path:
        return Path(f"{self.text}[{place}]", self.field)

    def variable(self, name: str) -> Path:
        """Return the path of a variable that a function closes over."""
        return self.attribute(name) if ": " in self.text else Path(f"{self.text}: closure variable {name}", self.field)

    def default(self, name: str) -> Path:
        return self.attribute(name) if ": " in self.text else Path(f"{self.text}: default of {name}", self.field)

    def entry(self, key: Any) -> Path:
        """Return the path of a child of a pytree node, which JAX names by ``key``."""
        match key:
            case jax.tree_util.GetAttrKey():
                return self.attribute(key.name)
            case jax.tree_util.DictKey():
                return self.key(key.key)
            case jax.tree_util.SequenceKey():
                return self.index(key.idx)
            case jax.tree_util.FlattenedIndexKey():
                return self.index(key.key)
            case _:
                return self.key(str(key))


@dataclasses.dataclass(frozen=True)
class Shape:
    """What JAX knows of an array when it traces.

    Attributes:
      shape: the extent of each axis.
      dtype: its dtype.
      weak_type: whether its dtype gives way to that of others, as a Python number's does.
      sharding: the sharding that is part of its type: a mesh, and in explicit mode how it lies on it.
      placed: where its buffers are, and None for a number, a tracer or a shape.
      committed: whether it was put there on purpose, so that what is computed with it goes there too.
    """

    shape: tuple[int, ...]
    dtype: Any
    weak_type: bool
    sharding: Any = None
    placed: Any = None
    committed: bool = False

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def shape_of(value: Any) -> Shape | None:
    """Return what JAX knows of an array, a number, a tracer or a ``jax.ShapeDtypeStruct``; None for anything else."""
    if isinstance(value, Shape):
        return value
    try:
        kind: Any = jax.typeof(value)
    except TypeError:
        return None
    if not hasattr(kind, "shape"):
        return None
    array: Any = value
    is_placed = isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)
    return Shape(
        shape=tuple(kind.shape),
        dtype=kind.dtype,
        weak_type=bool(getattr(kind, "weak_type", False)),
        sharding=getattr(kind, "sharding", None),
        placed=array.sharding if is_placed else None,
        committed=is_placed and bool(getattr(array, "committed", False)),
    )


class Comparison:
    """A walk over two values side by side; ``found`` is what differs, in the order in which it is met."""

    def __init__(self) -> None:
        self.found: list[Difference] = []
        self._met: set[tuple[int, int]] = set()
        self._kept: list[Any] = []  # what was met stays alive, so that its identity stays its own

    def add(self, path: Path, what: str, before: str, after: str, why: str = "") -> None:
        """Write down a difference."""
        self.found.append(Difference(path.text, what, before, after, why, path.field))

    # What is dynamic

    def dynamic(self, before: Any, after: Any, path: Path) -> None:
        """Compare two pytrees by structure and by what JAX knows of their leaves."""
        is_leaf = [_is_leaf(value) for value in (before, after)]
        if all(is_leaf):
            self._leaf(before, after, path)
        elif any(is_leaf) or type(before) is not type(after):
            why = _REDEFINED if not any(is_leaf) and _is_redefined(type(before), type(after)) else ""
            self.add(path, "structure", _node(before), _node(after), why)
        else:
            self._nodes(before, after, path)

    def _leaf(self, before: Any, after: Any, path: Path) -> None:
        old, new = shape_of(before), shape_of(after)
        if old is None or new is None:
            self.static(before, after, path)
            return
        if old.shape != new.shape:
            self.add(path, "shape", str(old.shape), str(new.shape))
        if old.dtype != new.dtype:
            self.add(path, "dtype", str(old.dtype), str(new.dtype))
        if old.weak_type != new.weak_type:
            why = "a Python number has a weak type, an array made with a dtype has none"
            self.add(path, "weak type", str(old.weak_type), str(new.weak_type), why)
        if old.shape == new.shape:
            self._placement(old, new, path)

    def _placement(self, old: Shape, new: Shape, path: Path) -> None:
        if old.sharding != new.sharding:
            self.add(path, "sharding", *_apart(_layout(old.sharding), _layout(new.sharding)))
        elif old.placed is None or new.placed is None:
            return
        elif old.committed != new.committed:
            self.add(path, "committed", str(old.committed), str(new.committed), "it compiles again, without a trace")
        elif old.committed and old.placed != new.placed:
            texts = _apart(_layout(old.placed), _layout(new.placed))
            self.add(path, "sharding", *texts, "it compiles again, without a trace")

    def _nodes(self, before: Any, after: Any, path: Path) -> None:
        count = len(self.found)
        old, new = _children(before), _children(after)
        for key in [*old, *(key for key in new if key not in old)]:
            place = path.entry(key)
            if key in old and key in new:
                self.dynamic(old[key], new[key], place)
            else:
                texts = [_node(children[key]) if key in children else _ABSENT for children in (old, new)]
                self.add(place, "structure", *texts)
        for name in _static_fields(before, old):
            was, now = getattr(before, name, None), getattr(after, name, None)
            if not _equal(was, now):
                self.static(was, now, path.attribute(name))
        if len(self.found) == count and not isinstance(before, _BUILTIN_NODES):
            was, now = _static_data(before), _static_data(after)
            if not _equal(was, now):
                self.static(was, now, path)

    # What is static

    def static(self, before: Any, after: Any, path: Path, *, by_value: bool = False) -> bool:
        """Compare two static values, by ``==`` or, within what batiste compares by value, by what they hold.

        Returns:
          Whether they differ: something is written down, now or where the same two were met before.
        """
        if before is after:
            return False
        if (id(before), id(after)) in self._met:
            return True
        if by_value:
            if fingerprint(before) == fingerprint(after):
                return False
        elif type(before) is type(after) and _equal(before, after):
            return False
        is_plain = isinstance(before, cast("tuple[type, ...]", _PLAIN))
        if not is_plain:
            self._meet(before, after)
        by_value = by_value or _compares_by_value(before)
        if type(before) is not type(after):
            is_redefined = _is_redefined(type(before), type(after))
            kinds = () if is_redefined else (before, after)
            self.add(path, "", *_apart(_shown(before), _shown(after), *kinds), _REDEFINED if is_redefined else "")
        elif isinstance(before, types.FunctionType):
            self._functions(before, after, path, by_value=by_value)
        elif isinstance(before, np.ndarray | np.generic | jax.Array):
            old, new = str(shape_of(before)), str(shape_of(after))
            self.add(path, "", *_apart(old, new), "the numbers of a static array count")
        elif is_plain:
            why = _REDEFINED if isinstance(before, type) and _is_redefined(before, after) else ""
            self.add(path, "", *_apart(_shown(before), _shown(after)), why)
        else:
            self._parts(before, after, path, by_value=by_value)
        return True

    def _meet(self, before: Any, after: Any) -> None:
        self._met.add((id(before), id(after)))
        self._kept += (before, after)

    def _parts(self, before: Any, after: Any, path: Path, *, by_value: bool) -> None:
        old, new = _parts_of(before, path), _parts_of(after, path)
        differs = False
        for place in [*old, *(place for place in new if place not in old)]:
            if place in old and place in new:
                differs |= self.static(old[place], new[place], place, by_value=by_value)
            else:
                self.add(place, "", *(_shown(part[place]) if place in part else _ABSENT for part in (old, new)))
                differs = True
        if differs:
            return
        if by_value and issubclass(type(before), Mapping) and [*old] != [*new]:
            self.add(path, "order of keys", *(_shown([*value]) for value in (before, after)))
        elif _shown(before) != _shown(after) and not old:
            self.add(path, "", _shown(before), _shown(after))
        else:
            self.add(path, "", _shown(before), "an equal one, made anew", _identity(before))

    def _functions(self, before: Any, after: Any, path: Path, *, by_value: bool) -> None:
        code: types.CodeType = before.__code__
        if code != after.__code__:
            why = _ONCE if _is_redefined(before, after) and _where(before) == _where(after) else ""
            self.add(path, "", *_apart(_shown(before), _shown(after)), why)
            return
        differs = False
        if by_value or fingerprint(before) != fingerprint(after):
            cells = zip(code.co_freevars, before.__closure__ or (), after.__closure__ or (), strict=True)
            for name, *pair in cells:  # two functions of an optimiser share theirs, which are told of once
                old, new = ([] if cell == types.CellType() else [cell.cell_contents] for cell in pair)
                if old and new and (id(pair[0]), id(pair[1])) not in self._met:
                    is_other = self.static(old[0], new[0], path.variable(name), by_value=True)
                    differs |= is_other
                    if is_other:
                        self._meet(*pair)
                else:
                    differs |= (id(pair[0]), id(pair[1])) in self._met
            differs |= self._defaults(before, after, path)
        if not differs:
            self.add(path, "", _shown(before), "the same code, made anew", _ONCE)

    def _defaults(self, before: Any, after: Any, path: Path) -> bool:
        old, new = _defaults_of(before), _defaults_of(after)
        names = [name for name in old if name in new]
        differs = False
        for name in names:
            differs |= self.static(old[name], new[name], path.default(name), by_value=True)
        return differs


_REDEFINED = "the class was defined anew: define it once"


def _is_redefined(before: Any, after: Any) -> bool:
    """Say whether two classes or functions have one name, so that the second looks like the first."""
    return (before.__module__, before.__qualname__) == (after.__module__, after.__qualname__)


def _equal(before: Any, after: Any) -> bool:
    """Say whether two values are equal, as JAX asks."""
    try:
        return before is after or bool(before == after)
    except Exception:  # noqa: BLE001 - `==` is written by anybody, and an array has no truth
        return False


def _compares_by_value(value: Any) -> bool:
    """Say whether ``==`` of a value is that of its fingerprint: a module, its ``apply``, a train state's optimiser."""
    return hasattr(cast("Any", type(value)), "__fingerprint__") or isinstance(
        getattr(value, "value", None), Fingerprint
    )


# Parts


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Shape) or jax.tree_util.all_leaves([value])


def _children(node: Any) -> dict[Any, Any]:
    """Return the children of a pytree node by the names that JAX has for them."""

    def is_below(value: Any) -> bool:
        return value is not node

    entries: Any = jax.tree_util.tree_flatten_with_path(node, is_leaf=is_below)[0]  # pyright: ignore[reportUnknownVariableType]
    return {path[0]: child for path, child in entries}


def _static_fields(node: Any, children: dict[Any, Any]) -> list[str]:
    """Return the fields of a dataclass that are no children of it."""
    if not dataclasses.is_dataclass(node):
        return []
    names = {key.name for key in children if isinstance(key, jax.tree_util.GetAttrKey)}
    held = () if names else {id(child) for child in children.values()}  # where JAX was not told the names
    fields = [field.name for field in dataclasses.fields(node)]
    return [name for name in fields if name not in names and id(getattr(node, name, None)) not in held]


def _static_data(node: Any) -> Any:
    """Return what a pytree node says of itself beside its children."""
    registry = cast("Any", jax.tree_util).default_registry
    return registry.flatten_one_level(node)[1]


def _parts_of(value: Any, path: Path) -> dict[Path, Any]:
    """Return what a static value is made of; {} for what cannot be looked into."""
    match value:
        case Blueprint():
            fields = cast("Any", type(value)).__dataclass_fields__
            named = {name: part for name, part in blueprint_fields(value).items() if fields[name].compare}
            return {path.field_of(value, name): part for name, part in (*named.items(), ("name", value.name))}
        case functools.partial(func=func, args=args, keywords=keywords):
            parts = {path.attribute("func"): func}
            parts |= {path.attribute("args").index(i): part for i, part in enumerate(args)}
            return parts | {path.attribute("keywords").key(name): part for name, part in keywords.items()}
        case types.MethodType():
            return {path.attribute("__self__"): value.__self__, path.attribute("__func__"): value.__func__}
        case Mapping():
            entries = cast("Mapping[Any, Any]", value)
            return {path.key(name): part for name, part in entries.items()}
        case tuple() | list():
            items = cast("tuple[Any, ...]", value)
            names: Any = getattr(items, "_fields", None)
            if names is not None:
                return {path.attribute(name): part for name, part in zip(names, items, strict=True)}
            return {path.index(i): part for i, part in enumerate(items)}
        case _:
            return _attributes(value, path)


def _attributes(value: Any, path: Path) -> dict[Path, Any]:
    wrapped = getattr(value, "__wrapped__", None)
    if wrapped is not None and _is_of_jax(value):
        return {path: wrapped}  # a jitted function is known by what it computes
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.compare]
    else:
        slots = (name for kind in type(value).__mro__ for name in _slots(kind))
        hidden = "_" if type(value).__module__.startswith("batiste.") else "__"  # what batiste remembers of an object
        names = [name for name in (*slots, *getattr(value, "__dict__", ())) if not name.startswith(hidden)]
    return {path.attribute(name): getattr(value, name) for name in names if hasattr(value, name)}


def _is_of_jax(value: Any) -> bool:
    """Say whether a value is a function that JAX has wrapped: a jitted one, or one with derivatives of its own."""
    return callable(value) and type(value).__module__.partition(".")[0] in {"jax", "jaxlib"}


def _slots(kind: type) -> tuple[str, ...]:
    found: Any = kind.__dict__.get("__slots__", ())
    return (found,) if isinstance(found, str) else tuple(found)


def _defaults_of(function: Any) -> dict[str, Any]:
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    return {**dict(zip(names, defaults, strict=True)), **(function.__kwdefaults__ or {})}


# Words


def _shown(value: Any) -> str:
    """Return a value in at most one line."""
    match value:
        case types.FunctionType():
            return f"function {value.__name__} ({_where(value)})"
        case types.MethodType():
            return f"method {value.__name__} of {type(value.__self__).__name__}"
        case _ if _is_of_jax(value) and hasattr(value, "__name__"):
            return f"function {value.__name__}"
        case type():
            return value.__qualname__.rpartition("<locals>.")[2]
        case _:
            text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(_written(value).split()))
            text = text.replace("( ", "(").replace(", )", ")")
            return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _written(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - `repr` is written by anybody
        return f"an object of type {type(value).__name__}"


def _apart(before: str, after: str, old: Any = None, new: Any = None) -> tuple[str, str]:
    """Return two texts that differ: two that do not are told apart by type, or by "another"."""
    if old is not None and new is not None and (isinstance(old, int | float) or before == after):
        before, after = f"{before} ({type(old).__name__})", f"{after} ({type(new).__name__})"
    return before, after if after != before else f"another {after}"


def _where(function: Any) -> str:
    code = function.__code__
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"  # noqa: PTH119 - "<stdin>" is no path


def _node(value: Any) -> str:
    """Say in words what stands at a place of a pytree."""
    if value is None:
        return "None"
    if not _is_leaf(value):
        return type(value).__name__
    shape = shape_of(value)
    return _shown(value) if shape is None else str(shape)


def _layout(sharding: Any) -> str:
    mesh = getattr(sharding, "mesh", None)
    if mesh is None:
        devices = getattr(sharding, "device_set", None)
        return ", ".join(sorted(map(str, devices))) if devices else _shown(sharding)
    if not mesh.shape:
        return "no mesh"
    is_known = not isinstance(mesh, jax.sharding.AbstractMesh) or mesh.explicit_axes
    where = f"{tuple(sharding.spec)} on " if is_known else ""
    return f"{where}the mesh {dict(mesh.shape)}"


def _identity(value: Any) -> str:
    kind = cast("type[Any]", type(value))
    if kind.__eq__ is object.__eq__ or issubclass(kind, types.MethodType):
        return f"an object of type {kind.__name__} is equal to itself alone: make it once"
    return "its parts look the same, but == says that they differ: make it once"
