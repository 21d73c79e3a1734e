"""``tabulate``: what a module is made of, as a table, before any array exists.

The table is made by tracing ``init`` with shapes while an interceptor notes each call. A module that is called again is
listed once, and its variables are counted once. Modules know nothing of it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import mapping, whole_number
from batiste.core import CollectionFilter, unbox
from batiste.errors import MissingPackageError
from batiste.module._blueprint import check_module
from batiste.module._calls import INIT_MUTABLE
from batiste.module._context import InterceptorContext, intercept_methods
from batiste.typing import Rngs

__all__ = ["Row", "module_paths", "table_of", "tabulate"]


class Row(NamedTuple):
    """One module of the table.

    Attributes:
      path: the names from the outermost module; empty for that one.
      kind: the class name.
      method: the method that was called.
      inputs: what it was called with, arrays as ``jax.ShapeDtypeStruct``.
      outputs: what it returned, likewise.
      variables: its own variables by collection, not those of its submodules.
      blueprint: the unbound module.
      flops: the floating-point operations of the call, or None.
      vjp_flops: those of the call and its gradient, or None.
    """

    path: tuple[str, ...]
    kind: str
    method: str
    inputs: Any
    outputs: Any
    variables: Mapping[str, Mapping[str, Any]]
    blueprint: Any
    flops: int | None = None
    vjp_flops: int | None = None

    @property
    def shown_inputs(self) -> Any:
        """The inputs as a table has them: keywords in a dict at the end, and one input alone."""
        args, kwargs = self.inputs
        if kwargs:
            return (*args, kwargs)
        return args[0] if len(args) == 1 else args


def table_of(
    module: Any,
    rngs: Rngs | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    depth: int | None = None,
    show_repeated: bool = False,
    mutable: CollectionFilter = INIT_MUTABLE,
    compute_flops: bool = False,
    compute_vjp_flops: bool = False,
) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows of a module's table, and the shapes of its variables by collection.

    Args:
      module: an unbound module.
      rngs: random keys, as for ``init``.
      args: positional inputs; arrays may be ``jax.ShapeDtypeStruct``.
      kwargs: keyword inputs.
      depth: how many levels of submodules are listed; None lists all.
      show_repeated: whether further calls of a module are listed.
      mutable: which collections are made.
      compute_flops: whether operations are counted, by JAX's cost analysis of each module's program. Nothing is
        compiled; the body of a loop counts once.
      compute_vjp_flops: whether those of the gradient are counted.

    Raises:
      ArgumentError: if ``depth`` is no number of levels.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import module, nn
      >>> x = jnp.ones((2, 4))
      >>> rows, variables = module.table_of(nn.Dense(3), jax.random.key(0), (x,), {})
      >>> rows[0].kind, rows[0].outputs.shape, variables["params"]["kernel"].shape
      ('Dense', (2, 3), (4, 3))
    """
    depth = None if depth is None else whole_number(depth, "depth", "tabulate")
    notes: list[tuple[Any, ...]] = []

    def note(next_method: Any, inner: Any, keywords: Any, context: InterceptorContext) -> Any:
        bound = context.module
        if bound.scope is None:
            return next_method(*inner, **keywords)
        index = len(notes)
        notes.append(())
        outputs = next_method(*inner, **keywords)
        blueprint = bound.clone(_deep_clone=True, _reset_names=True, name=None)
        notes[index] = (bound.path, context.method_name, _shapes((inner, keywords)), _shapes(outputs), blueprint)
        return outputs

    with intercept_methods(note):
        variables = jax.eval_shape(lambda: module.init(rngs, *args, mutable=mutable, **kwargs))
    rows: list[Row] = []
    seen: set[tuple[tuple[str, ...], str]] = set()
    children = {path for path, *_ in notes}
    for path, method, inputs, outputs, blueprint in notes:
        is_repeated = any(held == path for held, _ in seen)
        if (is_repeated and not show_repeated) or (depth is not None and len(path) > depth) or method == "setup":
            continue
        seen.add((path, method))
        own = {} if is_repeated else {c: _own(_at(tree, path), path, children) for c, tree in variables.items()}
        if depth is not None and len(path) == depth and not is_repeated:
            own = {c: _flat(_at(tree, path)) for c, tree in variables.items()}
        row = Row(path, type(blueprint).__name__, method, inputs, outputs, own, blueprint)
        below = {c: _at(tree, path) for c, tree in variables.items()}
        flops = _flops(row, below, rngs, gradient=False) if compute_flops else None
        vjp_flops = _flops(row, below, rngs, gradient=True) if compute_vjp_flops else None
        rows.append(row._replace(flops=flops, vjp_flops=vjp_flops))
    return rows, variables


