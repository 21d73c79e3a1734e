"""Every error of batiste: the smallest program raises it, and its text says what to write instead."""

import ast
import inspect
import pickle
import re
import string
from pathlib import Path

import pytest

from batiste import errors
from batiste.errors import BatisteError, BatisteWarning, nearest
from tests.errors.rows import rows

SOURCE = Path(inspect.getfile(errors)).parent.parent
ROWS = tuple(rows())
KINDS = tuple(
    kind
    for name in errors.__all__
    if inspect.isclass(kind := getattr(errors, name)) and issubclass(kind, BatisteError | BatisteWarning)
)
ERRORS = tuple(kind for kind in KINDS if issubclass(kind, BatisteError))


def is_base(kind: type) -> bool:
    """Say whether a class only stands for others: it has subclasses and is raised by nobody."""
    return any(kind in other.__bases__ for other in KINDS) and kind not in {row.kind for row in ROWS}


def text_of(raised: BaseException) -> str:
    return " ".join(str(raised).split())


@pytest.mark.usefixtures("users_rules")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_smallest_program(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if issubclass(row.kind, BatisteWarning):
        with pytest.warns(row.kind) as caught:
            row.program()
        raised = caught[0].message
    else:
        with pytest.raises(row.kind) as failed:
            row.program()
        raised = failed.value
        assert type(raised) is row.kind
    text = text_of(raised)
    for part in row.says:
        assert part in text, f"{part!r} is not in: {text}"
    assert not re.search(r"\{[a-z_]+[!:}]", text), f"a field was not filled in: {text}"
    assert "  " not in str(raised).replace("\n  ", ""), f"two spaces: {raised}"
    assert "?." not in text, text
    assert not re.search(r" [.,;:](\s|$)", text), f"a space before a stop: {text}"
    assert "<locals>" not in text.replace(f"{row.program.__name__}.<locals>", ""), text
    assert "batiste._" not in text, text
    if all(isinstance(value, str | int | float | tuple | None) for value in getattr(raised, "context", {}).values()):
        again = pickle.loads(pickle.dumps(raised))  # noqa: S301 - its own bytes
        assert (type(again), str(again)) == (row.kind, str(raised))
        assert getattr(again, "context", {}) == getattr(raised, "context", {})


def test_every_error_has_a_row():
    missing = {kind.__name__ for kind in KINDS if kind not in {row.kind for row in ROWS} and not is_base(kind)}
    assert sorted(missing - {"BatisteWarning"}) == []


def test_every_class_is_exported():
    # `batiste.compat` gives errors Flax's names in modules of its own, which are loaded here if another test has.
    def below(kind):
        for sub in kind.__subclasses__():
            if sub.__module__.startswith("batiste.") and not sub.__module__.startswith("batiste.compat."):
                yield sub
            yield from below(sub)

    assert {kind.__name__ for base in (BatisteError, BatisteWarning) for kind in below(base)} <= set(errors.__all__)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_classes_are_complete(kind):
    if kind is not BatisteError and not is_base(kind):
        assert "code" in vars(kind), "a code of its own"
        assert "message" in vars(kind), "a message of its own"
    assert re.fullmatch(r"[a-z0-9]+/[a-z0-9-]+", kind.code)
    assert kind.__doc__
    assert kind.hint or is_base(kind) or kind is BatisteError
    for text in (kind.message, kind.hint):
        fields = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        assert all(re.fullmatch(r"[a-z_]+", name) for name in fields)


def test_codes_are_unique():
    codes = [kind.code for kind in ERRORS]
    assert sorted({code for code in codes if codes.count(code) > 1}) == []


def test_nearest():
    assert nearest("kernal", ["bias", "kernel"]) == " Did you mean 'kernel'?"
    assert nearest("kernel", ["bias"]) == ""
    assert nearest("kernel", []) == ""


def test_an_error_is_read_by_programs():
    error = errors.ScopeParamShapeError(name="kernel", path="/", given=(1,), expected=(2,))
    assert error.context == {"name": "kernel", "path": "/", "given": (1,), "expected": (2,)}
    assert error.code == "core/param-shape"
    assert str(error).endswith("[core/param-shape]")
    assert "ScopeParamShapeError(" in repr(error)


def test_a_row_shows_its_program():
    row = next(row for row in ROWS if row.program.__name__ == "a_blueprint_is_called")
    assert row.source == "nn.Dense(2)(x)"


def test_whoever_raises_an_error_gives_what_its_text_names():
    """A field that is not given would only be noticed when the text is printed."""
    problems = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            kind = getattr(errors, node.func.id, None)
            if kind not in ERRORS or any(keyword.arg is None for keyword in node.keywords):
                continue
            given = {keyword.arg for keyword in node.keywords}
            named = {name for text in (kind.message, kind.hint) for _, name, _, _ in string.Formatter().parse(text)}
            missing, unused = named - {None} - given, given - named
            if missing or unused or node.args:
                problems.append(f"{path.relative_to(SOURCE)}:{node.lineno}: {node.func.id} {missing=} {unused=}")
    assert problems == []
