"""One measurement in a process of its own: ``python -m benchmarks.worker ROW LIBRARY`` prints a line of JSON.

What is cold (an import, an ``init`` that compiles) can be measured once in a process. What is warm is measured for all
libraries in one process, one after the other in a shuffled order, many times over, so that a noisy machine is as noisy
for each.
"""

import collections
import functools
import importlib
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

LIBRARIES = {"batiste": "batiste.nn", "linen": "flax.linen", "raw": None}
Sample = dict[str, float]


def cpu(function: Callable[[], Any]) -> float:
    """Return the CPU seconds of this process that a call takes, its results awaited."""
    import jax

    start = time.process_time()
    jax.block_until_ready(function())
    return time.process_time() - start


def cold_init(library: str, blocks: int, *, jitted: bool) -> Sample:
    """Measure the first ``init`` of a transformer, and count the programs that it compiles."""
    import jax
    import jax.numpy as jnp

    from benchmarks import models

    x, key = jnp.ones((models.BATCH, models.LENGTH, models.WIDTH)), jax.random.key(0)
    jax.block_until_ready((x, key))
    if library == "raw":
        init: Callable[..., Any] = lambda key, _: models.raw_init(key, blocks)  # noqa: E731
    else:
        init = models.transformer(importlib.import_module(LIBRARIES[library] or ""), blocks).init
    events: collections.Counter[str] = collections.Counter()
    jax.monitoring.register_event_duration_secs_listener(lambda event, _, **__: events.update([event]))
    seconds = cpu(lambda: (jax.jit(init) if jitted else init)(key, x))
    return {"seconds": seconds, "programs": events["/jax/core/compile/backend_compile_duration"]}


def warm(functions: dict[str, Callable[[], Any]], rounds: int, repeat: int) -> list[Sample]:
    """Measure functions in turn, ``repeat`` calls at a time; return CPU seconds a call, by library, for each round."""
    for function in functions.values():
        cpu(function)
    samples: list[Sample] = []
    for round_ in range(rounds):
        order = list(functions)
        random.Random(round_).shuffle(order)  # noqa: S311 - an order, not a secret
        sample: Sample = {}
        for name in order:
            function = functions[name]
            sample[name] = cpu(lambda function=function: [function() for _ in range(repeat)]) / repeat
        samples.append(sample)
    return samples


def applies(kind: str, size: int) -> tuple[dict[str, Callable[..., Any]], Any, Any]:
    """Return ``apply`` of each library for one model, checked to agree, with variables and an input."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks import models

    if kind == "transformer":
        make, raw, shape = models.transformer, models.raw_transformer, (models.BATCH, models.LENGTH, models.WIDTH)
    else:
        make, raw, shape = models.mlp, models.raw_mlp, (4, 16)
    x = jax.random.normal(jax.random.key(1), shape)
    functions: dict[str, Callable[..., Any]] = {"raw": raw}
    variables: Any = None
    for library, module in LIBRARIES.items():
        if module is not None:
            model = make(importlib.import_module(module), size)
            variables = model.init(jax.random.key(0), x) if variables is None else variables
            functions[library] = model.apply
    outputs = {name: np.asarray(jnp.asarray(function(variables, x))) for name, function in functions.items()}
    for name, output in outputs.items():
        np.testing.assert_allclose(output, outputs["raw"], rtol=2e-5, atol=2e-5, err_msg=name)
    return functions, variables, x


def trace(kind: str, size: int, *, gradient: bool, rounds: int) -> list[Sample]:
    """Measure tracing ``apply``, or its gradient, to a jaxpr."""
    import jax

    functions, variables, x = applies(kind, size)

    def tracer(function: Callable[..., Any]) -> Callable[[], Any]:
        def run() -> None:
            # a new function each time, so that nothing is found in a cache
            def forward(variables: Any, x: Any) -> Any:
                return function(variables, x).sum()

            jax.make_jaxpr(jax.grad(forward) if gradient else forward)(variables, x)

        return run

    return warm({name: tracer(function) for name, function in functions.items()}, rounds, 1)


def eager(size: int, rounds: int) -> list[Sample]:
    """Measure ``apply`` of dense layers outside of ``jit``."""
    functions, variables, x = applies("mlp", size)
    return warm({name: functools.partial(function, variables, x) for name, function in functions.items()}, rounds, 20)


def main() -> None:
    """Run the measurement that the command line names."""
    row, library, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    measure: dict[str, Callable[[], Any]] = {
        "init_24": lambda: cold_init(library, 24, jitted=False),
        "init_48": lambda: cold_init(library, 48, jitted=False),
        "jit_init_24": lambda: cold_init(library, 24, jitted=True),
        "jit_init_48": lambda: cold_init(library, 48, jitted=True),
        "trace_48": lambda: trace("transformer", 48, gradient=False, rounds=rounds),
        "trace_grad_48": lambda: trace("transformer", 48, gradient=True, rounds=rounds),
        "trace_mlp_100": lambda: trace("mlp", 100, gradient=False, rounds=rounds),
        "eager_mlp_10": lambda: eager(10, rounds),
    }
    print(json.dumps(measure[row]()))


if __name__ == "__main__":
    main()
