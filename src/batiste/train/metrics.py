"""Metrics that add up: over batches, micro-batches, devices and processes, in any order, without bias.

A mean of means is wrong as soon as the parts have different sizes, and so is any average of F1 scores. Each metric here
is therefore a pytree of *sums* (counts, totals, histograms), of which the number is computed once at the end. ``of``
measures arrays, ``merge`` adds, ``compute`` gives the number; ``jax.lax.psum`` over a metric adds it over devices, and
``across_processes`` over processes.

In single precision a count stops at 2**24, and a long total loses its small terms. So beside each sum is what rounding
has cut off from it, and ``merge`` adds the two without loss (Knuth's two-sum, The Art of Computer Programming,
volume 2, 4.2.2). On the host, where ``train.evaluate`` adds, sums are in double precision.

Libraries were looked at: clu has not been released since 2024 and google-metrax is made of it; both bring Flax with
them, and neither keeps what rounding cuts off.
"""

from __future__ import annotations

from typing import Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import array, choice, number, whole_number
from batiste.dtypes import reduction_dtype
from batiste.errors import MetricShapeError
from batiste.struct import PyTreeNode, field
from batiste.typing import Array, ArrayLike

__all__ = [
    "AUROC",
    "Accuracy",
    "Calibration",
    "ConfusionMatrix",
    "F1",
    "Mean",
    "Metric",
    "Perplexity",
    "TopK",
    "across_processes",
]


class Metric(PyTreeNode):
    """Sums of which a number is computed.

    A metric of your own is a subclass with ``compute``, and a class method that makes it with ``from_sums``.

    Attributes:
      sums: arrays by name.
      lost: what rounding has cut off from each.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import metrics
      >>> class Share(metrics.Metric):
      ...     def compute(self):
      ...         return self.total()["good"] / self.total()["all"]
      >>> one = Share.from_sums({"good": jnp.array(1.0), "all": jnp.array(2.0)})
      >>> two = Share.from_sums({"good": jnp.array(2.0), "all": jnp.array(2.0)})
      >>> float(one.merge(two).compute())
      0.75
    """

    sums: dict[str, Any]
    lost: dict[str, Any]

    @classmethod
    def from_sums(cls, sums: dict[str, Any], **options: Any) -> Self:
        """Return the metric of these sums.

        Args:
          sums: arrays by name.
          **options: the fields that the class adds.
        """
        return cls(sums=sums, lost=_map(jnp.zeros_like, sums), **options)

    def merge(self, other: Self) -> Self:
        """Return the metric of both parts together.

        Args:
          other: a metric of the same kind, with the same options.

        Raises:
          MetricShapeError: it is another one.
        """
        if type(self) is not type(other) or jax.tree.structure(self) != jax.tree.structure(other):
            problem = f"{_named(self)} cannot be added to {_named(other)}"
            raise MetricShapeError(metric=type(self).__name__, problem=problem, cure="Add metrics of the same kind.")
        sums: dict[str, Any] = {}
        lost: dict[str, Any] = {}
        for name, mine in self.sums.items():
            sums[name], cut = _two_sum(mine, other.sums[name])
            lost[name] = self.lost[name] + other.lost[name] + cut
        return self.replace(sums=sums, lost=lost)

    def compute(self) -> Any:
        """Return the number, or the array, that the sums stand for."""
        return self.total()

    def total(self) -> dict[str, Any]:
        """Return the sums, with what rounding has cut off."""
        return {name: value + self.lost[name] for name, value in self.sums.items()}

    def on_host(self) -> Self:
        """Return the metric as arrays of NumPy in double precision, to which any number of others can be added."""
        return _map(_double, jax.device_get(self))


class Mean(Metric):
    """A weighted mean.

    As the loss of ``make_step`` it says how much each micro-batch counts: the number of its tokens, say.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import metrics
      >>> losses, is_token = jnp.array([1.0, 2.0, 9.0]), jnp.array([1, 1, 0])
      >>> metrics.Mean.of(losses, where=is_token).compute().item()
      1.5
    """

    @classmethod
    def of(cls, values: ArrayLike, where: ArrayLike | None = None) -> Self:
        """Return the mean of all values.

        Args:
          values: ``[...]``, real.
          where: weights, or true where a value counts; of the shape of ``values``, or of its first axes. Values of
            weight 0 may be anything, NaN as well.

        Raises:
          ArgumentError: one of them is no array.
          MetricShapeError: ``where`` does not fit.
        """
        return _mean(cls, values, where)

    def compute(self) -> Any:
        """Return the mean; NaN where nothing was counted."""
        sums = self.total()
        return _ratio(sums["total"], sums["weight"])


