"""An ```output block of a page is what the program before it prints.

The Chinese pages are left out: `test_tutorial.py` holds that theirs are those of the English ones.
"""

import contextlib
import io
from itertools import pairwise
from pathlib import Path

import pytest

from tests.markdown import execute, fenced_blocks, program

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {"python", "output"}


def pages():
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return {name: text for name, text in texts.items() if "```output" in text and "/zh/" not in name}


PAGES = pages()


def language(block):
    return block.info.partition(" ")[0]


def differences(text, name):
    """Run a page; return the line of each output block that is not what was printed, with what was."""
    blocks = [block for block in fenced_blocks(text) if language(block) in LANGUAGES]
    wrong = []
    printed: str | None = ""
    with program("page") as module:
        for block in blocks:
            if language(block) == "python":
                with contextlib.redirect_stdout(io.StringIO()) as caught:
                    execute(block, name, module)
                printed = caught.getvalue() if block.runs else None  # its library is not installed
            elif printed is not None and block.source.strip() != printed.strip():
                wrong.append((block.line, printed))
    return wrong


@pytest.mark.usefixtures("users_rules")
@pytest.mark.parametrize("name", PAGES)
def test_prints_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert differences(PAGES[name], name) == []


@pytest.mark.parametrize("name", PAGES)
def test_follows_a_program(name):
    order = ["text", *(language(block) for block in fenced_blocks(PAGES[name]))]
    assert [before for before, after in pairwise(order) if after == "output" and before != "python"] == []


def test_a_wrong_output_is_found():
    page = "```python\nprint(1)\n```\n\n```output\n1\n```\n\n```python\nprint(2)\n```\n\n```output\n3\n```\n"
    assert differences(page, "page.md") == [(14, "2\n")]
