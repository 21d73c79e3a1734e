"""Training steps on an accelerator: GPT-2 124M and ResNet-50 in bfloat16, batiste beside raw JAX and its peers.

    python benchmarks/gpu.py                 both models, in the batch that fills the card
    python benchmarks/gpu.py --tiny          tiny shapes, on whatever there is: does everything run?
    python benchmarks/gpu.py --models gpt2 --batch 32 --rounds 5 --results FOLDER

It needs JAX, Optax and this checkout, nothing else; a peer that is not installed is said to be absent. Each contender
runs in a process of its own, in a shuffled order, several times over. Parameters are float32, computation bfloat16.
Attention is ``jax.nn.dot_product_attention`` with its cuDNN implementation where that takes the shapes.

Time is wall time of a step, its result awaited after some steps, since the device does the work. Model FLOP utilisation
is the arithmetic that the model needs (not what recomputation adds) by the vendor's dense bfloat16 peak:

* GPT-2: 6 N + 12 layers width length for each token, N parameters without the position embedding (Chowdhery et al.,
  "PaLM", 2022, https://arxiv.org/abs/2204.02311, appendix B);
* ResNet-50: six operations for each multiplication of its convolutions and its last layer (forward once, backward
  twice).

Outputs, loss and gradient of every contender are compared with raw JAX's on tiny shapes in float32 before anything is
timed; who differs is not measured.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

HERE = Path(__file__).resolve().parent
# The checkout is enough, nothing has to be installed. Python puts a script's own folder first; its files are no modules
# of their own.
sys.path[:] = [str(HERE.parent / "src"), str(HERE.parent), *(path for path in sys.path if Path(path).resolve() != HERE)]

import jax  # noqa: E402 - as all that follows: only now is everything found
import numpy as np  # noqa: E402
import optax  # noqa: E402

from benchmarks import gpu_table, models, results  # noqa: E402
from benchmarks.models import contract  # noqa: E402
from benchmarks.models.contract import Spec  # noqa: E402

TITLES = MappingProxyType(
    {"raw": "raw JAX", "batiste": "batiste", "linen": "Linen", "nnx": "NNX", "torch": "PyTorch, torch.compile"}
)
PEAKS = (  # dense bfloat16 operations a second, from the vendor's data sheets; the first name that fits
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("4090", 165e12),
)
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")
STEPS, WARM, REPEATS = 20, 5, 3
LIMIT = 900  # seconds for one contender


def specs(*, tiny: bool) -> dict[str, Spec]:
    """Return the models by name, without their batch."""
    if tiny:
        gpt2 = Spec("gpt2", depth=2, width=32, heads=2, batch=2, length=16, classes=64, dtype="bfloat16")
        small = Spec("resnet", 2, 8, 0, 2, 32, stages=(1, 1), classes=10, dtype="bfloat16")
        return {"GPT-2": gpt2, "ResNet-50": small}
    gpt2 = Spec("gpt2", depth=12, width=768, heads=12, length=1024, classes=50304, dtype="bfloat16")
    return {
        "GPT-2": gpt2,  # 124 M; the vocabulary is padded to a multiple of 64, as is usual
        "ResNet-50": Spec("resnet", 16, 64, 0, 2, 224, stages=(3, 4, 6, 3), classes=1000, dtype="bfloat16"),
    }


def operations(spec: Spec) -> float:
    """Return the arithmetic operations that a training step of the model needs."""
    params = contract.flatten(contract.layout(spec)[0])
    if spec.kind == "gpt2":
        counted = sum(int(np.prod(shape)) for path, shape in params.items() if not path.startswith("wpe/"))
        return spec.batch * spec.length * (6.0 * counted + 12.0 * spec.depth * spec.width * spec.length)
    size = spec.length // 2
    total = size * size * np.prod(params["stem/kernel"])
    size //= 2
    for name, _, _, stride in contract.bottlenecks(spec):
        for which in ("1", "2", "3", "project"):
            shape = params.get(f"{name}/conv_{which}/kernel")
            if shape is not None:
                after = size if which == "1" else size // stride
                total += after * after * np.prod(shape)
        size //= stride
    return 6.0 * spec.batch * float(total + np.prod(params["head/kernel"]))


def peak_operations(device: str) -> float | None:
    """Return the vendor's dense bfloat16 operations a second of a device, where they are known."""
    return next((value for name, value in PEAKS if name.lower() in device.lower()), None)


