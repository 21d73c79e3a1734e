# ruff: noqa: PLW0108 - models are written as their users write them, with lambdas
"""Scopes: variables that are not there, may not be written, or have another shape; missing streams."""

import jax
import jax.numpy as jnp

from batiste import core, nn
from batiste.errors import (
    ApplyScopeInvalidVariablesStructureError,
    ApplyScopeInvalidVariablesTypeError,
    InvalidFilterError,
    InvalidRngError,
    InvalidScopeError,
    JaxTransformError,
    LazyInitError,
    ModifyScopeVariableError,
    NameInUseError,
    ScopeCollectionNotFound,
    ScopeParamNotFoundError,
    ScopeParamShapeError,
    ScopeVariableNotFoundError,
    UnknownKeySchemeError,
)
from tests.errors.rows import key, raises, x


@raises(InvalidFilterError, "3 is no collection filter", "mutable=['batch_stats']")
def a_number_as_a_filter():
    nn.Dense(2).init(key, x, mutable=3)


@raises(InvalidRngError, "/Dropout_0", "needs the stream 'dropout'", "streams given are: 'dropuot'.", "'dropuot'?")
def a_stream_is_missing():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=False)(x)

    Model().apply({}, x, rngs={"dropuot": key})


@raises(InvalidRngError, "Dense", "'params' was given 0", "no random key")
def a_seed_as_a_key():
    nn.Dense(2).init(0, x)


@raises(InvalidRngError, "Dense", "the stream 'params' was given an array of shape (2,)")
def two_keys_as_one():
    nn.Dense(2).init(jax.random.split(key), x)


@raises(UnknownKeySchemeError, "key_scheme='seperated'", "Did you mean 'separated'?")
def a_misspelt_key_scheme():
    nn.Dense(2).init(key, x, key_scheme="seperated")


@raises(InvalidScopeError, "/Dense_0 is used after", "return arrays")
def a_module_leaks_out_of_its_call():
    layers = []

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers.append(nn.Dense(2))
            return layers[0](x)

    jax.jit(Model().init)(key, x)
    layers[0](x)


@raises(JaxTransformError, "/ writes 'count' in 'state'", "inside a JAX transform", "nn.jit")
def a_variable_is_written_within_jit():
    class Counter(nn.Module):
        @nn.compact
        def __call__(self, x):
            count = self.variable("state", "count", lambda: 0)

            @jax.jit
            def step(x):
                count.value += x.sum()
                return x

            return step(x)

    Counter().init(key, x)


@raises(NameInUseError, "a submodule 'layer'", "Model at /", "taken by a submodule Dense")
def one_name_for_two_layers():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="layer")(nn.Dense(2, name="layer")(x))

    Model().init(key, x)


@raises(NameInUseError, "a variable of params 'w'", "in /", "a variable of params")
def one_name_for_two_parameters_of_a_scope():
    def function(scope):
        scope.param("w", nn.initializers.ones, ())
        scope.param("w", nn.initializers.ones, ())

    core.init(function)(key)


@raises(ScopeParamNotFoundError, "/ has no parameter 'kernel'", "/ holds kernal", "'kernal'?", "params/kernel")
def a_misspelt_parameter():
    nn.Dense(2, use_bias=False).apply({"params": {"kernal": jnp.ones((3, 2))}}, x)


@raises(ScopeParamNotFoundError, "/encoder has no parameter", "/ holds encodr", "'encodr'?", "params/encoder/kernel")
def a_misspelt_layer():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="encoder")(x)

    Model().apply({"params": {"encodr": {}}}, x)


@raises(
    ApplyScopeInvalidVariablesTypeError, "a dict of collections", "as the collection 'kernel'", "{'params': params}"
)
def parameters_without_their_wrapper():
    layer = nn.Dense(2)
    variables = layer.init(key, x)
    layer.apply(variables["params"], x)


@raises(ScopeCollectionNotFound, "/ needs 'mean'", "'batch_stats'", "given: collections 'params'", "batch_stats': ...")
def a_collection_is_left_out():
    norm = nn.BatchNorm(use_running_average=True)
    variables = norm.init(key, x)
    norm.apply({"params": variables["params"]}, x)


@raises(ScopeCollectionNotFound, "/ needs 'kernel'", "no collections at all", "model.init(key, x)")
def no_variables():
    nn.Dense(2).apply({}, x)


