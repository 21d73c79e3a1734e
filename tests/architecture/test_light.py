"""`import batiste` loads JAX, NumPy and the standard library, and nothing else: asked in a fresh interpreter."""

import json

import pytest

ASK = """
import json
import sys

import jax
import jax.numpy
import numpy

before = {name.partition(".")[0] for name in sys.modules}
exec(sys.argv[1])
after = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(after - before - sys.stdlib_module_names - {"batiste"})))
"""


@pytest.fixture
def loaded_by(fresh_python):
    """Return a function that names the packages that a statement loads besides JAX, NumPy and the standard library."""

    def ask(statement: str) -> list[str]:
        answer = fresh_python(ASK, statement)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    return ask


@pytest.mark.parametrize("statement", ["import batiste", "import batiste.nn", "import batiste.core"])
def test_light(loaded_by, statement):
    assert loaded_by(statement) == []


def test_a_heavy_import_is_seen(loaded_by):
    assert "optax" in loaded_by("import optax")
    assert "rich" in loaded_by("import batiste, rich.table")