def optimizer(spec: Spec) -> optax.GradientTransformation:
    return optax.adamw(3e-4, weight_decay=0.1) if spec.kind == "gpt2" else optax.sgd(0.1, momentum=0.9)


def time_steps(step: Callable[[], Any], wait: Callable[[Any], Any], *, tiny: bool) -> float:
    """Return the median wall seconds of a step."""
    steps, repeats = (2, 1) if tiny else (STEPS, REPEATS)
    for _ in range(1 if tiny else WARM):
        wait(step())
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(steps - 1):
            step()
        wait(step())
        seconds.append((time.perf_counter() - start) / steps)
    return statistics.median(seconds)


def attention(spec: Spec) -> str:
    """Return the attention implementation to ask for: cuDNN's where it takes the shapes and the type, else ""."""
    if spec.kind != "gpt2" or jax.default_backend() != "gpu":
        return ""
    shape = (spec.batch, spec.length, spec.heads, spec.width // spec.heads)
    sketch = jax.numpy.zeros(shape, spec.dtype)

    def total(query: jax.Array) -> jax.Array:
        mixed = jax.nn.dot_product_attention(query, query, query, is_causal=True, implementation="cudnn")
        return mixed.astype("float32").sum()

    try:
        jax.block_until_ready(jax.jit(jax.grad(total))(sketch))
    except Exception as error:  # noqa: BLE001 - whatever it refuses with, the other implementation is used
        print(f"attention without cuDNN: {error}", file=sys.stderr)
        return ""
    return "cudnn"


def measure_jax(contender: str, spec: Spec, *, tiny: bool) -> dict[str, Any]:
    """Measure a training step of a JAX contender."""
    spec = dataclasses.replace(spec, attention=attention(spec))
    model, params, state, x, y = models.packed(contender, spec)
    chosen = optimizer(spec)
    carry = [(params, state, chosen.init(params))]
    jitted: Any = jax.jit(contract.functional_step(model, chosen), donate_argnums=0)
    del params, state
    start = time.perf_counter()
    lowered = jitted.lower(carry[0], x, y)
    middle = time.perf_counter()
    compiled = lowered.compile()
    found: dict[str, Any] = {"trace": middle - start, "compile": time.perf_counter() - middle}
    found["attention"] = spec.attention or "xla"

    def step() -> Any:
        carry[0], value = compiled(carry[0], x, y)
        return value

    found["step"] = time_steps(step, jax.block_until_ready, tiny=tiny)
    found["loss"] = float(step())
    memory = jax.devices()[0].memory_stats() or {}
    return found | {"peak": memory.get("peak_bytes_in_use")}


def torch_input(spec: Spec, device: str) -> tuple[Any, Any, Any]:
    """Return the PyTorch model with the weights of the layout, an input and targets, on a device."""
    import torch

    from benchmarks.models import pytorch

    model = pytorch.build(spec, *contract.weights(spec)).to(device)
    x, y = (torch.from_numpy(np.array(each)).to(device) for each in contract.batch(spec))
    if spec.kind == "resnet":
        model, x = model.to(memory_format=torch.channels_last), x.permute(0, 3, 1, 2)
    return model, x if spec.kind == "resnet" else x.long(), y.long()


def measure_torch(spec: Spec, *, tiny: bool) -> dict[str, Any]:
    """Measure a training step of PyTorch, compiled by ``torch.compile`` (left eager on the tiny shapes)."""
    import torch

    from benchmarks.models import pytorch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    model, x, y = torch_input(spec, device)
    if spec.kind == "gpt2":
        chosen: Any = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=device == "cuda")
    else:
        chosen = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    network = model if tiny else torch.compile(model)

    def step() -> Any:
        chosen.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16):
            value = pytorch.objective(network(x), y)
        value.backward()
        chosen.step()
        return value

    def wait(value: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        value.item()

    start = time.perf_counter()
    wait(step())
    found: dict[str, Any] = {"compile": time.perf_counter() - start, "step": time_steps(step, wait, tiny=tiny)}
    found["loss"] = step().item()
    return found | {"peak": torch.cuda.max_memory_allocated() if device == "cuda" else None}


def evidence_torch(spec: Spec) -> dict[str, Any]:
    """Return outputs as in inference, the training loss and the size of its gradient, as `models.evidence` does."""
    import torch

    from benchmarks.models import pytorch

    model, x, y = torch_input(spec, "cpu")
    with torch.no_grad():
        outputs = model.eval()(x)
    value = pytorch.objective(model.train()(x), y)
    value.backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    squares = sum(float(grad.square().sum()) for grad in grads)
    found = {"outputs": outputs.numpy(), "loss": value.item(), "gradient": squares**0.5}
    return {name: np.asarray(each, np.float32) for name, each in found.items()}


def disagreement(contender: str, kind: str) -> str:
    """Return how a contender differs from raw JAX on the tiny model in float32, or ""."""
    spec = next(each for each in specs(tiny=True).values() if each.kind == kind)
    spec = dataclasses.replace(spec, dtype="float32")
    if contender != "torch":
        return models.compare([contender], spec, train=True)[contender]
    expected, given = models.evidence("raw", spec, train=True), evidence_torch(spec)
    return "; ".join(text for name in expected if (text := models.difference(name, given[name], expected[name])))


def device() -> dict[str, Any]:
    """Return what JAX runs on: its name and its memory."""
    first = jax.devices()[0]
    memory = (first.memory_stats() or {}).get("bytes_limit")
    return {"device": first.device_kind, "platform": first.platform, "memory": memory, "jax": jax.__version__}


def work(job: dict[str, Any]) -> Any:
    """Do what a job asks, in this process."""
    if job["do"] == "device":
        return device()
    spec = Spec.read(job["spec"])
    if job["do"] == "compare":
        return disagreement(job["contender"], spec.kind)
    if job["contender"] == "torch":
        return measure_torch(spec, tiny=job["tiny"])
    return measure_jax(job["contender"], spec, tiny=job["tiny"])


class JobError(Exception):
    """A worker did not end well."""


def start(job: dict[str, Any]) -> Any:
    """Do a job in a new interpreter."""
    kept = dict(os.environ)
    if job.get("contender") == "torch" or job["do"] == "compare":
        kept["JAX_PLATFORMS"] = "cpu"  # JAX makes the weights, and must not hold the card's memory
    command = [sys.executable, str(Path(__file__).resolve()), "--job", json.dumps(job)]
    try:
        done = subprocess.run(  # noqa: S603 - this very file
            command, check=False, capture_output=True, text=True, env=kept, timeout=LIMIT
        )
    except subprocess.TimeoutExpired as error:
        message = f"no answer in {LIMIT} s"
        raise JobError(message) from error
    if done.returncode != 0:
        if any(words in done.stderr for words in OUT_OF_MEMORY):
            message = "out of memory"
            raise JobError(message)
        raise JobError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def absent(contender: str) -> str:
    """Return why a contender cannot take part, or ""."""
    package = {"torch": "torch"}.get(contender) or models.CONTENDERS[contender].package
    return "" if importlib.util.find_spec(package) is not None else f"{package} is not installed"


def first_batch(spec: Spec, memory: int | None) -> int:
    """Return the batch to try first, a guess from the card's memory that is halved until it fits."""
    sizes = ((120, 128, 1024), (70, 64, 512), (35, 32, 256), (0, 8, 64))
    gigabytes = (memory or 0) / 2**30 / 0.75  # JAX takes three quarters of the card
    return next(tokens if spec.kind == "gpt2" else images for least, tokens, images in sizes if gigabytes >= least)


def fitting(spec: Spec, job: dict[str, Any], memory: int | None) -> Spec:
    """Return the spec with the largest batch that raw JAX trains with."""
    batch = first_batch(spec, memory)
    while True:
        tried = dataclasses.replace(spec, batch=batch)
        print(f"does a batch of {batch} fit?", flush=True)
        try:
            start({**job, "contender": "raw", "spec": dataclasses.asdict(tried)})
        except JobError as error:
            if str(error) != "out of memory" or batch == 1:
                raise
            batch //= 2
            continue
        return tried


def measure(name: str, spec: Spec, found: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Measure every contender on one model, round after round."""
    missing = {contender: why for contender in TITLES if (why := absent(contender))}
    job = {"do": "measure", "tiny": options.tiny}
    for contender in TITLES:
        if contender not in missing and contender != "raw":
            checked = {"do": "compare", "contender": contender, "spec": dataclasses.asdict(spec)}
            try:
                wrong = start(checked)
            except JobError as error:
                wrong = str(error)
            if wrong:
                missing[contender] = f"differs from raw JAX: {wrong}"
    if options.batch:
        spec = dataclasses.replace(spec, batch=options.batch)
    elif not options.tiny:
        spec = fitting(spec, job, found["memory"])
    peak, needed = peak_operations(found["device"]), operations(spec)
    units = spec.batch * (spec.length if spec.kind == "gpt2" else 1)
    samples: list[dict[str, Any]] = []
    for round_ in range(options.rounds):
        order = [contender for contender in TITLES if contender not in missing]
        random.Random(round_).shuffle(order)  # noqa: S311 - an order, not a secret
        sample: dict[str, Any] = {}
        for contender in order:
            print(f"{name}: round {round_ + 1} of {options.rounds}, {contender}", flush=True)
            try:
                figures = start({**job, "contender": contender, "spec": dataclasses.asdict(spec)})
            except JobError as error:
                missing[contender] = str(error)
                continue
            figures["rate"] = units / figures["step"]
            figures["utilisation"] = needed / figures["step"] / peak if peak else None
            sample[contender] = figures
        samples.append(sample)
    shape = f"batch {spec.batch}, " + (f"length {spec.length}" if spec.kind == "gpt2" else f"{spec.length} pixels")
    chosen = next((each["attention"] for sample in samples for each in sample.values() if "attention" in each), "")
    return {
        "shape": f"{shape}, bfloat16" + (f", attention by {chosen}" if spec.kind == "gpt2" else ""),
        "unit": "tokens" if spec.kind == "gpt2" else "images",
        "operations": needed,
        "contenders": dict(TITLES),
        "absent": missing,
        "samples": samples,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["gpt2", "resnet"], choices=("gpt2", "resnet"))
    parser.add_argument("--rounds", type=int, default=2, help="how often every contender runs (default 2)")
    parser.add_argument("--batch", type=int, help="the batch (default: what fills the card)")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; the file goes to runs/benchmarks")
    parser.add_argument("--results", type=Path, help="the folder of gpu.json")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job:
        print(json.dumps(work(json.loads(options.job))))
        return 0
    found = start({"do": "device"})
    if found["platform"] != "gpu" and not options.tiny:
        print(f"JAX finds no GPU here, only {found['device']}; `--tiny` tries the script out")
        return 2
    found |= {"rounds": options.rounds, "tiny": options.tiny, "models": {}}
    folder = options.results or (results.QUICK if options.tiny else results.FOLDER)
    for name, spec in specs(tiny=options.tiny).items():
        if spec.kind in options.models:
            found["models"][name] = measure(name, spec, found, options)
            path = results.write(folder, "gpu", found)
    print(gpu_table.markdown(found))
    print(f"written: {path.name} into {folder.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
