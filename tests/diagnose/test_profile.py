"""Where the time goes by module path: no test looks at how long anything took, only at what it is counted for."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import nn
from batiste.core import flops
from batiste.diagnose import Profile, ProfileRow, profile, summary
from batiste.diagnose._compiled import read_compiled
from batiste.diagnose._flame import Bar, flame
from batiste.diagnose._timeline import IDLE, WINDOW, Event, events_of, shared_out
from batiste.errors import ArgumentError
from tests.nn.oracle import drawn

X = drawn(0, 32, 16)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(16, name="down")(nn.relu(nn.Dense(64, name="up")(x)))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Repeat(Block(), 3, name="h")(x)
        return nn.Dense(2, name="head")(x)


@pytest.fixture(scope="module")
def measured():
    model = Net()
    return profile(model, model.init(jax.random.key(1), X), X, runs=2)


def test_the_rows_add_up_to_the_time_of_a_run(measured):
    assert measured.runs == 2
    assert math.isclose(sum(row.seconds for row in measured.rows), measured.seconds, rel_tol=1e-9)
    assert math.isclose(measured.attributed + measured.unattributed, measured.seconds, rel_tol=1e-9)
    whole = sum(sum(passes.values()) for path, passes in measured.by_path().items() if path == "" or path[0] == "[")
    assert math.isclose(whole, measured.seconds, rel_tol=1e-9)
    assert "[no operation]" in measured.by_path()  # waiting is listed, too


def test_each_module_is_there_in_both_passes(measured):
    found = {(row.path, row.which) for row in measured.rows if row.seconds > 0}
    for path in ("h_*/up", "h_*/down", "head"):
        assert {(path, "forward"), (path, "backward")} <= found
    assert {row.kind for row in measured.rows if row.path == "h_*/up"} == {"Dense"}


def test_flops_are_those_of_the_products_and_those_of_the_summary(measured):
    of = {(row.path, row.which): row.flops for row in measured.rows}
    assert of["h_*/up", "forward"] == 3 * 2 * 32 * 16 * 64
    assert of["h_*/up", "backward"] == 2 * of["h_*/up", "forward"]  # of the kernel, and of what came in
    forward = sum(row.flops for row in measured.rows if row.which == "forward")
    assert forward == summary(Net(), X).flops
    assert measured.flops == sum(of.values())


def test_the_summary_takes_shares_of_time_from_a_profile(measured):
    table = summary(Net(), X).timed(measured)
    times = {path: sum(passes.values()) / measured.seconds for path, passes in measured.by_path().items()}
    shares = {row.path: row.time_share for row in table.modules}
    assert shares["Net"] == times[""]
    assert shares["h_*/up"] == times["h_*/up"]
    lines = table.select("h_*/up").module_table().splitlines()
    assert lines[0].endswith("  time")
    assert lines[1].endswith(f"{times['h_*/up']:.1%}")
    assert "time" not in summary(Net(), X).module_table()
    with pytest.raises(ArgumentError, match="takes what batiste"):
        table.timed(table)


def test_memory_at_the_peak_is_near_what_the_compiler_needs(measured):
    peak = sum(row.peak_bytes for row in measured.rows)
    assert 0.8 * measured.temporary_bytes < peak < 1.25 * measured.temporary_bytes


def test_a_step_is_run_as_it_is_and_its_optimiser_is_outside_of_modules():
    model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(2)])
    variables = model.init(jax.random.key(1), X)

    def step(variables, x):
        loss, gradients = jax.value_and_grad(lambda given: jnp.mean(model.apply(given, x) ** 2))(variables)
        return jax.tree.map(lambda a, b: a - 0.1 * b, variables, gradients), loss

    found = profile(jax.jit(step, donate_argnums=0), variables, X, runs=1)
    times = found.by_path()
    assert found.name == "step"
    assert {"forward", "backward"} <= set(times["layers_0"])
    assert "[outside of modules]" in times
    assert math.isclose(sum(row.seconds for row in found.rows), found.seconds, rel_tol=1e-9)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(variables))


def test_two_models_in_one_function_are_kept_apart():
    class Other(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(16, name="head")(x)

    class One(Other):
        pass

    one, two = One(), Other()
    given = one.init(jax.random.key(0), X), two.init(jax.random.key(0), X)
    found = profile(lambda given, x: one.apply(given[0], two.apply(given[1], x)), given, X, runs=1)
    assert {"One/head", "Other/head"} <= {row.path for row in found.rows}


def test_a_kept_trace_is_read_alone(tmp_path):
    first = profile(lambda x: jnp.sin(x) @ x.T, X, runs=1, folder=tmp_path)
    second = profile(lambda x: jnp.sin(x) @ x.T, X, runs=3, folder=tmp_path)
    assert (first.runs, second.runs) == (1, 3)
    assert list(tmp_path.glob("**/*.xplane.pb"))


# --- the timeline


def times_of(operations, windows=((0, 100),), containers=()):
    spans = [Event(WINDOW, *window) for window in windows]
    return shared_out(spans, [Event(*each) for each in operations], lambda name: name in containers)


def test_moments_belong_to_what_runs_and_are_shared():
    assert times_of([("a", 10, 30), ("b", 50, 60)]) == {"a": 20, "b": 10, IDLE: 70}
    assert times_of([("a", 0, 100), ("b", 50, 100)]) == {"a": 75, "b": 25}
    assert times_of([("a", -50, 20), ("b", 90, 300)]) == {"a": 20, "b": 10, IDLE: 70}
    assert times_of([("a", 0, 30)], windows=((10, 20), (25, 40))) == {"a": 15, IDLE: 10}


def test_a_loop_has_the_moments_in_which_nothing_within_it_runs():
    assert times_of([("loop", 0, 100), ("a", 10, 50), ("b", 60, 90)], containers=("loop",)) == {
        "a": 40, "b": 30, "loop": 30,
    }  # fmt: skip


def test_random_timelines_add_up():
    random = np.random.default_rng(0)
    for _ in range(20):
        starts = random.integers(0, 1000, 60)
        operations = [(f"op{n % 7}", int(start), int(start + random.integers(0, 90))) for n, start in enumerate(starts)]
        windows = ((0, 300), (310, 700), (700, 1200))
        assert math.isclose(sum(times_of(operations, windows, {"op0"}).values()), 300 + 390 + 500)


def plane(*events):
    made = [SimpleNamespace(name=name, start_ns=at, duration_ns=long, stats=stats) for name, at, long, stats in events]
    return SimpleNamespace(name="/device:GPU:0", lines=[SimpleNamespace(name="Stream #1", events=made)])


def test_operations_are_known_by_their_name_in_the_program_and_end_where_another_thread_ends_them():
    windows, operations = events_of(
        plane(
            (WINDOW, 0, 90, []),
            ("loop_add_fusion", 5, 10, [("hlo_op", "add.1"), ("hlo_module", "jit_f")]),
            ("dot.2", 20, 5, [("hlo_op", "dot.2"), ("_p", 7)]),
            ("end: dot.2", 60, 1, [("_c", 7)]),
            ("MemcpyD2H", 70, 5, []),
        )
    )
    assert windows == [Event(WINDOW, 0, 90)]
    assert operations == [Event("add.1", 5, 15), Event("dot.2", 20, 60)]


# --- the compiled program

TEXT = """
HloModule jit_f, is_scheduled=true

