"""Programs written for Flax, each a file under `programs`, run on batiste with equal parameters, outputs and gradients.

Each file is loaded twice: once as it is, and once while `import flax` is served by batiste.
"""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste.compat.flax._serve import Server

FOLDER = Path(__file__).parent / "programs"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For what runs once: without these the compiler takes most of the time.

With them it rounds one initialiser differently in two programs, in the last bit. That the bits are Flax's is held by
the tests of the layers; here both libraries train from Flax's.
"""


@pytest.fixture(autouse=True)
def rules_of_users():
    """Programs are written under JAX's own rules, not under the stricter ones of the tests."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def load(name, library):
    """Load a program anew, as a module that is in `sys.modules` for the length of the test only."""
    full = f"programs_{library}_{name}"
    spec = importlib.util.spec_from_file_location(full, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[full]
    return module


def compiled(function, argument):
    return jax.jit(function).lower(argument).compile(compiler_options=QUICKLY)


def run(name, library, start=None):
    """Return the first variables, and from them or from others the loss with its outputs and gradients."""
    module = load(name, library)
    model, inputs, options, mutable, rngs = module.build()
    assert type(model).__mro__[-2].__module__.startswith("batiste" if library == "batiste" else "flax")
    variables = compiled(lambda keys: model.init(keys, *inputs, **options), rngs)(rngs)
    leaves = jax.tree.leaves(variables if start is None else start)
    start = jax.tree.unflatten(jax.tree.structure(variables), leaves)  # with the library's own boxes
    params = start["params"]
    rest = {collection: tree for collection, tree in start.items() if collection != "params"}
    draws = {stream: key for stream, key in rngs.items() if stream != "params"}

    def loss(params):
        outputs = model.apply({"params": params, **rest}, *inputs, **options, mutable=mutable, rngs=draws)
        leaves = [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(jnp.mean(jnp.square(leaf)) for leaf in leaves), outputs

    return variables, compiled(jax.value_and_grad(loss, has_aux=True), params)(params)


def paths(tree):
    """Return every leaf with its path; both libraries' boxes read the same."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.filterwarnings("ignore:SelfAttention:DeprecationWarning")  # both say that it will be
@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    wanted_variables, wanted = run(name, "flax")
    server = Server()
    with server:
        variables, got = run(name, "batiste", wanted_variables)
    assert list(server.missing) == []
    ours, theirs = paths(variables), paths(wanted_variables)
    assert list(ours) == list(theirs)
    assert str(jax.tree.map(jnp.shape, variables)) == str(jax.tree.map(jnp.shape, wanted_variables))
    for path, leaf in theirs.items():
        assert ours[path].dtype == leaf.dtype
        np.testing.assert_allclose(ours[path], leaf, rtol=1e-6, atol=1e-7, err_msg=path)
    ours, theirs = paths(got), paths(wanted)
    assert list(ours) == list(theirs)
    for path, leaf in theirs.items():
        np.testing.assert_allclose(ours[path], leaf, rtol=1e-6, atol=1e-6, err_msg=path)


def test_twelve_programs():
    assert len(PROGRAMS) == 12