class Perplexity(Mean):
    """The exponential of the mean loss: ``Perplexity.of(losses, where=is_token)``, in nats per token.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import metrics
      >>> losses = jnp.log(jnp.array([4.0, 4.0]))
      >>> round(metrics.Perplexity.of(losses).compute().item(), 3)
      4.0
    """

    def compute(self) -> Any:
        """Return the perplexity."""
        mean: Any = super().compute()
        return np.exp(mean) if _library(mean) is np else jnp.exp(mean)


class Accuracy(Mean):
    """The share of examples whose highest logit is that of the label.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import metrics
      >>> logits, labels = jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])
      >>> metrics.Accuracy.of(logits, labels).compute().item()
      0.5
    """

    @classmethod
    def of(cls, logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None = None) -> Self:  # type: ignore[override]
        """Return the accuracy; of equal logits the first counts.

        Args:
          logits: ``[..., classes]``.
          labels: ``[...]``, integers; one beyond the classes is not hit.
          where: weights, or true where an example counts: ``[...]``.

        Raises:
          ArgumentError: one of them is no array.
          MetricShapeError: shapes do not fit.
        """
        return _hits(cls, logits, labels, where, 1)


class TopK(Mean):
    """The share of examples whose label is among the ``k`` highest logits.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import metrics
      >>> logits = jnp.array([[0.1, 0.3, 0.6], [0.8, 0.2, 0.0]])
      >>> metrics.TopK.of(logits, jnp.array([1, 2]), k=2).compute().item()
      0.5
    """

    @classmethod
    def of(cls, logits: ArrayLike, labels: ArrayLike, k: int, where: ArrayLike | None = None) -> Self:  # type: ignore[override]
        """Return the accuracy; of equal logits the first count.

        Args:
          logits: ``[..., classes]``.
          labels: ``[...]``, integers; one beyond the classes is not hit.
          k: how many of the highest logits count, from 1 on.
          where: weights, or true where an example counts: ``[...]``.

        Raises:
          ArgumentError: ``k`` is no such number, or one of the others no array.
          MetricShapeError: shapes do not fit.
        """
        return _hits(cls, logits, labels, where, whole_number(k, "k", "TopK.of", low=1))


class ConfusionMatrix(Metric):
    """How often each class was taken for each: ``[label, prediction]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import metrics
      >>> predictions, labels = jnp.array([0, 1, 1]), jnp.array([0, 0, 1])
      >>> metrics.ConfusionMatrix.of(predictions, labels, classes=2).compute().tolist()
      [[1.0, 1.0], [0.0, 1.0]]
    """

    @classmethod
    def of(
        cls, predictions: ArrayLike, labels: ArrayLike, classes: int, where: ArrayLike | None = None, **options: Any
    ) -> Self:
        """Return the counts.

        Args:
          predictions: ``[...]``, integers from 0 to ``classes - 1``; for logits, ``logits.argmax(-1)``.
          labels: ``[...]``, the same. What is beyond the classes is not counted.
          classes: how many there are.
          where: weights, or true where an example counts: ``[...]``.
          **options: the fields of a subclass.

        Raises:
          ArgumentError: ``classes`` is no number of classes, or one of the others no array.
          MetricShapeError: shapes do not fit, or classes are no integers.
        """
        name = f"{cls.__name__}.of"
        predictions, labels = (
            jnp.asarray(array(each, argument, name))
            for each, argument in ((predictions, "predictions"), (labels, "labels"))
        )
        classes = whole_number(classes, "classes", name, low=1)
        if predictions.shape != labels.shape:
            problem = f"predictions have the shape {predictions.shape}, and labels {labels.shape}"
            cure = "Give both as class numbers: logits.argmax(-1)."
            raise MetricShapeError(metric=cls.__name__, problem=problem, cure=cure)
        predictions, labels = (
            _numbers(cls, name, each) for name, each in (("predictions", predictions), ("labels", labels))
        )
        weights = _weights(cls, where, labels.shape, np.dtype(np.float32))
        known = (labels >= 0) & (labels < classes) & (predictions >= 0) & (predictions < classes)
        cells = jnp.where(known, labels * classes + predictions, classes * classes)
        counts = _histogram(cells, weights, classes * classes)
        return cls.from_sums({"counts": counts.reshape(classes, classes)}, **options)

    def compute(self) -> Any:
        """Return the counts, ``[classes, classes]``: rows are labels, columns predictions."""
        return self.total()["counts"]


