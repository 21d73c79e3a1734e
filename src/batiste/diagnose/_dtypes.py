"""Which dtypes a model really has, module by module, and a policy for them that is applied from outside.

``dtypes`` reads them from the program: what the parameters are kept in, what products and sums are computed in, what a
module returns, and how often numbers are converted from one floating-point dtype into another.

``with_policy`` gives a model other dtypes by a table from patterns over module paths to ``(param, compute, output)``,
of which each may be None, for as it is. Where a module matches, its own parameters and its inputs are converted to the
compute dtype, its field ``dtype`` has that value while it is called, and its output is converted to the output dtype.
The first pattern that matches a module decides. The model itself is not touched.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from batiste._arguments import dtype_name, mapping, refused
from batiste.diagnose._findings import html_table
from batiste.diagnose._flops import costed
from batiste.diagnose._program import is_inexact, nearest_paths, path_text, subject_of, trace
from batiste.errors import NoSuchModuleError
from batiste.module import Blueprint, InterceptorContext, intercept_methods
from batiste.nn import RNNCellBase
from batiste.tree import PatternLike, compile_pattern, flatten, unflatten

__all__ = ["DtypeRow", "Dtypes", "WithPolicy", "dtypes", "with_policy"]

_HEADER = ("path", "module", "params", "compute", "output", "casts")
_PRODUCTS = frozenset({"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"})


@dataclasses.dataclass(frozen=True)
class DtypeRow:
    """The dtypes of one module.

    Attributes:
      path: its path.
      kind: its class.
      params: those of its own parameters.
      compute: those that its matrix products and convolutions take, or, without any, its other operations.
      output: those of what it returns.
      casts: how often it converts an array from one floating-point dtype into another, loops counted.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> model, x = nn.Dense(4, dtype="bfloat16"), jnp.ones((2, 3))
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> (row,) = diagnose.dtypes(model, variables, x).rows
      >>> row.params, row.compute, row.output
      (('float32',), ('bfloat16',), ('bfloat16',))
    """

    path: str
    kind: str
    params: tuple[str, ...]
    compute: tuple[str, ...]
    output: tuple[str, ...]
    casts: int


@dataclasses.dataclass(frozen=True)
class Dtypes:
    """The dtypes of a model; as text, a table.

    Attributes:
      name: the class of the model.
      rows: a row for each module, in the order of the calls.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> model, x = nn.Dense(4, dtype="bfloat16"), jnp.ones((2, 3))
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> diagnose.dtypes(model, variables, x).casts
      3
    """

    name: str
    rows: tuple[DtypeRow, ...]

    @property
    def casts(self) -> int:
        """How many conversions there are in one call."""
        return sum(row.casts for row in self.rows)

    def __getitem__(self, path: str) -> DtypeRow:
        return next(row for row in self.rows if row.path == path)

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (row.path, row.kind, *(", ".join(each) for each in (row.params, row.compute, row.output)), str(row.casts))
            for row in self.rows
        ]

    def __str__(self) -> str:
        cells = [_HEADER, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([*lines, f"{self.casts} casts"])

    def _repr_html_(self) -> str:
        return html_table(self.name, _HEADER, self._cells())


def dtypes(
    model: Any, variables: Any, *inputs: Any, rngs: Any = None, mutable: Any = None, method: Any = None, **kwargs: Any
) -> Dtypes:
    """Return the dtypes that each module of a model has in one call. Nothing is run; shapes will do for arrays.

    Args:
      model: a module, or what ``with_policy`` returns.
      variables: its variables, or their shapes.
      *inputs: what it is called with.
      rngs: the random streams; those that are asked for and not given get a key.
      mutable: as for ``apply``; by default every collection given but ``params``.
      method: as for ``apply``.
      **kwargs: keyword arguments of the call.

    Raises:
      ArgumentError: ``model`` is no module and no function.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> model, x = nn.Dense(4, dtype="bfloat16"), jnp.ones((2, 3))
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> [(row.path, row.output) for row in diagnose.dtypes(model, variables, x).rows]
      [('Dense', ('bfloat16',))]
    """
    function = model
    if isinstance(model, WithPolicy):
        policied = model
        options = {"rngs": rngs, "mutable": mutable or False, "method": method}

        def function(variables: Any, *args: Any, **named: Any) -> Any:
            return policied.apply(variables, *args, **options, **named)

        subject = subject_of(function, variables, inputs, kwargs=kwargs, where="dtypes")
    else:
        subject = subject_of(
            model, variables, inputs, rngs=rngs, mutable=mutable, method=method, kwargs=kwargs, where="dtypes"
        )
    program = trace(subject.function, subject.arguments)
    products: dict[str, dict[str, None]] = {}
    others: dict[str, dict[str, None]] = {}
    casts: dict[str, int] = {}
    name = type(model.model).__name__ if isinstance(model, WithPolicy) else subject.name
    for equation, place, times, _ in costed(program.jaxpr):
        path = name if place.call is None else program.calls[place.call].text
        operation = equation.primitive.name
        found = [str(atom.aval.dtype) for atom in equation.invars if is_inexact(atom.aval)]
        if operation == "convert_element_type":
            made = equation.outvars[0].aval
            if found and is_inexact(made) and str(made.dtype) != found[0]:
                casts[path] = casts.get(path, 0) + times
        elif operation in _PRODUCTS:
            products.setdefault(path, {}).update(dict.fromkeys(found))
        elif operation not in {"name", "broadcast_in_dim", "reshape", "select_n"}:
            others.setdefault(path, {}).update(dict.fromkeys(found))
    own: dict[str, dict[str, None]] = {}
    for path, leaf in flatten(variables.get("params", {}) if isinstance(variables, Mapping) else {}).items():
        own.setdefault(path.rpartition("/")[0] or name, {})[str(leaf.dtype)] = None
    rows: dict[str, DtypeRow] = {}
    for call in program.calls:
        path = call.text
        if path in rows or not call.outputs:
            continue
        params = own.get(path) or own.get(path_text(call.path, dict.fromkeys(range(1, 1000), 0))) or {}
        output = tuple(dict.fromkeys(str(shape.dtype) for shape in call.outputs))
        compute = tuple(products.get(path) or others.get(path) or ())
        rows[path] = DtypeRow(path, call.kind, tuple(params), compute, output, casts.get(path, 0))
    return Dtypes(name, tuple(rows.values()))


# --- a policy


@dataclasses.dataclass(frozen=True)
class _Rule:
    pattern: Any
    param: Any
    compute: Any
    output: Any


class WithPolicy:
    """A model with other dtypes: it has ``init`` and ``apply`` as the model has; made by ``with_policy``.

    Attributes:
      model: the model.

    Example:
      >>> from batiste import diagnose, nn
      >>> half = diagnose.with_policy(nn.Dense(4), {"**": ("bfloat16", None, None)})
      >>> type(half).__name__, half.model.features
      ('WithPolicy', 4)
    """

    def __init__(self, model: Any, rules: tuple[_Rule, ...]) -> None:
        self.model = model
        self._rules = rules
        self._matched: set[int] = set()
        self._paths: dict[str, None] = {}
        self._note: Callable[..., Any] = self._around  # one object, since it is a part of the key of JAX's caches

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Initialise the model; its parameters then have the dtypes of the policy."""
        with intercept_methods(self._note):
            variables = self.model.init(rngs, *args, **kwargs)
        return self._cast(variables, lambda rule: rule.param)

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Apply the model with the dtypes of the policy.

        Raises:
          NoSuchModuleError: a pattern matches no module that is called.
        """
        self._matched, self._paths = set(), {}
        with intercept_methods(self._note):
            output = self.model.apply(self._cast(variables, lambda rule: rule.compute), *args, **kwargs)
        for number, rule in enumerate(self._rules):
            if number not in self._matched and not any(rule.pattern.matches(path) for path in self._paths):
                raise NoSuchModuleError(
                    where="with_policy",
                    pattern=str(rule.pattern),
                    model=type(self.model).__name__,
                    nearest=nearest_paths(str(rule.pattern), self._paths),
                )
        return output

    def _rule(self, path: str) -> _Rule | None:
        for number, rule in enumerate(self._rules):
            if rule.pattern.matches(path):
                self._matched.add(number)
                return rule
        return None

    def _cast(self, variables: Any, which: Callable[[_Rule], Any]) -> Any:
        params = variables.get("params")
        if params is None:
            return variables
        changed: dict[str, Any] = {}
        for path, leaf in flatten(params).items():
            rule = self._rule(path.rpartition("/")[0] or type(self.model).__name__)
            changed[path] = leaf if rule is None else _converted(leaf, which(rule))
        return {**variables, "params": unflatten(changed, like=params)}

    def _around(self, method: Any, args: Any, kwargs: Any, context: InterceptorContext) -> Any:
        module = context.module
        if module.scope is None or context.method_name == "setup":
            return method(*args, **kwargs)
        path = path_text(tuple(module.scope.path)) or type(module).__name__
        self._paths[path] = None
        rule = self._rule(path)
        if rule is None:
            return method(*args, **kwargs)
        has_dtype = rule.compute is not None and "dtype" in module.__dict__
        held = module.__dict__.get("dtype")
        keeps_carry = isinstance(module, RNNCellBase)  # a carry comes out as it went in
        if rule.compute is not None and not keeps_carry:
            args, kwargs = jax.tree.map(functools.partial(_converted, dtype=rule.compute), (args, kwargs))
        if has_dtype:
            module.__dict__["dtype"] = rule.compute
        try:
            output = method(*args, **kwargs)
        finally:
            if has_dtype:
                module.__dict__["dtype"] = held
        if keeps_carry:
            return output
        return jax.tree.map(functools.partial(_converted, dtype=rule.output), output)


def with_policy(model: Any, table: Mapping[PatternLike, Iterable[Any]]) -> WithPolicy:
    """Return a model whose modules have the dtypes of a table.

    Args:
      model: a module, which is not changed.
      table: from patterns over module paths, tried in order, to ``(param, compute, output)``, dtypes or None for as it
        is: ``{"**/LayerNorm_*": ("float32", "float32", None), "**": ("float32", "bfloat16", None)}``. The outermost
        module is at the path of its class.

    Raises:
      ArgumentError: ``model`` is no module, or the table has something else.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> table, x = {"**": ("float32", "bfloat16", None)}, jnp.ones((2, 3))
      >>> half = diagnose.with_policy(nn.Dense(4), table)
      >>> variables = half.init(jax.random.key(0), x)
      >>> variables["params"]["kernel"].dtype, half.apply(variables, x).dtype
      (dtype('float32'), dtype(bfloat16))
    """
    if not isinstance(model, Blueprint):
        raise refused(model, "model", "with_policy", "a module", "Give the module and not its apply.")
    what = "a mapping from patterns to (param, compute, output)"
    rules: list[_Rule] = []
    for pattern, given in mapping(table, "table", "with_policy", what=what).items():
        entries = tuple(cast("list[Any]", given)) if isinstance(given, list | tuple) else ()
        if len(entries) != 3:
            raise refused(given, "table", "with_policy", what, 'As in {"**": ("float32", "bfloat16", None)}.')
        wanted = [None if one is None else dtype_name(one, "table", "with_policy", inexact=True) for one in entries]
        rules.append(_Rule(compile_pattern(pattern), *wanted))
    return WithPolicy(model, tuple(rules))


def _converted(leaf: Any, dtype: Any) -> Any:
    """Return a floating-point array in another dtype; anything else as it is."""
    found = getattr(leaf, "dtype", None)
    if dtype is None or found is None or not jnp.issubdtype(found, jnp.floating) or found == dtype:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return leaf.astype(dtype)
