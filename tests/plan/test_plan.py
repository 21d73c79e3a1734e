"""Plans of whole training steps: beside the real state on a mesh, and at sizes that no machine here holds."""

import json
import math
import time

import jax
import jax.numpy as jnp
import optax
import pytest
from typer.testing import CliRunner

from batiste import TrainState, errors, nn, shard, tree
from batiste import plan as plans
from batiste.cli._app import app
from examples import llama

P = jax.P
TOKENS = "tokens:int32[8,32]"
pytestmark = pytest.mark.usefixtures("users_rules")


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(256, name="up")(x))
        return nn.Dense(64, name="down")(nn.BatchNorm(use_running_average=False)(x))


def toy(**changes):
    return llama.Llama(llama.dataclasses.replace(llama.TOY, **changes))


@pytest.mark.parametrize("rules", ["data", "zero1", "fsdp", "fsdp+tensor"])
@pytest.mark.parametrize("sizes", ["data=8", "data=2,fsdp=4", "fsdp=4,tensor=2"])
def test_state_bytes_are_those_of_the_real_tree(sizes, rules):
    planned = plans.plan(MLP(), "float32[16,64]", optimizer="adam", mesh=sizes, rules=rules, remat=False)
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32)
    tx, mesh = optax.adam(1e-3), shard.mesh(sizes)
    state = TrainState.init(MLP(), tx, jax.random.key(0), x, mesh=mesh, rules=shard.preset(rules))

    def held(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    assert planned.memory.params == held(state.params)
    assert planned.memory.opt_state == held(state.opt_state)
    assert planned.memory.collections == held(state.collections)
    parts = {"data": ("data",), "zero1": ("data",), "fsdp": ("data", "fsdp"), "fsdp+tensor": ("data", "fsdp")}
    share = math.prod(planned.mesh.get(axis, 1) for axis in parts[rules])
    assert planned.memory.batch == 16 * 64 * 4 // share


def test_a_llama_is_counted_as_by_hand():
    config = llama.dataclasses.replace(llama.TOY, layers=6)
    planned = plans.plan(llama.Llama(config), TOKENS, remat=False)
    tokens, depth = 8 * 32, config.features // config.heads
    projections = config.features * depth * (2 * config.heads + 2 * config.kv_heads)
    block = projections + 3 * config.features * config.hidden + 2 * 32 * config.features
    forward = 2 * tokens * (config.layers * block + config.features * config.vocab)
    assert planned.flops == pytest.approx(3 * forward, rel=0.01)
    assert planned.model_flops == planned.flops
    by_path = planned.costs.by_path()
    assert by_path["Llama", "head"].flops == pytest.approx(3 * 2 * tokens * config.features * config.vocab)
    again = plans.plan(llama.Llama(llama.dataclasses.replace(config, remat=True)), TOKENS, remat=False)
    assert again.model_flops == pytest.approx(3 * forward, rel=0.01)
    assert again.flops > again.model_flops


def test_activations_with_and_without_remat():
    plain = plans.plan(toy(layers=8), TOKENS)
    remat = plans.plan(toy(layers=8, remat=True), TOKENS)
    assert plain.memory.activations_saved == plain.memory.activations
    assert remat.memory.activations_remat == pytest.approx(remat.memory.activations, rel=0.1)
    assert remat.memory.activations < 0.7 * plain.memory.activations
    assert plain.memory.activations_remat == pytest.approx(remat.memory.activations, rel=0.3)
    assert remat.memory.activations_saved == pytest.approx(plain.memory.activations, rel=0.1)


def activations(module):
    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(8):
                x = module(nn.Dense(64)(x))
            return x.sum()

    return plans.plan(Layers(), "float32[4096,64]", optimizer="sgd", remat=False).memory.activations


@pytest.mark.parametrize(
    ("module", "kept"),
    [
        (lambda x: x + 1, 1),  # what a product reads
        (jnp.sin, 2),  # and what the cosine is computed from
        (nn.relu, 2),  # the sign is computed again, from what is there
        (lambda x: (y := jnp.tanh(x)) + y * y, 2),  # it costs much, is read twice, and stands for what it is made of
        (lambda x: nn.relu(2 * x + 1) + x, 2),
    ],
    ids=["plus", "sine", "relu", "tanh", "chain"],
)
def test_what_fusions_compute_again_is_not_in_memory(module, kept):
    array = 4096 * 64 * 4
    found = activations(module) / array
    assert 8 * kept - 1.5 < found < 8 * kept + 2.5


def test_what_each_method_sends():
    """Data parallel: one sum of gradients. FSDP: gathers forwards and backwards, and scattered sums."""

    def sent(rules, mesh):
        planned = plans.plan(toy(), TOKENS, mesh=mesh, rules=rules, remat=False)
        found = {}
        for part in (planned.costs, planned.update):
            for each in part.collectives:
                found[each.kind] = found.get(each.kind, 0) + each.bytes
        return planned, found

    planned, found = sent("data", "data=8")
    params = planned.memory.params
    assert set(found) == {"all-reduce"}
    assert found["all-reduce"] == pytest.approx(2 * params * 7 / 8, rel=0.01)
    planned, found = sent("fsdp", "fsdp=8")
    assert found["reduce-scatter"] == pytest.approx(params * 7 / 8, rel=0.05)
    assert params * 7 / 8 < found["all-gather"] <= 2.1 * params * 7 / 8
    assert set(planned.collective_bytes()) == {"fsdp"}
    planned, found = sent("zero1", "data=8")
    assert found["reduce-scatter"] == pytest.approx(params * 7 / 8, rel=0.05)
    assert found["all-gather"] == pytest.approx(params * 7 / 8, rel=0.05)
    planned, found = sent("fsdp+tensor", "fsdp=4,tensor=2")
    assert {"fsdp", "tensor"} <= set(planned.collective_bytes())


def test_stages_hold_their_layers_and_send_what_xla_sends():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.Dense(64, name="down")(nn.gelu(nn.Dense(256, name="up")(x)))

    class Deep(nn.Module):
        run: shard.Pipeline | str

        def init(self, *args, **options):
            variables = super().init(*args, **options)
            return {"params": tree.stack_layers(variables["params"], "h")}

        @nn.compact
        def __call__(self, x):
            return nn.Repeat(Layer(), 8, run=self.run, name="h")(x)

    rules = shard.Rules({"params/h/**": P("stage"), "**": P()}, batch=P(("stage", "data")))
    options = {"mesh": "stage=4,data=2", "rules": rules, "remat": False}
    whole = plans.plan(Deep("scan"), "float32[2048,64]", remat=False)
    staged = plans.plan(Deep(shard.Pipeline(4)), "float32[2048,64]", compile=True, **options)
    for part in ("params", "gradients"):
        assert 4 * getattr(staged.memory, part) == getattr(whole.memory, part)
    assert staged.flops == whole.flops * 7 / 4  # seven ticks, in four of which a stage has a microbatch
    assert staged.memory.total == pytest.approx(staged.compiled.total_bytes, rel=0.05)
    sent = {}
    for each in staged.compiled.collectives:
        name = "+".join(each.axes)
        sent[name] = sent.get(name, 0) + each.bytes
    assert staged.collective_bytes() == pytest.approx(sent, rel=0.01)


def test_seventy_billion_parameters_on_two_cores():
    start = time.process_time()
    planned = plans.plan(
        llama.llama_70b(), "int32[64,8192]", mesh="fsdp=32,tensor=8", rules="fsdp+tensor", hbm="80GB", remat=False
    )
    assert time.process_time() - start < 10
    assert planned.memory.params == pytest.approx(70.55e9 * 4 / 256, rel=0.01)
    assert planned.memory.opt_state == pytest.approx(2 * planned.memory.params, rel=0.001)
    assert planned.fits
    tokens = 64 * 8192
    by_hand = 6 * (70.55e9 - 128_256 * 8192) * tokens + 12 * 80 * 8192 * 8192 * tokens
    assert planned.model_flops == pytest.approx(by_hand, rel=0.01)
    assert 0.1 < planned.mfu < 1
    assert planned.limit in planned.seconds()


def test_lints_name_path_and_fix():
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1030, param_dtype=jnp.bfloat16, name="wide")(x)

    wide = plans.plan(Odd(), "bfloat16[8,1024]", mesh="data=8", rules={"**": P(), "**/nothing": P()}, remat=False)
    found = {(lint.kind, lint.path) for lint in wide.lints}
    assert ("whole-leaf", "params/wide/kernel") in found
    assert ("unused-rule", "**/nothing") in found
    assert ("padding", "params/wide/kernel") in found
    assert all(lint.problem and lint.fix for lint in wide.lints)


