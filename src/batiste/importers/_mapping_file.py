"""Mappings as JSON: ``{"rules": [{"source": "h.*.attn", "target": "params/h_{1}/attn", "layout": "attention"}]}``.

Every rule is an object with the attributes of ``Rule``; what is left out has its default. A layout is its name in lower
case (``batch_norm``), or an object with its name and its attributes (``{"name": "attention_in", "heads": 12}``).
Nothing but data is in such a file, and nothing else is taken from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from batiste._arguments import path as checked_path
from batiste.errors import MappingFileError
from batiste.importers._attention import Attention, AttentionIn, AttentionOut, FusedAttentionIn
from batiste.importers._layouts import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Embedding,
    FlattenLinear,
    Identity,
    LayerNorm,
    Layout,
    Linear,
    PReLU,
    Reshape,
    Transpose,
)
from batiste.importers._recurrent import Gru, Lstm, Rnn
from batiste.importers._rules import Rule, WeightMapping, compile_mapping
from batiste.importers._weight_norm import WeightNorm

__all__ = ["dump_mapping", "layout_name", "load_mapping"]

_MAX_BYTES: Final = 1 << 24


def layout_name(kind: type[Layout]) -> str:
    """Return the name of a layout in a file: ``batch_norm`` for ``BatchNorm``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", kind.__name__).lower()


_LAYOUTS: Final[Mapping[str, type[Layout]]] = MappingProxyType(
    {
        layout_name(kind): kind
        for kind in (
            Attention,
            AttentionIn,
            AttentionOut,
            BatchNorm,
            Conv,
            ConvTranspose,
            Embedding,
            FlattenLinear,
            FusedAttentionIn,
            Gru,
            Identity,
            LayerNorm,
            Linear,
            Lstm,
            PReLU,
            Reshape,
            Rnn,
            Transpose,
            WeightNorm,
        )
    }
)


def dump_mapping(mapping: WeightMapping) -> str:
    """Return a mapping as JSON, a rule a line.

    Raises:
      MappingRuleError: if a rule cannot be read.

    Example:
      >>> from batiste import importers
      >>> print(importers.dump_mapping([("fc", "params/Dense_0", importers.Linear())]))
      {
        "rules": [
          {"source": "fc", "target": "params/Dense_0", "layout": "linear"}
        ]
      }
    """
    rules = [_rule_row(compiled.rule) for compiled in compile_mapping(mapping)]
    lines = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in rules)
    return f'{{\n  "rules": [\n{lines}\n  ]\n}}\n'


def load_mapping(path: str | os.PathLike[str]) -> tuple[Rule, ...]:
    """Return the mapping that a file holds.

    Raises:
      ArgumentError: if it is no path.
      MappingFileError: if it holds none.
      MappingRuleError: if a rule cannot be read.

    Example:
      >>> from batiste import importers
      >>> import pathlib
      >>> rules = [("fc", "params/Dense_0", importers.Linear())]
      >>> _ = pathlib.Path("rules.json").write_text(importers.dump_mapping(rules))
      >>> importers.load_mapping("rules.json")[0].target
      'params/Dense_0'
    """
    place = Path(checked_path(path, "path", "load_mapping"))
    try:
        if place.stat().st_size > _MAX_BYTES:
            raise MappingFileError(path=place, reason="it is larger than any mapping")
        body: Any = json.loads(place.read_bytes())
    except OSError as error:
        raise MappingFileError(path=place, reason=f"{error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise MappingFileError(path=place, reason=f"it is not JSON ({str(error)[:80]})") from None
    rows: Any = cast("dict[str, Any]", body).get("rules") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        raise MappingFileError(path=place, reason="it has no list `rules`")
    rules: list[Rule] = []
    for number, row in enumerate(cast("list[Any]", rows)):
        rule = _rule(row)
        if isinstance(rule, str):
            raise MappingFileError(path=place, reason=f"in rule {number} {rule}")
        rules.append(rule)
    compile_mapping(rules)
    return tuple(rules)


def _rule_row(rule: Rule) -> dict[str, Any]:
    row: dict[str, Any] = {"source": rule.source, "target": rule.target}
    if rule.target is not None:
        row["layout"] = _layout_row(rule.layout)
    row |= {name: True for name in ("optional", "tied") if getattr(rule, name)}
    return row if rule.same_as is None else {**row, "same_as": rule.same_as}


def _layout_row(layout: Layout) -> str | dict[str, Any]:
    """The name of a layout, with what of it is not its default."""
    name = layout_name(type(layout))
    given = {
        field.name: getattr(layout, field.name)
        for field in dataclasses.fields(cast("Any", layout))
        if getattr(layout, field.name) != field.default
    }
    options = {key: _layout_row(value) if isinstance(value, Layout) else value for key, value in given.items()}
    return {"name": name, **options} if options else name


_ATTRIBUTES: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType(
    {
        "source": (str,),
        "target": (str, type(None)),
        "layout": (str, dict),
        "optional": (bool,),
        "tied": (bool,),
        "same_as": (str, type(None)),
    }
)


def _rule(row: Any) -> Rule | str:
    """The rule that a row stands for, or what is wrong with the row."""
    if not isinstance(row, dict):
        return "stands no object"
    given = dict(cast("dict[str, Any]", row))
    for name, value in given.items():
        if name not in _ATTRIBUTES:
            return f"is {name!r}, which no rule has"
        if not isinstance(value, _ATTRIBUTES[name]):
            return f"{name!r} cannot be {value!r:.40}"
    if not {"source", "target"} <= given.keys():
        return "there is no source or no target"
    layout = _layout(given.pop("layout", "identity"))
    return layout if isinstance(layout, str) else Rule(**given, layout=layout)


def _layout(given: str | dict[str, Any]) -> Layout | str:
    options = {"name": given} if isinstance(given, str) else dict(given)
    name = options.pop("name", None)
    kind = _LAYOUTS.get(name) if isinstance(name, str) else None
    if kind is None:
        return f"is the layout {name!r:.40}; known are {', '.join(sorted(_LAYOUTS))}"
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for key, value in options.items():
        if key == "layout" and isinstance(value, str | dict):
            value = _layout(cast("str | dict[str, Any]", value))  # noqa: PLW2901 - what the row stands for
            if isinstance(value, str):
                return value
        values[key] = tuple(cast("list[Any]", value)) if isinstance(value, list) else value
        if key not in hints or not _fits(values[key], hints[key]):
            return f"the layout {name} cannot have {key}={options[key]!r:.40}"
    with contextlib.suppress(TypeError):
        return kind(**values)
    return f"the layout {name} needs {', '.join(name for name in hints if name not in values)}"


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that an attribute of a layout has."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return any(
        isinstance(value, tuple) and all(type(part) is int for part in cast("tuple[Any, ...]", value))
        if typing.get_origin(kind) is tuple
        else type(value) is kind or (kind is Layout and isinstance(value, Layout) and not isinstance(value, WeightNorm))
        for kind in kinds
    )
