"""Ratios, marks, tables, the filled page and the picture, from figures that are given."""

import io
import json

import pytest
from rich.console import Console

from benchmarks import gpu_table, picture, report, results, rows, table
from benchmarks.ratios import Mark, Spread, figures, held, ratios, spread
from benchmarks.rows import Bar, Row

ROW = Row("trace", "trace of it", "trace_apply", ("trace",), bars=(Bar("trace", 1.15), Bar("trace", 1 / 3, "linen")))
SAMPLES = [
    {"raw": {"trace": 1.0}, "batiste": {"trace": 1.1}, "linen": {"trace": 3.0}},
    {"raw": {"trace": 2.0}, "batiste": {"trace": 2.0}, "linen": {"trace": 5.0}},
    {"raw": {"trace": 1.0}, "batiste": {"trace": 1.3}, "linen": {"trace": 4.0}},
]
RESULTS = {"trace": {"samples": SAMPLES, "absent": {"haiku": "haiku is not installed"}}}


def test_spread_is_median_smallest_and_largest():
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([]) is None
    assert str(Spread(1.234, 1.2, 1.3)) == "1.23 (1.2-1.3)"
    assert str(Spread(2.0, 2.0, 2.0)) == "2"


def test_ratios_are_taken_within_a_round():
    found = ratios(SAMPLES, "batiste", "trace", "raw")
    assert found == Spread(1.1, 1.0, 1.3)
    assert figures(SAMPLES, "raw", "trace") == [1.0, 2.0, 1.0]


def test_a_round_without_one_of_both_is_left_out():
    partly = [*SAMPLES, {"raw": {"trace": 1.0}}, {"raw": {}, "batiste": {"trace": 9.0}}]
    assert ratios(partly, "batiste", "trace", "raw") == Spread(1.1, 1.0, 1.3)
    assert ratios(SAMPLES, "nnx", "trace", "raw") is None


