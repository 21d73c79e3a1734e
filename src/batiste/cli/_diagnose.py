"""``batiste diagnose``: the tools of ``batiste.diagnose`` on a model that a module of Python holds.

The model is named ``package.module:name``. The name is a module of batiste, or a function without arguments that makes
one, or a pair of a model and its inputs, or a function that makes the pair. Inputs may also be given as shapes,
``2,16:int32``; whole numbers are then zeros, and other numbers are drawn. Variables are made by ``init``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import jax
import jax.numpy as jnp

from batiste._arguments import dtype_name, refused
from batiste.cli._report import Exit
from batiste.cli._say import say, say_json
from batiste.diagnose import Dtypes, Findings, Profile, check_pure, dtypes, find_nan, keys, lint, profile, summary
from batiste.module import Blueprint

__all__ = ["array_from", "diagnose", "loaded", "option_from"]

_TOOLS = MappingProxyType({
    "check-pure": check_pure, "dtypes": dtypes, "find-nan": find_nan, "keys": keys, "lint": lint, "profile": profile,
    "summary": summary,
})  # fmt: skip
_WORDS: Mapping[str, Any] = MappingProxyType({"True": True, "False": False, "None": None})


def diagnose(
    tool: str, target: str, shapes: Sequence[str], options: Sequence[str], *, picture: Path | None, as_json: bool
) -> Exit:
    """Run a tool on a model; the exit code is 1 if it has found something."""
    if picture is not None and tool != "profile":
        raise refused(tool, "TOOL", "batiste diagnose --picture", "profile", "It is the one with a picture.")
    model, inputs = loaded(target)
    inputs = tuple(array_from(shape, number) for number, shape in enumerate(shapes)) or inputs
    named = dict(option_from(option) for option in options)
    if tool == "summary":
        table = summary(model, *inputs, **named)
        if as_json:
            say_json(table.to_json())
        else:
            _lines(f"{table}\n\n{table.module_table()}")
        return Exit.OK
    rngs = {name: jax.random.key(number) for number, name in enumerate(("params", "dropout"))}
    run = cast("Any", _TOOLS[tool])
    own = inspect.signature(run).parameters.keys() - {"method"}  # such as `runs`, which the model does not know
    variables = model.init(rngs, *inputs, **{name: value for name, value in named.items() if name not in own})
    found = run(model, variables, *inputs, **named)
    if picture is not None:
        picture.write_text(found.to_svg(), encoding="utf-8")
    problems: Any = found.findings if tool == "keys" else found
    if as_json:
        say_json(_plain(found, problems))
    else:
        _lines("nothing found" if found is None else str(found))
    return Exit.DIFFERS if tool not in ("dtypes", "profile") and problems else Exit.OK


def _plain(found: Any, problems: Any) -> Any:
    """Return a result as plain dicts and lists."""
    if isinstance(problems, Findings | Profile):
        return problems.to_json()
    if found is None:
        return None
    return [dataclasses.asdict(row) for row in found.rows] if isinstance(found, Dtypes) else dataclasses.asdict(found)


def _lines(text: str) -> None:
    for line in text.splitlines():
        say(line)


def loaded(target: str) -> tuple[Any, tuple[Any, ...]]:
    """Return the model that a name stands for, and its inputs if it comes with them."""
    module, _, name = target.partition(":")
    where = "batiste diagnose"
    if not module or not name:
        raise refused(target, "MODEL", where, "package.module:name", "As in my_package.models:model.")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it
        sys.path.insert(0, here)
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise refused(target, "MODEL", where, "a module of Python that can be imported", f"{error}.") from error
    except AttributeError as error:
        raise refused(target, "MODEL", where, f"a name that {module} has", f"{error}.") from error
    if not isinstance(found, Blueprint | tuple) and callable(found):
        try:
            inspect.signature(found).bind()
        except (TypeError, ValueError) as error:
            what = "a Module, or a function without arguments that returns one"
            raise refused(target, "MODEL", where, what, f"It cannot be called without arguments: {error}.") from error
        found = found()
    model, *inputs = cast("tuple[Any, ...]", found) if isinstance(found, tuple) else (found,)
    if not isinstance(model, Blueprint):
        raise refused(model, "MODEL", where, "a model", "The name is a Module, or a function that returns one.")
    return model, tuple(inputs)


def array_from(text: str, number: int) -> Any:
    """Return the array that ``2,16:int32`` stands for."""
    sizes, _, dtype = text.partition(":")
    kind = dtype_name(dtype or "float32", "--input", "batiste diagnose")
    parts = [part for part in sizes.split(",") if part]
    if not all(part.isdigit() for part in parts):
        raise refused(text, "--input", "batiste diagnose", "a shape and a dtype", "As in 2,16:int32.")
    shape = tuple(map(int, parts))
    if jnp.issubdtype(kind, jnp.floating):
        return jax.random.normal(jax.random.key(number), shape, jnp.float32).astype(kind)
    return jnp.zeros(shape, kind)


def option_from(text: str) -> tuple[str, Any]:
    """Return the name and the value of ``train=False``."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise refused(text, "--option", "batiste diagnose", "name=value", "As in train=False.")
    if value in _WORDS:
        return name, _WORDS[value]
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
