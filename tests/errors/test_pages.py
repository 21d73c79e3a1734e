"""The pages of ``docs/errors`` show the catalogue as it is."""

from docs.errors import generate


def test_pages_are_up_to_date():
    texts = dict(generate.pages())
    written = {path.name: path.read_text(encoding="utf-8") for path in generate.HERE.glob("*.md")}
    stale = sorted(name for name in {*texts, *written} if texts.get(name) != written.get(name))
    assert stale == [], "run python -m docs.errors.generate"


def test_pages_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "pages", lambda: iter([("index.md", "one"), ("core.md", "two")]))
    (tmp_path / "gone.md").write_text("old", encoding="utf-8")
    generate.write(tmp_path)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {
        "index.md": "one",
        "core.md": "two",
    }
