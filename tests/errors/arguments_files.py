"""The rows of ``batiste.checkpoint`` and ``batiste.train``: each call has a folder of its own, gone after it."""

import functools
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from batiste import checkpoint, nn, train, view
from batiste.errors import CompileCacheWarning
from tests.errors.domains import (
    COUNT,
    FLAG,
    FUNCTION_REQUIRED,
    SIZE,
    SIZE_OR_NONE,
    TEXT,
    TREE,
    Anything,
    Domain,
    Row,
    choice,
    integers_of,
    numbers_of,
    open_to,
)

NAN, INFINITE = float("nan"), float("inf")
STATE = {"params": {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}, "step": 3}
NAMES = ("params/kernel", "params/bias")
MATRIX = np.ones((2, 3))

FILE = Domain((3, 1.5, "", b"a.npz", True, MATRIX, Anything(), ["a.npz"], len, "a\0b.npz", "a.safetensor"))
THERE = Domain((*FILE.wrong, None, "nowhere.npz", "nowhere"))
FOLDER = Domain((3, 1.5, None, "", b"runs", True, MATRIX, Anything(), ["runs"], len, "a\0b"))
FOLDER_OR_NONE = Domain(tuple(one for one in FOLDER.wrong if one is not None))
METADATA = Domain((3, "a", [1], {3: 1}, {"a": MATRIX}, {"a": Anything()}, {"a": {1}}, {"a": len}, True, Anything()))
STEP = Domain((*SIZE_OR_NONE.wrong, 1 << 63), integers_of)
SECONDS = Domain((NAN, True, "1", None, MATRIX, Anything(), {}, len, -1.0), numbers_of)
CLOCK = FUNCTION_REQUIRED
POLICY_WRONG = (
    3,
    None,
    True,
    "",
    "ERROR",
    "eror",
    Anything(),
    ["error"],
    {"**": "eror"},
    {3: "error"},
    {"nowhere": "error"},
)


def policy(*known):
    """Return the domain of a policy of restoring: words, or words by pattern."""
    others = tuple(word for word in ("init", "zeros", "drop", "pad", "slice", "cast") if word not in known)
    return Domain((*POLICY_WRONG, *others))


POLICIES = {
    "missing": policy("init", "zeros"),
    "extra": policy("drop"),
    "shape": policy("init", "pad", "slice"),
    "dtype": policy("cast"),
    "shardings": Domain((3, "data", True, Anything(), {"nowhere/*": jax.devices()[0]}, {"**": "data"})),
    "verify": FLAG,
}
SAVE = {
    "path": FILE,
    "tree": open_to("any pytree; a leaf that cannot be saved is UnsavableLeafError"),
    "step": STEP,
    "metadata": METADATA,
    "axes": Domain(
        (3, "a", [1], {"nowhere": ("a",)}, {NAMES[0]: "ab"}, {NAMES[0]: ("a",)}, {NAMES[0]: (1, 2)}, {3: ()})
    ),
    "stacked": Domain((3, "h", None, {"h": 2}, [3], [""], ["nowhere"], Anything(), True)),
    "overwrite": FLAG,
    "compress": FLAG,
    "lossy": FLAG,
    "clock": CLOCK,
}


def in_folder(function):
    """Return a function that is called with a fresh folder, which is gone afterwards."""

    @functools.wraps(function)
    def call(**given):
        with tempfile.TemporaryDirectory() as folder:
            return function(Path(folder), **given)

    return call


@in_folder
def saved(folder, path=None, tree=STATE, **given):
    """Save a state."""
    checkpoint.save(folder / "state.npz" if path is None else path, tree, **given)


@in_folder
def saved_async(folder, path=None, tree=STATE, **given):
    """Save a state in the background, and wait for it."""
    checkpoint.save_async(folder / "state.npz" if path is None else path, tree, **given).wait()


def of_a_file(function, name="state.safetensors"):
    """Return a function that calls another with the path of a saved state."""

    @in_folder
    def call(folder, path=name, **given):
        checkpoint.save(folder / name, STATE)
        function(folder / path if path is name else path, **given)

    return call


@in_folder
def viewed(folder, **given):
    """Make the page of a saved state."""
    checkpoint.save(folder / "state.npz", STATE)
    return view.checkpoint(given.pop("path", folder / "state.npz"), **given)


@in_folder
def viewed_run(folder, **given):
    """Make the page of a run."""
    checkpoint.Manager(folder / "run").save(3, STATE)
    return view.runs(given.pop("folders", folder / "run"), **given)


@in_folder
def of_a_run(folder, call, step=3, **given):
    """Call a method of a manager with one step."""
    manager = checkpoint.Manager(folder)
    manager.save(3, STATE)
    call(manager, step, **given)


def opened(call):
    """Return a function that calls a method of an open checkpoint."""

    @in_folder
    def run(folder, **given):
        checkpoint.save(folder / "state.safetensors", STATE)
        call(checkpoint.open(folder / "state.safetensors"), **given)

    return run


