"""Errors of modules: used unbound, changed after construction, or made where nothing may be made."""

from __future__ import annotations

from batiste.errors._base import BatisteError, BatisteWarning

__all__ = [
    "AdoptedNameWarning",
    "ApplyModuleInvalidMethodError",
    "AssignSubModuleError",
    "BlueprintAsArrayError",
    "BoundHashError",
    "CallCompactUnboundModuleError",
    "CallSetupUnboundModuleError",
    "CallShareScopeOnUnboundModuleError",
    "CallUnbindOnUnboundModuleError",
    "CallUnboundModuleError",
    "CollectionNameWarning",
    "DescriptorAttributeError",
    "ExtraArgumentsError",
    "IncorrectPostInitOverrideError",
    "InvalidInstanceModuleError",
    "InvalidParentError",
    "LayerInputError",
    "MergeParamError",
    "MissingFieldsError",
    "ModuleListError",
    "ModuleNotCallableError",
    "ModuleResultWarning",
    "PerturbationError",
    "ReservedModuleAttributeError",
    "SetAttributeFrozenModuleError",
    "SetAttributeInModuleSetupError",
    "UnknownFieldError",
    "UnknownModuleAttributeError",
    "UnreachedWarning",
    "VariableOutsideSetupError",
]


class AssignSubModuleError(BatisteError):
    """A submodule is made in a method that is neither compact nor ``setup``."""

    code = "module/submodule-outside-setup"
    flax_arguments = ("cls",)
    message = "{child} is made in {path} within a method that is neither setup nor marked @nn.compact."
    hint = "Make it in setup (self.layer = {child}(...)), or mark the method with @nn.compact."


class VariableOutsideSetupError(BatisteError, ValueError):
    """A parameter or variable is made in a method that is neither compact nor ``setup``."""

    code = "module/variable-outside-setup"
    message = "{kind} {name!r} is made in {path} within a method that is neither setup nor marked @nn.compact."
    hint = "Make it in setup (self.{name} = self.{call}(...)), or mark the method with @nn.compact."


class CallCompactUnboundModuleError(BatisteError):
    """A compact method is called on a module that has no variables."""

    code = "module/call-unbound"
    flax_arguments = ()
    message = "{path}.{method} is called on a blueprint, which has no variables to work with."
    hint = "{advice}"


class CallUnboundModuleError(BatisteError, ValueError):
    """Variables, names or keys are asked of a module that has none."""

    code = "module/unbound"
    message = "{path}.{call} needs variables, and this module is an unbound blueprint."
    hint = "Use it inside of init, apply or bind: model.bind(variables), or model.apply(variables, method=...)."


class CallSetupUnboundModuleError(BatisteError):
    """``setup`` is called by hand on a module that has no variables."""

    code = "module/setup-unbound"
    flax_arguments = ()
    message = "{path}.setup() is called on a blueprint, which has no variables to set up."
    hint = "setup runs by itself: call model.init, model.apply, or model.bind(variables) and then its submodules."


class CallUnbindOnUnboundModuleError(BatisteError):
    """``unbind`` is called on a module that is not bound."""

    code = "module/unbind-unbound"
    flax_arguments = ()
    message = "{path}.unbind() is called on a module that is not bound."
    hint = "Bind it first, model.bind(variables), or use the blueprint as it is."


class CallShareScopeOnUnboundModuleError(BatisteError):
    """``share_scope`` is given a module that is not bound."""

    code = "module/share-scope-unbound"
    flax_arguments = ()
    message = "share_scope is given {path}, which is not bound."
    hint = "Call it inside of setup, on self and on a submodule that setup has assigned or that is a field."


class SetAttributeInModuleSetupError(BatisteError):
    """``setup`` assigns to a field of the dataclass."""

    code = "module/set-field-in-setup"
    flax_arguments = ()
    message = "setup of {path} assigns the field {name!r}, which belongs to the blueprint."
    hint = "Give the value another attribute name: self.{name}_ = ..."


class SetAttributeFrozenModuleError(BatisteError):
    """An attribute is assigned after construction or ``setup``."""

    code = "module/frozen"
    flax_arguments = ("module_cls", "attr_name", "attr_val")
    message = "The attribute {name!r} of {path} is assigned {when}; modules do not change while they run."
    hint = "{advice}"


class ReservedModuleAttributeError(BatisteError):
    """A class defines an attribute that modules need for themselves."""

    code = "module/reserved-attribute"
    flax_arguments = ("annotations",)
    message = "{path} defines {names}, which every module has already."
    hint = "Choose another name; parent, name and scope are given by batiste."


class ApplyModuleInvalidMethodError(BatisteError):
    """``method=`` is neither a method's name nor a function."""

    code = "module/invalid-method"
    flax_arguments = ("method",)
    message = "{path} cannot run method={given!r}: that is neither a function nor a method's name."
    hint = "Give a name, method='encode', or a function of the module, method=Model.encode."


class IncorrectPostInitOverrideError(BatisteError):
    """``__post_init__``, or a constructor of the user's own, does not call its base."""

    code = "module/post-init"
    flax_arguments = ()
    message = "{path}.{method} does not call super().{method}(), so the module was never made whole."
    hint = "{advice}"


