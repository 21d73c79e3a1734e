"""The table of a blueprint: every variable with its path, shape and size, before any array exists.

``summary`` traces the model's ``init`` with shapes alone, so that a model of any size costs the same: nothing is
allocated, drawn or compiled. A model that reads values while it is initialised (an ``if`` on an input) cannot be
traced; it is initialised instead.

*Parameters* are the numbers in the collection ``params``, those that training changes by gradients; *bytes* are those
of every collection. A module that is used twice has its variables once.

The result prints as plain text, and as a table where it is printed by rich or shown by a notebook.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import jax
import numpy as np

from batiste._arguments import refused, whole_number
from batiste.core import streams_from, unbox
from batiste.diagnose._costs_table import ModuleRow, module_rows
from batiste.diagnose._findings import html_table
from batiste.diagnose._profile import Profile
from batiste.diagnose._program import nearest_paths
from batiste.errors import InvalidInstanceModuleError, NoSuchModuleError
from batiste.module import Blueprint
from batiste.tree import Patterns, compile_pattern, flatten, join_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from batiste.typing import Rngs

__all__ = ["Summary", "SummaryRow", "summary"]

_HEADER = ("path", "shape", "dtype", "parameters", "bytes")
_MODULES = ("path", "module", "output", "parameters", "bytes", "FLOPs", "share", "activation bytes")


class _Blueprint(Protocol):
    """What ``summary`` needs of a model."""

    @property
    def init(self) -> Callable[..., Any]: ...


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One variable.

    Attributes:
      path: its path from the root, such as ``params/Conv_0/kernel``.
      collection: the first part of the path.
      shape: the extent of each axis.
      dtype: the name of its dtype.
      parameters: how many numbers gradients change: all of ``params``, none of other collections.
      bytes: its size in memory.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> row = diagnose.summary(nn.Dense(4), jnp.ones((2, 3))).rows[0]
      >>> row.path, row.shape, row.parameters
      ('params/kernel', (3, 4), 12)
    """

    path: str
    collection: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """Every variable of a model, the parameters first, in the order in which the model makes them.

    Attributes:
      name: the class of the model.
      rows: the variables.
      modules: the modules that are called, with what they cost; empty for a model that cannot be traced.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> table = diagnose.summary(nn.Dense(4), jnp.ones((2, 3)))
      >>> table.parameters, table.bytes, table.flops
      (16, 64, 48)
    """

    name: str
    rows: tuple[SummaryRow, ...]
    modules: tuple[ModuleRow, ...] = dataclasses.field(default=(), compare=False)

    @property
    def flops(self) -> int:
        """The operations of matrix products and convolutions in one call, loops counted."""
        return sum(row.flops for row in self._outermost())

    @property
    def activation_bytes(self) -> int:
        """The size of all that the modules return in one call."""
        return sum(row.activation_bytes for row in self._outermost())

    def _outermost(self) -> list[ModuleRow]:
        """Return the modules that lie below no other: the model, or the layers of one that is a ``Repeat``."""
        if any(row.depth == 0 for row in self.modules):
            return [row for row in self.modules if row.depth == 0]
        paths = {row.path for row in self.modules}
        return [
            row for row in self.modules if not any(row.path[:at] in paths for at, c in enumerate(row.path) if c == "/")
        ]

    @property
    def parameters(self) -> int:
        """How many numbers gradients change."""
        return sum(row.parameters for row in self.rows)

    @property
    def bytes(self) -> int:
        """The size of all variables in memory."""
        return sum(row.bytes for row in self.rows)

    def totals(self) -> dict[str, tuple[int, int]]:
        """Return the parameters and the bytes of each collection."""
        found: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            parameters, size = found.get(row.collection, (0, 0))
            found[row.collection] = (parameters + row.parameters, size + row.bytes)
        return found

    def select(self, pattern: Patterns | None = None, *, depth: int | None = None) -> Summary:
        """Return the part of the table that is asked for.

        Args:
          pattern: one or several globs over the paths of modules; variables are those of the modules that match.
          depth: how many names the path of a module has at most.

        Raises:
          ArgumentError: ``depth`` is no number of levels.
          NoSuchModuleError: a pattern matches no module.
        """
        depth = None if depth is None else whole_number(depth, "depth", "select")
        given: Any = [] if pattern is None else [pattern] if isinstance(pattern, str) else list(cast("Any", pattern))
        compiled = [compile_pattern(each) for each in given]
        paths = [row.path for row in self.modules]
        for each in compiled:
            if not any(each.matches(path) for path in paths):
                near = nearest_paths(str(each), paths)
                raise NoSuchModuleError(where="select", pattern=str(each), model=self.name, nearest=near)
        modules = [
            row
            for row in self.modules
            if (depth is None or row.depth <= depth)
            and (not compiled or any(each.matches(row.path) for each in compiled))
        ]
        rows = [row for row in self.rows if not compiled or any(each.matches(_owner(row.path)) for each in compiled)]
        if depth is not None:
            rows = [row for row in rows if _owner(row.path).count("/") + bool(_owner(row.path)) <= depth]
        return dataclasses.replace(self, rows=tuple(rows), modules=tuple(modules))

    def timed(self, measured: Profile) -> Summary:
        """Return the table with the share of time of each module, as ``batiste.diagnose.profile`` has measured it.

        Args:
          measured: the profile of the same model.

        Raises:
          ArgumentError: it is no profile.
        """
        if not isinstance(cast("Any", measured), Profile):
            raise refused(measured, "measured", "timed", "what batiste.diagnose.profile returns")
        times = {path: sum(passes.values()) for path, passes in measured.by_path().items()}
        rows: list[ModuleRow] = []
        for row in self.modules:
            spent = times.get(row.path if row.depth else "", 0.0)
            rows.append(dataclasses.replace(row, time_share=spent / measured.seconds if measured.seconds else 0.0))
        return dataclasses.replace(self, modules=tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """Return the tables as plain dicts and lists, which ``json.dumps`` takes."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "flops": self.flops,
            "activation_bytes": self.activation_bytes,
            "variables": [{**dataclasses.asdict(row), "shape": list(row.shape)} for row in self.rows],
            "modules": [dataclasses.asdict(row) for row in self.modules],
        }

    def to_markdown(self) -> str:
        """Return the table of the modules as Markdown."""
        header, *body = self._module_lines()
        lines = [f"| {' | '.join(header)} |", f"|{'|'.join(' --- ' for _ in header)}|"]
        lines += [f"| {' | '.join(cells)} |" for cells in body]
        return "\n".join(lines)

    def to_html(self) -> str:
        """Return both tables as HTML, as a notebook shows them."""
        return self._repr_html_()

    def module_table(self) -> str:
        """Return the table of the modules as text."""
        body = self._module_lines()
        widths = [max(map(len, column)) for column in zip(*body, strict=True)]
        return "\n".join(_line(row, widths) for row in body)

    def __str__(self) -> str:
        body = [*map(_cells, self.rows)]
        foot = [(name, "", "", *_numbers(*total)) for name, total in self._foot()]
        widths = [max(map(len, column)) for column in zip(_HEADER, *body, *foot, strict=True)]
        rule = "  ".join("-" * width for width in widths)
        lines = [_line(_HEADER, widths), rule, *(_line(row, widths) for row in body), rule]
        return "\n".join([self.name, *lines, *(_line(row, widths) for row in foot)])

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.name, title_justify="left", show_footer=True)
        foot = [(name, *_numbers(*total)) for name, total in self._foot()]
        names, parameters, sizes = ("\n".join(column) for column in zip(*foot, strict=True))
        for header, footer in zip(_HEADER, (names, "", "", parameters, sizes), strict=True):
            is_number = header in {"parameters", "bytes"}
            table.add_column(header, Text(footer), justify="right" if is_number else "left", no_wrap=header != "path")
        for row in self.rows:
            table.add_row(*map(Text, _cells(row)))
        return table

    def _repr_html_(self) -> str:
        rows = [_cells(row) for row in self.rows]
        foot = [(name, "", "", *_numbers(*total)) for name, total in self._foot()]
        head = "".join(f"<th>{name}</th>" for name in _HEADER)
        body, totals = ("".join(map(_html_row, part)) for part in (rows, foot))
        names, *cells = self._module_lines()
        costs = html_table("modules", names, cells) if self.modules else ""
        return (
            f"<table><caption>{html.escape(self.name)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody><tfoot>{totals}</tfoot></table>{costs}"
        )

    def _module_lines(self) -> list[tuple[str, ...]]:
        """The head and the rows of the table of modules, with shares of time where they are known."""
        lines = [_MODULES, *map(_module_cells, self.modules)]
        times = ["" if row.time_share is None else f"{row.time_share:.1%}" for row in self.modules]
        if not any(times):
            return lines
        return [(*cells, time) for cells, time in zip(lines, ("time", *times), strict=True)]

    def _foot(self) -> list[tuple[str, tuple[int, int]]]:
        totals = self.totals()
        several = [*totals.items()] if len(totals) > 1 else []
        return [*several, ("total", (self.parameters, self.bytes))]


def summary(model: _Blueprint, *inputs: Any, rngs: Rngs | None = None, **kwargs: Any) -> Summary:
    """Return the table of every variable that ``model.init(rngs, *inputs, **kwargs)`` would make.

    Args:
      model: the blueprint.
      *inputs: what the model is called with; arrays, and shapes (``jax.ShapeDtypeStruct``), count by shape alone.
      rngs: the random streams; their values do not matter, and by default there is ``params`` only.
      **kwargs: options of the call, passed on as they are: ``train=False``, ``method="encode"``.

    Raises:
      InvalidInstanceModuleError: if the model has no ``init``.
      InvalidRngError: if a stream of a Module is given something that is no key.

    Example:
      >>> import jax
      >>> from batiste import diagnose, nn
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(1)])
      >>> table = diagnose.summary(model, jax.ShapeDtypeStruct((2, 3), "float32"))
      >>> table.parameters, [row.path for row in table.select("layers_0").rows]
      (21, ['params/layers_0/kernel', 'params/layers_0/bias'])
    """
    if isinstance(model, type) or not hasattr(model, "init"):
        raise InvalidInstanceModuleError(call="init", given=repr(model))
    if isinstance(model, Blueprint):
        streams_from(rngs, type(model).__name__)
    variables, order = _shapes(model, rngs, inputs, kwargs)
    rows = [_row(path, leaf) for path, leaf in flatten(unbox(variables)).items()]
    place = {path: index for index, path in enumerate(order)}
    rows.sort(key=lambda row: (row.collection != "params", place.get(row.path, len(place))))
    return Summary(type(model).__name__, tuple(rows), _modules(model, variables, inputs, rngs, kwargs))


def _modules(model: Any, variables: Any, inputs: Any, rngs: Any, kwargs: dict[str, Any]) -> tuple[ModuleRow, ...]:
    """Return the rows of the modules; none where the model cannot be traced with these shapes."""
    if not isinstance(model, Blueprint):
        return ()
    try:
        return module_rows(model, variables, inputs, rngs, kwargs)
    except Exception:  # noqa: BLE001 - the table of the variables is there in any case
        return ()


def _owner(path: str) -> str:
    """Return the path of the module that a variable belongs to."""
    return path.partition("/")[2].rpartition("/")[0]


def _module_cells(row: ModuleRow) -> tuple[str, ...]:
    numbers = (row.parameters, row.bytes, row.flops)
    return (
        row.path,
        f"{row.kind} x{row.calls}" if row.calls > 1 else row.kind,
        row.output,
        *(f"{number:,}" if number else "" for number in numbers),
        f"{row.share:.1%}" if row.flops else "",
        f"{row.activation_bytes:,}",
    )


def _shapes(model: _Blueprint, rngs: Rngs | None, inputs: Any, kwargs: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the shape of every variable, and the paths in the order of their making."""
    leaves = jax.tree.leaves(inputs)
    structure: Any = jax.tree.structure(inputs)  # pyright: ignore[reportUnknownVariableType]
    is_array = [isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct) for leaf in leaves]
    arrays = [leaf for leaf, abstract in zip(leaves, is_array, strict=True) if abstract]
    order: list[str] = []

    def init(rngs: Any, arrays: list[Any]) -> Any:
        given = iter(arrays)
        merged = [next(given) if abstract else leaf for leaf, abstract in zip(leaves, is_array, strict=True)]
        variables = model.init(rngs, *jax.tree.unflatten(structure, merged), **kwargs)
        order.extend(_paths_as_made(variables))
        return variables

    keys: Any = jax.eval_shape(lambda: jax.random.key(0)) if rngs is None else rngs
    try:
        return jax.eval_shape(init, keys, arrays), order
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        variables = model.init(jax.random.key(0) if rngs is None else rngs, *inputs, **kwargs)
        return variables, _paths_as_made(variables)


