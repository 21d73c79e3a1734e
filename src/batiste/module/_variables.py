"""How a bound module reaches its variables, random streams and collections: through its scope.

These are the methods that layers call within ``setup`` and compact methods. What may be made, and under which name,
is asked of the module's state; everything else is the scope's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import jax
import jax.numpy as jnp

from batiste._arguments import function, text
from batiste.core import Scope, Variable
from batiste.errors import CallUnboundModuleError, NameInUseError, PerturbationError, VariableOutsideSetupError
from batiste.module._blueprint import Blueprint
from batiste.typing import Key, MutableVariables

__all__ = ["VariableAccess", "holder_text", "where"]

T = TypeVar("T")


class VariableAccess(Blueprint):
    """The part of a module that reaches its variables while it is bound."""

    @property
    def variables(self) -> MutableVariables:
        """The variables at and below this module, by collection."""
        return self._bound("variables").variables()

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the outermost module to this one; a module without a scope has only its own."""
        return self._bound("path").path

    def param(self, name: str, init_fn: Callable[..., T], *init_args: Any, unbox: bool = True, **init_kwargs: Any) -> T:
        """Return a parameter: entered in the collection ``params`` on ``init``, handed out on ``apply``.

        Args:
          name: the parameter's name, within this module.
          init_fn: called as ``init_fn(key, *init_args, **init_kwargs)``.
          *init_args: most often the shape and the dtype.
          unbox: whether a box (``AxisMetadata``) is taken off.
          **init_kwargs: keyword arguments of ``init_fn``.

        Raises:
          ArgumentError: the name is no text, or is empty; so it is for every method here.
          VariableOutsideSetupError: outside of ``setup`` and compact methods.
          NameInUseError: if the name is taken.
          ScopeParamNotFoundError: if ``apply`` was given variables without it.
          ScopeParamShapeError: if it has another shape than ``init_fn`` makes.
        """
        scope, state = self.scope, self._state
        if (
            scope is None
            or type(name) is not str
            or not name
            or state.reuses_names
            or not state.allows_children
            or name in scope.names
        ):
            scope = self._ready_for("param", "params", name)
        return scope.param(name, init_fn, *init_args, unbox=unbox, **init_kwargs)

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
        scope = self._ready_for("variable", col, name)
        return scope.variable(col, name, init_fn, *init_args, unbox=unbox, **init_kwargs)

    def _ready_for(self, call: str, collection: str, name: str) -> Scope:
        """Return the scope if a variable may be made there under this name now."""
        scope = self._bound(call)
        self._check_names(name=name, col=collection)
        if not self._state.allows_children:
            kind = "The parameter" if call == "param" else "The variable"
            raise VariableOutsideSetupError(kind=kind, name=name, path=where(self), call=call)
        self._check_free(scope, name, collection)
        return scope

    def _check_free(self, scope: Scope, name: str, collection: str) -> None:
        if scope.retakes:
            scope.release(name)
        elif scope.name_reserved(name, collection):
            kind = "a parameter" if collection == "params" else f"a variable of {collection!r}"
            raise NameInUseError(kind=kind, name=name, path=where(self), holder=holder_text(scope, name))

    def has_variable(self, col: str, name: str) -> bool:
        """Return whether the variable is there."""
        scope = self._bound("has_variable")
        self._check_names(col=col, name=name)
        return scope.has_variable(col, name)

    def get_variable(self, col: str, name: str, default: Any = None) -> Any:
        """Return the value of a variable of this module, or ``default`` where there is none."""
        scope = self._bound("get_variable")
        self._check_names(col=col, name=name)
        return scope.get_variable(col, name, default)

    def put_variable(self, col: str, name: str, value: Any) -> None:
        """Store a value in a collection that may change.

        Raises:
          ModifyScopeVariableError: if the collection is not mutable in this call.
        """
        scope = self._bound("put_variable")
        self._check_names(col=col, name=name)
        scope.put_variable(col, name, value)

    def is_mutable_collection(self, col: str) -> bool:
        """Return whether variables of the collection may change in this call."""
        scope = self._bound("is_mutable_collection")
        self._check_names(col=col)
        return scope.is_mutable_collection(col)

    def is_initializing(self) -> bool:
        """Return whether this call is an ``init``."""
        return self._bound("is_initializing").is_initializing

    def has_rng(self, name: str) -> bool:
        """Return whether there is a random stream ``name``."""
        scope = self._bound("has_rng")
        self._check_names(name=name)
        return scope.has_rng(name)

    def make_rng(self, name: str = "params") -> Key:
        """Return a new random key of a stream; it depends on the path and on how often it was asked for there.

        Raises:
          InvalidRngError: if neither this stream nor ``params`` was given.
        """
        scope = self._bound("make_rng")
        if type(name) is not str or not name:
            self._check_names(name=name)
        return scope.make_rng(name)

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

        Raises:
          SownInVainError: the collection is mutable in this call of ``apply``, but a lifted transform around this
            module does not lift it.
        """
        scope = self._bound("sow")
        self._check_names(col=col, name=name)
        if not scope.is_mutable_collection(col):
            if jax.tree.leaves(value):  # names alone are nothing that was computed
                scope.check_sown(col, name)
            return False
        if scope.has_variable(col, name):
            held = scope.get_variable(col, name)
        else:
            self._check_free(scope, name, col)
            scope.reserve(name, col)
            held = function(init_fn, "init_fn", self)()
        scope.put_variable(col, name, function(reduce_fn, "reduce_fn", self)(held, value))
        return True

    def perturb(self, name: str, value: T, collection: str = "perturbations") -> T:
        """Add a variable of zeros to ``value``, so that the gradient by that variable is the gradient by ``value``.

        Args:
          name: the name of the variable.
          value: an array, or a tree of arrays.
          collection: the collection of the zeros; where ``apply`` is not given it, nothing is added.

        Raises:
          PerturbationError: if ``apply`` is given the collection, but without this variable, or in another shape.
        """
        scope = self._bound("perturb")
        self._check_names(name=name, collection=collection)
        if not scope.has_variable(collection, name):
            if not scope.is_mutable_collection(collection):
                if scope.frame.variables.get(collection):
                    held = ", ".join(map(repr, scope.variables_in(collection).get(collection, {}))) or "nothing"
                    self._refuse_perturbation(name, collection, f"the collection holds {held} for this module")
                return value
            self._check_free(scope, name, collection)
            scope.variable(collection, name, _zeros, jax.tree.map(_shape_and_dtype, value))
        zeros = scope.get_variable(collection, name)
        shapes, wanted = jax.tree.map(jnp.shape, (zeros, value))
        if shapes != wanted:
            self._refuse_perturbation(name, collection, f"the variable has shape {shapes}, the value {wanted}")
        return jax.tree.map(jnp.add, value, zeros)

    def _refuse_perturbation(self, name: str, collection: str, problem: str) -> NoReturn:
        raise PerturbationError(path=where(self), name=name, collection=collection, problem=problem)

    def _check_names(self, **names: Any) -> None:
        """Refuse what is no name: a path could not tell it from another, or would hold nothing."""
        for argument, name in names.items():
            if type(name) is not str or not name:
                text(name, argument, self, what="a name")

    def _bound(self, call: str) -> Scope:
        scope = self.scope
        if scope is None:
            raise CallUnboundModuleError(path=type(self).__name__, call=call)
        return scope


def _shape_and_dtype(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def _zeros(shapes: Any) -> Any:
    def of_shape(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(of_shape, shapes)


def where(module: Blueprint) -> str:
    """Return a bound module's class and path for messages."""
    path = module.scope.path if module.scope is not None else ()
    return f"{type(module).__name__} at /{'/'.join(path)}"


def holder_text(scope: Scope, name: str) -> str:
    """Return what holds a name at a scope, for messages."""
    held = scope.names[name]
    if isinstance(held, tuple):
        return f"a variable of {', '.join(map(repr, cast('tuple[str, ...]', held)))}"
    kind: Any = held if isinstance(held, type) else type(held)
    return f"a submodule {kind.__name__}" if issubclass(kind, Blueprint) else "another variable or submodule"
