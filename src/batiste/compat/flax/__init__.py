"""Flax's module layout over batiste: ``from batiste.compat.flax import linen as nn``, and the rest of the file stays.

Every module here has the name, and its members the names, signatures and behaviour, of the module of Flax that it
stands for (``__version__`` says which Flax). What is missing, and what differs, is in the migration guide. Modules load
when they are first used, so ``import batiste.compat.flax`` is quick, and ``batiste.compat.flax.linen.Dense`` works
without importing ``linen`` itself.

``python -m batiste.compat.flax SCRIPT`` runs a program that says ``import flax`` without touching it (``__main__.py``);
``install()`` does the same for the process that calls it.
"""

from __future__ import annotations

from batiste._later import later as _later
from batiste.compat.flax._serve import Server as _Server
from batiste.compat.flax.configurations import config

__all__ = ["config", "install"]


def install() -> _Server:
    """Serve ``import flax``, and every module under it, from batiste: in this process, from now on.

    Call it before anything imports Flax: what a module has taken from Flax already, it keeps. ``flax.nnx`` is Flax's
    own where Flax is installed.

    Returns:
      What serves: its ``missing`` lists what was asked for in vain, and ``uninstall()`` ends it.
    """
    server = _Server()
    server.install()
    return server


__getattr__, __dir__ = _later(
    __name__,
    (
        "core",
        "cursor",
        "errors",
        "ids",
        "io",
        "jax_utils",
        "linen",
        "metrics",
        "serialization",
        "struct",
        "testing",
        "traceback_util",
        "training",
        "traverse_util",
        "typing",
        "version",
    ),
    {"version": ("__version__",)},
)
