"""What is measured, without any library: the shape of each model, its weights, its input, its loss.

A `Spec` says which model and how large. `layout` gives the names and shapes of its parameters and of its running
statistics as nested dicts; `weights` fills them with NumPy, so that every library is given the very same numbers. The
files beside this one each hold one `Model` subclass: how one library, or raw JAX, writes these models.

Kinds: ``mlp`` (dense layers of one width), ``transformer`` (pre-norm blocks on ``[batch, length, width]``), ``resnet``
(bottleneck blocks with batch norm on ``[batch, size, size, 3]``), ``gpt2`` (token ids to logits, for accelerators).
"""

import abc
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = dict[str, Any]
Step = Callable[..., Any]
EXPANSION = 4  # of a bottleneck block, and of a transformer's feed-forward layer


@dataclasses.dataclass(frozen=True)
class Spec:
    """Which model, and how large: all that a worker needs to make it.

    Attributes:
      kind: ``mlp``, ``transformer``, ``resnet`` or ``gpt2``.
      depth: dense layers or blocks; of a ResNet, the sum of ``stages``.
      width: features of every layer; of a ResNet, of its first stage.
      heads: attention heads.
      batch: examples.
      length: tokens, or pixels along each side of an image.
      stages: bottleneck blocks in each stage of a ResNet.
      classes: of a ResNet; the vocabulary of a GPT-2.
      dtype: what is computed in; parameters are float32.
      attention: the implementation that ``jax.nn.dot_product_attention`` is asked for (``gpt2``), or "".
    """

    kind: str
    depth: int = 0
    width: int = 128
    heads: int = 4
    batch: int = 2
    length: int = 32
    stages: tuple[int, ...] = ()
    classes: int = 0
    dtype: str = "float32"
    attention: str = ""

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "Spec":
        """Return the spec that JSON describes."""
        return cls(**{**fields, "stages": tuple(fields.get("stages", ()))})


def mlp(depth: int, width: int = 16) -> Spec:
    return Spec("mlp", depth=depth, width=width, batch=4)


def transformer(blocks: int, width: int = 128) -> Spec:
    return Spec("transformer", depth=blocks, width=width)


def resnet(stages: tuple[int, ...], width: int = 64, size: int = 64, classes: int = 1000) -> Spec:
    return Spec("resnet", depth=sum(stages), width=width, length=size, stages=stages, classes=classes)


def bottlenecks(spec: Spec) -> list[tuple[str, int, int, int]]:
    """Return name, input features, features and stride of each block of a ResNet."""
    blocks: list[tuple[str, int, int, int]] = []
    inputs = spec.width
    for stage, count in enumerate(spec.stages):
        features = spec.width * 2**stage
        for index in range(count):
            blocks.append((f"stage_{stage}_{index}", inputs, features, 2 if stage and not index else 1))
            inputs = features * EXPANSION
    return blocks


def layout(spec: Spec) -> tuple[Tree, Tree]:
    """Return the shapes of the parameters and of the running statistics."""
    if spec.kind == "resnet":
        return _resnet_layout(spec)
    if spec.kind == "mlp":
        return {f"dense_{index}": _dense(spec.width, spec.width) for index in range(spec.depth)}, {}
    width = spec.width
    feed = {"up": _dense(width, EXPANSION * width), "down": _dense(EXPANSION * width, width)}
    params: Tree = {"norm": _norm(width)}
    if spec.kind == "gpt2":
        attention = {"qkv": _dense(width, 3 * width), "out": _dense(width, width)}
        params |= {"wte": {"embedding": (spec.classes, width)}, "wpe": {"embedding": (spec.length, width)}}
    else:
        attention = {name: _dense(width, width) for name in ("query", "key", "value", "out")}
    for index in range(spec.depth):
        params[f"h_{index}"] = {"attention": attention, "norm_1": _norm(width), "norm_2": _norm(width), **feed}
    return params, {}


def _dense(inputs: int, outputs: int) -> Tree:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def _norm(features: int) -> Tree:
    return {"scale": (features,), "bias": (features,)}


def _resnet_layout(spec: Spec) -> tuple[Tree, Tree]:
    params: Tree = {"stem": {"kernel": (7, 7, 3, spec.width)}, "stem_norm": _norm(spec.width)}
    stats: Tree = {"stem_norm": {"mean": (spec.width,), "var": (spec.width,)}}
    features = spec.width
    for name, inputs, inner, stride in bottlenecks(spec):
        features = inner * EXPANSION
        convs = {"1": (1, 1, inputs, inner), "2": (3, 3, inner, inner), "3": (1, 1, inner, features)}
        if inputs != features or stride != 1:
            convs["project"] = (1, 1, inputs, features)
        params[name] = {f"conv_{which}": {"kernel": shape} for which, shape in convs.items()}
        params[name] |= {f"norm_{which}": _norm(shape[-1]) for which, shape in convs.items()}
        stats[name] = {f"norm_{which}": {"mean": shape[-1:], "var": shape[-1:]} for which, shape in convs.items()}
    params["head"] = _dense(features, spec.classes)
    return params, stats


