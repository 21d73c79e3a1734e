"""``batiste plan``: what a training step of a model needs and takes, from its blueprint alone."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from batiste._arguments import shown
from batiste.cli._report import Exit
from batiste.cli._say import say, say_json
from batiste.plan import Plan, as_html, as_json, as_text, plan, ranking, search, smallest_mesh
from batiste.shard import PRESETS, Rules

__all__ = ["run"]


def run(
    model: str,
    inputs: Sequence[str],
    *,
    optimizer: str,
    mesh: str | None,
    rules: str,
    hbm: str | None,
    chip: str,
    devices: int | None,
    smallest: bool,
    depth: int,
    html: Path | None,
    compiles: bool,
    target: str | None,
    as_json_too: bool,
) -> Exit:
    """Plan, and print what came of it."""
    made = _model(model)
    options: dict[str, Any] = {"optimizer": optimizer, "hbm": hbm, "chip": chip}
    if target is not None and not compiles:
        message = "--target says what --compile compiles for; give both"
        raise typer.BadParameter(message)
    if compiles and devices is not None:
        message = "--search ranks by plans alone; compile the one that you choose"
        raise typer.BadParameter(message)
    if devices is not None:
        found = search(made, *inputs, devices=devices, **options)
        if not found:
            say(f"error: no mesh of {devices} devices divides these inputs and this model", err=True)
            return Exit.ERROR
        if as_json_too:
            say_json([as_json(each) for each in found])
        else:
            typer.echo(ranking(found))
        return Exit.OK
    given = {"mesh": mesh, "rules": _rules(rules), "compile": compiles, "target": target}
    planned: Plan | None = plan(made, *inputs, **given, **options)
    if smallest and not planned.fits:
        planned = smallest_mesh(made, *inputs, **options)
        if planned is None:
            say("error: it fits on no mesh of up to 4096 devices", err=True)
            return Exit.ERROR
    if html is not None:
        html.write_text(as_html(planned), encoding="utf-8")
    if as_json_too:
        say_json(as_json(planned))
    else:
        typer.echo(as_text(planned, depth))
    return Exit.OK


def _rules(words: str) -> str | Rules:
    """Return the name of presets, or the rules in a JSON file."""
    names = [word.strip() for word in words.split("+")]
    return (
        words if all(name in PRESETS for name in names) or not words.endswith(".json") else Rules.from_json(Path(words))
    )


def _model(name: str) -> Any:
    """Return the model at ``pkg.mod:name``: a Module, or what a function without arguments returns."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        message = f"MODEL is written pkg.module:name, and was given as {name!r}"
        raise typer.BadParameter(message)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - an entry of the path is a text
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        message = f"{name!r} is not there: {error}"
        raise typer.BadParameter(message) from error
    finally:
        sys.path.pop(0)
    made: Any = found
    if callable(found) and (isinstance(found, type) or not hasattr(found, "init")):
        try:
            inspect.signature(found).bind()
        except (TypeError, ValueError) as error:
            message = f"{name!r} cannot be called without arguments: {error}"
            raise typer.BadParameter(message) from error
        made = found()
    if not hasattr(made, "init"):
        message = f"{name!r} is {shown(made)}: a model is wanted, or a function without arguments that makes one"
        raise typer.BadParameter(message)
    return made