def waited(**given):
    """Wait for a save in the background."""
    with tempfile.TemporaryDirectory() as folder:
        handle = checkpoint.save_async(Path(folder, "a.npz"), STATE)
        try:
            handle.wait(**given)
        finally:
            handle.wait()


TIMEOUT = Domain(tuple(one for one in SECONDS.wrong if one is not None), numbers_of)
LEAF = Domain((3, None, True, "", "nowhere", "PARAMS/kernel", b"step", MATRIX, Anything(), ["step"]))
BUDGET = Domain((1.5, True, None, "", "many", "-1", "2 giga", -1, b"1", MATRIX, Anything()))
SPECTRA = Domain((3, None, "nowhere/*", "", b"params", ["**", 3], "[", NAN, Anything()))
VIEW_ROWS = {
    "checkpoint": Row(
        viewed,
        {},
        {
            "path": THERE,
            "diff": Domain(tuple(one for one in THERE.wrong if one is not None)),
            "stats": BUDGET,
            "spectra": SPECTRA,
        },
    ),
    "runs": Row(
        viewed_run,
        {},
        {"folders": FOLDER, "diff": FOLDER_OR_NONE, "stats": BUDGET, "spectra": SPECTRA},
    ),
    "tree": Row(
        lambda tree=STATE, **given: view.tree(tree, **given).data["facts"],
        {},
        {"tree": TREE, "diff": TREE, "stats": BUDGET, "spectra": SPECTRA},
    ),
}
CHECKPOINT_ROWS = {
    "save": Row(saved, {"step": 3}, SAVE),
    "save_async": Row(saved_async, {"step": 3}, SAVE),
    "restore": Row(
        of_a_file(checkpoint.restore),
        {"target": STATE},
        {"path": THERE, "target": open_to("any pytree; leaves that differ are RestoreError, one by one"), **POLICIES},
    ),
    "open": Row(of_a_file(checkpoint.open), {}, {"path": THERE}),
    "verify": Row(of_a_file(checkpoint.verify), {}, {"path": THERE}),
    "format_of": Row(of_a_file(checkpoint.format_of), {}, {"path": Domain(FOLDER.wrong)}),
    "leftovers": Row(
        in_folder(lambda here, folder=None: checkpoint.leftovers(here if folder is None else folder)),
        {},
        {"folder": FOLDER_OR_NONE},
    ),
    "cleanup": Row(
        in_folder(lambda here, folder=None: checkpoint.cleanup(here if folder is None else folder)),
        {},
        {"folder": FOLDER_OR_NONE},
    ),
    "KeepLast": Row(checkpoint.KeepLast, {"count": 2}, {"count": SIZE}),
    "KeepEvery": Row(checkpoint.KeepEvery, {"steps": 2}, {"steps": COUNT}),
    "KeepRecent": Row(checkpoint.KeepRecent, {"seconds": 2.0}, {"seconds": SECONDS}),
    "KeepBest": Row(
        checkpoint.KeepBest,
        {"metric": "loss", "count": 2},
        {"metric": TEXT, "count": COUNT, "mode": choice("min", "max")},
    ),
    "Manager": Row(
        lambda folder="runs", **given: checkpoint.Manager(folder, **given),
        {},
        {
            "folder": FOLDER,
            "keep": Domain((3, "last", True, [3], [checkpoint.KeepLast], checkpoint.KeepLast(2), {"a": 1}, Anything())),
            "clock": CLOCK,
        },
    ),
    "Manager.path": Row(
        lambda step: checkpoint.Manager("runs").path(step), {"step": 3}, {"step": Domain((*STEP.wrong, None))}
    ),
    "Manager.open": Row(
        functools.partial(of_a_run, call=lambda run, step: run.open(step)),
        {"step": 3},
        {"step": Domain((*STEP.wrong, 2), integers_of)},
    ),
    "Manager.remove": Row(
        functools.partial(of_a_run, call=lambda run, step: run.remove(step)),
        {"step": 3},
        {"step": Domain((*STEP.wrong, 2, None), integers_of)},
    ),
    "Manager.restore": Row(
        functools.partial(of_a_run, call=lambda run, step, **given: run.restore(step=step, **given)),
        {"step": 3, "target": STATE},
        {
            "step": Domain((*STEP.wrong, 2), integers_of),
            "target": TREE,
            **dict.fromkeys(POLICIES, open_to("those of checkpoint.restore, which it calls")),
        },
    ),
    **{
        f"Manager.{name}": Row(
            functools.partial(
                of_a_run,
                call=lambda run, step, method=name, tree=STATE, **given: (
                    getattr(run, method)(step, tree, **given),
                    run.wait(),
                ),
            ),
            {"step": 5},
            {
                "step": Domain((*STEP.wrong, None, 3), integers_of),
                "tree": TREE,
                "metrics": Domain(
                    (3, "loss", [1.0], {3: 1.0}, {"loss": "low"}, {"loss": MATRIX}, {"loss": 1j}, {"loss": None}, True)
                ),
                "metadata": METADATA,
                "overwrite": FLAG,
                "options": open_to("those of checkpoint.save"),
            },
        )
        for name in ("save", "save_async")
    },
    "SaveHandle.wait": Row(waited, {"timeout": 5.0}, {"timeout": TIMEOUT}),
    "Checkpoint.lazy": Row(opened(lambda one, path: one.lazy(path)), {"path": NAMES[0]}, {"path": LEAF}),
}


