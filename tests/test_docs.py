"""The programs in the README, the docs and the docstrings run.

Every ```python block of a Markdown file is executed, in order, in one namespace per file; the files that a program
writes go to a temporary folder. A block marked `python no-run` is only compiled, and `ONLY_COMPILED` counts each. One
marked `python needs=haiku` is about that library, and only compiled where it is not installed.

Pages with ```output blocks are run, in the same way, by `tests/examples/test_outputs.py`, and not here again.
"""

import ast
import doctest
import importlib
import importlib.util
import inspect
import io
import re
import traceback
from collections import Counter
from pathlib import Path
from types import MappingProxyType

import pytest

from docs import house, reference_pages
from tests.markdown import execute, program, python_blocks

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"

ONLY_COMPILED: MappingProxyType[str, int] = MappingProxyType(
    {"docs/concepts/processes.md": 1, "docs/migrating/from_flax.md": 1}
)
"""How many blocks of which file are not run: each needs its reason in the text above it."""


def markdown_files() -> dict[str, str]:
    """Return the text of the README and of every page of the docs, by its path in the repository."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


PAGES = {name: text for name, text in markdown_files().items() if python_blocks(text)}
PROGRAMS = {name: text for name, text in PAGES.items() if "```output" not in text or "/zh/" in name}
NEEDED = {block.needs: name for name, text in PAGES.items() for block in python_blocks(text) if block.needs}


@pytest.mark.usefixtures("users_rules")
@pytest.mark.parametrize("name", PROGRAMS)
def test_blocks_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with program("page") as module:
        for block in python_blocks(PROGRAMS[name]):
            execute(block, name, module)


def test_exceptions_are_counted():
    found = Counter(
        name for name, text in PAGES.items() for block in python_blocks(text) if "no-run" in block.info.split()
    )
    assert dict(found) == dict(ONLY_COMPILED)


@pytest.mark.parametrize("library", NEEDED)
def test_pages_about_another_library_name_it(library):
    assert set(NEEDED) == {"flax", "haiku", "equinox", "torch", "keras"}
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: its programs in {NEEDED[library]} are compiled and not run")
    needing = [block for block in python_blocks(PAGES[NEEDED[library]]) if block.needs == library]
    assert len(needing) >= 3
    assert all(block.runs for block in needing)


def test_blocks_share_a_namespace_and_errors_name_their_line():
    page = "```python\nx = 1\n```\n\n- item\n\n  ```python\n  y = x + 1\n  ```\n\n```python\nraise KeyError(y)\n```\n"
    first, second, third = python_blocks(page)
    with program("page") as module:
        execute(first, "page.md", module)
        execute(second, "page.md", module)
        assert module.y == 2
        with pytest.raises(KeyError) as raised:
            execute(third, "page.md", module)
    last = traceback.extract_tb(raised.tb)[-1]
    assert (last.filename, last.lineno) == ("page.md", 12)


def test_other_languages_and_nested_fences_are_not_programs():
    page = "```text\nx =\n```\n\n````markdown\n```python\nx =\n```\n````\n\n```pythonic\nx =\n```\n"
    assert python_blocks(page) == []


def test_a_block_marked_no_run_is_compiled_only():
    (block,) = python_blocks("```python no-run\nraise SystemExit\n```\n")
    (broken,) = python_blocks("```python no-run\nx =\n```\n")
    with program("page") as module:
        execute(block, "page.md", module)
        with pytest.raises(SyntaxError):
            execute(broken, "page.md", module)


def prose(text):
    """Return a page without its blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *(```+).*?^ *\1", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(text):
    """Return the names of a page's headings as links have them, by GitHub's rule and by that of Sphinx."""
    outside = re.sub(r"^ *(```+).*?^ *\1", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = [heading.strip().lower() for heading in re.findall(r"^#+ +(.*)", outside, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings} | {
        re.sub(r"\W+", "-", heading).strip("-") for heading in headings
    }


