"""Initial values with less to compile: one program of random bits for all shapes, no program for keys and constants.

An initialiser such as a truncated normal distribution is a key folded from its path, random bits, and arithmetic on
them. Of what XLA needs to compile it, four fifths are the first two: Threefry's rounds, for every shape anew. But with
JAX's partitionable Threefry the bits of an array are those of its flat indices, so that one program, which draws more
than enough of them, serves every smaller shape; and folding a key takes a handful of integers, for which NumPy will do
(J. Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011). What comes out is the same, bit for bit.

Only what is certain is taken apart: 32 bits drawn once, with the folded key itself, by a Threefry key that lies on no
particular device. All else is drawn as it is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from batiste.core._fingerprint import Fingerprint, Valued, kept
from batiste.core._trace import call_jaxpr, is_extended, is_literal, replace_equations

__all__ = ["Arithmetic", "draw_bits", "fold_keys", "is_fill", "small_constants", "split_off_bits"]

_SIZES = (2**12, 2**16, 2**18, 2**20)
"""How many numbers the programs of random bits draw."""

_EXTRA = 2**24
"""So many numbers may be drawn for nothing before another program is the lesser cost."""

_SMALL = 2**16
"""Constants of at most so many numbers are made by NumPy."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


class Arithmetic(Valued):
    """What an initialiser makes of its random bits.

    Attributes:
      value: stands for the initialiser's program.
      closed_jaxpr: takes the bits.
      shape: the shape of the bits.
    """

    __slots__ = ("closed_jaxpr", "shape")

    def __init__(self, value: Fingerprint, closed_jaxpr: Any, shape: tuple[int, ...]) -> None:
        super().__init__(value)
        self.closed_jaxpr, self.shape = closed_jaxpr, shape

    def bits_for(self, count: int) -> int | None:
        """Return how many bits to draw each of ``count`` times; None if the whole is better drawn in one program."""
        size = math.prod(self.shape)
        enough = next((bits for bits in _SIZES if bits >= size), None)
        return None if enough is None or (enough - size) * count > _EXTRA else enough

    def __call__(self, bits: Any) -> list[Any]:
        """Return the arrays that the initialiser makes."""
        return _finisher(self)(bits)


@kept(maxsize=128)
def _finisher(arithmetic: Arithmetic) -> Callable[[Any], list[Any]]:
    closed_jaxpr, shape = arithmetic.closed_jaxpr, arithmetic.shape

    def finish(bits: Any) -> list[Any]:
        return call_jaxpr(closed_jaxpr, bits[: math.prod(shape)].reshape(shape))

    return jax.jit(finish)


@functools.partial(jax.jit, static_argnums=1)
def draw_bits(key: Any, size: int) -> jax.Array:
    """Return ``uint32[size]`` random bits of a Threefry key that is given as ``uint32[2]``.

    They are those of ``jax.random.bits``. JAX writes the rounds as a loop, which XLA compiles in 230 ms of a CPU and
    runs in 7 ns a number; written one after the other they take 55 ms and 2.7 ns (jax 0.10.2, 2^16 numbers).
    """
    first, second = _threefry(key[0], key[1], np.uint32(0), jax.lax.iota(np.uint32, size))
    return first ^ second


def fold_keys(key: Any, numbers: np.ndarray) -> np.ndarray | None:
    """Fold numbers into a key, as ``jax.random.fold_in`` does one after the other.

    Args:
      key: a random key, typed or raw.
      numbers: ``uint32[draws, folds]``.

    Returns:
      ``uint32[draws, 2]``; None if the key is no Threefry key, or belongs to a device, or its bits depend on shapes.
    """
    config: Any = jax.config
    if not isinstance(key, jax.Array) or not getattr(config, "jax_threefry_partitionable", False) or key.committed:
        return None
    if is_extended(key.dtype):
        if str(jax.random.key_impl(key)) != "threefry2x32":
            return None
        key = jax.random.key_data(key)
    elif config.jax_default_prng_impl != "threefry2x32":
        return None
    first, second = np.broadcast_to(jax.device_get(key), (len(numbers), 2)).T
    for number in numbers.T:
        first, second = _threefry(first, second, np.zeros_like(number), number)
    return np.stack([first, second], 1)


def _threefry(key_0: Any, key_1: Any, x_0: Any, x_1: Any) -> tuple[Any, Any]:
    """Return Threefry-2x32 with 20 rounds of arrays ``uint32[n]``."""
    keys = (key_0, key_1, key_0 ^ key_1 ^ _PARITY)
    x_0, x_1 = x_0 + keys[0], x_1 + keys[1]
    for turn in range(5):
        for rotation in _ROTATIONS[turn % 2]:
            x_0 = x_0 + x_1
            x_1 = x_0 ^ (x_1 << np.uint32(rotation) | x_1 >> np.uint32(32 - rotation))
        x_0, x_1 = x_0 + keys[(turn + 1) % 3], x_1 + keys[(turn + 2) % 3] + np.uint32(turn + 1)
    return x_0, x_1


