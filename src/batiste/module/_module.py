"""``Module``: the blueprint that people write, put together from the other files of this package.

A module is a dataclass without arrays. Its fields describe it; ``setup`` or one ``@compact`` method says which
submodules and parameters it has; its other methods compute. While it is bound it reaches its variables through its
scope, and the methods below are the ways to do so.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar, cast, dataclass_transform, overload

import jax
import jax.numpy as jnp

from batiste.core import CollectionFilter, KeyScheme, Scope, Variable, open_scope
from batiste.errors import (
    AssignSubModuleError,
    CallUnbindOnUnboundModuleError,
    CallUnboundModuleError,
    InvalidInstanceModuleError,
    InvalidParentError,
    NameInUseError,
    SetAttributeFrozenModuleError,
    SetAttributeInModuleSetupError,
    UnknownModuleAttributeError,
    VariableOutsideSetupError,
    nearest,
)
from batiste.module._adopt import adopt, map_modules
from batiste.module._blueprint import UNSPECIFIED, Blueprint, ModuleState, Unspecified
from batiste.module._calls import INIT_MUTABLE, Applier, bound_copy, init_with
from batiste.module._context import CURRENT, CaptureFilter, InterceptorContext, intercept_methods
from batiste.module._fields import blueprint_fields, compared_values, describe, make_dataclass, value_of
from batiste.module._wrap import compact, wrap_class
from batiste.typing import Key, MutableVariables, Rngs, Variables

__all__ = ["Module"]

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class _Calls(Protocol[R_co]):
    """A module whose ``__call__`` returns ``R``."""

    def __call__(self, *args: Any, **kwargs: Any) -> R_co: ...


class _ApplyAttribute:
    """``apply`` on an instance is a value (``Applier``); on the class it is a function of an instance."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is not None:
            return Applier(instance)
        return _apply_of_class