def _paths_as_made(tree: Any, parts: tuple[str, ...] = ()) -> list[str]:
    """Return the paths in the order in which dicts were filled; JAX itself sorts their keys."""
    if not isinstance(tree, Mapping):
        return [join_path(parts)]
    entries: Any = tree.items()  # pyright: ignore[reportUnknownVariableType]
    return [path for name, part in entries for path in _paths_as_made(part, (*parts, str(name)))]


def _row(path: str, leaf: Any) -> SummaryRow:
    collection = path.partition("/")[0]
    shape = tuple(map(int, leaf.shape))  # of Python, whose products do not wrap
    size = math.prod(shape)
    return SummaryRow(
        path=path,
        collection=collection,
        shape=shape,
        dtype=str(leaf.dtype),
        parameters=size if collection == "params" else 0,
        bytes=size * leaf.dtype.itemsize,
    )


def _cells(row: SummaryRow) -> tuple[str, ...]:
    return row.path, str(row.shape), row.dtype, *_numbers(row.parameters, row.bytes)


def _html_row(cells: tuple[str, ...]) -> str:
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def _numbers(parameters: int, size: int) -> tuple[str, str]:
    return f"{parameters:,}" if parameters else "", f"{size:,}"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    aligned = [
        cell.rjust(width) if i >= 3 else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()
