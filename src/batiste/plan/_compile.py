"""What XLA makes of the training step: the memory that it sets aside, and what devices send each other.

The exported step (``_program.py``) is compiled for as many simulated devices of the CPU as the mesh has, or by
``libtpu`` for a slice of TPUs that is not there. How many devices a CPU has is settled when a process starts, so where
this one has too few, or for TPUs, another is started; it is given the program and no model.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import jax
import numpy as np
from jax import export
from jax.sharding import AxisType, Mesh

from batiste._arguments import refused, text
from batiste.errors import MissingPackageError, PlanCompileError
from batiste.plan._hlo import collectives_of
from batiste.plan._names import Path as ModulePath
from batiste.plan._placement import Collective

__all__ = ["Compiled", "compiled", "platform_of"]

_TARGET = re.compile(r"tpu-(v\w+):(\d+(?:x\d+)*)")
_NARROW = re.compile(r"\b(?:bf16|f16|f8\w+)\[")
_NO_TPU = MappingProxyType(
    {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
)
"""What libtpu would else look for on a machine with TPUs; without one it is only a compiler."""
_FOR_PLANS = MappingProxyType({
    "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True,
    "xla_disable_hlo_passes": "while-loop-invariant-code-motion",
})  # fmt: skip
"""For a program that a CPU compiles and never runs. No pains over machine code, which is half of the time; memory is
the same. And no float32 copy of all that a loop has stacked: a CPU computes bfloat16 in float32, and this pass takes
its conversion out of the loop, which GPUs and TPUs have no need of. Llama of 70B keeps 21.5 GB for gradients; the copy
has 42.9, and the step takes 70.9 GB with the pass, 47.1 without it, and 68.3 where all is float32."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What XLA makes of a training step.

    Attributes:
      target: what it is compiled for: ``cpu``, or a slice of TPUs such as ``tpu-v5e:4x4``.
      argument_bytes: on each device, of the state and the batch.
      output_bytes: of what comes out.
      alias_bytes: of what comes out in the memory of an argument, such as the new state.
      temp_bytes: of everything in between: gradients and activations.
      collectives: what devices send each other, by module.
      seconds: how long it took to compile.
      widens: whether what is computed in bfloat16 or another narrow type counts as float32, which a CPU computes in.

    Example:
      >>> from batiste.plan import Compiled
      >>> found = Compiled("cpu", 100, 80, 64, 32, collectives=(), seconds=0.5)
      >>> found.total_bytes, found.counts()
      (148, {})
    """

    target: str
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int
    collectives: tuple[Collective, ...]
    seconds: float
    widens: bool = False

    @property
    def total_bytes(self) -> int:
        """The bytes of everything on each device."""
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes

    def counts(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """Return how many collectives of each kind go along which mesh axes in a step."""
        found: dict[tuple[str, tuple[str, ...]], float] = {}
        for each in self.collectives:
            found[each.kind, each.axes] = found.get((each.kind, each.axes), 0) + each.count
        return found


def platform_of(target: str | None) -> str:
    """Return the platform that a program has to be exported for.

    Args:
      target: ``tpu-v5e:4x4``, or None for the CPU.

    Raises:
      ArgumentError: it is no such word.
      MissingPackageError: ``libtpu``, which compiles for TPUs, is not installed.
    """
    if target is None:
        return "cpu"
    if _TARGET.fullmatch(text(target, "target", "plan")) is None:
        raise refused(target, "target", "plan", 'a slice of TPUs such as "tpu-v5e:4x4", or None for the CPU')
    if importlib.util.find_spec("libtpu") is None:
        raise MissingPackageError(purpose=f"Compiling for {target}", package="libtpu", install="'jax[tpu]'")
    return "tpu"


def compiled(
    program: Any, mesh: Mapping[str, int], donated: int, paths: Collection[ModulePath], target: str | None = None
) -> Compiled:
    """Return what XLA makes of an exported program.

    Args:
      program: what ``jax.export`` made.
      mesh: the size of each axis.
      donated: how many of its first arguments are donated.
      paths: the paths of modules that there are.
      target: a slice of TPUs; None for simulated devices of the CPU.

    Raises:
      PlanCompileError: XLA refuses the program, or the other process dies.
    """
    order = {"mesh": dict(mesh), "donated": donated, "paths": [list(path) for path in paths], "target": target}
    here: Sequence[Any] = cast("Any", jax).devices("cpu") if target is None else ()
    if len(here) >= program.nr_devices:
        try:
            found = _compile(program, order)
        except (RuntimeError, ValueError) as error:
            raise PlanCompileError(target="the CPU", reason=str(error)) from error
    else:
        found = _elsewhere(program, order)
    sent = tuple(
        Collective(tuple(row[0]), row[1], tuple(row[2]), float(row[3]), float(row[4])) for row in found["sent"]
    )
    argument, output, alias, temp = (int(found["bytes"][name]) for name in ("argument", "output", "alias", "temp"))
    return Compiled(target or "cpu", argument, output, alias, temp, sent, float(found["seconds"]), found["widens"])


def _elsewhere(program: Any, order: Mapping[str, Any]) -> Any:
    """Compile in a process that has so many devices."""
    with tempfile.TemporaryDirectory(prefix="batiste-plan-") as name:
        folder = Path(name)
        (folder / "program").write_bytes(program.serialize())
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        environment = dict(os.environ)
        flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", environment.get("XLA_FLAGS", ""))
        count = f"--xla_force_host_platform_device_count={program.nr_devices}"
        environment.update(XLA_FLAGS=f"{flags} {count}".strip(), JAX_PLATFORMS="cpu", **_NO_TPU)
        environment["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
        command = [sys.executable, "-m", "batiste.plan._compile", str(folder)]
        done = subprocess.run(  # noqa: S603 - this very interpreter, and a file of this package
            command, env=environment, capture_output=True, text=True, check=False
        )
        made = folder / "made.json"
        if not made.exists():
            said = done.stderr.strip().splitlines()[-1:] or [f"the process ended with {done.returncode}"]
            raise PlanCompileError(target=order["target"] or "the CPU", reason=said[0])
        return json.loads(made.read_text(encoding="utf-8"))


def _compile(program: Any, order: Mapping[str, Any]) -> dict[str, Any]:
    mesh = _mesh(order["mesh"], order["target"])
    placed = program.in_shardings_jax(mesh)
    arguments = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding)
        for aval, sharding in zip(program.in_avals, placed, strict=True)
    ]

    def step(*arguments: Any) -> Any:
        args, kwargs = jax.tree.unflatten(program.in_tree, arguments)
        return jax.tree.leaves(program.call(*args, **kwargs))

    donated = tuple(range(order["donated"]))
    out = list(program.out_shardings_jax(mesh))
    jitted: Any = jax.jit(step, out_shardings=out, donate_argnums=donated, keep_unused=True)
    begun = time.perf_counter()
    options = dict(_FOR_PLANS) if order["target"] is None else None
    made = jitted.lower(*arguments).compile(compiler_options=options)
    took = time.perf_counter() - begun
    used = made.memory_analysis()
    sizes = {name: getattr(used, f"{name}_size_in_bytes") for name in ("argument", "output", "alias", "temp")}
    paths, text = [tuple(path) for path in order["paths"]], made.as_text()
    return {
        "bytes": sizes,
        "widens": order["target"] is None and _NARROW.search(text) is not None,
        "sent": [dataclasses.astuple(each) for each in collectives_of(text, order["mesh"], paths)],
        "seconds": took,
    }


def _mesh(sizes: Mapping[str, int], target: str | None) -> Mesh:
    shape, types = tuple(sizes.values()), (AxisType.Auto,) * len(sizes)
    count = int(np.prod(shape))
    devices: Sequence[Any] = cast("Any", jax).devices("cpu") if target is None else _topology(target)
    return Mesh(np.array(devices[:count], dtype=object).reshape(shape), tuple(sizes), axis_types=types)


def _topology(target: str) -> Sequence[Any]:
    """Return the devices of a slice of TPUs that is not there."""
    from jax.experimental import topologies

    found = _TARGET.fullmatch(target)
    name = f"{found[1]}:{found[2]}" if found else target
    described: Any = topologies.get_topology_desc(platform="tpu", topology_name=name)
    return described.devices


def _main(folder: Path) -> None:
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    program = export.deserialize(bytearray((folder / "program").read_bytes()))
    (folder / "made.json").write_text(json.dumps(_compile(program, order)), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