def stepped(state, batch):
    """Return the next state, and the loss."""
    return {"w": state["w"] - batch.sum()}, {"loss": batch.sum()}


MODEL, TX, KEY = nn.Dense(3), optax.sgd(0.1), jax.random.key(0)
PARAMS = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}


def new_state(**given):
    """Return a train state."""
    usual = {"apply_fn": MODEL.apply, "params": PARAMS, "tx": optax.sgd(0.1)}
    return train.TrainState.create(**{**usual, **given})


@in_folder
def fitted(folder, run=None, kind=train.fit, **given):
    """Run a loop of four steps."""
    usual = {
        "step": stepped,
        "state": {"w": jnp.zeros(3)},
        "data": lambda number: np.ones(3, np.float32),
        "compile_cache": False,
        "log": None,
    }
    given = {**usual, **given}
    made = kind(
        given.pop("step"), given.pop("state"), given.pop("data"), run=folder / "run" if run is None else run, **given
    )
    if kind is train.Loop:
        list(made)


LOOP = {
    "step": Domain((3, None, "step", train.TrainState, MATRIX, {})),
    "state": Domain((stepped, len)),
    "data": Domain((3, None, 1.5, "data", MATRIX.sum(), Anything())),
    "steps": SIZE_OR_NONE,
    "run": Domain((3, 1.5, "", True, MATRIX, Anything(), ["runs"], len)),
    "save_every": COUNT,
    "log_every": COUNT,
    "log": Domain((3, "show", True, MATRIX, {})),
    "evaluate": Domain((3, "loss", True, MATRIX, {})),
    "evaluate_every": COUNT,
    "finite": Domain((3, "yes", None, MATRIX, Anything())),
    "compile_cache": Domain((3, 1.5, None, "", MATRIX, Anything())),
    "hooks": Domain((3, None, "hooks", [3], [int], {"step": len}, Anything())),
    "save_errors": choice("raise", "warn"),
    "config": Domain((3, "config", Anything(), MATRIX, [1])),
    "report": Domain((3, "yes", None, Anything())),
}
GRADS = Domain(
    (None, 3, "grads", {}, {"kernel": jnp.ones((2, 3))}, {"kernel": jnp.ones(3), "bias": jnp.ones(3)}, Anything())
)


def begun(model=MODEL, tx=TX, rngs=KEY, inputs=MATRIX[:, :2], **given):
    """Return the train state of a model."""
    return train.TrainState.init(model, tx, rngs, inputs, **given)


@in_folder
def kept_programs(here, folder=None, **given):
    """Keep compiled programs where there is no folder, so that no setting of JAX changes."""
    (here / "file").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompileCacheWarning)
        return train.compile_cache(here / "file" / "below" if folder is None else folder, **given)


TRAIN_ROWS = {
    "fit": Row(fitted, {"steps": 2, "save_every": 2, "log_every": 1, "evaluate_every": 1}, LOOP),
    "Loop": Row(
        functools.partial(fitted, kind=train.Loop),
        {"steps": 2, "save_every": 2, "log_every": 1, "evaluate_every": 1},
        LOOP,
    ),
    "compile_cache": Row(
        kept_programs,
        {"min_seconds": 0.0},
        {"folder": FOLDER_OR_NONE, "min_seconds": SECONDS},
    ),
    "TrainState.create": Row(
        new_state,
        {},
        {
            "apply_fn": Domain((3, "apply", {})),
            "params": TREE,
            "tx": Domain((3, "adam", None, optax.adam, {}, Anything())),
            "more": Domain((3,)),
        },
    ),
    "TrainState.init": Row(
        begun,
        {},
        {
            "model": Domain((3, None, "dense", nn.Dense, MATRIX, {})),
            "tx": Domain((3, "adam", None, optax.adam, {}, Anything())),
            "rngs": Domain(("key", 3, 1.5, MATRIX, Anything(), {"parms": jax.random.key(0)})),
            "inputs": open_to("those of the model"),
            "kwargs": open_to("those of the model"),
            "mesh": Domain((3, "data", Anything(), MATRIX)),
            "rules": Domain((3, "fsdp", Anything())),
        },
    ),
    "TrainState.apply_gradients": Row(
        lambda grads: new_state().apply_gradients(grads=grads),
        {"grads": PARAMS},
        {"grads": GRADS, "kwargs": open_to("fields, and what tx takes; StateArgumentError for others")},
    ),
    "TrainState.replace": Row(lambda **given: new_state().replace(**given), {}, {"changes": Domain((3,))}),
    "TrainState.variables": Row(lambda **given: new_state().variables(**given), {}, {"params": TREE}),
}