def tabulate(
    module: Any,
    rngs: Rngs | None,
    depth: int | None = None,
    show_repeated: bool = False,
    mutable: CollectionFilter = INIT_MUTABLE,
    console_kwargs: Mapping[str, Any] | None = None,
    table_kwargs: Mapping[str, Any] | None = None,
    column_kwargs: Mapping[str, Any] | None = None,
    compute_flops: bool = False,
    compute_vjp_flops: bool = False,
    **kwargs: Any,
) -> Callable[..., str]:
    """Return a function of a module's inputs that returns the module's table as text.

    Args:
      module: an unbound module.
      rngs: random keys, as for ``init``.
      depth: how many levels of submodules are listed; None lists all.
      show_repeated: whether further calls of a module are listed.
      mutable: which collections are made.
      console_kwargs: options of ``rich.console.Console``.
      table_kwargs: options of ``rich.table.Table``.
      column_kwargs: options of its columns.
      compute_flops: whether floating-point operations are counted.
      compute_vjp_flops: whether those of the gradient are counted.
      **kwargs: keyword inputs of the module.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> table = nn.tabulate(nn.Dense(4), jax.random.key(0))
      >>> "float32[3,4]" in table(jnp.ones((2, 3)))
      True
    """
    check_module(module, "tabulate")
    options = {"console_kwargs": console_kwargs, "table_kwargs": table_kwargs, "column_kwargs": column_kwargs}
    looks: list[Mapping[str, Any]] = [
        {} if value is None else mapping(value, argument, "nn.tabulate", what="a dict of options of rich")
        for argument, value in options.items()
    ]

    def table(*args: Any, **more: Any) -> str:
        rows, variables = table_of(
            module,
            rngs,
            args,
            {**kwargs, **more},
            depth=depth,
            show_repeated=show_repeated,
            mutable=mutable,
            compute_flops=compute_flops,
            compute_vjp_flops=compute_vjp_flops,
        )
        title = f"{type(module).__name__} Summary"
        return _render(title, rows, variables, *looks)

    return table


def _render(
    title: str,
    rows: list[Row],
    variables: Mapping[str, Any],
    console_kwargs: Mapping[str, Any],
    table_kwargs: Mapping[str, Any],
    column_kwargs: Mapping[str, Any],
) -> str:
    try:
        import rich.console
        import rich.table
        import rich.text
    except ImportError as error:
        raise MissingPackageError(purpose="The table", package="rich", install="'batiste[train]'") from error

    looks: dict[str, Any] = {"show_lines": True, "show_footer": True, **table_kwargs}
    grid = rich.table.Table(title=title, **looks)
    has_flops = any(row.flops is not None for row in rows)
    has_vjp = any(row.vjp_flops is not None for row in rows)
    shown = ["path", "module", "inputs", "outputs", *["flops"] * has_flops, *["vjp_flops"] * has_vjp]
    for name in shown:
        total = rich.text.Text("Total" if name == shown[-1] else "", justify="right")
        grid.add_column(name, footer=total, **column_kwargs)
    for collection, tree in variables.items():
        grid.add_column(collection, footer=_size(tree), **column_kwargs)
    for row in rows:
        name = row.kind if row.method == "__call__" else f"{row.kind} ({row.method})"
        cells = ["/".join(row.path), name, _text(row.shown_inputs), _text(row.outputs)]
        cells += [str(row.flops)] if has_flops else []
        cells += [str(row.vjp_flops)] if has_vjp else []
        for collection in variables:
            own = row.variables.get(collection, {})
            lines = [f"{entry}: {_text(value)}" for entry, value in own.items()]
            cells.append("\n".join([*lines, "", _size(own)]) if lines else "")
        grid.add_row(*cells)
    grid.caption = f"\nTotal Parameters: {_size(variables)}"
    options: dict[str, Any] = {"force_terminal": False, "width": 240, **console_kwargs}
    text = io.StringIO()
    rich.console.Console(file=text, **options).print(grid)
    return f"\n{text.getvalue()}\n"


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _shapes(tree: Any) -> Any:
    return jax.tree.map(_shape, tree)


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if _is_array(leaf) else leaf


