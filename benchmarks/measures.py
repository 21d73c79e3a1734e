"""What is measured: each function runs one contender once, in a process of its own, and returns its figures.

Seconds are CPU seconds of the process, all its threads together, unless the name ends in ``_wall``: wall time wavers
with what else the machine does. A figure of something warm is the median of some repetitions after one that is not
counted. Nothing is imported before it is needed, so that the first measure, the import, finds a clean interpreter.
"""

import collections
import ctypes
import gc
import importlib
import operator
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

Figures = dict[str, float]
Function = Callable[[], Any]

MODULES = MappingProxyType(
    {
        "raw": "jax",
        "batiste": "batiste.nn",  # what a model file needs: `import batiste` alone loads nothing
        "linen": "flax.linen",
        "nnx": "flax.nnx",
        "haiku": "haiku",
        "equinox": "equinox",
    }
)
NAMES = MappingProxyType(  # what the file of a small dense model names
    {
        "raw": ("numpy.tanh",),
        "batiste": ("Module", "compact", "Dense", "tanh"),
        "linen": ("Module", "compact", "Dense", "tanh"),
        "nnx": ("Module", "Rngs", "Linear", "tanh"),
        "haiku": ("Module", "transform", "Linear"),
        "equinox": ("Module", "nn.Linear"),
    }
)
COMPILED = "/jax/core/compile/backend_compile_duration"
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = ", re.MULTILINE)


def timed(function: Function) -> tuple[float, float]:
    """Return the CPU seconds and the wall seconds of one call, its results awaited."""
    import jax

    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(function())
    return time.process_time() - cpu, time.perf_counter() - wall


def median(function: Function, repeats: int, calls: int = 1) -> tuple[float, float]:
    """Return the median CPU and wall seconds of a call, over ``repeats`` times ``calls`` calls after a first one."""
    timed(function)

    def several() -> Any:
        for _ in range(calls - 1):
            function()
        return function()

    pairs = [timed(several) for _ in range(repeats)]
    return statistics.median(cpu for cpu, _ in pairs) / calls, statistics.median(wall for _, wall in pairs) / calls


def import_(contender: str, spec: Any, repeats: int) -> Figures:
    """Measure the import of a package, JAX's own included; and from there to the names of a small dense model."""
    del spec, repeats
    start, wall = time.process_time(), time.perf_counter()
    package = importlib.import_module(MODULES[contender])
    figures = {"import": time.process_time() - start, "import_wall": time.perf_counter() - wall}
    for name in NAMES[contender]:
        operator.attrgetter(name)(package)
    return figures | {"named": time.process_time() - start, "named_wall": time.perf_counter() - wall}


def _init(contender: str, spec: Any, *, jitted: bool) -> Figures:
    import jax

    from benchmarks import models
    from benchmarks.models import contract

    model = models.build(contender, spec)
    x, key = model.input(contract.batch(spec)[0]), jax.random.key(0)
    jax.block_until_ready((x, key))
    events: collections.Counter[str] = collections.Counter()
    jax.monitoring.register_event_duration_secs_listener(lambda event, _, **__: events.update([event]))
    made: list[Any] = []
    cpu, wall = timed(lambda: made.append((model.jitted_init if jitted else model.init)(key, x)) or made)
    elements = sum(leaf.size for leaf in jax.tree.leaves(made) if hasattr(leaf, "size"))
    expected = sum(shape_size(shape) for shape in contract.flatten(contract.layout(spec)[0]).values())
    if elements < expected:
        message = f"init made {elements} numbers where the model has {expected}"
        raise ValueError(message)
    found = contract.distinct_initialisers(spec)
    return {"init": cpu, "init_wall": wall, "programs": events[COMPILED], "initialisers": found}


def shape_size(shape: tuple[int, ...]) -> int:
    """Return how many elements an array of this shape has."""
    size = 1
    for axis in shape:
        size *= axis
    return size


def init(contender: str, spec: Any, repeats: int) -> Figures:
    """Measure the first ``init`` of a process, and count the programs that it compiles."""
    del repeats
    return _init(contender, spec, jitted=False)


def init_jit(contender: str, spec: Any, repeats: int) -> Figures:
    """Measure the first ``init`` of a process under ``jit``."""
    del repeats
    return _init(contender, spec, jitted=True)


