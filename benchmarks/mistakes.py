"""Mistakes that people make, and what each library says: ``python -m benchmarks.mistakes`` writes ``docs/mistakes.md``.

Each mistake is the smallest program with it. One program serves batiste and Flax Linen, which have one interface; NNX
and Equinox have their own where the mistake can be made there. What a library says is the text of its exception, or of
its first warning. Two things are looked for in it, by words that stand beside the program: the *path*, which is the
name that the module has in the model, and the *fix*, which is what has to be written.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx

import batiste.nn

PAGE = Path(__file__).resolve().parent.parent / "docs" / "mistakes.md"
LIBRARIES = ("batiste", "Linen", "NNX", "Equinox")
KEY = jax.random.key(0)
X = jnp.ones((4, 8))
LONGEST = 110
SILENT = "runs, says nothing"


@dataclass(frozen=True)
class Mistake:
    """A mistake: what it is, the programs with it, and what a helpful answer has in it.

    Attributes:
      title: what somebody does.
      linen: the program for batiste and Linen, a function of ``nn``.
      nnx: the program for NNX; None where the mistake cannot be made.
      equinox: likewise.
      path: a pattern for the name of the module; "" where there is no module to name.
      fix: a pattern for what has to be written.
    """

    title: str
    linen: Callable[[Any], Any]
    nnx: Callable[[], Any] | None
    equinox: Callable[[], Any] | None
    path: str
    fix: str


class Answer(NamedTuple):
    """What a library says: its first line, and whether it names the path and the fix; None where there is none."""

    text: str
    path: bool | None
    fix: bool


def answer(program: Callable[[], Any], mistake: Mistake) -> Answer:
    """Run a program with a mistake, and return what is said."""
    said = ""
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("always")
        try:
            jax.block_until_ready(program())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            notes = "\n".join(getattr(error, "__notes__", ()))
            said = f"{type(error).__name__}: {error}\n{notes}"
    ours = [each for each in caught if not issubclass(each.category, DeprecationWarning)]
    if not said and ours:
        said = f"{ours[0].category.__name__}: {ours[0].message}"
    if not said:
        return Answer(SILENT, False if mistake.path else None, False)
    first = re.sub(r" at 0x[0-9a-f]+", "", said.strip().splitlines()[0])
    path = bool(re.search(mistake.path, said)) if mistake.path else None
    return Answer(first, path, bool(re.search(mistake.fix, said)))


def programs(mistake: Mistake) -> dict[str, Callable[[], Any] | None]:
    """Return the programs by library."""
    return {
        "batiste": lambda: mistake.linen(batiste.nn),
        "Linen": lambda: mistake.linen(flax.linen),
        "NNX": mistake.nnx,
        "Equinox": mistake.equinox,
    }


def outer(nn: Any, inner: Any) -> Any:
    """Return a module around another one, which is called ``inner``."""

    class Outer(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, **kwargs)

    return Outer(inner)


class NNXOuter(nnx.Module):
    """The same for NNX."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the inner one."""
        return self.inner(*args, **kwargs)


