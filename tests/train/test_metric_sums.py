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


MANY = 150  # more classes than int8 and than the square root of int16 hold
TABLE = RANDOM.normal(size=(ROWS, MANY)).astype(np.float16)
SCORES = RANDOM.integers(0, 8, ROWS) / 8 + 1 / 16  # in the middle of bins, and many of them equal
POSITIVE = RANDOM.random(ROWS) < 0.3
WEIGHTS = RANDOM.random(ROWS).astype(np.float32)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "bool"])
def test_class_numbers_of_every_type(dtype):
    most = 2 if dtype == "bool" else min(MANY, np.iinfo(dtype).max + 1)
    labels, predictions = (RANDOM.integers(0, most, ROWS).astype(dtype) for _ in range(2))
    counts = sklearn.metrics.confusion_matrix(labels.astype(int), predictions.astype(int), labels=range(MANY))
    assert (metrics.ConfusionMatrix.of(predictions, labels, MANY).compute() == counts).all()
    order = np.argsort(-TABLE.astype(float), axis=-1, kind="stable") == labels.astype(int)[:, None]
    for k in (1, 3):
        hits = order[:, :k].any(-1)
        np.testing.assert_allclose(metrics.TopK.of(TABLE, labels, k).compute(), hits.mean(), rtol=1e-6)


RANKED = {
    "ties": (SCORES, POSITIVE, None),
    "weights": (SCORES, POSITIVE, WEIGHTS),
    "half precision": (SCORES.astype(np.float16), POSITIVE, WEIGHTS),
    "numbers": (SCORES, POSITIVE.astype(np.int8), WEIGHTS),
    "-1 and 1": (SCORES, np.where(POSITIVE, 1, -1), WEIGHTS),
    "all equal": (np.full(ROWS, 0.5), POSITIVE, None),
}


@pytest.mark.parametrize("name", RANKED)
def test_areas(name):
    scores, labels, weights = RANKED[name]
    area = sklearn.metrics.roc_auc_score(POSITIVE, scores.astype(float), sample_weight=weights)
    np.testing.assert_allclose(metrics.AUROC.of(scores, labels, weights).compute(), area, rtol=1e-5)


NOWHERE = np.where(np.arange(ROWS) == 3, np.nan, 1)  # what is not a number in one row
KEPT = np.arange(ROWS) != 3
NEITHER = {
    "area without negatives": lambda: metrics.AUROC.of(SCORES, np.ones(ROWS)),
    "area without weights": lambda: metrics.AUROC.of(SCORES, POSITIVE, np.zeros(ROWS)),
    "area of NaN": lambda: metrics.AUROC.of(SCORES * NOWHERE, POSITIVE),
    "area of nothing": lambda: metrics.AUROC.of(np.zeros(0), np.zeros(0, int)),
    "F1 of nothing": lambda: metrics.F1.of(np.zeros(0, int), np.zeros(0, int), 3),
    "top 2 of nothing": lambda: metrics.TopK.of(np.zeros((0, 3)), np.zeros(0, int), 2),
    "calibration of nothing": lambda: metrics.Calibration.of(np.zeros((0, 3)), np.zeros(0, int)),
    "calibration without weights": lambda: metrics.Calibration.of(CHANCES, LABELS, np.zeros(ROWS)),
}


@pytest.mark.parametrize("name", NEITHER)
def test_what_is_not_known_is_not_a_number(name):
    assert np.isnan(NEITHER[name]().compute())


def test_scores_without_weight_may_be_anything():
    for of in (
        lambda bad, where: metrics.AUROC.of(SCORES * bad, POSITIVE, where),
        lambda bad, where: metrics.Calibration.of(CHANCES * bad[:, None], LABELS, where),
    ):
        assert of(NOWHERE, KEPT).compute() == of(np.ones(ROWS), KEPT).compute()


@pytest.mark.parametrize("label", [-100, -1, CLASSES, 10**6])
def test_a_label_beyond_the_classes_is_not_hit(label):
    labels = np.full(ROWS, label)
    assert [metrics.TopK.of(LOGITS, labels, k).compute() for k in (1, 2)] == [0, 0]
    assert metrics.ConfusionMatrix.of(PREDICTED, labels, CLASSES).compute().sum() == 0


def test_logits_that_are_not_numbers_hit_nothing():
    assert metrics.TopK.of(np.full((4, 5), np.nan), np.arange(4), 2).compute() == 0


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
    "a table of no classes": (MetricShapeError, lambda: metrics.Accuracy.of(LOGITS[:, :0], LABELS)),
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
