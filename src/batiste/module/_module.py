"""``Module``: the blueprint that people write, put together from the other files of this package.

A module is a dataclass without arrays. Its fields describe it; ``setup`` or one ``@compact`` method says which
submodules and parameters it has; its other methods compute. While it is bound it reaches its variables through its
scope, and the methods below are the ways to do so.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, cast, overload

from batiste._arguments import text
from batiste.core import ChangingFilter, CollectionFilter, KeyScheme, Scope, open_scope
from batiste.errors import (
    AssignSubModuleError,
    BoundHashError,
    CallUnbindOnUnboundModuleError,
    CallUnboundModuleError,
    InvalidInstanceModuleError,
    InvalidParentError,
    NameInUseError,
    SetAttributeFrozenModuleError,
    SetAttributeInModuleSetupError,
)
from batiste.module._adopt import adopt, map_modules, wants_a_look
from batiste.module._blueprint import UNSPECIFIED, Blueprint, ModuleState, Unspecified
from batiste.module._calls import INIT_MUTABLE, Applier, bound_copy, init_with
from batiste.module._context import CURRENT, CaptureFilter
from batiste.module._fields import (
    are_equal,
    blueprint_fields,
    class_defaults,
    counted_values,
    describe,
    make_dataclass,
    value_of,
)
from batiste.module._mistakes import missing_attribute
from batiste.module._tabulate import module_paths, tabulate
from batiste.module._variables import VariableAccess, holder_text, where
from batiste.module._wrap import compact, wrap_class
from batiste.typing import MutableVariables, Rngs, Variables

__all__ = ["Module"]

_UNSAVED = frozenset({"_state", "_value", "scope", "parent"})

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class _Calls(Protocol[R_co]):
    """A module whose ``__call__`` returns ``R``."""

    def __call__(self, *args: Any, **kwargs: Any) -> R_co: ...


class _ApplyAttribute:
    """``apply`` on an instance is a value (``Applier``); on the class it is a function of an instance."""

    def __init__(self, method: Callable[..., Any]) -> None:
        @functools.wraps(method)
        def apply(module: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(module, Blueprint):
                raise InvalidInstanceModuleError(call="apply", given=f"an object of type {type(module).__name__}")
            return Applier(module)(*args, **kwargs)

        self._of_class = apply

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self._of_class if instance is None else Applier(instance)


class Module(VariableAccess):
    """The base of every layer and model: a dataclass that describes a function of variables.

    Attributes:
      name: the name within the parent; by default the class name and a number, or the attribute that holds the module.
      parent: by default the module whose method is being run; None makes the module stand on its own.

    Example:
      >>> from batiste import nn
      >>> class MLP(nn.Module):
      ...     features: int
      ...
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.Dense(1)(nn.relu(nn.Dense(self.features)(x)))
    """

    if TYPE_CHECKING:
        parent: Blueprint | Scope | Unspecified | None = dataclasses.field(
            default=UNSPECIFIED, kw_only=True, repr=False
        )
        name: str | None = dataclasses.field(default=None, kw_only=True)
    else:
        parent: Any = dataclasses.field(default=UNSPECIFIED, kw_only=True, repr=False, compare=False)
        name: Any = dataclasses.field(default=None, kw_only=True)

    def __init_subclass__(cls, *, kw_only: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        make_dataclass(cls, Module, kw_only=kw_only)
        wrap_class(cls)

    # --- construction and binding

    def __post_init__(self) -> None:
        """Find the parent, and bind to it. A subclass that overrides this must call it."""
        values = self.__dict__
        values["_state"] = ModuleState()
        if values["parent"] is UNSPECIFIED:
            values["parent"] = CURRENT.get()
        if values["parent"] is not None:
            self._attach()

    def setup(self) -> None:
        """Define submodules and parameters as attributes; runs by itself before the first method of a bound module."""

    def _begin(self) -> None:
        self.__dict__["_state"] = ModuleState()

    def _attach(self) -> None:
        if self.parent is None:
            return
        scope, values = self._place(), self.__dict__
        if scope is None:
            return
        values["scope"] = scope
        for name, default in self.adoptable_fields_:
            value = values.get(name)
            if value is not default and wants_a_look(cast("Any", type(value))):
                adopted = adopt(self, name, value)
                if adopted is not value:
                    values[name] = adopted
        self._state.is_attached = True

    def _place(self) -> Scope | None:
        """Return the scope that the parent gives, or None while ``setup`` has not named this module yet."""
        parent = self.parent
        if isinstance(parent, Blueprint):
            if parent._state.in_setup and self.name is None:
                return None  # named, and bound, when it is assigned to an attribute
            return self._child_scope(parent)
        if isinstance(parent, Scope):
            return parent
        raise InvalidParentError(path=type(self).__name__, given=parent)

    def _child_scope(self, parent: Blueprint) -> Scope:
        """Return the scope within the parent's, under a name of its own."""
        state, scope = parent._state, parent.scope
        if scope is None:
            raise CallUnboundModuleError(path=type(parent).__name__, call=f"{type(self).__name__}(parent=...)")
        scope.check_open()
        if not state.allows_children:
            raise AssignSubModuleError(child=type(self).__name__, path=where(parent))
        if self.name is None:
            self.__dict__["name"] = scope.next_name(type(self).__name__)
        name = text(self.name, "name", cast("Any", parent), what=f"the name of a {type(self).__name__}")
        if name in scope.names and not scope.retakes:
            raise NameInUseError(kind="a submodule", name=name, path=where(parent), holder=holder_text(scope, name))
        return scope.push(name, holder=self)

    def _set_up(self) -> None:
        state = self._state
        if type(self).setup is not Module.setup:
            self.setup()
        state.is_set_up = True

    def _name_scope(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        current, scope = CURRENT.get(), self._bound(name)
        if isinstance(current, CompactNameScope) and current.name == name and current.owner_fn() is self:
            return functools.partial(function, self)  # the method of the base class
        if scope.name_reserved(name) and not isinstance(scope.names[name], CompactNameScope):
            raise NameInUseError(kind="a name scope", name=name, path=where(self), holder=holder_text(scope, name))
        inner = scope.push(name, reuse=True)
        scope.names[name] = made = CompactNameScope(function, lambda: self, parent=inner, name=name)
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        state: ModuleState | None = self.__dict__.get("_state")
        if name == "__orig_class__":  # `typing` notes Model[int] on what Model[int](...) has made
            object.__setattr__(self, name, value)
        elif state is None or not (state.is_attached or state.in_setup):
            if "_value" in self.__dict__:
                raise SetAttributeFrozenModuleError(
                    path=type(self).__name__,
                    name=name,
                    when="after the module was hashed or compared",
                    advice=f"Make a new blueprint: model.clone({name}=...).",
                )
            object.__setattr__(self, name, value)
        elif not state.in_setup:
            raise SetAttributeFrozenModuleError(
                path=where(self),
                name=name,
                when="outside of setup",
                advice="Keep values that change in a variable: self.variable(collection, name, init_fn).",
            )
        elif name in self.blueprint_names_:
            raise SetAttributeInModuleSetupError(path=where(self), name=name)
        else:
            state.assigned.add(name)
            object.__setattr__(self, name, adopt(self, name, value))

    if not TYPE_CHECKING:  # a checker is to find the attributes that are not there

        def __getattr__(self, name: str) -> Any:
            state: ModuleState | None = self.__dict__.get("_state")
            is_bound = state is not None and self.scope is not None and name[:2] != "__"
            if is_bound and not (state.is_set_up or state.in_setup):
                self._try_setup()
                if name in self.__dict__:
                    return self.__dict__[name]
            raise missing_attribute(self, name)

    def __dir__(self) -> list[str]:
        state: ModuleState | None = self.__dict__.get("_state")
        if state is not None and self.scope is not None and not (state.is_set_up or state.in_setup):
            self._try_setup()
        return list(super().__dir__())

    # --- as a value

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Blueprint) or type(self) is not type(other):
            return NotImplemented if not isinstance(other, Blueprint) else False
        return are_equal(self, other)

    def __hash__(self) -> int:
        if self.scope is not None:
            raise BoundHashError(path=where(self))
        return hash(value_of(self))

    def __fingerprint__(self) -> Any:
        return counted_values(self)

    def __repr__(self) -> str:
        return describe(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields that are not the class's defaults (which need not pickle), and what else was set."""
        values = self.__dict__ if self.scope is None else {"name": self.name, **blueprint_fields(self)}
        defaults = class_defaults(type(self))
        return {
            name: value
            for name, value in values.items()
            if name not in _UNSAVED and not (name in defaults and defaults[name] is value)
        }

    def __setstate__(self, values: dict[str, Any]) -> None:
        defaults = class_defaults(type(self))
        self.__dict__.update({name: defaults[name] for name in self.blueprint_names_ if name in defaults})
        self.__dict__.update({"name": None, **values, "parent": None})
        self._begin()

    # --- copies

    def clone(
        self,
        *,
        parent: Blueprint | Scope | Unspecified | None = None,
        _deep_clone: bool = False,
        _reset_names: bool = False,
        **updates: Any,
    ) -> Self:
        """Return a module with the same fields, or with some of them changed.

        Args:
          parent: the parent of the clone; by default it has none.
          _deep_clone: whether submodules in fields are cloned, too, so that the clone shares nothing bound.
          _reset_names: whether submodules in fields forget their names.
          **updates: new values of fields, ``name`` among them.
        """
        values: dict[str, Any] = {**blueprint_fields(self), "name": self.name, "parent": parent, **updates}
        if _deep_clone:
            seen: dict[int, Any] = {}

            def copy_inner(_: str, module: Any) -> Any:
                if id(module) not in seen:
                    more = {"name": None} if _reset_names else {}
                    seen[id(module)] = module.clone(_deep_clone=True, _reset_names=_reset_names, **more)
                return seen[id(module)]

            values = {n: v if n == "parent" else map_modules(copy_inner, v, freeze=False) for n, v in values.items()}
        return type(self)(**values)

    def copy(
        self, *, parent: Blueprint | Scope | Unspecified | None = UNSPECIFIED, name: str | None = None, **updates: Any
    ) -> Self:
        """Return a module with the same fields that has variables of its own.

        Args:
          parent: the parent of the copy, by default the module that is being run.
          name: its name; by default it gets an automatic one.
          **updates: new values of fields.
        """
        return self.clone(parent=parent, name=name, _deep_clone=True, _reset_names=True, **updates)

    def bind(
        self,
        variables: Variables,
        *,
        rngs: Rngs | None = None,
        mutable: CollectionFilter = False,
        key_scheme: KeyScheme = "linen",
    ) -> Self:
        """Return a copy that is bound to ``variables``, for looking at a model interactively.

        Args:
          variables: what ``init`` returned.
          rngs: random keys by stream.
          mutable: which collections the copy may change; read them with ``copy.variables``.
          key_scheme: how paths are folded into keys.
        """
        scope = open_scope(variables, rngs, mutable=mutable, key_scheme=key_scheme, where=type(self).__name__)
        return bound_copy(self, scope)

    def unbind(self) -> tuple[Self, MutableVariables]:
        """Return the blueprint of a bound module, and the variables at and below it.

        Raises:
          CallUnbindOnUnboundModuleError: if the module is not bound.
        """
        if self.scope is None:
            raise CallUnbindOnUnboundModuleError(path=type(self).__name__)
        variables = self.variables
        return self.clone(_deep_clone=True, _reset_names=True, name=None), variables

    # --- pure functions of variables

    @overload
    def apply(
        self: _Calls[T],
        variables: Variables,
        *args: Any,
        rngs: Rngs | None = None,
        method: None = None,
        mutable: Literal[False] = False,
        capture_intermediates: Literal[False] = False,
        key_scheme: KeyScheme = "linen",
        **kwargs: Any,
    ) -> T: ...
    @overload
    def apply(
        self: _Calls[T],
        variables: Variables,
        *args: Any,
        rngs: Rngs | None = None,
        method: None = None,
        mutable: ChangingFilter,
        capture_intermediates: bool | CaptureFilter = False,
        key_scheme: KeyScheme = "linen",
        **kwargs: Any,
    ) -> tuple[T, MutableVariables]: ...
    @overload
    def apply(
        self: _Calls[T],
        variables: Variables,
        *args: Any,
        rngs: Rngs | None = None,
        method: None = None,
        mutable: CollectionFilter = False,
        capture_intermediates: Literal[True] | CaptureFilter,
        key_scheme: KeyScheme = "linen",
        **kwargs: Any,
    ) -> tuple[T, MutableVariables]: ...
    @overload
    def apply(
        self,
        variables: Variables,
        *args: Any,
        rngs: Rngs | None = None,
        method: Callable[..., T],
        mutable: Literal[False] = False,
        capture_intermediates: Literal[False] = False,
        key_scheme: KeyScheme = "linen",
        **kwargs: Any,
    ) -> T: ...
    @overload
    def apply(
        self,
        variables: Variables,
        *args: Any,
        rngs: Rngs | None = None,
        method: Callable[..., T],
        mutable: ChangingFilter,
        capture_intermediates: bool | CaptureFilter = False,
        key_scheme: KeyScheme = "linen",
        **kwargs: Any,
    ) -> tuple[T, MutableVariables]: ...
    @overload
    def apply(
        self,
        variables: Variables,
        *args: Any,
        rngs: Rngs | None = None,
        method: Callable[..., T],
        mutable: CollectionFilter = False,
        capture_intermediates: Literal[True] | CaptureFilter,
        key_scheme: KeyScheme = "linen",
        **kwargs: Any,
    ) -> tuple[T, MutableVariables]: ...
    @overload
    def apply(
        self,
        variables: Variables,
        *args: Any,
        rngs: Rngs | None = None,
        method: Callable[..., Any] | str | None = None,
        mutable: CollectionFilter = False,
        capture_intermediates: bool | CaptureFilter = False,
        key_scheme: KeyScheme = "linen",
        **kwargs: Any,
    ) -> Any: ...
    def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """Run the module with ``variables`` and return its result: a pure function.

        Args:
          variables: what ``init`` returned: collections by name.
          *args: positional arguments of the method.
          rngs: random keys by stream (``{"dropout": key}``), or one key for ``params``, which other streams fall
            back to.
          method: a method, its name, or a function of the bound module; by default ``__call__``.
          mutable: which collections may change: False, True, a name, a list of names, ``DenyList``.
          capture_intermediates: True, or a filter ``(module, method_name) -> bool``: store results of methods in
            the collection ``intermediates``, which is then mutable.
          key_scheme: ``"linen"`` or ``"separated"``; the one that ``init`` was given.
          **kwargs: keyword arguments of the method.

        Returns:
          What the method returns; if collections may change, a pair of that and those collections.
        """
        return Applier(self)(variables, *args, **kwargs)

    if not TYPE_CHECKING:
        apply = _ApplyAttribute(apply)

    def init(
        self,
        rngs: Rngs | None,
        *args: Any,
        method: Callable[..., Any] | str | None = None,
        calls: Sequence[Sequence[Any]] | None = None,
        mutable: CollectionFilter = INIT_MUTABLE,
        capture_intermediates: bool | CaptureFilter = False,
        key_scheme: KeyScheme = "linen",
        **kwargs: Any,
    ) -> MutableVariables:
        """Make the variables of this module, without computing its result.

        The module is traced with shapes, then each distinct initialiser is compiled once and run for every variable
        that wants it. Values that depend on the inputs are computed, and nothing else.

        Args:
          rngs: one random key, which every stream falls back to, or keys by stream.
          *args: arguments of the method; arrays may be given as ``jax.ShapeDtypeStruct``.
          method: the method that is traced; by default ``__call__``.
          calls: in the place of ``*args`` and ``method`` several calls, ``[("encode", x), ("decode", z)]``: the
            variables that any of them needs, as of one method that makes the calls in this order.
          mutable: which collections are made; by default all but ``intermediates``.
          capture_intermediates: as for ``apply``.
          key_scheme: ``"linen"`` gives Flax Linen's keys; with ``"separated"`` distinct paths never share a key.
          **kwargs: keyword arguments of the method, or of each of the calls.

        Returns:
          A nested dict: collection, module names, variable name, array.

        Raises:
          ArgumentError: if ``calls`` is no list of methods with their arguments.
          LazyInitError: if values are needed of inputs that were given as shapes.
        """
        return init_with(
            self,
            rngs,
            args,
            kwargs,
            method=method,
            calls=calls,
            mutable=mutable,
            capture_intermediates=capture_intermediates,
            key_scheme=key_scheme,
            want_output=False,
        )[1]

    def init_with_output(
        self,
        rngs: Rngs | None,
        *args: Any,
        method: Callable[..., Any] | str | None = None,
        mutable: CollectionFilter = INIT_MUTABLE,
        capture_intermediates: bool | CaptureFilter = False,
        key_scheme: KeyScheme = "linen",
        **kwargs: Any,
    ) -> tuple[Any, MutableVariables]:
        """Make the variables and run the method with them; return its result and the variables.

        The arguments are those of ``init``, and the inputs must be arrays.
        """
        return init_with(
            self,
            rngs,
            args,
            kwargs,
            method=method,
            mutable=mutable,
            capture_intermediates=capture_intermediates,
            key_scheme=key_scheme,
            want_output=True,
        )

    def lazy_init(
        self,
        rngs: Rngs | None,
        *args: Any,
        method: Callable[..., Any] | str | None = None,
        mutable: CollectionFilter = INIT_MUTABLE,
        **kwargs: Any,
    ) -> MutableVariables:
        """Make the variables from shapes: ``init`` under the name that Flax gives to what it does here anyway."""
        return self.init(rngs, *args, method=method, mutable=mutable, **kwargs)

    def module_paths(
        self,
        rngs: Rngs | None,
        *args: Any,
        show_repeated: bool = False,  # noqa: ARG002 - Flax Linen's signature
        mutable: CollectionFilter = INIT_MUTABLE,
        **kwargs: Any,
    ) -> dict[str, Module]:
        """Return the unbound blueprint of every module that ``init`` runs, by path; the module itself is at ``""``.

        Args:
          rngs: as for ``init``.
          *args: as for ``init``.
          show_repeated: taken as Flax takes it; a module that is called again has the path that it had.
          mutable: as for ``init``.
          **kwargs: as for ``init``.
        """
        return module_paths(lambda: self.init(rngs, *args, mutable=mutable, **kwargs))

    def tabulate(
        self,
        rngs: Rngs | None,
        *args: Any,
        depth: int | None = None,
        show_repeated: bool = False,
        mutable: CollectionFilter = INIT_MUTABLE,
        console_kwargs: Mapping[str, Any] | None = None,
        table_kwargs: Mapping[str, Any] | None = None,
        column_kwargs: Mapping[str, Any] | None = None,
        compute_flops: bool = False,
        compute_vjp_flops: bool = False,
        **kwargs: Any,
    ) -> str:
        """Return a table of this module's parts and variables as text; no array is made. See ``nn.tabulate``."""
        table = tabulate(
            self,
            rngs,
            depth,
            show_repeated,
            mutable,
            console_kwargs,
            table_kwargs,
            column_kwargs,
            compute_flops,
            compute_vjp_flops,
        )
        return table(*args, **kwargs)


dataclasses.dataclass(eq=False, repr=False)(Module)


class CompactNameScope(Module):
    """What a ``compact_name_scope`` method runs in: a child without variables of its own, called like the method.

    Attributes:
      fn: the method.
      owner_fn: returns the module that the method belongs to.
    """

    fn: Callable[..., Any]
    owner_fn: Callable[[], Module]

    @compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the method."""
        return self.fn(self.owner_fn(), *args, **kwargs)
