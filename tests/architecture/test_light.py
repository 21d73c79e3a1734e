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


FIRST_NAMED_IN_A_TRACE = """
import jax
from batiste import nn

before = set(vars(nn))

@jax.jit
def named(x):
    for name in nn.__all__:
        getattr(nn, name)
    return nn.Dense(2).apply({"params": {"kernel": x, "bias": x[0]}}, x)

with jax.checking_leaks():
    named(jax.numpy.ones((2, 2)))
assert "Dense" not in before and set(nn.__all__) <= set(vars(nn))
dense = nn.Dense(2)
variables = dense.init(jax.random.key(0), jax.numpy.ones((2, 2)))
print(jax.tree.map(lambda leaf: leaf.shape, variables["params"]))
"""


def test_layers_may_be_named_first_inside_a_trace(fresh_python):
    answer = fresh_python(FIRST_NAMED_IN_A_TRACE)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "{'bias': (2,), 'kernel': (2, 2)}"


def test_importing_the_layers_loads_none(fresh_python):
    loaded = "{name for name in sys.modules if name.startswith(('batiste.nn.', 'batiste.lift', 'batiste.shard'))}"
    answer = fresh_python(f"import sys, batiste.nn; print({loaded})")
    assert (answer.returncode, answer.stdout.strip()) == (0, "set()"), answer.stderr
