"""The pages of ``batiste view`` that need JAX: of runs and of models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batiste._arguments import refused
from batiste.cli._diagnose import array_from, loaded, option_from
from batiste.view import Page, model, runs

__all__ = ["model_page", "runs_page"]


def model_page(target: str, shapes: Sequence[str], options: Sequence[str]) -> Page:
    """Return the page of the model that a name stands for."""
    found, inputs = loaded(target)
    inputs = tuple(array_from(shape, number) for number, shape in enumerate(shapes)) or inputs
    try:
        return model(found, *inputs, **dict(map(option_from, options)))
    except TypeError as error:
        if inputs:
            raise
        why = f"{str(error).splitlines()[0]}. As in 2,16:int32."
        raise refused(None, "--input", "batiste view", "the inputs that the model is called with", why) from error


def runs_page(targets: Sequence[str], *, diff: Path | None, stats: str, spectra: Sequence[str]) -> Page:
    """Return the page of runs."""
    return runs(*targets, diff=diff, stats=stats, spectra=spectra)
