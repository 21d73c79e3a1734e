"""Errors and warnings of training.

No optimiser, gradients of another tree, arguments that nobody takes, unknown collections; a folder that cannot be used.
"""

from __future__ import annotations

from batiste.errors._base import BatisteError, BatisteWarning

__all__ = [
    "CompileCacheWarning",
    "GradientsMismatchError",
    "OptimizerArgumentError",
    "OptimizerTypeError",
    "StateArgumentError",
    "StateCollectionError",
]


class OptimizerTypeError(BatisteError, TypeError):
    """What was given as ``tx`` is no Optax transformation; also a ``TypeError``."""

    code = "train/no-optimizer"
    message = "{kind}.create() was given tx={given}, which is no optimiser: it has no {missing}."
    hint = "Give an Optax transformation, called with its settings: tx=optax.adam(1e-3)."


class StateArgumentError(BatisteError, TypeError):
    """A name is given to a train state that is neither a field nor an argument of ``tx``; also a ``TypeError``."""

    code = "train/no-such-argument"
    message = "{kind}.{method}() cannot take {name}=: {reason}."
    hint = "{advice}"


class OptimizerArgumentError(BatisteError, TypeError):
    """``tx`` needs an argument that ``apply_gradients`` was not given; also a ``TypeError``."""

    code = "train/optimizer-argument"
    message = "The optimiser of this {kind} cannot update without {names}."
    hint = "Pass it on: state.apply_gradients(grads=grads, {example})."


class GradientsMismatchError(BatisteError, ValueError):
    """Gradients, or the updates made of them, do not fit the parameters; also a ``ValueError``."""

    code = "train/gradients"
    message = "The gradients do not fit the parameters of this {kind}. {difference}"
    hint = "Differentiate with respect to state.params: jax.grad(loss)(state.params).{advice}"


class StateCollectionError(BatisteError, ValueError):
    """``apply_gradients`` is given a collection that the state does not hold; also a ``ValueError``."""

    code = "train/collection"
    message = "{kind}.apply_gradients(collections=...) was given {given}, but this state holds: {known}."
    hint = (
        "Let apply change what the state holds: mutable=list(state.collections).{nearest} To begin a new collection, "
        "state.replace(collections=...)."
    )


class CompileCacheWarning(BatisteWarning):
    """The folder for compiled programs cannot be written, so that each run compiles its own."""
