"""The rows of what is around a step: loops' hooks, data and loggers, groups, meshes, tools of diagnosis, generation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from batiste import diagnose, generate, nn, plan, shard, train
from tests.errors.arguments_files import FOLDER_OR_NONE, in_folder
from tests.errors.arguments_models import CALLS, METHOD, MODULE, RNGS_OR_NONE, TREE_OF_ARRAYS
from tests.errors.domains import (
    COUNT,
    COUNT_OR_NONE,
    FLAG,
    FUNCTION,
    FUNCTION_REQUIRED,
    JAX,
    PATTERN,
    POSITIVE,
    SIZE,
    TREE,
    Anything,
    Domain,
    Row,
    choice,
    integers_of,
    numbers_of,
    open_to,
)

NAN = float("nan")
KEY = jax.random.key(0)
MATRIX = np.ones((2, 3))
BATCH = jnp.asarray(np.ones((4, 2), np.float32))
MODEL = nn.Dense(3)
VARIABLES = {"params": {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}
MODEL_INPUTS = open_to("those of the model")
SEED = Domain((1.5, True, "1", MATRIX, Anything(), None), integers_of)
MESH = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
SHARDING = jax.NamedSharding(MESH, jax.P("data"))


def state_of(tx=None):
    """Return a train state."""
    return train.TrainState.init(MODEL, optax.sgd(0.1) if tx is None else tx, KEY, BATCH)


def loss(model, batch):
    """Return the loss of a batch."""
    return (model(batch) ** 2).mean(-1)


def at(moment="step", **given):
    """Make a hook by the decorator."""
    return train.at(moment, **given)(lambda loop: None)


def searched(**given):
    """Look for a learning rate."""
    usual = {
        "step": train.make_step(loss),
        "state": state_of(optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)),
        "data": lambda number: BATCH,
        "steps": 3,
    }
    arguments = {**usual, **given}
    return train.find_learning_rate(arguments.pop("step"), arguments.pop("state"), arguments.pop("data"), **arguments)


def evaluated(**given):
    """Evaluate a state."""
    arguments = {"state": state_of(), "data": [BATCH], "loss_fn": loss, **given}
    return train.evaluate(arguments.pop("state"), arguments.pop("data"), arguments.pop("loss_fn"), **arguments)


def adapted(**given):
    """Give a state adapters."""
    arguments = {"state": state_of(), "key": KEY, "patterns": "**/kernel", "rank": 1, **given}
    order = [arguments.pop(name) for name in ("state", "key", "patterns", "rank")]
    return train.lora(*order, **arguments)


def frozen(tx=None, patterns="kernel"):
    """Freeze a part of the parameters."""
    return train.freeze(optax.sgd(0.1) if tx is None else tx, patterns).init(VARIABLES["params"])


METRIC = Domain((3, 1.5, None, "", True, Anything(), MATRIX))
DATA = Domain((None, 3, 1.5, "data", b"data", {}, Anything()))
STEP = Domain((3, None, "step", MATRIX, {}))
FRACTION = Domain((NAN, 0.0, 1.0, -0.5, 1.5, True, "0.5", MATRIX, Anything(), {}), numbers_of)
STATE = Domain((3, None, "state", {}, MATRIX, Anything()))
EACH = {"n": jnp.arange(8), "x": jnp.ones((8, 2))}
TRAIN_ROWS = {
    "make_step": Row(
        train.make_step,
        {"loss_fn": loss, "accumulate": 2},
        {
            "loss_fn": FUNCTION_REQUIRED,
            "accumulate": COUNT,
            "average": FRACTION,
            "policy": Domain((3, True, "", "float16", "compute=flaot16", "computes=float16", "compute", Anything())),
            "mutable": Domain((3, True, "batch_stats", [3], Anything())),
            "skip_nonfinite": FLAG,
        },
    ),
    "evaluate": Row(
        evaluated,
        {"batch_size": 4},
        {
            "state": STATE,
            "data": Domain((None, 3, 1.5, [])),
            "loss_fn": FUNCTION_REQUIRED,
            "averaged": open_to("True asks for the average, and NoAverageError says how one is kept"),
            "steps": COUNT_OR_NONE,
            "batch_size": COUNT_OR_NONE,
        },
    ),
    "at": Row(at, {}, {"moment": choice("step", "row", "start")}),
    "Hook": Row(
        train.Hook,
        {"calls": {"step": len}},
        {"calls": Domain((3, None, "step", [len], {}, {"steps": len}, {3: len}, {"step": 3}))},
    ),
    "NonFinite": Row(
        train.NonFinite,
        {"limit": 3},
        {"action": choice("stop", "skip", "return", "pass"), "limit": COUNT, "explain": FUNCTION},
    ),
    "early_stopping": Row(
        train.early_stopping,
        {"patience": 2, "min_delta": 0.5, "after": 3},
        {"metric": METRIC, "patience": COUNT, "lower": FLAG, "min_delta": POSITIVE, "after": SIZE},
    ),
    "keep_best": Row(
        train.keep_best,
        {},
        {
            "metric": METRIC,
            "lower": FLAG,
            "folder": Domain((3, 1.5, None, "", True, Anything(), MATRIX, "../out", "/out")),
        },
    ),
    "time_limit": Row(
        train.time_limit,
        {"limit": 3.0},
        {"limit": Domain((NAN, True, "1", None, MATRIX, Anything(), {}, -1.0), numbers_of), "total": FLAG},
    ),
    "fast_dev_run": Row(train.fast_dev_run, {"steps": 2}, {"steps": COUNT}),
    "overfit_batches": Row(train.overfit_batches, {"count": 2}, {"count": COUNT}),
    "profile": Row(train.profile, {"start": 3, "steps": 2}, {"start": SIZE, "steps": COUNT, "folder": FOLDER_OR_NONE}),
    "progress": Row(
        train.progress,
        {"flops": 1e9, "peak": 1e12},
        {
            "flops": Domain((NAN, True, "1", MATRIX, Anything(), {}, -1.0), numbers_of),
            "peak": Domain((NAN, True, "1", MATRIX, Anything(), {}, -1.0, 0.0), numbers_of),
            "clock": FUNCTION_REQUIRED,
        },
    ),
    "find_learning_rate": Row(
        searched,
        {"low": 0.001, "high": 0.5, "steps": 3},
        {
            "step": STEP,
            "state": Domain((3, None, "state", {}, len)),
            "data": DATA,
            "low": Domain((NAN, 0.0, -1.0, True, "1", None, MATRIX, Anything()), numbers_of),
            "high": Domain((NAN, 0.0, -1.0, True, "1", None, MATRIX, Anything()), numbers_of),
            "steps": COUNT,
            "metric": Domain((*METRIC.wrong, "los")),
        },
    ),
    "shuffled": Row(
        train.shuffled,
        {"arrays": EACH, "batch": 2, "seed": 3, "epochs": 2},
        {
            "arrays": Domain((None, 3, "x", {}, {"a": np.ones(2), "b": np.ones(3)}, {"a": 1.0}, Anything())),
            "batch": Domain((*COUNT.wrong, 9), integers_of),
            "seed": SEED,
            "epochs": COUNT_OR_NONE,
            "keep_last": FLAG,
            "shuffle": FLAG,
        },
    ),
    "prefetch": Row(
        train.prefetch,
        {"data": [BATCH, BATCH], "size": 2},
        {"data": DATA, "size": COUNT, "sharding": Domain((3, "data", True, Anything(), MATRIX))},
    ),
    "from_grain": Row(
        lambda **given: train.from_grain(**{"data": dataset(), **given}),
        {"per_worker": 2},
        {"data": Domain((None, 3, 1.5, [1, 2], Anything())), "workers": SIZE, "per_worker": COUNT},
    ),
    "by_pattern": Row(
        lambda rules: train.by_pattern(rules).init(VARIABLES["params"]),
        {"rules": {"**": optax.sgd(0.1)}},
        {
            "rules": Domain(
                (
                    3,
                    None,
                    "**",
                    {},
                    {"**": 3},
                    {3: optax.sgd(0.1)},
                    {"nowhere": optax.sgd(0.1)},
                    {"bias": optax.sgd(0.1)},
                )
            )
        },
    ),
    "freeze": Row(
        frozen,
        {},
        {
            "tx": Domain((3, "sgd", optax.sgd, {}, Anything())),
            "patterns": Domain((3, None, "nowhere", b"x", Anything())),
        },
    ),
    "matching": Row(
        lambda patterns="**": train.matching(patterns)(VARIABLES["params"]),
        {},
        {"patterns": Domain((3, None, b"x", Anything(), "nowhere"))},
    ),
    "lora": Row(
        adapted,
        {"rank": 1},
        {
            "state": STATE,
            "key": JAX,
            "patterns": PATTERN,
            "rank": COUNT,
            "tx": Domain((3, "sgd", optax.sgd, {}, Anything())),
            "alpha": Domain((NAN, True, "1", MATRIX, Anything(), {}), numbers_of),
            "dtype": Domain(("flaot32", "", Anything(), "int32")),
            "inputs": open_to("as tree.lora_init takes it"),
            "stacked": open_to("as tree.lora_init takes it"),
            "whole": Domain((3, Anything(), "nowhere/*", b"params", {"params": 1}, ["**", 3], "[")),
        },
    ),
    "lora_merged": Row(train.lora_merged, {"state": adapted()}, {"state": STATE, "params": TREE}),
    "global_batch": Row(
        train.global_batch,
        {"part": {"x": np.ones((2, 3))}, "sharding": SHARDING},
        {"part": TREE, "sharding": Domain((3, None, "data", jax.P("data"), MESH, Anything()))},
    ),
    "local_rows": Row(
        train.local_rows,
        {"size": 8, "sharding": SHARDING},
        {"size": SIZE, "sharding": Domain((3, None, "data", jax.P("data"), MESH, Anything()))},
    ),
    "configured": Row(
        lambda config=None, arguments=(): train.configured(Settings if config is None else config, arguments),
        {},
        {
            "config": Domain((3, "Settings", Anything(), MATRIX, int)),
            "arguments": open_to("those of a command line, which tyro reads; it ends the program with what is wrong"),
        },
    ),
    "JsonLines": Row(
        train.JsonLines, {"path": "rows.jsonl"}, {"path": Domain((3, 1.5, None, "", True, Anything(), "a\0b"))}
    ),
    "TensorBoard": Row(train.TensorBoard, {}, {"folder": FOLDER_OR_NONE}),
    "read_config": Row(
        in_folder(lambda here, folder=None: train.read_config(here if folder is None else folder)),
        {},
        {"folder": FOLDER_OR_NONE},
    ),
    "read_lines": Row(
        in_folder(lambda here, path=None: train.read_lines(here / "none.jsonl" if path is None else path)),
        {},
        {"path": FOLDER_OR_NONE},
    ),
    "write_report": Row(
        in_folder(lambda here, run=None, **given: train.write_report(here if run is None else run, **given)),
        {},
        {"run": FOLDER_OR_NONE, "state": TREE},
    ),
}


def dataset():
    """Return a data set of grain."""
    import grain

    return grain.MapDataset.source([1, 2, 3]).to_iter_dataset()


@dataclasses.dataclass(frozen=True)
class Settings:
    """A configuration that tyro builds."""

    rate: float = 0.1


DEVICES = Domain((3, "cpu", [3], Anything()))
SIZES = Domain(
    (
        3,
        None,
        "",
        "data",
        "data=",
        "data=x",
        "data=0",
        "data=-2",
        "data=-1,more=-1",
        "=2",
        True,
        Anything(),
        {"data": "x"},
        {3: 1},
        {"data": 1.5},
        "data=1,data=1",
    )
)
SHARD_ROWS = {
    "mesh": Row(
        shard.mesh,
        {"sizes": "data=1", "devices": jax.devices()[:1]},
        {
            "sizes": SIZES,
            "devices": DEVICES,
            "types": Domain((3, None, "AUTO", "", True, {"model": "auto"}, {"data": "x"}, Anything())),
        },
    ),
    "mesh_sizes": Row(shard.mesh_sizes, {"sizes": "data=1", "count": 1}, {"sizes": SIZES, "count": COUNT_OR_NONE}),
    "preset": Row(
        shard.preset, {"name": "fsdp"}, {"name": Domain((3, None, "", "FSDP", "fsd", True, "fsdp+", Anything()))}
    ),
    "Cut": Row(
        lambda entries="data", **given: shard.Cut(entries, **given),
        {"at_least": 3},
        {
            "entries": Domain((3, 1.5, Anything(), (3,))),
            "largest": Domain((3, 1.5, Anything(), (3,))),
            "at_least": SIZE,
        },
    ),
    "Pipeline": Row(
        shard.Pipeline,
        {"microbatches": 2},
        {
            "microbatches": COUNT,
            "axis": Domain((3, None, "", True, ("stage",), Anything())),
            "batch": Domain((3, None, "data", True, (3,), ["data"], Anything())),
        },
    ),
    "Rules": Row(
        shard.Rules,
        {"table": {"**": jax.P()}},
        {
            "table": Domain((3, None, "**", {"**": "data"}, Anything())),
            "batch": Domain((3, "data", None, Anything())),
            "activations": Domain((3, "x", [3], (("a",),), ((3, "data"),), Anything())),
        },
    ),
    "explain": Row(
        shard.explain,
        {"tree": {"w": jnp.ones((4, 4))}, "rules": {"**": jax.P()}, "mesh": MESH},
        {
            "tree": TREE,
            "rules": Domain((3, "**", {"**": "data"}, {3: jax.P()}, {"nowhere": jax.P()})),
            "mesh": Domain((3, None, "data", Anything(), MATRIX)),
            "default": Domain((3, "data", True, Anything())),
            "unmatched": Domain(("IGNORE", "", 3, None, True, Anything())),
        },
    ),
}

TOOL = {
    "model": MODULE,
    "variables": TREE_OF_ARRAYS,
    "inputs": MODEL_INPUTS,
    "kwargs": MODEL_INPUTS,
    "rngs": RNGS_OR_NONE,
    "mutable": Domain((3, 1.5, Anything(), [3])),
    "method": METHOD,
}


def tool(function):
    """Return a function that calls a tool of diagnosis by the names of its arguments."""
    return lambda model=MODEL, variables=VARIABLES, inputs=BATCH, **given: function(model, variables, inputs, **given)


DIAGNOSE_ROWS = {
    "find_nan": Row(tool(diagnose.find_nan), {}, {**TOOL, "loss": FUNCTION, "backward": FLAG}),
    "check_pure": Row(tool(diagnose.check_pure), {"captured_bytes": 3}, {**TOOL, "captured_bytes": SIZE}),
    "keys": Row(tool(diagnose.keys), {}, TOOL),
    "profile": Row(
        tool(diagnose.profile),
        {"runs": 1},
        {
            **TOOL,
            "loss": FUNCTION,
            "backward": FLAG,
            "runs": COUNT,
            "folder": Domain((3, 1.5, Anything(), MATRIX, True)),
        },
    ),
    "dtypes": Row(tool(diagnose.dtypes), {}, TOOL),
    "lint": Row(
        tool(diagnose.lint),
        {},
        {**TOOL, "calls": CALLS, "loss": FUNCTION, "optimizer": Domain((3, "sgd", optax.sgd, {}, Anything()))},
    ),
    "capture": Row(
        lambda model=MODEL, **given: diagnose.capture(model, **given)(VARIABLES, BATCH),
        {"bins": 3},
        {
            "model": Domain((3, None, "dense", nn.Dense, MATRIX, {}, Anything())),
            "patterns": Domain((3, None, b"x", [3], Anything())),
            "what": choice("values", "statistics"),
            "loss": FUNCTION,
            "bins": COUNT,
        },
    ),
    "never_updated": Row(
        diagnose.never_updated,
        {"before": VARIABLES, "after": VARIABLES},
        {"before": TREE, "after": Domain(({}, {"params": {}}))},
    ),
    "with_policy": Row(
        lambda model=MODEL, table=None: diagnose.with_policy(
            model, {"**": ("float32", "bfloat16", "float32")} if table is None else table
        ),
        {},
        {
            "model": MODULE,
            "table": Domain(
                (
                    3,
                    "**",
                    [],
                    {"**": "float32"},
                    {"**": ("flaot32", None, None)},
                    {"**": ("float32",)},
                    {3: (None, None, None)},
                    {"**": 3},
                )
            ),
        },
    ),
}


class Language(nn.Module):
    """The smallest model that continues sequences."""

    decode: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 4)(tokens)
        x = nn.MultiHeadDotProductAttention(1, qkv_features=4, decode=self.decode)(
            x, mask=None if self.decode else nn.make_causal_mask(tokens)
        )
        return nn.Dense(7)(x)


@functools.cache
def language():
    """Return the variables of the model."""
    return Language().init(KEY, jnp.ones((1, 3), jnp.int32))


def continued(**given):
    """Continue a sequence."""
    arguments = {
        "model": Language(),
        "variables": language(),
        "prompt": jnp.ones((1, 3), jnp.int32),
        "cache": False,
        **given,
    }
    order = [arguments.pop(name) for name in ("model", "variables", "prompt")]
    return generate(*order, **arguments).tokens


GENERATION_ROWS = {
    "generate": Row(
        continued,
        {"max_new_tokens": 2, "beams": 1},
        {
            "model": Domain((3, None, "model", Language, MATRIX)),
            "variables": TREE_OF_ARRAYS,
            "prompt": Domain((None, "text", 1.5, MATRIX, [], Anything(), [[1.0]], np.zeros((1, 0), np.int32), [True])),
            "max_new_tokens": Domain((*COUNT.wrong,), integers_of),
            "lengths": Domain((0, 9, [4], [1, 1], "x", [1.5], Anything())),
            "key": Domain(("key", 1.5, MATRIX, Anything())),
            "temperature": Domain((NAN, -1.0, True, "1", None, MATRIX, Anything()), numbers_of),
            "top_k": Domain((1.5, True, "1", 0, -1, MATRIX, Anything()), integers_of),
            "top_p": Domain((NAN, 0.0, 1.5, True, "1", MATRIX, Anything())),
            "beams": COUNT,
            "length_penalty": Domain((NAN, True, "1", None, MATRIX, Anything()), numbers_of),
            "end_token": Domain((1.5, True, "1", -1, 7, [7], MATRIX, Anything()), integers_of),
            "pad_token": Domain((1.5, True, "1", -1, 7, MATRIX, Anything()), integers_of),
            "cache": FLAG,
            "options": open_to("keyword arguments of the model"),
        },
        {"top_k": {"temperature": 1.0, "key": KEY}, "top_p": {"temperature": 1.0, "key": KEY}},
    ),
}


INPUTS = jax.ShapeDtypeStruct((4, 2), jnp.float32)


def planned(**given):
    """Plan a model."""
    arguments = {"model": MODEL, "inputs": jax.ShapeDtypeStruct((4, 2), jnp.float32), **given}
    return plan.plan(arguments.pop("model"), arguments.pop("inputs"), **arguments)


PLAN = {
    "optimizer": Domain((3, "", "adm", True, optax.adam, Anything())),
    "mesh": Domain(tuple(one for one in SIZES.wrong if one is not None)),
    "rules": Domain((3, "", "fsd", True, {"**": "data"}, Anything())),
    "hbm": Domain((NAN, 0, -1, "", "80QB", "many", True, Anything())),
    "chip": Domain((3, None, "", "H1000", True, Anything())),
    "loss": FUNCTION,
    "remat": FLAG,
    "compile": FLAG,
    "target": Domain((3, "", "v5e", "tpu-v5e", "tpu-v5e:4*4", True, Anything())),
    "options": MODEL_INPUTS,
}
PLAN_ROWS = {
    "plan": Row(planned, {}, {"model": MODULE, "inputs": MODEL_INPUTS, **PLAN}),
    "search": Row(
        lambda model=MODEL, inputs=INPUTS, **given: plan.search(model, inputs, **given),
        {"devices": 2, "keep": 2},
        {
            "model": MODULE,
            "inputs": MODEL_INPUTS,
            "devices": COUNT,
            "keep": COUNT,
            "remat": FLAG,
            "options": open_to("those of plan.plan"),
        },
    ),
    "smallest_mesh": Row(
        lambda model=MODEL, inputs=INPUTS, **given: plan.smallest_mesh(model, inputs, **given),
        {"most": 2},
        {
            "model": MODULE,
            "inputs": MODEL_INPUTS,
            "most": COUNT,
            "remat": FLAG,
            "options": open_to("those of plan.plan"),
        },
    ),
    "chip": Row(
        plan.chip,
        {"name": "h100", "memory": 1e9},
        {
            "name": Domain((3, None, "", "H1000", True, Anything())),
            "memory": Domain((NAN, 0.0, -1.0, True, "1", MATRIX, Anything()), numbers_of),
        },
    ),
}
