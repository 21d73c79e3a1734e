"""From a loss function to a training step: gradients, accumulation, precision, averages, all in one pure function.

A *loss function* takes a model to call and a batch, and returns the loss, ``[...]`` of all examples or tokens or their
mean, perhaps with a dict of metrics. ``make_step`` returns the step, ``(state, batch) -> (state, metrics)``, which does
what would else be written by hand each time:

* gradients are taken of the mean loss; with ``accumulate=k`` the batch is cut into k parts, whose gradients are added
  in one buffer, each weighted by how much its part of the loss counts, so that they are those of the whole batch;
* collections go through the calls of the model, and random streams are folded with the step and with the part;
* the model computes in the dtypes of the policy; in float16 the loss is scaled, by a scale that adapts itself;
* the optimiser is given what it asks for beside gradients: ``value``, ``grad``, ``value_fn``;
* an update that is not finite may be skipped; averages of the parameters are kept.

All that a step keeps is in the state (``TrainState.extras``): a step is a value without memory of its own.

Part i of a batch is its examples i, i + k, i + 2k, ...: neighbours lie on one device, so that each device cuts what it
has, and nothing is sent around.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp

from batiste._arguments import function, number, refused, whole_number
from batiste.dtypes import reduction_dtype
from batiste.errors import LossError, MicroBatchError
from batiste.train._metrics import SKIPPED_UPDATE
from batiste.train._model_call import ModelCall
from batiste.train._optimizer import named_arguments
from batiste.train._policy import AS_IT_IS, Policy, parse_policy
from batiste.train._state import AVERAGE, TrainState, is_overwritten, optimised, with_optimised
from batiste.train.metrics import Mean, Metric
from batiste.tree import flatten

__all__ = ["LossFunction", "Outcome", "Step", "make_step", "merged", "numbers", "outcome"]

LossFunction: TypeAlias = Callable[[ModelCall, Any], Any]
"""From a model to call and a batch to the loss, or to the loss and a dict of metrics."""

_SCALE: Final = "loss_scale"
_SKIPPED = "skipped"
_FIRST_SCALE: Final = 2.0**15
_PATIENCE = 2000  # finite steps before the scale is doubled, as in Micikevicius and others 2018, arXiv:1710.03740
_LEAST_SCALE: Final = 1.0


def make_step(
    loss_fn: LossFunction,
    *,
    accumulate: int = 1,
    average: float | None = None,
    policy: str | None = None,
    mutable: Sequence[str] | None = None,
    skip_nonfinite: bool = False,
) -> Step:
    """Return the training step of a loss function: pure, to be given to ``jax.jit``, ``train.fit`` or ``train.Loop``.

    The loss function is called with a model and a batch. ``model(x, train=model.train)`` calls the blueprint with all
    that the state holds. It returns the loss: a scalar, an array of the losses of all examples or tokens, whose mean is
    meant, or a ``train.metrics.Mean`` where some do not count. It may return a pair of it and a dict of metrics:
    scalars, arrays whose mean is meant, or metrics of ``train.metrics``.

    Args:
      loss_fn: the loss function; ``train.evaluate`` takes it as well.
      accumulate: into how many parts a batch is cut. The examples are along the first axis of each array, and their
        number is a multiple of it; numbers and arrays without axes go to every part.
      average: the decay of a moving average of the parameters, between 0 and 1: after each update the average is
        ``decay * average + (1 - decay) * params``. ``state.averaged_params()`` has it.
      policy: dtypes, as in ``"params=float32,compute=bfloat16"``; ``output=`` is float32 unless given. With
        ``compute=float16`` the loss is scaled, and steps whose gradients overflow are skipped.
      mutable: the collections that calls may change; None takes all that the state holds.
      skip_nonfinite: whether a step whose loss or gradients are not finite leaves all but its counter as it was. Such
        steps are counted in ``state.extras["skipped"]``, and the metric ``skipped_update`` is 1.

    Returns:
      The step. Its metrics are ``loss``, those of the loss function, and, where these options are on,
      ``skipped_update`` and ``loss_scale``.

    Raises:
      ArgumentError: an argument cannot work.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from batiste import nn, train
      >>> def loss_fn(model, batch):
      ...     x, y = batch
      ...     return (model(x) - y) ** 2
      >>> model, x, y = nn.Dense(1), jnp.ones((2, 3)), jnp.ones((2, 1))
      >>> state = train.TrainState.init(model, optax.sgd(0.1), jax.random.key(0), x)
      >>> state, metrics = jax.jit(train.make_step(loss_fn))(state, (x, y))
      >>> int(state.step), sorted(metrics)
      (1, ['loss'])
    """
    function(loss_fn, "loss_fn", "make_step", what="a function of a model and a batch")
    parts = whole_number(accumulate, "accumulate", "make_step", low=1)
    decay = None if average is None else float(number(average, "average", "make_step", above=0))
    if decay is not None and decay >= 1:
        advice = "A common decay is 0.999: the average is over about the last 1 / (1 - decay) steps."
        raise refused(average, "average", "make_step", "a decay between 0 and 1", advice)
    if isinstance(mutable, str):
        raise refused(mutable, "mutable", "make_step", "names of collections", f"Write mutable=[{mutable!r}].")
    if mutable is not None and not isinstance(cast("Any", mutable), Sequence):
        raise refused(mutable, "mutable", "make_step", "names of collections")
    names = None if mutable is None else tuple(mutable)
    if names is not None and not all(isinstance(name, str) for name in cast("tuple[Any, ...]", names)):
        raise refused(mutable, "mutable", "make_step", "names of collections")
    return Step(loss_fn, parts, decay, parse_policy(policy), names, skip_nonfinite)


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step, as ``make_step`` returns it: equal to another of the same loss function and the same options."""

    loss_fn: LossFunction
    accumulate: int = 1
    average: float | None = None
    policy: Policy = AS_IT_IS
    mutable: tuple[str, ...] | None = None
    skip_nonfinite: bool = False

    @property
    def __name__(self) -> str:
        return f"step_of_{getattr(self.loss_fn, '__name__', 'loss')}"

    def prepare(self, state: TrainState) -> TrainState:
        """Return the state with what this step keeps in ``extras``.

        ``train.fit`` and ``train.Loop`` do it by themselves. What is there stays as it
        is. A step that is given a state without it adds it, so that its result has another tree, once.

        Args:
          state: the state.

        Raises:
          PolicyError: a parameter is not in the dtype that the policy says.
        """
        self.policy.check(state.params)
        added: dict[str, Any] = {}
        if self.average is not None and AVERAGE not in state.extras:
            added[AVERAGE] = _map(_average_of, optimised(state.params))
        if self._skips and _SKIPPED not in state.extras:
            added[_SKIPPED] = jnp.zeros((), jnp.int32)
        if self._scales and _SCALE not in state.extras:
            added[_SCALE] = {"scale": jnp.full((), _FIRST_SCALE, jnp.float32), "finite": jnp.zeros((), jnp.int32)}
        return state.replace(extras={**state.extras, **added}) if added else state

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        """Return the next state and the metrics.

        Args:
          state: the state.
          batch: any tree of arrays.

        Raises:
          LossError: the loss function returns something else than a loss, or a loss and metrics.
          LossTransformError: the loss function calls the model within a transform, and the call changes a collection.
          MicroBatchError: the batch cannot be cut into ``accumulate`` parts.
        """
        state = self.prepare(state)
        scale = state.extras[_SCALE]["scale"] if self._scales else None
        grads, value, metrics, changed = self._gradients(state, batch, scale)
        if scale is not None:
            trained = _map(functools.partial(_unscaled, scale), optimised(grads))
            grads = with_optimised(grads, trained)
        extra = self._extra(state, batch, value, optimised(grads))
        after = state.apply_gradients(grads=grads, collections=changed, **extra)
        found = {"loss": value, **numbers(metrics)}
        if self.average is not None:
            average = _map(self._averaged, state.extras[AVERAGE], optimised(after.params))
            after = after.replace(extras={**state.extras, AVERAGE: average})
        if not self._skips:
            return after, found
        is_finite = jnp.isfinite(value)
        for grad in jax.tree.leaves(optimised(grads)):
            is_finite &= jnp.isfinite(grad).all()
        after = _chosen(is_finite, after, state.replace(step=after.step))
        extras = {**after.extras, _SKIPPED: state.extras[_SKIPPED] + jnp.where(is_finite, 0, 1)}
        found[SKIPPED_UPDATE] = jnp.where(is_finite, 0, 1).astype(jnp.float32)
        if scale is not None:
            extras[_SCALE] = _next_scale(state.extras[_SCALE], is_finite)
            found["loss_scale"] = scale
        return after.replace(extras=extras), found

    @property
    def _scales(self) -> bool:
        return self.policy.compute == "float16"

    @property
    def _skips(self) -> bool:
        return self.skip_nonfinite or self._scales

    def _averaged(self, average: Any, param: Any) -> Any:
        if not jnp.issubdtype(average.dtype, jnp.floating):
            return param
        decay = cast("float", self.average)
        return average + (1.0 - decay) * (param.astype(average.dtype) - average)

    def _call(self, state: TrainState, params: Any, collections: Any, rngs: Any) -> ModelCall:
        options: dict[str, Any] = {"policy": self.policy, "mutable": self.mutable, "collections": collections}
        return ModelCall(state, params, train=True, rngs=rngs, **options)

    def _gradients(self, state: TrainState, batch: Any, scale: Any) -> tuple[Any, Any, Any, Any]:
        """Return gradients, the mean loss, metrics and collections of a batch."""

        def objective(params: Any, part: Any, collections: Any, rngs: Any) -> tuple[Any, Any]:
            model = self._call(state, params, collections, rngs)
            found = outcome(self.loss_fn(model, part))
            return found.value if scale is None else found.value * scale, (found, model.changed)

        differentiated = cast("Any", jax.grad)(objective, has_aux=True)
        streams = state.step_rngs()
        if self.accumulate == 1:
            grads, (found, changed) = differentiated(state.params, batch, state.collections, streams)
            return grads, found.value, found.metrics, changed
        cut = _Parts(batch, self.accumulate)

        def of_part(params: Any, number: Any, collections: Any) -> tuple[Any, Any]:
            grads, (found, changed) = differentiated(params, cut.part(number), collections, _folded(streams, number))
            return grads, ((found.loss, found.metrics), changed)

        def added(carry: Any, number: Any) -> tuple[Any, None]:
            buffer, params, sums, collections = carry
            grads, (part, collections) = of_part(params, number, collections)
            weight = part[0].total()["weight"]
            buffer = _map(functools.partial(_weighted, weight), buffer, optimised(grads))
            if is_overwritten(params):  # what is overwritten goes from one part to the next
                params = with_optimised(grads, params["params"])
            return (buffer, params, merged(sums, part), collections), None

        shapes: Any = jax.eval_shape(of_part, state.params, 0, state.collections)
        start = (_buffer(optimised(state.params)), state.params, _empty(shapes[1][0]), state.collections)
        ended: Any = jax.lax.scan(added, start, jnp.arange(self.accumulate))[0]
        buffer, last, (loss, metrics), changed = ended
        weight = loss.total()["weight"]
        divisor = jnp.where(weight == 0, 1, weight)
        grads = _map(functools.partial(_divided, divisor), buffer, optimised(state.params))
        return with_optimised(last, grads), loss.total()["total"] / divisor, metrics, changed

    def _extra(self, state: TrainState, batch: Any, value: Any, grads: Any) -> dict[str, Any]:
        """Return what the optimiser asks for beside gradients."""
        wanted = named_arguments(state.tx.update)[0]
        streams = state.step_rngs() if "value_fn" in wanted else {}

        def loss_of(params: Any, part: Any, rngs: Any) -> Outcome:
            model = self._call(state, with_optimised(state.params, params), state.collections, rngs)
            return outcome(self.loss_fn(model, part))

        def value_fn(params: Any) -> Any:
            if self.accumulate == 1:
                return loss_of(params, batch, streams).value
            cut = _Parts(batch, self.accumulate)

            def added(total: Any, number: Any) -> tuple[Any, None]:
                return total.merge(loss_of(params, cut.part(number), _folded(streams, number)).loss), None

            first = jax.eval_shape(lambda: loss_of(params, cut.part(0), _folded(streams, 0)).loss)
            return jax.lax.scan(added, _empty(first), jnp.arange(self.accumulate))[0].compute()

        known = {"value": value, "grad": grads, "value_fn": value_fn}
        return {name: given for name, given in known.items() if name in wanted}


