"""Errors of scopes: variables that are not there, may not be written, or have another shape; missing streams."""

from __future__ import annotations

from batiste.errors._base import BatisteError

__all__ = [
    "ApplyScopeInvalidVariablesStructureError",
    "ApplyScopeInvalidVariablesTypeError",
    "InvalidFilterError",
    "InvalidRngError",
    "InvalidScopeError",
    "JaxTransformError",
    "LazyInitError",
    "ModifyScopeVariableError",
    "NameInUseError",
    "ScopeCollectionNotFound",
    "ScopeParamNotFoundError",
    "ScopeParamShapeError",
    "ScopeVariableNotFoundError",
    "SownInVainError",
    "SplitStreamError",
    "UnknownKeySchemeError",
]


class InvalidFilterError(BatisteError):
    """A collection filter is none of bool, name, list of names and DenyList."""

    code = "core/invalid-filter"
    flax_arguments = ("filter_like",)
    message = "{given!r} is no collection filter."
    hint = "Give True, False, a collection name, a list of names, or DenyList(names): mutable=['batch_stats']."


class InvalidRngError(BatisteError):
    """A random stream is missing, or what was given for it is no random key."""

    code = "core/invalid-rng"
    flax_arguments = ("msg",)
    message = "{path} has no random key to draw from: {problem}.{nearest}"
    hint = "{advice}"


class UnknownKeySchemeError(BatisteError, ValueError):
    """``key_scheme`` is neither ``"linen"`` nor ``"separated"``."""

    code = "core/unknown-key-scheme"
    message = "key_scheme={given!r} is unknown.{nearest}"
    hint = "Use 'linen' (Flax Linen's keys, bit for bit) or 'separated' (distinct paths never share a key)."


class InvalidScopeError(BatisteError):
    """A scope is used after the call that made it has ended."""

    code = "core/invalid-scope"
    flax_arguments = ("scope_name",)
    message = "{path} is used after the init, apply or transform that bound it has ended."
    hint = (
        "A bound module lives only within its call: return arrays from it, not the module; keep the unbound blueprint "
        "and call apply again."
    )


class JaxTransformError(BatisteError):
    """A variable is given a value that depends on a JAX transform which started after the module was bound."""

    code = "core/jax-transform"
    flax_arguments = ()
    message = (
        "{path} {action} inside a JAX transform (jit, grad, vmap, scan, ...) that was started after the module was "
        "bound, so the value would leak out of the transform."
    )
    hint = "Use the lifted transform of batiste.nn (nn.jit, nn.vmap, nn.scan, nn.remat, ...) around the module."


class NameInUseError(BatisteError):
    """Two children, or a child and a variable, were given one name in the same scope."""

    code = "core/name-in-use"
    flax_arguments = ("key_type", "value", "module_name")
    message = "{kind} {name!r} cannot be made in {path}: that name is taken by {holder}."
    hint = "Give it another name, or drop name= and let batiste number it."


class ScopeParamNotFoundError(BatisteError):
    """``apply`` asks for a parameter that the given variables do not have."""

    code = "core/param-not-found"
    flax_arguments = ("param_name", "scope_path")
    message = "{path} has no parameter {name!r} in the given variables; {held}.{nearest}"
    hint = (
        "Initialise the variables with this very blueprint, or rename the entry: the path should be {full!r}. "
        "tree.diff(variables, jax.eval_shape(model.init, ...)) lists every difference."
    )


class ScopeCollectionNotFound(BatisteError):
    """``apply`` asks for a variable of a collection that holds nothing for this module."""

    code = "core/collection-not-found"
    flax_arguments = ("col_name", "var_name", "scope_path")
    message = "{path} needs {name!r} from the collection {collection!r}, which has nothing for it; given: {known}."
    hint = "{advice}"


class ScopeVariableNotFoundError(BatisteError):
    """``apply`` asks for a variable that is not there and may not be made."""

    code = "core/variable-not-found"
    flax_arguments = ("name", "col", "scope_path")
    message = "{path} has no variable {name!r} in the collection {collection!r}; {held}.{nearest}"
    hint = (
        "Make it in init, or let this call make it: apply(..., mutable=[{collection!r}]) and give self.variable an "
        "initialiser."
    )


class ScopeParamShapeError(BatisteError):
    """A parameter has another shape than its module makes for these inputs."""

    code = "core/param-shape"
    flax_arguments = ("param_name", "scope_path", "value_shape", "init_shape")
    message = "The parameter {name!r} of {path} has shape {given}, but the module makes it with shape {expected}."
    hint = "Check the size of the inputs and of the layers, or give the variables that belong to this blueprint."


class ModifyScopeVariableError(BatisteError):
    """A variable is written although its collection is not mutable in this call."""

    code = "core/immutable-collection"
    flax_arguments = ("col", "variable_name", "scope_path")
    message = "{path} writes {name!r} in the collection {collection!r}, which is not mutable in this call ({mutable})."
    hint = "{advice}"


class ApplyScopeInvalidVariablesTypeError(BatisteError, TypeError):
    """What was given as variables is not a mapping of collections."""

    code = "core/variables-type"
    flax_arguments = ()
    message = "apply takes variables as a dict of collections, for example {{'params': {{...}}}}; it was given {given}."
    hint = "Pass what init returned, or {{'params': params}}."


class ApplyScopeInvalidVariablesStructureError(BatisteError):
    """The variables hold the collection ``params`` twice, one within the other."""

    code = "core/variables-structure"
    flax_arguments = ("variables",)
    message = "The given variables are wrapped twice: {{'params': {{'params': ...}}}}."
    hint = "Pass the variables as init returned them, without putting them under 'params' once more."


class LazyInitError(BatisteError):
    """Shapes were given to ``init`` where values are needed."""

    code = "core/lazy-init"
    flax_arguments = ("partial_val",)
    message = "{path} cannot be initialised from shapes alone: {reason}."
    hint = "Give init arrays instead of jax.ShapeDtypeStruct."


class SownInVainError(BatisteError, ValueError):
    """A value is sown in the body of a lifted transform, into a collection that the transform does not lift."""

    code = "core/sown-in-vain"
    message = (
        "{path} sows {name!r} into {collection!r}, which is mutable, but the {transform} around it does not lift that "
        "collection, so that the value would be lost."
    )
    hint = (
        "Name the collection in the transform's variable options, such as variable_axes={{{collection!r}: 0}} of scan "
        "and vmap; or leave it out of mutable."
    )


class SplitStreamError(BatisteError, ValueError):
    """The body of a lifted transform draws keys from a module outside of it, which are the same for every call."""

    code = "core/split-stream"
    message = (
        "{path} draws a key of {stream!r} inside the body of {transform}, which splits that stream for its modules; "
        "this module belongs to the outside, so that every call of the body would get the same key."
    )
    hint = (
        "Make the module inside of the body, or pass it in: {transform}(lambda module, ...: ...)(module, ...) sees "
        "what is among its arguments, and a module with the other one as a submodule brings it along."
    )
