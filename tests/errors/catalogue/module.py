"""Modules: used unbound, changed after construction, or made where nothing may be made."""

from typing import Any

import jax
import jax.numpy as jnp

from batiste import nn
from batiste.errors import (
    AdoptedNameWarning,
    ApplyModuleInvalidMethodError,
    AssignSubModuleError,
    BlueprintAsArrayError,
    BoundHashError,
    CallCompactUnboundModuleError,
    CallSetupUnboundModuleError,
    CallShareScopeOnUnboundModuleError,
    CallUnbindOnUnboundModuleError,
    CallUnboundModuleError,
    CollectionNameWarning,
    DescriptorAttributeError,
    ExtraArgumentsError,
    IncorrectPostInitOverrideError,
    InvalidInstanceModuleError,
    InvalidParentError,
    LayerInputError,
    MergeParamError,
    MissingFieldsError,
    ModuleListError,
    ModuleNotCallableError,
    ModuleResultWarning,
    PerturbationError,
    ReservedModuleAttributeError,
    SetAttributeFrozenModuleError,
    SetAttributeInModuleSetupError,
    TracedFlagError,
    UnknownFieldError,
    UnknownModuleAttributeError,
    UnreachedWarning,
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


@raises(
    MergeParamError,
    "Dropout at /: the option 'deterministic'",
    "given in neither",
    "Dropout(..., deterministic=not train)",
)
def an_option_is_given_nowhere():
    nn.Dropout(0.5).apply({}, x, rngs={"dropout": key})


@raises(MergeParamError, "the option 'deterministic' must be given once", "given in both", "Leave deterministic= out")
def an_option_is_given_twice():
    nn.Dropout(0.5, deterministic=True).apply({}, x, deterministic=False)


@raises(ModuleNotCallableError, "Model at / is called, but has no attribute '__call__'", "method='forward'")
def a_method_that_is_not_called_call():
    class Model(nn.Module):
        @nn.compact
        def forward(self, x):
            return nn.Dense(2)(x)

    Model().init(key, x)


@raises(ModuleNotCallableError, "Encoder at /enc is called", "write .encode(...)")
def a_submodule_whose_method_is_not_called_call():
    class Encoder(nn.Module):
        @nn.compact
        def encode(self, x):
            return nn.Dense(2)(x)

    class Model(nn.Module):
        def setup(self):
            self.enc = Encoder()

        def __call__(self, x):
            return self.enc(x)

    Model().init(key, x)


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


@raises(CallCompactUnboundModuleError, "Dense.__call__", "outside of Model at /", "layer: nn.Module, and self.layer(x)")
def a_layer_from_outside():
    layer = nn.Dense(2)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layer(x)

    Model().init(key, x)


@raises(CallCompactUnboundModuleError, "setup of Model at / has made it", "self.layers = [Dense(...), ...]")
def a_layer_put_into_a_dict_of_setup():
    class Model(nn.Module):
        def setup(self):
            self.layers = {}
            self.layers["first"] = nn.Dense(2)

        def __call__(self, x):
            return self.layers["first"](x)

    Model().init(key, x)


@raises(CallCompactUnboundModuleError, "Model has it as 'layer' from its construction", "self.layer = Dense(...)")
def a_layer_of_a_constructor():
    class Model(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layer = nn.Dense(width)

        def __call__(self, x):
            return self.layer(x)

    Model(2).init(key, x)


@raises(IncorrectPostInitOverrideError, "Model.__init__", "super().__init__()", "fields of Model", "without __init__")
def a_constructor_without_its_base():
    class Model(nn.Module):
        def __init__(self, width):
            self.width = width

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x)

    Model(2).init(key, x)


@raises(ModuleListError, "Model at / calls self.layers.append", "become tuples", "self.layers = layers")
def a_list_is_appended_to_in_setup():
    class Model(nn.Module):
        def setup(self):
            self.layers = []
            self.layers.append(nn.Dense(2))

        def __call__(self, x):
            return self.layers[0](x)

    Model().init(key, x)


@raises(UnknownFieldError, "Dense has no field 'feature'", "Did you mean 'features'?", "use_bias")
def a_misspelt_argument():
    nn.Dense(feature=2)


@raises(MissingFieldsError, "Embed was not given 'features'", "Embed(num_embeddings=..., features=...)")
def a_field_is_left_out():
    nn.Embed(10)


@raises(ExtraArgumentsError, "Sequential takes 1 arguments by position (layers)", "given 2", "Sequential([a, b])")
def layers_without_brackets():
    nn.Sequential(nn.Dense(2), nn.relu)


@raises(
    LayerInputError, "Model at /", "LayerNorm was given float32[2,3] as its field epsilon: float", "LayerNorm(...)(x)"
)
def a_layer_is_given_its_input_where_it_is_made():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.LayerNorm(x)

    Model().init(key, x)


@raises(LayerInputError, "Sequential at /", "Dense was given float32[2,3] as its field features: int", "Dense(...)(x)")
def a_class_in_place_of_a_layer():
    nn.Sequential([nn.Dense, nn.relu]).init(key, x)


@raises(BlueprintAsArrayError, "the module Dense", "static_argnums=0", "Dense(...)(x)")
def a_blueprint_as_an_argument_of_jit():
    jax.jit(lambda model, variables: model.apply(variables, x))(nn.Dense(2), {})


@raises(TracedFlagError, "Dropout at /drop", "'deterministic'", "bool[]", "make that argument static")
def a_flag_that_jit_traces():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dropout(0.5, deterministic=~train, name="drop")(x)

    jax.jit(Model().apply)({}, x, True, rngs={"dropout": key})


@raises(
    PerturbationError, "Model at /", "'h'", "'perturbations'", "shape (2, 3), the value (5, 3)", "model.init(key, x)"
)
def a_perturbation_of_another_batch():
    class Model(nn.Module):
        def __call__(self, x):
            return self.perturb("h", x)

    Model().apply(Model().init(key, x), jnp.ones((5, 3)))


@raises(PerturbationError, "Model at /", "cannot perturb 'h'", "the collection holds 'other' for this module")
def a_perturbation_that_is_not_there():
    class Model(nn.Module):
        def __call__(self, x):
            return self.perturb("h", x)

    Model().apply({"perturbations": {"other": x}}, x)


@raises(AdoptedNameWarning, "Model at /", "the name 'head' of the Dense", "'layer'", "preserve_adopted_names = True")
def a_named_layer_is_passed_in():
    class Model(nn.Module):
        layer: nn.Module

        def __call__(self, x):
            return self.layer(x)

    Model(nn.Dense(2, name="head")).init(key, x)


@raises(ModuleResultWarning, "Model at / returns a module, Dense", "Dense(...)(x)")
def a_layer_is_not_called():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(x.shape[-1])

    Model().init(key, x)


@raises(UnreachedWarning, "no variables for 'decoder' (Dense)", "used by decode: add ('decode', ...) to calls")
def a_method_that_no_call_reaches():
    class Model(nn.Module):
        def setup(self):
            self.encoder, self.decoder = nn.Dense(2), nn.Dense(3)

        def encode(self, x):
            return self.encoder(x)

        def decode(self, z):
            return self.decoder(z)

    Model().init(key, calls=[("encode", x)])


@raises(CollectionNameWarning, "'intermediate'", "Did you mean 'intermediates'?")
def a_misspelt_collection_in_mutable():
    nn.Dropout(0.0, deterministic=True).apply({}, x, mutable=["intermediate"])


@raises(BoundHashError, "Dense at /", "is hashed", "nn.jit", "model.unbind()[0]")
def a_bound_module_as_a_key():
    return {nn.Dense(2).bind({}): "head"}