def memory(name: str) -> int:
    """Return a figure of this process's memory in bytes, by its name in Linux's ``/proc/self/status``."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return 1024 * int(found.group(1)) if found else 0


def peak(contender: str, spec: Any, repeats: int) -> Figures:
    """Measure the most memory that a warm ``init`` holds beyond what the process held before it.

    The first ``init`` compiles; the second is measured. On an accelerator the device's own figure is used. On a CPU it
    is the peak of the resident set, which Linux can reset; the worker's environment has the allocator give the memory
    of every array back when it is freed.
    """
    import jax

    from benchmarks import models
    from benchmarks.models import contract

    del repeats
    model = models.build(contender, spec)
    x, key = model.input(contract.batch(spec)[0]), jax.random.key(0)
    jax.block_until_ready(model.init(key, x))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    made = jax.block_until_ready(model.init(key, x))
    most = memory("VmHWM") - before
    sizes = [4 * shape_size(shape) for shape in contract.flatten(contract.layout(spec)[0]).values()]
    del made
    return {"peak": most, "variables": sum(sizes), "allowed": sum(sizes) + max(sizes)}


def equations(jaxpr: Any) -> int:
    """Count the equations of a jaxpr, those of inner jaxprs included, each as often as it is called."""
    count = 0
    for equation in jaxpr.eqns:
        inner = [value for value in equation.params.values() if hasattr(value, "eqns")]
        count += 1 + sum(equations(getattr(value, "jaxpr", value)) for value in inner)
    return count


def _trace(contender: str, spec: Any, repeats: int, *, gradient: bool) -> Figures:
    import jax

    from benchmarks import models
    from benchmarks.models import contract

    model, params, state, x, y = models.packed(contender, spec)

    def objective(params: Any, state: Any, x: Any, y: Any) -> Any:
        outputs, new_state = model.train(params, state, x)
        return contract.loss(outputs, y), new_state

    traced: list[Any] = []

    def once() -> None:
        def function(*given: Any) -> Any:  # a new one each time, so that nothing is found in a cache
            return jax.value_and_grad(objective, has_aux=True)(*given) if gradient else model.apply(*given[:3])

        traced.append(jax.jit(function).trace(params, state, x, y))

    cpu, wall = median(once, repeats)
    return {"trace": cpu, "trace_wall": wall, "equations": equations(traced[0].jaxpr.jaxpr)}


def trace_apply(contender: str, spec: Any, repeats: int) -> Figures:
    """Measure tracing ``apply``."""
    return _trace(contender, spec, repeats, gradient=False)


def trace_grad(contender: str, spec: Any, repeats: int) -> Figures:
    """Measure tracing the loss and its gradient, as in training."""
    return _trace(contender, spec, repeats, gradient=True)


def eager(contender: str, spec: Any, repeats: int) -> Figures:
    """Measure ``apply`` outside of ``jit``, as the library's users call it."""
    from benchmarks import models

    model, params, state, x, _ = models.packed(contender, spec)
    function = model.bind(params, state)
    cpu, wall = median(lambda: function(x), repeats, calls=20)
    return {"call": cpu, "call_wall": wall}


def call(contender: str, spec: Any, repeats: int) -> Figures:
    """Measure a jitted call that takes the library's model or variables and computes next to nothing."""
    import jax

    from benchmarks import models

    model, params, state, x, _ = models.packed(contender, spec)
    container = model.container(params, state)
    function = model.jit(lambda given, x: x + sum(leaf.sum() for leaf in jax.tree.leaves(model.arrays(given))))
    cpu, wall = median(lambda: function(container, x), repeats, calls=200)
    return {"call": cpu, "call_wall": wall, "leaves": len(jax.tree.leaves(model.arrays(container)))}


def step(contender: str, spec: Any, repeats: int) -> Figures:
    """Measure trace, lowering, compilation and run of a training step with Adam, and count what is left of it.

    The step is the same pure function for everyone. ``instructions`` counts those of the optimised program, over all
    its computations.
    """
    import jax
    import optax

    from benchmarks import models
    from benchmarks.models import contract

    model, params, state, x, y = models.packed(contender, spec)
    optimizer = optax.adam(1e-3)
    carry = (params, state, optimizer.init(params))
    jitted = jax.jit(contract.functional_step(model, optimizer), donate_argnums=0)
    found: Figures = {}
    stage: Any = jitted
    for name, arguments in (("trace", (carry, x, y)), ("lower", ()), ("compile", ())):
        reached: list[Any] = []
        advance = getattr(stage, name)
        found[name], found[f"{name}_wall"] = timed(
            lambda advance=advance, reached=reached, given=arguments: reached.append(advance(*given))
        )
        stage = reached[0]
    compiled = stage
    found["instructions"] = len(INSTRUCTION.findall(compiled.as_text()))
    return found | _run(compiled, carry, x, y, repeats)


def _run(function: Callable[..., Any], carry: Any, x: Any, y: Any, repeats: int) -> Figures:
    """Measure calls of a training step that hands its own state on."""
    kept = [carry]

    def once() -> Any:
        kept[0], value = function(kept[0], x, y)
        return value

    cpu, wall = median(once, repeats, calls=10)
    return {"run": cpu, "run_wall": wall}


def train_state(contender: str, spec: Any, repeats: int) -> Figures:
    """Measure a training step as each library's users write it: with ``TrainState``, ``nnx.Optimizer`` or by hand."""
    import optax

    from benchmarks import models

    model, params, state, x, y = models.packed(contender, spec)
    function, carry = model.training(params, state, optax.adam(1e-3))
    return _run(function, carry, x, y, repeats)


MEASURES = MappingProxyType(
    {
        "import": import_,
        "init": init,
        "init_jit": init_jit,
        "peak": peak,
        "trace_apply": trace_apply,
        "trace_grad": trace_grad,
        "eager": eager,
        "call": call,
        "step": step,
        "train_state": train_state,
    }
)
