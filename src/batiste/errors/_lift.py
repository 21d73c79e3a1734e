"""Errors of lifted transforms: what is lifted, how axes are named, and what a body may write."""

from __future__ import annotations

from batiste.errors._base import BatisteError

__all__ = [
    "BranchVariablesError",
    "LiftAxisSizeError",
    "LiftedMethodError",
    "LoopVariableError",
    "MixedCallsError",
    "ScanBodyError",
    "ScanCarryError",
    "SeveralScopesError",
    "SharedVariableError",
    "TransformTargetError",
    "TransformedMethodReturnValueError",
    "TransformedModuleError",
]


class TransformTargetError(BatisteError, TypeError):
    """A lifted transform is given something that is neither a Module class nor a function."""

    code = "lift/target"
    flax_arguments = ("target",)
    message = "{transform} lifts a Module class or a function whose first argument is a module; it was given {given}."
    hint = (
        "Lift the class, {transform}(Dense, ...)(features), or a function, "
        "{transform}(lambda module, x: ...)(module, x)."
    )


class TransformedModuleError(BatisteError, TypeError):
    """The function that a lifted transform made is called without a bound module."""

    code = "lift/no-module"
    message = "{transform}({function}) is called with {given} where it needs a bound module as its first argument."
    hint = "Call it inside of a compact method or setup, with self or a submodule first: {transform}(fn)(self, x)."


class TransformedMethodReturnValueError(BatisteError, TypeError):
    """The body of a lifted transform returns a module or a variable, which ends with the body."""

    code = "lift/returns-module"
    message = "The body of a transform over {path} returns a {given}, which belongs to the body and ends with it."
    hint = "Return arrays; make a module that is used afterwards outside of the transform, and pass it in."


class MixedCallsError(BatisteError, ValueError):
    """Modules of different ``init`` or ``apply`` calls are lifted together."""

    code = "lift/mixed-calls"
    message = "{transform} is given modules that belong to different calls of init or apply: {paths}."
    hint = "Pass modules of one call; give variables of the other call as arrays."


class LiftAxisSizeError(BatisteError, ValueError, IndexError):
    """The extent of the lifted axis is unknown, or differs between inputs."""

    code = "lift/axis-size"
    message = "{transform} over {path} finds {problem}."
    hint = "{advice}"


class LiftedMethodError(BatisteError, TypeError, AttributeError):
    """A method that is to be lifted does not exist, or gets an option that the transform does not take."""

    code = "lift/method"
    message = "{transform}({target}, methods=...) names {problem}.{nearest}"
    hint = (
        "Write methods=['__call__', 'encode'], or methods={{'encode': {{'in_axes': (0, None)}}}} with its own options."
    )


class LoopVariableError(BatisteError, TypeError):
    """The body of a loop makes a variable that the loop would have to carry from its beginning."""

    code = "lift/loop-variable"
    message = "The body of {transform} over {path} makes {names}, which the loop carries but does not find beforehand."
    hint = "Make it before the loop: run the body once by itself on init, or call self.variable outside."


class ScanBodyError(BatisteError, TypeError):
    """The body of a scan does not take a carry, or does not return a pair."""

    code = "lift/scan-body"
    message = "The body of scan over {path} {problem}; it takes (module, carry, *inputs) and returns (carry, outputs)."
    hint = "Let it return `carry, None` where there are no outputs, and call it with a carry: scan(Block)()(x, None)."


class ScanCarryError(BatisteError, TypeError):
    """The body of a scan returns another carry than it was given, so the next step cannot take it."""

    code = "lift/scan-carry"
    message = "The body of scan over {path} was given a carry {expected} and returns {given}."
    hint = "Let the body keep the shapes and dtypes of its carry; put what changes them before or after the scan."


class SeveralScopesError(BatisteError, NotImplementedError):
    """Gradients are taken by variables of a module that holds modules from elsewhere."""

    code = "lift/several-scopes"
    message = "{transform} over {path} would have to return gradients by variables in several places: {paths}."
    hint = "{advice}"


class SharedVariableError(BatisteError, ValueError):
    """The calls of a body write different values of a variable that they share."""

    code = "lift/shared-variable"
    message = "The calls of {transform} over {path} share {names}, and each makes a value of its own of it."
    hint = "Give it an axis ({options}), or do not split the random stream that it is drawn from."


class BranchVariablesError(BatisteError, TypeError):
    """The branches of a conditional make different variables."""

    code = "lift/branches"
    message = "The branches of {transform} over {path} make different variables: {names} in some but not in all."
    hint = "Make them before the conditional: on init, call each branch's module once outside of it."