class F1(ConfusionMatrix):
    """The harmonic mean of precision and recall.

    Attributes:
      average: ``"macro"`` is the mean over the classes that occur, ``"micro"`` counts all classes together,
        ``"weighted"`` weighs each class by its labels, ``"none"`` gives one for each class.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import metrics
      >>> predictions, labels = jnp.array([0, 1, 1, 0]), jnp.array([0, 0, 1, 1])
      >>> metrics.F1.of(predictions, labels, classes=2).compute().item()
      0.5
    """

    average: str = field(pytree_node=False, default="macro", kw_only=True)

    @classmethod
    def of(
        cls,
        predictions: ArrayLike,
        labels: ArrayLike,
        classes: int,
        where: ArrayLike | None = None,
        *,
        average: str = "macro",
        **options: Any,
    ) -> Self:
        """Return the counts that F1 is computed of; the arguments are those of ``ConfusionMatrix.of``, and ``average``.

        Raises:
          ArgumentError: ``average`` is none of the four.
        """
        choice(average, "average", "F1.of", ("macro", "micro", "weighted", "none"))
        return super().of(predictions, labels, classes, where, average=average, **options)

    def compute(self) -> Any:
        """Return F1; a class without label or prediction has 0, and does not count in ``"macro"``."""
        counts = self.total()["counts"]
        lib = _library(counts)
        right = lib.diagonal(counts)
        labelled, predicted = counts.sum(1), counts.sum(0)
        if self.average == "micro":
            return _ratio(2 * right.sum(), labelled.sum() + predicted.sum())
        both = labelled + predicted
        each = lib.where(both > 0, 2 * right / lib.where(both > 0, both, 1), 0.0)
        if self.average == "none":
            return each
        weights = (both > 0).astype(each.dtype) if self.average == "macro" else labelled
        return _ratio((each * weights).sum(), weights.sum())


class AUROC(Metric):
    """The area under the receiver operating characteristic: the chance that a positive has the higher score.

    Scores are counted in bins, so that the metric has a size and adds up. Two scores in one bin count as equal, that is
    one half: with 4096 bins the result is off by at most half the chance that a positive and a negative share a bin.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import metrics
      >>> scores, labels = jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])
      >>> metrics.AUROC.of(scores, labels, bins=64).compute().item()
      0.75
    """

    @classmethod
    def of(
        cls,
        scores: ArrayLike,
        labels: ArrayLike,
        where: ArrayLike | None = None,
        *,
        bins: int = 4096,
        low: float = 0.0,
        high: float = 1.0,
    ) -> Self:
        """Return the histograms of both classes.

        Args:
          scores: ``[...]``, from ``low`` to ``high``; what is beyond counts in the first and in the last bin.
          labels: ``[...]``, 1 or true for a positive, anything else for a negative.
          where: weights, or true where an example counts: ``[...]``.
          bins: how many bins there are.
          low: the lower end of the scores.
          high: the upper end.

        Raises:
          ArgumentError: ``bins``, ``low`` or ``high`` is no number of its kind, or one of the others no array.
          MetricShapeError: shapes do not fit.
        """
        bins = whole_number(bins, "bins", "AUROC.of", low=2)
        low = number(low, "low", "AUROC.of")
        high = number(high, "high", "AUROC.of", above=low)
        scores, labels = (
            jnp.asarray(array(each, argument, "AUROC.of"))
            for each, argument in ((scores, "scores"), (labels, "labels"))
        )
        if scores.shape != labels.shape:
            problem = f"scores have the shape {scores.shape}, and labels {labels.shape}"
            cure = "Give one score for each example: jax.nn.softmax(logits)[..., 1]."
            raise MetricShapeError(metric=cls.__name__, problem=problem, cure=cure)
        weights = _weights(cls, where, scores.shape, np.dtype(np.float32))
        scores = jnp.where(weights == 0, low, scores.astype(jnp.float32))
        weights = jnp.where(jnp.isnan(scores), scores, weights)  # so that the area is NaN
        place = jnp.clip((scores - low) * (bins / (high - low)), 0, bins - 1).astype(jnp.int32)
        positive = labels == 1
        return cls.from_sums(
            {
                "positive": _histogram(place, weights * positive, bins),
                "negative": _histogram(place, weights * ~positive, bins),
            }
        )

    def compute(self) -> Any:
        """Return the area, from 0 to 1; NaN where a class has no example."""
        sums = self.total()
        positive, negative = sums["positive"], sums["negative"]
        below = _library(negative).cumsum(negative) - negative / 2
        return _ratio((positive * below).sum(), positive.sum() * negative.sum())


