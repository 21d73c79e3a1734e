"""Installed Flax as the oracle: one function compares a layer of ours with Linen's in all that it does.

`compare` holds, for one pair of Modules and one set of inputs:

- `init` of ours, and of Linen's under `jax.jit`: the same tree, dtypes and bits;
- `apply` under `jax.jit`, for each `Mode`: the same outputs and the same mutated collections;
- the gradient of a fixed sum of the outputs with respect to every variable and every input, likewise.

To be fast, both Modules run in one program, each on arguments of its own, so that the compiler cannot take one's
computation for the other's; and default initialisers are replaced by one that is cheap to compile and different for
every key: what random initialisers draw is compared in `test_initializers.py`. `exact=False` compares within a
tolerance, for layers that compute the same in another order.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

QUICKLY = {"xla_backend_optimization_level": 0}
"""Options with which a program compiles fast: what such a test takes is the compiling."""


@dataclasses.dataclass(frozen=True)
class Mode:
    """One way to call a Module.

    `kwargs` are not traced; `rngs` are seeds by stream.
    """

    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mutable: Sequence[str] = ()
    rngs: Mapping[str, int] = dataclasses.field(default_factory=dict)
    method: str | None = None


DEFAULT = Mode()


def compare(
    ours: Any,
    theirs: Any,
    *args: Any,
    modes: Sequence[Mode] = (DEFAULT,),
    init: Mode = DEFAULT,
    exact: bool = True,
    tolerance: float = 1e-6,
    gradients: bool = True,
    cheap: bool = True,
) -> Any:
    """Compare two Modules on `args`; return our initial variables, for more tests."""
    if cheap:
        ours, theirs = cheapened(ours), cheapened(theirs)
    arrays = _arrays(args)
    variables = _init(ours, args, init)
    expected = jax.jit(lambda *arrays: _init(theirs, _refill(args, arrays), init))(*arrays)
    assert_same(variables, expected, exact=exact, tolerance=tolerance, what="initial variables")
    for mode, results in zip(modes, _run((ours, theirs), variables, args, modes, gradients=gradients), strict=True):
        for what, ours_part, theirs_part in zip(("outputs", "mutated", "gradients"), *results, strict=True):
            assert_same(ours_part, theirs_part, exact=exact, tolerance=tolerance, what=f"{what} of {mode}")
    return variables


def drawn(seed: int, *shape: int, dtype: Any = jnp.float32) -> Any:
    """Return normal numbers by NumPy: those of `jax.random` take 0.35 s of CPU to compile, for each shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_same(ours: Any, theirs: Any, *, exact: bool = True, tolerance: float = 1e-6, what: str = "trees") -> None:
    """Assert that two trees of arrays have the same paths, shapes and dtypes, and (nearly) the same values."""
    ours_leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(ours)}
    theirs_leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(theirs)}
    kinds = [
        {path: (jnp.shape(leaf), str(jnp.result_type(leaf))) for path, leaf in leaves.items()}
        for leaves in (ours_leaves, theirs_leaves)
    ]
    assert kinds[0] == kinds[1], what
    for path, leaf in ours_leaves.items():
        here, there = np.asarray(leaf), np.asarray(theirs_leaves[path])
        if exact or not jnp.issubdtype(here.dtype, jnp.inexact):
            assert here.tobytes() == there.tobytes() or np.array_equal(here, there, equal_nan=True), (what, path)
        else:
            wide = [np.asarray(array, np.complex128) for array in (here, there)]
            np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance, err_msg=f"{what} {path}")


def cheap_initializer(key: Any, shape: Any, dtype: Any = jnp.float32) -> Any:
    """Return values that differ from key to key, are exact in every dtype, and take no time to compile."""
    seed = jnp.sum(jax.random.key_data(key) >> 8) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jnp.sum(key)
    numbers = jnp.arange(np.prod(shape, dtype=int), dtype=jnp.uint32) * 37 + seed.astype(jnp.uint32)
    return ((numbers % 64).astype(jnp.float32) / 32 - 1).astype(dtype).reshape(shape)


def cheapened(module: Any) -> Any:
    """Return the Module with `cheap_initializer` for every initialiser that was left at its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(module) if field.name.endswith("_init")}
    unset = [name for name, default in defaults.items() if callable(default) and getattr(module, name) == default]
    return module.clone(**dict.fromkeys(unset, cheap_initializer)) if unset else module


def _init(module: Any, args: Sequence[Any], mode: Mode) -> Any:
    rngs = {"params": jax.random.key(0)} | _streams(mode)
    return module.init(rngs, *args, method=mode.method, **mode.kwargs)


def _streams(mode: Mode) -> dict[str, Any]:
    return {name: jax.random.key(seed) for name, seed in mode.rngs.items()}


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | jax.Array)


def _arrays(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if _is_array(leaf)]


def _refill(tree: Any, arrays: Sequence[Any]) -> Any:
    rest = iter(arrays)
    return jax.tree.map(lambda leaf: next(rest) if _is_array(leaf) else leaf, tree)


def _run(modules: Sequence[Any], variables: Any, args: Any, modes: Sequence[Mode], *, gradients: bool) -> Any:
    """Return outputs, mutated collections and gradients of each mode and Module, all from one program."""
    given = [jnp.asarray(leaf) for leaf in _arrays((variables, args))]
    is_wanted = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in given]

    def loss(wanted: list[Any], others: list[Any], module: Any, mode: Mode) -> tuple[Any, Any]:
        first, second = iter(wanted), iter(others)
        filled = _refill((variables, args), [next(first if w else second) for w in is_wanted])
        mutable = list(mode.mutable) or False
        options = {"rngs": _streams(mode), "mutable": mutable, "method": mode.method}
        result = module.apply(filled[0], *filled[1], **options, **mode.kwargs)
        outputs, mutated = result if mutable else (result, {})
        return _weighted_sum(outputs), (outputs, mutated)

    def one(module: Any, mode: Mode, wanted: list[Any], others: list[Any]) -> tuple[Any, Any, Any]:
        if not gradients:
            return (*loss(wanted, others, module, mode)[1], {})
        grads, results = jax.grad(loss, has_aux=True)(wanted, others, module, mode)
        return (*results, grads)

    def run(each: list[tuple[list[Any], list[Any]]]) -> list[Any]:
        return [[one(module, mode, *own) for module, own in zip(modules, each, strict=True)] for mode in modes]

    wanted = [leaf for leaf, w in zip(given, is_wanted, strict=True) if w]
    others = [leaf for leaf, w in zip(given, is_wanted, strict=True) if not w]
    return jax.jit(run, compiler_options=QUICKLY)([(wanted, others) for _ in modules])


def _weighted_sum(outputs: Any) -> Any:
    """Return a sum of all numbers in `outputs`, each with a weight of its own."""
    total = jnp.float32(0)
    for leaf in jax.tree.leaves(outputs):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            real = jnp.real(leaf).astype(jnp.float32)
            total += jnp.sum(real * jnp.sin(jnp.arange(real.size, dtype=jnp.float32)).reshape(real.shape))
    return total
