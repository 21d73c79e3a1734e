"""Errors and warnings of training.

No optimiser, gradients of another tree, arguments that nobody takes, unknown collections; a folder that cannot be used;
a loop whose step, batches, metrics, data or saved run do not fit; arrays that a step has used up.
"""

from __future__ import annotations

from batiste.errors._base import BatisteError, BatisteWarning

__all__ = [
    "AdapterStateError",
    "BatchError",
    "CompileCacheWarning",
    "DataExhaustedError",
    "DataPositionError",
    "DataPositionWarning",
    "DeletedArrayError",
    "GradientsMismatchError",
    "LoopArgumentError",
    "LossError",
    "LossShapeError",
    "LossTransformError",
    "MetricError",
    "MetricShapeError",
    "MicroBatchError",
    "NoAverageError",
    "NoBatchError",
    "NonFiniteMetricError",
    "OptimizerArgumentError",
    "OptimizerStateError",
    "OptimizerTypeError",
    "PolicyError",
    "RunMismatchError",
    "StateArgumentError",
    "StateCallError",
    "StateCollectionError",
    "StepResultError",
    "UnsavedStepWarning",
]


class OptimizerTypeError(BatisteError, TypeError):
    """What was given as ``tx`` is no Optax transformation; also a ``TypeError``."""

    code = "train/no-optimizer"
    message = "{kind}.{method}() was given tx={given}, which is no optimiser: it has no {missing}."
    hint = "Give an Optax transformation, called with its settings: tx=optax.adam(1e-3)."


class StateArgumentError(BatisteError, TypeError):
    """A name is given to a train state that is neither a field nor an argument of ``tx``; also a ``TypeError``."""

    code = "train/no-such-argument"
    message = "{kind}.{method}() cannot take {name}=: {reason}."
    hint = "{advice}"


class StateCallError(BatisteError, TypeError):
    """A method of a train state lacks an argument, or is given one without its name; also a ``TypeError``."""

    code = "train/call"
    message = "{kind}.{method}() {problem}."
    hint = "Write {example}"


class OptimizerArgumentError(BatisteError, TypeError):
    """``tx`` needs an argument that ``apply_gradients`` was not given; also a ``TypeError``."""

    code = "train/optimizer-argument"
    message = "The optimiser of this {kind} cannot update without {names}."
    hint = "Pass it on: state.apply_gradients(grads=grads, {example})."


class OptimizerStateError(BatisteError, ValueError):
    """The state of the optimiser belongs to other parameters or to another optimiser; also a ``ValueError``."""

    code = "train/optimizer-state"
    message = "The opt_state of this {kind} is not that of its tx and its params: {difference}"
    hint = (
        "Build it of these parameters: state.replace(opt_state=state.tx.init(state.params)). "
        "A checkpoint of this optimiser and this model has one that fits, too."
    )


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
        "or one of another form, state.replace(collections=...)."
    )


class CompileCacheWarning(BatisteWarning):
    """The folder for compiled programs cannot be written, so that each run compiles its own."""


class LoopArgumentError(BatisteError, TypeError, ValueError):
    """An argument of a training loop cannot work; also a ``TypeError`` and a ``ValueError``."""

    code = "train/loop-argument"
    message = "The loop's `{name}` cannot be {value}: {reason}."
    hint = "{cure}"


class BatchError(BatisteError, TypeError):
    """A batch holds what no compiled step can take; also a ``TypeError``."""

    code = "train/batch"
    message = "The batch of step {step} cannot go into a step: {where} is {given}, and {reason}."
    hint = "{cure}"


class DeletedArrayError(BatisteError, RuntimeError):
    """An array is used again after a step has used it up; also a ``RuntimeError``."""

    code = "train/used-up"
    message = (
        "{where} has arrays that are no longer there: {paths}. A step took their memory for its result (donated it)."
    )
    hint = (
        "Go on with what that call returned: state = train.fit(step, state, ...). To keep a state, or variables that "
        "went into one, give a copy: jax.tree.map(jnp.copy, state)."
    )


class StepResultError(BatisteError, TypeError):
    """What a step returns cannot be the next state and the metrics; also a ``TypeError``."""

    code = "train/step-result"
    message = "The step {step} cannot be repeated: {problem}"
    hint = "Return (state, metrics), the state with the tree, the shapes and the dtypes that it came with."


class MetricError(BatisteError, ValueError):
    """A metric is no scalar, or has a name that is taken; also a ``ValueError``."""

    code = "train/metric"
    message = "{where} returns {path!r} among its metrics, which cannot be one: {reason}."
    hint = "Return a dict of real scalars, as jnp.mean(...) gives; whole arrays belong in the state or in a file."


