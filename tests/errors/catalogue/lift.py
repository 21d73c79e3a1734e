"""Lifted transforms: what is lifted, how axes are named, and what a body may write."""

import jax.numpy as jnp

from batiste import nn
from batiste.errors import (
    BranchVariablesError,
    LiftAxisSizeError,
    LiftedMethodError,
    LoopVariableError,
    MixedCallsError,
    ScanBodyError,
    ScanCarryError,
    SeveralScopesError,
    SharedVariableError,
    SownInVainError,
    SplitStreamError,
    TransformedMethodReturnValueError,
    TransformedModuleError,
    TransformTargetError,
)
from tests.errors.rows import key, raises, x


@raises(
    TransformTargetError,
    "vmap lifts a Module class or a function",
    "an object of type Dense",
    "vmap(Dense, ...)(features)",
)
def an_instance_is_lifted():
    nn.vmap(nn.Dense(2))


@raises(TransformedModuleError, "vmap(", "needs a bound module")
def a_lifted_function_without_a_module():
    nn.vmap(lambda module, x: module(x))(nn.Dense(2), x)


@raises(MixedCallsError, "different calls", "/")
def modules_of_two_calls():
    other = nn.Dense(2).bind(nn.Dense(2).init(key, x))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(lambda module, other, x: other(x))(self, other, x)

    Model().init(key, x)


@raises(LiftAxisSizeError, "vmap over /VmapDense_0", "2 in_axes for 1 arguments")
def more_axes_than_arguments():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=(0, 0))
            return layers(2)(x)

    Model().init(key, x)


@raises(LoopVariableError, "while_loop over /", "state/count")
def a_loop_makes_a_variable():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            def body(module, carry):
                module.variable("state", "count", lambda: 0)
                return carry + 1

            return nn.while_loop(lambda module, carry: carry < 3, body, self, 0, carry_variables="state")

    Model().apply({}, x, mutable=["state"])


@raises(BranchVariablesError, "cond over /", "state/a")
def branches_write_different_variables():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            def first(module, x):
                module.put_variable("state", "a", x)
                return x

            return nn.cond(x.sum() > 0, first, lambda module, x: x, self, x)

    Model().apply({}, jnp.ones(3), mutable=["state"])


@raises(ScanBodyError, "scan over /", "is called without a carry", "scan(Block)()(x, None)")
def a_scan_without_a_carry():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x, None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.scan(Block, length=2)()()

    Model().init(key, x)


@raises(ScanBodyError, "scan over /", "returns an array of shape (2, 3)", "returns (carry, outputs)")
def a_body_without_outputs():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            return nn.Dense(3)(carry)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            return blocks()(x, None)

    Model().init(key, x)


@raises(SeveralScopesError, "vjp over /", "several places", "multi_scope=True")
def gradients_by_two_modules():
    class Inner(nn.Module):
        other: nn.Module

        @nn.compact
        def __call__(self, x):
            return nn.vjp(lambda module, x: module.other(x), self, x)[0]

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Inner(nn.Dense(2))(x)

    Model().init(key, x)


@raises(SharedVariableError, "vmap over /", "params", "variable_axes")
def different_parameters_in_one_place():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.vmap(nn.Dense, variable_axes={"params": None}, split_rngs={"params": True})
            return layers(2)(x[None])

    Model().init(key, jnp.ones((2, 3)))


@raises(LiftedMethodError, "vmap(Dense, methods=...)", "'__cal__', which is not there.", "Did you mean '__call__'?")
def a_misspelt_method_is_lifted():
    nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, methods=["__cal__"])


@raises(LiftedMethodError, "vmap(Dense, methods=...)", "'in_axis' for '__call__'", "Did you mean 'in_axes'?")
def a_misspelt_option_of_a_method():
    nn.vmap(nn.Dense, variable_axes={"params": 0}, methods={"__call__": {"in_axis": 0}})


@raises(TransformedMethodReturnValueError, "a transform over /", "returns a Dense", "outside of the transform")
def a_body_returns_a_module():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.remat(lambda module, x: nn.Dense(2))(self, x)(x)

    Model().init(key, x)


@raises(TransformTargetError, "scan lifts a Module class or a function", "an object of type type")
def a_class_that_is_no_module_is_lifted():
    nn.scan(dict)


@raises(TransformedModuleError, "cond(", "an unbound Dense")
def a_conditional_over_an_unbound_module():
    nn.cond(True, lambda module, x: x, lambda module, x: x, nn.Dense(2), x)


