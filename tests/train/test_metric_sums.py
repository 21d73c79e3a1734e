"""Metrics add up: in parts of any size they are what scikit-learn says of the whole."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from batiste.errors import ArgumentError, MetricShapeError
from batiste.train import metrics

ROWS, CLASSES = 103, 5
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(ROWS, CLASSES)).astype(np.float32)
LABELS = RANDOM.integers(0, CLASSES - 1, ROWS)  # the last class has no label
COUNTS = RANDOM.random(ROWS) < 0.7
PARTS = (slice(0, 40), slice(40, 41), slice(41, ROWS))
PREDICTED = LOGITS.argmax(-1)
CHANCES = scipy.special.softmax(LOGITS, axis=-1)
LOSSES = -scipy.special.log_softmax(LOGITS, axis=-1)[np.arange(ROWS), LABELS]


def calibration_error(chances, labels):
    confidence, right = chances.max(-1), chances.argmax(-1) == labels
    edges = np.linspace(0, 1, 16)
    inside = [(confidence > low) & (confidence <= high) for low, high in itertools.pairwise(edges)]
    return sum(abs(right[rows].sum() - confidence[rows].sum()) for rows in inside if rows.any()) / len(labels)


CASES = {
    "mean": (lambda i, w: metrics.Mean.of(LOSSES[i], w), lambda i: LOSSES[i].mean(dtype=np.float64)),
    "perplexity": (lambda i, w: metrics.Perplexity.of(LOSSES[i], w), lambda i: np.exp(LOSSES[i].mean(dtype=float))),
    "accuracy": (
        lambda i, w: metrics.Accuracy.of(LOGITS[i], LABELS[i], w),
        lambda i: sklearn.metrics.accuracy_score(LABELS[i], PREDICTED[i]),
    ),
    "top 2": (
        lambda i, w: metrics.TopK.of(LOGITS[i], LABELS[i], 2, w),
        lambda i: sklearn.metrics.top_k_accuracy_score(LABELS[i], LOGITS[i], k=2, labels=range(CLASSES)),
    ),
    "confusion": (
        lambda i, w: metrics.ConfusionMatrix.of(PREDICTED[i], LABELS[i], CLASSES, w),
        lambda i: sklearn.metrics.confusion_matrix(LABELS[i], PREDICTED[i], labels=range(CLASSES)),
    ),
    **{
        f"f1 {average}": (
            lambda i, w, average=average: metrics.F1.of(PREDICTED[i], LABELS[i], CLASSES, w, average=average),
            lambda i, average=average: sklearn.metrics.f1_score(
                LABELS[i], PREDICTED[i], average=None if average == "none" else average
            ),
        )
        for average in ("macro", "micro", "weighted", "none")
    },
    "auroc": (
        lambda i, w: metrics.AUROC.of(CHANCES[i, 1], LABELS[i] == 1, w, bins=1 << 20),
        lambda i: sklearn.metrics.roc_auc_score(LABELS[i] == 1, CHANCES[i, 1]),
    ),
    "calibration": (
        lambda i, w: metrics.Calibration.of(CHANCES[i], LABELS[i], w),
        lambda i: calibration_error(CHANCES[i], LABELS[i]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_parts_add_up_to_the_whole(name):
    measure, expected = CASES[name]
    *parts, weighed, on_device = jax.jit(
        lambda: [*(measure(part, None) for part in PARTS), measure(slice(None), COUNTS), measured_in_parts(measure)]
    )()
    np.testing.assert_allclose(on_device.compute(), expected(slice(None)), rtol=2e-6)
    on_host = parts[0].on_host().merge(parts[1].on_host()).merge(parts[2].on_host())
    np.testing.assert_allclose(on_host.compute(), expected(slice(None)), rtol=2e-6)
    np.testing.assert_allclose(weighed.on_host().compute(), expected(np.flatnonzero(COUNTS)), rtol=2e-6)
    assert jax.tree.structure(metrics.across_processes(weighed)) == jax.tree.structure(weighed)


def measured_in_parts(measure):
    parts = [measure(part, None) for part in PARTS]
    return parts[2].merge(parts[0]).merge(parts[1])


def test_devices_add_up():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    logits, labels = (jax.device_put(each[:96], rows) for each in (LOGITS, LABELS))

    def local(logits, labels):
        return jax.lax.psum(metrics.Accuracy.of(logits, labels, where=labels > 0), "data")

    summed = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P()))(logits, labels)
    counted = LABELS[:96] > 0
    expected = (PREDICTED[:96] == LABELS[:96])[counted].mean()
    np.testing.assert_allclose(summed.compute(), expected, rtol=1e-6)


def test_counts_do_not_stop_and_small_terms_are_not_lost():
    many = metrics.Mean.from_sums({"total": jnp.float32(2**24), "weight": jnp.float32(2**24)})
    one = metrics.Mean.of(jnp.float32(0.5))

    def added(total, _):
        return total.merge(one), None

    total = jax.jit(lambda start: jax.lax.scan(added, start, None, length=1000)[0])(many)
    assert float(total.lost["weight"]) == 1000
    np.testing.assert_allclose(total.on_host().total()["total"], 2**24 + 500)


def test_what_does_not_count_may_be_anything():
    assert metrics.Mean.of(jnp.array([1.0, jnp.nan, 3.0]), where=jnp.array([1, 0, 1])).compute() == 2
    assert metrics.Mean.of(jnp.ones((2, 3)), where=jnp.array([True, False])).total()["weight"] == 3
    assert jnp.isnan(metrics.Mean.of(jnp.ones(2), where=jnp.zeros(2)).compute())


def test_equal_logits_are_in_order():
    logits, labels = jnp.zeros((4, 4)), jnp.arange(4)
    assert metrics.Accuracy.of(logits, labels).compute() == 0.25
    assert metrics.TopK.of(logits, labels, 2).compute() == 0.5


WRONG = {
    "rows of ones and zeros": (MetricShapeError, lambda: metrics.Accuracy.of(LOGITS, np.eye(ROWS, CLASSES))),
    "labels as numbers": (MetricShapeError, lambda: metrics.Accuracy.of(LOGITS, LABELS * 1.0)),
    "logits for predictions": (MetricShapeError, lambda: metrics.ConfusionMatrix.of(LOGITS, LABELS, CLASSES)),
    "two scores": (MetricShapeError, lambda: metrics.AUROC.of(CHANCES, LABELS)),
    "a mask of another shape": (MetricShapeError, lambda: metrics.Mean.of(LOSSES, where=COUNTS[:5])),
    "two kinds": (MetricShapeError, lambda: metrics.Mean.of(LOSSES).merge(metrics.Perplexity.of(LOSSES))),
    "no k": (ArgumentError, lambda: metrics.TopK.of(LOGITS, LABELS, 0)),
    "no classes": (ArgumentError, lambda: metrics.ConfusionMatrix.of(PREDICTED, LABELS, 2.0)),
    "no average": (ArgumentError, lambda: metrics.F1.of(PREDICTED, LABELS, CLASSES, average="mean")),
    "no bins": (ArgumentError, lambda: metrics.AUROC.of(LOSSES, LABELS, bins=1)),
    "no range": (ArgumentError, lambda: metrics.AUROC.of(LOSSES, LABELS, low=1.0, high=1.0)),
    "no values": (ArgumentError, lambda: metrics.Mean.of(None)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arrays(name):
    kind, program = WRONG[name]
    with pytest.raises(kind):
        program()