def _apply_of_class(module: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(module, Blueprint):
        raise InvalidInstanceModuleError(call="apply", given=f"an object of type {type(module).__name__}")
    return Applier(module)(*args, **kwargs)


@dataclass_transform(eq_default=True, field_specifiers=(dataclasses.field,))
class Module(Blueprint):
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
        parent: Blueprint | Scope | Unspecified | None = dataclasses.field(default=UNSPECIFIED, kw_only=True, repr=False)
        name: str | None = dataclasses.field(default=None, kw_only=True)
    else:
        parent: Any = dataclasses.field(default=UNSPECIFIED, kw_only=True, repr=False, compare=False)
        name: Any = dataclasses.field(default=None, kw_only=True)

    def __init_subclass__(cls, *, kw_only: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        make_dataclass(cls, kw_only=kw_only)
        wrap_class(cls)

    # --- construction and binding

    def __post_init__(self) -> None:
        """Find the parent, and bind to it. A subclass that overrides this must call it."""
        self._begin()
        if isinstance(self.parent, Unspecified):
            self.__dict__["parent"] = CURRENT.get()
        self._attach()

    def setup(self) -> None:
        """Define submodules and parameters as attributes; runs by itself before the first method of a bound module."""

    def _begin(self) -> None:
        self.__dict__["_state"] = ModuleState()

    def _attach(self) -> None:
        parent = self.parent
        if parent is None:
            return
        if isinstance(parent, Blueprint):
            if parent._state.in_setup and self.name is None:
                return  # named, and bound, when it is assigned to an attribute
            self.__dict__["scope"] = self._child_scope(parent)
        elif isinstance(parent, Scope):
            self.__dict__["scope"] = parent
        else:
            raise InvalidParentError(path=type(self).__name__, given=parent)
        values = self.__dict__
        for name in self.blueprint_names_:
            value = values.get(name)
            adopted = adopt(self, name, value)
            if adopted is not value:
                values[name] = adopted
        self._state.is_attached = True

    def _child_scope(self, parent: Blueprint) -> Scope:
        """Return the scope within the parent's, under a name of its own."""
        state, scope = parent._state, parent.scope
        if scope is None:
            raise CallUnboundModuleError(path=type(parent).__name__, call=f"{type(self).__name__}(parent=...)")
        scope.check_open()
        if not state.allows_children:
            raise AssignSubModuleError(child=type(self).__name__, path=_where(parent), method="being run")
        if self.name is None:
            self.__dict__["name"] = state.next_name(type(self).__name__)
        name = cast("str", self.name)
        if state.takes_names_again:
            state.children[name] = self
            return scope.push(name, reuse=True)
        if scope.name_reserved(name):
            raise NameInUseError(
                kind="a submodule", name=name, path=_where(parent), holder=_holder(state.children.get(name))
            )
        state.children[name] = self
        return scope.push(name)

    def _set_up(self) -> None:
        state = self._state
        if type(self).setup is not Module.setup:
            self.setup()
        state.is_set_up = True

    def _name_scope(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        current, state, scope = CURRENT.get(), self._state, self._bound(name)
        if isinstance(current, CompactNameScope) and current.name == name and current.owner_fn() is self:
            return functools.partial(function, self)  # the method of the base class
        held = state.children.get(name)
        if scope.name_reserved(name) and not isinstance(held, CompactNameScope):
            raise NameInUseError(kind="a name scope", name=name, path=_where(self), holder=_holder(held))
        made = CompactNameScope(function, lambda: self, parent=scope.push(name, reuse=True), name=name)
        state.children[name] = made
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        state: ModuleState | None = self.__dict__.get("_state")
        if state is None or not (state.is_attached or state.in_setup):
            if "_value" in self.__dict__:
                raise SetAttributeFrozenModuleError(
                    path=type(self).__name__, name=name, when="after the module was hashed or compared",
                    advice=f"Make a new blueprint: model.clone({name}=...).",
                )
            object.__setattr__(self, name, value)
        elif not state.in_setup:
            raise SetAttributeFrozenModuleError(
                path=_where(self), name=name, when="outside of setup",
                advice="Keep values that change in a variable: self.variable(collection, name, init_fn).",
            )
        elif name in self.blueprint_names_:
            raise SetAttributeInModuleSetupError(path=_where(self), name=name)
        else:
            state.assigned.add(name)
            object.__setattr__(self, name, adopt(self, name, value))

    def __getattr__(self, name: str) -> Any:
        state: ModuleState | None = self.__dict__.get("_state")
        if state is not None and self.scope is not None and not (state.is_set_up or state.in_setup or name[:2] == "__"):
            self._set_up()
            if name in self.__dict__:
                return self.__dict__[name]
        known = [n for n in dir(type(self)) if not n.startswith("_")] + [n for n in self.__dict__ if n[0] != "_"]
        bound = "Attributes that setup defines are there only in init, apply and bind."
        raise UnknownModuleAttributeError(
            path=type(self).__name__ if self.scope is None else _where(self),
            name=name,
            nearest=nearest(name, known),
            advice=bound if self.scope is None else "Define it as a field, or in setup: self.name = ...",
        )

    def __dir__(self) -> list[str]:
        state: ModuleState | None = self.__dict__.get("_state")
        if state is not None and self.scope is not None and not (state.is_set_up or state.in_setup):
            self._set_up()
        return list(super().__dir__())

    # --- as a value

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Blueprint) or type(self) is not type(other):
            return NotImplemented if not isinstance(other, Blueprint) else False
        return value_of(self) == value_of(other)

    def __hash__(self) -> int:
        return hash(value_of(self))

    fingerprint_by_place: ClassVar[bool] = True

    def __fingerprint__(self) -> Any:
        return (self.name, self.scope, *compared_values(self))

    def __repr__(self) -> str:
        return describe(self)

    def __getstate__(self) -> dict[str, Any]:
        private = {"_state", "_value", "scope", "parent"}
        if self.scope is None:
            return {n: v for n, v in self.__dict__.items() if n not in private}
        return {"name": self.name, **blueprint_fields(self)}

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        self.__dict__["parent"] = None
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
        values = blueprint_fields(self) | {"name": self.name, "parent": parent} | updates
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

    if TYPE_CHECKING:

        @overload
        def apply(
            self: _Calls[T],
            variables: Variables,
            *args: Any,
            rngs: Rngs | None = None,
            method: None = None,
            mutable: Literal[False] = False,
            capture_intermediates: bool | CaptureFilter = False,
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
            mutable: CollectionFilter,
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
            mutable: Literal[False] = False,
            capture_intermediates: bool | CaptureFilter = False,
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
            mutable: CollectionFilter,
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
            method: str,
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
                the collection ``intermediates``, which must be mutable.
              key_scheme: ``"linen"`` or ``"separated"``; the one that ``init`` was given.
              **kwargs: keyword arguments of the method.

            Returns:
              What the method returns; if ``mutable`` is not False, a pair of that and the mutable collections.
            """

    else:
        apply = _ApplyAttribute()

    def init(
        self,
        rngs: Rngs | None,
        *args: Any,
        method: Callable[..., Any] | str | None = None,
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
          mutable: which collections are made; by default all but ``intermediates``.
          capture_intermediates: as for ``apply``.
          key_scheme: ``"linen"`` gives Flax Linen's keys; with ``"separated"`` distinct paths never share a key.
          **kwargs: keyword arguments of the method.

        Returns:
          A nested dict: collection, module names, variable name, array.

        Raises:
          LazyInitError: if values are needed of inputs that were given as shapes.
        """
        return init_with(
            self, rngs, args, kwargs, method=method, mutable=mutable, capture_intermediates=capture_intermediates,
            key_scheme=key_scheme, want_output=False,
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
            self, rngs, args, kwargs, method=method, mutable=mutable, capture_intermediates=capture_intermediates,
            key_scheme=key_scheme, want_output=True,
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
        show_repeated: bool = False,
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
        found: dict[str, Module] = {}

        def note(next_method: Any, inner: Any, keywords: Any, context: InterceptorContext) -> Any:
            path = "/".join(context.module.path)
            if path not in found and context.method_name != "setup":
                found[path] = context.module.clone(_deep_clone=True, _reset_names=True, name=None)
            return next_method(*inner, **keywords)

        with intercept_methods(note):
            jax.eval_shape(lambda: self.init(rngs, *args, mutable=mutable, **kwargs))
        return found

    # --- variables, from within

    @property
    def variables(self) -> MutableVariables:
        """The variables at and below this module, by collection."""
        return self._bound("variables").variables()

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the outermost module to this one; a module without a scope has only its own."""
        return self._bound("path").path

    def param(
        self, name: str, init_fn: Callable[..., T], *init_args: Any, unbox: bool = True, **init_kwargs: Any
    ) -> T:
        """Return a parameter: entered in the collection ``params`` on ``init``, handed out on ``apply``.

        Args:
          name: the parameter's name, within this module.
          init_fn: called as ``init_fn(key, *init_args, **init_kwargs)``.
          *init_args: most often the shape and the dtype.
          unbox: whether a box (``AxisMetadata``) is taken off.
          **init_kwargs: keyword arguments of ``init_fn``.

        Raises:
          VariableOutsideSetupError: outside of ``setup`` and compact methods.
          NameInUseError: if the name is taken.
          ScopeParamNotFoundError: if ``apply`` was given variables without it.
          ScopeParamShapeError: if it has another shape than ``init_fn`` makes.
        """
        scope = self._bound("param")
        if not self._state.allows_children:
            raise VariableOutsideSetupError(kind="The parameter", name=name, path=_where(self), call="param")
        self._check_free(scope, name, "params")
        value = scope.param(name, init_fn, *init_args, unbox=unbox, **init_kwargs)
        self._state.children[name] = "params"
        return value

    def variable(
        self,
        col: str,
        name: str,
        init_fn: Callable[..., T] | None = None,
        *init_args: Any,
        unbox: bool = True,
        **init_kwargs: Any,
    ) -> Variable[T]:
        """Return a reference to a variable of a collection; it is made if the collection may change.

        Args:
          col: the collection's name.
          name: the variable's name, within this module.
          init_fn: called as ``init_fn(*init_args, **init_kwargs)``, without a key.
          *init_args: arguments of ``init_fn``.
          unbox: whether a box (``AxisMetadata``) is taken off when the value is read.
          **init_kwargs: keyword arguments of ``init_fn``.

        Raises:
          VariableOutsideSetupError: outside of ``setup`` and compact methods.
          NameInUseError: if the name is taken.
          ScopeVariableNotFoundError: if it is not there and may not be made.
        """
        scope = self._bound("variable")
        if not self._state.allows_children:
            raise VariableOutsideSetupError(kind="The variable", name=name, path=_where(self), call="variable")
        self._check_free(scope, name, col)
        found: Variable[T] = scope.variable(col, name, init_fn, *init_args, unbox=unbox, **init_kwargs)
        self._state.children[name] = col
        return found

    def _check_free(self, scope: Scope, name: str, collection: str) -> None:
        if self._state.takes_names_again:
            scope.release(name)
        elif scope.name_reserved(name, collection):
            kind = "a parameter" if collection == "params" else f"a variable of {collection!r}"
            raise NameInUseError(
                kind=kind, name=name, path=_where(self), holder=_holder(self._state.children.get(name))
            )

    def has_variable(self, col: str, name: str) -> bool:
        """Return whether the variable is there."""
        return self._bound("has_variable").has_variable(col, name)

    def get_variable(self, col: str, name: str, default: Any = None) -> Any:
        """Return the value of a variable of this module, or ``default`` where there is none."""
        return self._bound("get_variable").get_variable(col, name, default)

    def put_variable(self, col: str, name: str, value: Any) -> None:
        """Store a value in a collection that may change.

        Raises:
          ModifyScopeVariableError: if the collection is not mutable in this call.
        """
        self._bound("put_variable").put_variable(col, name, value)

    def is_mutable_collection(self, col: str) -> bool:
        """Return whether variables of the collection may change in this call."""
        return self._bound("is_mutable_collection").is_mutable_collection(col)

    def is_initializing(self) -> bool:
        """Return whether this call is an ``init``."""
        return self._bound("is_initializing").is_initializing

    def has_rng(self, name: str) -> bool:
        """Return whether there is a random stream ``name``."""
        return self._bound("has_rng").has_rng(name)

    def make_rng(self, name: str = "params") -> Key:
        """Return a new random key of a stream; it depends on the path and on how often it was asked for there.

        Raises:
          InvalidRngError: if neither this stream nor ``params`` was given.
        """
        return self._bound("make_rng").make_rng(name)

    def sow(
        self,
        col: str,
        name: str,
        value: Any,
        reduce_fn: Callable[[Any, Any], Any] = lambda held, new: (*held, new),
        init_fn: Callable[[], Any] = tuple,
    ) -> bool:
        """Store a value in a collection without passing it through the results; by default in a growing tuple.

        Args:
          col: the collection's name, often ``"intermediates"``.
          name: the name of the value.
          value: the value.
          reduce_fn: joins what is stored and the new value.
          init_fn: makes what is stored at first.

        Returns:
          Whether the collection is mutable; if it is not, nothing is stored.
        """
        scope = self._bound("sow")
        if not scope.is_mutable_collection(col):
            return False
        if scope.has_variable(col, name):
            held = scope.get_variable(col, name)
        else:
            self._check_free(scope, name, col)
            scope.reserve(name, col)
            self._state.children[name] = col
            held = init_fn()
        scope.put_variable(col, name, reduce_fn(held, value))
        return True

    def perturb(self, name: str, value: T, collection: str = "perturbations") -> T:
        """Add a variable of zeros to ``value``, so that the gradient by that variable is the gradient by ``value``.

        Args:
          name: the name of the variable.
          value: an array.
          collection: the collection of the zeros; where ``apply`` is not given it, nothing is added.
        """
        scope = self._bound("perturb")
        if not (scope.has_variable(collection, name) or scope.is_mutable_collection(collection)):
            return value
        zeros: Variable[Any] = self.variable(collection, name, jnp.zeros, jnp.shape(value), jnp.result_type(value))  # pyright: ignore[reportArgumentType]
        return value + zeros.value

    def _bound(self, call: str) -> Scope:
        scope = self.scope
        if scope is None:
            raise CallUnboundModuleError(path=type(self).__name__, call=call)
        return scope


def _where(module: Blueprint) -> str:
    path = module.scope.path if module.scope is not None else ()
    return f"{type(module).__name__} at /{'/'.join(path)}"


def _holder(child: Any) -> str:
    if isinstance(child, Blueprint):
        return f"a submodule {type(child).__name__}"
    return "another variable or submodule" if child is None else f"a variable of {child!r}"


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