class Calibration(Metric):
    """The expected calibration error: how far confidence is from the share that is right, over bins of confidence.

    Guo and others, "On Calibration of Modern Neural Networks" (2017), https://arxiv.org/abs/1706.04599, equation 3.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import metrics
      >>> probabilities = jnp.array([[0.25, 0.75]] * 4)
      >>> labels = jnp.array([1, 1, 1, 0])
      >>> metrics.Calibration.of(probabilities, labels).compute().item()
      0.0
    """

    @classmethod
    def of(cls, probabilities: ArrayLike, labels: ArrayLike, where: ArrayLike | None = None, *, bins: int = 15) -> Self:
        """Return the sums over each bin.

        Args:
          probabilities: ``[..., classes]``: jax.nn.softmax(logits).
          labels: ``[...]``, integers.
          where: weights, or true where an example counts: ``[...]``.
          bins: how many bins of equal width there are.

        Raises:
          ArgumentError: ``bins`` is no such number, or one of the others no array.
          MetricShapeError: shapes do not fit.
        """
        bins = whole_number(bins, "bins", "Calibration.of", low=1)
        table, labels = _scores_and_labels(cls, probabilities, labels)
        weights = _weights(cls, where, labels.shape, np.dtype(np.float32))
        confidence = jnp.where(weights == 0, 0, jnp.max(table, axis=-1).astype(jnp.float32))
        right = (jnp.argmax(table, axis=-1) == labels).astype(jnp.float32)
        place = jnp.clip(jnp.ceil(confidence * bins) - 1, 0, bins - 1).astype(jnp.int32)  # bins are (a, b]
        return cls.from_sums(
            {
                "confidence": _histogram(place, weights * confidence, bins),
                "right": _histogram(place, weights * right, bins),
                "weight": _histogram(place, weights, bins),
            }
        )

    def compute(self) -> Any:
        """Return the error, from 0 to 1."""
        sums = self.total()
        return _ratio(abs(sums["right"] - sums["confidence"]).sum(), sums["weight"].sum())


