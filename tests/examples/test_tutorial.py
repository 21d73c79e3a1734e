"""The tutorial is one: in both languages the same pages, with the same programs and the same results."""

import ast
import re
from pathlib import Path

import pytest

from tests.markdown import fenced_blocks, python_blocks

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = ROOT / "docs" / "tutorial" / "en"
CHINESE = ROOT / "docs" / "tutorial" / "zh"
PAGES = sorted(path.name for path in ENGLISH.glob("*.md"))


def statements(source):
    """Return a program without what is written for people: comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def programs(text):
    return [statements(block.source) for block in python_blocks(text)]


def outputs(text):
    return [block.source for block in fenced_blocks(text) if block.info == "output"]


def read(folder, name):
    return (folder / name).read_text(encoding="utf-8")


def test_the_same_pages():
    assert sorted(path.name for path in CHINESE.glob("*.md")) == PAGES
    steps = sorted(path.stem.removeprefix("step_") for path in (ROOT / "examples" / "day05").glob("step_*.py"))
    assert [name.removesuffix(".md") for name in PAGES if name != "index.md"] == steps


@pytest.mark.parametrize("name", PAGES)
def test_the_same_programs_and_results(name):
    english, chinese = read(ENGLISH, name), read(CHINESE, name)
    assert programs(chinese) == programs(english)
    assert outputs(chinese) == outputs(english)


@pytest.mark.parametrize("name", PAGES)
def test_each_in_its_language(name):
    def prose(text):
        return re.sub(r"```.*?```", "", text, flags=re.DOTALL)

    headings = [len(re.findall(r"^#+ ", prose(read(folder, name)), re.MULTILINE)) for folder in (ENGLISH, CHINESE)]
    assert headings[0] == headings[1]
    assert not re.search(r"[\u4e00-\u9fff]", read(ENGLISH, name))
    assert all(re.search(r"[\u4e00-\u9fff]", part) for part in re.split(r"^#+ ", prose(read(CHINESE, name)))[1:])


def test_only_comments_and_docstrings_may_differ():
    one = 'def f():\n    """Say one."""\n    return 1  # one\n'
    same = 'def f():\n    """说一。"""\n    return 1  # 一\n'
    other = 'def f():\n    """Say one."""\n    return 2  # one\n'
    assert statements(one) == statements(same)
    assert statements(one) != statements(other)
