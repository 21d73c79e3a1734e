"""Errors and warnings of products in 8-bit floating point."""

from __future__ import annotations

from batiste.errors._base import BatisteError, BatisteWarning
from batiste.errors._nn import LayerError

__all__ = ["DotArgumentsError", "Fp8DtypeError", "IgnoredPrecisionWarning"]


class Fp8DtypeError(BatisteError, ValueError, AssertionError):
    """A dtype is given that is none of the 8-bit float types."""

    code = "fp8/dtype"
    message = "{given} is no 8-bit float type."
    hint = "Give one of {known}."


class DotArgumentsError(LayerError, AssertionError):
    """An 8-bit product is called in a way that ``jax.lax.dot_general`` would not be, or without its scales."""

    code = "fp8/arguments"
    message = "{path} is called with {given}; it needs {expected}."
    hint = "{advice}"


class IgnoredPrecisionWarning(BatisteWarning):
    """A precision is given to a product in 8 bits, which decides it by itself."""