def is_fill(closed_jaxpr: Any) -> bool:
    """Return whether every result of a trace is one number that is written in, again and again."""
    return all(_filled(closed_jaxpr.jaxpr, atom) is not None for atom in closed_jaxpr.jaxpr.outvars)


def small_constants(closed_jaxpr: Any) -> list[Any] | None:
    """Return the results of a trace, if each is small and is one number that is written in."""
    jaxpr = closed_jaxpr.jaxpr
    numbers = [_filled(jaxpr, atom) for atom in jaxpr.outvars]
    if any(number is None for number in numbers) or any(atom.aval.size > _SMALL for atom in jaxpr.outvars):
        return None
    return [
        np.full(atom.aval.shape, number, atom.aval.dtype) for atom, number in zip(jaxpr.outvars, numbers, strict=True)
    ]


def _filled(jaxpr: Any, atom: Any) -> Any:
    """Return the number that an output consists of; None if there is no such number."""
    maker = next((equation for equation in jaxpr.eqns if atom in equation.outvars), None)
    if maker is None or maker.primitive.name != "broadcast_in_dim" or not is_literal(maker.invars[0]):
        return None
    return None if atom.aval.weak_type else maker.invars[0].val


class _CannotSplitError(Exception):
    """The bits of a trace cannot be told apart from the rest."""


class _Key(NamedTuple):
    """Stands for the initialiser's key after so many folds."""

    folds: int


class _Numbers(NamedTuple):
    """Stands for the numbers to fold, or for the one at ``place``."""

    place: int | None = None


def split_off_bits(closed_jaxpr: Any, folds: int) -> tuple[Any, tuple[int, ...]] | None:
    """Take the drawing of random bits out of an initialiser's trace.

    Args:
      closed_jaxpr: takes a key and ``folds`` numbers, which it folds into the key.
      folds: how many.

    Returns:
      What is left, which takes the bits, and their shape; None if it draws in another way.
    """
    split = _Split(folds)
    jaxpr = closed_jaxpr.jaxpr
    try:
        split.walk(jaxpr, [_Key(0), _Numbers()])
        outvars = [split.read(atom) for atom in jaxpr.outvars]
    except _CannotSplitError:
        return None
    if split.bits is None or any(isinstance(atom, _Key | _Numbers) for atom in outvars):
        return None
    rest = replace_equations(jaxpr, split.equations, invars=[split.bits], outvars=outvars)
    return type(closed_jaxpr)(rest, closed_jaxpr.consts), split.bits.aval.shape


class _Split:
    """One walk through a trace: calls that are given the key are put in line, all else is kept as it is."""

    def __init__(self, folds: int) -> None:
        self.folds = folds
        self.equations: list[Any] = []
        self.bits: Any = None
        self._known: dict[Any, Any] = {}
        self._inlined: list[Any] = []

    def read(self, atom: Any) -> Any:
        return atom if is_literal(atom) else self._known.get(atom, atom)

    def walk(self, jaxpr: Any, inputs: Sequence[Any]) -> None:
        """Add the equations of a trace.

        Raises:
          _CannotSplitError: if the key is used for anything but one draw.
        """
        self._known.update(zip(jaxpr.invars, inputs, strict=True))
        for equation in jaxpr.eqns:
            atoms = [self.read(atom) for atom in equation.invars]
            if not any(isinstance(atom, _Key | _Numbers) for atom in atoms):
                self.equations.append(equation.replace(invars=atoms))
            elif equation.primitive.name in {"jit", "pjit"}:
                self._inline(equation, atoms)
            else:
                self._known[equation.outvars[0]] = self._stand_in(equation, atoms)

    def _inline(self, equation: Any, atoms: list[Any]) -> None:
        inner = equation.params["jaxpr"]
        if inner.consts or any(inner.jaxpr is other for other in self._inlined):
            raise _CannotSplitError  # its variables would stand for two values
        self._inlined.append(inner.jaxpr)
        self.walk(inner.jaxpr, atoms)
        self._known.update(zip(equation.outvars, map(self.read, inner.jaxpr.outvars), strict=True))

    def _stand_in(self, equation: Any, atoms: list[Any]) -> Any:
        """Return what stands for the result of an equation that takes the key or its numbers."""
        match equation.primitive.name, atoms:
            case (("random_wrap" | "random_unwrap"), [_Key() as key]):
                return key
            case "slice", [_Numbers(None)]:
                (start,), (stop,) = equation.params["start_indices"], equation.params["limit_indices"]
                if stop == start + 1:
                    return _Numbers(start)
            case "squeeze", [_Numbers(index)]:
                return _Numbers(index or 0)
            case "random_fold_in", [_Key(folds), _Numbers(index)] if index == folds:
                return _Key(folds + 1)
            case "random_bits", [_Key(folds)] if folds == self.folds and equation.params["bit_width"] == 32:
                if self.bits is None:
                    self.bits = equation.outvars[0]
                    return self.bits
            case _:
                pass
        raise _CannotSplitError