class NonFiniteMetricError(BatisteError, ArithmeticError):
    """A metric of a step is NaN or infinite; also an ``ArithmeticError``."""

    code = "train/not-finite"
    message = "{metric!r} is {value} at step {step}, so training was stopped. {state}{saved}"
    hint = (
        "A rate that is too high, the logarithm of 0 or below, a division by 0 and a batch with NaN are the usual "
        'reasons; jax.config.update("jax_debug_nans", True) stops at the operation. `finite=False` lets such numbers '
        "pass."
    )


class DataExhaustedError(BatisteError, ValueError):
    """The data ends before the run does; also a ``ValueError``."""

    code = "train/data-exhausted"
    message = "The data has no batch after step {step}, and the run is to have {steps} steps."
    hint = "Let the data begin again, as .repeat() does for grain's, or give `steps=None` to train until it ends."


class DataPositionError(BatisteError, ValueError):
    """A run cannot go on because its data does not know where it was; also a ``ValueError``."""

    code = "train/data-position"
    message = "This run is to go on after step {step}, but its data cannot: {reason}."
    hint = (
        "Data that can go on is one of three: a function from the step to its batch; a grain loader or dataset whose "
        "sources print the same in each process; an iterator with get_state() and set_state(position)."
    )


class DataPositionWarning(BatisteWarning):
    """A run over this data is saved, but could not go on after an interruption."""


class RunMismatchError(BatisteError, ValueError):
    """The folder holds a run of another state; also a ``ValueError``."""

    code = "train/other-run"
    message = "{folder} holds another run: the state of its step {step} does not fit this one.\n{lines}"
    hint = "Give each run a folder of its own, or build the state as it was built for that run."


class UnsavedStepWarning(BatisteWarning):
    """A loop was left at a step that was to be saved, and its save has failed."""


class LossError(BatisteError, TypeError):
    """A loss function returns something else than a loss, or a loss and metrics; also a ``TypeError``."""

    code = "train/loss"
    message = "The loss function returned {problem}, and no step can be made of that."
    hint = (
        "Return the loss, a floating array of any shape whose mean is meant or a train.metrics.Mean; or a pair of it "
        "and a dict of metrics: return loss, {{'accuracy': right}}."
    )


class LossTransformError(BatisteError, ValueError):
    """A loss function calls its model in a transform of JAX, out of which changes cannot get; also a ``ValueError``."""

    code = "train/loss-transform"
    message = (
        "The loss function called the model within a transform of JAX, and the call changed {collections}: that cannot "
        "get out of it."
    )
    hint = "Change nothing in there, model(x, mutable=False), or use the lifted transforms of nn within the model."


class MicroBatchError(BatisteError, ValueError):
    """A batch cannot be cut into as many parts as gradients are accumulated over; also a ``ValueError``."""

    code = "train/micro-batch"
    message = "A batch cannot be cut into accumulate={count} equal parts: {problem}."
    hint = "Give each array of a batch the same number of examples, a multiple of {count}, along its first axis."


class PolicyError(BatisteError, ValueError):
    """A parameter is not held in the dtype that a policy says; also a ``ValueError``."""

    code = "train/policy"
    message = "The policy holds parameters in {wanted}, and {path!r} is {dtype}."
    hint = "Make them so, tree.cast(params, {wanted!r}), before the state is made; or leave params= out of the policy."


class NoAverageError(BatisteError, ValueError):
    """A state has no averaged parameters; also a ``ValueError``."""

    code = "train/no-average"
    message = "This {kind} has no averaged parameters: no step has kept any, and its optimiser is not schedule-free."
    hint = "Keep them: train.make_step(loss_fn, average=0.999)."


class MetricShapeError(BatisteError, ValueError):
    """Arrays cannot be measured by a metric, or metrics not be added; also a ``ValueError``."""

    code = "train/metric-shape"
    message = "{metric} cannot be computed: {problem}."
    hint = "{cure}"


class NoBatchError(BatisteError, ValueError):
    """An evaluation has no batch, and so no mean; also a ``ValueError``."""

    code = "train/no-batch"
    message = "train.evaluate() was given data without a batch."
    hint = "An iterator can be used once: give what makes one, such as the list or the loader."


class AdapterStateError(BatisteError, ValueError):
    """A train state has adapters where it must have none, or none where it must have some; also a ``ValueError``."""

    code = "train/adapters"
    message = "This state cannot be used here: {problem}."
    hint = "A state with adapters is made once, of a state without: train.lora(state, key, patterns, rank)."


class LossShapeError(BatisteError, ValueError):
    """Arrays do not fit a loss; also a ``ValueError``."""

    code = "train/loss-shape"
    message = "The loss cannot be computed: {problem}."
    hint = "Give hidden [..., features], kernel [features, vocabulary] and labels [...] of integers."