def across_processes(metric: Metric) -> Metric:
    """Return the metric of what all processes have measured, each its own part; every process must call it.

    Args:
      metric: any metric, or tree of metrics. One of arrays that lie over several processes counts all of them already.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import metrics
      >>> loss = metrics.Mean.of(jnp.array([1.0, 2.0]))
      >>> metrics.across_processes({"loss": loss})["loss"].compute().item()
      1.5
    """
    if jax.process_count() == 1:
        return metric
    from jax.experimental import multihost_utils

    gather: Any = multihost_utils.process_allgather

    def added(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:  # it counts what all have measured
            return _double(gather(leaf, tiled=True))
        halves = np.ascontiguousarray(_double(leaf)).view(np.uint32)  # JAX itself would round to single precision
        return np.ascontiguousarray(gather(halves)).view(np.float64).sum(0).reshape(np.shape(leaf))

    return _map(added, metric)


def _double(leaf: Any) -> Any:
    return np.asarray(leaf, np.float64)


def _map(function: Any, *trees: Any) -> Any:
    return cast("Any", jax.tree).map(function, *trees)


def _two_sum(one: Any, other: Any) -> tuple[Any, Any]:
    """Return a sum, and what rounding has cut off from it."""
    total = one + other
    part = total - one
    return total, (one - (total - part)) + (other - part)


def _library(value: Any) -> Any:
    return np if isinstance(value, np.ndarray | np.generic) else jnp


def _ratio(total: Any, weight: Any) -> Any:
    """Return the quotient; NaN, and no warning, where there is nothing to divide by."""
    lib = _library(weight)
    return lib.where(weight == 0, lib.nan, total / lib.where(weight == 0, 1, weight))[()]


def _mean(cls: Any, values: ArrayLike, where: ArrayLike | None) -> Any:
    found = jnp.asarray(array(values, "values", f"{cls.__name__}.of"))
    wide = reduction_dtype(found.dtype)
    weights = _weights(cls, where, found.shape, wide)
    counted = jnp.where(weights == 0, jnp.zeros((), wide), found.astype(wide))
    return cls.from_sums({"total": jnp.sum(counted * weights), "weight": jnp.sum(weights)})


def _hits(cls: Any, logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None, k: int) -> Any:
    table, labels = _scores_and_labels(cls, logits, labels)
    if k == 1:
        return _mean(cls, jnp.argmax(table, axis=-1) == labels, where)
    count = table.shape[-1]
    own = jnp.take_along_axis(table, jnp.clip(labels, 0, count - 1)[..., None], axis=-1)
    classes = jnp.arange(count).reshape((1,) * labels.ndim + (-1,))
    behind = (table < own) | ((table == own) & (classes > labels[..., None]))  # NaN is behind nothing, nor before it
    hits = (count - 1 - jnp.sum(behind, axis=-1) < k) & (labels >= 0) & (labels < count)
    return _mean(cls, hits, where)


def _scores_and_labels(cls: Any, table: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    found = jnp.asarray(array(table, "logits", f"{cls.__name__}.of"))
    numbers = jnp.asarray(array(labels, "labels", f"{cls.__name__}.of"))
    if found.shape[:-1] != numbers.shape or found.shape[-1:] in ((), (0,)):
        problem = f"scores have the shape {found.shape}, and labels {numbers.shape}"
        cure = "Give scores [..., classes] and labels [...] as class numbers; for one-hot rows, labels.argmax(-1)."
        raise MetricShapeError(metric=cls.__name__, problem=problem, cure=cure)
    return found, _numbers(cls, "labels", numbers)


def _numbers(cls: Any, name: str, values: Array) -> Array:
    """Return class numbers in 32 bits, in which products with the number of classes fit."""
    if not jnp.issubdtype(values.dtype, jnp.integer) and values.dtype != jnp.bool_:
        problem = f"{name} are of dtype {values.dtype}, and class numbers are integers"
        raise MetricShapeError(metric=cls.__name__, problem=problem, cure=f"Write {name}.astype('int32').")
    return values.astype(jnp.int32)


def _weights(cls: Any, where: ArrayLike | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return the weights of values of a shape."""
    if where is None:
        return jnp.ones(shape, dtype)
    given = jnp.asarray(array(where, "where", f"{cls.__name__}.of"))
    if given.ndim > len(shape) or given.shape != shape[: given.ndim]:
        problem = f"`where` has the shape {given.shape}, and what it weighs {shape}"
        raise MetricShapeError(metric=cls.__name__, problem=problem, cure="Give one weight for each example, or value.")
    wide = given.reshape(*given.shape, *(1,) * (len(shape) - given.ndim))
    return jnp.broadcast_to(wide, shape).astype(dtype)


def _histogram(places: Array, weights: Array, bins: int) -> Array:
    """Return the sum of the weights at each place; places from ``bins`` on are left out."""
    flat, empty = places.reshape(-1), jnp.zeros(bins, weights.dtype)
    return empty.at[flat].add(weights.reshape(-1), mode="drop")


def _named(metric: Any) -> str:
    kind = type(metric).__name__
    if not isinstance(metric, Metric):
        return f"a {kind}"
    return f"{kind} of {', '.join(f'{name} {np.shape(value)}' for name, value in metric.sums.items())}"
