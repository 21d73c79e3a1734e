"""Errors of modules: used unbound, changed after construction, or made where nothing may be made."""

from __future__ import annotations

from batiste.errors._base import BatisteError

__all__ = [
    "ApplyModuleInvalidMethodError",
    "AssignSubModuleError",
    "CallCompactUnboundModuleError",
    "CallSetupUnboundModuleError",
    "CallShareScopeOnUnboundModuleError",
    "CallUnbindOnUnboundModuleError",
    "CallUnboundModuleError",
    "DescriptorAttributeError",
    "IncorrectPostInitOverrideError",
    "InvalidInstanceModuleError",
    "InvalidParentError",
    "MergeParamError",
    "ModuleListError",
    "ReservedModuleAttributeError",
    "SetAttributeFrozenModuleError",
    "SetAttributeInModuleSetupError",
    "UnknownModuleAttributeError",
    "VariableOutsideSetupError",
]


class AssignSubModuleError(BatisteError):
    """A submodule is made in a method that is neither compact nor ``setup``."""

    code = "module/submodule-outside-setup"
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
    message = "{path}.{method} is called on a blueprint, which has no variables to work with."
    hint = "Write variables = model.init(key, x), then model.apply(variables, x)."


class CallUnboundModuleError(BatisteError, ValueError):
    """Variables, names or keys are asked of a module that has none."""

    code = "module/unbound"
    message = "{path}.{call} needs variables, and this module is an unbound blueprint."
    hint = "Use it inside of init, apply or bind: model.bind(variables), or model.apply(variables, method=...)."


class CallSetupUnboundModuleError(BatisteError):
    """``setup`` is called by hand on a module that has no variables."""

    code = "module/setup-unbound"
    message = "{path}.setup() is called on a blueprint, which has no variables to set up."
    hint = "setup runs by itself: call model.init, model.apply, or model.bind(variables) and then its submodules."


class CallUnbindOnUnboundModuleError(BatisteError):
    """``unbind`` is called on a module that is not bound."""

    code = "module/unbind-unbound"
    message = "{path}.unbind() is called on a module that is not bound."
    hint = "Bind it first, model.bind(variables), or use the blueprint as it is."


class CallShareScopeOnUnboundModuleError(BatisteError):
    """``share_scope`` is given a module that is not bound."""

    code = "module/share-scope-unbound"
    message = "share_scope is given {path}, which is not bound."
    hint = "Call it inside of setup, on self and on a submodule that setup has assigned or that is a field."


class SetAttributeInModuleSetupError(BatisteError):
    """``setup`` assigns to a field of the dataclass."""

    code = "module/set-field-in-setup"
    message = "setup of {path} assigns the field {name!r}, which belongs to the blueprint."
    hint = "Give the value another attribute name: self.{name}_ = ..."


class SetAttributeFrozenModuleError(BatisteError):
    """An attribute is assigned after construction or ``setup``."""

    code = "module/frozen"
    message = "The attribute {name!r} of {path} is assigned {when}; modules do not change while they run."
    hint = "{advice}"


class ReservedModuleAttributeError(BatisteError):
    """A class defines an attribute that modules need for themselves."""

    code = "module/reserved-attribute"
    message = "{path} defines {names}, which every module has already."
    hint = "Choose another name; parent, name and scope are given by batiste."


class ApplyModuleInvalidMethodError(BatisteError):
    """``method=`` is neither a method's name nor a function."""

    code = "module/invalid-method"
    message = "{path} cannot run method={given!r}: that is neither a function nor a method's name."
    hint = "Give a name, method='encode', or a function of the module, method=Model.encode."


class IncorrectPostInitOverrideError(BatisteError):
    """``__post_init__`` does not call its base."""

    code = "module/post-init"
    message = "{path}.__post_init__ does not call super().__post_init__(), so the module was never made whole."
    hint = "End it with super().__post_init__(), after the fields have their values."


class DescriptorAttributeError(BatisteError):
    """A property of a module fails because it reads an attribute that is not there."""

    code = "module/property"
    message = "A property of {path} reads an attribute that is not there: {reason}"
    hint = "What setup defines is there only in init, apply and bind."


class InvalidInstanceModuleError(BatisteError):
    """``init`` or ``apply`` is called on the class instead of an instance."""

    code = "module/not-an-instance"
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
    message = "The option {name!r} must be given once, to the constructor or to the call; it is given {how}."
    hint = "Write {name}= in one of the two places."


class UnknownModuleAttributeError(BatisteError, AttributeError):
    """An attribute is read that the module does not have."""

    code = "module/unknown-attribute"
    message = "{path} has no attribute {name!r}.{nearest}"
    hint = "{advice}"


class ModuleListError(BatisteError, AttributeError):
    """A list that a module holds is to be changed; it has become a tuple when it was assigned."""

    code = "module/list-changed"
    message = "{path} calls self.{call}, but lists that are assigned to a module become tuples, and do not change."
    hint = "Make the list first and assign it whole: {name} = []; {name}.append(layer); self.{name} = {name}."