def is_shape(value: Any) -> bool:
    """Say whether a node of a layout is a shape."""
    return isinstance(value, tuple)


def flatten(tree: Tree) -> dict[str, Any]:
    """Return the leaves of nested dicts by path, ``a/b/c``."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_shape)
    return {"/".join(key.key for key in path): leaf for path, leaf in flat}


def nest(flat: dict[str, Any]) -> Tree:
    """Return nested dicts of leaves by path: the inverse of `flatten`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree


def weights(spec: Spec, seed: int = 0) -> tuple[Tree, Tree]:
    """Return parameters and running statistics, the same for everyone, none at a value that hides a mistake."""
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> jax.Array:
        values = rng.standard_normal(shape, np.float32)
        match path.rpartition("/")[2]:
            case "kernel":
                values /= np.sqrt(np.prod(shape[:-1]))
            case "scale" | "var":
                values = 1.0 + 0.1 * np.abs(values)
            case "embedding":
                values *= 0.02
            case _:
                values *= 0.1
        return jnp.asarray(values)

    params, stats = (nest({path: draw(path, shape) for path, shape in flatten(part).items()}) for part in layout(spec))
    return params, stats


def batch(spec: Spec, seed: int = 1) -> tuple[jax.Array, jax.Array]:
    """Return an input and what the loss compares the output with."""
    rng = np.random.default_rng(seed)
    if spec.kind == "resnet":
        shape = (spec.batch, spec.length, spec.length, 3)
        labels = rng.integers(spec.classes, size=spec.batch)
        return jnp.asarray(rng.standard_normal(shape, np.float32)), jnp.asarray(labels, jnp.int32)
    if spec.kind == "gpt2":
        tokens = rng.integers(spec.classes, size=(spec.batch, spec.length + 1))
        return jnp.asarray(tokens[:, :-1], jnp.int32), jnp.asarray(tokens[:, 1:], jnp.int32)
    shape = (spec.batch, spec.width) if spec.kind == "mlp" else (spec.batch, spec.length, spec.width)
    return jnp.asarray(rng.standard_normal(shape, np.float32)), jnp.asarray(rng.standard_normal(shape, np.float32))


def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the cross entropy for integer targets, else the mean squared error."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(outputs.astype(jnp.float32), targets).mean()
    return jnp.mean(jnp.square(outputs - targets))


def distinct_initialisers(spec: Spec) -> int:
    """Return how many initialisers differ in kind or shape: what one program each would come to."""
    params, stats = layout(spec)
    return len(
        {
            (path.rpartition("/")[2], shape)
            for path, shape in itertools.chain(flatten(params).items(), flatten(stats).items())
        }
    )


class Model(abc.ABC):
    """One model as one library writes it. What a library does in a way of its own, its subclass overrides."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def input(self, x: jax.Array) -> jax.Array:
        """Return the input in the library's order of axes."""
        return x

    @abc.abstractmethod
    def init(self, key: jax.Array, x: jax.Array) -> Any:
        """Make the variables as the library's users do."""

    def jitted_init(self, key: jax.Array, x: jax.Array) -> Any:
        """Make the variables under ``jit``."""
        return jax.jit(self.init)(key, x)

    @abc.abstractmethod
    def pack(self, params: Tree, stats: Tree) -> tuple[Any, Any]:
        """Return the library's parameters and state with the values of `weights`."""

    @abc.abstractmethod
    def apply(self, params: Any, state: Any, x: jax.Array) -> jax.Array:
        """Return the model's outputs as in inference: a pure function."""

    def train(self, params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        """Return the outputs as in training, and the new state."""
        return self.apply(params, state, x), state

    def bind(self, params: Any, state: Any) -> Callable[[jax.Array], jax.Array]:
        """Return the model as users call it outside of ``jit``."""
        return lambda x: self.apply(params, state, x)

    def container(self, params: Any, state: Any) -> Any:
        """Return what users of the library hand to a jitted function."""
        del state
        return params

    def arrays(self, container: Any) -> Any:
        """Return a tree of the arrays in what `container` made."""
        return container

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function compiled with the library's ``jit``."""
        return jax.jit(function)

    def training(self, params: Any, state: Any, optimizer: optax.GradientTransformation) -> tuple[Step, Any]:
        """Return the jitted training step as the library's users write it, ``(carry, x, y) -> (carry, loss)``."""
        return jax.jit(functional_step(self, optimizer), donate_argnums=0), (params, state, optimizer.init(params))


def functional_step(model: Model, optimizer: optax.GradientTransformation) -> Step:
    """Return the training step as a pure function of parameters, state and optimiser state, the same for everyone."""

    def step(carry: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        params, state, opt_state = carry

        def objective(params: Any) -> tuple[jax.Array, Any]:
            outputs, new_state = model.train(params, state, x)
            return loss(outputs, y), new_state

        (value, state), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), state, opt_state), value

    return step