class EqxOuter(eqx.Module):
    """The same for Equinox."""

    inner: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the inner one."""
        return self.inner(*args, **kwargs)


def rngs() -> Any:
    """Return random streams of NNX."""
    return nnx.Rngs(0)


# --- the programs, for batiste and Linen first


def misspelt_collection(nn: Any) -> Any:
    model = outer(nn, nn.Dense(3))
    return model.apply({"parms": model.init(KEY, X)["params"]}, X)


def statistics_left_out(nn: Any) -> Any:
    model = outer(nn, nn.BatchNorm(use_running_average=True))
    return model.apply({"params": model.init(KEY, X)["params"]}, X)


def equinox_statistics_left_out() -> Any:
    return EqxOuter(eqx.nn.BatchNorm(8, axis_name="batch", mode="batch"))(X[0])


def norm_without_flag(nn: Any) -> Any:
    return outer(nn, nn.BatchNorm()).init(KEY, X)


def dropout_without_key(nn: Any) -> Any:
    model = outer(nn, nn.Dropout(0.5, deterministic=False))
    return model.apply({}, X)


def wrong_width(nn: Any) -> Any:
    model = outer(nn, nn.Dense(3))
    return model.apply(model.init(KEY, X), X[:, :5])


def blueprint_called(nn: Any) -> Any:
    return nn.Dense(3)(X)


def layer_in_a_plain_method(nn: Any) -> Any:
    class Block(nn.Module):
        def __call__(self, x: Any) -> Any:
            return nn.Dense(3)(x)

    return outer(nn, Block()).init(KEY, X)


def nnx_layer_in_a_plain_method() -> Any:
    class Block(nnx.Module):
        def __call__(self, x: Any) -> Any:
            return nnx.Linear(8, 3, rngs=rngs())(x)

    return NNXOuter(Block())(X)


def equinox_layer_in_a_plain_method() -> Any:
    class Block(eqx.Module):
        def __call__(self, x: Any) -> Any:
            return eqx.nn.Linear(8, 3, key=KEY)(x)

    return EqxOuter(Block())(X[0])


def layer_not_called(nn: Any) -> Any:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:  # noqa: ARG002 - the mistake
            return nn.relu(nn.Dense(3))

    return outer(nn, Block()).init(KEY, X)


def nnx_layer_not_called() -> Any:
    return NNXOuter(lambda _: nnx.relu(nnx.Linear(8, 3, rngs=rngs())))(X)


def equinox_layer_not_called() -> Any:
    return EqxOuter(lambda _: jax.nn.relu(eqx.nn.Linear(8, 3, key=KEY)))(X)


def class_in_a_sequence(nn: Any) -> Any:
    return outer(nn, nn.Sequential([nn.Dense(3), nn.LayerNorm])).init(KEY, X)


def attribute_in_call(nn: Any) -> Any:
    class Block(nn.Module):
        def __call__(self, x: Any) -> Any:
            self.count = 1
            return x

    return outer(nn, Block()).apply({}, X)


def nnx_attribute_in_call() -> Any:
    class Block(nnx.Module):
        def __call__(self, x: Any) -> Any:
            self.count = 1
            return x

    return NNXOuter(Block())(X)


def equinox_attribute_in_call() -> Any:
    class Block(eqx.Module):
        def __call__(self, x: Any) -> Any:
            self.count = 1  # pyright: ignore[reportAttributeAccessIssue]
            return x

    return EqxOuter(Block())(X)


def list_appended_in_setup(nn: Any) -> Any:
    class Block(nn.Module):
        def setup(self) -> None:
            self.layers = []
            for _ in range(2):
                self.layers.append(nn.Dense(8))

        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    return outer(nn, Block()).init(KEY, X)


def misspelt_option(nn: Any) -> Any:
    return nn.Dense(features=3, use_bais=False)


def misspelt_method(nn: Any) -> Any:
    class Coder(nn.Module):
        @nn.compact
        def encode(self, x: Any) -> Any:
            return nn.Dense(3)(x)

    return Coder().init(KEY, X, method="encod")


def name_used_twice(nn: Any) -> Any:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dense(3, name="head")(nn.Dense(8, name="head")(x))

    return outer(nn, Block()).init(KEY, X)


def whole_number_dtype(nn: Any) -> Any:
    return outer(nn, nn.Dense(3, param_dtype=jnp.int32)).init(KEY, X)


def float_features(nn: Any) -> Any:
    return outer(nn, nn.Dense(16 / 2)).init(KEY, X)


def id_out_of_range(nn: Any) -> Any:
    model = outer(nn, nn.Embed(10, 4))
    return model.apply(model.init(KEY, jnp.array([1])), jnp.array([1, 10]))


def heads_that_do_not_divide(nn: Any) -> Any:
    return outer(nn, nn.MultiHeadDotProductAttention(3)).init(KEY, jnp.ones((1, 5, 8)))


def mask_of_another_length(nn: Any) -> Any:
    layer = nn.MultiHeadDotProductAttention(2)
    return outer(nn, layer).init(KEY, jnp.ones((1, 5, 8)), mask=jnp.ones((1, 1, 4, 4), bool))


def carry_changes_width(nn: Any) -> Any:
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x: Any, _: Any) -> Any:
            return nn.Dense(9)(x), None

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return stack(name="stack")(x, None)[0]

    return outer(nn, Block()).init(KEY, X)


def scanned(_: Any) -> Any:
    return jax.lax.scan(lambda carry, _: (jnp.concatenate([carry, carry[:, :1]], 1), None), X, None, length=3)[0]


def params_not_mapped(nn: Any) -> Any:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.vmap(nn.Dense, in_axes=0)(3)(x)

    return outer(nn, Block()).init(KEY, X)


def branch_on_a_value(nn: Any) -> Any:
    class Block(nn.Module):
        def __call__(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    return jax.jit(outer(nn, Block()).apply)({}, X)


def branching(x: Any) -> Any:
    return x if x.sum() > 0 else -x


def traced_flag(nn: Any) -> Any:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: Any) -> Any:
            return nn.Dropout(0.5, deterministic=not train)(x)

    return jax.jit(outer(nn, Block()).apply)({}, X, False)


def flagged(x: Any, train: Any) -> Any:
    return x * 2 if not train else x


def write_without_mutable(nn: Any) -> Any:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            count = self.variable("stats", "count", lambda: jnp.zeros(()))
            count.value += 1
            return x

    model = outer(nn, Block())
    return model.apply(model.init(KEY, X), X)


def parameter_from_an_array(nn: Any) -> Any:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return x * self.param("scale", jnp.ones(8))

    return outer(nn, Block()).init(KEY, X)


def activation_as_text(nn: Any) -> Any:
    class Block(nn.Module):
        act: Any

        @nn.compact
        def __call__(self, x: Any) -> Any:
            return self.act(nn.Dense(3)(x))

    return outer(nn, Block("relu")).init(KEY, X)


def layer_made_outside(nn: Any) -> Any:
    layer = nn.Dense(3)

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return layer(x)

    return outer(nn, Block()).init(KEY, X)


def bad_dtype_text(nn: Any) -> Any:
    return outer(nn, nn.Dense(3, dtype="bfloat61")).init(KEY, X)


def call_not_overridden(nn: Any) -> Any:
    class Block(nn.Module):
        @nn.compact
        def forward(self, x: Any) -> Any:
            return nn.Dense(3)(x)

    return Block().init(KEY, X)


def bad_einsum(nn: Any) -> Any:
    return outer(nn, nn.Einsum((8, 3), "...a,ab->...c")).init(KEY, X)


INNER = r"\binner\b"
MISTAKES = (
    Mistake("a collection is misspelt, `{'parms': ...}`", misspelt_collection, None, None, INNER, r"'params'"),
    Mistake("the statistics of a batch norm are left out", statistics_left_out, None, equinox_statistics_left_out,
            INNER, r"batch_stats|state"),
    Mistake("a batch norm is not told whether it trains", norm_without_flag,
            lambda: NNXOuter(nnx.BatchNorm(8, rngs=rngs()))(X), None, INNER, r"use_running_average="),
    Mistake("dropout has no key", dropout_without_key, lambda: NNXOuter(nnx.Dropout(0.5))(X),
            lambda: EqxOuter(eqx.nn.Dropout(0.5))(X), INNER, r"rngs=|rngs argument|key|deterministic"),
    Mistake("the input has another width than the parameters", wrong_width,
            lambda: NNXOuter(nnx.Linear(8, 3, rngs=rngs()))(X[:, :5]),
            lambda: EqxOuter(eqx.nn.Linear(8, 3, key=KEY))(X[0, :5]), INNER, r"\b8\b(.|\n)*\b5\b|\b5\b(.|\n)*\b8\b"),
    Mistake("a layer is called as a function", blueprint_called, lambda: nnx.Linear(3)(X),
            lambda: eqx.nn.Linear(3)(X), r"Dense|Linear", r"init\(|key=|rngs|out_features|'key'"),
    Mistake("a layer is made in a plain method", layer_in_a_plain_method, nnx_layer_in_a_plain_method,
            equinox_layer_in_a_plain_method, INNER, r"compact"),
    Mistake("a layer is not called, `relu(Dense(3))`", layer_not_called, nnx_layer_not_called,
            equinox_layer_not_called, INNER, r"\(x\)|[Cc]all (it|the)"),
    Mistake("a class stands in a `Sequential`", class_in_a_sequence,
            lambda: NNXOuter(nnx.Sequential(nnx.Linear(8, 3, rngs=rngs()), nnx.LayerNorm))(X),
            lambda: EqxOuter(eqx.nn.Sequential([eqx.nn.Linear(8, 3, key=KEY), eqx.nn.LayerNorm]))(X[0]), INNER,
            r"LayerNorm\(\)|LayerNorm\(\.\.\.\)"),
    Mistake("an attribute is set in `__call__`", attribute_in_call, nnx_attribute_in_call, equinox_attribute_in_call,
            INNER, r"variable|setup|tree_at"),
    Mistake("layers are appended to a list in `setup`", list_appended_in_setup, None, None, INNER,
            r"self\.layers = |build|comprehension|local|assign"),
    Mistake("an option is misspelt, `use_bais`", misspelt_option,
            lambda: nnx.Linear(8, 3, use_bais=False, rngs=rngs()),  # pyright: ignore[reportCallIssue]
            lambda: eqx.nn.Linear(8, 3, use_bais=False, key=KEY),  # pyright: ignore[reportCallIssue]
            r"Dense|Linear", r"use_bias"),
    Mistake("`method=` is misspelt", misspelt_method, None, None, r"Coder", r"'encode'|\bencode\b"),
    Mistake("two layers have one name", name_used_twice, None, None, INNER, r"another name|Dense_|name="),
    Mistake("parameters of whole numbers", whole_number_dtype,
            lambda: NNXOuter(nnx.Linear(8, 3, param_dtype=jnp.int32, rngs=rngs()))(X),
            lambda: EqxOuter(eqx.nn.Linear(8, 3, dtype=jnp.int32, key=KEY))(X[0]), INNER, r"float32|floating"),
    Mistake("a size is a float, `16 / 2`", float_features,
            lambda: NNXOuter(nnx.Linear(8, 16 / 2, rngs=rngs())),  # pyright: ignore[reportArgumentType]
            lambda: EqxOuter(eqx.nn.Linear(8, 16 / 2, key=KEY)),  # pyright: ignore[reportArgumentType]
            INNER, r"\b8\b[^.]|//|[Ii]nteger"),
    Mistake("a token is out of range", id_out_of_range,
            lambda: NNXOuter(nnx.Embed(10, 4, rngs=rngs()))(jnp.array([1, 10])),
            lambda: EqxOuter(jax.vmap(eqx.nn.Embedding(10, 4, key=KEY)))(jnp.array([1, 10])), INNER,
            r"num_embeddings|range"),
    Mistake("heads do not divide the features", heads_that_do_not_divide,
            lambda: NNXOuter(nnx.MultiHeadAttention(3, 8, rngs=rngs(), decode=False))(jnp.ones((1, 5, 8))),
            lambda: EqxOuter(eqx.nn.MultiheadAttention(3, 8, key=KEY))(*[jnp.ones((5, 8))] * 3), INNER,
            r"num_heads|qkv_features"),
    Mistake("a mask is of another length", mask_of_another_length,
            lambda: NNXOuter(nnx.MultiHeadAttention(2, 8, rngs=rngs(), decode=False))(
                jnp.ones((1, 5, 8)), mask=jnp.ones((1, 1, 4, 4), bool)),
            lambda: EqxOuter(eqx.nn.MultiheadAttention(2, 8, key=KEY))(
                *[jnp.ones((5, 8))] * 3, mask=jnp.ones((4, 4), bool)), INNER, r"mask"),
    Mistake("a scanned layer changes the width of its carry", carry_changes_width, lambda: NNXOuter(scanned)(X),
            lambda: EqxOuter(scanned)(X), INNER, r"[Cc]arry"),
    Mistake("`nn.vmap` is not told what becomes of `params`", params_not_mapped, None, None, INNER,
            r"variable_axes=|variable_axes"),
    Mistake("an `if` on a value under `jit`", branch_on_a_value, lambda: nnx.jit(NNXOuter(branching))(X),
            lambda: eqx.filter_jit(EqxOuter(branching))(X), INNER, r"jnp\.where|lax\.cond|static"),
    Mistake("a flag is traced", traced_flag, lambda: jax.jit(NNXOuter(flagged))(X, False),
            lambda: jax.jit(EqxOuter(flagged))(X, False), INNER, r"static_argn"),
    Mistake("a variable is written, and not `mutable`", write_without_mutable, None, None, INNER, r"mutable=\["),
    Mistake("`self.param` is given an array", parameter_from_an_array, None, None, INNER,
            r"lambda|initializer|init_fn|function"),
    Mistake("an activation is a text, `'relu'`", activation_as_text, lambda: NNXOuter("relu")(X),
            lambda: EqxOuter("relu")(X), INNER, r"nn\.relu|nnx\.relu"),
    Mistake("a layer is made outside of the model", layer_made_outside, None, None, INNER,
            r"inside|within|field|setup"),
    Mistake("a dtype is misspelt, `'bfloat61'`", bad_dtype_text,
            lambda: NNXOuter(nnx.Linear(8, 3, dtype="bfloat61", rngs=rngs()))(X),  # pyright: ignore[reportArgumentType]
            lambda: EqxOuter(eqx.nn.Linear(8, 3, dtype="bfloat61", key=KEY))(X[0]), INNER, r"bfloat16"),
    Mistake("the method is called `forward`", call_not_overridden, None, None, r"Block", r"__call__|method="),
    Mistake("the text of an einsum is wrong", bad_einsum,
            lambda: NNXOuter(nnx.Einsum("...a,ab->...c", (8, 3), rngs=rngs()))(X), None, INNER, r"\bc\b"),
)  # fmt: skip


# --- the page

HEAD = """# Mistakes, and what four libraries say

