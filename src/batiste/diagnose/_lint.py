"""What is most likely a mistake in a model, found before it is trained, or from two of its checkpoints.

What can be read from the program is read from the program (``_program.py``): which parameters reach an output by a way
that gradients take, and which outputs depend on an input. What needs numbers is measured once, on the inputs that are
given: gradients of random sums of the outputs, with a little noise on the parameters, so that what is zero only at the
first step (the last scale of a residual branch) is not taken for dead; and the size of activations and gradients along
the chain of layers as the parameters are.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import function, refused
from batiste.diagnose._capture import capture
from batiste.diagnose._evaluate import called, is_branch
from batiste.diagnose._findings import Finding, Findings
from batiste.diagnose._program import (
    Call,
    Calls,
    Program,
    Subject,
    is_closed,
    is_inexact,
    is_literal,
    scan_extents,
    subject_of,
    trace,
)
from batiste.module import Blueprint, methods_using, setup_children, union_of
from batiste.nn import Dropout
from batiste.tree import flatten

__all__ = ["lint", "never_updated"]

_RATIO = 1e4
_LEAST_DEPTH = 6
_UPDATE_MOST, _UPDATE_LEAST = 1.0, 1e-7
_NOISES = 2
_CUTS = frozenset({"stop_gradient", "argmax", "argmin", "sign", "round", "floor", "ceil", "is_finite"})


def lint(
    model: Any,
    variables: Any,
    *inputs: Any,
    optimizer: Any = None,
    loss: Callable[..., Any] | None = None,
    rngs: Any = None,
    mutable: Any = None,
    method: Any = None,
    calls: Any = None,
    **kwargs: Any,
) -> Findings:
    """Return what is most likely a mistake in a model.

    A finding has one of these kinds; its path is that of the variable or of the module:

    * ``dead parameter``: no gradient reaches a leaf of ``params`` from any output.
    * ``unused variable``: a leaf is read by nobody. ``unused submodule``: ``setup`` makes it, and it is
      never called; the methods that would call it are named.
    * ``constant output``: an output depends on no input.
    * ``bias before norm``: a batch norm takes away the bias that the layer before adds.
    * ``vanishing activations``, ``exploding activations``, ``vanishing gradients``, ``exploding gradients``: along the
      chain of at least six layers with parameters the size changes by a factor of 10,000 or more.
    * ``large update``, ``small update``: the first step of ``optimizer`` would change a kernel by more than its own
      size, or by less than one part in ten millions.

    Args:
      model: a module.
      variables: its variables, as ``init`` makes them.
      *inputs: what it is called with; more than one example is needed for most of the checks.
      optimizer: an optimiser of Optax with the learning rate that is meant; without one updates are not looked at.
      loss: from the output to a number; by default a random sum of the outputs.
      rngs: the random streams; those that are asked for and not given get a key.
      mutable: as for ``apply``; by default every collection given but ``params``.
      method: as for ``apply``.
      calls: in the place of inputs and ``method`` several calls, as for ``init``.
      **kwargs: keyword arguments of the call, or of each of the calls.

    Raises:
      ArgumentError: ``model`` is no module, or another argument is not in its domain.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose, nn
      >>> class Model(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         self.param("scale", nn.initializers.ones, (3,))
      ...         return nn.Dense(4)(x)
      >>> x = jnp.arange(6.0).reshape(2, 3)
      >>> variables = Model().init(jax.random.key(0), x)
      >>> [(found.kind, found.path) for found in diagnose.lint(Model(), variables, x)]
      [('unused variable', 'params/scale')]
    """
    if not isinstance(model, Blueprint):
        raise refused(model, "model", "lint", "a module", "Give the module and not its apply.")
    if loss is not None:
        function(loss, "loss", "lint", what="a function of the output")
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise refused(optimizer, "optimizer", "lint", "an optimiser of Optax", "Make one: optax.adam(1e-3).")
    if calls is not None:
        method = union = union_of(model, calls, inputs, method)
        inputs = union.inputs
    subject = subject_of(
        model, variables, inputs, rngs=rngs, mutable=mutable, method=method, kwargs=kwargs, where="lint"
    )
    watch = _Watch()
    program = trace(subject.function, subject.arguments, Calls(on_input=watch.before, on_output=watch.note))
    found = Findings(subject.name)
    flows = _Flows(program)
    found.extend(flows.unused())
    found.extend(watch.unused_submodules(subject.arguments["variables"]))
    found.extend(flows.constant_outputs(subject))
    found.extend(watch.biases())
    dead = [*flows.dead()]
    found.extend(dead)
    if _has_values(subject):
        known = {each.path for each in found}
        found.extend(each for each in _zero_gradients(subject) if each.path not in known)
        found.extend(_depth(model, subject, watch, inputs, kwargs, method, loss))
        if optimizer is not None:
            found.extend(_updates(subject, optimizer, loss))
    return found


def never_updated(before: Any, after: Any) -> Findings:
    """Return the leaves that are the same, bit for bit, in two trees: those of two checkpoints of one run.

    Args:
      before: a tree of arrays, such as ``checkpoint.open(path).tree()["params"]``.
      after: the same tree later in the run.

    Raises:
      ArgumentError: the trees have no leaf in common.

    Example:
      >>> import numpy as np
      >>> from batiste import diagnose
      >>> before = {"head": np.zeros(2), "body": np.ones(2)}
      >>> after = {"head": np.full(2, 0.5), "body": np.ones(2)}
      >>> diagnose.never_updated(before, after).paths()
      ['body']
    """
    one, two = flatten(before), flatten(after)
    shared = [path for path in one if path in two]
    if not shared:
        raise refused(after, "after", "never_updated", "the tree of a later checkpoint, with the leaves of the first")
    found = Findings("checkpoints")
    for path in shared:
        left, right = np.asarray(one[path]), np.asarray(two[path])
        if left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes():
            text = f"{left.dtype}{list(left.shape)} has not changed a bit between the checkpoints"
            found.append(
                Finding("never updated", path, text, "Is it frozen on purpose? If not, no gradient reaches it.")
            )
    return found


def _has_values(subject: Subject) -> bool:
    return not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(subject.arguments))


# --- what is seen while the model is traced


class _Watch:
    """Notes what calls return, which layers have parameters of their own, and which submodules are called."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[str, Any]] = {}
        self._kept: list[Any] = []
        self._biases: list[Finding] = []
        self._called: set[tuple[str, ...]] = set()
        self._declared: dict[tuple[str, ...], tuple[str, list[str]]] = {}
        self.chain: list[str] = []

    def note(self, call: Call, module: Any, output: Any) -> Any:
        """Note a call that has ended."""
        self._called.add(call.path)
        for attribute, child in setup_children(module):
            run: Any = getattr(cast("Any", type(child)), "__call__", None)  # noqa: B004 - the method itself is looked at
            is_level = getattr(run, "is_wrapped_method", False)  # what is not, such as Repeat, is no level of its own
            here, there = tuple(module.scope.path), () if child.scope is None else tuple(child.scope.path)
            if is_level and there[: len(here)] == here != there and not isinstance(child, Dropout):
                users = methods_using(cast("type[Any]", type(module)), attribute)
                self._declared.setdefault((*call.path, *there[len(here) :]), (type(child).__name__, users))
        own = dict(module.variables.get("params", {})) if module.scope is not None else {}
        arrays = {name for name, leaf in own.items() if not isinstance(leaf, Mapping)}
        if arrays & {"kernel", "embedding", "weight"} and call.method == "__call__":
            self.chain.append(call.text)
            if "bias" in arrays and is_inexact(output):
                self._made[id(output)] = (call.text, call.kind)
                self._kept.append(output)
        return output

    def before(self, call: Call, module: Any, given: Any) -> None:
        """Note what a batch norm is given."""
        if "BatchNorm" not in call.kind and "batch_norm" not in call.kind.lower():
            return
        if getattr(module, "use_bias", True) is False:
            return
        for leaf in jax.tree.leaves(given):
            if (owner := self._made.get(id(leaf))) is not None:
                text = f"adds a bias that {call.text} takes away again"
                advice = f"Write use_bias=False: {owner[1]}(..., use_bias=False)."
                self._biases.append(Finding("bias before norm", owner[0], text, advice, owner[1]))

    def biases(self) -> list[Finding]:
        """Return the biases that a batch norm takes away."""
        return self._biases

    def unused_submodules(self, variables: Mapping[str, Any]) -> Iterator[Finding]:
        """Yield the submodules that are set up and never called, nor any of theirs, and have no variables."""
        for path, (kind, users) in self._declared.items():
            has_variables = any(_has_path(tree, path) for tree in variables.values())
            if not has_variables and not any(other[: len(path)] == path for other in self._called):
                text = f"is a submodule, {kind}, that is never called"
                methods = f" It is used by {', '.join(users)}: init(..., calls=[...])." if users else ""
                advice = f"Call it, or take it out of setup.{methods}"
                yield Finding("unused submodule", "/".join(path), text, advice, kind)


def _has_path(tree: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return False
        tree = cast("Mapping[str, Any]", tree)[name]
    return True


# --- what is read from the program


class _Flows:
    """What depends on what, in a program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        jaxpr = program.jaxpr
        self._inputs = [*jaxpr.constvars, *jaxpr.invars]
        self._is_read = _reaching(jaxpr, [True] * len(jaxpr.outvars), gradients=False)
        outputs = [is_inexact(atom.aval) for atom in jaxpr.outvars]
        self._has_gradient = _reaching(jaxpr, outputs, gradients=True)

    def _named(self, reached: Sequence[bool]) -> Iterator[tuple[str, Any, bool]]:
        skip = len(self._program.jaxpr.constvars)
        for name, leaf, mark in zip(self._program.names, self._program.flat, reached[skip:], strict=True):
            if name.startswith("variables/"):
                yield name.removeprefix("variables/"), leaf, mark

    def unused(self) -> Iterator[Finding]:
        """Yield the variables that no output is computed from."""
        for path, _, is_read in self._named(self._is_read):
            if not is_read:
                text = "is read by nobody: no output is computed from it"
                yield Finding("unused variable", path, text, "Take it out of the model, or call what it belongs to.")

    def dead(self) -> Iterator[Finding]:
        """Yield the parameters that are read, and that no gradient reaches."""
        read = {path for path, _, mark in self._named(self._is_read) if mark}
        for path, leaf, mark in self._named(self._has_gradient):
            if path.startswith("params/") and path in read and is_inexact(leaf) and not mark:
                yield _dead(path)

    def constant_outputs(self, subject: Subject) -> Iterator[Finding]:
        """Yield the outputs that depend on no input."""
        jaxpr = self._program.jaxpr
        skip = len(jaxpr.constvars)
        marks = [False] * skip + [name.startswith("inputs") for name in self._program.names]
        if not any(marks):
            return
        reached = _reached_from(jaxpr, marks)
        structure = self._program.out_tree
        numbered: Any = jax.tree.unflatten(structure, list(range(len(reached))))
        alone = numbered[0] if subject.is_model and _is_pair(numbered) else numbered
        for path, index in cast("list[tuple[Any, int]]", jax.tree_util.tree_flatten_with_path(alone)[0]):  # pyright: ignore[reportUnknownMemberType]
            if not reached[index]:
                name = f"{subject.name}{jax.tree_util.keystr(path)}"
                yield Finding("constant output", name, "depends on no input", "Is an input left out on the way?")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(cast("Any", value)) == 2 and isinstance(cast("Any", value)[1], Mapping)


def _dead(path: str) -> Finding:
    text = "gets no gradient from any output: training does not change it"
    return Finding("dead parameter", path, text, "Is it behind a stop_gradient, multiplied by zero, or a constant?")


def _reaching(jaxpr: Any, wanted: Sequence[bool], *, gradients: bool) -> list[bool]:
    """Return for each constant and input of a program whether a wanted output needs it.

    Args:
      jaxpr: the program.
      wanted: which outputs.
      gradients: whether only ways count that gradients take.
    """
    needed = {atom for atom, mark in zip(jaxpr.outvars, wanted, strict=True) if mark and not is_literal(atom)}
    for equation in reversed(jaxpr.eqns):
        marks = [var in needed for var in equation.outvars]
        if not any(marks):
            if equation.effects and not gradients:
                needed.update(atom for atom in equation.invars if not is_literal(atom))
            continue
        through = _through(equation, marks, gradients=gradients)
        for atom, mark in zip(equation.invars, through, strict=True):
            if mark and not is_literal(atom) and (not gradients or is_inexact(atom.aval)):
                needed.add(atom)
    return [var in needed for var in (*jaxpr.constvars, *jaxpr.invars)]


def _through(equation: Any, marks: list[bool], *, gradients: bool) -> list[bool]:
    name, params = equation.primitive.name, equation.params
    if gradients and name in _CUTS:
        return [False] * len(equation.invars)
    if name == "scan" and scan_extents(params) is not None:
        first, carried = cast("tuple[int, int]", scan_extents(params))
        body = params["jaxpr"].jaxpr
        while True:  # what the carry needs grows until it is stable
            inner = _reaching(body, marks, gradients=gradients)[len(body.constvars) :]
            grown = [old or new for old, new in zip(marks[:carried], inner[first:], strict=False)]
            if grown == marks[:carried]:
                return inner
            marks = [*grown, *marks[carried:]]
    if is_branch(equation):
        found = [False] * len(equation.invars)
        for branch in params["branches"]:
            inner = _reaching(branch.jaxpr, marks, gradients=gradients)[len(branch.jaxpr.constvars) :]
            found = [old or new for old, new in zip(found, [not gradients, *inner], strict=True)]
        return found
    inner = None if name == "while" or name.startswith("custom_vjp") else called(equation)
    if inner is not None:
        jaxpr = inner.jaxpr if is_closed(inner) else inner
        if len(jaxpr.invars) == len(equation.invars) and len(jaxpr.outvars) == len(marks):
            return _reaching(jaxpr, marks, gradients=gradients)[len(jaxpr.constvars) :]
    return [True] * len(equation.invars)


def _reached_from(jaxpr: Any, marks: Sequence[bool]) -> list[bool]:
    """Return for each output of a program whether it may depend on a constant or input that is marked."""
    marked = {var for var, mark in zip((*jaxpr.constvars, *jaxpr.invars), marks, strict=True) if mark}
    for equation in jaxpr.eqns:
        given = [not is_literal(atom) and atom in marked for atom in equation.invars]
        if any(given):
            marked.update(var for var, mark in zip(equation.outvars, _onward(equation, given), strict=True) if mark)
    return [not is_literal(atom) and atom in marked for atom in jaxpr.outvars]


def _onward(equation: Any, given: list[bool]) -> list[bool]:
    inner = None if equation.primitive.name in {"scan", "while"} or is_branch(equation) else called(equation)
    jaxpr: Any = getattr(inner, "jaxpr", inner)
    if jaxpr is None or len(jaxpr.invars) != len(given) or len(jaxpr.outvars) != len(equation.outvars):
        return [True] * len(equation.outvars)
    return _reached_from(jaxpr, [*([False] * len(jaxpr.constvars)), *given])


# --- what is measured


def _noisy(params: Any, number: int) -> Any:
    """Return the parameters with noise of a size that nothing hides."""

    def add(path: Any, leaf: Any) -> Any:
        if not is_inexact(leaf):
            return leaf
        seed = zlib.crc32(jax.tree_util.keystr(path).encode()) % 2**31
        noise = jax.random.normal(jax.random.key(seed + number), leaf.shape, jnp.float32)
        return (leaf + 0.1 * noise).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(add, params)


def _random_sum(output: Any) -> Any:
    """Return a number that every element of every output counts in, with a weight of its own."""
    total: Any = jnp.zeros(())
    for number, leaf in enumerate(jax.tree.leaves(output)):
        if is_inexact(leaf):
            weights = jax.random.normal(jax.random.key(number), leaf.shape, jnp.float32)
            total += jnp.sum(weights * jnp.real(leaf).astype(jnp.float32))
    return total


def _gradient(subject: Subject, loss: Callable[..., Any] | None) -> Callable[[Any], Any]:
    def of_params(params: Any) -> Any:
        output = subject.function(
            {**subject.arguments, "variables": {**subject.arguments["variables"], "params": params}}
        )
        return _random_sum(output) if loss is None else loss(output[0] if _is_pair(output) else output)

    return cast("Callable[[Any], Any]", jax.jit(jax.grad(of_params)))


def _zero_gradients(subject: Subject) -> Iterator[Finding]:
    """Yield the parameters whose gradient is nothing but zeros, with every noise."""
    params = subject.arguments["variables"].get("params")
    leaves = jax.tree.leaves(params)
    if not leaves or not all(is_inexact(leaf) for leaf in leaves):
        return
    gradient = _gradient(subject, None)
    largest: dict[str, float] = {}
    for number in range(_NOISES):
        for path, leaf in flatten(gradient(_noisy(params, number))).items():
            size = float(jnp.max(jnp.abs(leaf))) if leaf.size else 1.0
            largest[path] = max(largest.get(path, 0.0), 1.0 if math.isnan(size) else size)
    for path, size in largest.items():
        if size == 0:
            yield _dead(f"params/{path}")


def _depth(
    model: Any,
    subject: Subject,
    watch: _Watch,
    inputs: Any,
    kwargs: Mapping[str, Any],
    method: Any,
    loss: Callable[..., Any] | None,
) -> Iterator[Finding]:
    """Yield what vanishes or explodes along the chain of layers with parameters."""
    chain = list(dict.fromkeys(watch.chain))
    variables, rngs = subject.arguments["variables"], subject.arguments["rngs"] or None
    mutable = [name for name in variables if name != "params"] or False
    total = loss or _random_sum
    for what, words in (("values", "activations"), ("gradients", "gradients")):
        run = capture(model, [*_patterns(chain)], what=cast("Any", what), loss=total)
        found = run(variables, *inputs, rngs=rngs, mutable=mutable, method=method, **kwargs)
        if sum(math.prod(loops) for loops in found.loops.values()) < _LEAST_DEPTH:
            return
        sizes = _sizes(found, what)
        if any(size == 0 for _, size in sizes) and "params" in variables:  # such as branches with a last scale of zero
            noisy = {**variables, "params": _noisy(variables["params"], 0)}
            later = dict(_sizes(run(noisy, *inputs, rngs=rngs, mutable=mutable, method=method, **kwargs), what))
            sizes = [(path, size) for path, size in sizes if size != 0 or later.get(path) == 0]
        if not sizes:
            continue
        if what == "gradients":
            sizes.reverse()
        groups: dict[str, list[tuple[str, float]]] = {}
        for path, size in sizes:
            groups.setdefault(re.sub(r"\d+", "#", path), []).append((path, size))
        longest: list[tuple[str, float]] = max(groups.values(), key=len)
        yield from list(_trend(longest, words)) or _trend(sizes[:-1], words)  # the head's values are often small


def _sizes(found: Any, what: str) -> list[tuple[str, float]]:
    """Return the size of each value that was captured, and of each turn of a loop; none that is not finite."""
    single = [
        (path if not loops else f"{path}[{turn}]", value if not loops else value[turn])
        for path, value in found.values.items()
        for loops in [found.loops[path]]
        for turn in range(loops[0] if loops else 1)
    ]
    sizes = [(path, _size(value, what)) for path, value in single]
    return [(path, size) for path, size in sizes if size is not None and math.isfinite(size)]


def _patterns(chain: Sequence[str]) -> Iterator[str]:
    for path in chain:
        yield "".join(f"[{letter}]" if letter in "*?[]{}" else letter for letter in path) if "*" not in path else path


def _size(value: Any, what: str) -> float | None:
    if not is_inexact(value) or not value.size:
        return None
    numbers = np.asarray(jnp.abs(value).astype(jnp.float32), np.float64)
    total = float(np.sqrt((numbers**2).sum()))
    return total if what == "gradients" else total / math.sqrt(numbers.size)


def _trend(sizes: Sequence[tuple[str, float]], words: str) -> Iterator[Finding]:
    """Yield a finding where the size changes by a large factor, step by step, from the first layer to the last."""
    if len(sizes) < _LEAST_DEPTH:
        return
    (first, start), (last, end) = sizes[0], sizes[-1]
    if start == 0 or end == 0:
        if end == 0 and start > 0:
            at = next(path for path, size in sizes if size == 0)
            yield Finding(f"vanishing {words}", at, f"are zero from here on, {start:.3g} at {first}", _ADVICE[words])
        return
    ratio = end / start
    if 1 / _RATIO < ratio < _RATIO:
        return
    steps = np.diff(np.log([size for _, size in sizes if size > 0]))
    if np.mean(np.sign(steps) == np.sign(math.log(ratio))) < 0.6:  # one jump is no trend
        return
    kind = "exploding" if ratio > 1 else "vanishing"
    text = f"{'grow' if ratio > 1 else 'shrink'} from {start:.3g} at {first} to {end:.3g} at {last}"
    yield Finding(f"{kind} {words}", last, text, _ADVICE[words])


_ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "activations": "Use an initialiser that suits the activation (he_normal for relu), or normalisation.",
        "gradients": "Use residual branches, normalisation, or an activation that does not saturate.",
    }
)


def _updates(subject: Subject, optimizer: Any, loss: Callable[..., Any] | None) -> Iterator[Finding]:
    """Yield the kernels that the first step changes far too much, or not at all."""
    params = subject.arguments["variables"]["params"]
    gradients = _gradient(subject, loss)(params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    weights, changes = flatten(params), flatten(updates)
    for path, weight in weights.items():
        both = [np.ravel(np.asarray(one, np.float32)) for one in (weight, changes[path])]
        size, change = (float(np.linalg.norm(one)) for one in both)
        if weight.ndim < 2 or size == 0 or change == 0:
            continue
        ratio = change / size
        text = f"would be changed by {ratio:.2g} of its size in the first step"
        if ratio > _UPDATE_MOST:
            yield Finding("large update", f"params/{path}", text, "Use a smaller learning rate, or a warm-up.")
        elif ratio < _UPDATE_LEAST:
            yield Finding("small update", f"params/{path}", text, "Use a larger learning rate.")