def _text(value: Any) -> str:
    """Return nested values one below the other, as YAML has them; a box shows the names of its axes."""
    if isinstance(value, Mapping) and value:
        pairs = cast("Mapping[Any, Any]", value)
        return "\n".join(f"{name}:{_beside(item)}" for name, item in pairs.items())
    if isinstance(value, tuple | list) and value:
        items = map(_text, cast("Sequence[Any]", value))
        return "\n".join("- " + item.replace("\n", "\n  ") for item in items)
    leaf = cast("Any", value)
    inner = unbox(leaf)
    if not _is_array(inner):
        return leaf if isinstance(leaf, str) else repr(leaf)
    names: Any = None if inner is leaf else getattr(leaf, "names", None)
    text = f"{np.dtype(inner.dtype).name}[{','.join(map(str, inner.shape))}]"
    return text if names is None else f"{text} P({', '.join(map(str, names))})"


def _beside(value: Any) -> str:
    """Return what stands after a colon: the text on the line, or nested values on lines of their own."""
    if not isinstance(value, Mapping | tuple | list) or not value:
        return f" {_text(value)}"
    text = _text(value)
    return f"\n{text}".replace("\n", "\n  ") if isinstance(value, Mapping) else f"\n{text}"


def _size(tree: Any) -> str:
    every: list[Any] = jax.tree.leaves(unbox(tree))
    leaves = [leaf for leaf in every if _is_array(leaf)]
    count = sum(math.prod(leaf.shape) for leaf in leaves)
    total = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)
    units = ("B", "KB", "MB", "GB", "TB")
    power = min(int(math.log(max(total, 1), 1000)), len(units) - 1)
    amount = f"{total / 1000**power:.1f} {units[power]}" if power else f"{total} B"
    return f"{count:,} ({amount})"


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = cast("Mapping[str, Any]", tree).get(name) if isinstance(tree, Mapping) else None
    return {} if tree is None else tree


def _own(tree: Any, path: tuple[str, ...], children: set[tuple[str, ...]]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if (*path, name) not in children}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}/")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _flops(row: Row, variables: Mapping[str, Any], rngs: Rngs | None, *, gradient: bool) -> int:
    """Return the operations of one call, by the cost analysis of the program before it is compiled."""
    leaves: list[Any] = jax.tree.leaves(row.inputs)
    treedef = cast("Any", jax.tree.structure(row.inputs))
    is_array = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves]

    def run(variables: Any, arrays: list[Any]) -> Any:
        rest = iter(arrays)
        args, kwargs = jax.tree.unflatten(
            treedef, [next(rest) if mark else leaf for mark, leaf in zip(is_array, leaves, strict=True)]
        )
        return row.blueprint.apply(variables, *args, rngs=rngs, method=row.method, mutable=list(variables), **kwargs)

    def scalar(params: Any, variables: Any, arrays: list[Any]) -> Any:
        output, _ = run({**variables, "params": params}, arrays)
        leaves: list[Any] = jax.tree.leaves(output)
        return sum((leaf.sum() for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)), start=jnp.zeros(()))

    def with_gradient(variables: Any, arrays: list[Any]) -> Any:
        return jax.value_and_grad(scalar)(variables.get("params", {}), variables, arrays)

    arrays = [leaf for leaf, mark in zip(leaves, is_array, strict=True) if mark]
    lowered: Any = jax.jit(with_gradient if gradient else run).lower(dict(variables), arrays)
    analysis: dict[str, float] = lowered.cost_analysis() or {}
    return int(analysis.get("flops", 0))


def module_paths(run: Callable[[], Any]) -> dict[str, Any]:
    """Return the unbound blueprint of every module that is called while ``run`` is traced, by path."""
    found: dict[str, Any] = {}

    def note(next_method: Any, inner: Any, keywords: Any, context: InterceptorContext) -> Any:
        path = "/".join(context.module.path) if context.module.scope is not None else ""
        if context.module.scope is not None and path not in found and context.method_name != "setup":
            found[path] = context.module.clone(_deep_clone=True, _reset_names=True, name=None)
        return next_method(*inner, **keywords)

    with intercept_methods(note):
        jax.eval_shape(run)
    return found
