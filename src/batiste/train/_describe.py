"""What a train state shows of itself: path, dtype, shape and bytes of every leaf, and never a value but the step.

A state holds millions of numbers, of which a prompt, a log or a notebook wants none. Leaves may be anything that a
state is made of on its way through JAX: tracers, shapes, arrays that a step has used up, placeholders without a shape.
"""

from __future__ import annotations

import html
import math
from typing import Any, NamedTuple, cast

import jax
from jax.core import Tracer

from batiste.tree import path_string

__all__ = ["described", "described_in_html"]

_HEADER = ("path", "array", "bytes")
_MOST = 200  # rows; what is beyond is counted


class _Row(NamedTuple):
    path: str
    array: str
    size: int | None


def described(state: Any) -> str:
    """Return a line for every leaf, under the name of the class and the totals."""
    rows = _rows(state)
    shown = rows[:_MOST]
    widths = [
        max(map(len, column), default=0) for column in ([row.path for row in shown], [row.array for row in shown])
    ]
    lines = [f"  {row.path:<{widths[0]}}  {row.array:<{widths[1]}}  {_size(row.size):>14}".rstrip() for row in shown]
    lines += [f"  ... and {len(rows) - _MOST} more"] if len(rows) > _MOST else []
    return "\n".join([_headline(state, rows), *lines])


def described_in_html(state: Any) -> str:
    """Return the same as a table for a notebook."""
    rows = _rows(state)
    cells = [(row.path, row.array, _size(row.size)) for row in rows[:_MOST]]
    cells += [(f"... and {len(rows) - _MOST} more", "", "")] if len(rows) > _MOST else []
    head = "".join(f"<th>{name}</th>" for name in _HEADER)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
    caption = html.escape(_headline(state, rows))
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _headline(state: Any, rows: list[_Row]) -> str:
    at = f" at step {int(state.step)}" if _is_known(state.step) else ""
    total = sum(row.size or 0 for row in rows)
    return f"{type(state).__name__}{at}: {len(rows)} leaves, {total:,} bytes"


def _is_known(step: Any) -> bool:
    """Whether the number of the step can be read: not where it is traced, abstract or gone."""
    if not isinstance(step, jax.Array):
        return isinstance(step, int)
    return not isinstance(cast("Any", step), Tracer) and step.shape == () and not step.is_deleted()


def _rows(state: Any) -> list[_Row]:
    flatten = cast("Any", jax.tree_util.tree_flatten_with_path)
    return [_row(path_string(keys), leaf) for keys, leaf in flatten(state)[0]]


def _row(path: str, leaf: Any) -> _Row:
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None:
        return _Row(path, type(leaf).__name__, None)
    name = f"{getattr(dtype, 'name', dtype)}[{', '.join(map(str, shape))}]"
    is_counted = all(isinstance(extent, int) for extent in shape)
    return _Row(path, name, math.prod(shape) * dtype.itemsize if is_counted else None)


def _size(size: int | None) -> str:
    return "" if size is None else f"{size:,}"