class DescriptorAttributeError(BatisteError):
    """A property of a module fails because it reads an attribute that is not there."""

    code = "module/property"
    flax_arguments = ()
    message = "A property of {path} reads an attribute that is not there: {reason}"
    hint = "What setup defines is there only in init, apply and bind."


class InvalidInstanceModuleError(BatisteError):
    """``init`` or ``apply`` is called on the class instead of an instance."""

    code = "module/not-an-instance"
    flax_arguments = ()
    message = "{call} is called on {given}, which is no instance of a Module."
    hint = "Make the blueprint first: model = Model(...); model.{call}(...)."


class InvalidParentError(BatisteError, ValueError):
    """``parent=`` is neither a module nor a scope nor None."""

    code = "module/invalid-parent"
    message = "{path} is given parent={given!r}, which is neither a Module nor a Scope nor None."
    hint = "Leave parent= out: inside a method the parent is known."


class MergeParamError(BatisteError, ValueError):
    """An option is given twice, or not at all, where it must be given once."""

    code = "module/merge-param"
    message = "{path}: the option {name!r} must be given once, to the constructor or to the call; it is given {how}."
    hint = "{advice}"


class UnknownModuleAttributeError(BatisteError, AttributeError):
    """An attribute is read that the module does not have."""

    code = "module/unknown-attribute"
    message = "{path} has no attribute {name!r}.{nearest}"
    hint = "{advice}"


class ModuleNotCallableError(UnknownModuleAttributeError, TypeError):
    """A module is called whose class has no ``__call__``."""

    code = "module/not-callable"
    message = "{path} is called, but has no attribute '__call__'."
    hint = "{advice}"


class ModuleListError(BatisteError, AttributeError):
    """A list that a module holds is to be changed; it has become a tuple when it was assigned."""

    code = "module/list-changed"
    message = "{path} calls self.{call}, but lists that are assigned to a module become tuples, and do not change."
    hint = "Make the list first and assign it whole: {name} = []; {name}.append(layer); self.{name} = {name}."


class UnknownFieldError(BatisteError, TypeError):
    """The constructor of a module is given an argument by a name that none of its fields has."""

    code = "module/unknown-field"
    message = "{path} has no field {name!r}.{nearest}"
    hint = "Its fields are: {fields}. What belongs to a call goes there: {path}(...)(x, {name}=...)."


class ExtraArgumentsError(BatisteError, TypeError):
    """The constructor of a module is given more arguments by position than it has fields for."""

    code = "module/extra-arguments"
    message = "{path} takes {count} arguments by position ({fields}), and was given {given}."
    hint = "Put several layers into one list, {path}([a, b]); give name= and parent= by name, and inputs to the call."


class MissingFieldsError(BatisteError, TypeError):
    """The constructor of a module is not given fields that have no default."""

    code = "module/missing-fields"
    message = "{path} was not given {missing}, which it needs; there is no default."
    hint = "Write {path}({example})."


class BoundHashError(BatisteError, TypeError):
    """A bound module is hashed: put into a set or a dict, or handed to a JAX transform as its function."""

    code = "module/hash-bound"
    message = "{path} is bound to variables, and is hashed: as a key, or as the function of a JAX transform."
    hint = "Use the lifted transform of batiste.nn (nn.jit, nn.remat, ...), or the blueprint: model.unbind()[0]."


class LayerInputError(BatisteError, TypeError):
    """A layer is given its input where it is made, so an array becomes its first field."""

    code = "module/input-as-field"
    message = "{path}: {kind} was given {given} as its field {name}: {annotation}. A layer is made first, then called."
    hint = "Write {kind}(...)(x), with the layer's options in the first pair of brackets and the input in the second."


class BlueprintAsArrayError(BatisteError, ValueError):
    """JAX is given a module where an array belongs.

    It is no ``TypeError``, because JAX would put an error of its own in the place of one.
    """

    code = "module/as-array"
    message = "JAX was given the module {path} where an array belongs; a module describes a computation and holds none."
    hint = (
        "If its result was meant, call it: {kind}(...)(x). As an argument of jax.jit a module is static: "
        "jax.jit(function, static_argnums=0), or jax.jit(model.apply)(variables, x)."
    )


class PerturbationError(BatisteError, ValueError, TypeError):
    """A perturbation is not there, or has another shape than the value that it is added to."""

    code = "module/perturbation"
    message = "{path} cannot perturb {name!r} with the collection {collection!r}: {problem}."
    hint = "Take the collection from init for inputs of these shapes: model.init(key, x)[{collection!r}]."


class AdoptedNameWarning(BatisteWarning):
    """The name of a submodule that is passed in has no effect."""


class CollectionNameWarning(BatisteWarning):
    """A collection in ``mutable=`` is most likely misspelt: nothing made it."""


class UnreachedWarning(BatisteWarning):
    """A submodule of ``setup`` is reached by none of the ``calls`` of ``init``, and so has no variables."""


class ModuleResultWarning(BatisteWarning):
    """A model returns a module in the place of the module's result."""