@raises(ScopeCollectionNotFound, "/ needs 'kernel'", "The collection 'params' is empty")
def empty_variables():
    nn.Dense(2).apply({"params": {}}, x)


@raises(ScopeVariableNotFoundError, "/ has no variable 'index'", "'cache'", "/ holds idx", "mutable=['cache']")
def a_variable_is_missing():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.variable("cache", "index").value

    Model().apply({"cache": {"idx": 0}}, x)


@raises(ScopeParamShapeError, "'kernel' of /", "has shape (3, 2)", "with shape (4, 2)")
def inputs_of_another_size():
    layer = nn.Dense(2)
    variables = layer.init(key, x)
    layer.apply(variables, jnp.ones((2, 4)))


@raises(ModifyScopeVariableError, "/ writes", "'batch_stats'", "mutable=False", "mutable=['batch_stats'])")
def statistics_are_immutable():
    norm = nn.BatchNorm(use_running_average=False)
    variables = norm.init(key, x)
    norm.apply(variables, x)


@raises(ApplyScopeInvalidVariablesTypeError, "given an object of type Dense", "{'params': {...}}")
def a_module_as_variables():
    layer = nn.Dense(2)
    layer.apply(layer, x)


@raises(ApplyScopeInvalidVariablesTypeError, "a dict with the key 0")
def numbers_as_collections():
    nn.Dense(2).apply({0: {}}, x)


@raises(ApplyScopeInvalidVariablesStructureError, "wrapped twice", "{'params': {'params': ...}}")
def variables_are_wrapped_twice():
    layer = nn.Dense(2)
    variables = layer.init(key, x)
    layer.apply({"params": variables}, x)


@raises(LazyInitError, "Model cannot be initialised", "'stats/mean' is computed from the inputs", "Give init arrays")
def shapes_where_values_are_needed():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.variable("stats", "mean", lambda: x.mean())

    Model().init(key, jax.ShapeDtypeStruct((2, 3), jnp.float32))


@raises(LazyInitError, "Model cannot be initialised", "looks at values")
def shapes_where_python_decides():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x) if x.sum() > 0 else x

    Model().init(key, jax.ShapeDtypeStruct((2, 3), jnp.float32))


@raises(LazyInitError, "its output was asked for")
def shapes_for_an_output():
    nn.Dense(2).init_with_output(key, jax.ShapeDtypeStruct((2, 3), jnp.float32))


@raises(
    ScopeCollectionNotFound, "/ needs 'kernel'", "given: collections 'parms'", "'parms' is misspelt: write 'params'"
)
def a_misspelt_collection():
    layer = nn.Dense(2)
    variables = layer.init(key, x)
    layer.apply({"parms": variables["params"]}, x)


@raises(ScopeCollectionNotFound, "'params'", "collections 'batch_stats'", "variables = {**variables, **changed}")
def changed_collections_as_variables():
    norm = nn.BatchNorm(use_running_average=False)
    _, changed = norm.apply(norm.init(key, x), x, mutable=["batch_stats"])
    norm.apply(changed, x)


@raises(ScopeCollectionNotFound, "/VmapDense_0", "nn.vmap hands in", "variable_axes={'params': 0}", "{'params': None}")
def a_collection_that_vmap_is_not_told_of():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.vmap(nn.Dense, in_axes=0)(2)(x)

    Model().init(key, x)


@raises(InvalidRngError, "/VmapDense_0", "'params'", "nn.vmap hands in", "split_rngs={'params': True}")
def a_stream_that_vmap_is_not_told_of():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.vmap(nn.Dense, variable_axes={"params": 0}, in_axes=0)(2)(x)

    Model().init(key, x)


@raises(ModifyScopeVariableError, "'mean'", "nn.vmap hands nothing of it out", "'batch_stats' comes out of its body")
def a_collection_that_vmap_only_takes_in():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"params": None, "batch_stats": nn.In(None)}
            return nn.vmap(nn.BatchNorm, variable_axes=axes)(use_running_average=False)(x)

    variables = {"params": {}, "batch_stats": {"VmapBatchNorm_0": {"mean": x[0], "var": x[0]}}}
    params = {"VmapBatchNorm_0": {"scale": x[0, :1], "bias": x[0, :1]}}
    Model().apply({**variables, "params": params}, x[..., None], mutable=["batch_stats"])