def test_lints_of_what_is_gathered():
    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(50_000, 64, name="table")(tokens)
            x = nn.RNN(nn.GRUCell(64, name="first"))(x)
            return nn.RNN(nn.GRUCell(64, name="second"))(x).sum()

    rules = {"**/table/embedding": P(None, "fsdp"), "**/kernel": P(None, "fsdp"), "**": P()}
    looped = plans.plan(
        Recurrent(), "int32[64,16]", mesh="fsdp=8", rules=shard.Rules(rules, batch=P("fsdp")), remat=False
    )
    found = {lint.kind: lint for lint in looped.lints}
    assert found["gather-of-part"].path.startswith("Recurrent/table")
    kernels = {lint.path for lint in looped.lints if lint.kind == "gather-again"}
    names = ("hn", "hr", "hz", "in", "ir", "iz")  # of two cells, each of which is its own
    assert kernels == {f"params/{cell}/{name}/kernel" for cell in ("first", "second") for name in names}
    assert {lint.problem.split()[3] for lint in looped.lints if lint.kind == "gather-again"} == {"32"}
    whole = {"**/kernel": P(), "**": P()}
    plain = plans.plan(
        Recurrent(), "int32[64,16]", mesh="fsdp=8", rules=shard.Rules(whole, batch=P("fsdp")), remat=False
    )
    assert not {lint.kind for lint in plain.lints} & {"gather-again", "gather-of-part"}
    for layers in (llama.Llama(llama.TOY), llama.llama_8b()):  # each turn gathers what is its own
        deep = plans.plan(layers, "int32[8,64]", mesh="fsdp=8", rules="fsdp", remat=False)
        assert "gather-again" not in {lint.kind for lint in deep.lints}


