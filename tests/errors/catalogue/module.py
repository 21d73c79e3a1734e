"""Modules: used unbound, changed after construction, or made where nothing may be made."""

from typing import Any

from batiste import nn
from batiste.errors import (
    ApplyModuleInvalidMethodError,
    AssignSubModuleError,
    CallCompactUnboundModuleError,
    CallSetupUnboundModuleError,
    CallShareScopeOnUnboundModuleError,
    CallUnbindOnUnboundModuleError,
    CallUnboundModuleError,
    DescriptorAttributeError,
    IncorrectPostInitOverrideError,
    InvalidInstanceModuleError,
    InvalidParentError,
    MergeParamError,
    ReservedModuleAttributeError,
    SetAttributeFrozenModuleError,
    SetAttributeInModuleSetupError,
    UnknownModuleAttributeError,
    VariableOutsideSetupError,
)
from tests.errors.rows import key, raises, x


@raises(AssignSubModuleError, "Dense is made in Model at /", "self.layer = Dense(...)", "@nn.compact")
def a_layer_without_compact():
    class Model(nn.Module):
        def __call__(self, x):
            return nn.Dense(2)(x)

    Model().init(key, x)


@raises(VariableOutsideSetupError, "The parameter 'scale'", "Model at /", "self.scale = self.param(...)", "@nn.compact")
def a_parameter_without_compact():
    class Model(nn.Module):
        def __call__(self, x):
            return x * self.param("scale", nn.initializers.ones, ())

    Model().init(key, x)


@raises(VariableOutsideSetupError, "The variable 'count'", "Model at /", "self.count = self.variable(...)")
def a_variable_without_compact():
    class Model(nn.Module):
        def __call__(self, x):
            return self.variable("state", "count", lambda: 0)

    Model().init(key, x)


@raises(CallCompactUnboundModuleError, "Dense.__call__", "model.init(key, x)", "model.apply(variables, x)")
def a_blueprint_is_called():
    nn.Dense(2)(x)


@raises(CallUnboundModuleError, "Model.param", "unbound blueprint", "model.bind(variables)")
def a_parameter_of_a_blueprint():
    class Model(nn.Module):
        def scale(self):
            return self.param("scale", nn.initializers.ones, ())

    Model().scale()


@raises(CallUnboundModuleError, "Dense.variables", "unbound blueprint")
def variables_of_a_blueprint():
    return nn.Dense(2).variables


@raises(CallSetupUnboundModuleError, "Model.setup()", "setup runs by itself")
def setup_is_called_by_hand():
    class Model(nn.Module):
        def setup(self):
            self.layer = nn.Dense(2)

    Model().setup()


@raises(CallUnbindOnUnboundModuleError, "Dense.unbind()", "model.bind(variables)")
def a_blueprint_is_unbound_already():
    nn.Dense(2).unbind()


@raises(CallShareScopeOnUnboundModuleError, "share_scope is given Dense", "inside of setup")
def scopes_of_blueprints_are_shared():
    nn.share_scope(nn.Dense(2), nn.Dense(2))


@raises(SetAttributeInModuleSetupError, "Model at /", "the field 'width'", "self.width_ = ...")
def setup_sets_a_field():
    class Model(nn.Module):
        width: int = 2

        def setup(self):
            self.width = 3

        def __call__(self, x):
            return x

    Model().init(key, x)


@raises(SetAttributeFrozenModuleError, "'last' of Model at /", "outside of setup", "self.variable(collection, name")
def an_attribute_is_set_in_a_call():
    class Model(nn.Module):
        def __call__(self, x):
            self.last = x
            return x

    Model().init(key, x)


@raises(SetAttributeFrozenModuleError, "'features' of Dense", "hashed or compared", "model.clone(features=...)")
def a_field_is_set_after_it_was_hashed():
    layer = nn.Dense(2)
    names = {layer: "head"}
    layer.features = 3
    return names


@raises(ReservedModuleAttributeError, "Model defines 'parent'", "Choose another name")
def a_field_is_called_parent():
    class Model(nn.Module):
        parent: int = 0

    return Model


@raises(ApplyModuleInvalidMethodError, "Dense cannot run method=3", "method='encode'")
def a_number_as_a_method():
    nn.Dense(2).apply({}, x, method=3)


@raises(IncorrectPostInitOverrideError, "Model.__post_init__", "super().__post_init__()")
def post_init_without_its_base():
    class Model(nn.Module):
        width: int = 2

        def __post_init__(self):
            self.double = 2 * self.width

        def __call__(self, x):
            return x

    Model().init(key, x)


@raises(DescriptorAttributeError, "A property of Model", "no attribute 'layr'", "Did you mean 'layer'?")
def a_property_reads_what_is_not_there():
    class Model(nn.Module):
        def setup(self):
            self.layer = nn.Dense(2)

        @property
        def width(self):
            return self.layr.features

        def __call__(self, x):
            return self.layer(x) * self.width

    Model().init(key, x)


@raises(InvalidInstanceModuleError, "apply is called on", "model = Model(...); model.apply(...)")
def apply_on_the_class():
    nn.Dense.apply({}, x)


@raises(InvalidInstanceModuleError, "init is called on", "model = Model(...); model.init(...)")
def init_on_the_class():
    nn.Dense.init(key, x)


@raises(InvalidParentError, "Dense is given parent='encoder'", "Leave parent= out")
def a_name_as_a_parent():
    nn.Dense(2, parent="encoder")


@raises(MergeParamError, "The option 'deterministic' must be given once", "given in neither", "one of the two places")
def an_option_is_given_nowhere():
    nn.Dropout(0.5).apply({}, x, rngs={"dropout": key})


@raises(MergeParamError, "The option 'deterministic' must be given once", "given in both")
def an_option_is_given_twice():
    nn.Dropout(0.5, deterministic=True).apply({}, x, deterministic=False)


@raises(UnknownModuleAttributeError, "Model has no attribute 'widht'", "Did you mean 'width'?", "init, apply and bind")
def a_misspelt_field():
    class Model(nn.Module):
        width: int = 2

    return Model().widht


@raises(UnknownModuleAttributeError, "Model at /", "no attribute 'layr'", "Did you mean 'layer'?", "self.layr = ...")
def a_misspelt_layer():
    class Model(nn.Module):
        layer: Any

        def __call__(self, x):
            return self.layr(x)

    Model(nn.Dense(2)).init(key, x)


@raises(UnknownModuleAttributeError, "no attribute 'encod'", "Did you mean 'encode'?")
def a_misspelt_method():
    class Model(nn.Module):
        def encode(self, x):
            return x

    Model().apply({}, x, method="encod")
