"""The page of mistakes: what batiste says is what stands there, with the path and the fix."""

import re

import pytest

pytest.importorskip(
    "equinox", reason="Equinox is not installed: the page compares with it, and comes with `make bench`"
)

from benchmarks import mistakes

TEXT = mistakes.PAGE.read_text(encoding="utf-8")
KNOWN = {"a token is out of range": "nothing"}  # under jit there is nothing to raise it; the output is NaN


@pytest.mark.usefixtures("users_rules")
@pytest.mark.parametrize("mistake", mistakes.MISTAKES, ids=lambda each: each.title)
def test_batiste_names_the_path_and_the_fix(mistake):
    found = mistakes.answer(mistakes.programs(mistake)["batiste"], mistake)
    wanted = KNOWN.get(mistake.title, "path + fix")
    assert mistakes.mark(found) == wanted, found.text
    assert f"| {mistake.title} | {wanted} |" in TEXT, "run python -m benchmarks.mistakes"
    assert f"batiste: {mistakes.line(found)}\n" in TEXT, "run python -m benchmarks.mistakes"


def test_the_page_has_every_mistake_and_counts_them():
    assert 25 <= len(mistakes.MISTAKES) <= 40
    rows = re.findall(r"^\| (.+?) \| (?:path|fix|nothing|neither)", TEXT, re.MULTILINE)
    assert rows == [mistake.title for mistake in mistakes.MISTAKES]
    marks = [row.split("|")[2].strip() for row in TEXT.splitlines() if row.startswith("| ") and "path + fix" in row]
    total = len(mistakes.MISTAKES)
    silent = sum(wanted == "nothing" for wanted in KNOWN.values())
    assert f"| says something | {total - silent} of {total} |" in TEXT
    assert marks


def test_a_silent_program_and_a_helpful_answer_are_told_apart():
    mistake = mistakes.Mistake("nothing", lambda _: None, None, None, "inner", "write")
    assert mistakes.mark(mistakes.answer(lambda: 1, mistake)) == "nothing"

    def fails():
        text = "at inner: write x"
        raise ValueError(text)

    assert mistakes.mark(mistakes.answer(fails, mistake)) == "path + fix"
    assert mistakes.mark(None) == "-"
