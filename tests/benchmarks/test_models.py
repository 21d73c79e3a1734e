"""Whoever is measured computes what raw JAX computes."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import gpu, measures, models
from benchmarks.models import contract

SMALL = {
    "mlp": contract.mlp(3),
    "transformer": contract.transformer(2, 8),
    "resnet": contract.resnet((1,), width=4, size=8, classes=5),
    "gpt2": contract.Spec("gpt2", depth=1, width=16, heads=2, length=8, classes=11),
}
BY_DEPTH = ("raw_scan", "repeat_loop", "repeat_scan", "repeat_stacked")
FLAX = ("linen", "nnx")  # what the tests install; the benchmark itself compares all


@pytest.mark.parametrize("kind", SMALL)
def test_outputs_agree(kind):
    contenders = ("batiste", *FLAX) + (BY_DEPTH if kind == "transformer" else ())
    assert models.compare(contenders, SMALL[kind], train=False) == dict.fromkeys(contenders, "")


def test_losses_and_gradients_agree():
    contenders = ("batiste", *FLAX)
    assert models.compare(contenders, SMALL["mlp"], train=True) == dict.fromkeys(contenders, "")


@pytest.mark.parametrize("contender", ["batiste", "linen", "nnx"])
def test_running_statistics_agree(contender):
    def statistics(name):
        model, params, state, x, _ = models.packed(name, SMALL["resnet"])
        _, new = model.train(params, state, x)
        return sorted(float(np.sum(leaf)) for leaf in jax.tree.leaves(new))

    np.testing.assert_allclose(statistics(contender), statistics("raw"), rtol=1e-3)


@pytest.mark.parametrize("kind", SMALL)
def test_init_makes_the_layout(kind):
    spec = SMALL[kind]
    x, _ = contract.batch(spec)
    made = jax.eval_shape(models.build("batiste", spec).init, jax.random.key(0), x)
    raw = jax.eval_shape(models.build("raw", spec).init, jax.random.key(0), x)
    params, stats = contract.layout(spec)
    for shapes in (made, raw):
        found = contract.flatten(jax.tree.map(lambda leaf: leaf.shape, shapes["params"]))
        assert found == contract.flatten(params)
        running = contract.flatten(jax.tree.map(lambda leaf: leaf.shape, shapes.get("batch_stats", {})))
        assert running == contract.flatten(stats)


def test_a_mismatch_is_named(monkeypatch):
    monkeypatch.setattr("benchmarks.models.raw.EPSILON_LAYER", 0.5)
    wrong = models.compare(["batiste"], SMALL["transformer"], train=False)["batiste"]
    assert wrong.startswith("outputs differ by ")


def test_one_that_fails_is_named_with_its_reason():
    wrong = models.compare(["equinox"], SMALL["gpt2"], train=False)["equinox"]
    assert wrong.startswith(models.FAILED)


def test_sizes_are_those_of_the_models():
    resnet, gpt2 = (dataclasses.replace(spec, batch=1) for spec in reversed(gpu.specs(tiny=False).values()))
    leaves = contract.flatten(contract.layout(resnet)[0]).values()
    assert sum(measures.shape_size(shape) for shape in leaves) == 25_557_032  # torchvision's resnet50
    assert gpu.operations(resnet) / 6e9 == pytest.approx(4.089, abs=1e-3)  # its published multiplications
    leaves = contract.flatten(contract.layout(gpt2)[0]).values()
    assert (
        sum(measures.shape_size(shape) for shape in leaves) == 124_439_808 + (50304 - 50257) * 768
    )  # OpenAI's, padded


def test_initialisers_are_counted_once_for_each_shape():
    assert contract.distinct_initialisers(contract.mlp(5)) == 2
    assert contract.distinct_initialisers(contract.transformer(7)) == 6