def test_words_that_cannot_be_read():
    for wrong in ("tokens", "int33[8]", "int32(8)"):
        with pytest.raises(errors.ArgumentError):
            plans.plan(MLP(), wrong)
    with pytest.raises(errors.ArgumentError, match="80GB"):
        plans.plan(MLP(), "float32[8,64]", hbm="lots")
    with pytest.raises(errors.ArgumentError, match="adamw"):
        plans.plan(MLP(), "float32[8,64]", optimizer="adamx")
    with pytest.raises(errors.ArgumentError, match="h100"):
        plans.plan(MLP(), "float32[8,64]", chip="h10")
    with pytest.raises(errors.MeshAxesError):
        plans.plan(MLP(), "float32[8,64]", mesh="data=-1")
    assert plans.plan(MLP(), "float32[8,64]", hbm="1GiB", remat=False).chip.memory == 2**30


def test_a_search_ranks_what_fits_by_time():
    found = plans.search(MLP(), "float32[64,64]", devices=4, hbm="1GB")
    assert len(found) >= 4
    assert all(each.devices == 4 for each in found)
    assert [each.fits for each in found] == sorted((each.fits for each in found), reverse=True)
    assert found[0].step_seconds == min(each.step_seconds for each in found if each.fits)
    assert "mesh" in plans.ranking(found)
    fits = plans.smallest_mesh(MLP(), "float32[64,64]", hbm="300kB")
    assert fits is not None
    assert fits.fits
    assert fits.devices > 1
    assert plans.smallest_mesh(MLP(), "float32[64,64]", hbm="1kB", most=4) is None


def test_a_search_takes_the_other_arguments_of_a_plan():
    alike = plans.search(MLP(), "float32[64,64]", devices=2, keep=1)[0]
    (found,) = plans.search(MLP(), "float32[64,64]", devices=2, keep=1, remat=True)
    assert found.mesh == alike.mesh
    assert found.memory == plans.plan(MLP(), "float32[64,64]", mesh=found.mesh, rules=found.rules).memory
    fits = plans.smallest_mesh(MLP(), "float32[64,64]", remat=True)
    assert fits is not None
    assert fits.memory == plans.plan(MLP(), "float32[64,64]").memory
    for given in ({"mesh": "data=2"}, {"rules": "fsdp"}):
        with pytest.raises(errors.ArgumentError, match="searched for"):
            plans.search(MLP(), "float32[64,64]", devices=2, **given)
        with pytest.raises(errors.ArgumentError, match="searched for"):
            plans.smallest_mesh(MLP(), "float32[64,64]", **given)


def test_the_command(tmp_path):
    page = tmp_path / "plan.html"
    words = ["plan", "tests.plan.test_plan:toy", "-i", TOKENS, "--mesh", "fsdp=4", "--rules", "fsdp"]
    done = CliRunner().invoke(app, [*words, "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "fits in 80.0 GB" in done.output
    assert "Llama/h_0/mlp" in done.output
    html = page.read_text()
    assert "<svg" in html
    assert "<script" not in html
    done = CliRunner().invoke(app, [*words, "--json"])
    read = json.loads(done.output)
    assert read["bytes"]["total"] > 0
    assert read["devices"] == 4
    assert read["collective_bytes"].keys() == {"fsdp"}
    (tmp_path / "rules.json").write_text(shard.preset("fsdp").to_json())
    again = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "rules.json"), "--json"])
    assert json.loads(again.output)["bytes"] == read["bytes"]
    wrong = CliRunner().invoke(app, ["plan", "nowhere:model", "-i", TOKENS])
    assert wrong.exit_code == 2
