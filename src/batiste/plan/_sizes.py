"""The words of a plan: ``"tokens:int32[8,4096]"`` for an input, ``"80GB"`` for a memory, ``"adamw"`` of Optax."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax

from batiste._arguments import dtype_name, number, refused

__all__ = ["as_bytes", "as_inputs", "as_optimizer"]

_INPUT = re.compile(r"(?:(?P<name>\w+)\s*:\s*)?(?P<dtype>\w+)\s*\[(?P<shape>[\d,\s]*)\]")
_BYTES = re.compile(r"(?P<number>[\d.]+)\s*(?P<power>[KMGT]?)(?P<binary>i?)B?", re.IGNORECASE)


def as_inputs(inputs: Sequence[Any]) -> list[Any]:
    """Return inputs as shapes.

    Raises:
      ArgumentError: one is neither an array nor a shape nor words for one.
    """
    return [_input(each) for each in inputs]


def _input(given: Any) -> Any:
    if isinstance(given, str):
        found = _INPUT.fullmatch(given.strip())
        if found is None:
            raise refused(given, "input", "plan", 'words such as "tokens:int32[8,4096]"')
        shape = tuple(int(part) for part in found["shape"].split(",") if part.strip())
        return jax.ShapeDtypeStruct(shape, dtype_name(found["dtype"], "input", "plan"))
    if hasattr(given, "shape") and hasattr(given, "dtype"):
        return jax.ShapeDtypeStruct(given.shape, given.dtype)
    raise refused(given, "input", "plan", 'an array, a shape, or words such as "tokens:int32[8,4096]"')


def as_bytes(given: Any, argument: str) -> float:
    """Return a number of bytes, which may have a unit: 80GB is 80e9, 80GiB is 80 * 2**30.

    Raises:
      ArgumentError: it is something else.
    """
    if not isinstance(given, str):
        return number(given, argument, "plan", above=0)
    found = _BYTES.fullmatch(given.strip())
    if found is None or found["number"].count(".") > 1 or not any(map(str.isdecimal, found["number"])):
        raise refused(given, argument, "plan", 'a number of bytes, or words such as "80GB"')
    power = " KMGT".index(found["power"].upper() or " ")
    return number(float(found["number"]) * (1024 if found["binary"] else 1000) ** power, argument, "plan", above=0)


def as_optimizer(given: Any) -> Any:
    """Return an Optax transformation, or None.

    Raises:
      ArgumentError: it is neither one nor the name of one.
    """
    if given is None or given == "none":
        return None
    if not isinstance(given, str):
        if callable(getattr(given, "init", None)) and callable(getattr(given, "update", None)):
            return given
        raise refused(given, "optimizer", "plan", 'an Optax transformation, or the name of one, such as "adamw"')
    import optax  # pyright: ignore[reportMissingTypeStubs]

    make: Any = getattr(optax, given, None)
    try:
        made = make(1e-3)
    except TypeError:
        made = None
    if not callable(getattr(made, "init", None)):
        raise refused(given, "optimizer", "plan", 'the name of an optimiser of Optax, such as "adamw"')
    return made