@raises(TransformedModuleError, "vmap(", "no arguments")
def a_lifted_function_without_arguments():
    nn.vmap(lambda module: module)()


def model_of(body):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return body(self, x)

    return Model()


OWN = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}


class Block(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        return nn.Dense(3)(carry), None


@raises(LiftAxisSizeError, "vmap over /", "no argument and no variable", "Give axis_size=")
def a_map_without_a_size():
    model_of(lambda _, x: nn.vmap(nn.Dense, in_axes=None, **OWN)(2)(x)).init(key, x)


@raises(LiftAxisSizeError, "scan over /", "no argument and no variable", "Give length=")
def a_loop_without_a_length():
    model_of(lambda _, x: nn.scan(Block, **OWN)()(x, None)).init(key, x)


@raises(LiftAxisSizeError, "scan over /", "the extents 2, 3", "Give length=")
def a_loop_of_two_lengths():
    inputs = {"a": jnp.ones(2), "b": jnp.ones(3)}
    model_of(lambda _, x: nn.scan(Block, **OWN)()(x, inputs)).init(key, x)


@raises(LiftAxisSizeError, "vmap over /", "the axis 2 asked of an array of shape", "Give None")
def an_axis_that_is_not_there():
    model_of(lambda _, x: nn.vmap(nn.Dense, in_axes=2, **OWN)(2)(x)).init(key, jnp.ones((2, 3)))


@raises(LiftAxisSizeError, "remat_scan over Dense", "1 metadata_params for 2 loops", "one for each of lengths")
def fewer_names_than_loops():
    nn.remat_scan(nn.Dense, lengths=(2, 2), metadata_params=[{nn.PARTITION_NAME: "layers"}])


@raises(SharedVariableError, "scan over /", "state/x", "variable_carry")
def a_loop_writes_what_steps_share():
    def body(module, carry, x):
        module.put_variable("state", "x", x)
        return carry, None

    loop = nn.scan(body, variable_broadcast="state")
    model_of(lambda module, x: loop(module, x, jnp.arange(3))).apply({"state": {"x": 0}}, x, mutable=["state"])


@raises(LoopVariableError, "scan over /", "state/count")
def a_loop_carries_what_is_not_there():
    def body(module, carry):
        module.variable("state", "count", lambda: 0)
        return carry, None

    loop = nn.scan(body, variable_carry="state", length=2)
    model_of(loop).apply({}, x, mutable=["state"])


@raises(BranchVariablesError, "switch over /", "state/a")
def branches_of_a_switch_write_different_variables():
    def first(module, x):
        module.put_variable("state", "a", x)
        return x

    branches = [first, lambda module, x: x]
    model_of(lambda module, x: nn.switch(0, branches, module, x)).apply({}, jnp.ones(3), mutable=["state"])


class Holder(nn.Module):
    other: nn.Module

    @nn.compact
    def __call__(self, x, derivative):
        return derivative(self, x)


def held(derivative):
    return model_of(lambda _, x: Holder(nn.Dense(2))(x, derivative))


@raises(SeveralScopesError, "jvp over /", "several places", "pass yourself")
def tangents_of_two_modules():
    held(lambda holder, x: nn.jvp(lambda module, x: module.other(x), holder, (x,), (x,), {})).init(key, x)


@raises(SeveralScopesError, "custom_vjp over /", "several places", "owns what it uses")
def a_gradient_of_its_own_for_two_modules():
    custom = nn.custom_vjp(lambda module, x: module.other(x), lambda module, x: (x, None), lambda _, cotangent: None)
    held(custom).init(key, x)


@raises(ScanCarryError, "/ScanBlock_0", "a carry float32[2,3] and returns float32[2,9]", "before or after the scan")
def a_body_that_changes_its_carry():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(9)(x), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)

    Model().init(key, x)


@raises(SownInVainError, "/ScanBody_0 sows 'h' into 'intermediates'", "scan", "variable_axes={'intermediates': 0}")
def sown_in_a_scan_that_does_not_lift_it():
    class Body(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            self.sow("intermediates", "h", x)
            return carry, x

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.scan(Body)()((), x)

    Model().apply({}, x, mutable=["intermediates"])


@raises(SplitStreamError, "/Dropout_0 draws a key of 'dropout' inside the body of scan", "pass it in")
def dropout_from_outside_of_a_scan():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            drop = nn.Dropout(0.5, deterministic=False)
            return nn.scan(lambda module, carry, x: (carry, drop(x)), split_rngs={"dropout": True})(self, (), x)

    Model().apply({}, x, rngs={"dropout": key})