def _folded(streams: Mapping[str, Any], number: Any) -> dict[str, Any]:
    return {name: jax.random.fold_in(key, number) for name, key in streams.items()}


def _divided(divisor: Any, total: Any, own: Any) -> Any:
    return (total / divisor.astype(total.dtype)).astype(own.dtype)


def _unscaled(scale: Any, grad: Any) -> Any:
    return (grad.astype(jnp.float32) / scale).astype(grad.dtype)


def _weighted(weight: Any, total: Any, grad: Any) -> Any:
    return total + weight.astype(total.dtype) * grad.astype(total.dtype)


class _Parts:
    """A batch, cut into parts.

    Raises:
      MicroBatchError: an array has no multiple of ``count`` examples, or another number than the others.
    """

    def __init__(self, batch: Any, count: int) -> None:
        sizes = {path: jnp.shape(leaf)[0] for path, leaf in flatten(batch).items() if jnp.ndim(leaf) > 0}
        first = next(iter(sizes.items()), None)
        if first is None:
            raise MicroBatchError(count=count, problem="it has no array with a first axis")
        for path, size in sizes.items():
            if size != first[1]:
                problem = f"{_named(first[0])} has {first[1]} examples and {_named(path)} has {size}"
                raise MicroBatchError(count=count, problem=problem)
            if size == 0 or size % count:
                raise MicroBatchError(count=count, problem=f"{_named(path)} has {size} examples")
        self._batch, self._count = batch, count

    def part(self, number: Any) -> Any:
        """Return the examples ``number``, ``number + count``, ..."""

        def cut(leaf: Any) -> Any:
            if jnp.ndim(leaf) == 0:
                return leaf
            rows = jnp.reshape(leaf, (jnp.shape(leaf)[0] // self._count, self._count, *jnp.shape(leaf)[1:]))
            return cast("Any", rows)[:, number]

        return _map(cut, self._batch)


def _named(path: str) -> str:
    return repr(path) if path else "it"


class Outcome(NamedTuple):
    """What a loss function gave.

    Attributes:
      value: the mean loss, by the operation of hand-written code, so that both have the same bits.
      loss: the same as sums, to be added to that of other parts.
      metrics: metrics that add up, by name.
    """

    value: Any
    loss: Mean
    metrics: dict[str, Any]


def _map(function: Callable[..., Any], *trees: Any, **options: Any) -> Any:
    return cast("Any", jax.tree).map(function, *trees, **options)


def outcome(result: Any, rows: int = 1) -> Outcome:
    """Return what a loss function gave.

    Args:
      result: a loss, or a pair of a loss and a dict of metrics.
      rows: how much a scalar counts.

    Raises:
      LossError: it is something else.
    """
    loss, metrics = result, cast("Any", {})
    if isinstance(result, tuple):
        if len(cast("tuple[Any, ...]", result)) != 2:
            raise LossError(problem=f"a tuple of {len(cast('tuple[Any, ...]', result))}")
        loss, metrics = cast("tuple[Any, Any]", result)
    if not isinstance(metrics, Mapping):
        raise LossError(problem=f"a {type(metrics).__name__} in the place of the dict of metrics")
    measured = {
        name: _map(functools.partial(_measured, rows), entry, is_leaf=_is_metric)
        for name, entry in cast("Mapping[str, Any]", metrics).items()
    }
    if isinstance(loss, Mean):
        sums = {**loss.sums, "weight": jax.lax.stop_gradient(loss.sums["weight"])}
        mean = Mean(sums=sums, lost=loss.lost)
        total, weight = sums["total"], sums["weight"]
        return Outcome(total / jnp.where(weight == 0, 1, weight), mean, measured)
    if isinstance(loss, jax.Array) and jnp.issubdtype(loss.dtype, jnp.floating) and loss.size:
        value = loss if loss.ndim == 0 else jnp.mean(loss.astype(reduction_dtype(loss.dtype)))
        weight = jnp.full((), rows if loss.ndim == 0 else loss.size, reduction_dtype(loss.dtype))
        return Outcome(value, Mean.from_sums({"total": value * weight, "weight": weight}), measured)
    shown = f"an array {loss.shape} of {loss.dtype}" if isinstance(loss, jax.Array) else f"a {type(loss).__name__}"
    raise LossError(problem=f"{shown} in the place of the loss")


def _measured(rows: int, entry: Any) -> Any:
    if isinstance(entry, Metric):
        return entry
    if jnp.ndim(entry) > 0:
        return Mean.of(entry)
    weight = jnp.full((), rows, jnp.float32)
    return Mean.from_sums({"total": jnp.asarray(entry, jnp.float32) * weight, "weight": weight})


def _pair_merged(one: Any, other: Any) -> Any:
    return one.merge(other)


def _computed(metric: Any) -> Any:
    return metric.compute()


def _zeros_of(leaf: Any) -> Any:
    return jnp.zeros(leaf.shape, leaf.dtype)


def _is_metric(node: Any) -> bool:
    return isinstance(node, Metric)


def merged(one: Any, other: Any) -> Any:
    """Return trees of metrics added up."""
    return _map(_pair_merged, one, other, is_leaf=_is_metric)


def numbers(metrics: Any) -> Any:
    """Return what metrics stand for."""
    return _map(_computed, metrics, is_leaf=_is_metric)


def _empty(tree: Any) -> Any:
    return _map(_zeros_of, tree)


def _buffer(params: Any) -> Any:
    """Return zeros to add gradients in, in float32 at least; XLA places each as its parameter is (there is a test)."""

    def empty(param: Any) -> Any:
        return jnp.zeros(jnp.shape(param), reduction_dtype(param.dtype))

    return _map(empty, params)


def _average_of(param: Any) -> Any:
    if not jnp.issubdtype(param.dtype, jnp.floating):
        return jnp.copy(param)
    return jnp.copy(param).astype(reduction_dtype(param.dtype))


def _chosen(condition: Any, one: Any, other: Any) -> Any:
    return _map(functools.partial(jnp.where, condition), one, other)


def _next_scale(held: Mapping[str, Any], is_finite: Any) -> dict[str, Any]:
    """Return the scale of the next step: half of it after an overflow, twice of it after many steps without."""
    count = jnp.where(is_finite, held["finite"] + 1, 0)
    is_due = count >= _PATIENCE
    lower = jnp.maximum(held["scale"] / 2, _LEAST_SCALE)
    scale = jnp.where(is_finite, jnp.where(is_due, held["scale"] * 2, held["scale"]), lower)
    return {"scale": scale, "finite": jnp.where(is_due, 0, count)}
