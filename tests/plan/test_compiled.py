"""What XLA makes of a step, and the three notations in which it says which devices talk to each other."""

import importlib.util
import json

import pytest
from typer.testing import CliRunner

from batiste import errors, nn
from batiste import plan as plans
from batiste.cli._app import app
from batiste.plan._hlo import collectives_of

pytestmark = pytest.mark.usefixtures("users_rules")
MESH = {"data": 2, "fsdp": 4}
PATHS = [("Net", "h_0", "up"), ("Net", "down")]


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(64, name="down")(nn.relu(nn.Dense(256, name="up")(x)))


def model():
    return MLP()


def program(*lines, body=()):
    """Return a program in XLA's text, with a loop of three turns."""
    head = "%body (p: f32[8]) -> f32[8] {"
    loop = '  %w = f32[8] while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    return "\n".join([head, *body, "}", "", "ENTRY %main (p: f32[8]) -> f32[8] {", *lines, loop, "}"])


def line(kind, groups, name="Net/down/dot_general", shape="f32[8]{0}"):
    return f'  %{kind}.1 = {shape} {kind}(%p), channel_id=1, {groups}, metadata={{op_name="jit(step)/{name}"}}'


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("fsdp",)),
        ("replica_groups={}", ("data", "fsdp")),
        ("replica_groups=[2,4]<=[8]", ("fsdp",)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",)),
        ("replica_groups=[1,8]<=[8]", ("data", "fsdp")),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", ("fsdp",)),
        ("replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}", ("fsdp",)),
        ("replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", ("data",)),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", ("data",)),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", ("fsdp",)),
        ("replica_groups=mesh['a'=8] {'a'}", ("data", "fsdp")),
    ],
)
def test_groups_of_devices_are_axes(groups, axes):
    (found,) = collectives_of(program(line("all-reduce", groups)), MESH, PATHS)
    assert found.axes == axes
    assert found.path == ("Net", "down")
    size = {"data": 2, "fsdp": 4}
    count = size[axes[0]] if len(axes) == 1 else 8
    assert found.bytes == 2 * 32 * (count - 1) / count


def test_bytes_are_those_that_a_device_sends():
    groups = "replica_groups=[2,4]<=[8]"
    wanted = {"all-gather": 24, "reduce-scatter": 96, "all-to-all": 24, "all-reduce": 48}
    for kind, size in wanted.items():
        (found,) = collectives_of(program(line(kind, groups)), MESH, PATHS)
        assert (found.kind, found.bytes, found.count) == (kind, size, 1)
    pairs = "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    (found,) = collectives_of(program(line("collective-permute", pairs)), MESH, PATHS)
    assert (found.kind, found.axes, found.bytes) == ("permute", ("fsdp",), 32)
    started = line("all-gather-start", groups, shape="(f32[2], f32[8])").replace("%p)", "%q)")
    assert collectives_of(program(started), MESH, PATHS)[0].bytes == 24


def test_a_loop_counts_as_often_as_it_runs():
    name = "transpose(jvp(Net))/while/body/h_0/up/dot_general"
    inside = line("all-gather", "replica_groups=[2,4]<=[8]", name)
    (found,) = collectives_of(program(body=[inside]), MESH, PATHS)
    assert (found.path, found.count, found.bytes) == (("Net", "h_0", "up"), 3, 3 * 24)


def test_a_sum_of_which_each_takes_a_part_is_scattered():
    reduce = line("all-reduce", "replica_groups=[2,4]<=[8]")
    part = "  %s = f32[2] dynamic-slice(%all-reduce.1, %i), dynamic_slice_sizes={2}"
    (found,) = collectives_of(program(reduce, part), MESH, PATHS)
    assert (found.kind, found.bytes) == ("reduce-scatter", 24)
    half = part.replace("f32[2]", "f32[4]")
    assert collectives_of(program(reduce, half), MESH, PATHS)[0].kind == "all-reduce"
    other = "  %n = f32[8] negate(%all-reduce.1)"
    assert collectives_of(program(reduce, part, other), MESH, PATHS)[0].kind == "all-reduce"


@pytest.mark.parametrize(("mesh", "rules"), [("data=8", "data"), ("data=8", "zero1")])
def test_a_compiled_step_is_as_planned(mesh, rules):
    made = plans.plan(MLP(), "float32[16,64]", optimizer="adam", mesh=mesh, rules=rules, compile=True, remat=False)
    compiled = made.compiled
    seed = 8
    assert compiled.argument_bytes == made.memory.state + made.memory.batch + seed
    assert compiled.total_bytes == pytest.approx(made.memory.total, rel=0.05)
    planned = {}
    for each in (*made.costs.collectives, *made.update.collectives):
        planned[each.kind] = planned.get(each.kind, 0) + each.bytes
    found = {}
    for each in compiled.collectives:
        found[each.kind] = found.get(each.kind, 0) + each.bytes
        assert each.path in made.costs.by_path()
    assert {kind: found[kind] for kind in planned} == pytest.approx(planned, rel=0.1)


def test_what_a_loop_keeps_is_not_widened():
    def temporary(dtype):
        block = nn.Dense(64, dtype=dtype)
        deep = nn.Repeat(block, 16, remat=True, name="h")
        made = plans.plan(deep, f"{dtype}[512,64]", compile=True, remat=False)
        assert ("a CPU computes narrow floats in float32" in plans.as_text(made)) is (dtype == "bfloat16")
        return made.compiled.temp_bytes

    assert temporary("bfloat16") < 0.8 * temporary("float32")  # with the pass that takes conversions out, 1.2 times


def test_more_devices_than_there_are_here():
    done = CliRunner().invoke(
        app,
        ["plan", "tests.plan.test_compiled:model", "-i", "float32[16,64]", "--mesh", "data=16", "--compile", "--json"],
    )
    assert done.exit_code == 0, done.output
    read = json.loads(done.output)
    assert read["compiled"]["argument_bytes"] == read["bytes"]["state"] + read["bytes"]["batch"] + 8
    assert {(row["kind"], *row["axes"]) for row in read["compiled"]["collectives"]} == {("all-reduce", "data")}
    for words in (["--target", "tpu-v5e:4x4"], ["--compile", "--search", "4"]):
        wrong = CliRunner().invoke(app, ["plan", "tests.plan.test_compiled:model", "-i", "float32[16,64]", *words])
        assert wrong.exit_code == 2


def test_what_compiles_for_tpus_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.MissingPackageError, match=r"(?s)libtpu.*pip install 'jax\[tpu\]'"):
        plans.plan(MLP(), "float32[16,64]", mesh="data=16", compile=True, target="tpu-v5e:4x4")
    with pytest.raises(errors.ArgumentError, match="tpu-v5e:4x4"):
        plans.plan(MLP(), "float32[16,64]", compile=True, target="gpu")