def broken_links(root):
    """Yield the links within the project's pages that lead nowhere."""
    generated = {f"{name}.md" for name in reference_pages.public_modules(SOURCE)}
    for path in [
        *root.glob("*.md"),
        *(page for top in ("docs", "benchmarks", "examples") for page in (root / top).rglob("*.md")),
    ]:
        if path.is_relative_to(root / "docs" / "reference" / "api"):
            continue
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
            aim, _, fragment = link.partition("#")
            target = (path.parent / aim).resolve() if aim else path
            if ":" in aim or (target.parent.name == "api" and target.name in generated):
                continue
            text = target.read_text(encoding="utf-8") if target.suffix == ".md" and target.exists() else ""
            if not target.exists() or (fragment and text and fragment not in anchors(text)):
                yield f"{path.relative_to(root)}: {link}"


def test_links_lead_somewhere():
    assert list(broken_links(ROOT)) == []


def test_a_broken_link_is_found(tmp_path):
    page = "# One *two*\n\n[a](#one-two) [b](other.md) [c](#three) `[d](none)` [e](https://example.org)\n"
    (tmp_path / "page.md").write_text(page, encoding="utf-8")
    assert list(broken_links(tmp_path)) == ["page.md: other.md", "page.md: #three"]


@pytest.mark.parametrize("name", tuple(reference_pages.public_modules(SOURCE)))
def test_reference_has_every_public_name(name):
    page = reference_pages.page(SOURCE, name)
    missing = [public for public in importlib.import_module(name).__all__ if not re.search(rf"\b{public}\b", page)]
    assert missing == []


def docstring_examples():
    """Yield the examples of each docstring as a test of its own, with no more names than it imports."""
    parser = doctest.DocTestParser()
    for path in sorted((SOURCE / "batiste").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if ">>> " in text else ():
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                said = ast.get_docstring(node) or ""
                name = f"{path.relative_to(SOURCE)}:{getattr(node, 'name', '')}"
                if ">>> " in said:
                    yield parser.get_doctest(said, {"__name__": "__main__"}, name, str(path), None)


EXAMPLES = tuple(docstring_examples())
NOT_RUN = frozenset({"Aim", "Mlflow", "Wandb", "compile_cache", "from_datasets", "from_tf", "from_torch", "launch"})
"""Whose example is not run: it needs a package that tests lack, sets JAX for the whole process, or starts others."""


@pytest.mark.usefixtures("users_rules")
@pytest.mark.parametrize("file", sorted({example.name.partition(":")[0] for example in EXAMPLES}))
def test_docstring_examples_run(file, tmp_path, monkeypatch):
    report = io.StringIO()
    failed = 0
    for number, example in enumerate(each for each in EXAMPLES if each.name.partition(":")[0] == file):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        failed += runner.run(example, out=report.write).failed
    assert failed == 0, report.getvalue()


def test_examples_that_do_not_run_are_counted():
    skipped = {
        example.name.partition(":")[2]
        for example in EXAMPLES
        if any(doctest.SKIP in line.options for line in example.examples)
    }
    assert skipped == NOT_RUN


OTHERWISE = ("batiste.cli", "batiste.compat", "batiste.errors")
"""Packages whose examples are elsewhere: pages of the docs, Flax's own documentation, the catalogue of errors."""


@pytest.mark.parametrize(
    "name", [each for each in reference_pages.public_modules(SOURCE) if not each.startswith(OTHERWISE)]
)
def test_public_names_have_examples(name):
    module = importlib.import_module(name)
    values = {public: getattr(module, public) for public in module.__all__}
    missing = [public for public, value in values.items() if is_ours(value) and not has_example(value)]
    assert missing == []


def is_ours(value):
    return str(getattr(value, "__module__", "")).startswith("batiste")


def has_example(value):
    """Return whether the docstring of a function or class, or of one of its methods, has an example that runs."""
    told = (
        [value, *(member for name, member in vars(value).items() if name[0] != "_")]
        if inspect.isclass(value)
        else [value]
    )
    return any(">>> " in (inspect.getdoc(each) or "") for each in told)


def test_the_picture_of_the_house_is_the_one_that_the_layers_make():
    drawn = house.drawn()
    assert house.PICTURE.read_text(encoding="utf-8") == drawn, "run python -m docs.house"
    assert [name for floor in house.floors() for name in floor if f">{name}</text>" not in drawn] == []
    page = (ROOT / "docs" / "concepts" / "architecture.md").read_text(encoding="utf-8")
    assert [name for floor in house.floors() for name in floor if f"`{name}`" not in page] == []