%fused (p.0: f32[8]) -> f32[8] {
  %p.0 = f32[8]{0} parameter(0)
  ROOT %m.0 = f32[8]{0} multiply(%p.0, %p.0), metadata={op_name="jit(f)/transpose(jvp(batiste:2))/mul"}
}

%body (c.0: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c.0 = (s32[], f32[8]{0}) parameter(0)
  %i.0 = s32[] get-tuple-element(%c.0), index=0
  %v.0 = f32[8]{0} get-tuple-element(%c.0), index=1
  %w.0 = f32[16]{0} broadcast(%i.0), dimensions={}
  %u.0 = f32[8]{0} slice(%w.0), slice={[0:8]}
  ROOT %t.0 = (s32[], f32[8]{0}) tuple(%i.0, %u.0)
}

%condition (c.1: (s32[], f32[8])) -> pred[] {
  %c.1 = (s32[], f32[8]{0}) parameter(0)
  ROOT %k.0 = pred[] constant(true)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0), metadata={op_name="x"}
  %a = bf16[4,8]{1,0} broadcast(%x), dimensions={1}, metadata={op_name="jit(f)/batiste:0/batiste:1/add"}
  %b = f32[8]{0} fusion(%x, %a), kind=kLoop, calls=%fused
  %n = s32[] constant(0)
  %t = (s32[], f32[8]{0}) tuple(%n, %b)
  %l = (s32[], /*index=1*/f32[8]{0}) while(%t), condition=%condition, body=%body, metadata={op_name="f/batiste:3/while"}
  %g = f32[8]{0} get-tuple-element(%l), index=1
  ROOT %r = f32[8]{0} copy(%g)
}
"""


def test_places_come_from_the_scopes_from_what_was_fused_and_from_the_loop_around():
    program = read_compiled(TEXT)
    calls = {name: place and (place.call, place.is_backward) for name, place in program.places.items()}
    assert program.entry == "main"
    assert calls["a"] == (1, False)
    assert calls["b"] == (2, True)
    assert calls["w.0"] == (3, False)
    assert calls["x"] == (None, False)
    assert calls["r"] == (3, False)  # it copies what the loop gives
    assert calls["n"] == (3, False)  # and this is what the loop begins with
    assert program.operations["l"].is_container
    assert not program.operations["b"].is_container


def test_the_peak_is_where_most_results_are_alive():
    # a is read for the last time by b; the loop writes into b, and needs w and u within
    assert read_compiled(TEXT).peak() == {"b": 32, "w.0": 64, "u.0": 32}


# --- what is shown

ROWS = (
    ProfileRow("", "Net", "forward", 0.001, 0, 0),
    ProfileRow("a<b", "Dense", "forward", 0.004, 4_000_000, 100),
    ProfileRow("a<b", "Dense", "backward", 0.003, 8_000_000, 0),
    ProfileRow("[no operation]", "", "", 0.002, 0, 0),
)
SHOWN = Profile("Net", "cpu", 3, 0.01, ROWS, 2048)


def test_the_table_has_every_row_with_what_is_below():
    lines = str(SHOWN).splitlines()
    assert lines[0] == (
        "Net on cpu: 10 ms a run (mean of 3), 80% of it in modules, 1.2 GFLOP/s, 2.05 kB between arguments and results"
    )
    assert [line.split("  ")[0].strip() or line.split()[0] for line in lines[2:]] == ["Net", "a<b", "[no operation]"]
    assert "80.0%" in lines[2]
    assert "12 M" in lines[2]
    assert "1.71 G" in lines[3]
    assert SHOWN.to_json()["rows"][1]["flops_per_second"] == 1e9
    assert SHOWN.by_path(0) == {"": {"forward": 0.005, "backward": 0.003}, "[no operation]": {"": 0.002}}


def test_the_picture_has_a_bar_as_wide_as_the_time_of_each_path():
    picture = SHOWN.to_svg()
    assert picture.count("<g>") == 3  # Net, its part, and the wait
    assert "Net/a&lt;b: 70.0% (forward 4 ms, backward 3 ms)" in picture
    assert 'x="400.00" y="68.0" width="300.00"' in picture  # the backward pass
    assert "<script" not in picture
    assert flame([Bar(("f",), "", 0.0)], 0.0, "nothing").startswith("<svg")
    assert "<table>" in SHOWN._repr_html_()


def test_products_of_the_shared_count_are_those_of_the_program():
    equation = jax.make_jaxpr(lambda x: x @ x.T)(X).jaxpr.eqns[-1]
    assert flops(equation) == 2 * 32 * 32 * 16
