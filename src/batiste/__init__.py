"""batiste: neural networks for JAX as pure functions over named state.

People write blueprints (``nn.Module``); batiste keeps the books: which arrays exist, in which collection, at which
path, from which random stream. ``from batiste import nn`` has all that a model file needs.

A package is loaded when it is first named, so ``import batiste`` costs nothing and ``batiste.nn.Dense`` works after it;
the command, which often needs no arrays, does not load JAX because of it.
"""

from __future__ import annotations

import importlib as _importlib
import typing as _typing

from batiste._version import __version__ as __version__

if _typing.TYPE_CHECKING:
    from batiste import (
        checkpoint,
        core,
        diagnose,
        dtypes,
        errors,
        generation,
        importers,
        lift,
        module,
        nn,
        shard,
        struct,
        train,
        tree,
        typing,
        view,
    )
    from batiste.generation import generate
    from batiste.module import Module
    from batiste.train import TrainState

__all__ = [
    "Module",
    "TrainState",
    "checkpoint",
    "core",
    "diagnose",
    "dtypes",
    "errors",
    "generate",
    "generation",
    "importers",
    "lift",
    "module",
    "nn",
    "shard",
    "struct",
    "train",
    "tree",
    "typing",
    "view",
]


def __getattr__(name: str) -> _typing.Any:
    homes = {"Module": "batiste.module", "TrainState": "batiste.train", "generate": "batiste.generation"}
    if name in homes:
        found = getattr(_importlib.import_module(homes[name]), name)
    elif name in __all__:
        found = _importlib.import_module(f"batiste.{name}")
    else:
        msg = f"module 'batiste' has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