{count} small programs with one mistake each, run with batiste, Flax Linen, Flax NNX and Equinox. One program serves
the first two. For each answer, two things are looked for: does it name the *path*, the name that the module has in the
model, which is most often `inner`, and the *fix*, what has to be written? They are looked for as words that stand
beside each program in `benchmarks/mistakes.py`, which also writes this page (`python -m benchmarks.mistakes`); read
the messages where you doubt a mark. A dash: the library has no such thing, so that the mistake cannot be made.

Whether a message is good is more than two marks, and the words were chosen here, by one party. In NNX and Equinox a
layer does not know its name in the model, so a message of theirs has a path only where a layer stands alone and its
class is the path.

{table}

| | {names} |
| --- | {rules} |
{totals}

## The messages

The first line of each. Versions: {versions}.
"""


def mark(found: Answer | None) -> str:
    """Return the cell of the table for an answer."""
    if found is None:
        return "-"
    if found.text == SILENT:
        return "nothing"
    words = [*(["path"] if found.path else []), *(["fix"] if found.fix else [])]
    return " + ".join(words) if words else "neither"


def page(answers: dict[str, dict[str, Answer | None]], versions: str) -> str:
    """Return the page."""
    rows = [f"| mistake | {' | '.join(LIBRARIES)} |", f"| --- |{' --- |' * len(LIBRARIES)}"]
    rows += [f"| {title} | {' | '.join(mark(found[name]) for name in LIBRARIES)} |" for title, found in answers.items()]
    totals = []
    for words, holds in (
        ("says something", lambda each: each.text != SILENT),
        ("names the path, where there is one", lambda each: each.path),
        ("names the fix", lambda each: each.fix),
    ):
        cells = []
        for name in LIBRARIES:
            made = [found[name] for found in answers.values() if found[name] is not None]
            cells.append(f"{sum(bool(holds(each)) for each in made)} of {len(made)}")
        totals.append(f"| {words} | {' | '.join(cells)} |")
    text = HEAD.format(
        count=len(answers), table="\n".join(rows), names=" | ".join(LIBRARIES), rules=" | ".join(["---"] * 4),
        totals="\n".join(totals), versions=versions,
    )  # fmt: skip
    parts = [text.rstrip()]
    for title, found in answers.items():
        lines = [f"{name}: {line(each)}" for name, each in found.items() if each is not None]
        parts.append(f"### {title[0].upper()}{title[1:]}\n\n```text\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts) + "\n"


def line(found: Answer) -> str:
    """Return what was said, in at most one line."""
    text = found.text if found.text == SILENT else " ".join(found.text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def main() -> None:
    """Run every program, and write the page."""
    answers = {
        mistake.title: {
            name: None if program is None else answer(program, mistake) for name, program in programs(mistake).items()
        }
        for mistake in MISTAKES
    }
    versions = f"Flax {flax.__version__}, Equinox {eqx.__version__}, JAX {jax.__version__}"
    PAGE.write_text(page(answers, versions), encoding="utf-8")


if __name__ == "__main__":
    main()
