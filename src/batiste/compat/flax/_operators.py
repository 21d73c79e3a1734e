"""Operators for objects that stand for a value: each asks the value, and the value behind the other operand."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

__all__ = ["ValueOperators"]

_OPERATOR: Any = operator


def _value(operand: Any) -> Any:
    return operand.__value_behind__() if isinstance(operand, ValueOperators) else operand


def _unary(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda operand: function(_value(operand))


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda left, right: function(_value(left), _value(right))


def _reflected(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda right, left: function(_value(left), _value(right))


class ValueOperators:
    """Arithmetic, comparisons, ``len`` and ``bool`` of the value that ``__value_behind__`` returns.

    What is compared with ``==`` cannot be hashed, since the value may change.
    """

    def __value_behind__(self) -> Any:
        """Return the value that the object stands for."""
        raise NotImplementedError

    __array_ufunc__ = None  # NumPy leaves operators to this class
    __hash__ = None  # pyright: ignore[reportAssignmentType]
    __eq__ = _binary(_OPERATOR.eq)
    __ne__ = _binary(_OPERATOR.ne)
    __lt__ = _binary(_OPERATOR.lt)
    __le__ = _binary(_OPERATOR.le)
    __gt__ = _binary(_OPERATOR.gt)
    __ge__ = _binary(_OPERATOR.ge)

    __len__ = _unary(len)
    __neg__ = _unary(_OPERATOR.neg)
    __pos__ = _unary(_OPERATOR.pos)
    __abs__ = _unary(_OPERATOR.abs)
    __invert__ = _unary(_OPERATOR.invert)

    __add__ = _binary(_OPERATOR.add)
    __and__ = _binary(_OPERATOR.and_)
    __divmod__ = _binary(divmod)
    __floordiv__ = _binary(_OPERATOR.floordiv)
    __lshift__ = _binary(_OPERATOR.lshift)
    __matmul__ = _binary(_OPERATOR.matmul)
    __mod__ = _binary(_OPERATOR.mod)
    __mul__ = _binary(_OPERATOR.mul)
    __or__ = _binary(_OPERATOR.or_)
    __pow__ = _binary(_OPERATOR.pow)
    __rshift__ = _binary(_OPERATOR.rshift)
    __sub__ = _binary(_OPERATOR.sub)
    __truediv__ = _binary(_OPERATOR.truediv)
    __xor__ = _binary(_OPERATOR.xor)

    __radd__ = _reflected(_OPERATOR.add)
    __rand__ = _reflected(_OPERATOR.and_)
    __rdivmod__ = _reflected(divmod)
    __rfloordiv__ = _reflected(_OPERATOR.floordiv)
    __rlshift__ = _reflected(_OPERATOR.lshift)
    __rmatmul__ = _reflected(_OPERATOR.matmul)
    __rmod__ = _reflected(_OPERATOR.mod)
    __rmul__ = _reflected(_OPERATOR.mul)
    __ror__ = _reflected(_OPERATOR.or_)
    __rpow__ = _reflected(_OPERATOR.pow)
    __rrshift__ = _reflected(_OPERATOR.rshift)
    __rsub__ = _reflected(_OPERATOR.sub)
    __rtruediv__ = _reflected(_OPERATOR.truediv)
    __rxor__ = _reflected(_OPERATOR.xor)

    def __bool__(self) -> bool:
        return bool(_value(self))

    def __round__(self, ndigits: int | None = None) -> Any:
        return round(_value(self), ndigits)