def test_a_ratio_may_be_to_another_row_or_to_another_figure():
    others = [{"linen": {"init": 16.0}}, {"linen": {"init": 32.0}}]
    mine = [{"batiste": {"init": 1.0, "programs": 6, "initialisers": 6}}] * 2
    found = {"one": {"samples": mine}, "two": {"samples": others}}
    row = Row("one", "", "init", ("init",))
    assert held(Bar("init", 1 / 12, "linen", row="two"), row, found) == (Mark.MET, Spread(0.046875, 0.03125, 0.0625))
    assert held(Bar("programs", 1.0, "", other="initialisers"), row, found) == (Mark.MET, Spread(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("limit", "mark"), [(1.15, Mark.MET), (1.1, Mark.MET), (1.09, Mark.NOT_MET)], ids=["above", "equal", "below"]
)
def test_the_median_is_held_against_the_bar(limit, mark):
    assert held(Bar("trace", limit), ROW, RESULTS)[0] is mark


def test_what_was_not_measured_has_its_own_mark():
    assert held(Bar("trace", 1.0), ROW, {}) == (Mark.NOT_MEASURED, None)
    assert held(Bar("trace", 1.0, row="other"), ROW, RESULTS) == (Mark.NOT_MEASURED, None)
    assert held(Bar("trace", 1.0, contender="nnx"), ROW, RESULTS) == (Mark.NOT_MEASURED, None)


def test_a_line_has_every_ratio_and_every_mark():
    (line,) = table.lines(ROW, RESULTS, ("batiste", "linen", "nnx", "haiku"))
    assert line.base == "1 s"
    assert line.cells == ("1.1 (1-1.3)", "3 (2.5-4)", "", "absent")
    assert line.bars == (
        ("≤ 1.15 of raw JAX: 1.1 (1-1.3)", Mark.MET),
        ("≤ 1/3 of Linen: 0.367 (0.325-0.4)", Mark.NOT_MET),
    )


def test_a_line_without_a_bar_says_so():
    (line,) = table.lines(Row("trace", "", "trace_apply", ("trace",)), RESULTS, ())
    assert line.bars == (("", Mark.NO_BAR),)


def test_tables_are_printed_with_marks():
    console = Console(width=160, record=True, file=io.StringIO())
    for drawn in table.terminal(RESULTS, [ROW]):
        console.print(drawn)
    text = console.export_text()
    assert "✓ met" in text
    assert "✗ not met" in text
    assert list(table.terminal({}, [ROW])) == []


def test_markdown_has_the_rows_that_were_not_measured_too():
    text = table.markdown({}, [ROW])
    assert "| trace of it |" in text
    assert text.count("? not measured") == 2


@pytest.mark.parametrize(
    ("figure", "value", "text"),
    [
        ("run", 2.5, "2.5 s"),
        ("run", 0.0123, "12.3 ms"),
        ("run", 4.5e-5, "45 µs"),
        ("programs", 1234, "1,234"),
        ("peak", 3 * 2**20, "3 MiB"),
        ("peak", 2048, "2 KiB"),
    ],
    ids=str,
)
def test_amounts_have_units(figure, value, text):
    assert table.amount(figure, value) == text


@pytest.mark.parametrize(
    ("limit", "text"), [(1 / 3, "1/3"), (1 / 12, "1/12"), (0.4, "0.4"), (1.0, "1"), (1.15, "1.15")]
)
def test_limits_are_written_as_people_do(limit, text):
    assert table.named(limit) == text


def test_rows_are_found_by_pattern():
    names = [row.name for row in rows.ROWS]
    assert len(names) == len(set(names))
    assert {row.name for row in rows.selected(["trace_apply_*"])} < set(names)
    assert rows.selected(["nothing"]) == []
    assert [row.name for row in rows.selected([])] == names


def test_bars_name_figures_rows_and_contenders_that_exist():
    known = {row.name: row for row in rows.ROWS}
    for row in rows.ROWS:
        for bar in row.bars:
            taking_part = row.contenders + row.long
            assert bar.figure in row.figures
            assert bar.contender in taking_part
            assert not bar.against or bar.against in (known[bar.row].contenders if bar.row else taking_part)


def test_raw_jax_and_batiste_always_take_part():
    (row,) = rows.selected(["step_12"])
    assert rows.partners(row, [], long=False) == ["raw", "batiste"]
    assert rows.partners(row, ["nnx"], long=False) == ["raw", "batiste", "nnx"]


def test_unrolled_depths_are_an_option():
    (row,) = rows.selected(["depth_48"])
    assert "raw" not in rows.partners(row, [], long=False)
    assert "raw" in rows.partners(row, [], long=True)


def test_the_page_is_filled_and_filled_again():
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    once = report.fill(page, {"x": r"new \1"})
    assert once == "a\n<!-- x -->\n\nnew \\1\n\n<!-- end of x -->\nb\n"
    assert report.fill(once, {"x": r"new \1"}) == once
    with pytest.raises(ValueError, match="0 places for 'y'"):
        report.fill(page, {"y": ""})


def test_the_readme_has_a_place_for_every_part(tmp_path):
    folder, page = tmp_path / "results", tmp_path / "README.md"
    found = {"title": "t", "rounds": 3, "machine": results.machine(), "absent": {}, "samples": SAMPLES}
    results.write(folder, "trace_apply_48", found)
    page.write_text(report.README.read_text(encoding="utf-8"), encoding="utf-8")
    report.write(folder, page, tmp_path / "picture.svg")
    text = page.read_text(encoding="utf-8")
    assert "| trace of apply, 48 blocks: trace | 1 s | 1.1 (1-1.3) | 3 (2.5-4) |" in text
    assert "; 3 rounds." in text
    assert gpu_table.NOT_AT_HAND in text


def test_the_picture_is_the_same_for_the_same_figures(tmp_path):
    found = {"trace_apply_48": RESULTS["trace"]}
    picture.draw(found, tmp_path / "one.svg")
    picture.draw(found, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    picture.draw({}, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_the_accelerators_table_says_what_is_not_known():
    figure = {"step": 0.5, "rate": 1000.0, "utilisation": 0.41, "peak": 2**31, "compile": 3.0}
    model = {
        "shape": "batch 2",
        "unit": "tokens",
        "contenders": {"raw": "raw JAX", "torch": "PyTorch", "nnx": "NNX"},
        "absent": {"torch": "torch is not installed"},
        "samples": [{"raw": figure, "nnx": {**figure, "step": 1.0, "utilisation": None, "peak": None}}],
    }
    found = {"device": "a card", "jax": "0.11", "rounds": 1, "tiny": False, "models": {"GPT-2": model}}
    text = gpu_table.markdown(json.loads(json.dumps(found)))
    assert "| raw JAX | 500 ms | 1.000 | 1,000 | 41.0 % | 2.0 GiB | 3.0 s |" in text
    assert "| NNX | 1000 ms | 2.000 | 1,000 | not known | not known | 3.0 s |" in text
    assert "| PyTorch | torch is not installed | | | | | |" in text


def test_no_number_on_the_page_is_typed_by_hand(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(report.README.read_text(encoding="utf-8"), encoding="utf-8")
    report.write(results.FOLDER, page, tmp_path / "picture.svg")
    assert page.read_text(encoding="utf-8") == report.README.read_text(encoding="utf-8")
