"""The configuration of a run: a frozen dataclass, filled from the command line, saved with the run, and compared.

The loop does not look into it. It is written to ``config.json`` in the folder of the run when the run begins, each
field by its path (``optimizer.rate``), and a run that goes on with another one says which fields have changed.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from batiste._arguments import path, refused
from batiste.errors import ConfigChangedWarning, MissingPackageError

__all__ = ["configured", "fields_of", "is_config", "keep_config", "read_config"]

_Config = TypeVar("_Config")
NAME = "config.json"


def configured(config: type[_Config], arguments: Sequence[str] | None = None) -> _Config:
    """Return a configuration as the command line says: ``--rate 0.1 --model.features 64``.

    The reading is that of tyro (https://brentyi.github.io/tyro): nested dataclasses, literals, tuples and booleans are
    options, and ``--help`` lists them with their defaults and docstrings.

    Args:
      config: a dataclass, whose fields have types and mostly defaults; frozen ones can be shared without care.
      arguments: the words; None for those of the program.

    Raises:
      ArgumentError: it is no dataclass.
      MissingPackageError: tyro is not installed (``pip install 'batiste[train]'``).
      SystemExit: the words cannot be read, which tyro has said, or they ask for help.

    Example:
      >>> from batiste import train
      >>> import dataclasses
      >>> @dataclasses.dataclass(frozen=True)
      ... class Config:
      ...     rate: float = 1e-3
      ...     features: int = 64
      >>> train.configured(Config, ["--rate", "0.5"])
      Config(rate=0.5, features=64)
    """
    given: Any = config
    if not isinstance(given, type) or not dataclasses.is_dataclass(given):
        raise refused(given, "config", "configured", "a dataclass", "Write @dataclasses.dataclass(frozen=True) above.")
    try:
        import tyro
    except ImportError as error:
        purpose, install = "Reading a configuration from the command line", "'batiste[train]'"
        raise MissingPackageError(purpose=purpose, package="tyro", install=install) from error
    return tyro.cli(config, args=arguments)


def is_config(value: Any) -> bool:
    """Say whether a value has fields: a dataclass or a mapping with names."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) for name in cast("Mapping[Any, Any]", value))
    return dataclasses.is_dataclass(value)


def fields_of(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the fields by path, as JSON has them; what it has not is text."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        pairs: dict[str, Any] = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    else:
        pairs = {str(name): value for name, value in cast("Mapping[Any, Any]", config).items()}
    found: dict[str, Any] = {}
    for name, value in pairs.items():
        if value and is_config(value) and not isinstance(value, type):
            found.update(fields_of(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, os.PathLike):
        return os.fspath(cast("os.PathLike[str]", value))
    if getattr(value, "shape", None) == ():
        return value.item()
    name = getattr(value, "__qualname__", None)  # an address would be another one in each process
    return f"{value.__module__}.{name}" if name else repr(value) if _has_repr(value) else type(value).__qualname__


def _has_repr(value: Any) -> bool:
    return type(value).__repr__ is not object.__repr__


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields that a run was begun with; none where it has none, or the file cannot be read.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> step = lambda state, x: (state + x, {"loss": state})
      >>> options = {"steps": 1, "config": {"rate": 0.5}, "log": None}
      >>> state = train.fit(step, jnp.zeros(()), lambda n: 1.0, run="run", **options)
      >>> train.read_config("run")
      {'rate': 0.5}
    """
    place = Path(path(folder, "folder", "read_config")) / NAME
    try:
        found: Any = json.loads(place.read_text())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def keep_config(folder: Path, config: Any, *, begun: bool) -> None:
    """Write the configuration of a run that begins, or compare it with the one of a run that goes on.

    Warns:
      ConfigChangedWarning: fields are others than when the run was begun; each is named with both values.
    """
    fields = json.loads(json.dumps(fields_of(config)))
    before = read_config(folder)
    if begun and before:
        lines = [
            f"\n  {name}: {_text(before, name)} -> {_text(fields, name)}"
            for name in sorted({*before, *fields})
            if _text(before, name) != _text(fields, name)
        ]
        if lines:
            text = f"The run in {folder} goes on with another configuration:{''.join(lines)}"
            warnings.warn(text, ConfigChangedWarning, stacklevel=5)
        return
    place = folder / NAME
    folder.mkdir(parents=True, exist_ok=True)
    partly = place.with_name(f"{NAME}.new")
    partly.write_text(json.dumps(fields, indent=2) + "\n")
    partly.replace(place)


def _text(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name]) if name in fields else "not there"
